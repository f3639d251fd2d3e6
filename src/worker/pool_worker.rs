//! A worker: runs the refreshes that its database's scheduler hands it, one at a time, lingers idle
//! for a while, and leaves.

use std::ops::ControlFlow;

use cache_refresher_core::time::Timestamp;

use crate::guc;
use crate::pg::process::{background_worker, latch, signals};
use crate::pg::shared::{self, Worker};
use crate::pg::{clock, identity, memory, transaction};
use crate::refresh::job;

/// How much memory of the server's own kind a worker may hold, in bytes, once it has done so much: where a database
/// needs more for its catalogs, a new process for each refresh would not help.
const MOST_MEMORY: usize = 64 << 20;
const LEAST_REFRESHES: u32 = 1000;

/// Entry point of the process; the argument is its place in the pool.
pub fn main(argument: i64) {
    let Ok(slot) = usize::try_from(argument) else {
        return;
    };
    signals::install();
    let Some(database) = shared::attach_worker(slot, background_worker::my_pid()) else {
        return;
    };
    shared::forget_worker_at_end(slot);
    background_worker::connect(Some(database));
    if transaction::run(identity::begin_session).is_err() {
        return;
    }
    let mut idle_since = clock::now();
    let mut refreshes = 0;
    let _ = background_worker::run_loop(|| {
        match shared::update_worker(slot, |place| place.worker) {
            Some(Worker::Busy(job)) => {
                let report = job::execute(job, &guc::refresh_settings());
                refreshes += 1;
                if is_worn(refreshes) {
                    shared::update_worker(slot, |place| place.retiring = true);
                }
                shared::finish_job(slot, job.view, report);
                idle_since = clock::now();
            }
            Some(Worker::Idle) => return linger(slot, idle_since),
            _ => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    });
}

/// Whether a fresh process would do better. The server's caches never shrink, and each REFRESH … CONCURRENTLY leaves
/// some kilobytes in them for the row type of a temporary table that is gone.
fn is_worn(refreshes: u32) -> bool {
    refreshes >= LEAST_REFRESHES && memory::allocated() > MOST_MEMORY
}

/// Waits for work; breaks when it has waited long enough and nobody has given it any.
fn linger(slot: usize, idle_since: Timestamp) -> ControlFlow<()> {
    let until = idle_since.plus(guc::worker_linger());
    let now = clock::now();
    if now < until {
        latch::wait(until.since(now));
        return ControlFlow::Continue(());
    }
    // Under the lock: a scheduler may be handing over a job at this moment.
    let leaves = shared::update_worker(slot, |place| {
        let idle = matches!(place.worker, Worker::Idle);
        if idle {
            place.worker = Worker::Stopping;
        }
        idle
    });
    if leaves == Some(false) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
}
