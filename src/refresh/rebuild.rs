//! Methods `full` and `concurrent`: the server's own REFRESH MATERIALIZED VIEW.

use cache_refresher_core::outcome::RowCounts;

use crate::catalog::view::View;
use crate::pg::statement;

/// New content under an ACCESS EXCLUSIVE lock: readers wait. Nothing if the view's name has changed
/// under it.
pub fn full(view: &View) -> Option<RowCounts> {
    refresh(view, false)
}

/// New content is computed beside the old one, and the difference applied: readers go on. Nothing if
/// the view's name has changed under it.
pub fn concurrently(view: &View) -> Option<RowCounts> {
    refresh(view, true)
}

fn refresh(view: &View, concurrently: bool) -> Option<RowCounts> {
    let (schema, name) = view.name.to_c();
    statement::refresh_materialized_view(view.oid, &schema, &name, concurrently)
        .map(|rows| RowCounts { total: i64::try_from(rows).unwrap_or(i64::MAX), changes: None })
}
