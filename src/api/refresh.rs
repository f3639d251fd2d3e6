//! `refresh` and its kin, `explain`, and what the two functions for existing callers need.

use std::time::Duration;

use cache_refresher_core::method::Requested;
use cache_refresher_core::order;
use cache_refresher_core::outcome::Outcome;
use pgrx::datum::{AnyArray, Interval, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::capture;
use crate::catalog::view::{self, View};
use crate::catalog::{binding, history::milliseconds, registry};
use crate::error::{Error, Result};
use crate::guc::{self, RefreshSettings};
use crate::pg::{clock, report, shared, snapshot, transaction};
use crate::refresh::session::{self, Answer};
use crate::refresh::{explain as methods, keys as partial, privilege};

/// A row of `cache_refresher.refresh_result`. The functions below spell it out once more, since pgrx
/// does not look through an alias.
type Row = (
    Oid,
    &'static str,
    Option<&'static str>,
    Option<String>,
    Option<f64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<TimestampWithTimeZone>,
);

/// Says that a view does not show everything.
#[pg_extern(sql = false)]
fn invalidate(view: Option<Oid>) -> std::result::Result<(), ErrorReport> {
    let view = super::view(view)?;
    privilege::require_refresh(&view)?;
    snapshot::require_writable("invalidate a materialized view")?;
    capture::invalidate(view.oid)?;
    Ok(())
}

/// Refreshes the rows with these keys.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn invalidate_keys(
    view: Option<Oid>,
    keys: Option<AnyArray>,
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(view, Oid),
            name!(outcome, &'static str),
            name!(method, Option<&'static str>),
            name!(reason, Option<String>),
            name!(duration_ms, Option<f64>),
            name!(rows_total, Option<i64>),
            name!(rows_inserted, Option<i64>),
            name!(rows_updated, Option<i64>),
            name!(rows_deleted, Option<i64>),
            name!(data_as_of, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    let view = view.ok_or(Error::NullArgument { argument: "view" })?;
    let keys = keys.ok_or(Error::NullArgument { argument: "keys" })?;
    let answer = partial::refresh(view, &keys, &guc::refresh_settings())?;
    Ok(TableIterator::once(row(answer)))
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn refresh(
    view: Option<Oid>,
    method: Option<String>,
    max_age: Option<Interval>,
    cascade: Option<bool>,
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(view, Oid),
            name!(outcome, &'static str),
            name!(method, Option<&'static str>),
            name!(reason, Option<String>),
            name!(duration_ms, Option<f64>),
            name!(rows_total, Option<i64>),
            name!(rows_inserted, Option<i64>),
            name!(rows_updated, Option<i64>),
            name!(rows_deleted, Option<i64>),
            name!(data_as_of, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    let view = view.ok_or(Error::NullArgument { argument: "view" })?;
    let first = refresh_one(view, method.clone(), max_age)?;
    let mut rows = vec![first];
    if cascade.unwrap_or(false) {
        rows.extend(refresh_readers(view, method, max_age)?);
    }
    Ok(TableIterator::new(rows))
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn refresh_together(
    views: Option<Vec<Option<Oid>>>,
    method: Option<String>,
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(view, Oid),
            name!(outcome, &'static str),
            name!(method, Option<&'static str>),
            name!(reason, Option<String>),
            name!(duration_ms, Option<f64>),
            name!(rows_total, Option<i64>),
            name!(rows_inserted, Option<i64>),
            name!(rows_updated, Option<i64>),
            name!(rows_deleted, Option<i64>),
            name!(data_as_of, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    let views = views.ok_or(Error::NullArgument { argument: "views" })?;
    let ids: Option<Vec<u32>> = views.iter().map(|view| view.map(Oid::to_u32)).collect();
    let ids = ids.ok_or(Error::NullArgument { argument: "views" })?;
    let ordered: Vec<Oid> =
        order::refresh_order(&ids, &view::reads_of(&ids)?).into_iter().map(Oid::from).collect();
    let answers =
        session::refresh_together(&ordered, requested(method)?, &guc::refresh_settings())?;
    Ok(TableIterator::new(answers.into_iter().map(row)))
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn explain(
    view: Option<Oid>,
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(method, &'static str),
            name!(possible, bool),
            name!(chosen, bool),
            name!(reason, String),
            name!(remedy, Option<String>),
        ),
    >,
    ErrorReport,
> {
    let view = super::view(view)?;
    privilege::require_see(&view)?;
    let rows = methods::rows(&view, &guc::refresh_settings())?;
    Ok(TableIterator::new(
        rows.into_iter().map(|row| (row.method, row.possible, row.chosen, row.reason, row.remedy)),
    ))
}

#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn refresh_all(
    method: Option<String>,
    max_age: Option<Interval>,
) -> std::result::Result<
    TableIterator<
        'static,
        (
            name!(view, Oid),
            name!(outcome, &'static str),
            name!(method, Option<&'static str>),
            name!(reason, Option<String>),
            name!(duration_ms, Option<f64>),
            name!(rows_total, Option<i64>),
            name!(rows_inserted, Option<i64>),
            name!(rows_updated, Option<i64>),
            name!(rows_deleted, Option<i64>),
            name!(data_as_of, Option<TimestampWithTimeZone>),
        ),
    >,
    ErrorReport,
> {
    Ok(TableIterator::new(all(method, max_age)?))
}

/// A view by its bare name, as the caller's search_path finds it.
#[pg_extern(sql = false)]
fn view_named(name: &str) -> std::result::Result<Oid, ErrorReport> {
    let oid = super::relation_named(name)?;
    Ok(oid.ok_or_else(|| Error::NoSuchView { name: name.to_owned() })?)
}

fn refresh_one(view: Oid, method: Option<String>, max_age: Option<Interval>) -> Result<Row> {
    let method = requested(method)?;
    let max_age = max_age.map(|age| clock::from_interval("max_age", &age)).transpose()?;
    session::refresh(view, method, max_age, &guc::refresh_settings()).map(row)
}

/// Every registered view that the caller may refresh.
fn all(method: Option<String>, max_age: Option<Interval>) -> Result<Vec<Row>> {
    let method = requested(method)?;
    let max_age = max_age.map(|age| clock::from_interval("max_age", &age)).transpose()?;
    session::prepare_transaction()?;
    binding::reconcile_own()?;
    let registered: Vec<u32> =
        registry::all()?.into_iter().flatten().map(|entry| entry.view).collect();
    each(&registered, &view::reads()?, method, max_age)
}

/// The registered views that read a view that was just refreshed, directly or through others.
fn refresh_readers(
    view: Oid,
    method: Option<String>,
    max_age: Option<Interval>,
) -> Result<Vec<Row>> {
    let method = requested(method)?;
    let max_age = max_age.map(|age| clock::from_interval("max_age", &age)).transpose()?;
    binding::reconcile_own()?;
    let reads = view::reads()?;
    each(&order::readers(view.to_u32(), &reads), &reads, method, max_age)
}

/// Those of the views that the caller may refresh, parents before children. Each in a
/// subtransaction: one that fails is reported, and the others go on.
fn each(
    views: &[u32],
    reads: &[(u32, u32)],
    method: Option<Requested>,
    max_age: Option<Duration>,
) -> Result<Vec<Row>> {
    let settings = guc::refresh_settings();
    let mut rows = Vec::new();
    for view in order::refresh_order(views, reads) {
        let oid = Oid::from(view);
        let answer = transaction::run_nested(|| {
            one_of_many(oid, method, max_age, &settings).unwrap_or_else(|error| error.raise())
        });
        rows.push(match answer {
            Ok(None) => continue,
            Ok(Some(answer)) => row(answer),
            Err(caught) => {
                let cancelled = caught.is_cancel();
                // Whoever cancels one view does not mean the others.
                if cancelled && !shared::take_cancelled(view) {
                    caught.rethrow();
                }
                let name =
                    View::find(oid).map_or_else(|_| view.to_string(), |view| view.name.to_string());
                let message = format!("refresh of {name} failed: {}", caught.message);
                report::warn(&message, caught.hint.as_deref());
                let outcome = if cancelled { Outcome::Cancelled } else { Outcome::Failed };
                failed_row(oid, outcome, caught.message)
            }
        });
    }
    Ok(rows)
}

/// Refreshes one of several views; nothing if the caller may not, or if somebody has dropped it meanwhile.
fn one_of_many(
    view: Oid,
    method: Option<Requested>,
    max_age: Option<Duration>,
    settings: &RefreshSettings,
) -> Result<Option<Answer>> {
    let found = match View::find(view) {
        Err(Error::NoSuchRelation { .. }) => return Ok(None),
        found => found?,
    };
    if !privilege::may_refresh(&found)? {
        return Ok(None);
    }
    session::refresh(view, method, max_age, settings).map(Some)
}

fn requested(method: Option<String>) -> Result<Option<Requested>> {
    Ok(method.map(|method| method.parse()).transpose()?)
}

fn row(answer: Answer) -> Row {
    (
        answer.view,
        answer.outcome.as_str(),
        answer.method.map(|method| method.as_str()),
        Some(answer.reason),
        answer.duration.map(milliseconds),
        answer.rows_total,
        answer.changes.map(|changes| changes.inserted),
        answer.changes.map(|changes| changes.updated),
        answer.changes.map(|changes| changes.deleted),
        answer.data_as_of.map(clock::to_sql),
    )
}

fn failed_row(view: Oid, outcome: Outcome, message: String) -> Row {
    (view, outcome.as_str(), None, Some(message), None, None, None, None, None, None)
}
