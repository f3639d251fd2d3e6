//! Writing rows of a table and their index entries.
//!
//! The executor refuses to change a materialized view, so this goes to the table-access layer, which
//! does not ask. It checks nothing by itself: the caller sees to privileges, to the lock on the table
//! and to a transaction that may write.

use cache_refresher_core::placement::Placement;
use pgrx::pg_sys;

use super::index_writer::{Entries, IndexWriter};
use super::slot::{RowId, Slot, Tuple};
use crate::pg::changes::capture_trigger::ViewLog;
use crate::pg::changes::change_writer;
use crate::pg::memory::MemoryContext;
use crate::pg::relation::Relation;
use crate::pg::transaction;

/// A table opened for writing, with its indexes.
pub struct TableWriter<'a> {
    relation: &'a Relation,
    indexes: IndexWriter<'a>,
    placement: Placement,
    /// A new version of a single row.
    slot: Slot,
    /// Rows that are stored together.
    batch: Batch,
    notes: Option<Notes>,
}

/// Where changes are noted for views that read this one.
struct Notes {
    log: ViewLog,
    old: Slot,
    new: Slot,
}

/// Rows that wait until there are many of them.
struct Batch {
    slots: Vec<Slot>,
    filled: usize,
    bytes: usize,
    entries: Entries,
    /// What storing them takes.
    memory: MemoryContext,
}

/// How many rows are stored together at most, and how many bytes of them: as the server does for COPY.
const MOST_ROWS: usize = 1000;
const MOST_BYTES: usize = 64 * 1024;

impl<'a> TableWriter<'a> {
    /// Opens a heap on which the caller holds ROW EXCLUSIVE or more.
    pub fn open(relation: &'a Relation) -> Self {
        Self {
            relation,
            indexes: IndexWriter::open(relation),
            placement: Placement::default(),
            // SAFETY: the relation is open as long as the writer is.
            slot: unsafe { Slot::whole(relation.descriptor()) },
            batch: Batch {
                slots: Vec::new(),
                filled: 0,
                bytes: 0,
                entries: Entries::OfNewRows,
                memory: MemoryContext::new(),
            },
            notes: Notes::of(relation),
        }
    }

    /// Makes what was written visible to the next command.
    pub fn finish(mut self) {
        self.store();
        drop(self);
        change_writer::flush();
        transaction::next_command();
    }

    /// Stores a new row.
    pub fn insert(&mut self, row: Tuple) {
        self.note(None, Some(row));
        self.add(Entries::OfNewRows, row);
    }

    /// Stores a new version of a row, which has the same values in all columns of unique indexes.
    pub fn update(&mut self, id: RowId, row: Tuple) {
        self.note(Some(id), Some(row));
        if self.placement.is_to_try() {
            let stayed = self.replace(id, row);
            self.placement.tried(stayed);
        } else {
            self.remove(id);
            self.add(Entries::OfNewVersions, row);
        }
    }

    /// Removes a row.
    pub fn delete(&mut self, id: RowId) {
        self.note(Some(id), None);
        self.remove(id);
    }

    fn remove(&self, mut id: RowId) {
        pgrx::check_for_interrupts!();
        // SAFETY: the row with that id is visible to the active snapshot.
        unsafe {
            pg_sys::simple_table_tuple_delete(
                self.relation.as_ptr(),
                id.as_mut_ptr(),
                pg_sys::GetActiveSnapshot(),
            );
        }
    }

    /// Stores a new version of a row, on the same page if there is room, and tells whether that was so and no
    /// index needed an entry of it.
    fn replace(&mut self, mut id: RowId, row: Tuple) -> bool {
        pgrx::check_for_interrupts!();
        // SAFETY: a row of this table; the one with that id is visible to the active snapshot.
        unsafe {
            self.slot.keep(row);
            let mut indexes = Default::default();
            pg_sys::simple_table_tuple_update(
                self.relation.as_ptr(),
                id.as_mut_ptr(),
                self.slot.as_ptr(),
                pg_sys::GetActiveSnapshot(),
                &mut indexes,
            );
            let entries = needed(indexes);
            if let Some(entries) = entries {
                self.indexes.insert(std::slice::from_ref(&self.slot), entries);
            }
            entries != Some(Entries::OfNewVersions)
        }
    }

    fn add(&mut self, entries: Entries, row: Tuple) {
        if entries != self.batch.entries {
            self.store();
            self.batch.entries = entries;
        }
        self.batch.add(self.relation, row);
        if self.batch.filled == MOST_ROWS || self.batch.bytes >= MOST_BYTES {
            self.store();
        }
    }

    /// Stores the rows that wait.
    fn store(&mut self) {
        if self.batch.filled == 0 {
            return;
        }
        pgrx::check_for_interrupts!();
        let rows = &mut self.batch.slots[..self.batch.filled];
        let mut places: Vec<_> = rows.iter().map(Slot::as_ptr).collect();
        // SAFETY: the slots are of this table, each with a row in it; what the first call allocates is not used
        // after it.
        unsafe {
            self.batch.memory.run(|| {
                pg_sys::table_multi_insert(
                    self.relation.as_ptr(),
                    places.as_mut_ptr(),
                    places.len() as i32,
                    pg_sys::GetCurrentCommandId(true),
                    0,
                    std::ptr::null_mut(),
                );
            });
            self.batch.memory.reset();
            self.indexes.insert(rows, self.batch.entries);
        }
        rows.iter_mut().for_each(Slot::clear);
        (self.batch.filled, self.batch.bytes) = (0, 0);
    }

    fn note(&mut self, old: Option<RowId>, new: Option<Tuple>) {
        if let Some(notes) = &mut self.notes {
            // SAFETY: rows of this table, of which the old one is visible to the active snapshot.
            unsafe { notes.note(self.relation, old, new) };
        }
    }
}

impl Notes {
    fn of(relation: &Relation) -> Option<Self> {
        let log = ViewLog::of(relation)?;
        // SAFETY: the relation is open as long as whoever holds this.
        let new = unsafe { Slot::minimal(relation.descriptor()) };
        Some(Self { log, old: Slot::of_table(relation), new })
    }

    /// Notes that a row comes, or that the one with that id goes, or that one takes the place of the other.
    ///
    /// # Safety
    /// Rows of that table, of which the old one is visible to the active snapshot.
    unsafe fn note(&mut self, relation: &Relation, old: Option<RowId>, new: Option<Tuple>) {
        // SAFETY: every table can fetch a row by its id, into a slot of its own kind.
        unsafe {
            if let Some(mut id) = old {
                let access = &*(*relation.as_ptr()).rd_tableam;
                let snapshot = pg_sys::GetActiveSnapshot();
                let found = access.tuple_fetch_row_version.is_some_and(|fetch| {
                    fetch(relation.as_ptr(), id.as_mut_ptr(), snapshot, self.old.as_ptr())
                });
                if !found {
                    pgrx::error!("a row that is to be replaced is not there");
                }
            }
            if let Some(new) = new {
                self.new.show_tuple(new);
            }
            let (old, new) = (old.map(|_| self.old.values()), new.map(|_| self.new.values()));
            self.log.note(old, new);
            self.old.clear();
            self.new.clear();
        }
    }
}

impl Batch {
    fn add(&mut self, relation: &Relation, row: Tuple) {
        // SAFETY: the relation is open as long as the writer is; a row of it.
        unsafe {
            if self.filled == self.slots.len() {
                self.slots.push(Slot::whole(relation.descriptor()));
            }
            self.slots[self.filled].keep(row);
        }
        self.bytes += row.bytes().len();
        self.filled += 1;
    }
}

/// The entries in indexes that a new version needs.
#[cfg(feature = "pg15")]
fn needed(indexes: bool) -> Option<Entries> {
    indexes.then_some(Entries::OfNewVersions)
}

/// The entries in indexes that a new version needs.
#[cfg(not(feature = "pg15"))]
fn needed(indexes: pg_sys::TU_UpdateIndexes::Type) -> Option<Entries> {
    match indexes {
        pg_sys::TU_UpdateIndexes::TU_None => None,
        pg_sys::TU_UpdateIndexes::TU_Summarizing => Some(Entries::OnlySummaries),
        _ => Some(Entries::OfNewVersions),
    }
}
