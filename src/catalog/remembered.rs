//! What was read of the server's catalogs, for as long as they are the same.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use pgrx::pg_sys::Oid;

use crate::error::Result;
use crate::pg::{invalidation, snapshot};

/// By the OID of a relation: what only its place in the catalogs says of it.
pub struct Remembered<T> {
    generation: Cell<u64>,
    values: RefCell<HashMap<Oid, T>>,
}

impl<T: Clone> Default for Remembered<T> {
    fn default() -> Self {
        Self { generation: Cell::new(0), values: RefCell::default() }
    }
}

impl<T: Clone> Remembered<T> {
    /// What is remembered of a relation, or else read now.
    pub fn get(&self, relation: Oid, read: impl FnOnce() -> Result<T>) -> Result<T> {
        let generation = invalidation::generation();
        if self.generation.replace(generation) != generation {
            self.values.borrow_mut().clear();
        }
        if let Some(value) = self.values.borrow().get(&relation) {
            return Ok(value.clone());
        }
        let value = read()?;
        // What has changed meanwhile may be in it, or not; and a snapshot of the whole transaction may be older
        // than what this process has heard of.
        if invalidation::generation() == generation && snapshot::is_read_committed() {
            self.values.borrow_mut().insert(relation, value.clone());
        }
        Ok(value)
    }
}
