//! Methods `full` and `concurrent`: the server's own REFRESH MATERIALIZED VIEW.

use crate::catalog::view::View;
use crate::pg::statement;

/// New content under an ACCESS EXCLUSIVE lock: readers wait. Returns the rows of the view,
/// or nothing if its name has changed under it.
pub fn full(view: &View) -> Option<i64> {
    refresh(view, false)
}

/// New content is computed beside the old one, and the difference applied: readers go on.
/// Returns the rows of the view,
/// or nothing if its name has changed under it.
pub fn concurrently(view: &View) -> Option<i64> {
    refresh(view, true)
}

fn refresh(view: &View, concurrently: bool) -> Option<i64> {
    let (schema, name) = view.name.to_c();
    statement::refresh_materialized_view(view.oid, &schema, &name, concurrently)
        .map(|rows| i64::try_from(rows).unwrap_or(i64::MAX))
}
