//! Whether a plan joins in one piece, or in batches, each of which returns rows from all over the outer table.

use pgrx::PgList;
use pgrx::pg_sys::{self, NodeTag};

/// What a row takes in a hash table beside its columns: a link with its hash, and the header of a tuple.
const ROW_OVERHEAD: f64 = 32.0;
/// Columns are aligned to so many bytes, and a bucket is a pointer.
const WORD: f64 = 8.0;
/// The part of the memory that is kept for the outer table's most common values.
const FOR_COMMON_VALUES: f64 = 0.02;

/// The memory with which each of the plan's hash joins would keep its table in one piece, by the planner's
/// estimates, in bytes; the most of them. 0 where there is none.
///
/// # Safety
/// A plan as the planner has made it.
pub(super) unsafe fn memory_for_one_batch(statement: *const pg_sys::PlannedStmt) -> f64 {
    // SAFETY: the caller vouches for the plan.
    unsafe { most((*statement).planTree, 1.0).max(most_of((*statement).subplans, 1.0)) }
}

/// The same below a node which so many processes run.
///
/// # Safety
/// A node of a plan, or null.
unsafe fn most(plan: *const pg_sys::Plan, processes: f64) -> f64 {
    if plan.is_null() {
        return 0.0;
    }
    // SAFETY: the tag says what a node is.
    unsafe {
        let processes = match (*plan).type_ {
            NodeTag::T_Gather => f64::from((*plan.cast::<pg_sys::Gather>()).num_workers) + 1.0,
            NodeTag::T_GatherMerge => {
                f64::from((*plan.cast::<pg_sys::GatherMerge>()).num_workers) + 1.0
            }
            _ => processes,
        };
        let own = match (*plan).type_ {
            NodeTag::T_Hash => table(plan.cast(), processes),
            NodeTag::T_Append => most_of((*plan.cast::<pg_sys::Append>()).appendplans, processes),
            NodeTag::T_MergeAppend => {
                most_of((*plan.cast::<pg_sys::MergeAppend>()).mergeplans, processes)
            }
            NodeTag::T_SubqueryScan => {
                most((*plan.cast::<pg_sys::SubqueryScan>()).subplan, processes)
            }
            _ => 0.0,
        };
        own.max(most((*plan).lefttree, processes)).max(most((*plan).righttree, processes))
    }
}

/// The same below any of these.
///
/// # Safety
/// A list of plans.
unsafe fn most_of(list: *mut pg_sys::List, processes: f64) -> f64 {
    // SAFETY: the caller vouches for the list.
    unsafe {
        let plans = PgList::<pg_sys::Plan>::from_pg(list);
        plans.iter_ptr().map(|plan| most(plan, processes)).fold(0.0, f64::max)
    }
}

/// What the server's executor reckons for a hash table before it divides it.
///
/// # Safety
/// A node of a plan, which so many processes run.
unsafe fn table(hash: *const pg_sys::Hash, processes: f64) -> f64 {
    // SAFETY: a hash has an input.
    unsafe {
        let input = (*hash).plan.lefttree;
        // Those who fill one together may use the memory of all of them.
        let (rows, processes) = match (*hash).plan.parallel_aware {
            true => ((*hash).rows_total, processes),
            false => ((*input).plan_rows, 1.0),
        };
        let width = (f64::from((*input).plan_width) / WORD).ceil() * WORD;
        let buckets = 2_f64.powf(rows.max(1.0).log2().ceil());
        let table = rows * (ROW_OVERHEAD + width) + buckets * WORD;
        let kept = match (*hash).skewTable {
            pg_sys::Oid::INVALID => 0.0,
            _ => FOR_COMMON_VALUES,
        };
        table / processes / (1.0 - kept)
    }
}
