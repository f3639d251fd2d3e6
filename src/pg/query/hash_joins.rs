//! Whether a plan joins in one piece, or in batches, each of which returns rows from all over the outer table.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag;

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
    unsafe {
        let main = most((*statement).planTree, 1.0);
        plans((*statement).subplans).map(|plan| most(plan, 1.0)).fold(main, f64::max)
    }
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
            _ => 0.0,
        };
        let below = match (*plan).type_ {
            NodeTag::T_Append => (*plan.cast::<pg_sys::Append>()).appendplans,
            NodeTag::T_MergeAppend => (*plan.cast::<pg_sys::MergeAppend>()).mergeplans,
            _ => std::ptr::null_mut(),
        };
        let inside = match (*plan).type_ {
            NodeTag::T_SubqueryScan => (*plan.cast::<pg_sys::SubqueryScan>()).subplan,
            _ => std::ptr::null_mut(),
        };
        let children = [(*plan).lefttree, (*plan).righttree, inside];
        let children = children.into_iter().chain(plans(below));
        children.map(|child| most(child, processes)).fold(own, f64::max)
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

/// # Safety
/// A list of plans.
unsafe fn plans(list: *const pg_sys::List) -> impl Iterator<Item = *mut pg_sys::Plan> {
    // SAFETY: the caller vouches for the list; a null pointer is an empty one.
    unsafe {
        let length = if list.is_null() { 0 } else { (*list).length as usize };
        (0..length).map(move |place| (*(*list).elements.add(place)).ptr_value.cast())
    }
}
