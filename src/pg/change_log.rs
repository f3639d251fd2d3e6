//! The log of changes of a table: written by a trigger in the writer's transaction, read by whoever
//! wants to know what a view does not show.
//!
//! One table `_cache_refresher.changes_<OID of the source>` for each source, with the columns of
//! [`Entry`] and then those of the source that somebody needs to know, named `c<number>`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::rc::Rc;
use std::sync::Once;

use cache_refresher_core::time::Timestamp;
use pgrx::pg_guard;
use pgrx::pg_sys::{self, Datum, Oid};

use super::hooks;
use super::relation::{Relation, Scan};
use super::row::{self, RowType, Values};

/// Columns of a log before those that it keeps of the source.
pub const HEAD: usize = 3;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It was like that before.
    Old,
    /// It is like that since.
    New,
    /// It changed in columns that are not kept.
    Both,
    /// All rows went, or it was not noted which rows changed.
    Any,
}

impl Kind {
    const fn letter(self) -> u8 {
        match self {
            Self::Old => b'o',
            Self::New => b'n',
            Self::Both => b'b',
            Self::Any => b'a',
        }
    }

    const fn of(letter: u8) -> Self {
        match letter {
            b'o' => Self::Old,
            b'n' => Self::New,
            b'b' => Self::Both,
            _ => Self::Any,
        }
    }
}

/// A row of a log.
pub struct Entry<'a> {
    /// The top-level transaction that wrote it.
    pub xid: u64,
    /// When the row was written.
    pub at: Timestamp,
    pub kind: Kind,
    /// Values of the kept columns.
    pub values: Values<'a>,
}

/// The name of the log of a source, in our schema.
pub fn name_of(source: Oid) -> String {
    format!("changes_{}", source.to_u32())
}

fn find(source: Oid) -> Option<Oid> {
    let name = CString::new(name_of(source)).unwrap_or_default();
    // SAFETY: looks up the catalogs.
    let log = unsafe {
        let schema = pg_sys::get_namespace_oid(c"_cache_refresher".as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    (log != pg_sys::InvalidOid).then_some(log)
}

/// Reads what the active snapshot sees of a log until `body` says that it has enough. Nothing happens
/// if there is none.
pub fn read(source: Oid, mut body: impl FnMut(Entry) -> bool) {
    let Some(log) =
        find(source).and_then(|log| Relation::open_locked(log, pg_sys::AccessShareLock))
    else {
        return;
    };
    let mut scan = Scan::begin(&log);
    while scan.advance() {
        pgrx::check_for_interrupts!();
        if !body(entry(scan.values())) {
            break;
        }
    }
}

/// Collects values of these columns of the source from the rows of transactions that `is_new` names,
/// copied into the present memory context, until `body` says that it has enough. False if the log does
/// not keep one of the columns.
pub fn collect(
    source: Oid,
    numbers: &[i16],
    is_new: impl Fn(u64) -> bool,
    mut body: impl FnMut(Kind, Vec<Option<Datum>>) -> bool,
) -> bool {
    let Some(log) =
        find(source).and_then(|log| Relation::open_locked(log, pg_sys::AccessShareLock))
    else {
        return false;
    };
    // SAFETY: the descriptor of an open relation.
    let columns = unsafe { kept_columns(log.descriptor()) };
    let mut places = Vec::with_capacity(numbers.len());
    for number in numbers {
        let Some(place) = columns.iter().position(|column| *column == Some(*number)) else {
            return false;
        };
        places.push(place);
    }
    let mut scan = Scan::begin(&log);
    while scan.advance() {
        pgrx::check_for_interrupts!();
        let Entry { xid, kind, values, .. } = entry(scan.values());
        if !is_new(xid) {
            continue;
        }
        let copy = |&place: &usize| {
            (!values.nulls[place]).then(|| {
                // SAFETY: a value of that column of the log.
                unsafe {
                    let attribute = &*row::attribute(log.descriptor(), (HEAD + place) as i32);
                    row::copy_value(attribute.attbyval, attribute.attlen, values.datums[place])
                }
            })
        };
        if !body(kind, places.iter().map(copy).collect()) {
            break;
        }
    }
    true
}

/// Removes the rows of which `is_consumed` says that nobody needs them any more; those that somebody
/// else is removing are left to him.
pub fn prune(source: Oid, is_consumed: impl Fn(u64) -> bool) {
    let Some(log) =
        find(source).and_then(|log| Relation::open_locked(log, pg_sys::RowExclusiveLock))
    else {
        return;
    };
    let mut scan = Scan::begin(&log);
    while scan.advance() {
        pgrx::check_for_interrupts!();
        if is_consumed(entry(scan.values()).xid) {
            let mut id = scan.id();
            let mut failure = pg_sys::TM_FailureData::default();
            // SAFETY: a row of that table that the active snapshot sees.
            unsafe {
                pg_sys::heap_delete(
                    log.as_ptr(),
                    id.as_mut_ptr(),
                    pg_sys::GetCurrentCommandId(true),
                    std::ptr::null_mut(),
                    false,
                    &mut failure,
                    false,
                );
            }
        }
    }
}

fn entry(values: Values) -> Entry {
    let Values { datums, nulls } = values;
    Entry {
        xid: datums[0].value() as u64,
        at: Timestamp::from_pg(datums[1].value() as i64),
        kind: Kind::of(datums[2].value() as u8),
        values: Values { datums: &datums[HEAD..], nulls: &nulls[HEAD..] },
    }
}

/// The numbers in the names `c<number>` of the columns of a log; nothing for one that was dropped.
///
/// # Safety
/// The descriptor of an open log.
unsafe fn kept_columns(descriptor: pg_sys::TupleDesc) -> Vec<Option<i16>> {
    // SAFETY: a descriptor has as many attributes as it says.
    unsafe {
        (HEAD as i32..(*descriptor).natts)
            .map(|index| {
                let attribute = &*row::attribute(descriptor, index);
                let name = CStr::from_ptr(attribute.attname.data.as_ptr()).to_str().ok()?;
                let number = name.strip_prefix('c')?.parse().ok()?;
                (!attribute.attisdropped).then_some(number)
            })
            .collect()
    }
}

/// What is to be seen of a source: the columns whose changes matter, none for all, and those whose
/// values are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    pub columns: Option<Vec<i16>>,
    pub kept: Vec<i16>,
}

impl Watch {
    /// From the trigger's argument.
    pub fn parse(columns: &str, kept: Vec<i16>) -> Self {
        let numbers = |text: &str| text.split(',').filter_map(|part| part.parse().ok()).collect();
        Self { columns: (columns != "*").then(|| numbers(columns)), kept }
    }

    /// As argument of a trigger.
    pub fn to_argument(&self) -> String {
        let list = |numbers: &[i16]| {
            numbers.iter().map(ToString::to_string).collect::<Vec<String>>().join(",")
        };
        self.columns.as_deref().map_or_else(|| "*".to_owned(), list)
    }

    /// Whether it sees all that `other` wants to see.
    pub fn covers(&self, other: &Self) -> bool {
        let columns = match (&self.columns, &other.columns) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(theirs)) => theirs.iter().all(|number| mine.contains(number)),
        };
        columns && other.kept.iter().all(|number| self.kept.contains(number))
    }

    /// What sees all that either wants to see.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let union = |left: &[i16], right: &[i16]| {
            let mut all = [left, right].concat();
            all.sort_unstable();
            all.dedup();
            all
        };
        Self {
            columns: self
                .columns
                .as_deref()
                .zip(other.columns.as_deref())
                .map(|(left, right)| union(left, right)),
            kept: union(&self.kept, &other.kept),
        }
    }
}

/// What the trigger of one table does, kept until something about the table or its log changes.
struct Plan {
    log: Oid,
    row_type: RowType,
    /// Columns to compare, counted from 0.
    compared: Vec<usize>,
    /// For each column of the log after the head the one of the source, counted from 0.
    kept: Vec<Option<usize>>,
    /// The log has no room for values, or for those of other types: only that something has changed can
    /// be noted.
    blind: bool,
}

impl Plan {
    /// Whether two rows look the same in the kept columns.
    fn keeps_same(&self, old: Values, new: Values) -> bool {
        let mut kept = self.kept.iter().flatten();
        kept.all(|&column| self.row_type.same_in(&[column], old, new))
    }
}

thread_local! {
    static PLANS: RefCell<HashMap<Oid, Option<Rc<Plan>>>> = RefCell::default();
    /// Where rows are not kept one note in each subtransaction is enough: source, transaction and
    /// subtransaction of the last.
    static NOTED: RefCell<HashMap<Oid, (u64, u32)>> = RefCell::default();
}

static WATCHING: Once = Once::new();

unsafe extern "C-unwind" fn forget(_argument: Datum, relation: Oid) {
    // A callback may come while a plan is being made: what is borrowed then is made anew anyway.
    PLANS.with(|plans| {
        if let Ok(mut plans) = plans.try_borrow_mut() {
            if relation == pg_sys::InvalidOid {
                plans.clear();
            } else {
                plans.retain(|&source, plan| {
                    source != relation && plan.as_ref().is_none_or(|plan| plan.log != relation)
                });
            }
        }
    });
}

/// # Safety
/// The relation and the trigger of a trigger call.
unsafe fn plan(relation: pg_sys::Relation, trigger: *mut pg_sys::Trigger) -> Option<Rc<Plan>> {
    WATCHING.call_once(|| {
        // SAFETY: a function that stays where it is.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(forget), Datum::from(0)) };
    });
    // SAFETY: valid during the call.
    let source = unsafe { (*relation).rd_id };
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&source).cloned()) {
        return plan;
    }
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
    PLANS.with_borrow_mut(|plans| plans.insert(source, plan.clone()));
    plan
}

impl Plan {
    /// # Safety
    /// The descriptor of the open source.
    unsafe fn of(source: pg_sys::TupleDesc, watch: &Watch, log: &Relation) -> Self {
        // SAFETY: both descriptors are those of open relations.
        unsafe {
            let columns = usize::try_from((*source).natts).unwrap_or_default();
            let place =
                |number: i16| usize::try_from(number - 1).ok().filter(|&place| place < columns);
            let compared = match &watch.columns {
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
            Self { log: log.oid(), row_type: RowType::described_by(source), compared, kept, blind }
        }
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
        let Some(plan) = plan(data.tg_relation, data.tg_trigger) else { return };
        let source = (*data.tg_relation).rd_id;
        match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_TRUNCATE => write(&plan, source, Kind::Any, None),
            pg_sys::TRIGGER_EVENT_UPDATE => {
                let (old, new) = (row::values(data.tg_trigslot), row::values(data.tg_newslot));
                if plan.row_type.same_in(&plan.compared, old, new) {
                    return;
                }
                if plan.blind {
                    note_once(&plan, source);
                } else if plan.keeps_same(old, new) {
                    write(&plan, source, Kind::Both, Some(new));
                } else {
                    write(&plan, source, Kind::Old, Some(old));
                    write(&plan, source, Kind::New, Some(new));
                }
            }
            _ if plan.blind => note_once(&plan, source),
            pg_sys::TRIGGER_EVENT_DELETE => {
                write(&plan, source, Kind::Old, Some(row::values(data.tg_trigslot)));
            }
            _ => write(&plan, source, Kind::New, Some(row::values(data.tg_trigslot))),
        }
    }
}

/// # Safety
/// As for `write`.
unsafe fn note_once(plan: &Plan, source: Oid) {
    // SAFETY: inside a transaction.
    let now =
        unsafe { (pg_sys::GetTopFullTransactionId().value, pg_sys::GetCurrentSubTransactionId()) };
    let noted = NOTED.with_borrow_mut(|noted| noted.insert(source, now));
    if noted != Some(now) {
        // SAFETY: passed on.
        unsafe { write(plan, source, Kind::Any, None) };
    }
}

/// # Safety
/// Inside a transaction that may write; the row is one of the source.
unsafe fn write(plan: &Plan, source: Oid, kind: Kind, row: Option<Values>) {
    // SAFETY: the row that is formed has the columns of the log, since plans are forgotten when the log
    // changes; whoever changes it holds a lock against writers of the source.
    unsafe {
        let log = pg_sys::try_table_open(plan.log, pg_sys::RowExclusiveLock as i32);
        if log.is_null() {
            return;
        }
        let descriptor = (*log).rd_att;
        let columns = usize::try_from((*descriptor).natts).unwrap_or_default();
        // Most logs have few columns: no need to allocate for those.
        let (mut few, mut none) = ([Datum::from(0); 16], [true; 16]);
        let (mut many, mut absent);
        let (datums, nulls): (&mut [Datum], &mut [bool]) = if columns <= few.len() {
            (&mut few[..columns], &mut none[..columns])
        } else {
            (many, absent) = (vec![Datum::from(0); columns], vec![true; columns]);
            (&mut many, &mut absent)
        };
        let head = [
            Datum::from(pg_sys::GetTopFullTransactionId().value),
            Datum::from(pg_sys::GetCurrentTimestamp()),
            Datum::from(kind.letter()),
        ];
        for (place, value) in head.into_iter().enumerate() {
            (datums[place], nulls[place]) = (value, false);
        }
        if let Some(row) = row {
            for (place, column) in (HEAD..columns).zip(&plan.kept) {
                if let Some(column) = *column {
                    (datums[place], nulls[place]) = (row.datums[column], row.nulls[column]);
                }
            }
        }
        let tuple = pg_sys::heap_form_tuple(descriptor, datums.as_mut_ptr(), nulls.as_mut_ptr());
        pg_sys::simple_heap_insert(log, tuple);
        pg_sys::heap_freetuple(tuple);
        pg_sys::table_close(log, pg_sys::NoLock as i32);
    }
    hooks::source_changed(source);
}
