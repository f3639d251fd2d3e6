//! The refreshes that run now.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

use crate::pg::{clock, identity, shared};

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn running_views() -> TableIterator<
    'static,
    (
        name!(view, Oid),
        name!(phase, &'static str),
        name!(rows_done, i64),
        name!(rows_expected, Option<i64>),
        name!(started_at, TimestampWithTimeZone),
        name!(pid, i32),
        name!(role, Oid),
    ),
> {
    let rows = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let running = shared::running(identity::current_database());
    let seen = running.into_iter().filter(|running| identity::may_see(running.view.into()));
    TableIterator::new(seen.map(move |running| {
        (
            Oid::from(running.view),
            running.progress.phase.as_str(),
            rows(running.progress.rows_done),
            running.progress.rows_expected.map(rows),
            clock::to_sql(running.started_at),
            running.pid,
            Oid::from(running.role),
        )
    }))
}
