//! Sleeping until something happens, and waking others.

use std::time::Duration;

use pgrx::{PgTryBuilder, pg_sys};

use super::signals;

/// Longest single sleep. Timers run on the monotonic clock, so a sleeper notices within this time
/// that somebody has set the wall clock forward.
pub const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Sleeps until the latch is set or `timeout` has passed, then services interrupts
/// (ProcSignalBarrier, memory-context logging) and a pending reload of the configuration.
/// A stray cancel request has nothing to cancel here and is dropped.
pub fn wait(timeout: Duration) {
    let millis = timeout.min(LONGEST_SLEEP).as_micros().div_ceil(1000) as i64;
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: MyLatch is this process's own latch, set up before any code of ours runs.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, millis, pg_sys::PG_WAIT_EXTENSION);
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    if signals::terminate_requested() {
        return;
    }
    service_interrupts();
    signals::reload_configuration_if_asked();
}

/// Handles what other processes ask of this one while it is between transactions.
fn service_interrupts() {
    // SAFETY: a flag of this process; a cancel that arrives between two transactions has no target.
    unsafe { pg_sys::QueryCancelPending = 0 };
    PgTryBuilder::new(|| {
        pgrx::check_for_interrupts!();
    })
    .catch_when(pgrx::PgSqlErrorCode::ERRCODE_QUERY_CANCELED, |_| ())
    .execute();
}

/// Waits inside a user's statement: like [`wait`], but an interrupt ends the statement as usual.
pub fn wait_interruptibly(timeout: Duration) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    // SAFETY: as in `wait`.
    unsafe {
        pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as i32,
            timeout.as_millis() as i64,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
    pgrx::check_for_interrupts!();
}

/// Sets the latch of the process `pid`, if it is one of this server's.
pub fn wake(pid: i32) {
    if pid == 0 {
        return;
    }
    // SAFETY: a PGPROC lives in shared memory for the life of the server, so that its latch can be
    // set even if the process has just gone; whoever owns it then sees one wake-up too many.
    unsafe {
        let process = pg_sys::BackendPidGetProc(pid);
        if !process.is_null() {
            pg_sys::SetLatch(&raw mut (*process).procLatch);
        }
    }
}

/// Whether `pid` is a process of this server that has not quite gone yet.
pub fn is_alive(pid: i32) -> bool {
    // SAFETY: looks into the process array under its lock.
    unsafe { !pg_sys::BackendPidGetProc(pid).is_null() }
}
