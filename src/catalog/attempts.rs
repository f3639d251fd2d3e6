//! How refreshing a view has gone: the input of the next scheduling decision, and totals.

use cache_refresher_core::outcome::Outcome;
use cache_refresher_core::pace::{Pace, PaceReason};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::History;
use pgrx::datum::Interval;
use pgrx::pg_sys::Oid;

use super::query::{self, Row};
use crate::error::Result;
use crate::pg::clock;

/// The columns of a history, in the order in which [`history`] reads them.
macro_rules! history_columns {
    () => {
        "last_started_at, last_finished_at, retry_at, attempt, failed_rounds, consecutive_failures,
       suspended, failing_since, changed_at, pace, pace_reason"
    };
}
pub(super) use history_columns;

const FIND: &str =
    concat!("SELECT ", history_columns!(), " FROM _cache_refresher.attempts WHERE view = $1");

const SAVE: &str = "
INSERT INTO _cache_refresher.attempts AS a
       (view, last_started_at, last_finished_at, retry_at, attempt, failed_rounds,
        consecutive_failures, suspended, refreshes, failures, cancellations,
        error_sqlstate, error_message, failing_since, changed_at, skips, skipped_at, pace, pace_reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
        CASE WHEN $16 = 1 THEN $3 END, $17, $18)
ON CONFLICT (view) DO UPDATE
   SET last_started_at = $2, last_finished_at = $3, retry_at = $4, attempt = $5,
       failed_rounds = $6, consecutive_failures = $7, suspended = $8,
       failing_since = $14, changed_at = $15, pace = $17, pace_reason = $18,
       refreshes = a.refreshes + $9, failures = a.failures + $10,
       cancellations = a.cancellations + $11, skips = a.skips + $16,
       skipped_at = CASE WHEN $16 = 1 THEN $3 ELSE a.skipped_at END,
       error_sqlstate = CASE WHEN $9 + $16 > 0 THEN NULL ELSE coalesce($12, a.error_sqlstate) END,
       error_message = CASE WHEN $9 + $16 > 0 THEN NULL ELSE coalesce($13, a.error_message) END
RETURNING a.refreshes + a.failures + a.cancellations";

const RESUME: &str = "
UPDATE _cache_refresher.attempts
   SET retry_at = NULL, attempt = 0, failed_rounds = 0, consecutive_failures = 0, suspended = false,
       failing_since = NULL
 WHERE view = $1";

/// What a refresh that is under way is about to write stays.
const FORGET: &str = "
DELETE FROM _cache_refresher.attempts
 WHERE view IN (SELECT a.view FROM _cache_refresher.attempts a WHERE a.view = $1 FOR UPDATE SKIP LOCKED)";

/// Forgets how refreshing a view has gone: it begins anew.
pub fn forget(view: Oid) -> Result<()> {
    query::execute(FORGET, &[view.into()]).map(drop)
}

/// The eleven columns of a history, from `first` on; a row that is missing reads as never tried.
pub fn history(row: &Row, first: usize) -> Result<History> {
    let count = |column| -> Result<u32> {
        Ok(row.optional::<i32>(column)?.and_then(|count| count.try_into().ok()).unwrap_or(0))
    };
    Ok(History {
        last_started: row.optional_time(first)?,
        last_finished: row.optional_time(first + 1)?,
        retry_at: row.optional_time(first + 2)?,
        attempt: count(first + 3)?,
        failed_rounds: count(first + 4)?,
        consecutive_failures: count(first + 5)?,
        suspended: row.optional(first + 6)?.unwrap_or(false),
        failing_since: row.optional_time(first + 7)?,
        changed_at: row.optional_time(first + 8)?,
        pace: pace(row.optional(first + 9)?, row.optional(first + 10)?),
    })
}

/// What is not understood is as good as nothing: the interval begins to adapt again.
fn pace(interval: Option<Interval>, reason: Option<String>) -> Option<Pace> {
    let reason = reason.as_deref().and_then(PaceReason::parse);
    let interval = interval.and_then(|interval| clock::from_interval("pace", &interval).ok());
    interval.zip(reason).map(|(interval, reason)| Pace { interval, reason })
}

/// How refreshing a view has gone so far.
pub fn find(view: Oid) -> Result<History> {
    let rows = query::select_current(FIND, &[view.into()], |row| history(&row, 1))?;
    Ok(rows.into_iter().next().unwrap_or_default())
}

/// Stores the history after an attempt that ended with `outcome`, and counts it. `error` is SQLSTATE
/// and message. Returns how many attempts there have been.
pub fn save(
    view: Oid,
    history: &History,
    outcome: Outcome,
    error: Option<(&str, &str)>,
) -> Result<i64> {
    let time = |at: Option<Timestamp>| at.map(clock::to_sql);
    let count = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let counts = |counted: Outcome| i64::from(outcome == counted);
    let rows = query::returning(
        SAVE,
        &[
            view.into(),
            time(history.last_started).into(),
            time(history.last_finished).into(),
            time(history.retry_at).into(),
            count(history.attempt).into(),
            count(history.failed_rounds).into(),
            count(history.consecutive_failures).into(),
            history.suspended.into(),
            counts(Outcome::Refreshed).into(),
            counts(Outcome::Failed).into(),
            counts(Outcome::Cancelled).into(),
            error.map(|(sqlstate, _)| sqlstate).into(),
            error.map(|(_, message)| message).into(),
            time(history.failing_since).into(),
            time(history.changed_at).into(),
            counts(Outcome::Skipped).into(),
            history.pace.map(|pace| clock::to_interval(pace.interval)).into(),
            history.pace.map(|pace| pace.reason.as_str()).into(),
        ],
        |row| row.required(1),
    )?;
    Ok(rows.into_iter().next().unwrap_or(0))
}

/// Forgets failures, so that the view is due by its schedule again.
pub fn resume(view: Oid) -> Result<()> {
    query::execute(RESUME, &[view.into()]).map(drop)
}

const NOTE_NEW_ROWS: &str = "
INSERT INTO _cache_refresher.attempts (view, changed_at) VALUES ($1, $2)
ON CONFLICT (view) DO UPDATE SET changed_at = $2";

/// Stores when a view got new rows, for those that read it.
pub fn note_new_rows(view: Oid, at: Timestamp) -> Result<()> {
    query::execute(NOTE_NEW_ROWS, &[view.into(), clock::to_sql(at).into()]).map(drop)
}
