//! Index entries of rows that are written to a table without the executor.

use pgrx::pg_sys::{self, Datum};

use super::slot::Slot;
use crate::pg::relation::Relation;

/// What is known of the rows whose entries are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entries {
    /// Nothing: a duplicate in a unique index is an ERROR.
    OfNewRows,
    /// Each takes the place of a row that is deleted by now, and has its values in all columns of unique
    /// indexes.
    OfNewVersions,
    /// The same, and no indexed value has changed that is not just summarized.
    OnlySummaries,
}

/// The indexes of a table, open for writing.
pub struct IndexWriter<'a> {
    relation: &'a Relation,
    executor: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
}

impl<'a> IndexWriter<'a> {
    /// Opens the indexes of a table on which the caller holds ROW EXCLUSIVE or more.
    pub fn open(relation: &'a Relation) -> Self {
        // SAFETY: nodes are allocated by the server; the relation is open as long as this.
        unsafe {
            let executor = pg_sys::CreateExecutorState();
            let target =
                pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*target).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            // Range-table index 0 means none: there is no range table to look things up in.
            pg_sys::InitResultRelInfo(target, relation.as_ptr(), 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(target, false);
            pg_sys::MakePerTupleExprContext(executor);
            Self { relation, executor, target }
        }
    }

    /// Makes the entries of rows that were just stored, one index after the other.
    ///
    /// # Safety
    /// The slots hold rows of this table, with their places in it, for which `entries` holds.
    pub unsafe fn insert(&self, rows: &[Slot], entries: Entries) {
        // SAFETY: the server keeps as many indexes as it says.
        unsafe {
            for number in 0..usize::try_from((*self.target).ri_NumIndices).unwrap_or_default() {
                let index = *(*self.target).ri_IndexRelationDescs.add(number);
                let info = *(*self.target).ri_IndexRelationInfo.add(number);
                if !index.is_null() && (*info).ii_ReadyForInserts && concerns(info, entries) {
                    self.insert_into(index, info, rows, entries);
                }
            }
        }
    }

    /// # Safety
    /// As for `insert`, and an open index with its description.
    unsafe fn insert_into(
        &self,
        index: pg_sys::Relation,
        info: *mut pg_sys::IndexInfo,
        rows: &[Slot],
        entries: Entries,
    ) {
        let mut values = [Datum::null(); pg_sys::INDEX_MAX_KEYS as usize];
        let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
        let new_versions = entries != Entries::OfNewRows;
        // SAFETY: the caller vouches for index and rows; expressions and conditions allocate in a context that is
        // emptied after each row.
        unsafe {
            // The same values are unique still, if the index vouches for those of the old version: not while it is
            // created concurrently. Whether an expression is the same is a promise of its author.
            let form = &*(*index).rd_index;
            let only_columns = (*info).ii_Expressions.is_null() && (*info).ii_Predicate.is_null();
            let is_vouched_for = new_versions && only_columns && form.indisvalid;
            let check = if form.indisunique && !is_vouched_for {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
            } else {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
            };
            if !(*info).ii_Predicate.is_null() && (*info).ii_PredicateState.is_null() {
                (*info).ii_PredicateState =
                    pg_sys::ExecPrepareQual((*info).ii_Predicate, self.executor);
            }
            let context = (*self.executor).es_per_tuple_exprcontext;
            for row in rows {
                pgrx::check_for_interrupts!();
                pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
                (*context).ecxt_scantuple = row.as_ptr();
                let condition = (*info).ii_PredicateState;
                if !condition.is_null() && !pg_sys::ExecQual(condition, context) {
                    continue;
                }
                pg_sys::FormIndexDatum(
                    info,
                    row.as_ptr(),
                    self.executor,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                );
                // That the entry may be the same as before is a hint to look for dead ones before a page is split.
                pg_sys::index_insert(
                    index,
                    values.as_mut_ptr(),
                    nulls.as_mut_ptr(),
                    &raw mut (*row.as_ptr()).tts_tid,
                    self.relation.as_ptr(),
                    check,
                    new_versions,
                    info,
                );
            }
        }
    }
}

/// # Safety
/// The description of an index.
unsafe fn concerns(info: *const pg_sys::IndexInfo, entries: Entries) -> bool {
    #[cfg(feature = "pg15")]
    return {
        let _ = info;
        entries != Entries::OnlySummaries
    };
    #[cfg(not(feature = "pg15"))]
    // SAFETY: the caller vouches for it.
    unsafe {
        entries != Entries::OnlySummaries || (*info).ii_Summarizing
    }
}

impl Drop for IndexWriter<'_> {
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
