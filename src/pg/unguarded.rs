//! Functions of the server without the guard that pgrx puts around each call: for what happens at each row that
//! users write. There the guards, each with code of its own that the processor has to fetch again for every
//! transaction, cost as much as half of what they guard.

use std::ffi::{c_char, c_int};

use pgrx::pg_sys::{self, Datum, Oid};

// These never raise an error.
unsafe extern "C-unwind" {
    fn GetCurrentSubTransactionId() -> pg_sys::SubTransactionId;
    fn GetTopFullTransactionIdIfAny() -> pg_sys::FullTransactionId;
    fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
    fn IsTransactionState() -> bool;
    fn MemoryContextReset(context: pg_sys::MemoryContext);
}

// These may: they are called inside `guarded` only.
unsafe extern "C-unwind" {
    pub(super) fn LockRelationOid(relation: Oid, lock: i32);
    #[link_name = "table_scan_getnextslot__pgrx_cshim"]
    pub(super) fn table_scan_getnextslot(
        scan: pg_sys::TableScanDesc,
        direction: pg_sys::ScanDirection::Type,
        slot: *mut pg_sys::TupleTableSlot,
    ) -> bool;
    pub(super) fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, columns: i32);
    pub(super) fn heap_form_tuple(
        descriptor: pg_sys::TupleDesc,
        values: *mut Datum,
        nulls: *mut bool,
    ) -> pg_sys::HeapTuple;
    pub(super) fn heap_freetuple(tuple: pg_sys::HeapTuple);
    pub(super) fn try_table_open(relation: Oid, lock: i32) -> pg_sys::Relation;
    pub(super) fn table_close(relation: pg_sys::Relation, lock: i32);
    pub(super) fn simple_heap_insert(relation: pg_sys::Relation, tuple: pg_sys::HeapTuple);
    pub(super) fn index_open(relation: Oid, lock: i32) -> pg_sys::Relation;
    pub(super) fn index_close(relation: pg_sys::Relation, lock: i32);
    pub(super) fn index_insert(
        index: pg_sys::Relation,
        values: *mut Datum,
        nulls: *mut bool,
        place: pg_sys::ItemPointer,
        table: pg_sys::Relation,
        unique: pg_sys::IndexUniqueCheck::Type,
        unchanged: bool,
        info: *mut pg_sys::IndexInfo,
    ) -> bool;
}

// These may as well: they are called where an error may pass over the caller.
unsafe extern "C-unwind" {
    pub(super) fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
    pub(super) fn ExecGetAllUpdatedCols(
        table: *mut pg_sys::ResultRelInfo,
        state: *mut pg_sys::EState,
    ) -> *mut pg_sys::Bitmapset;
    pub(super) fn bms_is_member(member: c_int, set: *const pg_sys::Bitmapset) -> bool;
    pub(super) fn get_func_name(function: Oid) -> *mut c_char;
    pub(super) fn get_func_namespace(function: Oid) -> Oid;
    pub(super) fn get_namespace_name(schema: Oid) -> *mut c_char;
}

/// Runs calls of the server behind one guard: an error in any of them ends all.
///
/// # Safety
/// Nothing that is made inside has a destructor, and nothing there panics.
pub(super) unsafe fn guarded<R: Copy>(calls: impl FnOnce() -> R) -> R {
    // SAFETY: as said.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(calls) }
}

/// The subtransaction that runs, or 0.
pub fn subtransaction() -> u32 {
    // SAFETY: reads a variable of this process.
    unsafe { GetCurrentSubTransactionId() }
}

/// The id of the present transaction, if it has one.
pub fn transaction() -> Option<u64> {
    // SAFETY: reads a variable of this process.
    let id = unsafe { GetTopFullTransactionIdIfAny() }.value;
    (id != 0).then_some(id)
}

/// The time as the server tells it.
pub fn now() -> pg_sys::TimestampTz {
    // SAFETY: asks the system.
    unsafe { GetCurrentTimestamp() }
}

/// Whether queries can be run.
pub fn is_in_transaction() -> bool {
    // SAFETY: reads a variable of this process.
    unsafe { IsTransactionState() }
}

/// Empties a memory context.
///
/// # Safety
/// Nobody uses what lies in it.
pub unsafe fn reset(context: pg_sys::MemoryContext) {
    // SAFETY: as said.
    unsafe { MemoryContextReset(context) };
}
