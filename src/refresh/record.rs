//! What a refresh leaves behind: content, attempts, a row of history, a notification, a line in the
//! server log.

use std::time::Duration;

use cache_refresher_core::duration;
use cache_refresher_core::method::Method;
use cache_refresher_core::notification::Notification;
use cache_refresher_core::outcome::{Outcome, RowChanges, RowCounts};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{History, Verdict};
use pgrx::pg_sys::Oid;

use super::session::Answer;
use super::{Done, Request};
use crate::capture;
use crate::catalog::content::{self, Content};
use crate::catalog::history::{self, Entry, milliseconds};
use crate::catalog::view::{View, ViewName};
use crate::catalog::{self, attempts, binding, query};
use crate::error::Result;
use crate::guc::{RefreshSettings, Retention};
use crate::pg::{clock, report};

/// At every so many refreshes of a view what has outlived its time is removed, since looking costs.
const PRUNE_EVERY: i64 = 16;
/// The rows of a view may exceed `log_max_rows` by one part in so many before the oldest are removed, since to
/// find those among many costs more.
const EXCESS: i64 = 16;
/// At every so many refreshes of a view the oldest rows are looked for in any case, however many are kept.
const COUNT_EVERY: i64 = 128;

const NOTIFY: &str = "SELECT pg_notify('cache_refresher', $1)";

/// Records a refresh in its own transaction.
pub fn success(
    done: &Done,
    request: Request,
    before: &History,
    after: &History,
    settings: &RefreshSettings,
) -> Result<()> {
    if done.outcome() == Outcome::Skipped {
        // A row for each would drown those that tell something.
        return attempts::save(done.view.oid, after, Outcome::Skipped, None).map(drop);
    }
    let shown = Content {
        snapshot_at: done.snapshot_at,
        data_as_of: done.data_as_of,
        refreshed_at: done.started_at.plus(done.duration),
        duration_ms: milliseconds(done.duration),
        rows_total: Some(done.rows.total),
    };
    content::save(done.view.oid, &shown, &done.basis, done.method.as_str(), done.summary.clone())?;
    let tries = attempts::save(done.view.oid, after, Outcome::Refreshed, None)?;
    if done.captured {
        capture::settle(done.view.oid, &done.basis.shown, done.shown_before.as_ref())?;
    } else {
        catalog::proof::settle(done.view.oid, &done.basis.shown)?;
    }
    history::insert(Entry {
        view: done.view.oid,
        name: &done.view.name,
        outcome: Outcome::Refreshed,
        started_at: done.started_at,
        duration: done.duration,
        trigger: request.trigger,
        method: Some(done.method.as_str()),
        reason: Some(&done.reason),
        data_as_of: done.data_as_of,
        rows: Some(done.rows),
        summary: done.summary.clone(),
        attempt: before.attempt + 1,
        role: request.role,
        error: None,
    })?;
    prune(done.view.oid, Some(tries), settings.retention)?;
    if settings.notify {
        notify(&done.view.name, (done.method, done.duration), done.rows.total, done.data_as_of)?;
    }
    Ok(())
}

/// Records a refresh of some rows only, which leaves everything else that is known of the view as it was.
pub fn partial(
    view: &View,
    answer: &Answer,
    rows: RowCounts,
    (started_at, duration): (Timestamp, Duration),
    request: Request,
    settings: &RefreshSettings,
) -> Result<()> {
    content::set_rows(view.oid, rows.total)?;
    if rows.brings_new() {
        attempts::note_new_rows(view.oid, started_at.plus(duration))?;
    }
    history::insert(Entry {
        view: view.oid,
        name: &view.name,
        outcome: answer.outcome,
        started_at,
        duration,
        trigger: request.trigger,
        method: Some(Method::Delta.as_str()),
        reason: Some(&answer.reason),
        data_as_of: answer.data_as_of,
        rows: Some(rows),
        summary: None,
        attempt: 1,
        role: request.role,
        error: None,
    })?;
    prune(view.oid, None, settings.retention)?;
    if settings.notify {
        notify(&view.name, (Method::Delta, duration), rows.total, answer.data_as_of)?;
    }
    Ok(())
}

fn notify(
    view: &ViewName,
    (method, duration): (Method, Duration),
    rows: i64,
    data_as_of: Option<Timestamp>,
) -> Result<()> {
    let payload = Notification {
        view: &view.to_string(),
        outcome: Outcome::Refreshed.as_str(),
        method: method.as_str(),
        duration_ms: milliseconds(duration),
        rows: Some(rows),
        data_as_of: data_as_of.map(|at| at.to_rfc3339_millis()),
    }
    .to_payload();
    query::execute(NOTIFY, &[payload.into()]).map(drop)
}

/// A refresh that ended without new content.
pub struct Failure<'a> {
    pub view: Oid,
    pub name: &'a ViewName,
    pub trigger: &'a str,
    pub role: Oid,
    pub outcome: Outcome,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub attempt: u32,
    pub sqlstate: &'a str,
    pub message: &'a str,
}

/// Records a failure, in a transaction of its own. `after` is `None` where attempts are not kept.
pub fn failure(failure: &Failure, after: Option<&History>, retention: Retention) -> Result<()> {
    let error = (failure.sqlstate, failure.message);
    let tries = after
        .map(|after| attempts::save(failure.view, after, failure.outcome, Some(error)))
        .transpose()?;
    history::insert(Entry {
        view: failure.view,
        name: failure.name,
        outcome: failure.outcome,
        started_at: failure.started_at,
        duration: failure.finished_at.since(failure.started_at),
        trigger: failure.trigger,
        method: None,
        reason: None,
        data_as_of: None,
        rows: None,
        summary: None,
        attempt: failure.attempt,
        role: failure.role,
        error: Some(error),
    })?;
    prune(failure.view, tries, retention)
}

/// Removes what is too much, if it is the turn of that: by the number of attempts, or by lot where they are not
/// counted.
fn prune(view: Oid, tries: Option<i64>, retention: Retention) -> Result<()> {
    let turn = tries.unwrap_or_else(|| clock::now().as_pg());
    let count_every = (retention.rows / EXCESS).clamp(1, COUNT_EVERY);
    if retention.rows > 0 && turn.rem_euclid(count_every) == 0 {
        history::prune_by_rows(view, retention.rows)?;
    }
    if turn.rem_euclid(PRUNE_EVERY) == 0 {
        binding::forget_dropped()?;
        prune_by_age(retention)?;
    }
    Ok(())
}

/// Removes the history that has outlived its time.
pub fn prune_by_age(retention: Retention) -> Result<()> {
    if retention.age.is_zero() {
        return Ok(());
    }
    history::prune_by_age(clock::now().minus(retention.age))
}

/// The server-log line of a refresh.
pub fn log_success(done: &Done, settings: &RefreshSettings) {
    if done.outcome() == Outcome::Skipped {
        return;
    }
    if settings.log_min_duration.is_some_and(|least| done.duration >= least) {
        report::log(
            &format!(
                "cache_refresher: refreshed {} with {} in {:.1} ms, {} {}{}",
                done.view.name,
                done.method.as_str(),
                milliseconds(done.duration),
                done.rows.total,
                if done.rows.total == 1 { "row" } else { "rows" },
                done.rows.changes.map(written).unwrap_or_default(),
            ),
            None,
            None,
        );
    }
}

/// The server-log line of a failure that the scheduler goes on from.
pub fn log_failure(failure: &Failure, max_retries: u32, verdict: Option<&Verdict>, now: Timestamp) {
    let Failure { name, attempt, message, sqlstate, .. } = failure;
    if failure.outcome == Outcome::Cancelled {
        let detail = format!("SQLSTATE {sqlstate}.");
        let message = format!("cache_refresher: refresh of {name} was cancelled: {message}");
        report::log(&message, Some(&detail), None);
        return;
    }
    let next = match verdict {
        Some(Verdict::RetryAt(at)) => format!("next try in {}", rounded(at.since(now))),
        Some(Verdict::WaitForSlot(Some(at))) => {
            format!("next try at its due time, in {}", rounded(at.since(now)))
        }
        Some(Verdict::WaitForSlot(None)) | None => "no further try is scheduled".to_owned(),
        Some(Verdict::Suspended) => "it is suspended".to_owned(),
    };
    report::log(
        &format!(
            "cache_refresher: refresh of {name} failed (attempt {attempt} of {}): {message}",
            max_retries + 1
        ),
        Some(&format!("SQLSTATE {sqlstate}; {next}.")),
        None,
    );
    if matches!(verdict, Some(Verdict::Suspended)) {
        report::log(
            &format!("cache_refresher: {name} is suspended, all its retries have failed"),
            None,
            Some("Mend the cause, then call cache_refresher.resume or cache_refresher.refresh."),
        );
    }
}

/// What was written, as the end of a line.
fn written(changes: RowChanges) -> String {
    let RowChanges { inserted, updated, deleted } = changes;
    format!(" ({inserted} inserted, {updated} updated, {deleted} deleted)")
}

/// To the millisecond: what a person wants to read.
fn rounded(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    duration::format(Duration::from_millis(millis))
}
