//! A refresh that a user asks for: single flight, and failures handed over to be logged.

use std::time::Duration;

use cache_refresher_core::method::{Method, Requested};
use cache_refresher_core::outcome::{Outcome, RowChanges};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{self, History, Why};
use pgrx::pg_sys::Oid;

use super::{Done, Locked, Refresh, Request, job, privilege, record, run};
use crate::capture::Definition;
use crate::catalog::content::{self, Content};
use crate::catalog::registry::{self, Registration};
use crate::catalog::view::View;
use crate::catalog::{attempts, binding};
use crate::error::{Error, Result};
use crate::guc::RefreshSettings;
use crate::pg::changes::change_writer;
use crate::pg::hooks::announcements;
use crate::pg::lock::RefreshLock;
use crate::pg::process::deadline;
use crate::pg::report::Caught;
use crate::pg::shared::{self, Failure, Text};
use crate::pg::snapshot::SharedSnapshot;
use crate::pg::{clock, identity, snapshot, transaction};

/// What a caller is told.
#[derive(Debug, Clone)]
pub struct Answer {
    pub view: Oid,
    pub outcome: Outcome,
    pub method: Option<Method>,
    pub reason: String,
    pub duration: Option<Duration>,
    pub rows_total: Option<i64>,
    pub changes: Option<RowChanges>,
    pub data_as_of: Option<Timestamp>,
}

impl Answer {
    fn unchanged(view: Oid, outcome: Outcome, reason: &str, content: Content) -> Self {
        Self {
            view,
            outcome,
            method: None,
            reason: reason.to_owned(),
            duration: None,
            rows_total: content.rows_total,
            changes: None,
            data_as_of: content.data_as_of,
        }
    }
}

/// Refreshes a view for the current role, or shares a refresh that began after this call did.
///
/// Callers of one view take turns by its refresh lock. Whoever gets it looks first whether a refresh
/// has committed meanwhile whose snapshot is not older than the own call: so a hundred simultaneous
/// callers cause at most two refreshes, and each sees what had been committed when it called. What
/// was there before the call is never shared, even if the clock has gone back and makes it look new.
pub fn refresh(
    oid: Oid,
    method: Option<Requested>,
    max_age: Option<Duration>,
    settings: &RefreshSettings,
) -> Result<Answer> {
    let view = View::find(oid)?;
    privilege::require_refresh(&view)?;
    prepare_transaction()?;
    let seen = content::find_current(oid)?.map(|content| content.snapshot_at);
    let called_at = clock::now();
    if let Some(answer) = fresh_enough(&view, max_age)? {
        return Ok(answer);
    }
    let lock = RefreshLock::acquire(registry::oid()?, oid);
    if let Some(answer) = fresh_enough(&view, max_age)? {
        lock.release();
        return Ok(answer);
    }
    // Another's refresh cannot show what this transaction has written and not yet committed.
    if !transaction::has_written()
        && let Some(content) = content::find_current(oid)?
        && content.snapshot_at >= called_at
        && Some(content.snapshot_at) != seen
    {
        lock.release();
        let reason = "another session has just refreshed it";
        return Ok(Answer::unchanged(oid, Outcome::Shared, reason, content));
    }
    logging_failure(oid, called_at, || refresh_locked(&view, method, settings))
}

/// Refreshes views, in the order given, under one snapshot: they agree with each other. A failure of
/// one is one of all.
pub fn refresh_together(
    oids: &[Oid],
    method: Option<Requested>,
    settings: &RefreshSettings,
) -> Result<Vec<Answer>> {
    prepare_transaction()?;
    let views: Vec<View> = oids.iter().map(|&oid| View::find(oid)).collect::<Result<_>>()?;
    for view in &views {
        privilege::require_refresh(view)?;
    }
    // By OID, so that two such calls do not wait for each other in a circle.
    let mut sorted = oids.to_vec();
    sorted.sort_unstable_by_key(|oid| oid.to_u32());
    for oid in sorted {
        RefreshLock::acquire(registry::oid()?, oid);
    }
    let registrations: Vec<Option<Registration>> =
        oids.iter().map(|&oid| find_registration(oid)).collect::<Result<_>>()?;
    let request = Request { trigger: "manual", method, role: identity::current_role() };
    let called_at = clock::now();
    let mut refreshes = Vec::with_capacity(oids.len());
    for (view, registration) in views.iter().zip(&registrations) {
        let refresh =
            Refresh::begin((view.oid, &view.name), registration.as_ref(), request, settings)?;
        let locked = logging_failure(view.oid, called_at, || refresh.limited(|| refresh.lock()))?;
        refreshes.push((refresh, locked));
    }
    let look = |(refresh, _): &(Refresh, Locked)| {
        logging_failure(refresh.oid, called_at, || refresh.limited(|| refresh.look()))
    };
    let definitions: Vec<Option<Definition>> = refreshes.iter().map(look).collect::<Result<_>>()?;
    let snapshot_at = clock::now();
    let snapshot = SharedSnapshot::take();
    let mut answers = Vec::with_capacity(oids.len());
    for ((refresh, locked), definition) in refreshes.iter().zip(&definitions) {
        answers.push(logging_failure(refresh.oid, called_at, || {
            let done = refresh.limited(|| {
                let found = (locked, definition.as_ref());
                refresh.rebuild(found, (clock::now(), snapshot_at), || snapshot.activate())
            })?;
            recorded(&done, request, refresh.registration.is_some(), settings)
        })?);
    }
    Ok(answers)
}

/// A refresh writes, and what it writes must be of now, what this transaction has changed itself included.
pub fn prepare_transaction() -> Result<()> {
    snapshot::require_writable("refresh a materialized view")?;
    if !snapshot::is_read_committed() {
        return Err(Error::IsolationLevel);
    }
    if transaction::has_written() {
        change_writer::flush();
        transaction::next_command();
    }
    Ok(())
}

fn fresh_enough(view: &View, max_age: Option<Duration>) -> Result<Option<Answer>> {
    let Some(max_age) = max_age else {
        return Ok(None);
    };
    if !view.populated {
        return Ok(None);
    }
    let content = content::find_current(view.oid)?;
    let now = clock::now();
    let young = content.filter(|content| {
        content.data_as_of.is_some_and(|at| at <= now && now.since(at) <= max_age)
    });
    Ok(young.map(|content| {
        Answer::unchanged(view.oid, Outcome::Fresh, "it is not older than max_age", content)
    }))
}

fn refresh_locked(
    view: &View,
    method: Option<Requested>,
    settings: &RefreshSettings,
) -> Result<Answer> {
    let registration = find_registration(view.oid)?;
    let request = Request { trigger: "manual", method, role: identity::current_role() };
    let view = (view.oid, &view.name);
    let done = run(view, registration.as_ref(), request, settings, |_| ())?;
    recorded(&done, request, registration.is_some(), settings)
}

/// Records a refresh, and tells the scheduler.
fn recorded(
    done: &Done,
    request: Request,
    registered: bool,
    settings: &RefreshSettings,
) -> Result<Answer> {
    let before = attempts::find(done.view.oid)?;
    let finished_at = done.started_at.plus(done.duration);
    let after =
        view_state::after_success(&before, done.started_at, finished_at, done.rows.brings_new());
    record::success(done, request, &Default::default(), &after, settings)?;
    record::log_success(done, settings);
    if before.suspended {
        // Nothing was scheduled, and perhaps no scheduler runs.
        announcements::registry_changed();
    } else if done.captured && done.basis.fingerprint.is_none() {
        // Something is in the way of a proof, which a worker may be able to mend.
        announcements::registry_changed();
    } else if registered {
        announcements::view_refreshed();
    }
    Ok(Answer {
        view: done.view.oid,
        outcome: done.outcome(),
        method: Some(done.method),
        reason: done.reason.clone(),
        duration: Some(done.duration),
        rows_total: Some(done.rows.total),
        changes: done.rows.changes,
        data_as_of: done.data_as_of,
    })
}

/// A registration that a dump has brought back is not bound yet.
pub(super) fn find_registration(oid: Oid) -> Result<Option<Registration>> {
    match Registration::find(oid)? {
        Some(registration) => Ok(Some(registration)),
        None => {
            let name = View::find(oid)?.name;
            if registry::is_registered(&name)? {
                binding::reconcile_view(oid)?;
            }
            Registration::find(oid)
        }
    }
}

/// A failure loses this transaction, and with it any row that it could write: the scheduler is told
/// through shared memory. What is wrong with the call is no failure of the view.
pub(super) fn logging_failure<R>(
    oid: Oid,
    started_at: Timestamp,
    body: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let role = identity::current_role();
    transaction::inspect_error(
        || match body() {
            Err(error) if !error.is_of_the_call() => error.raise(),
            other => other,
        },
        move |error: &Caught| {
            shared::push_failure(Failure {
                database: identity::current_database(),
                view: oid.to_u32(),
                role: role.to_u32(),
                why: None,
                started_at,
                finished_at: clock::now(),
                cancelled: !deadline::last_had_passed() && error.is_cancel(),
                sqlstate: Text::new(&error.sqlstate()),
                message: Text::new(&error.full_message()),
            });
        },
    )
}

/// What a user tried by hand does not change when the scheduler tries next; a worker that was ended does.
fn after(failure: &Failure, before: &History, settings: &RefreshSettings) -> Result<History> {
    let (began, ended) = (failure.started_at, failure.finished_at);
    let view = Oid::from(failure.view);
    if failure.why.is_none() {
        return Ok(*before);
    }
    Ok(match Registration::find(view)? {
        Some(registration) if !failure.cancelled => {
            job::after_failure(view, (&registration, before), began, ended, settings).0
        }
        _ => view_state::after_cancel(before, began, ended),
    })
}

/// Logs what sessions could not. In a transaction of the scheduler.
pub fn log_failures(failures: &[Failure], settings: &RefreshSettings) -> Result<()> {
    for failure in failures {
        let oid = Oid::from(failure.view);
        // The view may be gone since, and its name with it.
        let Ok(view) = View::find(oid) else { continue };
        // Whoever has the view's lock may hold its row until the end of a long transaction: not worth a wait.
        let lock = RefreshLock::try_acquire(registry::oid()?, oid);
        let before = match lock {
            Some(_) => Some(attempts::find(oid)?),
            None => None,
        };
        let attempt = before.filter(|_| failure.why.is_some()).map(|before| before.attempt + 1);
        let history = match before {
            Some(before) => Some(after(failure, &before, settings)?),
            None => None,
        };
        let outcome = if failure.cancelled { Outcome::Cancelled } else { Outcome::Failed };
        let record = record::Failure {
            view: oid,
            name: &view.name,
            trigger: failure.why.map_or("manual", Why::as_str),
            role: Oid::from(failure.role),
            outcome,
            started_at: failure.started_at,
            finished_at: failure.finished_at,
            attempt: attempt.unwrap_or(1),
            sqlstate: failure.sqlstate.as_str(),
            message: failure.message.as_str(),
        };
        record::failure(&record, history.as_ref(), settings.retention)?;
    }
    Ok(())
}
