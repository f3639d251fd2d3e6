//! The shared memory of the extension: where launcher, schedulers, workers and sessions meet.
//!
//! One fixed-size structure under one lightweight lock, held for moments only. It exists when the
//! library is preloaded; without it, `is_available` is false and every other function here does
//! nothing or finds nothing, so that the manual functions work all the same.
//!
//! Nothing in it has to survive: after a crash it starts empty and everything is derived anew from
//! the catalogs.

use std::sync::atomic::{AtomicBool, Ordering};

use cache_refresher_core::pool::{self, Placement, Slot, SlotState};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{History, Why};
use pgrx::lwlock::PgLwLock;
use pgrx::{PGRXSharedMemory, pg_guard, pg_shmem_init, pg_sys};

/// Databases that can be known at once. Those without the extension give their place back.
pub const MAX_DATABASES: usize = 1024;
/// Upper bound of `cache_refresher.max_workers`.
pub const MAX_WORKERS: usize = 64;
/// Refreshes, by workers and sessions, that can be shown as running.
const MAX_RUNNING: usize = 256;
/// Failed refreshes of sessions that wait to be logged by the scheduler.
const MAX_FAILURES: usize = 64;
/// Statements at once that keep us out of a database.
const MAX_HOLDS: usize = 32;

/// A short text in shared memory; a longer one is cut at a character boundary.
#[derive(Clone, Copy)]
pub struct Text<const N: usize> {
    length: usize,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    /// The text, or as much of it as fits.
    pub fn new(text: &str) -> Self {
        let mut length = text.len().min(N);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        let mut bytes = [0; N];
        bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        Self { length, bytes }
    }

    /// The text as it was stored.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// What is known about a database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Knowledge {
    /// No scheduler has looked since the server started or since somebody poked.
    Unvisited,
    /// The extension is not there.
    Absent,
    /// The extension is there.
    Present,
}

/// The scheduler process of a database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheduler {
    /// None runs. Next: `Starting`.
    None,
    /// Asked for at that time, not there yet. Next: `Running`, or `None` if it never comes.
    Starting(Timestamp),
    /// At work, with this pid. Next: `None`.
    Running(i32),
}

/// One database as launcher and scheduler see it.
#[derive(Clone, Copy, Debug)]
pub struct Database {
    /// OID in pg_database; 0 in a free place.
    pub oid: u32,
    /// Whether the extension is there.
    pub knowledge: Knowledge,
    /// Its scheduler.
    pub scheduler: Scheduler,
    /// When something is due next; none if nothing is.
    pub deadline: Option<Timestamp>,
    /// Somebody committed something that a scheduler has to look at.
    pub poked: bool,
    /// Schedulers that ended badly in a row.
    pub failures: u32,
    /// No scheduler before this time.
    pub not_before: Option<Timestamp>,
}

impl Database {
    const FREE: Self = Self {
        oid: 0,
        knowledge: Knowledge::Unvisited,
        scheduler: Scheduler::None,
        deadline: None,
        poked: false,
        failures: 0,
        not_before: None,
    };
}

/// A refresh that a scheduler hands to a worker.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// OID of the view.
    pub view: u32,
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
    /// The registration or the view has gone: the registry must be read again.
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
    /// Its database; 0 in a free place.
    pub database: u32,
    /// Its process, once it has started.
    pub pid: i32,
    /// The outcome of its last job until the scheduler takes it.
    pub report: Option<(u32, Report)>,
    /// It is to leave after its present job, since settings that it read at its start have changed.
    pub retiring: bool,
}

impl WorkerSlot {
    const FREE: Self =
        Self { worker: Worker::Free, database: 0, pid: 0, report: None, retiring: false };
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
        Slot { database: self.database, state }
    }
}

/// A refresh that runs now, whoever runs it.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// The database.
    pub database: u32,
    /// OID of the view; 0 in a free place.
    pub view: u32,
    /// The process.
    pub pid: i32,
    /// Since when.
    pub started_at: Timestamp,
}

/// A refresh that failed in a user's session, whose transaction cannot log it.
#[derive(Clone, Copy)]
pub struct Failure {
    /// The database.
    pub database: u32,
    /// OID of the view.
    pub view: u32,
    /// OID of the role that asked.
    pub role: u32,
    /// When the refresh began.
    pub started_at: Timestamp,
    /// When it failed.
    pub finished_at: Timestamp,
    /// Cancelled by somebody, not failed.
    pub cancelled: bool,
    /// SQLSTATE.
    pub sqlstate: Text<5>,
    /// Primary message.
    pub message: Text<1000>,
}

/// A statement that needs a database to itself: no process of ours enters until it is over.
#[derive(Clone, Copy)]
struct Hold {
    database: u32,
    /// The backend that runs the statement; 0 in a free place.
    pid: i32,
}

/// The settings that a new session would have, for refreshes that must not depend on who asks.
#[derive(Clone, Copy)]
pub struct ServerDefaults {
    /// TimeZone.
    pub time_zone: Text<64>,
    /// DateStyle.
    pub date_style: Text<32>,
    /// IntervalStyle.
    pub interval_style: Text<32>,
}

#[derive(Clone, Copy)]
struct Shared {
    launcher: i32,
    rescan: bool,
    defaults: Option<ServerDefaults>,
    starved_since: Option<Timestamp>,
    databases: [Database; MAX_DATABASES],
    workers: [WorkerSlot; MAX_WORKERS],
    running: [Running; MAX_RUNNING],
    failures: [Option<Failure>; MAX_FAILURES],
    holds: [Hold; MAX_HOLDS],
}

// SAFETY: plain data without pointers, the same layout in every process: all are forked from the
// postmaster that loaded the library.
unsafe impl PGRXSharedMemory for Shared {}

const INITIAL: Shared = Shared {
    launcher: 0,
    rescan: true,
    defaults: None,
    starved_since: None,
    databases: [Database::FREE; MAX_DATABASES],
    workers: [WorkerSlot::FREE; MAX_WORKERS],
    running: [Running { database: 0, view: 0, pid: 0, started_at: Timestamp::from_pg(0) };
        MAX_RUNNING],
    failures: [None; MAX_FAILURES],
    holds: [Hold { database: 0, pid: 0 }; MAX_HOLDS],
};

// SAFETY: the name is ours.
static SHARED: PgLwLock<Shared> = unsafe { PgLwLock::new(c"cache_refresher") };
static AVAILABLE: AtomicBool = AtomicBool::new(false);

/// Reserves the memory. Only while shared_preload_libraries are loaded.
pub fn reserve() {
    pg_shmem_init!(SHARED = INITIAL);
    AVAILABLE.store(true, Ordering::Relaxed);
}

/// Whether the library was preloaded.
pub fn is_available() -> bool {
    AVAILABLE.load(Ordering::Relaxed)
}

fn read<R>(body: impl FnOnce(&Shared) -> R, otherwise: R) -> R {
    if is_available() { body(&SHARED.share()) } else { otherwise }
}

fn write<R>(body: impl FnOnce(&mut Shared) -> R, otherwise: R) -> R {
    if is_available() { body(&mut SHARED.exclusive()) } else { otherwise }
}

impl Shared {
    fn database(&mut self, oid: u32) -> Option<&mut Database> {
        self.databases.iter_mut().find(|database| database.oid == oid)
    }

    fn is_held(&self, oid: u32) -> bool {
        self.holds.iter().any(|hold| hold.pid != 0 && hold.database == oid)
    }

    fn scheduler_pid(&self, oid: u32) -> i32 {
        self.databases
            .iter()
            .find_map(|database| match database.scheduler {
                Scheduler::Running(pid) if database.oid == oid => Some(pid),
                _ => None,
            })
            .unwrap_or(0)
    }
}

// ---- launcher --------------------------------------------------------------------------------

/// Registers this process as the launcher and tells what settings a new session would have.
pub fn attach_launcher(pid: i32) {
    write(|shared| (shared.launcher, shared.rescan) = (pid, true), ());
}

/// The launcher is leaving.
pub fn detach_launcher() {
    write(|shared| shared.launcher = 0, ());
}

/// Pid of the launcher, 0 if there is none.
pub fn launcher() -> i32 {
    read(|shared| shared.launcher, 0)
}

/// Publishes the settings that a new session would have.
pub fn publish_defaults(defaults: ServerDefaults) {
    write(|shared| shared.defaults = Some(defaults), ());
}

/// The settings that a new session would have, once the launcher has published them.
pub fn defaults() -> Option<ServerDefaults> {
    read(|shared| shared.defaults, None)
}

/// Whether the list of databases must be read again; asking clears the request.
pub fn take_rescan() -> bool {
    write(|shared| std::mem::take(&mut shared.rescan), false)
}

/// All known databases, with whether each is held.
pub fn databases() -> Vec<(Database, bool)> {
    read(
        |shared| {
            let known = shared.databases.iter().filter(|database| database.oid != 0);
            known.map(|database| (*database, shared.is_held(database.oid))).collect()
        },
        Vec::new(),
    )
}

/// Remembers exactly these databases: new ones as unvisited, others are forgotten.
/// Returns how many found no place.
pub fn set_databases(oids: &[u32]) -> usize {
    write(
        |shared| {
            for database in &mut shared.databases {
                if database.oid != 0 && !oids.contains(&database.oid) {
                    *database = Database::FREE;
                }
            }
            oids.iter()
                .filter(|&&oid| {
                    if shared.database(oid).is_some() {
                        return false;
                    }
                    match shared.database(0) {
                        Some(place) => {
                            *place = Database { oid, ..Database::FREE };
                            false
                        }
                        None => true,
                    }
                })
                .count()
        },
        0,
    )
}

/// Changes what is known of a database, if it is known at all.
pub fn update_database(oid: u32, change: impl FnOnce(&mut Database)) {
    write(
        |shared| {
            if let Some(database) = shared.database(oid) {
                change(database);
            }
        },
        (),
    );
}

// ---- schedulers ------------------------------------------------------------------------------

/// Registers this process as the scheduler of a database. False if it must not run: another one
/// does, or the database is held.
pub fn attach_scheduler(oid: u32, pid: i32) -> bool {
    write(
        |shared| {
            let held = shared.is_held(oid);
            match shared.database(oid) {
                Some(database) if !matches!(database.scheduler, Scheduler::Running(_)) => {
                    database.scheduler =
                        if held { Scheduler::None } else { Scheduler::Running(pid) };
                    !held
                }
                _ => false,
            }
        },
        false,
    )
}

/// Whether something was committed that the scheduler has to look at; asking clears the request.
pub fn take_poke(oid: u32) -> bool {
    write(
        |shared| shared.database(oid).is_some_and(|database| std::mem::take(&mut database.poked)),
        false,
    )
}

/// Leaves with this deadline, unless somebody has poked meanwhile: then false, and stay.
pub fn detach_scheduler(oid: u32, knowledge: Knowledge, deadline: Option<Timestamp>) -> bool {
    write(
        |shared| match shared.database(oid) {
            Some(database) if database.poked => false,
            Some(database) => {
                database.scheduler = Scheduler::None;
                database.knowledge = knowledge;
                database.deadline = deadline;
                (database.failures, database.not_before) = (0, None);
                true
            }
            None => true,
        },
        true,
    )
}

/// Tells the scheduler of a database, or the launcher if there is none, to look again.
pub fn poke(oid: u32) {
    let pids = write(
        |shared| {
            match shared.database(oid) {
                Some(database) => {
                    database.poked = true;
                    if database.knowledge == Knowledge::Absent {
                        database.knowledge = Knowledge::Unvisited;
                    }
                }
                None => shared.rescan = true,
            }
            (shared.scheduler_pid(oid), shared.launcher)
        },
        (0, 0),
    );
    super::latch::wake(if pids.0 != 0 { pids.0 } else { pids.1 });
}

/// Like [`poke`], but only where the extension is known to be: for statements that merely may concern
/// a registered view.
pub fn nudge(oid: u32) {
    let present = read(
        |shared| {
            let mut databases = shared.databases.iter();
            databases.any(|known| known.oid == oid && known.knowledge == Knowledge::Present)
        },
        false,
    );
    if present {
        poke(oid);
    }
}

/// Like [`poke`], but only if a scheduler runs there: one that starts later sees by itself what
/// there is to see.
pub fn poke_running(oid: u32) {
    if read(|shared| shared.scheduler_pid(oid) != 0, false) {
        poke(oid);
    }
}

/// Has the scheduler and the workers of a database replaced by new ones, which read the database's
/// settings at their start. Running refreshes come to their end first.
pub fn replace_processes(oid: u32) {
    let pids = write(
        |shared| {
            let mut pids = vec![shared.scheduler_pid(oid)];
            for place in shared.workers.iter_mut().filter(|place| place.database == oid) {
                match place.worker {
                    Worker::Idle => {
                        place.worker = Worker::Stopping;
                        pids.push(place.pid);
                    }
                    _ => place.retiring = true,
                }
            }
            pids
        },
        Vec::new(),
    );
    for pid in pids {
        super::signals::send(pid, super::signals::Signal::Terminate);
    }
    nudge(oid);
}

/// The settings of the server have changed: every deadline has to be computed anew.
pub fn nudge_all() {
    let present: Vec<u32> = databases()
        .into_iter()
        .filter(|(database, _)| database.knowledge == Knowledge::Present)
        .map(|(database, _)| database.oid)
        .collect();
    present.into_iter().for_each(poke);
}

/// Tells the launcher to read the list of databases again.
pub fn request_rescan() {
    let launcher = write(
        |shared| {
            shared.rescan = true;
            shared.launcher
        },
        0,
    );
    super::latch::wake(launcher);
}

// ---- workers ---------------------------------------------------------------------------------

/// The whole worker pool.
pub fn workers() -> Vec<WorkerSlot> {
    read(|shared| shared.workers.to_vec(), Vec::new())
}

/// Gives a job to a worker: the pool is looked at, decided upon and changed under one lock, so that
/// schedulers of several databases never exceed `max_workers` together. What remains to be done
/// (start a process, wake one, ask one to leave) is the caller's, by the returned placement.
pub fn place_job(database: u32, max_workers: usize, job: Job, now: Timestamp) -> (Placement, i32) {
    write(
        |shared| {
            let slots: Vec<Slot> = shared.workers.iter().map(WorkerSlot::summary).collect();
            let placement = pool::decide(&slots, max_workers, database);
            match placement {
                Placement::Reuse(slot) => shared.workers[slot].worker = Worker::Busy(job),
                Placement::Start(slot) => {
                    let worker = Worker::Starting(now, job);
                    shared.workers[slot] = WorkerSlot { worker, database, ..WorkerSlot::FREE };
                }
                Placement::Evict(slot) => shared.workers[slot].worker = Worker::Stopping,
                Placement::Wait => {}
            }
            let pid = match placement {
                Placement::Reuse(slot) | Placement::Evict(slot) => shared.workers[slot].pid,
                Placement::Start(_) | Placement::Wait => 0,
            };
            (placement, pid)
        },
        (Placement::Wait, 0),
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

/// Leaves the pool; wakes all schedulers, since one of them may be waiting for a place.
pub fn free_worker(slot: usize) {
    let schedulers = write(
        |shared| {
            if let Some(place) = shared.workers.get_mut(slot) {
                *place = WorkerSlot::FREE;
            }
            running_schedulers(shared)
        },
        Vec::new(),
    );
    schedulers.into_iter().for_each(super::latch::wake);
}

fn running_schedulers(shared: &Shared) -> Vec<i32> {
    let pids = shared.databases.iter().filter_map(|database| match database.scheduler {
        Scheduler::Running(pid) => Some(pid),
        _ => None,
    });
    pids.collect()
}

/// Ends a worker's job with a report and wakes the scheduler of its database.
pub fn finish_job(slot: usize, view: u32, report: Report) {
    let scheduler = write(
        |shared| {
            let Some(place) = shared.workers.get_mut(slot) else {
                return 0;
            };
            if matches!(place.worker, Worker::Busy(_)) {
                place.worker = if place.retiring { Worker::Stopping } else { Worker::Idle };
            }
            place.report = Some((view, report));
            let database = place.database;
            shared.scheduler_pid(database)
        },
        0,
    );
    super::latch::wake(scheduler);
}

/// Takes the reports of the workers of a database. A worker that left keeps none.
pub fn take_reports(oid: u32) -> Vec<(u32, Report)> {
    write(
        |shared| {
            let places = shared.workers.iter_mut().filter(|place| place.database == oid);
            places.filter_map(|place| place.report.take()).collect()
        },
        Vec::new(),
    )
}

// ---- running refreshes -----------------------------------------------------------------------

/// Marks a refresh as running until dropped.
pub struct RunningMark {
    view: u32,
    pid: i32,
}

impl RunningMark {
    /// Marks a refresh by this process.
    pub fn set(database: u32, view: u32, pid: i32, started_at: Timestamp) -> Self {
        write(
            |shared| {
                if let Some(place) = shared.running.iter_mut().find(|place| place.view == 0) {
                    *place = Running { database, view, pid, started_at };
                }
            },
            (),
        );
        Self { view, pid }
    }
}

impl Drop for RunningMark {
    fn drop(&mut self) {
        let (view, pid) = (self.view, self.pid);
        write(
            |shared| {
                let mut places = shared.running.iter_mut();
                if let Some(place) = places.find(|place| place.view == view && place.pid == pid) {
                    place.view = 0;
                }
            },
            (),
        );
    }
}

/// Forgets what a process that is ending has marked.
fn clear_running(shared: &mut Shared, pid: i32) {
    for place in shared.running.iter_mut().filter(|place| place.pid == pid) {
        place.view = 0;
    }
}

/// The refreshes that run in a database.
pub fn running(oid: u32) -> Vec<Running> {
    read(
        |shared| {
            let places = shared.running.iter();
            places.filter(|place| place.view != 0 && place.database == oid).copied().collect()
        },
        Vec::new(),
    )
}

// ---- failures of sessions --------------------------------------------------------------------

/// Hands a failure to the scheduler to be logged; dropped if too many wait already.
pub fn push_failure(failure: Failure) {
    write(
        |shared| {
            if let Some(place) = shared.failures.iter_mut().find(|place| place.is_none()) {
                *place = Some(failure);
            }
        },
        (),
    );
    poke(failure.database);
}

/// Takes the failures that wait to be logged in a database.
pub fn take_failures(oid: u32) -> Vec<Failure> {
    write(
        |shared| {
            let places = shared.failures.iter_mut();
            places
                .filter(|place| place.is_some_and(|failure| failure.database == oid))
                .filter_map(Option::take)
                .collect()
        },
        Vec::new(),
    )
}

// ---- holds -----------------------------------------------------------------------------------

/// Keeps our processes out of a database on behalf of the backend `pid`. Returns the processes of
/// ours that are there now. False in the second place: no hold could be placed.
pub fn hold(oid: u32, pid: i32) -> (Vec<i32>, bool) {
    write(
        |shared| {
            let placed = shared.is_held(oid) && shared.holds.iter().any(|hold| hold.pid == pid)
                || match shared.holds.iter_mut().find(|hold| hold.pid == 0) {
                    Some(place) => {
                        *place = Hold { database: oid, pid };
                        true
                    }
                    None => false,
                };
            (processes(shared, oid), placed)
        },
        (Vec::new(), false),
    )
}

/// Our processes in a database.
pub fn processes_in(oid: u32) -> Vec<i32> {
    read(|shared| processes(shared, oid), Vec::new())
}

fn processes(shared: &Shared, oid: u32) -> Vec<i32> {
    let workers = shared.workers.iter().filter(|place| place.database == oid && place.pid != 0);
    let mut pids: Vec<i32> = workers.map(|place| place.pid).collect();
    pids.extend(Some(shared.scheduler_pid(oid)).filter(|&pid| pid != 0));
    pids
}

/// Ends the holds of a backend; launcher and schedulers look again.
pub fn release_holds(pid: i32) {
    let launcher = write(
        |shared| {
            let mut released = false;
            for hold in shared.holds.iter_mut().filter(|hold| hold.pid == pid) {
                hold.pid = 0;
                released = true;
            }
            shared.rescan |= released;
            if released { shared.launcher } else { 0 }
        },
        0,
    );
    super::latch::wake(launcher);
}

// ---- the end of a process --------------------------------------------------------------------

/// What a process of ours is, so that its end can be told from its exit code alone.
#[derive(Clone, Copy)]
enum Role {
    Launcher,
    Scheduler(u32),
    Worker(usize),
    Session,
}

thread_local! {
    static ROLE: std::cell::Cell<Role> = const { std::cell::Cell::new(Role::Session) };
}

/// To be called once by each process that has marks in shared memory: clears them at its end.
fn at_process_end(role: Role) {
    ROLE.set(role);
    // SAFETY: the callback has the right signature and stays loaded for the life of the process.
    unsafe { pg_sys::before_shmem_exit(Some(on_process_end), pg_sys::Datum::from(0)) };
}

/// Clears the launcher's marks when this process ends.
pub fn forget_launcher_at_end() {
    at_process_end(Role::Launcher);
}

/// Clears the scheduler's marks when this process ends.
pub fn forget_scheduler_at_end(database: u32) {
    at_process_end(Role::Scheduler(database));
}

/// Clears the worker's marks when this process ends.
pub fn forget_worker_at_end(slot: usize) {
    at_process_end(Role::Worker(slot));
}

/// Clears this session's holds when it ends in the middle of a statement.
pub fn forget_session_at_end() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| at_process_end(Role::Session));
}

#[pg_guard]
unsafe extern "C-unwind" fn on_process_end(_code: i32, _argument: pg_sys::Datum) {
    // SAFETY: a FATAL error may have left a lightweight lock held by this process, ours included.
    unsafe { pg_sys::LWLockReleaseAll() };
    // SAFETY: a variable of this process.
    let pid = unsafe { pg_sys::MyProcPid };
    write(|shared| clear_running(shared, pid), ());
    release_holds(pid);
    match ROLE.get() {
        Role::Launcher => detach_launcher(),
        Role::Worker(slot) => free_worker(slot),
        Role::Scheduler(oid) => {
            let launcher = write(
                |shared| {
                    if let Some(database) = shared.database(oid)
                        && database.scheduler == Scheduler::Running(pid)
                    {
                        // It did not detach, so it ended badly: look again, but not at once.
                        database.scheduler = Scheduler::None;
                        database.poked = true;
                        database.failures += 1;
                        let delay =
                            cache_refresher_core::databases::restart_delay(database.failures);
                        database.not_before = Some(super::clock::now().plus(delay));
                    }
                    shared.launcher
                },
                0,
            );
            super::latch::wake(launcher);
        }
        Role::Session => {}
    }
}
