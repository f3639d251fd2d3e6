//! Signal handlers of our background workers.
//!
//! SIGTERM must end a running query at once and yet leave the worker a chance to log what happened:
//! it raises a query cancel and remembers that the process is to end. pgrx's own handler sets only a
//! flag, which a query in progress would never look at.

use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

static TERMINATE: AtomicBool = AtomicBool::new(false);
static RELOADED: AtomicBool = AtomicBool::new(false);

unsafe extern "C-unwind" fn on_sigterm(_signal: i32) {
    // SAFETY: the errno of this thread: what was interrupted must find it as it was.
    let errno = unsafe { *libc::__errno_location() };
    TERMINATE.store(true, Ordering::Relaxed);
    // SAFETY: flags and latch of this process; storing to them and SetLatch are async-signal-safe.
    unsafe {
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
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

/// Installs the handlers and unblocks signals. To be called first in a worker's main function.
pub fn install() {
    // SAFETY: the handlers are async-signal-safe; SIGINT keeps the server's own cancel handler.
    unsafe {
        set_handler(pg_sys::SIGTERM as i32, Some(on_sigterm));
        set_handler(pg_sys::SIGHUP as i32, Some(on_sighup));
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
