//! One refresh, from the decision to the log row, in one transaction: what the log says has happened,
//! and what has happened is in the log.
//!
//! `session` runs a refresh that a user asked for, `job` one that a scheduler handed out; both come
//! to `run`, under the view's own lock.

mod diff;
pub mod job;
pub mod policy;
pub mod privilege;
mod rebuild;
mod record;
pub mod session;
mod settings;
pub mod summary;

use std::time::Duration;

use cache_refresher_core::duration;
use cache_refresher_core::method::{self, Facts, Method, Requested};
use cache_refresher_core::outcome::RowCounts;
use cache_refresher_core::progress::{Phase, Progress};
use cache_refresher_core::time::Timestamp;
use pgrx::pg_sys::Oid;
use pgrx::{PgSqlErrorCode, PgTryBuilder};

use crate::catalog::content;
use crate::catalog::registry::Registration;
use crate::catalog::view::{self, View};
use crate::error::{Error, Result, refused};
use crate::guc::RefreshSettings;
use crate::pg::deadline::Deadline;
use crate::pg::identity::{Restriction, Scope};
use crate::pg::lock::{self, RelationLock};
use crate::pg::report::CodeRecorder;
use crate::pg::shared::RunningMark;
use crate::pg::snapshot::ActiveSnapshot;
use crate::pg::{clock, identity};

/// Why a refresh runs, and with which method if that was said.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `manual`, or the scheduler's reason.
    pub trigger: &'a str,
    /// Takes precedence over the method that the view is registered with.
    pub method: Option<Requested>,
    /// On whose behalf.
    pub role: Oid,
}

/// A refresh that took place.
#[derive(Debug, Clone)]
pub struct Done {
    pub view: View,
    pub method: Method,
    pub reason: &'static str,
    pub started_at: Timestamp,
    pub duration: Duration,
    pub snapshot_at: Timestamp,
    pub data_as_of: Option<Timestamp>,
    pub rows: RowCounts,
    pub summary: Option<serde_json::Value>,
}

/// Refreshes a view. The caller holds its refresh lock and has checked the caller's rights.
///
/// `on_sources` is told early whether other servers are read, since it matters on failure too.
fn run(
    oid: Oid,
    registration: Option<&Registration>,
    request: Request,
    settings: &RefreshSettings,
    on_sources: impl FnOnce(bool),
) -> Result<Done> {
    let started_at = clock::now();
    let running = RunningMark::set(
        identity::current_database(),
        oid.to_u32(),
        request.role.to_u32(),
        started_at,
    );
    let limit = registration
        .and_then(|registration| registration.policy.timeout)
        .unwrap_or(settings.timeout);
    let _codes = CodeRecorder::start();
    let name = View::find(oid)?.name.to_string();
    let deadline = Deadline::after(limit);
    let done = cancelled_as_timeout(name, limit, || {
        lock_and_rebuild(oid, registration, request, settings, &running, started_at, on_sources)
    });
    drop(deadline);
    done
}

fn lock_and_rebuild(
    oid: Oid,
    registration: Option<&Registration>,
    request: Request,
    settings: &RefreshSettings,
    running: &RunningMark,
    started_at: Timestamp,
    on_sources: impl FnOnce(bool),
) -> Result<Done> {
    let requested = request
        .method
        .or(registration.and_then(|registration| registration.policy.method))
        .unwrap_or(Requested::Auto);
    let decide = |view: &View| {
        let facts =
            Facts { populated: view.populated, unique_key: !view.key.is_empty(), heap: view.heap };
        method::choose(requested, facts)
            .map_err(|refusal| refused(&view.name.to_string(), requested, refusal))
    };
    let mut view = View::find(oid)?;
    let mut choice = decide(&view)?;
    let sources;
    {
        let lock_timeout = settings::milliseconds(settings.lock_timeout);
        let _patience = Scope::enter(
            identity::current_role(),
            Restriction::LocalUserIdChange,
            &[(c"lock_timeout", &lock_timeout)],
        );
        // Until the lock is held, somebody may drop the index or populate the view: decide again
        // under the lock, and take the other lock where the decision is another one.
        loop {
            lock::relation(oid, lock_for(choice.method));
            view = View::find(oid)?;
            let again = decide(&view)?;
            let settled = again.method == choice.method;
            choice = again;
            if settled {
                break;
            }
        }
        sources = view::sources(oid)?;
        on_sources(sources.iter().any(|source| source.foreign));
        for source in &sources {
            lock::relation(source.oid, RelationLock::AccessShare);
        }
    }
    let parents = sources.iter().filter(|source| source.materialized).map(|source| source.oid);
    // Only now, with all locks held, the time and the snapshot: whatever committed before
    // `snapshot_at` is in the view.
    let snapshot_at = clock::now();
    let data_as_of = content::data_as_of(snapshot_at, parents.collect())?;
    let pinned = settings::pinned(settings.lock_timeout)?;
    running.report(Progress::begin(Phase::Querying, None));
    let rows = loop {
        // A schema can be renamed in spite of all locks, and the statement goes by name.
        view = View::find(oid)?;
        let _snapshot = ActiveSnapshot::take();
        let restriction = match choice.method {
            // CONCURRENTLY makes a temporary table. The server restricts the query itself.
            Method::Full | Method::Concurrent => Restriction::LocalUserIdChange,
            Method::Diff => Restriction::RestrictedOperation,
        };
        let _scope = Scope::enter(view.owner, restriction, &settings::refs(&pinned));
        let rows = match choice.method {
            Method::Full => rebuild::full(&view),
            Method::Concurrent => rebuild::concurrently(&view),
            Method::Diff => break diff::refresh(&view, running)?,
        };
        if let Some(total) = rows {
            break RowCounts { total, changes: None };
        }
    };
    running.report(Progress::begin(Phase::Finishing, None));
    let summary = match registration.and_then(|registration| registration.policy.summary.as_ref()) {
        Some(summary) if summary.owner == view.owner_name => {
            Some(summary::run(&view, &summary.query, settings.lock_timeout)?)
        }
        _ => None,
    };
    Ok(Done {
        view,
        method: choice.method,
        reason: choice.reason,
        started_at,
        duration: clock::now().since(started_at),
        snapshot_at,
        data_as_of,
        rows,
        summary,
    })
}

fn lock_for(method: Method) -> RelationLock {
    match method {
        Method::Full => RelationLock::AccessExclusive,
        Method::Concurrent => RelationLock::Exclusive,
        Method::Diff => RelationLock::RowExclusive,
    }
}

/// Tells a refresh that ran out of time from one that somebody cancelled.
fn cancelled_as_timeout<R>(name: String, limit: Duration, body: impl FnOnce() -> R) -> R {
    let body = std::panic::AssertUnwindSafe(body);
    PgTryBuilder::new(move || {
        let body = body;
        (body.0)()
    })
    .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, move |error| {
        if Deadline::has_passed() {
            Error::Timeout { name: name.clone(), limit: duration::format(limit) }.raise()
        }
        error.rethrow()
    })
    .execute()
}
