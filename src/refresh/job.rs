//! A refresh that a scheduler has handed to this worker.

use std::cell::Cell;

use cache_refresher_core::outcome::Outcome;
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{self, History, Verdict, Why};
use pgrx::PgSqlErrorCode as Code;
use pgrx::pg_sys::Oid;

use super::{Done, Request, policy, record, run, statistics};
use crate::capture::{self, install};
use crate::catalog::attempts;
use crate::catalog::content::{self, Content};
use crate::catalog::registry::{self, Registration};
use crate::catalog::view::{self, View};
use crate::error::{Error, Result};
use crate::guc::RefreshSettings;
use crate::pg::hooks::announcements;
use crate::pg::lock::{self, RefreshLock};
use crate::pg::process::{background_worker, deadline, signals};
use crate::pg::report::{self, Caught};
use crate::pg::shared::{Job, Report};
use crate::pg::{clock, identity, relation, transaction};

/// What became of the job inside its transaction.
enum End {
    Refreshed(Box<Done>, History),
    /// Somebody has refreshed the view since the job was due.
    NotNeeded(History),
    Busy,
    Gone,
}

/// What is known before anything can fail.
struct Known {
    registration: Registration,
    history: History,
    owner: Oid,
}

/// Runs a job: one transaction for the refresh, and if that fails a second one for the record.
pub fn execute(job: Job, settings: &RefreshSettings) -> Report {
    let started_at = clock::now();
    let known = Cell::new(None);
    let foreign = Cell::new(false);
    let end = transaction::run(|| {
        refresh(job, settings, &known, &foreign).unwrap_or_else(|error| error.raise())
    });
    let report = match end {
        Ok(End::Refreshed(done, history)) => {
            record::log_success(&done, settings);
            statistics::renew(&done);
            complete_capture(&done);
            Report::Ended(history)
        }
        Ok(End::NotNeeded(history)) => Report::Ended(history),
        Ok(End::Busy) => Report::Busy,
        Ok(End::Gone) => Report::Gone,
        Err(caught) => match known.take() {
            Some(known) => Report::Ended(failed(job, &known, started_at, &caught, settings)),
            // The view, our table or our schema: somebody has dropped it.
            None if matches!(
                caught.code,
                Code::ERRCODE_UNDEFINED_TABLE | Code::ERRCODE_INVALID_SCHEMA_NAME
            ) =>
            {
                Report::Gone
            }
            None => {
                report::log(
                    &format!("cache_refresher: cannot start a refresh: {}", caught.message),
                    Some(&format!("View with OID {}, SQLSTATE {}.", job.view, caught.sqlstate())),
                    caught.hint.as_deref(),
                );
                Report::Busy
            }
        },
    };
    if foreign.get() {
        disconnect();
    }
    // What a view's own functions have locked for the session is not for the views after it.
    lock::release_advisory();
    background_worker::report_activity("");
    background_worker::report_statistics();
    report
}

/// How often to try again where somebody writes.
const COMPLETED_AGAIN: u32 = 4;

/// Makes what is missing of the capture that a view needs: after a restore, with new partitions, or
/// where somebody has removed a trigger. In a transaction of its own, since it takes stronger locks;
/// what was changed before is shown by one more refresh.
fn complete_capture(done: &Done) {
    if !done.captured || done.basis.fingerprint.is_some() {
        return;
    }
    let complete =
        || transaction::run(|| complete(&done.view).unwrap_or_else(|error| error.raise()));
    let locked = |caught: &Caught| caught.code == Code::ERRCODE_LOCK_NOT_AVAILABLE;
    let mut completed = complete();
    for _ in 0..COMPLETED_AGAIN {
        if completed.as_ref().is_err_and(locked) {
            completed = complete();
        }
    }
    if let Err(caught) = completed
        && !relation::is_gone(done.view.oid)
    {
        let view = &done.view.name;
        let message =
            format!("cache_refresher: cannot capture all changes for {view}: {}", caught.message);
        let detail = format!("SQLSTATE {}.", caught.sqlstate());
        report::log(&message, Some(&detail), caught.hint.as_deref());
    }
}

fn complete(view: &View) -> Result<()> {
    if install::is_incomplete(view.oid)? {
        install::ensure(view)?;
        capture::invalidate(view.oid)?;
        announcements::registry_changed();
    }
    Ok(())
}

fn refresh(
    job: Job,
    settings: &RefreshSettings,
    known: &Cell<Option<Known>>,
    foreign: &Cell<bool>,
) -> Result<End> {
    let oid = Oid::from(job.view);
    let Some(_lock) = RefreshLock::try_acquire(registry::oid()?, oid) else {
        return Ok(End::Busy);
    };
    // One that was paused after the job was handed over is none of ours, either: the scheduler looks again.
    let Some(registration) = Registration::find(oid)?.filter(|found| !found.paused) else {
        return Ok(End::Gone);
    };
    let history = attempts::find(oid)?;
    let shown = content::find_current(oid)?;
    let now = clock::now();
    let believable = |content: &Content| content.snapshot_at <= now;
    // A change may have been committed after a snapshot that was taken after it was made.
    let timed = job.why != Why::Change;
    if timed && shown.filter(believable).is_some_and(|content| content.snapshot_at >= job.due_at) {
        return Ok(End::NotNeeded(history));
    }
    background_worker::report_activity(&format!("refresh of {}", registration.name));
    let owner = View::find(oid)?.owner;
    if owner.to_u32() != job.owner {
        // It has got another owner: for him there is another worker.
        return Ok(End::Gone);
    }
    known.set(Some(Known { registration: registration.clone(), history, owner }));
    let request = Request { trigger: job.why.as_str(), method: None, role: owner };
    identity::act_for(owner);
    let view = (oid, &registration.name);
    let done = run(view, Some(&registration), request, settings, |reads| foreign.set(reads))?;
    let finished_at = done.started_at.plus(done.duration);
    let mut after =
        view_state::after_success(&history, done.started_at, finished_at, done.rows.brings_new());
    // Only what was due by the interval tells whether that was right.
    if job.why == Why::Interval
        && let Ok(policy) = policy::of(&registration, &settings.intervals, settings.failures)
        && let Some(limits) = policy.adapts
    {
        after.pace = limits.next(history.pace, done.rows.found(), done.duration);
    }
    record::success(&done, request, &history, &after, settings)?;
    Ok(End::Refreshed(Box::new(done), after))
}

/// Records a refresh that failed or was cancelled, and decides when it is tried again.
fn failed(
    job: Job,
    known: &Known,
    started_at: Timestamp,
    caught: &Caught,
    settings: &RefreshSettings,
) -> History {
    let finished_at = clock::now();
    let cancelled = !deadline::last_had_passed() && caught.is_cancel();
    let (after, verdict) = if cancelled && signals::terminate_requested() {
        // The process is told to leave: the refresh is as due as it was.
        (known.history, None)
    } else if cancelled {
        (view_state::after_cancel(&known.history, started_at, finished_at), None)
    } else {
        let before = (&known.registration, &known.history);
        after_failure(Oid::from(job.view), before, started_at, finished_at, settings)
    };
    let failure = record::Failure {
        view: Oid::from(job.view),
        name: &known.registration.name,
        trigger: job.why.as_str(),
        role: known.owner,
        outcome: if cancelled { Outcome::Cancelled } else { Outcome::Failed },
        started_at,
        finished_at,
        attempt: known.history.attempt + 1,
        sqlstate: &caught.sqlstate(),
        message: &caught.full_message(),
    };
    record::log_failure(
        &failure,
        settings.failures.retry.max_retries,
        verdict.as_ref(),
        finished_at,
    );
    let recorded = transaction::run(|| {
        record_failure(&failure, known, &after, settings).unwrap_or_else(|error| error.raise())
    });
    match recorded {
        Ok(Some(newer)) => return newer,
        Ok(None) => {}
        Err(caught) => report::log(
            &format!(
                "cache_refresher: cannot record the failure of {}: {}",
                failure.name, caught.message
            ),
            None,
            None,
        ),
    }
    after
}

pub(super) fn after_failure(
    view: Oid,
    (registration, history): (&Registration, &History),
    started_at: Timestamp,
    finished_at: Timestamp,
    settings: &RefreshSettings,
) -> (History, Option<Verdict>) {
    let entropy = (finished_at.as_pg() as u64) ^ (u64::from(view.to_u32()) << 32);
    match policy::of(registration, &settings.intervals, settings.failures) {
        Ok(policy) => {
            let (history, verdict) =
                view_state::after_failure(&policy, history, started_at, finished_at, entropy);
            (history, Some(verdict))
        }
        // The schedule itself is bad: nothing to retry by.
        Err(_) => (view_state::after_cancel(history, started_at, finished_at), None),
    }
}

/// Between the refresh that failed and this record of it nobody held the view's lock. If somebody has
/// refreshed it since, that counts, and the failure goes into the log only; the history as it is then
/// is returned.
fn record_failure(
    failure: &record::Failure,
    known: &Known,
    after: &History,
    settings: &RefreshSettings,
) -> Result<Option<History>> {
    // A session that has the lock may hold the row of attempts to the end of a long transaction.
    let locked = RefreshLock::try_acquire(registry::oid()?, failure.view).is_some();
    let current = attempts::find(failure.view)?;
    let newer = (current.last_finished != known.history.last_finished).then_some(current);
    let after = if locked && newer.is_none() { Some(after) } else { None };
    record::failure(failure, after, settings.retention)?;
    Ok(newer)
}

fn disconnect() {
    let closed = transaction::run(|| {
        view::disconnect_foreign_servers().unwrap_or_else(|error: Error| error.raise());
    });
    if let Err(caught) = closed {
        report::log(
            &format!("cache_refresher: cannot close foreign connections: {}", caught.message),
            None,
            None,
        );
    }
}
