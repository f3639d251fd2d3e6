//! What the end of a process of ours leaves to be put right.

use cache_refresher_core::view_state::Why;
use pgrx::{pg_guard, pg_sys};

use super::databases::{Scheduler, detach_launcher};
use super::holds::release_holds;
use super::running::{Failure, Running, clear_running, push_failure};
use super::text::Text;
use super::workers::{free_worker, job_of};
use super::write;
use crate::pg::clock;
use crate::pg::process::{deadline, latch};

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

/// Clears this session's marks and holds when it ends in the middle of a statement. Our own processes
/// have seen to that at their start.
pub fn forget_session_at_end() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    if matches!(ROLE.get(), Role::Session) {
        ONCE.call_once(|| at_process_end(Role::Session));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_process_end(_code: i32, _argument: pg_sys::Datum) {
    // SAFETY: a FATAL error may have left a lightweight lock held by this process, ours included.
    unsafe { pg_sys::LWLockReleaseAll() };
    // SAFETY: a variable of this process.
    let pid = unsafe { pg_sys::MyProcPid };
    let cut_short = write(|shared| clear_running(shared, pid), Vec::new());
    release_holds(pid);
    match ROLE.get() {
        Role::Launcher => detach_launcher(),
        Role::Worker(slot) => {
            let why = job_of(slot).map(|job| job.why);
            cut_short.iter().for_each(|running| log_end(running, why));
            free_worker(slot);
        }
        Role::Scheduler(oid) => {
            let launcher = write(
                |shared| {
                    if let Some(database) = shared.database(oid)
                        && database.scheduler == Scheduler::Running(pid)
                    {
                        // It did not detach, so it ended badly: look again, but not at once.
                        (database.scheduler, database.waiting_since) = (Scheduler::None, None);
                        database.poked = true;
                        database.failures += 1;
                        let delay =
                            cache_refresher_core::databases::restart_delay(database.failures);
                        database.not_before = Some(clock::now().plus(delay));
                    }
                    shared.launcher
                },
                0,
            );
            latch::wake(launcher);
        }
        Role::Session => cut_short.iter().for_each(|running| log_end(running, None)),
    }
}

/// A process that is ended from outside in the middle of a refresh cannot say so itself.
fn log_end(running: &Running, why: Option<Why>) {
    let timed_out = deadline::was_not_heeded();
    let (sqlstate, message) = match why {
        _ if timed_out => ("57014", "it went on after its timeout, and its process was ended"),
        Some(_) => ("57P01", "the worker was terminated"),
        None => ("57P01", "the session was terminated"),
    };
    push_failure(Failure {
        why,
        database: running.database,
        view: running.view,
        role: running.role,
        started_at: running.started_at,
        finished_at: clock::now(),
        cancelled: !timed_out,
        sqlstate: Text::new(sqlstate),
        message: Text::new(message),
    });
}
