//! A time limit on a piece of work: when it passes, the running query is cancelled. A function that catches that is
//! cancelled again and again, and one of our own processes that goes on all the same is ended.
//!
//! Not statement_timeout, which belongs to the user whose statement we may be running in.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use cache_refresher_core::time::Timestamp;
use pgrx::pg_sys;

use super::background_worker;
use crate::pg::clock;

// Declared here because the generated bindings leave out utils/timeout.h.
unsafe extern "C-unwind" {
    fn RegisterTimeout(id: c_int, handler: unsafe extern "C-unwind" fn()) -> c_int;
    fn enable_timeout_every(id: c_int, first: pg_sys::TimestampTz, delay_ms: c_int);
    fn disable_timeout(id: c_int, keep_indicator: bool);
}

/// First free number in `enum TimeoutId`.
#[cfg(any(feature = "pg15", feature = "pg16"))]
const USER_TIMEOUT: c_int = 12;
#[cfg(any(feature = "pg17", feature = "pg18"))]
const USER_TIMEOUT: c_int = 13;

static PASSED: AtomicBool = AtomicBool::new(false);
/// How often the running query has been cancelled.
static CANCELS: AtomicU32 = AtomicU32::new(0);
/// Between two of them, in milliseconds.
const AGAIN_AFTER: c_int = 1000;
/// So many are for a session; one of our own processes that has caught the others is ended by the next.
const MOST_CANCELS: u32 = 3;
static TIMEOUT: OnceLock<c_int> = OnceLock::new();

unsafe extern "C-unwind" fn on_timeout() {
    PASSED.store(true, Ordering::Relaxed);
    let cancels = CANCELS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: runs in a signal handler; stores to flags and SetLatch are async-signal-safe.
    unsafe {
        if cancels >= MOST_CANCELS && background_worker::is_one() {
            pg_sys::ProcDiePending = 1;
        }
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
            CANCELS.store(0, Ordering::Relaxed);
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

/// Whether this process is being ended because it has not heeded its limit.
pub fn was_not_heeded() -> bool {
    PASSED.load(Ordering::Relaxed) && CANCELS.load(Ordering::Relaxed) > MOST_CANCELS
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
        match next {
            Some(next) => enable_timeout_every(id, next.as_pg(), AGAIN_AFTER),
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
