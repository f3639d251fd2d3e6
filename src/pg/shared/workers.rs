//! The pool of workers: places, the jobs in them, and what became of those.

use std::time::Duration;

use cache_refresher_core::pool::{self, Assignment, Home, Slot, SlotState};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{History, Why};

use super::databases::Scheduler;
use super::{Shared, read, write};
use crate::pg::process::background_worker::process_places;
use crate::pg::process::latch;

/// A refresh that a scheduler hands to a worker.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// OID of the view.
    pub view: u32,
    /// OID of its owner.
    pub owner: u32,
    /// Why it runs.
    pub why: Why,
    /// When it was due.
    pub due_at: Timestamp,
}

/// What a worker tells its scheduler.
#[derive(Clone, Copy, Debug)]
pub enum Report {
    /// The refresh ended, well or not; the view's history after it.
    Ended(History),
    /// Somebody else is refreshing the view.
    Busy,
    /// The registration or the view has gone, or it is paused: the registry must be read again.
    Gone,
}

/// A worker process, or a free place for one.
#[derive(Clone, Copy, Debug)]
pub enum Worker {
    /// No process.
    Free,
    /// Asked for at that time, with its first job.
    Starting(Timestamp, Job),
    /// Waits for work.
    Idle,
    /// At work.
    Busy(Job),
    /// Has been asked to leave.
    Stopping,
}

/// One place of the worker pool.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSlot {
    /// What the worker is doing.
    pub worker: Worker,
    /// Its database; in a free place, that of the report.
    pub database: u32,
    /// Whose views it refreshes.
    pub owner: u32,
    /// Its process, once it has started.
    pub pid: i32,
    /// The outcome of its last job until the scheduler takes it.
    pub report: Option<(u32, Report)>,
    /// It is to leave after its present job: settings that it read at its start have changed, or it has grown.
    pub retiring: bool,
}

impl WorkerSlot {
    pub(super) const FREE: Self =
        Self { worker: Worker::Free, database: 0, owner: 0, pid: 0, report: None, retiring: false };
}

impl WorkerSlot {
    fn summary(&self) -> Slot {
        let state = match self.worker {
            Worker::Free => SlotState::Free,
            Worker::Starting(..) => SlotState::Starting,
            Worker::Idle => SlotState::Idle,
            Worker::Busy(_) => SlotState::Busy,
            Worker::Stopping => SlotState::Stopping,
        };
        Slot { home: Home { database: self.database, role: self.owner }, state }
    }
}

/// The whole worker pool.
pub fn workers() -> Vec<WorkerSlot> {
    read(|shared| shared.workers.to_vec(), Vec::new())
}

/// Gives a job to a worker: the pool is looked at, decided upon and changed under one lock, so that
/// schedulers of several databases never exceed `max_workers` together. What remains to be done
/// (start a process, wake one, ask one to leave) is the caller's, by the returned placement.
///
/// Where there is no process to be had (`may_start`), those that are there go on.
pub fn place_job(
    database: u32,
    (max_workers, may_start): (usize, bool),
    job: Job,
    now: Timestamp,
) -> (Assignment, i32) {
    write(
        |shared| {
            let slots: Vec<Slot> = shared.workers.iter().map(WorkerSlot::summary).collect();
            let waiting = shared.databases.iter().filter(|other| {
                other.oid != database && matches!(other.scheduler, Scheduler::Running(_))
            });
            let placement = if pool::yields(
                job.due_at,
                waiting.filter_map(|other| other.waiting_since).collect::<Vec<_>>(),
            ) {
                pool::make_room(&slots, database)
            } else {
                pool::decide(&slots, max_workers, may_start, Home { database, role: job.owner })
            };
            // Who cannot start one anyway need not have others make room, unless it is us who take most places.
            let places = process_places();
            let ours = shared.schedulers() + shared.workers_there() + 1;
            let waits = (may_start || ours * 2 >= places)
                && matches!(placement, Assignment::Evict(_) | Assignment::Wait);
            if let Some(database) = shared.database(database) {
                database.waiting_since = waits.then_some(job.due_at);
            }
            match placement {
                Assignment::Reuse(slot) => shared.workers[slot].worker = Worker::Busy(job),
                Assignment::Start(slot) => {
                    let worker = Worker::Starting(now, job);
                    let owner = job.owner;
                    shared.workers[slot] =
                        WorkerSlot { worker, database, owner, ..WorkerSlot::FREE };
                }
                Assignment::Evict(slot) => shared.workers[slot].worker = Worker::Stopping,
                Assignment::Wait => {}
            }
            let pid = match placement {
                Assignment::Reuse(slot) | Assignment::Evict(slot) => shared.workers[slot].pid,
                Assignment::Start(_) | Assignment::Wait => 0,
            };
            (placement, pid)
        },
        (Assignment::Wait, 0),
    )
}

/// Views of a database that a worker has, or has reported and nobody has taken the report.
pub fn jobs_in(oid: u32) -> Vec<u32> {
    read(
        |shared| {
            let places = shared.workers.iter().filter(|place| place.database == oid);
            places
                .filter_map(|place| match (place.worker, place.report) {
                    (Worker::Starting(_, job) | Worker::Busy(job), _) => Some(job.view),
                    (_, report) => report.map(|(view, _)| view),
                })
                .collect()
        },
        Vec::new(),
    )
}

/// What a worker is at.
pub(super) fn job_of(slot: usize) -> Option<Job> {
    read(
        |shared| match shared.workers.get(slot)?.worker {
            Worker::Starting(_, job) | Worker::Busy(job) => Some(job),
            _ => None,
        },
        None,
    )
}

/// Gives back places whose process was asked for before `before` and never came.
pub fn reap_workers(before: Timestamp) {
    write(
        |shared| {
            for place in &mut shared.workers {
                if matches!(place.worker, Worker::Starting(since, _) if since < before) {
                    *place = WorkerSlot::FREE;
                }
            }
        },
        (),
    );
}

/// Notes whether the server had a free background worker when we asked for one.
pub fn note_slots(found: bool, now: Timestamp) {
    write(
        |shared| {
            shared.starved_since = if found { None } else { shared.starved_since.or(Some(now)) };
        },
        (),
    );
}

/// Notes that a scheduler has found no place for a worker.
pub fn note_starving(now: Timestamp) {
    write(|shared| shared.starved_at = Some(now), ());
}

/// How long that counts.
const STARVING: Duration = Duration::from_secs(3);

impl Shared {
    fn is_starving(&self, now: Timestamp) -> bool {
        self.starved_at.is_some_and(|at| at <= now && now.since(at) < STARVING)
    }

    fn workers_there(&self) -> usize {
        self.workers.iter().filter(|place| !matches!(place.worker, Worker::Free)).count()
    }

    fn schedulers(&self) -> usize {
        let databases = self.databases.iter();
        databases.filter(|known| !matches!(known.scheduler, Scheduler::None)).count()
    }
}

/// How many schedulers there are, or will be; and whether one of them finds no place for a worker.
pub fn schedulers(now: Timestamp) -> (usize, bool) {
    read(|shared| (shared.schedulers(), shared.is_starving(now)), (0, false))
}

/// Notes whether databases want a scheduler for which there is no room.
pub fn note_crowded(crowded: bool) {
    if read(|shared| shared.crowded, false) != crowded {
        write(|shared| shared.crowded = crowded, ());
    }
}

/// Whether a scheduler that is not needed just now had better make room for others.
pub fn is_crowded(now: Timestamp) -> bool {
    read(|shared| shared.crowded || shared.is_starving(now) && shared.schedulers() > 1, false)
}

/// Since when the server has had no free background worker for us.
pub fn starved_since() -> Option<Timestamp> {
    read(|shared| shared.starved_since, None)
}

/// Changes one place of the pool under the lock; `change` sees it as it is then and returns
/// whether it went through with it.
pub fn update_worker<R>(slot: usize, change: impl FnOnce(&mut WorkerSlot) -> R) -> Option<R> {
    write(|shared| shared.workers.get_mut(slot).map(change), None)
}

/// Registers this process in its place of the pool; its database, unless it came too late or the
/// database is held.
pub fn attach_worker(slot: usize, pid: i32) -> Option<u32> {
    write(
        |shared| {
            let database = shared.workers.get(slot)?.database;
            let held = shared.is_held(database);
            let place = shared.workers.get_mut(slot)?;
            match place.worker {
                Worker::Starting(_, job) if !held => {
                    place.worker = Worker::Busy(job);
                    place.pid = pid;
                    Some(database)
                }
                Worker::Starting(..) => {
                    *place = WorkerSlot::FREE;
                    None
                }
                _ => None,
            }
        },
        None,
    )
}

/// Leaves the pool; wakes all schedulers, since one of them may be waiting for a place. The outcome of the last
/// job stays.
pub fn free_worker(slot: usize) {
    let schedulers = write(
        |shared| {
            if let Some(place) = shared.workers.get_mut(slot) {
                let &mut WorkerSlot { database, report, .. } = place;
                *place = WorkerSlot { database, report, ..WorkerSlot::FREE };
            }
            running_schedulers(shared)
        },
        Vec::new(),
    );
    schedulers.into_iter().for_each(latch::wake);
}

fn running_schedulers(shared: &Shared) -> Vec<i32> {
    let pids = shared.databases.iter().filter_map(|database| match database.scheduler {
        Scheduler::Running(pid) => Some(pid),
        _ => None,
    });
    pids.collect()
}

/// Schedulers that have found no place for a refresh.
fn waiting_schedulers(shared: &Shared) -> Vec<i32> {
    let waiting = shared.databases.iter().filter(|database| database.waiting_since.is_some());
    waiting
        .filter_map(|database| match database.scheduler {
            Scheduler::Running(pid) => Some(pid),
            _ => None,
        })
        .collect()
}

/// Ends a worker's job with a report and wakes the scheduler of its database, and those that wait for
/// a place in the pool.
pub fn finish_job(slot: usize, view: u32, report: Report) {
    let schedulers = write(
        |shared| {
            let Some(place) = shared.workers.get_mut(slot) else {
                return Vec::new();
            };
            if matches!(place.worker, Worker::Busy(_)) {
                place.worker = if place.retiring { Worker::Stopping } else { Worker::Idle };
            }
            place.report = Some((view, report));
            let database = place.database;
            let mut pids = waiting_schedulers(shared);
            pids.push(shared.scheduler_pid(database));
            pids
        },
        Vec::new(),
    );
    schedulers.into_iter().for_each(latch::wake);
}

/// Takes the reports of the workers of a database, and of those that have left.
pub fn take_reports(oid: u32) -> Vec<(u32, Report)> {
    write(
        |shared| {
            let places = shared.workers.iter_mut().filter(|place| place.database == oid);
            places.filter_map(|place| place.report.take()).collect()
        },
        Vec::new(),
    )
}
