//! The trigger on captured tables: notes each change that matters in the table's log, in the writer's
//! transaction.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_guard;
use pgrx::pg_sys::{self, Datum, Oid};

use super::change_log::{ChangeKind, HEAD, Watch, find, kept_columns};
use super::change_writer::{self, Outlet, Writer};
use crate::pg::hooks::invalidation;
use crate::pg::relation::Relation;
use crate::pg::rows::row::{self, RowType, Values};
use crate::pg::rows::slot;
use crate::pg::unguarded;

/// The names of our triggers on captured tables.
pub const ROW_TRIGGER: &CStr = c"cache_refresher_capture";
pub const TRUNCATE_TRIGGER: &CStr = c"cache_refresher_truncate";

/// What the trigger of one table does, kept until something about the table or its log changes.
struct Plan {
    outlet: Rc<Outlet>,
    row_type: RowType,
    /// Columns to compare, counted from 0.
    compared: Vec<usize>,
    /// How many columns, from the first, hold all that is compared or kept.
    width: i32,
    /// The log has no room for values, or for those of other types: only that something has changed can
    /// be noted.
    blind: bool,
}

impl Plan {
    /// Whether two rows look the same in the kept columns.
    fn keeps_same(&self, old: Values, new: Values) -> bool {
        self.outlet.kept().all(|column| self.row_type.same_in(&[column], old, new))
    }
}

/// The plan that was needed last: a statement changes many rows of one table, and the next one often rows of
/// the same.
struct Last {
    source: Oid,
    plan: Rc<Plan>,
    /// Who looked at it under a lock that keeps it as it is.
    by: Writer,
}

thread_local! {
    static PLANS: RefCell<HashMap<Oid, Option<Rc<Plan>>>> = RefCell::default();
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
    /// Where rows are not kept one note in each subtransaction is enough: in which log, transaction and
    /// subtransaction the last of a source is.
    static NOTED: RefCell<HashMap<Oid, (Oid, Writer)>> = RefCell::default();
}

/// Forgets what rests on a relation that may have changed, or on any if that is `InvalidOid`.
pub(in crate::pg) fn forget(relation: Oid) {
    let is_meant = |source: Oid, plan: Option<&Rc<Plan>>| {
        relation == pg_sys::InvalidOid
            || relation == source
            || plan.is_some_and(|plan| plan.outlet.log() == relation)
    };
    // A callback may come while a plan is being made: what is borrowed then is made anew anyway.
    LAST.with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            drop(last.take_if(|last| is_meant(last.source, Some(&last.plan))));
        }
    });
    PLANS.with(|plans| {
        if let Ok(mut plans) = plans.try_borrow_mut() {
            plans.retain(|&source, plan| !is_meant(source, plan.as_ref()));
        }
    });
}

/// The plan as it holds under a lock on the log. Without the lock an index might become ready unnoticed,
/// and lack an entry for a row that is written a moment later.
///
/// # Safety
/// The relation and the trigger of a trigger call.
unsafe fn settled_plan(
    relation: pg_sys::Relation,
    trigger: *mut pg_sys::Trigger,
) -> Option<Rc<Plan>> {
    // SAFETY: valid during the call.
    let source = unsafe { (*relation).rd_id };
    let by = change_writer::current();
    loop {
        let generation = invalidation::generation();
        let last = LAST.with_borrow(|last| {
            let last = last.as_ref().filter(|last| last.source == source);
            last.map(|last| (last.plan.clone(), last.by == by))
        });
        let plan = match last {
            Some((plan, true)) => return Some(plan),
            Some((plan, false)) => plan,
            // SAFETY: passed on.
            None => unsafe { plan(relation, trigger) }?,
        };
        let log = plan.outlet.log();
        // Whoever waits for a lock learns of what has changed meanwhile, and so do we by `forget`.
        // It belongs to the (sub)transaction, as the rows that wait do: a cursor may end before it.
        // SAFETY: the lock is one that writers of the log take, and stays to the end of the transaction.
        unsafe {
            unguarded::guarded(|| {
                let owner = pg_sys::CurrentResourceOwner;
                pg_sys::CurrentResourceOwner = pg_sys::CurTransactionResourceOwner;
                unguarded::LockRelationOid(log, pg_sys::RowExclusiveLock as i32);
                pg_sys::CurrentResourceOwner = owner;
            });
        }
        if invalidation::generation() == generation {
            LAST.set(Some(Last { source, plan: plan.clone(), by }));
            return Some(plan);
        }
    }
}

/// # Safety
/// The relation and the trigger of a trigger call.
unsafe fn plan(relation: pg_sys::Relation, trigger: *mut pg_sys::Trigger) -> Option<Rc<Plan>> {
    // SAFETY: valid during the call.
    let source = unsafe { (*relation).rd_id };
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&source).cloned()) {
        return plan;
    }
    let generation = invalidation::generation();
    // SAFETY: the argument is a C string, if there is one; the descriptor is that of an open relation.
    let plan = unsafe {
        let argument = if (*trigger).tgnargs > 0 {
            CStr::from_ptr(*(*trigger).tgargs).to_string_lossy().into_owned()
        } else {
            "*".to_owned()
        };
        let watch = Watch::parse(&argument, Vec::new());
        find(source)
            .and_then(|log| Relation::open_locked(log, pg_sys::RowExclusiveLock))
            .map(|log| Rc::new(Plan::of((*relation).rd_att, &watch, &log)))
    };
    if invalidation::generation() == generation {
        PLANS.with_borrow_mut(|plans| plans.insert(source, plan.clone()));
    }
    plan
}

impl Plan {
    /// Has a row written to the log, and the scheduler told that `source` has changed.
    ///
    /// # Safety
    /// Inside a transaction that may write and holds ROW EXCLUSIVE on the log; the row is one of the source.
    unsafe fn write(&self, source: Oid, kind: ChangeKind, row: Option<Values>) {
        // SAFETY: passed on.
        unsafe { change_writer::write(&self.outlet, source, kind, row) };
    }

    /// # Safety
    /// The descriptor of the open source.
    unsafe fn of(source: pg_sys::TupleDesc, watch: &Watch, log: &Relation) -> Self {
        // SAFETY: both descriptors are those of open relations.
        unsafe {
            let columns = usize::try_from((*source).natts).unwrap_or_default();
            let place =
                |number: i16| usize::try_from(number - 1).ok().filter(|&place| place < columns);
            let compared: Vec<usize> = match &watch.columns {
                Some(numbers) => numbers.iter().copied().filter_map(place).collect(),
                None => (0..columns).collect(),
            };
            let numbers = kept_columns(log.descriptor());
            let kept: Vec<Option<usize>> =
                numbers.iter().map(|number| number.and_then(place)).collect();
            let mut blind = kept.iter().all(Option::is_none);
            for (index, number) in (HEAD as i32..).zip(&numbers) {
                let Some(number) = *number else { continue };
                let there = &*row::attribute(log.descriptor(), index);
                let same = place(number).is_some_and(|place| {
                    let here = &*row::attribute(source, place as i32);
                    !here.attisdropped && pg_sys::getBaseType(here.atttypid) == there.atttypid
                });
                blind |= !same;
            }
            let needed = compared.iter().chain(kept.iter().flatten());
            let width = needed.max().map_or(0, |last| last + 1);
            Self {
                outlet: Rc::new(Outlet::of(log, kept)),
                row_type: RowType::described_by(source),
                compared,
                width: i32::try_from(width).unwrap_or_default(),
                blind,
            }
        }
    }
}

/// Notes the changes of a materialized view, which can have no trigger, for those who write to it.
///
/// The scheduler is told of the log, not of the view: the view itself is not concerned by its own changes.
pub struct ViewLog(Plan);

impl ViewLog {
    /// The log of a view, if somebody is told of its changes. The caller holds ROW EXCLUSIVE on the view, which
    /// keeps logs from being made.
    pub(in crate::pg) fn of(view: &Relation) -> Option<Self> {
        let log = Relation::open_locked(find(view.oid())?, pg_sys::RowExclusiveLock)?;
        let watch = Watch { columns: None, kept: Vec::new() };
        // SAFETY: the descriptor of an open relation.
        Some(Self(unsafe { Plan::of(view.descriptor(), &watch, &log) }))
    }

    /// Notes that any row of a view may have changed, if somebody is told of its changes. Inside a transaction
    /// that may write and has a lock against other writers of the view.
    pub fn note_any(view: Oid) {
        if let Some(Self(plan)) = Self::of(&Relation::open(view)) {
            // SAFETY: no row is given; the caller vouches for the transaction.
            unsafe { plan.write(plan.outlet.log(), ChangeKind::Any, None) };
            change_writer::flush();
        }
    }

    /// # Safety
    /// A row that has come or gone, or an old one and a new one, of the view; inside a transaction that may
    /// write.
    pub(in crate::pg) unsafe fn note(&self, old: Option<Values>, new: Option<Values>) {
        // SAFETY: the caller vouches for the rows.
        unsafe { note_change(&self.0, self.0.outlet.log(), old, new) };
    }
}

/// The trigger function: notes a change of a captured table. Where the log is missing, nothing happens:
/// capture that is broken is noticed by those who refresh, and must not fail a user's write.
///
/// # Safety
/// Called by the server's trigger manager.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn capture_change(call: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: a trigger function has its data as context, and gets here as a trigger only.
    unsafe {
        let data = (*call).context.cast::<pg_sys::TriggerData>();
        if !data.is_null() && (*data).type_ == pg_sys::NodeTag::T_TriggerData {
            note(&*data);
        }
    }
    Datum::from(0)
}

/// Tells the server how the function is called.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_capture_change() -> &'static pg_sys::Pg_finfo_record {
    const RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// # Safety
/// The data of a trigger call.
unsafe fn note(data: &pg_sys::TriggerData) {
    // SAFETY: relation, trigger and slots are valid during the call; the slots hold the rows that the
    // kind of event has.
    unsafe {
        let Some(plan) = settled_plan(data.tg_relation, data.tg_trigger) else { return };
        let source = (*data.tg_relation).rd_id;
        let row = || slot::first_values(data.tg_trigslot, plan.width);
        match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_TRUNCATE => plan.write(source, ChangeKind::Any, None),
            pg_sys::TRIGGER_EVENT_UPDATE => {
                let new = slot::first_values(data.tg_newslot, plan.width);
                note_change(&plan, source, Some(row()), Some(new));
            }
            pg_sys::TRIGGER_EVENT_DELETE => note_change(&plan, source, Some(row()), None),
            _ => note_change(&plan, source, None, Some(row())),
        }
    }
}

/// # Safety
/// As for `Plan::write`.
unsafe fn note_change(plan: &Plan, source: Oid, old: Option<Values>, new: Option<Values>) {
    let both = old.zip(new);
    if both.is_some_and(|(old, new)| plan.row_type.same_in(&plan.compared, old, new)) {
        return;
    }
    // SAFETY: passed on.
    unsafe {
        if plan.blind {
            return note_once(plan, source);
        }
        if both.is_some_and(|(old, new)| plan.keeps_same(old, new)) {
            return plan.write(source, ChangeKind::Both, new);
        }
        if old.is_some() {
            plan.write(source, ChangeKind::Old, old);
        }
        if new.is_some() {
            plan.write(source, ChangeKind::New, new);
        }
    }
}

/// # Safety
/// As for `Plan::write`.
unsafe fn note_once(plan: &Plan, source: Oid) {
    let now = (plan.outlet.log(), change_writer::current());
    let noted = NOTED.with_borrow_mut(|noted| noted.insert(source, now));
    if noted != Some(now) {
        // SAFETY: passed on.
        unsafe { plan.write(source, ChangeKind::Any, None) };
    }
}
