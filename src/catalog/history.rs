//! The refresh log: one row per refresh that ran, bounded by age and by rows for each view.

use std::time::Duration;

use cache_refresher_core::outcome::{Outcome, RowCounts};
use cache_refresher_core::time::Timestamp;
use pgrx::pg_sys::Oid;

use super::query;
use super::view::ViewName;
use crate::error::Result;
use crate::pg::clock;

/// A row of the log.
#[derive(Debug)]
pub struct Entry<'a> {
    pub view: Oid,
    pub name: &'a ViewName,
    pub outcome: Outcome,
    pub started_at: Timestamp,
    pub duration: Duration,
    /// Why the refresh ran.
    pub trigger: &'a str,
    pub method: Option<&'a str>,
    /// Why this method.
    pub reason: Option<&'a str>,
    pub data_as_of: Option<Timestamp>,
    pub rows: Option<RowCounts>,
    pub summary: Option<String>,
    /// 1 for the first try.
    pub attempt: u32,
    /// On whose behalf.
    pub role: Oid,
    /// SQLSTATE and message.
    pub error: Option<(&'a str, &'a str)>,
}

const INSERT: &str = "
INSERT INTO _cache_refresher.history
       (view, view_schema, view_name, outcome, started_at, duration_ms, trigger, method, reason,
        data_as_of, rows_total, rows_inserted, rows_updated, rows_deleted, summary, attempt,
        role_name, sqlstate, message)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15::text::jsonb, $16,
        pg_get_userbyid($17), $18, $19)";

/// SKIP LOCKED: another session's open transaction may be removing the same rows, and nobody should
/// wait for that.
const PRUNE_BY_AGE: &str = "
DELETE FROM _cache_refresher.history
 WHERE id IN (SELECT id FROM _cache_refresher.history WHERE started_at < $1 FOR UPDATE SKIP LOCKED)";

const PRUNE_BY_ROWS: &str = "
DELETE FROM _cache_refresher.history
 WHERE id IN (SELECT h.id FROM _cache_refresher.history h
               WHERE h.view = $1
                 AND h.id <= (SELECT id FROM _cache_refresher.history
                               WHERE view = $1 ORDER BY id DESC OFFSET $2 LIMIT 1)
                 FOR UPDATE SKIP LOCKED)";

/// Adds a row.
pub fn insert(entry: Entry) -> Result<()> {
    let changes = entry.rows.and_then(|rows| rows.changes);
    query::execute(
        INSERT,
        &[
            entry.view.into(),
            entry.name.schema.as_str().into(),
            entry.name.name.as_str().into(),
            entry.outcome.as_str().into(),
            clock::to_sql(entry.started_at).into(),
            milliseconds(entry.duration).into(),
            entry.trigger.into(),
            entry.method.into(),
            entry.reason.into(),
            entry.data_as_of.map(clock::to_sql).into(),
            entry.rows.map(|rows| rows.total).into(),
            changes.map(|changes| changes.inserted).into(),
            changes.map(|changes| changes.updated).into(),
            changes.map(|changes| changes.deleted).into(),
            entry.summary.into(),
            i32::try_from(entry.attempt).unwrap_or(i32::MAX).into(),
            entry.role.into(),
            entry.error.map(|(sqlstate, _)| sqlstate).into(),
            entry.error.map(|(_, message)| message).into(),
        ],
    )
    .map(drop)
}

/// Removes rows of all views that started before `before`.
pub fn prune_by_age(before: Timestamp) -> Result<()> {
    query::execute(PRUNE_BY_AGE, &[clock::to_sql(before).into()]).map(drop)
}

/// Removes all but the newest `keep` rows of a view.
pub fn prune_by_rows(view: Oid, keep: i64) -> Result<()> {
    query::execute(PRUNE_BY_ROWS, &[view.into(), keep.into()]).map(drop)
}

/// A duration as it is stored and shown: milliseconds, to the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
