//! Reading the registry: what is scheduled, and what is to be put right on the way.

use std::collections::HashMap;
use std::time::Duration;

use cache_refresher_core::board::ViewEntry;
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::version::Fit;
use pgrx::pg_sys::Oid;

use super::{PATIENCE, Process, patience};
use crate::capture::install;
use crate::catalog::view::{self, ViewName};
use crate::catalog::{self, binding, registry, version};
use crate::error::Result;
use crate::guc;
use crate::pg::process::{latch, signals};
use crate::pg::report::Caught;
use crate::pg::shared::{self, Knowledge};
use crate::pg::{clock, report, transaction};
use crate::refresh::{policy, session};

/// Between two readings of the registry passes so many times what one takes, at most `MOST_CALM`.
const SPACING: u32 = 4;
const MOST_CALM: Duration = Duration::from_secs(2);
/// When to read the registry again after that failed.
const PAUSE: Duration = Duration::from_secs(5);

/// When the registry is read again.
pub(super) struct Reload {
    /// Because something has gone wrong or has changed.
    at: Option<Timestamp>,
    /// When that was done last, and how long it took.
    done_at: Timestamp,
    took: Duration,
}

impl Default for Reload {
    fn default() -> Self {
        Self { at: None, done_at: Timestamp::from_pg(0), took: Duration::ZERO }
    }
}

impl Reload {
    /// Then, if not earlier.
    pub(super) fn at(&mut self, at: Timestamp) {
        self.at = Some(self.at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Soon, but somebody who changes definitions all the time must not keep us from everything else.
    pub(super) fn calmly(&mut self, now: Timestamp) {
        self.at(self.done_at.plus(self.took * SPACING).min(now.plus(MOST_CALM)));
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.at
    }

    pub(super) fn done(&mut self, begun: Timestamp, now: Timestamp) {
        (self.done_at, self.took) = (now, now.since(begun));
    }

    /// What belongs to it, and is done later.
    pub(super) fn takes_longer(&mut self, by: Duration) {
        self.took += by;
    }
}

impl Process {
    /// Reads the registry again; false if the extension is not here, or is of another version. Where something
    /// goes wrong, what was known before goes on being refreshed, and it is tried again a little later.
    pub(super) fn read_registry(&mut self) -> bool {
        self.reload.at = None;
        let database = self.database;
        // Nobody has to make room for us while we may be waiting for a lock.
        shared::update_database(database, |known| known.waiting_since = None);
        match transaction::run(|| version::installed().unwrap_or_else(|error| error.raise())) {
            Ok(Some((_, Fit::Same))) => {}
            Ok(None) => return false,
            Ok(Some((objects, fit))) => {
                self.log_version(&objects, fit);
                return false;
            }
            Err(caught) => {
                self.try_again("read the registry", &caught);
                return true;
            }
        }
        let failures = shared::take_failures(database);
        if let Err(caught) = transaction::run(|| {
            let _patience = patience(PATIENCE);
            let settings = guc::refresh_settings();
            session::log_failures(&failures, &settings).unwrap_or_else(|error| error.raise());
        }) {
            shared::put_back_failures(&failures);
            self.try_again("log failures", &caught);
        }
        match transaction::run(|| {
            let _patience = patience(PATIENCE);
            binding::reconcile().unwrap_or_else(|error| error.raise())
        }) {
            Ok((missing, done)) => {
                missing.iter().for_each(log_missing);
                if !done {
                    self.reload.at(clock::now().plus(PAUSE));
                }
            }
            Err(caught) => self.try_again("follow renamed views", &caught),
        }
        self.tidy();
        match transaction::run(|| entries().unwrap_or_else(|error| error.raise())) {
            Ok((entries, owners)) => {
                self.board.load(entries, clock::now());
                self.jobs.owned(owners);
                self.hearing.look_anew(self.board.reacting());
                self.end_visit();
            }
            Err(caught) => self.try_again("read the registry", &caught),
        }
        true
    }

    fn log_version(&self, objects: &str, fit: Fit) {
        report::log(
            &format!("cache_refresher: nothing is refreshed in database \"{}\"", self.name),
            Some(&format!(
                "The extension there is of version {objects}, the library of version {}.",
                version::LIBRARY
            )),
            fit.remedy(),
        );
    }

    /// Removes what is left of capture that has ended, each in a transaction of its own: it locks out everybody
    /// else for a moment.
    fn tidy(&mut self) {
        let mut removed = transaction::run(|| {
            let _patience = patience(PATIENCE);
            install::leftovers().unwrap_or_else(|error| error.raise())
        });
        for left in removed.as_mut().map(std::mem::take).unwrap_or_default() {
            let done = transaction::run(|| {
                install::remove(&left).unwrap_or_else(|error| error.raise());
            });
            removed = removed.and_then(|rest| done.map(|()| rest));
        }
        if let Err(caught) = removed {
            self.try_again("remove what is left of capture", &caught);
        }
    }

    /// The launcher lets few databases be looked at for the first time at once: this one has been, whether
    /// or not its registry could be read, and the next may be.
    fn end_visit(&self) {
        let mut first = false;
        shared::update_database(self.database, |known| {
            first = known.knowledge != Knowledge::Present;
            known.knowledge = Knowledge::Present;
        });
        if first {
            latch::wake(shared::launcher());
        }
    }

    /// Notes that something of a reload has to be done again. That somebody holds a lock is no news.
    pub(super) fn try_again(&mut self, what: &str, caught: &Caught) {
        self.reload.at(clock::now().plus(PAUSE));
        self.end_visit();
        let lock_held = caught.code == pgrx::PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE;
        if !lock_held && !signals::terminate_requested() {
            report::log(
                &format!("cache_refresher: cannot {what}: {}", caught.message),
                Some(&format!("SQLSTATE {}.", caught.sqlstate())),
                caught.hint.as_deref(),
            );
        }
    }
}

fn log_missing(name: &ViewName) {
    report::log(
        &format!("cache_refresher: {name} does not exist any more"),
        None,
        Some(
            "It is taken up again when a view of that name is created; \
             cache_refresher.unregister ends that.",
        ),
    );
}

/// What is registered and exists, and whose it is.
fn entries() -> Result<(Vec<ViewEntry>, HashMap<u32, u32>)> {
    let settings = guc::refresh_settings();
    let mut parents: HashMap<u32, Vec<u32>> = HashMap::new();
    for (view, parent) in view::reads()? {
        parents.entry(view).or_default().push(parent);
    }
    let (mut entries, mut owners) = (Vec::new(), HashMap::new());
    for entry in registry::all()? {
        let entry = match entry {
            Ok(entry) => entry,
            Err((view, error)) => {
                report::log(
                    &format!("cache_refresher: the view with OID {view} is not scheduled: {error}"),
                    None,
                    None,
                );
                continue;
            }
        };
        owners.insert(entry.view, entry.owner);
        match policy::of(&entry.registration, &settings.intervals, settings.failures) {
            Ok(policy) => entries.push(ViewEntry {
                id: entry.view,
                policy,
                history: entry.history,
                populated: entry.populated,
                registered_at: entry.registration.registered_at,
                parents: parents.remove(&entry.view).unwrap_or_default(),
                follows: policy::is_inherited(&entry.registration, &settings.intervals),
                reaction: policy::reaction(&entry.registration),
                sources: sources_of(&entry)?,
            }),
            // One bad row must not keep the others from being refreshed.
            Err(error) => report::log(
                &format!("cache_refresher: {} is not scheduled: {error}", entry.registration.name),
                None,
                None,
            ),
        }
    }
    Ok((entries, owners))
}

/// Of what changes the view is to be told.
fn sources_of(entry: &registry::Entry) -> Result<Vec<u32>> {
    if !entry.registration.policy.on_change {
        return Ok(Vec::new());
    }
    let mut sources: Vec<u32> =
        catalog::capture::told_by(entry.view.into())?.into_iter().map(Oid::to_u32).collect();
    sources.push(entry.view);
    Ok(sources)
}
