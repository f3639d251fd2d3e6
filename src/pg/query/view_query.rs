//! The query of a materialized view, run as the server's own REFRESH runs it: from its rule, so that
//! no name is looked up again.

use std::ffi::c_void;

use pgrx::{pg_guard, pg_sys};

use super::hash_joins;
use super::units::Units;
use crate::pg::relation::Relation;
use crate::pg::rows::key_order::KeyOrder;
use crate::pg::rows::slot::ExecutorRow;
use crate::pg::statement::node;

/// The query of a view, planned.
pub struct ViewQuery(*mut pg_sys::PlannedStmt);

impl ViewQuery {
    /// Plans the query, to return its rows in the order given or as they come.
    ///
    /// The caller holds locks on the view and on everything that it reads, and has set the identity
    /// and the settings that hold for it.
    pub fn plan(view: &Relation, order: Option<&KeyOrder>) -> Self {
        // SAFETY: trees are allocated in the present memory context, which outlives this.
        unsafe {
            let natural = Self::planned(rewritten(view, None));
            if order.is_none() {
                return natural;
            }
            let sorted = Self::planned(rewritten(view, order));
            // Expressions are compiled where a plan is expensive, but sorting does not evaluate any.
            (*sorted.0).jitFlags = (*natural.0).jitFlags;
            sorted
        }
    }

    /// The same, of only those rows that have one unit of each of these sets.
    pub fn plan_units(view: &Relation, units: &[Units]) -> Self {
        // SAFETY: as in `plan`.
        unsafe {
            let outer = around(stored(view), view);
            (*(*outer).jointree).quals = Units::all_hold(units);
            Self::planned(rewrite(outer))
        }
    }

    /// What the view itself holds, of these units or altogether: its columns, and then where each row lies.
    pub fn plan_shown(view: &Relation, units: &[Units]) -> Self {
        // SAFETY: as in `plan`; the caller holds a lock on the view.
        unsafe {
            let source = node::<pg_sys::RangeTblEntry>(pg_sys::NodeTag::T_RangeTblEntry);
            (*source).rtekind = pg_sys::RTEKind::RTE_RELATION;
            (*source).relid = view.oid();
            (*source).relkind = pg_sys::RELKIND_MATVIEW as i8;
            (*source).rellockmode = pg_sys::AccessShareLock as i32;
            let (outer, names) = select_all(source, view);
            #[cfg(not(feature = "pg15"))]
            {
                // Nobody's privileges are asked: it is we who want to know.
                let permissions =
                    node::<pg_sys::RTEPermissionInfo>(pg_sys::NodeTag::T_RTEPermissionInfo);
                (*permissions).relid = view.oid();
                (*permissions).requiredPerms = u64::from(pg_sys::ACL_SELECT);
                (*permissions).checkAsUser = pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID);
                (*outer).rteperminfos = pg_sys::lappend(std::ptr::null_mut(), permissions.cast());
                (*source).perminfoindex = 1;
            }
            (*source).eref = pg_sys::makeAlias(c"view".as_ptr(), names);
            let place = pg_sys::makeVar(
                1,
                pg_sys::SelfItemPointerAttributeNumber as i16,
                pg_sys::TIDOID,
                -1,
                pg_sys::InvalidOid,
                0,
            );
            let number = view.columns() as i16 + 1;
            let name = pg_sys::pstrdup(c"ctid".as_ptr());
            let target = pg_sys::makeTargetEntry(place.cast(), number, name, false);
            (*outer).targetList = pg_sys::lappend((*outer).targetList, target.cast());
            (*(*outer).jointree).quals = Units::all_hold(units);
            Self::planned(outer)
        }
    }

    /// # Safety
    /// A rewritten query, in a memory context that outlives this.
    pub(super) unsafe fn planned(query: *mut pg_sys::Query) -> Self {
        // SAFETY: the caller vouches for the query.
        unsafe {
            Self(pg_sys::pg_plan_query(
                query,
                TEXT.as_ptr(),
                pg_sys::CURSOR_OPT_PARALLEL_OK as i32,
                std::ptr::null_mut(),
            ))
        }
    }

    /// What running it costs, by the planner's estimate.
    pub fn cost(&self) -> f64 {
        // SAFETY: planned by one of the constructors.
        unsafe { (*(*self.0).planTree).total_cost }
    }

    /// How many rows it returns, by the planner's estimate.
    pub fn rows(&self) -> f64 {
        // SAFETY: as above.
        unsafe { (*(*self.0).planTree).plan_rows }
    }

    /// Bytes that its rows take, by the planner's estimate.
    pub fn bytes(&self) -> f64 {
        // SAFETY: as above.
        self.rows() * f64::from(unsafe { (*(*self.0).planTree).plan_width })
    }

    /// Whether the first rows come long before the last, by the planner's estimate.
    pub fn returns_early(&self) -> bool {
        // SAFETY: planned by `plan`.
        let (startup, total) = unsafe {
            let plan = (*self.0).planTree;
            ((*plan).startup_cost, (*plan).total_cost)
        };
        startup * 4.0 < total
    }

    /// The memory with which each of its hash joins returns rows in the order of its outer table, in bytes, by the
    /// planner's estimates. With less a join works in batches, one behind the other.
    pub fn memory_for_one_batch(&self) -> f64 {
        // SAFETY: planned by one of the constructors.
        unsafe { hash_joins::memory_for_one_batch(self.0) }
    }

    /// Runs it under the active snapshot; `on_row` gets each row and says whether it wants more. The
    /// plan may be a parallel one: `on_row` must not write to tables. Returns the number of rows.
    pub fn run(self, on_row: &mut dyn FnMut(ExecutorRow) -> bool) -> u64 {
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
        // SAFETY: the steps and their order are those of the server's own refresh; the receiver
        // outlives them.
        unsafe {
            pg_sys::PushCopiedSnapshot(pg_sys::GetActiveSnapshot());
            pg_sys::UpdateActiveSnapshotCommandId();
            let query = pg_sys::CreateQueryDesc(
                self.0,
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
}

/// What the planner is told that a page costs which is read out of order.
pub fn random_page_cost() -> f64 {
    // SAFETY: a setting of this process.
    unsafe { pg_sys::random_page_cost }
}

/// What pg_stat_activity and error reports show of it.
const TEXT: &std::ffi::CStr = c"query of a materialized view";

/// The query as it is stored, in a copy.
///
/// # Safety
/// An open materialized view.
pub(super) unsafe fn stored(view: &Relation) -> *mut pg_sys::Query {
    // SAFETY: a materialized view has exactly one rule with exactly one query, as its creation sees
    // to; a row mark or a second query would come of a corrupt catalog.
    unsafe {
        let rules = (*view.as_ptr()).rd_rules;
        let actions = (**(*rules).rules).actions;
        let stored = (*(*actions).elements).ptr_value;
        pg_sys::copyObjectImpl(stored.cast::<c_void>()).cast::<pg_sys::Query>()
    }
}

/// # Safety
/// A query that nobody else uses.
pub(super) unsafe fn rewrite(query: *mut pg_sys::Query) -> *mut pg_sys::Query {
    // SAFETY: the caller vouches for the query.
    unsafe {
        pg_sys::AcquireRewriteLocks(query, true, false);
        let queries = pg_sys::QueryRewrite(query);
        (*(*queries).elements).ptr_value.cast()
    }
}

/// # Safety
/// An open materialized view.
pub(super) unsafe fn rewritten(view: &Relation, order: Option<&KeyOrder>) -> *mut pg_sys::Query {
    // SAFETY: a copy of our own.
    unsafe {
        let query = match order {
            Some(order) => sorted(stored(view), view, order),
            None => stored(view),
        };
        rewrite(query)
    }
}

/// `SELECT * FROM (query) ORDER BY key`, as a tree.
///
/// # Safety
/// The query of that view, whose index the order comes from.
unsafe fn sorted(
    query: *mut pg_sys::Query,
    view: &Relation,
    order: &KeyOrder,
) -> *mut pg_sys::Query {
    // SAFETY: nodes are allocated zeroed and given what the parser would give them for that text.
    unsafe {
        let outer = around(query, view);
        let targets = (*outer).targetList;
        let mut sort = std::ptr::null_mut();
        for (reference, key) in (1..).zip(order.columns()) {
            let target =
                (*(*targets).elements.add(key.place)).ptr_value.cast::<pg_sys::TargetEntry>();
            (*target).ressortgroupref = reference;
            let clause = node::<pg_sys::SortGroupClause>(pg_sys::NodeTag::T_SortGroupClause);
            (*clause).tleSortGroupRef = reference;
            (*clause).eqop = key.equality;
            (*clause).sortop = key.sort;
            (*clause).nulls_first = key.nulls_first;
            #[cfg(feature = "pg18")]
            {
                (*clause).reverse_sort = key.descending;
            }
            sort = pg_sys::lappend(sort, clause.cast());
        }
        (*outer).sortClause = sort;
        outer
    }
}

/// `SELECT * FROM (query)`, as a tree.
///
/// # Safety
/// The query of that view.
unsafe fn around(query: *mut pg_sys::Query, view: &Relation) -> *mut pg_sys::Query {
    // SAFETY: as in `sorted`; the columns of the view are those of its query.
    unsafe {
        let source = node::<pg_sys::RangeTblEntry>(pg_sys::NodeTag::T_RangeTblEntry);
        (*source).rtekind = pg_sys::RTEKind::RTE_SUBQUERY;
        (*source).subquery = query;
        let (outer, names) = select_all(source, view);
        (*source).eref = pg_sys::makeAlias(c"query".as_ptr(), names);
        outer
    }
}

/// `SELECT * FROM source`, which has the columns of the view, as a tree; and their names.
///
/// # Safety
/// A new entry for a range table.
unsafe fn select_all(
    source: *mut pg_sys::RangeTblEntry,
    view: &Relation,
) -> (*mut pg_sys::Query, *mut pg_sys::List) {
    // SAFETY: as in `sorted`.
    unsafe {
        let mut names = std::ptr::null_mut();
        let mut targets = std::ptr::null_mut();
        for place in 0..view.columns() {
            let attribute = crate::pg::rows::row::attribute(view.descriptor(), place as i32);
            let name = pg_sys::pstrdup((*attribute).attname.data.as_ptr());
            let number = place as i16 + 1;
            let column = pg_sys::makeVar(
                1,
                number,
                (*attribute).atttypid,
                (*attribute).atttypmod,
                (*attribute).attcollation,
                0,
            );
            names = pg_sys::lappend(names, pg_sys::makeString(name).cast());
            let target = pg_sys::makeTargetEntry(column.cast(), number, name, false);
            targets = pg_sys::lappend(targets, target.cast());
        }
        (*source).inFromCl = true;
        let reference = node::<pg_sys::RangeTblRef>(pg_sys::NodeTag::T_RangeTblRef);
        (*reference).rtindex = 1;
        let outer = node::<pg_sys::Query>(pg_sys::NodeTag::T_Query);
        (*outer).commandType = pg_sys::CmdType::CMD_SELECT;
        (*outer).canSetTag = true;
        (*outer).rtable = pg_sys::lappend(std::ptr::null_mut(), source.cast());
        let from = pg_sys::lappend(std::ptr::null_mut(), reference.cast());
        (*outer).jointree = pg_sys::makeFromExpr(from, std::ptr::null_mut());
        (*outer).targetList = targets;
        (outer, names)
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
    on_row: &'a mut dyn FnMut(ExecutorRow) -> bool,
}

#[pg_guard]
unsafe extern "C-unwind" fn receive(
    slot: *mut pg_sys::TupleTableSlot,
    receiver: *mut pg_sys::DestReceiver,
) -> bool {
    // SAFETY: the receiver given to the executor is a whole `Receiver`, borrowed until its end; the
    // slot holds a row during this call.
    unsafe { ((*receiver.cast::<Receiver>()).on_row)(ExecutorRow::new(slot)) }
}

unsafe extern "C-unwind" fn start(
    _receiver: *mut pg_sys::DestReceiver,
    _operation: i32,
    _row_type: pg_sys::TupleDesc,
) {
}

const unsafe extern "C-unwind" fn end(_receiver: *mut pg_sys::DestReceiver) {}
