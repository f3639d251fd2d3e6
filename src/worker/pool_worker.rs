//! A worker: runs the refreshes that its database's scheduler hands it, one at a time, lingers idle
//! for a while, and leaves.

use cache_refresher_core::time::Timestamp;

use crate::guc;
use crate::pg::shared::{self, Worker};
use crate::pg::{background_worker, clock, identity, latch, signals, transaction};
use crate::refresh::job;

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
    while !signals::terminate_requested() {
        match shared::update_worker(slot, |place| place.worker) {
            Some(Worker::Busy(job)) => {
                let report = job::execute(job, &guc::refresh_settings());
                shared::finish_job(slot, job.view, report);
                idle_since = clock::now();
            }
            Some(Worker::Idle) => {
                if !linger(slot, idle_since) {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Waits for work; false when it has waited long enough and nobody has given it any.
fn linger(slot: usize, idle_since: Timestamp) -> bool {
    let until = idle_since.plus(guc::worker_linger());
    let now = clock::now();
    if now < until {
        latch::wait(until.since(now));
        return true;
    }
    // Under the lock: a scheduler may be handing over a job at this moment. A report that nobody has
    // taken by now has no taker: the scheduler has left, and its successor reads the catalogs.
    let leaves = shared::update_worker(slot, |place| {
        let idle = matches!(place.worker, Worker::Idle);
        if idle {
            place.worker = Worker::Stopping;
        }
        idle
    });
    leaves == Some(false)
}
