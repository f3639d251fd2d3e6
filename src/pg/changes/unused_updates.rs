//! Updates of columns that no view uses are not captured row by row only to be found to be the same: our trigger
//! is taken out of the statement before it starts.
//!
//! `CREATE ROW_TRIGGER … UPDATE OF` would say the same once and for all, and be wrong as soon as somebody adds a
//! BEFORE trigger, which may change a column that the statement does not name. Here it is known for each statement
//! whether there is one, under a lock that keeps others from being made. Who writes without the executor's start,
//! as the apply of logical replication does, or where the library is not preloaded, just pays for the trigger.

use std::cell::Cell;
use std::ffi::{CStr, c_int};

use pgrx::pg_sys::{self, Oid};

use super::capture_trigger::ROW_TRIGGER;
use crate::pg::unguarded;

const FUNCTION: &CStr = c"capture_change";
const SCHEMA: &CStr = c"_cache_refresher";

static mut PREVIOUS_HOOK: pg_sys::ExecutorStart_hook_type = None;

thread_local! {
    /// The last function of a trigger with our name that was seen to be ours.
    static OURS: Cell<Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

/// Puts our hook in front of whatever is there. Once, while the library is loaded.
pub fn install() {
    // SAFETY: the server is still single-threaded and this runs once.
    unsafe {
        PREVIOUS_HOOK = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
    }
}

/// The hook, without pgrx's guard as the utility hook is: an error passes over frames in which nothing has a
/// destructor.
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: the server passes a query, which has its executor's state once it has started.
    unsafe {
        PREVIOUS_HOOK.unwrap_or(unguarded::standard_ExecutorStart)(query, flags);
        let is_update = (*query).operation == pg_sys::CmdType::CMD_UPDATE;
        let state = (*query).estate;
        if is_update && !state.is_null() && !(*(*query).plannedstmt).hasModifyingCTE {
            each_table(state);
        }
    }
}

/// # Safety
/// The state of a query that has just started.
unsafe fn each_table(state: *mut pg_sys::EState) {
    // SAFETY: a list of tables that are open for writing.
    unsafe {
        let tables = (*state).es_opened_result_relations;
        if tables.is_null() {
            return;
        }
        for place in 0..usize::try_from((*tables).length).unwrap_or_default() {
            let table = (*(*tables).elements.add(place)).ptr_value;
            take_out(table.cast(), state);
        }
    }
}

/// Takes our trigger out of the triggers of a table, which are a copy for this query, if nothing can happen that
/// it would note.
///
/// # Safety
/// A table of that query.
unsafe fn take_out(table: *mut pg_sys::ResultRelInfo, state: *mut pg_sys::EState) {
    const AFTER_UPDATE_OF_ROWS: i16 =
        (pg_sys::TRIGGER_TYPE_ROW | pg_sys::TRIGGER_TYPE_UPDATE) as i16;
    const TIMING: i16 =
        (pg_sys::TRIGGER_TYPE_BEFORE | pg_sys::TRIGGER_TYPE_INSTEAD) as i16 | AFTER_UPDATE_OF_ROWS;
    // SAFETY: the description of triggers has as many as it says.
    unsafe {
        let all = (*table).ri_TrigDesc;
        if all.is_null() || !(*all).trig_update_after_row || (*all).trig_update_before_row {
            return;
        }
        let (mut taken, mut others) = (false, false);
        for place in 0..usize::try_from((*all).numtriggers).unwrap_or_default() {
            let trigger = (*all).triggers.add(place);
            if (*trigger).tgtype & TIMING != AFTER_UPDATE_OF_ROWS {
                continue;
            }
            if is_ours(trigger) && !is_concerned(trigger, table, state) {
                (*trigger).tgtype &= !(pg_sys::TRIGGER_TYPE_UPDATE as i16);
                taken = true;
            } else {
                others = true;
            }
        }
        if taken && !others {
            (*all).trig_update_after_row = false;
        }
    }
}

/// # Safety
/// An open table's trigger.
unsafe fn is_ours(trigger: *const pg_sys::Trigger) -> bool {
    // SAFETY: what the server says of a trigger and of a function is text, if anything.
    unsafe {
        if CStr::from_ptr((*trigger).tgname) != ROW_TRIGGER {
            return false;
        }
        let function = (*trigger).tgfoid;
        if OURS.get() != function {
            let name = unguarded::get_func_name(function);
            let schema = unguarded::get_namespace_name(unguarded::get_func_namespace(function));
            if name.is_null() || schema.is_null() {
                return false;
            }
            if CStr::from_ptr(name) != FUNCTION || CStr::from_ptr(schema) != SCHEMA {
                return false;
            }
            OURS.set(function);
        }
        true
    }
}

/// Whether the statement sets a column that the trigger looks at, by itself or by way of a generated column.
///
/// # Safety
/// A trigger of ours on a table of that query.
unsafe fn is_concerned(
    trigger: *const pg_sys::Trigger,
    table: *mut pg_sys::ResultRelInfo,
    state: *mut pg_sys::EState,
) -> bool {
    // SAFETY: the trigger's argument is text; the memory is that of the query.
    unsafe {
        if (*trigger).tgnargs < 1 {
            return true;
        }
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = (*state).es_query_cxt;
        let set = unguarded::ExecGetAllUpdatedCols(table, state);
        pg_sys::CurrentMemoryContext = before;
        let columns = CStr::from_ptr(*(*trigger).tgargs).to_bytes();
        columns.split(|byte| *byte == b',').any(|number| {
            let number = std::str::from_utf8(number).ok().and_then(|text| text.parse::<i16>().ok());
            // `*` stands for all of them.
            number.filter(|number| *number > 0).is_none_or(|number| {
                let member = i32::from(number) - pg_sys::FirstLowInvalidHeapAttributeNumber;
                unguarded::bms_is_member(member, set)
            })
        })
    }
}
