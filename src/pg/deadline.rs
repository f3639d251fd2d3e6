//! A time limit on a piece of work: when it passes, the running query is cancelled.
//!
//! Not statement_timeout, which belongs to the user whose statement we may be running in.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

// Declared here because the generated bindings leave out utils/timeout.h.
unsafe extern "C-unwind" {
    fn RegisterTimeout(id: c_int, handler: unsafe extern "C-unwind" fn()) -> c_int;
    fn enable_timeout_after(id: c_int, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

/// First free number in `enum TimeoutId`.
#[cfg(feature = "pg14")]
const USER_TIMEOUT: c_int = 10;
#[cfg(any(feature = "pg15", feature = "pg16"))]
const USER_TIMEOUT: c_int = 12;
#[cfg(any(feature = "pg17", feature = "pg18"))]
const USER_TIMEOUT: c_int = 13;

static PASSED: AtomicBool = AtomicBool::new(false);
static TIMEOUT: OnceLock<c_int> = OnceLock::new();

unsafe extern "C-unwind" fn on_timeout() {
    PASSED.store(true, Ordering::Relaxed);
    // SAFETY: runs in a signal handler; stores to flags and SetLatch are async-signal-safe.
    unsafe {
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
        pg_sys::SetLatch(pg_sys::MyLatch);
    }
}

/// The time limit; lifted when dropped.
pub struct Deadline(Option<c_int>);

impl Deadline {
    /// Cancels the running query after `limit`. Zero means no limit.
    pub fn after(limit: Duration) -> Self {
        PASSED.store(false, Ordering::Relaxed);
        if limit.is_zero() {
            return Self(None);
        }
        // SAFETY: registers a handler once per process; the id it yields is valid for its life.
        let id = *TIMEOUT.get_or_init(|| unsafe { RegisterTimeout(USER_TIMEOUT, on_timeout) });
        let millis = c_int::try_from(limit.as_millis()).unwrap_or(c_int::MAX).max(1);
        // SAFETY: `id` was registered above.
        unsafe { enable_timeout_after(id, millis) };
        Self(Some(id))
    }

    /// Whether the latest limit has run out: tells a timeout from a cancel.
    pub fn has_passed() -> bool {
        PASSED.load(Ordering::Relaxed)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            // SAFETY: `id` was registered by `after`.
            unsafe { disable_timeout(id, false) };
        }
    }
}
