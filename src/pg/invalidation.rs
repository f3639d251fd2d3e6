//! What the server tells each process about changes of its catalogs.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::Once;

use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};

use super::capture_trigger;

thread_local! {
    static GENERATION: Cell<u64> = const { Cell::new(0) };
}

static WATCHING: Once = Once::new();

/// A number that is another one once a relation, an index, a role or a schema may have changed, as far as this
/// process has heard: it hears of others when a transaction starts and when it is granted a lock, and of its own
/// changes after each command.
pub fn generation() -> u64 {
    WATCHING.call_once(|| {
        // SAFETY: functions that stay where they are.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(on_relation), Datum::from(0));
            for cache in [SysCacheIdentifier::AUTHOID, SysCacheIdentifier::NAMESPACEOID] {
                pg_sys::CacheRegisterSyscacheCallback(
                    cache as c_int,
                    Some(on_entry),
                    Datum::from(0),
                );
            }
        }
    });
    GENERATION.get()
}

unsafe extern "C-unwind" fn on_relation(_argument: Datum, relation: Oid) {
    GENERATION.set(GENERATION.get() + 1);
    capture_trigger::forget(relation);
}

unsafe extern "C-unwind" fn on_entry(_argument: Datum, _cache: c_int, _hash: u32) {
    GENERATION.set(GENERATION.get() + 1);
}
