//! The log of changes of a table: written by a trigger (`capture_trigger`), read by whoever wants to know
//! what a view does not show.
//!
//! One table `_cache_refresher.changes_<OID of the source>` for each source, with the columns of
//! [`Entry`] and then those of the source that somebody needs to know, named `c<number>`.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::ops::Range;

use cache_refresher_core::time::Timestamp;
use cache_refresher_core::visibility::Visibility;
use pgrx::pg_sys::{self, Datum, Oid};

use super::change_writer;
use crate::pg::relation::{self, Relation, Scan, blocks_at_least};
use crate::pg::rows::row::{self, Values};
use crate::pg::snapshot::ActiveSnapshot;

/// Columns of a log before those that it keeps of the source.
pub const HEAD: usize = 3;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was like that before.
    Old,
    /// It is like that since.
    New,
    /// It changed in columns that are not kept.
    Both,
    /// All rows went, or it was not noted which rows changed.
    Any,
}

impl ChangeKind {
    pub(super) const fn letter(self) -> u8 {
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
    pub kind: ChangeKind,
    /// Values of the kept columns.
    pub values: Values<'a>,
}

/// The name of the log of a source, in our schema.
pub fn name_of(source: Oid) -> String {
    format!("changes_{}", source.to_u32())
}

/// The log of a source, if it has one.
pub fn find(source: Oid) -> Option<Oid> {
    relation::own_table(&name_of(source))
}

/// An open log.
struct Log {
    table: Relation,
    /// Finds the blocks in which a transaction has written: the first of its rows in each has an entry. A log
    /// keeps the rows that some other view needs, and those that VACUUM has not removed yet; without an index
    /// each reader would have to pass them all.
    by_xid: Option<Relation>,
}

impl Log {
    fn open(source: Oid, lock: u32) -> Option<Self> {
        let table = Relation::open_locked(find(source)?, lock)?;
        let indexes = table.indexes().into_iter();
        let mut indexes = indexes.map(|index| Relation::open_index(index, lock));
        let by_xid = indexes.find(|index| {
            // SAFETY: an open index.
            is_by_xid(index) && unsafe { (*(*index.as_ptr()).rd_index).indisvalid }
        });
        Some(Self { table, by_xid })
    }

    /// Calls `body` with the rows that the active snapshot sees, at least all those of transactions from
    /// `from` on, until it says that it has enough.
    fn each(&self, from: u64, mut body: impl FnMut(&Scan) -> bool) {
        let runs = self.by_xid.as_ref().map(|index| {
            runs(blocks_at_least(&self.table, index, pg_sys::F_XID8GE, Datum::from(from)))
        });
        let scans: Box<dyn Iterator<Item = Scan>> = match runs {
            Some(runs) => {
                Box::new(runs.into_iter().map(|blocks| Scan::of_blocks(&self.table, blocks)))
            }
            None => Box::new(std::iter::once_with(|| Scan::begin(&self.table))),
        };
        for mut scan in scans {
            while scan.advance() {
                pgrx::check_for_interrupts!();
                if !body(&scan) {
                    return;
                }
            }
        }
    }
}

/// Blocks that follow each other, together.
fn runs(blocks: BTreeSet<u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.end == block => run.end += 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}

/// Whether an open index of a log is one of transactions, of all rows. While it is rebuilt there are two.
pub(super) fn is_by_xid(index: &Relation) -> bool {
    // SAFETY: an open index has all of this.
    unsafe {
        let index = index.as_ptr();
        let form = &*(*index).rd_index;
        (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID
            && form.indnatts == 1
            && form.indkey.values.as_slice(1)[0] == 1
            && form.indisready
            && pg_sys::RelationGetIndexPredicate(index).is_null()
    }
}

/// Locks a log as readers do, to the end of the transaction; false if somebody is changing or removing it.
pub fn try_lock(source: Oid) -> bool {
    // SAFETY: the lock is the one that readers take.
    find(source).is_none_or(|log| unsafe {
        pg_sys::ConditionalLockRelationOid(log, pg_sys::AccessShareLock as i32)
    })
}

/// Reads what the active snapshot sees of a log, at least all of transactions from `from` on, until
/// `body` says that it has enough. Nothing happens if there is no log.
pub fn read(source: Oid, from: u64, mut body: impl FnMut(Entry) -> bool) {
    let Some(log) = Log::open(source, pg_sys::AccessShareLock) else { return };
    if let Some(at) = change_writer::waiting_since(log.table.oid()) {
        let xid = change_writer::current().transaction;
        let values = Values { datums: &[], nulls: &[] };
        if !body(Entry { xid, at, kind: ChangeKind::Any, values }) {
            return;
        }
    }
    log.each(from, |row| body(entry(row.values())));
}

/// Collects values of these columns of the source from the rows of transactions that `shown` does not
/// show, copied into the present memory context, until `body` says that it has enough. False if the log
/// does not keep one of the columns.
pub fn collect(
    source: Oid,
    numbers: &[i16],
    shown: &Visibility,
    mut body: impl FnMut(ChangeKind, Vec<Option<Datum>>) -> bool,
) -> bool {
    let Some(log) = Log::open(source, pg_sys::AccessShareLock) else { return false };
    // SAFETY: the descriptor of an open relation.
    let columns = unsafe { kept_columns(log.table.descriptor()) };
    let mut places = Vec::with_capacity(numbers.len());
    for number in numbers {
        let Some(place) = columns.iter().position(|column| *column == Some(*number)) else {
            return false;
        };
        places.push(place);
    }
    if change_writer::waiting_since(log.table.oid()).is_some()
        && !body(ChangeKind::Any, vec![None; numbers.len()])
    {
        return true;
    }
    log.each(shown.earliest(), |row| {
        let Entry { xid, kind, values, .. } = entry(row.values());
        if shown.shows(xid) {
            return true;
        }
        let copy = |&place: &usize| {
            (!values.nulls[place]).then(|| {
                // SAFETY: a value of that column of the log.
                unsafe {
                    let descriptor = log.table.descriptor();
                    let attribute = &*row::attribute(descriptor, (HEAD + place) as i32);
                    row::copy_value(attribute.attbyval, attribute.attlen, values.datums[place])
                }
            })
        };
        body(kind, places.iter().map(copy).collect())
    });
    true
}

/// The size of the log of a source in blocks; 0 if there is none.
pub fn blocks(source: Oid) -> u32 {
    find(source).and_then(|log| Relation::open_locked(log, pg_sys::AccessShareLock)).map_or(
        0,
        |log| {
            // SAFETY: an open table.
            unsafe {
                pg_sys::RelationGetNumberOfBlocksInFork(
                    log.as_ptr(),
                    pg_sys::ForkNumber::MAIN_FORKNUM,
                )
            }
        },
    )
}

/// Removes the rows of transactions from `from` on of which `is_consumed` says that nobody needs them any
/// more; those that somebody else is removing are left to him.
pub fn prune(source: Oid, from: u64, is_consumed: impl Fn(u64) -> bool) {
    let Some(log) = Log::open(source, pg_sys::RowExclusiveLock) else { return };
    // Of now: the calling statement does not see what it has removed itself a moment ago.
    let _snapshot = ActiveSnapshot::take();
    log.each(from, |row| {
        if is_consumed(entry(row.values()).xid) {
            let mut id = row.id();
            let mut failure = pg_sys::TM_FailureData::default();
            // SAFETY: a row of that table that the active snapshot sees.
            unsafe {
                pg_sys::heap_delete(
                    log.table.as_ptr(),
                    id.as_mut_ptr(),
                    pg_sys::GetCurrentCommandId(true),
                    std::ptr::null_mut(),
                    false,
                    &mut failure,
                    false,
                );
            }
        }
        true
    });
}

fn entry(values: Values) -> Entry {
    let Values { datums, nulls } = values;
    Entry {
        xid: datums[0].value() as u64,
        at: Timestamp::from_pg(datums[1].value() as i64),
        kind: ChangeKind::of(datums[2].value() as u8),
        values: Values { datums: &datums[HEAD..], nulls: &nulls[HEAD..] },
    }
}

/// The numbers in the names `c<number>` of the columns of a log; nothing for one that was dropped.
///
/// # Safety
/// The descriptor of an open log.
pub(super) unsafe fn kept_columns(descriptor: pg_sys::TupleDesc) -> Vec<Option<i16>> {
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
