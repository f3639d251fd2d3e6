//! The order of a unique index: a table read in it, a query sorted by it, and two rows compared by it.

use std::cmp::Ordering;

use pgrx::FromDatum;
use pgrx::pg_sys;

use super::row::Values;
use crate::pg::relation::Relation;

/// A btree index, open to be read from its beginning or to have rows compared as it does.
pub struct KeyOrder {
    index: pg_sys::Relation,
    columns: Vec<KeyColumn>,
}

/// A key column of an index.
pub(in crate::pg) struct KeyColumn {
    /// Its place in the table's rows, counted from 0.
    pub place: usize,
    pub equality: pg_sys::Oid,
    /// The operator that sorts as the index does.
    pub sort: pg_sys::Oid,
    pub nulls_first: bool,
    pub descending: bool,
    collation: pg_sys::Oid,
    compare: *mut pg_sys::FmgrInfo,
}

impl KeyOrder {
    /// Opens an index of a relation that the caller has locked. Nothing if a query cannot be sorted
    /// as the index is: if it has a collation of its own.
    pub fn open(relation: &Relation, index: pg_sys::Oid) -> Option<Self> {
        // SAFETY: raises an ERROR if there is no such index.
        let index = unsafe { pg_sys::index_open(index, pg_sys::AccessShareLock as i32) };
        let mut order = Self { index, columns: Vec::new() };
        // SAFETY: open until dropped.
        let columns = unsafe { (*(*index).rd_index).indnkeyatts };
        for number in 0..columns {
            // SAFETY: an open btree index of this relation, on columns alone, with that many.
            order.columns.push(unsafe { key_column(relation, index, number) }?);
        }
        Some(order)
    }

    /// How the key of `left` sorts beside that of `right`. Neither has a NULL in it.
    pub fn compare(&self, left: Values, right: Values) -> Ordering {
        for column in &self.columns {
            let (left, right) = (left.datums[column.place], right.datums[column.place]);
            // SAFETY: the comparison function of the index, for values of its column.
            let result = unsafe {
                let result =
                    pg_sys::FunctionCall2Coll(column.compare, column.collation, left, right);
                i32::from_datum(result, false).unwrap_or_default()
            };
            let order = result.cmp(&0);
            if order != Ordering::Equal {
                return if column.descending { order.reverse() } else { order };
            }
        }
        Ordering::Equal
    }

    pub(in crate::pg) fn columns(&self) -> &[KeyColumn] {
        &self.columns
    }

    /// Begins to read a relation in the order of this index of it, under the active snapshot.
    pub(in crate::pg) fn begin_scan(&self, relation: &Relation) -> pg_sys::IndexScanDesc {
        // SAFETY: both are open; no conditions, so all rows.
        unsafe {
            let scan = pg_sys::index_beginscan(
                relation.as_ptr(),
                self.index,
                pg_sys::GetActiveSnapshot(),
                #[cfg(feature = "pg18")]
                std::ptr::null_mut(),
                0,
                0,
            );
            pg_sys::index_rescan(scan, std::ptr::null_mut(), 0, std::ptr::null_mut(), 0);
            scan
        }
    }
}

/// Number of the comparison among the support functions of a btree operator class.
const COMPARE: u16 = 1;

/// # Safety
/// An open btree index of the relation, with a key column of that number, counted from 0.
unsafe fn key_column(
    relation: &Relation,
    index: pg_sys::Relation,
    number: i16,
) -> Option<KeyColumn> {
    let at = number as usize;
    // SAFETY: the caller vouches for index and column: the arrays of the index have an entry for each.
    unsafe {
        let collation = *(*index).rd_indcollation.add(at);
        let place = (*(*index).rd_index).indkey.values.as_slice(at + 1)[at] - 1;
        if collation
            != (*super::row::attribute(relation.descriptor(), i32::from(place))).attcollation
        {
            return None;
        }
        let (family, class_type) = (*(*index).rd_opfamily.add(at), *(*index).rd_opcintype.add(at));
        let member = |strategy: u32| {
            pg_sys::get_opfamily_member(family, class_type, class_type, strategy as i16)
        };
        let options = *(*index).rd_indoption.add(at) as u32;
        let descending = options & pg_sys::INDOPTION_DESC != 0;
        let strategy =
            if descending { pg_sys::BTGreaterStrategyNumber } else { pg_sys::BTLessStrategyNumber };
        Some(KeyColumn {
            place: usize::try_from(place).ok()?,
            equality: member(pg_sys::BTEqualStrategyNumber),
            sort: member(strategy),
            nulls_first: options & pg_sys::INDOPTION_NULLS_FIRST != 0,
            descending,
            collation,
            compare: pg_sys::index_getprocinfo(index, number + 1, COMPARE),
        })
    }
}

impl Drop for KeyOrder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `open`; after an ERROR the transaction takes care.
            unsafe { pg_sys::index_close(self.index, pg_sys::NoLock as i32) };
        }
    }
}
