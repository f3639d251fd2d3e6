//! What the server tells each process about changes of its catalogs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::Once;

use pgrx::pg_sys::{self, Datum, Oid, SysCacheIdentifier};

use crate::pg::changes::capture_trigger;

thread_local! {
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    /// The generation of the last change that was not one of a single relation.
    static OF_ALL: Cell<u64> = const { Cell::new(0) };
    /// The relations that somebody watches, each with the generation of its last change.
    static WATCHED: RefCell<HashMap<Oid, u64>> = RefCell::default();
    /// How many changes of what [`LOOSE`] names were heard of.
    static LOOSE_CHANGED: Cell<u64> = const { Cell::new(0) };
    /// How many changes of types were heard of.
    static TYPES_CHANGED: Cell<u64> = const { Cell::new(0) };
}

static WATCHING: Once = Once::new();

/// Caches of the server for what belongs to no relation: schemas and event triggers.
const NAMES: [u32; 2] = [SysCacheIdentifier::NAMESPACEOID, SysCacheIdentifier::EVENTTRIGGEROID];
/// Caches of the server for what belongs to no relation, either, and decides what a query returns: functions,
/// operators, casts, collations, labels of enums, text search, and roles, to which row security applies or not.
const LOOSE: [u32; 13] = [
    SysCacheIdentifier::AMPROCNUM,
    SysCacheIdentifier::AUTHMEMMEMROLE,
    SysCacheIdentifier::AUTHMEMROLEMEM,
    SysCacheIdentifier::AUTHOID,
    SysCacheIdentifier::CASTSOURCETARGET,
    SysCacheIdentifier::CLAOID,
    SysCacheIdentifier::COLLOID,
    SysCacheIdentifier::ENUMOID,
    SysCacheIdentifier::OPEROID,
    SysCacheIdentifier::PROCOID,
    SysCacheIdentifier::TSCONFIGOID,
    SysCacheIdentifier::TSCONFIGMAP,
    SysCacheIdentifier::TSDICTOID,
];

/// More relations than that are not told apart.
const MOST_WATCHED: usize = 10_000;

/// A number that is another one once a relation or something of what [`NAMES`] and [`LOOSE`] name may have
/// changed, as far as this process has heard: it hears of others when a transaction starts and when it is granted
/// a lock, and of its own changes after each command.
pub fn generation() -> u64 {
    WATCHING.call_once(|| {
        // SAFETY: functions that stay where they are.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(on_relation), Datum::from(0));
            let types = SysCacheIdentifier::TYPEOID as c_int;
            pg_sys::CacheRegisterSyscacheCallback(types, Some(on_type), Datum::from(0));
            for cache in NAMES.into_iter().chain(LOOSE) {
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

/// Hears now of what has changed. Inside a transaction.
pub fn hear() {
    generation();
    // SAFETY: what the server does with each lock.
    unsafe { pg_sys::AcceptInvalidationMessages() };
}

/// A number that is another one once something of what [`LOOSE`] names may have changed, as far as this process has
/// heard, even if it was changed back. Where too many messages have come since it heard of any the last time, it
/// may have.
pub fn loose() -> u64 {
    LOOSE_CHANGED.get()
}

/// The same of types, among them those of the rows of tables.
pub fn types() -> u64 {
    TYPES_CHANGED.get()
}

/// From now on it is noted when one of these relations changes.
pub fn watch(relations: &[Oid]) {
    WATCHED.with_borrow_mut(|watched| {
        if watched.len() > MOST_WATCHED {
            watched.clear();
            OF_ALL.set(next());
        }
        for &relation in relations {
            watched.entry(relation).or_insert(0);
        }
    });
}

/// Whether these relations, which somebody watches since then, and all that belongs to no relation are as they
/// were.
pub fn unchanged_since(generation: u64, relations: &[Oid]) -> bool {
    OF_ALL.get() <= generation
        && WATCHED.with_borrow(|watched| {
            relations
                .iter()
                .all(|relation| watched.get(relation).is_some_and(|at| *at <= generation))
        })
}

fn next() -> u64 {
    GENERATION.set(GENERATION.get() + 1);
    GENERATION.get()
}

unsafe extern "C-unwind" fn on_relation(_argument: Datum, relation: Oid) {
    let now = next();
    if relation == pg_sys::InvalidOid {
        OF_ALL.set(now);
    } else {
        WATCHED.with_borrow_mut(|watched| {
            watched.entry(relation).and_modify(|at| *at = now);
        });
    }
    capture_trigger::forget(relation);
}

unsafe extern "C-unwind" fn on_entry(_argument: Datum, cache: c_int, _hash: u32) {
    OF_ALL.set(next());
    if LOOSE.contains(&cache.cast_unsigned()) {
        LOOSE_CHANGED.set(LOOSE_CHANGED.get() + 1);
    }
}

unsafe extern "C-unwind" fn on_type(_argument: Datum, _cache: c_int, _hash: u32) {
    TYPES_CHANGED.set(TYPES_CHANGED.get() + 1);
}
