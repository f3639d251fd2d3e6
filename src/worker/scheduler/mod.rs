//! The scheduler of one database: decides what is due and hands it to workers.
//!
//! It lives while something is due soon. What it knows it derives from the catalogs at its start and
//! whenever somebody pokes; workers report the rest through shared memory.

mod changes;
mod jobs;
mod registry;

use std::ffi::CStr;
use std::ops::ControlFlow;
use std::time::Duration;

use cache_refresher_core::board::Board;
use cache_refresher_core::time::Timestamp;

use self::changes::Hearing;
use self::jobs::Jobs;
use self::registry::Reload;
use crate::guc;
use crate::pg::identity::{Restriction, Scope};
use crate::pg::process::{background_worker, latch, signals};
use crate::pg::shared::{self, Knowledge};
use crate::pg::{clock, identity, transaction};

/// When to look again at a view that somebody else is refreshing, or whose worker was lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long to wait for a worker while other databases have no scheduler.
const LONGEST_STAY: Duration = Duration::from_secs(10);

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
        began_at: clock::now(),
        active_at: clock::now(),
        reload: Reload::default(),
        hearing: Hearing::default(),
        jobs: Jobs::default(),
    }
    .run();
}

struct Process {
    database: u32,
    /// The database's name: while it is renamed, no scheduler runs there.
    name: String,
    board: Board,
    began_at: Timestamp,
    /// When there was something to do last.
    active_at: Timestamp,
    reload: Reload,
    hearing: Hearing,
    jobs: Jobs,
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
        self.reload.at(clock::now());
        if background_worker::run_loop(|| self.turn()).is_continue() {
            self.withdraw();
        }
    }

    /// One look at what there is to do. Breaks where this process has left.
    fn turn(&mut self) -> ControlFlow<()> {
        let now = clock::now();
        if shared::take_poke(self.database) {
            self.reload.calmly(now);
        }
        if self.reload.is_due(now) {
            self.active_at = now;
            let goes_on = self.read_registry();
            self.reload.done(now, clock::now());
            if !goes_on {
                (self.board, self.hearing) = (Board::default(), Hearing::default());
                return self.leave(Leave::Absent);
            }
        }
        if self.take_reports() {
            self.reload.at(now);
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
        let busy = !self.jobs.is_empty() || !self.hearing.is_caught_up();
        if busy {
            self.active_at = now;
        }
        let linger = guc::worker_linger();
        let leave_at = self.active_at.plus(linger);
        let due = self.board.wake_at();
        let (reload, changes) = (self.reload.next(), self.hearing.next());
        let idle = !busy && reload.is_none() && changes.is_none();
        if idle && now >= leave_at && due.is_none_or(|at| at > now.plus(linger)) {
            return self.leave(Leave::Until(due));
        }
        if shared::is_crowded(now) && !busy && reload.is_none() {
            // Others want the place. What is due and finds no worker does so no longer than others wait for that.
            let rests = changes.is_none() && due.is_none_or(|at| at > now);
            if rests || now.since(self.began_at) > LONGEST_STAY {
                return self.leave(Leave::Until(due));
            }
        }
        let look_at = if now < leave_at { leave_at } else { now.plus(latch::LONGEST_SLEEP) };
        let next = [self.jobs.next(due, now), reload, changes].into_iter().flatten().min();
        let wait = next.map_or(look_at, |at| at.min(look_at)).since(now);
        latch::wait(if self.hearing.is_caught_up() { wait } else { Duration::ZERO });
        ControlFlow::Continue(())
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
