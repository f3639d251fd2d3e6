//! The harness of the cluster tests: real PostgreSQL servers that live as long as one test.
//!
//! `PG_CONFIG` or `PG_MAJOR` chooses the server; the extension has to be installed there
//! (`scripts/install-for-tests.sh MAJOR`). Everything here panics when it fails, with the tail of
//! the server's log.

mod builder;
mod diff;
mod installation;
mod scratch;
mod script;
mod seeds;
mod server;
mod session;
mod streaming;
mod template;
mod views;

use std::time::{Duration, Instant};

pub use builder::{Builder, free_port};
pub use diff::{Counts, diff_statement};
pub use installation::{Installation, output};
pub use rustix::process::Signal;
pub use scratch::Scratch;
pub use script::Script;
pub use seeds::seeds;
pub use server::{Mode, Process, Server};
pub use session::{Session, describe, state_of};
pub use streaming::{create_auth_db, create_streams_db, create_vod_db};

/// How long something that ought to happen soon may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// "Within a second", with what a busy machine adds to it.
pub const A_SECOND: Duration = Duration::from_millis(1500);

/// The backend type of the launcher, as `pg_stat_activity` shows it.
pub const LAUNCHER: &str = "cache_refresher launcher";
/// The backend type of a scheduler.
pub const SCHEDULER: &str = "cache_refresher scheduler";
/// The backend type of a worker.
pub const WORKER: &str = "cache_refresher worker";

/// Whole seconds.
pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Thousandths of a second.
pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Asks until the answer is yes; false if that took longer than `patience`.
pub(crate) fn poll(patience: Duration, mut happened: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if happened() {
            return true;
        }
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(millis(25));
    }
}
