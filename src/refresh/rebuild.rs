//! Methods `full` and `concurrent`: the server's own REFRESH MATERIALIZED VIEW.

use crate::catalog::view::ViewName;
use crate::pg::statement;

/// New content under an ACCESS EXCLUSIVE lock: readers wait. Returns the rows of the view.
pub fn full(name: &ViewName) -> i64 {
    refresh(name, false)
}

/// New content is computed beside the old one, and the difference applied: readers go on.
/// Returns the rows of the view.
pub fn concurrently(name: &ViewName) -> i64 {
    refresh(name, true)
}

fn refresh(name: &ViewName, concurrently: bool) -> i64 {
    let (schema, name) = name.to_c();
    let rows = statement::refresh_materialized_view(&schema, &name, concurrently);
    i64::try_from(rows).unwrap_or(i64::MAX)
}
