//! Signal handlers of our background workers.
//!
//! SIGTERM must end a running query at once and yet leave the worker a chance to log what happened:
//! it raises a query cancel and remembers that the process is to end. pgrx's own handler sets only a
//! flag, which a query in progress would never look at. But a user's function can catch a cancel: what has not
//! come to its end a moment later ends as a session would, in the middle of whatever it does.

use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

static TERMINATE: AtomicBool = AtomicBool::new(false);
static RELOADED: AtomicBool = AtomicBool::new(false);

/// Sends SIGUSR2, which nobody else sends to a background worker, to this process: set by SIGTERM.
static REMINDER: AtomicPtr<libc::c_void> = AtomicPtr::new(NO_TIMER);
/// The first timer of a process may be a null pointer.
const NO_TIMER: *mut libc::c_void = std::ptr::without_provenance_mut(usize::MAX);
const REMINDED_AFTER: Duration = Duration::from_secs(1);

unsafe extern "C-unwind" fn on_sigterm(_signal: i32) {
    // SAFETY: the errno of this thread: what was interrupted must find it as it was.
    let errno = unsafe { *libc::__errno_location() };
    let is_first = !TERMINATE.swap(true, Ordering::Relaxed);
    // SAFETY: flags and latch of this process; storing to them, SetLatch and timer_settime are async-signal-safe.
    unsafe {
        if is_first {
            remind_me(REMINDED_AFTER);
        }
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
        *libc::__errno_location() = errno;
    }
}

unsafe extern "C-unwind" fn on_reminder(_signal: i32) {
    // SAFETY: as in `on_sigterm`.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: as in `on_sigterm`.
    unsafe {
        if !pg_sys::proc_exit_inprogress {
            pg_sys::ProcDiePending = 1;
            pg_sys::InterruptPending = 1;
        }
        pg_sys::SetLatch(pg_sys::MyLatch);
        *libc::__errno_location() = errno;
    }
}

unsafe extern "C-unwind" fn on_sighup(_signal: i32) {
    // SAFETY: as in `on_sigterm`.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: as in `on_sigterm`.
    unsafe {
        pg_sys::ConfigReloadPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
        *libc::__errno_location() = errno;
    }
}

/// # Safety
/// Async-signal-safe.
unsafe fn remind_me(every: Duration) {
    let timer = REMINDER.load(Ordering::Relaxed);
    if timer == NO_TIMER {
        return;
    }
    let every = libc::timespec { tv_sec: every.as_secs() as libc::time_t, tv_nsec: 0 };
    let times = libc::itimerspec { it_interval: every, it_value: every };
    // SAFETY: a timer of this process.
    unsafe { libc::timer_settime(timer, 0, &times, std::ptr::null_mut()) };
}

/// Installs the handlers and unblocks signals. To be called first in a worker's main function.
pub fn install() {
    // SAFETY: the event and the timer are this function's own; without a timer nobody reminds us.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGUSR2;
        let mut timer = std::ptr::null_mut();
        if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) == 0 {
            REMINDER.store(timer, Ordering::Relaxed);
        }
    }
    // SAFETY: the handlers are async-signal-safe; SIGINT keeps the server's own cancel handler.
    unsafe {
        set_handler(pg_sys::SIGTERM as i32, Some(on_sigterm));
        set_handler(pg_sys::SIGHUP as i32, Some(on_sighup));
        set_handler(libc::SIGUSR2, Some(on_reminder));
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// # Safety
/// `handler` must be async-signal-safe.
unsafe fn set_handler(signal: i32, handler: Option<unsafe extern "C-unwind" fn(i32)>) {
    // SAFETY: passed on to the caller; the server renamed the function in 18.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(signal, handler);
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(signal, handler);
    }
}

/// True once this process has been asked to end.
pub fn terminate_requested() -> bool {
    TERMINATE.load(Ordering::Relaxed)
}

/// Whether the configuration has been read again since the last call.
pub fn take_reloaded() -> bool {
    RELOADED.swap(false, Ordering::Relaxed)
}

/// Reads postgresql.conf again if the postmaster said so since the last call.
pub fn reload_configuration_if_asked() {
    // SAFETY: called between transactions only, as the server's own workers do.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
            RELOADED.store(true, Ordering::Relaxed);
        }
    }
}

/// Asks the process `pid` to end (workers) or to give up its current query.
pub fn send(pid: i32, signal: Signal) {
    if pid > 0 {
        // SAFETY: kill has no memory effects; a pid that has gone yields ESRCH, which is fine.
        unsafe { libc::kill(pid, signal as i32) };
    }
}

/// The two signals that we send.
#[derive(Clone, Copy)]
#[repr(i32)]
pub enum Signal {
    /// Give up the current query.
    Cancel = libc::SIGINT,
    /// End the process.
    Terminate = libc::SIGTERM,
}
