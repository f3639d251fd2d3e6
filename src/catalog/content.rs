//! What a view shows now: the result of its last successful refresh.

use cache_refresher_core::time::Timestamp;
use pgrx::pg_sys::Oid;

use super::proof::Basis;
use super::query;
use crate::error::Result;
use crate::pg::clock;

/// The last successful refresh of a view.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// Time of the snapshot under which the view was refreshed.
    pub snapshot_at: Timestamp,
    /// Time whose data the view shows: that of the snapshot, or of the oldest view that it reads.
    /// Nothing if that is not known of one of them.
    pub data_as_of: Option<Timestamp>,
    /// When that refresh ended.
    pub refreshed_at: Timestamp,
    /// How long it took.
    pub duration_ms: f64,
    /// Rows in the view.
    pub rows_total: Option<i64>,
}

/// The columns of a content, in the order in which [`content`] reads them.
macro_rules! content_columns {
    () => {
        "snapshot_at, data_as_of, refreshed_at, duration_ms, rows_total"
    };
}
pub(super) use content_columns;

const FIND: &str =
    concat!("SELECT ", content_columns!(), " FROM _cache_refresher.content WHERE view = $1");

const SAVE: &str = "
INSERT INTO _cache_refresher.content
       (view, data_as_of, refreshed_at, duration_ms, method, rows_total, summary, snapshot_at,
        shown, fingerprint)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9::text::pg_snapshot, $10)
ON CONFLICT (view) DO UPDATE
   SET data_as_of = $2, refreshed_at = $3, duration_ms = $4, method = $5, rows_total = $6,
       summary = $7::text::jsonb, snapshot_at = $8, shown = $9::text::pg_snapshot, fingerprint = $10";

const OLDEST: &str = "
SELECT CASE WHEN bool_and(k.data_as_of IS NOT NULL) THEN min(k.data_as_of) END, count(*)
  FROM unnest($1) AS parent LEFT JOIN _cache_refresher.content k ON k.view = parent";

pub(super) fn content(row: &query::Row) -> Result<Content> {
    Ok(Content {
        snapshot_at: row.required_time(1)?,
        data_as_of: row.optional_time(2)?,
        refreshed_at: row.required_time(3)?,
        duration_ms: row.required(4)?,
        rows_total: row.optional(5)?,
    })
}

/// What the view shows, as the calling statement's snapshot sees it.
pub fn find(view: Oid) -> Result<Option<Content>> {
    Ok(query::select(FIND, &[view.into()], |row| content(&row))?.into_iter().next())
}

/// What the view shows now.
pub fn find_current(view: Oid) -> Result<Option<Content>> {
    Ok(query::select_current(FIND, &[view.into()], |row| content(&row))?.into_iter().next())
}

/// Time whose data a view shows that is refreshed at `snapshot_at` and reads these materialized views.
pub fn data_as_of(snapshot_at: Timestamp, parents: Vec<Oid>) -> Result<Option<Timestamp>> {
    if parents.is_empty() {
        return Ok(Some(snapshot_at));
    }
    let rows = query::select_current(OLDEST, &[parents.into()], |row| row.optional_time(1))?;
    Ok(rows.into_iter().next().flatten().map(|oldest| oldest.min(snapshot_at)))
}

/// Stores what the view shows after a refresh, in the refresh's transaction.
pub fn save(
    view: Oid,
    content: &Content,
    basis: &Basis,
    method: &str,
    summary: Option<String>,
) -> Result<()> {
    query::execute(
        SAVE,
        &[
            view.into(),
            content.data_as_of.map(clock::to_sql).into(),
            clock::to_sql(content.refreshed_at).into(),
            content.duration_ms.into(),
            method.into(),
            content.rows_total.into(),
            summary.into(),
            clock::to_sql(content.snapshot_at).into(),
            basis.shown.to_string().into(),
            basis.fingerprint.as_deref().into(),
        ],
    )
    .map(drop)
}

const SET_ROWS: &str = "UPDATE _cache_refresher.content SET rows_total = $2 WHERE view = $1";

/// Stores how many rows a view has, whatever it shows.
pub fn set_rows(view: Oid, total: i64) -> Result<()> {
    query::execute(SET_ROWS, &[view.into(), total.into()]).map(drop)
}
