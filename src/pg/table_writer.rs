//! Writing rows of a table and their index entries.
//!
//! The executor refuses to change a materialized view, so this goes to the table-access layer, which
//! does not ask. It checks nothing by itself: the caller sees to privileges, to the lock on the table
//! and to a transaction that may write.

use pgrx::pg_sys;

use super::capture_trigger::ViewLog;
use super::relation::Relation;
use super::row::{RowId, Slot, Values};
use super::{change_writer, transaction};

/// A table opened for writing, with its indexes.
pub struct TableWriter<'a> {
    relation: &'a Relation,
    executor: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    slot: Slot,
    /// Where changes are noted for views that read this one, and the rows that were there before.
    log: Option<(ViewLog, Slot)>,
}

impl<'a> TableWriter<'a> {
    /// Opens the indexes of a table on which the caller holds ROW EXCLUSIVE or more.
    pub fn open(relation: &'a Relation) -> Self {
        // SAFETY: nodes are allocated by the server; the relation is open as long as the writer is.
        unsafe {
            let executor = pg_sys::CreateExecutorState();
            let target =
                pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*target).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            // Range-table index 0 means none: there is no range table to look things up in.
            pg_sys::InitResultRelInfo(target, relation.as_ptr(), 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(target, false);
            let slot = Slot::borrowed(relation.descriptor());
            let log = ViewLog::of(relation).map(|log| (log, Slot::of_table(relation)));
            Self { relation, executor, target, slot, log }
        }
    }

    /// Makes what was written visible to the next command.
    pub fn finish(self) {
        drop(self);
        change_writer::flush();
        transaction::next_command();
    }

    /// Stores a new row.
    pub fn insert(&mut self, row: Values) {
        pgrx::check_for_interrupts!();
        // SAFETY: a row of this table, which is there until the slot is filled anew.
        unsafe {
            self.slot.show(row);
            pg_sys::simple_table_tuple_insert(self.relation.as_ptr(), self.slot.as_ptr());
            if let Some((log, _)) = &self.log {
                log.note(None, Some(row));
            }
            self.index(false, false);
        }
    }

    /// Stores a new version of a row.
    pub fn update(&mut self, mut id: RowId, row: Values) {
        pgrx::check_for_interrupts!();
        // SAFETY: as in `insert`; the row with that id is visible to the active snapshot.
        unsafe {
            self.note_old(&mut id, Some(row));
            self.slot.show(row);
            let mut indexes = Default::default();
            pg_sys::simple_table_tuple_update(
                self.relation.as_ptr(),
                id.as_mut_ptr(),
                self.slot.as_ptr(),
                pg_sys::GetActiveSnapshot(),
                &mut indexes,
            );
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            if indexes {
                self.index(true, false);
            }
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            if indexes != pg_sys::TU_UpdateIndexes::TU_None {
                self.index(true, indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing);
            }
        }
    }

    /// Removes a row.
    pub fn delete(&mut self, mut id: RowId) {
        pgrx::check_for_interrupts!();
        // SAFETY: the row with that id is visible to the active snapshot.
        unsafe {
            self.note_old(&mut id, None);
            pg_sys::simple_table_tuple_delete(
                self.relation.as_ptr(),
                id.as_mut_ptr(),
                pg_sys::GetActiveSnapshot(),
            );
        }
    }

    /// Notes that the row with that id goes, or that another takes its place.
    ///
    /// # Safety
    /// The row is visible to the active snapshot.
    unsafe fn note_old(&mut self, id: &mut RowId, new: Option<Values>) {
        let Some((log, slot)) = &mut self.log else { return };
        // SAFETY: every table can fetch a row by its id, into a slot of its own kind.
        unsafe {
            let access = &*(*self.relation.as_ptr()).rd_tableam;
            let snapshot = pg_sys::GetActiveSnapshot();
            let found = access.tuple_fetch_row_version.is_some_and(|fetch| {
                fetch(self.relation.as_ptr(), id.as_mut_ptr(), snapshot, slot.as_ptr())
            });
            if !found {
                pgrx::error!("a row that is to be replaced is not there");
            }
            pg_sys::slot_getallattrs(slot.as_ptr());
            log.note(Some(slot.values()), new);
            slot.clear();
        }
    }

    /// Makes index entries for the row that was just stored; a duplicate in a unique index is an
    /// ERROR.
    ///
    /// # Safety
    /// The slot holds the row, with its place in the table.
    unsafe fn index(&self, update: bool, only_summarizing: bool) {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let _ = only_summarizing;
        // SAFETY: target and executor were made for each other; expressions of indexes allocate in a
        // context that is emptied after each row.
        unsafe {
            if (*self.target).ri_NumIndices == 0 {
                return;
            }
            pg_sys::ExecInsertIndexTuples(
                self.target,
                self.slot.as_ptr(),
                self.executor,
                update,
                false,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                #[cfg(not(any(feature = "pg14", feature = "pg15")))]
                only_summarizing,
            );
            let scratch = (*self.executor).es_per_tuple_exprcontext;
            if !scratch.is_null() {
                pg_sys::MemoryContextReset((*scratch).ecxt_per_tuple_memory);
            }
        }
    }
}

impl Drop for TableWriter<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: opened by `open`; after an ERROR the transaction takes care.
        unsafe {
            pg_sys::ExecCloseIndices(self.target);
            pg_sys::FreeExecutorState(self.executor);
        }
    }
}
