//! One refresh, from the decision to the log row, in one transaction: what the log says has happened,
//! and what has happened is in the log.
//!
//! `session` runs a refresh that a user asked for, `job` one that a scheduler handed out; both come
//! to `run`, under the view's own lock.

mod delta;
mod diff;
pub mod explain;
pub mod freshness;
pub mod job;
pub mod keys;
pub mod policy;
pub mod privilege;
mod rebuild;
mod record;
mod row_order;
pub mod session;
mod settings;
mod statistics;
pub mod summary;

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use self::delta::Attempt;

use cache_refresher_core::duration;
use cache_refresher_core::method::{self, Choice, Facts, Method, Requested};
use cache_refresher_core::obstacle::NotNow;
use cache_refresher_core::outcome::{Outcome, RowChanges, RowCounts};
use cache_refresher_core::progress::{Phase, Progress};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::visibility::Visibility;
use pgrx::pg_sys::Oid;
use pgrx::{PgSqlErrorCode, PgTryBuilder};

use crate::capture::{self, Changes, Definition};
use crate::catalog::content;
use crate::catalog::lock_holder::{self, LockConflict};
use crate::catalog::proof::Basis;
use crate::catalog::registry::Registration;
use crate::catalog::view::{self, Source, TableCondition, View, ViewName};
use crate::error::{Error, Result, refused};
use crate::guc::RefreshSettings;
use crate::pg::identity::{Restriction, Scope};
use crate::pg::lock::{self, RelationLock};
use crate::pg::process::deadline::Deadline;
use crate::pg::process::{background_worker, latch};
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
    pub reason: String,
    pub started_at: Timestamp,
    pub duration: Duration,
    pub snapshot_at: Timestamp,
    pub data_as_of: Option<Timestamp>,
    pub rows: RowCounts,
    /// On what the content rests.
    pub basis: Basis,
    /// What was shown before, where changes are captured.
    pub shown_before: Option<Visibility>,
    /// Changes of its sources are captured, as far as they can be.
    pub captured: bool,
    /// The view had no content before.
    pub first: bool,
    pub summary: Option<String>,
}

impl Done {
    /// What came of it.
    pub fn outcome(&self) -> Outcome {
        if self.method == Method::Skip { Outcome::Skipped } else { Outcome::Refreshed }
    }
}

/// A refresh from its start to its end.
struct Refresh<'a> {
    oid: Oid,
    name: &'a ViewName,
    registration: Option<&'a Registration>,
    request: Request<'a>,
    settings: &'a RefreshSettings,
    running: RunningMark,
    _under_way: UnderWay,
    started_at: Timestamp,
}

/// A view and its sources, locked, and the method that was decided on under the lock.
struct Locked {
    view: View,
    choice: Choice,
    sources: Vec<Source>,
}

/// Refreshes a view. The caller holds its refresh lock and has checked the caller's rights.
///
/// `on_sources` is told early whether other servers are read, since it matters on failure too.
fn run(
    (oid, name): (Oid, &ViewName),
    registration: Option<&Registration>,
    request: Request,
    settings: &RefreshSettings,
    on_sources: impl FnOnce(bool),
) -> Result<Done> {
    let refresh = Refresh::begin((oid, name), registration, request, settings)?;
    refresh.limited(|| {
        let locked = refresh.lock()?;
        on_sources(locked.sources.iter().any(|source| source.foreign));
        let definition = refresh.look()?;
        // Only now, with all locks held, the time and the snapshot: whatever committed before is in
        // the view.
        let times = (refresh.started_at, clock::now());
        refresh.rebuild((&locked, definition.as_ref()), times, ActiveSnapshot::take)
    })
}

thread_local! {
    static UNDER_WAY: RefCell<Vec<Oid>> = const { RefCell::new(Vec::new()) };
}

/// A view that this session is refreshing: code that its own refresh calls must not refresh it once more, which
/// the refresh lock of the session would let happen.
struct UnderWay(Oid);

impl UnderWay {
    fn begin(view: Oid, name: &ViewName) -> Result<Self> {
        if UNDER_WAY.with_borrow(|views| views.contains(&view)) {
            return Err(Error::UnderWay { name: name.to_string() });
        }
        UNDER_WAY.with_borrow_mut(|views| views.push(view));
        Ok(Self(view))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.with_borrow_mut(|views| views.retain(|view| *view != self.0));
    }
}

/// How often to ask for a lock that somebody else has.
const ASK_AGAIN: Duration = Duration::from_millis(20);

impl<'a> Refresh<'a> {
    fn begin(
        (oid, name): (Oid, &'a ViewName),
        registration: Option<&'a Registration>,
        request: Request<'a>,
        settings: &'a RefreshSettings,
    ) -> Result<Self> {
        let under_way = UnderWay::begin(oid, name)?;
        let started_at = clock::now();
        let role = request.role.to_u32();
        let running =
            RunningMark::set(identity::current_database(), oid.to_u32(), role, started_at);
        Ok(Self {
            oid,
            name,
            registration,
            request,
            settings,
            running,
            _under_way: under_way,
            started_at,
        })
    }

    /// Runs a part of the refresh under the time limit of the view.
    fn limited<R>(&self, body: impl FnOnce() -> Result<R>) -> Result<R> {
        let limit = self
            .registration
            .and_then(|registration| registration.policy.timeout)
            .unwrap_or(self.settings.timeout);
        let _codes = CodeRecorder::start();
        let deadline = Deadline::after(limit);
        cancelled_as_timeout(self.name.to_string(), (limit, &deadline), body)
    }

    fn requested(&self) -> Requested {
        let registered = self.registration.and_then(|registration| registration.policy.method);
        self.request.method.or(registered).unwrap_or_default()
    }

    fn captured(&self) -> bool {
        self.registration.is_some_and(|registration| registration.policy.on_change)
    }

    fn decide(&self, view: &View) -> Result<Choice> {
        let requested = match self.request.method {
            // How it is registered to be refreshed does not matter before it has content.
            None if !view.populated => Requested::Auto,
            _ => self.requested(),
        };
        method::choose(requested, facts(view, self.settings.auto_full)?)
            .map_err(|refusal| refused(&view.name.to_string(), requested, refusal))
    }

    /// Readers are not shut out before it is known that they have to be.
    fn first_lock(&self, choice: Choice) -> RelationLock {
        match choice.method {
            Method::Full if choice.open && self.captured() => lock_for(Method::Delta),
            method => lock_for(method),
        }
    }

    /// Locks the view and all that it reads, to the end of the transaction.
    fn lock(&self) -> Result<Locked> {
        let mut choice = self.decide(&View::find(self.oid)?)?;
        let lock_timeout = settings::milliseconds(self.settings.lock_timeout);
        let _patience = Scope::enter(
            identity::current_role(),
            Restriction::LocalUserIdChange,
            &[(c"lock_timeout", &lock_timeout)],
        );
        // Until the lock is held, somebody may drop the index or populate the view: decide again
        // under the lock, and take the other lock where the decision is another one.
        let view = loop {
            let lock = self.first_lock(choice);
            self.lock_relation(self.oid, lock)?;
            let view = View::find(self.oid)?;
            choice = self.decide(&view)?;
            if self.first_lock(choice) == lock {
                break view;
            }
        };
        let sources = view::sources(self.oid)?;
        for source in &sources {
            self.lock_source(source.oid)?;
        }
        Ok(Locked { view, choice, sources })
    }

    /// The same of a relation that the view reads. A worker asks again and again instead of waiting in the queue: what
    /// it has locked already somebody may want who holds this one, and of two that wait for each other the server
    /// may choose him.
    fn lock_source(&self, relation: Oid) -> Result<()> {
        if !background_worker::is_one() {
            return self.lock_relation(relation, RelationLock::AccessShare);
        }
        let limit = self.settings.lock_timeout;
        let begun = clock::now();
        while !lock::try_relation(relation, RelationLock::AccessShare) {
            if !limit.is_zero() && clock::now().since(begun) >= limit {
                let conflict = lock_holder::conflicting(relation, RelationLock::AccessShare)?;
                let (name, by) = match conflict {
                    Some(LockConflict { relation, by }) => (relation, by),
                    None => (relation.to_u32().to_string(), None),
                };
                return Err(Error::Locked { name, limit: duration::format(limit), by });
            }
            latch::wait_interruptibly(ASK_AGAIN);
        }
        Ok(())
    }

    /// Locks a relation to the end of the transaction, or says who stands in the way.
    fn lock_relation(&self, relation: Oid, lock: RelationLock) -> Result<()> {
        if lock::try_relation(relation, lock) {
            return Ok(());
        }
        let conflict = lock_holder::conflicting(relation, lock)?;
        let limit = duration::format(self.settings.lock_timeout);
        PgTryBuilder::new(AssertUnwindSafe(|| {
            lock::relation(relation, lock);
            Ok(())
        }))
        .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |error| match &conflict {
            Some(LockConflict { relation, by }) => {
                Err(Error::Locked { name: relation.clone(), limit: limit.clone(), by: by.clone() })
            }
            None => error.rethrow(),
        })
        .execute()
    }

    /// Looks at what a locked view depends on, where changes are captured. Before the snapshot.
    fn look(&self) -> Result<Option<Definition>> {
        self.captured().then(|| Definition::of(self.oid)).transpose()
    }

    /// Brings a view up to date by the captured changes, if there are any to go by.
    fn by_changes(&self, view: &View, changes: &Changes) -> Result<ByChanges> {
        let total = content::find(self.oid)?.and_then(|content| content.rows_total);
        Ok(match (changes, total) {
            (Changes::Unknown(why), _) => ByChanges::NotPossible(why.clone()),
            (_, None) => ByChanges::NotPossible(None),
            (Changes::None, Some(total)) => ByChanges::Done(
                Method::Skip,
                "nothing has changed since the last refresh".to_owned(),
                RowCounts { total, changes: Some(RowChanges::default()) },
            ),
            (Changes::Some(_), _) if !view.heap => ByChanges::NotPossible(None),
            (Changes::Some(shown), Some(total)) => {
                match delta::refresh(
                    view,
                    shown,
                    total,
                    self.requested() == Requested::Delta,
                    &self.running,
                ) {
                    Attempt::Done { rows, reason } => ByChanges::Done(Method::Delta, reason, rows),
                    Attempt::NotPossible(why) => ByChanges::NotPossible(Some(why)),
                }
            }
        })
    }

    /// Brings a locked view up to date with what `snapshot` sees, which is what had been committed
    /// at `snapshot_at`. It has taken the time since `started_at`.
    fn rebuild(
        &self,
        (locked, definition): (&Locked, Option<&Definition>),
        (started_at, snapshot_at): (Timestamp, Timestamp),
        snapshot: impl Fn() -> ActiveSnapshot,
    ) -> Result<Done> {
        let Locked { view, choice, sources } = locked;
        let parents = sources.iter().filter(|source| source.materialized).map(|source| source.oid);
        let data_as_of = content::data_as_of(snapshot_at, parents.collect())?;
        let pinned = settings::pinned(self.settings.lock_timeout)?;
        self.running.report(Progress::begin(Phase::Querying, None));
        let mut first;
        let (view, rows, (method, reason), knowledge) = loop {
            let view = match choice.method {
                // A schema can be renamed in spite of all locks, and the statement goes by name.
                Method::Full | Method::Concurrent => View::find(self.oid)?,
                Method::Skip | Method::Diff | Method::Delta => view.clone(),
            };
            first = !view.populated;
            let _snapshot = snapshot();
            let mut knowledge = capture::examine(self.oid, definition, &settings::text(&pinned))?;
            let work = if choice.open {
                let restriction = Restriction::RestrictedOperation;
                let _scope = Scope::enter(view.owner, restriction, &settings::refs(&pinned));
                self.by_changes(&view, &knowledge.changes)?
            } else {
                ByChanges::NotPossible(None)
            };
            let (method, reason, rows) = match work {
                ByChanges::Done(method, reason, rows) => (method, reason, Some(rows)),
                ByChanges::NotPossible(why) => {
                    let restriction = match choice.method {
                        // CONCURRENTLY makes a temporary table. The server restricts the query itself.
                        Method::Full | Method::Concurrent => Restriction::LocalUserIdChange,
                        _ => Restriction::RestrictedOperation,
                    };
                    let _scope = Scope::enter(view.owner, restriction, &settings::refs(&pinned));
                    self.lock_relation(self.oid, lock_for(choice.method))?;
                    let rows = match choice.method {
                        Method::Full => rebuild::full(&view),
                        Method::Concurrent => rebuild::concurrently(&view),
                        _ => Some(diff::refresh(&view, &self.running)?),
                    };
                    let reason =
                        why.map_or(choice.reason.to_owned(), |why| why.beside(choice.reason));
                    (choice.method, reason, rows)
                }
            };
            if let Some(rows) = rows {
                if method == Method::Full {
                    capture::follow_to_new_file(self.oid, &mut knowledge.basis)?;
                }
                if let Some(definition) = definition.filter(|_| method != Method::Skip) {
                    capture::conclude(self.oid, definition, &mut knowledge)?;
                }
                break (view, rows, (method, reason), knowledge);
            }
        };
        self.running.report(Progress::begin(Phase::Finishing, None));
        let registered =
            self.registration.and_then(|registration| registration.policy.summary.as_ref());
        let summary = match registered {
            Some(summary) if summary.owner == view.owner_name && method != Method::Skip => {
                Some(summary::run(&view, &summary.query, self.settings.lock_timeout)?)
            }
            _ => None,
        };
        Ok(Done {
            view,
            method,
            reason,
            started_at,
            duration: clock::now().since(started_at),
            snapshot_at,
            data_as_of,
            rows,
            basis: knowledge.basis,
            shown_before: knowledge.before,
            captured: self.captured(),
            first,
            summary,
        })
    }
}

/// What came of refreshing a view by the changes of its sources.
enum ByChanges {
    Done(Method, String, RowCounts),
    /// Everything has to be computed; why not less, if there is something to say about it.
    NotPossible(Option<NotNow>),
}

/// What the choice of a method depends on.
fn facts(view: &View, auto_full: bool) -> Result<Facts> {
    // Only worth a look where it can make a difference.
    let condition = if auto_full { view::condition(view.oid)? } else { TableCondition::default() };
    Ok(Facts {
        populated: view.populated,
        unique_key: !view.key.is_empty(),
        heap: view.heap,
        auto_full,
        mostly_changed: condition.mostly_changed,
        bloated: condition.bloated,
    })
}

fn lock_for(method: Method) -> RelationLock {
    match method {
        Method::Full => RelationLock::AccessExclusive,
        Method::Concurrent => RelationLock::Exclusive,
        Method::Skip | Method::Diff | Method::Delta => RelationLock::RowExclusive,
    }
}

/// Tells a refresh that ran out of time from one that somebody cancelled.
fn cancelled_as_timeout<R>(
    name: String,
    (limit, deadline): (Duration, &Deadline),
    body: impl FnOnce() -> R,
) -> R {
    let body = std::panic::AssertUnwindSafe(body);
    PgTryBuilder::new(move || {
        let body = body;
        (body.0)()
    })
    .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, move |error| {
        if deadline.has_passed() {
            Error::Timeout { name: name.clone(), limit: duration::format(limit) }.raise()
        }
        error.rethrow()
    })
    .execute()
}
