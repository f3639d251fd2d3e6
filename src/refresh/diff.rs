//! Method `diff`: the view's query is run beside a scan of the view, and only the rows that differ are
//! written. Readers, VACUUM and ANALYZE go on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::panic::AssertUnwindSafe;

use cache_refresher_core::diff::{Diff, Step};
use cache_refresher_core::outcome::{RowChanges, RowCounts};
use cache_refresher_core::progress::{Phase, Progress};
use pgrx::pg_sys::Oid;
use pgrx::{PgSqlErrorCode, PgTryBuilder};

use crate::catalog::view::{self, View};
use crate::error::{Error, Result};
use crate::pg::hooks::invalidation;
use crate::pg::identity::{Restriction, Scope};
use crate::pg::memory::{self, MemoryContext};
use crate::pg::query::view_query::ViewQuery;
use crate::pg::relation::Relation;
use crate::pg::report::Caught;
use crate::pg::rows::key_order::KeyOrder;
use crate::pg::rows::row_streams::{self, PendingWrites, RowIdentity, RowStreams};
use crate::pg::rows::slot::RowId;
use crate::pg::rows::table_writer::TableWriter;
use crate::pg::shared::RunningMark;

/// Brings the view up to date with what the active snapshot sees. The caller holds ROW EXCLUSIVE on
/// the view and locks on its sources, and runs as the view's owner.
pub fn refresh(view: &View, running: &RunningMark) -> Result<RowCounts> {
    let identity = identity_of(view)?;
    let relation = Relation::open(view.oid);
    let order = view.key_index.and_then(|index| KeyOrder::open(&relation, index));
    let attempt = |order: Option<&KeyOrder>, may_start_again| {
        let memory = MemoryContext::new();
        let _sorting = order.is_some().then(|| for_sorting(view.owner));
        let query = memory.run(|| ViewQuery::plan(&relation, order));
        let identity = identity.clone();
        let found = compare(&relation, &memory, query, identity, order, may_start_again, running);
        found.map(|(total, changes)| RowCounts {
            total: signed(total),
            changes: Some(naming_duplicates(view, || apply(&relation, changes, running))),
        })
    };
    let natural = || attempt(None, order.is_some());
    let ordered = || attempt(order.as_ref(), false);
    let found = if order.is_some() && is_scattered(view.oid) { ordered() } else { natural() };
    found
        .or_else(|| {
            SCATTERED.with_borrow_mut(|views| views.insert(view.oid, BELIEVED));
            ordered()
        })
        .ok_or_else(|| Error::Corrupt("a diff in order asked for order".to_owned()))
}

/// For how many diffs it is believed that the rows of a view come scattered once they have: plans seldom change.
const BELIEVED: u8 = 7;

thread_local! {
    /// Views whose rows came scattered when this process looked last, and for how many diffs that is believed.
    static SCATTERED: RefCell<HashMap<Oid, u8>> = RefCell::default();
}

fn is_scattered(view: Oid) -> bool {
    SCATTERED.with_borrow_mut(|views| match views.get_mut(&view) {
        Some(0) => views.remove(&view).is_none(),
        Some(diffs) => {
            *diffs -= 1;
            true
        }
        None => false,
    })
}

/// What tells the rows of a view from each other.
pub(super) fn identity_of(view: &View) -> Result<RowIdentity> {
    Ok(RowIdentity {
        key: view.key.iter().map(|&number| column(number)).collect(),
        unique: view::unique_columns(view.oid)?.into_iter().map(column).collect(),
    })
}

/// In its scope the query is planned and run in an order.
///
/// To get all rows in an order by looking up the others of each in an index, and to remember what was found,
/// seems to the planner as cheap as to sort them; with a million rows it took twice as long. And a sort takes all
/// the memory that it may, beside what the query itself needs.
fn for_sorting(owner: Oid) -> Scope {
    let kilobytes =
        CString::new((memory::work_mem() / 1024 * 3 / 4).max(LEAST_WORK_MEM).to_string());
    let work_mem = kilobytes.unwrap_or_default();
    let settings = [(c"enable_memoize", c"off"), (c"work_mem", work_mem.as_c_str())];
    Scope::enter(owner, Restriction::RestrictedOperation, &settings)
}

/// The smallest setting of work_mem that the server takes, in kB.
const LEAST_WORK_MEM: usize = 64;

/// Compares the rows of the query with those of the view, in an order if one is given. Nothing is
/// written before both are read: the query's plan may be a parallel one. Returns nothing if the two
/// come in no common order, and should be compared in one.
fn compare(
    relation: &Relation,
    memory: &MemoryContext,
    query: ViewQuery,
    identity: RowIdentity,
    order: Option<&KeyOrder>,
    may_start_again: bool,
    running: &RunningMark,
) -> Option<(u64, PendingWrites)> {
    let work_mem = memory::work_mem();
    let streams = RowStreams::begin(relation, memory, identity, order, work_mem);
    let mut diff = if order.is_some() {
        Diff::ordered(streams, work_mem / 2)
    } else {
        // To run the query twice is worth it only if little of it is lost.
        let early = may_start_again && query.returns_early();
        let worth_it = if early { relation.estimated_rows() / 4 } else { 0 };
        Diff::natural(streams, work_mem / 2, worth_it)
    };
    let mut scattered = false;
    let mut meter = Meter::begin(running, Phase::Comparing, relation.estimated_rows());
    let total = memory.run(|| {
        query.run(&mut |row| {
            meter.count();
            scattered = row_streams::compare(&mut diff, &row) == Step::StartAgain;
            !scattered
        })
    });
    (!scattered).then(|| (total, diff.finish().into_changes()))
}

pub(super) fn apply(
    relation: &Relation,
    changes: PendingWrites,
    running: &RunningMark,
) -> RowChanges {
    let PendingWrites { mut deletions, mut updates, mut insertions, replaced } = changes;
    let rows = deletions.rows() + updates.rows() + insertions.rows();
    let mut meter = Meter::begin(running, Phase::Writing, rows);
    let mut writer = TableWriter::open(relation);
    while let Some((id, _)) = deletions.read() {
        meter.count();
        writer.delete(RowId::from_number(id));
    }
    while let Some((id, row)) = updates.read_row() {
        meter.count();
        writer.update(RowId::from_number(id), row);
    }
    while let Some((_, row)) = insertions.read_row() {
        meter.count();
        writer.insert(row);
    }
    writer.finish();
    RowChanges {
        inserted: signed(insertions.rows() - replaced),
        updated: signed(updates.rows() + replaced),
        deleted: signed(deletions.rows() - replaced),
    }
}

/// Counts the rows of a phase, and tells others of them now and then.
struct Meter<'a> {
    running: &'a RunningMark,
    progress: Progress,
}

/// Telling others takes a lock in shared memory; the first rows are told of more often, for those that
/// come slowly.
const TELL_EVERY: u64 = 4096;

impl<'a> Meter<'a> {
    fn begin(running: &'a RunningMark, phase: Phase, rows_expected: u64) -> Self {
        let progress = Progress::begin(phase, Some(rows_expected));
        running.report(progress);
        Self { running, progress }
    }

    fn count(&mut self) {
        self.progress.rows_done += 1;
        let done = self.progress.rows_done;
        if done.is_multiple_of(TELL_EVERY) || (done < TELL_EVERY && done.is_power_of_two()) {
            self.running.report(self.progress);
            // Before there are more messages than the server keeps.
            invalidation::hear();
        }
    }
}

/// Only an index notices that the query returns a key twice, and its error does not say of which view.
pub(super) fn naming_duplicates<R>(view: &View, body: impl FnOnce() -> R) -> R {
    let name = view.name.to_string();
    PgTryBuilder::new(AssertUnwindSafe(body))
        .catch_when(PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION, move |error| {
            Error::DuplicateKey { name: name.clone(), caught: Caught::from(&error) }.raise()
        })
        .execute()
}

/// Attribute numbers count from 1.
fn column(number: i16) -> usize {
    usize::try_from(number - 1).unwrap_or_default()
}

pub(super) fn signed(rows: u64) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
