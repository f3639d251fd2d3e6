//! The shared memory of the extension: where launcher, schedulers, workers and sessions meet.
//!
//! One fixed-size structure under one lightweight lock, held for moments only. It exists when the
//! library is preloaded; without it, `is_available` is false and every other function here does
//! nothing or finds nothing, so that the manual functions work all the same.
//!
//! Nothing in it has to survive: after a crash it starts empty and everything is derived anew from
//! the catalogs.

mod databases;
mod holds;
mod process_end;
mod running;
mod text;
mod workers;

use std::sync::atomic::{AtomicBool, Ordering};

use cache_refresher_core::time::Timestamp;
use pgrx::lwlock::PgLwLock;
use pgrx::{PGRXSharedMemory, pg_guard, pg_shmem_init, pg_sys};

pub use databases::*;
use holds::Hold;
pub use holds::{hold, processes_in, release_holds};
pub use process_end::*;
pub use running::{
    Failure, Running, RunningMark, note_cancel, push_failure, put_back_failures, running,
    take_cancelled, take_failures,
};
pub use text::Text;
pub use workers::*;

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

#[derive(Clone, Copy)]
struct Shared {
    launcher: i32,
    rescan: bool,
    defaults: Option<ServerDefaults>,
    starved_since: Option<Timestamp>,
    /// When a scheduler found no background worker last.
    starved_at: Option<Timestamp>,
    /// Databases want a scheduler, and there is no room for it.
    crowded: bool,
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
    starved_at: None,
    crowded: false,
    databases: [Database::FREE; MAX_DATABASES],
    workers: [WorkerSlot::FREE; MAX_WORKERS],
    running: [Running::FREE; MAX_RUNNING],
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
