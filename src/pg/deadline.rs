//! A time limit on a piece of work: when it passes, the running query is cancelled.
//!
//! Not statement_timeout, which belongs to the user whose statement we may be running in.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cache_refresher_core::time::Timestamp;
use pgrx::pg_sys;

use super::clock;

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

/// The time limit; lifted when dropped. Within it there may be another one: the piece of work of which this is a
/// part has one of its own, which holds on.
pub struct Deadline {
    own: Option<Timestamp>,
    /// When the query is to be cancelled once this is lifted.
    outer: Option<Timestamp>,
}

thread_local! {
    /// When the running query is to be cancelled.
    static NEXT: Cell<Option<Timestamp>> = const { Cell::new(None) };
    /// Whether the limit that was lifted last had run out.
    static LAST_HAD_PASSED: Cell<bool> = const { Cell::new(false) };
}

impl Deadline {
    /// Cancels the running query after `limit`. Zero means no limit.
    pub fn after(limit: Duration) -> Self {
        let own = (!limit.is_zero()).then(|| clock::now().plus(limit));
        let outer = NEXT.get();
        if outer.is_none() {
            PASSED.store(false, Ordering::Relaxed);
        }
        LAST_HAD_PASSED.set(false);
        // One that has passed has had its say.
        let ahead = outer.filter(|outer| *outer > clock::now());
        set(own.into_iter().chain(ahead).min());
        Self { own, outer }
    }

    /// Whether it has run out: tells a timeout from a cancel, and from the end of another limit.
    pub fn has_passed(&self) -> bool {
        PASSED.load(Ordering::Relaxed)
            && self.own.is_some_and(|own| own <= clock::now().plus(PRECISION))
    }
}

/// Whether the limit that was lifted last had run out, if nobody has asked since.
pub fn last_had_passed() -> bool {
    LAST_HAD_PASSED.take()
}

/// How much too early the server's timer may be, which counts in milliseconds.
const PRECISION: Duration = Duration::from_millis(10);

fn set(next: Option<Timestamp>) {
    let before = NEXT.replace(next);
    if before == next {
        return;
    }
    // SAFETY: registers a handler once per process; the id it yields is valid for its life.
    let id = *TIMEOUT.get_or_init(|| unsafe { RegisterTimeout(USER_TIMEOUT, on_timeout) });
    // SAFETY: `id` was registered above; a timer that was running already is set anew.
    unsafe {
        match next.map(|next| next.since(clock::now()).as_millis()) {
            Some(rest) => {
                enable_timeout_after(id, c_int::try_from(rest).unwrap_or(c_int::MAX).max(1))
            }
            None => disable_timeout(id, false),
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        LAST_HAD_PASSED.set(self.has_passed());
        set(self.outer);
    }
}
