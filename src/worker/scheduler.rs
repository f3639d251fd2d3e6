//! The scheduler of one database: decides what is due and hands it to workers.
//!
//! It lives while something is due soon. What it knows it derives from the catalogs at its start and
//! whenever somebody pokes; workers report the rest through shared memory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CStr;
use std::ops::ControlFlow;
use std::time::Duration;

use cache_refresher_core::board::{Board, Due, ViewEntry};
use cache_refresher_core::pool::Assignment;
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::version::Fit;
use pgrx::pg_sys::Oid;

use super::{NO_SLOT_PAUSE, START_TIMEOUT};
use crate::capture::{self, install};
use crate::catalog::view::{self, ViewName};
use crate::catalog::{self, binding, registry, version};
use crate::error::Result;
use crate::guc;
use crate::pg::identity::{Restriction, Scope};
use crate::pg::report::Caught;
use crate::pg::shared::{self, Job, Knowledge, Report};
use crate::pg::signals::{self, Signal};
use crate::pg::{background_worker, clock, identity, latch, relation, report, transaction};
use crate::refresh::{freshness, policy, session};

/// When to look again at a view that somebody else is refreshing, or whose worker was lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Between two readings of the registry passes so many times what one takes, at most `MOST_CALM`.
const RELOAD_SPACING: u32 = 4;
const MOST_CALM: Duration = Duration::from_secs(2);
/// How long to wait between taking changes, at least and at most.
const LEAST_DEAF: Duration = Duration::from_millis(5);
const MOST_DEAF: Duration = Duration::from_millis(250);
/// How long to look at views without looking at anything else.
const LOOK_TIME: Duration = Duration::from_millis(20);
/// How often to look at the size of logs of changes, while there are changes.
const BOUND_EVERY: Duration = Duration::from_secs(60);
/// When to read the registry again after that failed.
const RELOAD_PAUSE: Duration = Duration::from_secs(5);

/// Entry point of the process; the argument is the database's OID.
pub fn main(argument: i64) {
    let Ok(database) = u32::try_from(argument) else {
        return;
    };
    shared::forget_scheduler_at_end(database);
    signals::install();
    if !shared::attach_scheduler(database, background_worker::my_pid()) {
        return;
    }
    background_worker::connect(Some(database));
    Process {
        database,
        name: transaction::run(identity::current_database_name).unwrap_or_default(),
        board: Board::default(),
        running: HashSet::new(),
        reload_at: None,
        active_at: clock::now(),
        waiting: false,
        no_slot_until: None,
        reloaded_at: Timestamp::from_pg(0),
        reload_took: Duration::ZERO,
        unlooked: Unlooked::default(),
        bounded_at: None,
        deaf_until: None,
        changes_wait: None,
    }
    .run();
}

struct Process {
    database: u32,
    /// The database's name: while it is renamed, no scheduler runs there.
    name: String,
    board: Board,
    /// What workers are believed to be refreshing.
    running: HashSet<u32>,
    /// When to read the registry again, because something has gone wrong or has changed.
    reload_at: Option<Timestamp>,
    /// When there was something to do last.
    active_at: Timestamp,
    /// A refresh waits for a place in the worker pool.
    waiting: bool,
    /// The server had no free background worker: wait until then.
    no_slot_until: Option<Timestamp>,
    /// When the registry was read last, and how long that took.
    reloaded_at: Timestamp,
    reload_took: Duration,
    /// Of which views it is not known what was changed while nobody listened.
    unlooked: Unlooked,
    /// When logs of changes were looked at last.
    bounded_at: Option<Timestamp>,
    /// No changes are taken before this time.
    deaf_until: Option<Timestamp>,
    /// There are some; they are taken at this time.
    changes_wait: Option<Timestamp>,
}

/// Views to be looked at, one after the other.
struct Unlooked {
    views: VecDeque<u32>,
    /// The one that was looked at last.
    last: u32,
    /// How long locks are waited for.
    patience: &'static CStr,
}

impl Default for Unlooked {
    fn default() -> Self {
        Self { views: VecDeque::new(), last: 0, patience: PATIENCE }
    }
}

impl Unlooked {
    /// All views again, in the order of their OIDs, but first those that it was not the turn of: the registry may
    /// be read again and again.
    fn anew(&self, views: Vec<u32>) -> Self {
        let mut views = VecDeque::from(views);
        if !self.views.is_empty() {
            views.rotate_left(views.partition_point(|view| *view <= self.last));
        }
        Self { views, last: self.last, patience: PATIENCE }
    }
}

/// How the process ends.
enum Leave {
    /// The extension is not here.
    Absent,
    /// Nothing is due soon; the launcher starts a scheduler at this time.
    Until(Option<Timestamp>),
}

impl Process {
    fn run(mut self) {
        self.reload_at = Some(clock::now());
        if background_worker::run_loop(|| self.turn()).is_continue() {
            self.withdraw();
        }
    }

    /// One look at what there is to do. Breaks where this process has left.
    fn turn(&mut self) -> ControlFlow<()> {
        let now = clock::now();
        if shared::take_poke(self.database) {
            // Somebody who changes definitions all the time must not keep us from everything else.
            let calm =
                self.reloaded_at.plus(self.reload_took * RELOAD_SPACING).min(now.plus(MOST_CALM));
            self.reload_at = Some(self.reload_at.map_or(calm, |at| at.min(calm)));
        }
        if self.reload_at.is_some_and(|at| at <= now) {
            self.active_at = now;
            let goes_on = self.reload();
            self.reloaded_at = clock::now();
            self.reload_took = self.reloaded_at.since(now);
            if !goes_on {
                (self.board, self.unlooked) = (Board::default(), Unlooked::default());
                return self.leave(Leave::Absent);
            }
        }
        if self.take_reports() {
            self.reload_at = Some(now);
            return ControlFlow::Continue(());
        }
        self.take_changes();
        self.look_for_changes();
        if !guc::enabled() || !guc::databases().contains(&self.name) {
            self.withdraw();
            return ControlFlow::Break(());
        }
        self.start_due();
        let now = clock::now();
        if !self.running.is_empty() || !self.unlooked.views.is_empty() {
            self.active_at = now;
        }
        let linger = guc::worker_linger();
        let leave_at = self.active_at.plus(linger);
        let due = self.board.wake_at();
        let idle = self.running.is_empty()
            && self.unlooked.views.is_empty()
            && self.reload_at.is_none()
            && self.changes_wait.is_none();
        if idle && now >= leave_at && due.is_none_or(|at| at > now.plus(linger)) {
            return self.leave(Leave::Until(due));
        }
        let look_at = if now < leave_at { leave_at } else { now.plus(latch::LONGEST_SLEEP) };
        let next =
            [self.next_look(now), self.reload_at, self.changes_wait].into_iter().flatten().min();
        let wait = next.map_or(look_at, |at| at.min(look_at)).since(now);
        latch::wait(if self.unlooked.views.is_empty() { wait } else { Duration::ZERO });
        ControlFlow::Continue(())
    }

    /// When there is something to do next, by the clock.
    fn next_look(&self, now: Timestamp) -> Option<Timestamp> {
        let due = self.board.wake_at();
        // What is due already waits for a worker, whose end wakes us.
        let due = due.map(|at| if at <= now { now.plus(LOOK_AGAIN) } else { at });
        match (due, self.no_slot_until) {
            (Some(due), Some(until)) if until > now => Some(due.max(until)),
            (due, _) => due,
        }
    }

    /// Reads the registry again; false if the extension is not here, or is of another version. Where something goes wrong, what
    /// was known before goes on being refreshed, and it is tried again a little later.
    fn reload(&mut self) -> bool {
        self.reload_at = None;
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
                    self.reload_at = Some(clock::now().plus(RELOAD_PAUSE));
                }
            }
            Err(caught) => self.try_again("follow renamed views", &caught),
        }
        self.tidy();
        match transaction::run(|| entries().unwrap_or_else(|error| error.raise())) {
            Ok(entries) => {
                self.board.load(entries, clock::now());
                self.unlooked = self.unlooked.anew(self.board.reacting());
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

    /// Learns what was changed while nobody listened, of some of the views: what is due goes on meanwhile. That
    /// takes locks on what the views read, so each view gets a transaction of its own: two such locks at once might
    /// wait for somebody who waits for one of them.
    fn look_for_changes(&mut self) {
        let begun = clock::now();
        while let Some(id) = self.unlooked.views.pop_front() {
            self.unlooked.last = id;
            let patience_with = self.unlooked.patience;
            match transaction::run(|| {
                let _patience = patience(patience_with);
                freshness::stale_since(Oid::from(id)).unwrap_or_else(|error| error.raise())
            }) {
                Ok(None) => {}
                Ok(Some(since)) => self.board.stale(id, since, clock::now()),
                // Whoever dropped it has poked.
                Err(_) if is_gone(id) => {}
                Err(caught) => {
                    // One table that is locked for long holds up the views of others no more than once.
                    self.unlooked.patience = c"1";
                    self.try_again("see whether a view is stale", &caught);
                }
            }
            if clock::now().since(begun) > LOOK_TIME {
                break;
            }
        }
        self.reload_took += clock::now().since(begun);
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
    fn try_again(&mut self, what: &str, caught: &Caught) {
        let again = clock::now().plus(RELOAD_PAUSE);
        self.reload_at = Some(self.reload_at.map_or(again, |at| at.min(again)));
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

    /// Learns what workers have done. True if the registry must be read again.
    fn take_reports(&mut self) -> bool {
        let now = clock::now();
        let mut reload = false;
        for (view, report) in shared::take_reports(self.database) {
            self.running.remove(&view);
            self.board.finish(view, now);
            match report {
                Report::Ended(history) => {
                    // A refresh that was cut off by the end of its worker leaves the history as it was.
                    let populated =
                        history.last_finished.is_some() && history.consecutive_failures == 0;
                    self.board.apply(view, history, populated, now);
                }
                Report::Busy => self.board.postpone(view, now.plus(LOOK_AGAIN)),
                Report::Gone => reload = true,
            }
        }
        shared::reap_workers(now.minus(START_TIMEOUT));
        let held: HashSet<u32> = shared::jobs_in(self.database).into_iter().collect();
        for view in self.running.extract_if(|view| !held.contains(view)) {
            // Its worker was ended from outside before it could report.
            self.board.finish(view, now);
            self.board.postpone(view, now.plus(LOOK_AGAIN));
            reload = true;
        }
        reload
    }

    /// Learns what has been changed. Where that is too much to tell, the registry is read again, and
    /// then what each view does not show.
    ///
    /// Whoever changes what is reported already has nobody to wake. So changes are taken a moment after
    /// those before, and not each as it comes: a view waits for some quiet anyway, or is being refreshed
    /// meanwhile.
    fn take_changes(&mut self) {
        let now = clock::now();
        let soon = self.deaf_until.filter(|until| now < *until && until.since(now) <= MOST_DEAF);
        if soon.is_some() && shared::has_changes(self.database) {
            self.changes_wait = soon;
            return;
        }
        self.changes_wait = None;
        let Some(changes) = shared::take_changes(self.database) else { return };
        self.active_at = now;
        let shortest = self.board.shortest_debounce().unwrap_or(MOST_DEAF);
        self.deaf_until = Some(now.plus((shortest / 4).clamp(LEAST_DEAF, MOST_DEAF)));
        if self.bounded_at.is_none_or(|at| at.plus(BOUND_EVERY) <= now || at > now) {
            self.bounded_at = Some(now);
            self.bound_logs();
        }
        match changes.sources() {
            Some(sources) => sources.iter().for_each(|&source| self.board.changed(source, now)),
            None => self.reload_at = Some(now),
        }
    }

    /// Keeps logs of changes from growing without end where a view is not refreshed for long.
    fn bound_logs(&mut self) {
        let bounded = transaction::run(|| {
            let _patience = patience(PATIENCE);
            capture::bound().unwrap_or_else(|error| error.raise())
        });
        // They tell how many rows a log has.
        background_worker::report_statistics();
        match bounded {
            Ok(emptied) => emptied.iter().for_each(|name| {
                report::log(
                    &format!("cache_refresher: the log of changes of {name} has become too large, and was emptied"),
                    None,
                    Some("Views that had not shown them are refreshed with diff."),
                );
            }),
            Err(caught) => self.try_again("bound the logs of changes", &caught),
        }
    }

    /// Hands out what is due, as far as there are workers.
    fn start_due(&mut self) {
        let now = clock::now();
        self.no_slot_until = self.no_slot_until.filter(|until| *until > now);
        let all_placed =
            self.board.due(now, shared::MAX_WORKERS).into_iter().all(|due| self.place(due, now));
        if all_placed && std::mem::take(&mut self.waiting) {
            // What was waiting may have been paused: nobody is to make room for it.
            shared::update_database(self.database, |known| known.waiting_since = None);
        }
        self.waiting = !all_placed;
    }

    /// Gives one refresh to a worker. False if there is none to be had now.
    fn place(&mut self, due: Due, now: Timestamp) -> bool {
        let job = Job { view: due.id, why: due.why, due_at: due.due_at };
        let limits = (guc::max_workers(), self.no_slot_until.is_none());
        let (placement, pid) = shared::place_job(self.database, limits, job, now);
        match placement {
            Assignment::Reuse(_) => latch::wake(pid),
            Assignment::Start(slot) => {
                let found = background_worker::start_worker(slot);
                shared::note_slots(found, now);
                if !found {
                    shared::free_worker(slot);
                    // Whoever has workers of its own need not wait for us meanwhile.
                    shared::update_database(self.database, |known| known.waiting_since = None);
                    self.no_slot_until = Some(now.plus(NO_SLOT_PAUSE));
                    return false;
                }
            }
            Assignment::Evict(_) => {
                signals::send(pid, Signal::Terminate);
                return false;
            }
            Assignment::Wait => return false,
        }
        self.board.start(due.id);
        self.running.insert(due.id);
        true
    }

    /// Leaves for good reason, unless somebody has poked meanwhile, and there is more to do.
    fn leave(&self, leave: Leave) -> ControlFlow<()> {
        let (knowledge, deadline) = match leave {
            Leave::Absent => (Knowledge::Absent, None),
            Leave::Until(deadline) => (Knowledge::Present, deadline),
        };
        if !shared::detach_scheduler(self.database, knowledge, deadline) {
            return ControlFlow::Continue(());
        }
        // The launcher has to know the deadline.
        latch::wake(shared::launcher());
        ControlFlow::Break(())
    }

    /// Leaves because it was told to: the launcher decides whether and when there is a next one.
    fn withdraw(&self) {
        shared::update_database(self.database, |database| {
            database.scheduler = shared::Scheduler::None;
            database.waiting_since = None;
            database.knowledge = Knowledge::Present;
            database.poked = true;
            database.not_before = Some(clock::now().plus(LOOK_AGAIN));
        });
        latch::wake(shared::launcher());
    }
}

/// A short patience with locks, in milliseconds: a session may hold a row of the registry to the end of a
/// long transaction, and the refreshes of all other views must not wait for it.
const PATIENCE: &CStr = c"200";

fn patience(time: &'static CStr) -> Scope {
    Scope::enter(
        identity::current_role(),
        Restriction::LocalUserIdChange,
        &[(c"lock_timeout", time)],
    )
}

fn is_gone(view: u32) -> bool {
    transaction::run(|| relation::ViewEntry::find(view.into()).is_none()).unwrap_or(false)
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

/// What is registered and exists.
fn entries() -> Result<Vec<ViewEntry>> {
    let settings = guc::refresh_settings();
    let mut parents: HashMap<u32, Vec<u32>> = HashMap::new();
    for (view, parent) in view::reads()? {
        parents.entry(view).or_default().push(parent);
    }
    let mut entries = Vec::new();
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
    Ok(entries)
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
