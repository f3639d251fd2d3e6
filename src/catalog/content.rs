//! What a view shows now: the result of its last successful refresh.

use cache_refresher_core::time::Timestamp;
use pgrx::datum::{JsonB, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;

use super::query;
use crate::error::Result;
use crate::pg::clock;

/// The last successful refresh of a view.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// Time of the snapshot that the view shows.
    pub data_as_of: Timestamp,
    /// When that refresh ended.
    pub refreshed_at: Timestamp,
    /// How long it took.
    pub duration_ms: f64,
    /// Rows in the view.
    pub rows_total: Option<i64>,
}

const COLUMNS: &str = "
SELECT data_as_of, refreshed_at, duration_ms, rows_total
  FROM _cache_refresher.content WHERE view = $1";

const SAVE: &str = "
INSERT INTO _cache_refresher.content
       (view, data_as_of, refreshed_at, duration_ms, method, rows_total, summary)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (view) DO UPDATE
   SET data_as_of = $2, refreshed_at = $3, duration_ms = $4, method = $5, rows_total = $6,
       summary = $7";

fn content(row: query::Row) -> Result<Content> {
    Ok(Content {
        data_as_of: clock::from_sql(row.required::<TimestampWithTimeZone>(1)?),
        refreshed_at: clock::from_sql(row.required::<TimestampWithTimeZone>(2)?),
        duration_ms: row.required(3)?,
        rows_total: row.optional(4)?,
    })
}

/// What the view shows, as the calling statement's snapshot sees it.
pub fn find(view: Oid) -> Result<Option<Content>> {
    Ok(query::select(COLUMNS, &[view.into()], content)?.into_iter().next())
}

/// What the view shows now.
pub fn find_current(view: Oid) -> Result<Option<Content>> {
    Ok(query::select_current(COLUMNS, &[view.into()], content)?.into_iter().next())
}

/// Stores what the view shows after a refresh, in the refresh's transaction.
pub fn save(
    view: Oid,
    content: &Content,
    method: &str,
    summary: Option<serde_json::Value>,
) -> Result<()> {
    query::execute(
        SAVE,
        &[
            view.into(),
            clock::to_sql(content.data_as_of).into(),
            clock::to_sql(content.refreshed_at).into(),
            content.duration_ms.into(),
            method.into(),
            content.rows_total.into(),
            summary.map(JsonB).into(),
        ],
    )
    .map(drop)
}
