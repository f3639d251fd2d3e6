//! Method `diff`: the view's query is run beside a scan of the view, and only the rows that differ are
//! written. Readers, VACUUM and ANALYZE go on.

use std::panic::AssertUnwindSafe;

use cache_refresher_core::diff::{Diff, Step};
use cache_refresher_core::outcome::{RowChanges, RowCounts};
use cache_refresher_core::progress::{Phase, Progress};
use pgrx::{PgSqlErrorCode, PgTryBuilder};

use super::row_order::Way;
use crate::catalog::view::{self, View};
use crate::error::{Error, Result};
use crate::pg::hooks::invalidation;
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
    let mut way = Way::believed(view.oid);
    loop {
        let memory = MemoryContext::new();
        let in_order = order.as_ref().filter(|_| way == Way::ByKey);
        let _settings = way.settings(view.owner);
        let query = memory.run(|| ViewQuery::plan(&relation, in_order));
        let otherwise = way.otherwise(&query, order.is_some());
        let streams = (query, identity.clone(), in_order);
        let found = compare(&relation, &memory, streams, otherwise.is_some(), running);
        match (found, otherwise) {
            (Some((total, changes)), _) => {
                let changes = naming_duplicates(view, || apply(&relation, changes, running));
                return Ok(RowCounts { total: signed(total), changes: Some(changes) });
            }
            (None, Some(other)) => {
                other.believe(view.oid);
                way = other;
            }
            (None, None) => {
                return Err(Error::Corrupt("a diff in order asked for order".to_owned()));
            }
        }
    }
}

/// What tells the rows of a view from each other.
pub(super) fn identity_of(view: &View) -> Result<RowIdentity> {
    Ok(RowIdentity {
        key: view.key.iter().map(|&number| column(number)).collect(),
        unique: view::unique_columns(view.oid)?.into_iter().map(column).collect(),
    })
}

/// Compares the rows of the query with those of the view, in an order if one is given. Nothing is
/// written before both are read: the query's plan may be a parallel one. Returns nothing if the two
/// come in no common order, and it may start again.
fn compare(
    relation: &Relation,
    memory: &MemoryContext,
    (query, identity, order): (ViewQuery, RowIdentity, Option<&KeyOrder>),
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
        let expected = if early { relation.estimated_rows() } else { 0 };
        Diff::natural(streams, work_mem / 2, expected)
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
