//! An open relation, and reading all of its rows.

use pgrx::pg_sys;

use super::row::{RowId, Slot, Values};

/// A relation that is open in this transaction; the caller holds a lock on it.
pub struct Relation(pg_sys::Relation);

impl Relation {
    /// Opens a relation that the caller has locked.
    pub fn open(oid: pg_sys::Oid) -> Self {
        // SAFETY: raises an ERROR if there is no such relation.
        unsafe { Self(pg_sys::relation_open(oid, pg_sys::NoLock as i32)) }
    }

    pub(super) const fn as_ptr(&self) -> pg_sys::Relation {
        self.0
    }

    /// Its row type; lives as long as the relation is open.
    pub(super) fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: open until dropped.
        unsafe { (*self.0).rd_att }
    }

    /// How many columns it has.
    pub fn columns(&self) -> usize {
        // SAFETY: open until dropped.
        usize::try_from(unsafe { (*self.descriptor()).natts }).unwrap_or_default()
    }

    /// Rows, as far as the planner knows; nothing if it does not.
    pub fn estimated_rows(&self) -> Option<u64> {
        // SAFETY: open until dropped.
        let estimate = unsafe { (*(*self.0).rd_rel).reltuples };
        (estimate >= 0.0).then_some(estimate as u64)
    }
}

impl Drop for Relation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `open`; the lock stays to the end of the transaction. After an ERROR
            // the transaction closes it.
            unsafe { pg_sys::relation_close(self.0, pg_sys::NoLock as i32) };
        }
    }
}

/// All rows of a table that the active snapshot sees, in the order in which they lie.
pub struct Scan<'a> {
    scan: pg_sys::TableScanDesc,
    slot: Slot,
    _relation: &'a Relation,
}

impl<'a> Scan<'a> {
    /// Begins at the first block: not where another scan happens to be, since the order matters.
    pub fn begin(relation: &'a Relation) -> Self {
        // SAFETY: an open relation; the active snapshot outlives the scan, as its user sees to.
        unsafe {
            let snapshot = pg_sys::GetActiveSnapshot();
            let scan = pg_sys::table_beginscan_strat(
                relation.0,
                snapshot,
                0,
                std::ptr::null_mut(),
                true,
                false,
            );
            Self { scan, slot: Slot::of_table(relation), _relation: relation }
        }
    }

    /// Goes on to the next row; false after the last.
    pub fn advance(&mut self) -> bool {
        // SAFETY: scan and slot belong to the same relation.
        unsafe {
            pg_sys::table_scan_getnextslot(
                self.scan,
                pg_sys::ScanDirection::ForwardScanDirection,
                self.slot.as_ptr(),
            )
        }
    }

    /// The present row.
    pub fn values(&self) -> Values<'_> {
        self.slot.values()
    }

    /// Where it lies.
    pub fn id(&self) -> RowId {
        // SAFETY: a valid slot.
        unsafe { RowId::of(self.slot.as_ptr()) }
    }

    /// The slot that holds it.
    pub(super) const fn slot(&self) -> &Slot {
        &self.slot
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.slot.clear();
            // SAFETY: begun by `begin`; after an ERROR the transaction takes care.
            unsafe { pg_sys::table_endscan(self.scan) };
        }
    }
}
