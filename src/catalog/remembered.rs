//! What was read of the server's catalogs, for as long as they are the same.

use std::cell::RefCell;
use std::collections::HashMap;

use pgrx::pg_sys::{self, Oid};

use crate::error::Result;
use crate::pg::hooks::invalidation;
use crate::pg::snapshot;

/// By the OID of a relation: what the catalogs say of it.
///
/// It may be as stale as the server's own catalog caches; callers that need the present state hold locks.
pub struct Remembered<T>(RefCell<HashMap<Oid, Fact<T>>>);

/// What was read, and the relations on whose catalog entries it rests.
struct Fact<T> {
    value: T,
    rests_on: Vec<Oid>,
    read_at: u64,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T: Clone> Remembered<T> {
    /// What is remembered, or else read now, together with the relations on whose entries it rests; where one of
    /// those is missing nothing is remembered.
    pub fn get(&self, relation: Oid, read: impl FnOnce() -> Result<(T, Vec<Oid>)>) -> Result<T> {
        self.get_if(relation, |_| true, read)
    }

    /// The same, where what is remembered is only of use if it `fits`.
    pub fn get_if(
        &self,
        relation: Oid,
        fits: impl Fn(&T) -> bool,
        read: impl FnOnce() -> Result<(T, Vec<Oid>)>,
    ) -> Result<T> {
        invalidation::hear();
        let is_valid = |fact: &&Fact<T>| {
            invalidation::unchanged_since(fact.read_at, &fact.rests_on) && fits(&fact.value)
        };
        if let Some(fact) = self.0.borrow().get(&relation).filter(is_valid) {
            return Ok(fact.value.clone());
        }
        let read_at = invalidation::generation();
        let (value, rests_on) = read()?;
        // What has changed meanwhile may be in it, or not; and a snapshot of the whole transaction may be older
        // than what this process has heard of.
        let is_of_now = invalidation::generation() == read_at && snapshot::is_read_committed();
        if is_of_now && !rests_on.contains(&pg_sys::InvalidOid) {
            invalidation::watch(&rests_on);
            let fact = Fact { value: value.clone(), rests_on, read_at };
            self.0.borrow_mut().insert(relation, fact);
        }
        Ok(value)
    }
}
