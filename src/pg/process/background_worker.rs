//! Registering background workers, and the first steps of each.

use std::ffi::CStr;
use std::ops::ControlFlow;
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::{IntoDatum, pg_sys};

use super::signals;
use crate::pg::identity;
use crate::pg::memory::MemoryContext;

/// How long the postmaster waits before it starts a launcher that ended.
const LAUNCHER_RESTART: Duration = Duration::from_secs(1);

/// Registers the launcher. Only while shared_preload_libraries are loaded. It starts when the server
/// accepts writes: on a standby, at promotion.
pub fn register_launcher() {
    BackgroundWorkerBuilder::new("cache_refresher launcher")
        .set_type("cache_refresher launcher")
        .set_library("cache_refresher")
        .set_function("cache_refresher_launcher_main")
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(LAUNCHER_RESTART))
        .enable_spi_access()
        .load();
}

/// Starts a scheduler for a database. False if the server has no free background worker.
pub fn start_scheduler(database: u32) -> bool {
    start("cache_refresher scheduler", "cache_refresher_scheduler_main", i64::from(database))
}

/// Starts a worker for a place of the pool. False if the server has no free background worker.
pub fn start_worker(slot: usize) -> bool {
    start("cache_refresher worker", "cache_refresher_worker_main", slot as i64)
}

fn start(kind: &str, function: &str, argument: i64) -> bool {
    BackgroundWorkerBuilder::new(kind)
        .set_type(kind)
        .set_library("cache_refresher")
        .set_function(function)
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(None)
        .set_argument(argument.into_datum())
        .set_notify_pid(my_pid())
        .enable_spi_access()
        .load_dynamic()
        .is_ok()
}

/// This process.
pub fn my_pid() -> i32 {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::MyProcPid }
}

/// Whether this process is a background worker, rather than somebody's session.
pub fn is_one() -> bool {
    // SAFETY: a variable of this process.
    unsafe { !pg_sys::MyBgworkerEntry.is_null() }
}

/// The argument that a worker was started with.
pub fn argument(datum: pg_sys::Datum) -> i64 {
    datum.value() as i64
}

/// Settings of our processes, over whatever role, database and server say.
const OWN_SETTINGS: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_deferrable", c"off"),
    (c"statement_timeout", c"0"),
    // For what we write ourselves: a session may hold a row to the end of a long transaction. Queries of
    // views have a limit of their own.
    (c"lock_timeout", c"10s"),
    // Of a deadlock with a session, whose DROP locks what it needs in another order, we are to be the victims.
    (c"deadlock_timeout", c"100ms"),
    (c"idle_in_transaction_session_timeout", c"0"),
    // What we write is consistent in itself and can be done again; waiting for a standby that is
    // away would block refreshes and the shutdown of the server.
    (c"synchronous_commit", c"off"),
];

/// Connects to a database, or to the shared catalogs alone, as the bootstrap superuser.
pub fn connect(database: Option<u32>) {
    let database = database.map_or(pg_sys::InvalidOid, pg_sys::Oid::from);
    // SAFETY: called once, in a background worker registered for database access.
    unsafe {
        if database == pg_sys::InvalidOid {
            pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
        } else {
            pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
        }
    }
    for (name, value) in OWN_SETTINGS {
        identity::override_setting(name, value);
    }
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    identity::override_setting(c"transaction_timeout", c"0");
}

/// Runs the loop of a process until it is asked to end, or a turn breaks. What a turn allocates outside of
/// transactions, for a line of the log for instance, is freed when it ends: the process may live for months.
pub fn run_loop(mut turn: impl FnMut() -> ControlFlow<()>) -> ControlFlow<()> {
    while !signals::terminate_requested() {
        MemoryContext::new().run(&mut turn)?;
    }
    ControlFlow::Continue(())
}

/// How many background workers the server has room for.
pub fn process_places() -> usize {
    // SAFETY: a setting that is fixed when the server starts.
    usize::try_from(unsafe { pg_sys::max_worker_processes }).unwrap_or(0)
}

/// Ends this process so that the postmaster starts it again: a return from the main function would
/// count as success and unregister it.
pub fn exit_for_restart() -> ! {
    // SAFETY: does not return; runs the exit callbacks of this process.
    unsafe { pg_sys::proc_exit(1) };
    // The bindings say so for some releases only.
    #[allow(unreachable_code)]
    {
        unreachable!("proc_exit does not return")
    }
}

/// Shows in pg_stat_activity what this process is doing; an empty text means idle.
pub fn report_activity(activity: &str) {
    let state = if activity.is_empty() {
        pg_sys::BackendState::STATE_IDLE
    } else {
        pg_sys::BackendState::STATE_RUNNING
    };
    let activity = std::ffi::CString::new(activity).unwrap_or_default();
    // SAFETY: the text is copied.
    unsafe { pg_sys::pgstat_report_activity(state, activity.as_ptr()) };
}

/// Hands in this process's statistics, so that autovacuum sees what it changed.
pub fn report_statistics() {
    // SAFETY: called outside a transaction.
    unsafe {
        pg_sys::pgstat_report_stat(true);
    }
}

/// Defines the C function by which the postmaster enters a background worker: the worker's argument
/// is handed to a safe function.
macro_rules! entry_point {
    ($name:ident, $main:path) => {
        // The symbol's name must be the one that the worker was registered with.
        #[allow(unsafe_code)]
        #[pgrx::pg_guard]
        #[unsafe(no_mangle)]
        pub extern "C-unwind" fn $name(argument: pgrx::pg_sys::Datum) {
            $main($crate::pg::process::background_worker::argument(argument));
        }
    };
}
pub(crate) use entry_point;
