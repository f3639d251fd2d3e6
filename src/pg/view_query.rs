//! The query of a materialized view, run as the server's own REFRESH runs it: from its rule, so that
//! no name is looked up again.

use std::ffi::c_void;

use pgrx::{pg_guard, pg_sys};

use super::relation::Relation;
use super::row::ExecutorRow;

/// Plans the query of a view and runs it under the active snapshot; `on_row` gets each row.
/// Returns the number of rows.
///
/// The caller holds locks on the view and on everything that it reads, and has set the identity and
/// the settings that hold for it. The plan may be a parallel one: `on_row` must not write to tables.
pub fn run(view: &Relation, on_row: &mut dyn FnMut(ExecutorRow)) -> u64 {
    // SAFETY: the steps and their order are those of the server's own refresh; trees are allocated in
    // the present memory context, and the rule's own is copied before it is rewritten.
    unsafe {
        let planned = pg_sys::pg_plan_query(
            rewritten(view),
            TEXT.as_ptr(),
            pg_sys::CURSOR_OPT_PARALLEL_OK as i32,
            std::ptr::null_mut(),
        );
        let mut receiver = Receiver {
            base: pg_sys::DestReceiver {
                receiveSlot: Some(receive),
                rStartup: Some(start),
                rShutdown: Some(end),
                rDestroy: Some(end),
                mydest: pg_sys::CommandDest::DestNone,
            },
            on_row,
        };
        pg_sys::PushCopiedSnapshot(pg_sys::GetActiveSnapshot());
        pg_sys::UpdateActiveSnapshotCommandId();
        let query = pg_sys::CreateQueryDesc(
            planned,
            TEXT.as_ptr(),
            pg_sys::GetActiveSnapshot(),
            std::ptr::null_mut(),
            (&raw mut receiver).cast(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        );
        pg_sys::ExecutorStart(query, 0);
        run_to_end(query);
        let rows = (*(*query).estate).es_processed;
        pg_sys::ExecutorFinish(query);
        pg_sys::ExecutorEnd(query);
        pg_sys::FreeQueryDesc(query);
        pg_sys::PopActiveSnapshot();
        rows
    }
}

/// What pg_stat_activity and error reports show of it.
const TEXT: &std::ffi::CStr = c"query of a materialized view";

/// # Safety
/// An open materialized view.
unsafe fn rewritten(view: &Relation) -> *mut pg_sys::Query {
    // SAFETY: a materialized view has exactly one rule with exactly one query, as its creation sees
    // to; a row mark or a second query would come of a corrupt catalog.
    unsafe {
        let rules = (*view.as_ptr()).rd_rules;
        let actions = (**(*rules).rules).actions;
        let stored = (*(*actions).elements).ptr_value;
        let copy = pg_sys::copyObjectImpl(stored.cast::<c_void>()).cast::<pg_sys::Query>();
        pg_sys::AcquireRewriteLocks(copy, true, false);
        let queries = pg_sys::QueryRewrite(copy);
        (*(*queries).elements).ptr_value.cast()
    }
}

/// # Safety
/// A query that has been started.
unsafe fn run_to_end(query: *mut pg_sys::QueryDesc) {
    let forward = pg_sys::ScanDirection::ForwardScanDirection;
    // SAFETY: a count of 0 means all rows.
    unsafe {
        #[cfg(feature = "pg18")]
        pg_sys::ExecutorRun(query, forward, 0);
        #[cfg(not(feature = "pg18"))]
        pg_sys::ExecutorRun(query, forward, 0, true);
    }
}

/// Hands each row to a closure; the server knows the base only.
#[repr(C)]
struct Receiver<'a> {
    base: pg_sys::DestReceiver,
    on_row: &'a mut dyn FnMut(ExecutorRow),
}

#[pg_guard]
unsafe extern "C-unwind" fn receive(
    slot: *mut pg_sys::TupleTableSlot,
    receiver: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: the receiver given to the executor is a whole `Receiver`, borrowed until its end; the
    // slot holds a row during this call.
    unsafe { ((*receiver.cast::<Receiver>()).on_row)(ExecutorRow::new(slot)) };
    true
}

unsafe extern "C-unwind" fn start(
    _receiver: *mut pg_sys::DestReceiver,
    _operation: i32,
    _row_type: pg_sys::TupleDesc,
) {
}

const unsafe extern "C-unwind" fn end(_receiver: *mut pg_sys::DestReceiver) {}
