//! What is due, handed to workers; and what became of it.

use std::collections::{HashMap, HashSet};

use cache_refresher_core::board::Due;
use cache_refresher_core::pool::Assignment;
use cache_refresher_core::time::Timestamp;

use super::super::{NO_SLOT_PAUSE, START_TIMEOUT};
use super::{LOOK_AGAIN, Process};
use crate::guc;
use crate::pg::clock;
use crate::pg::process::signals::{self, Signal};
use crate::pg::process::{background_worker, latch};
use crate::pg::shared::{self, Job, Report};

/// What workers have been given.
#[derive(Default)]
pub(super) struct Jobs {
    /// The views that they are believed to be refreshing.
    running: HashSet<u32>,
    /// Owners of views.
    owners: HashMap<u32, u32>,
    /// A refresh waits for a place in the worker pool.
    waiting: bool,
    /// The server had no free background worker: wait until then.
    no_slot_until: Option<Timestamp>,
}

impl Jobs {
    /// Whose views there are.
    pub(super) fn owned(&mut self, owners: HashMap<u32, u32>) {
        self.owners = owners;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// When to look for a worker, if the first view is due then.
    pub(super) fn next(&self, due: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        // What is due already waits for a worker, whose end wakes us.
        let due = due.map(|at| if at <= now { now.plus(LOOK_AGAIN) } else { at });
        match (due, self.no_slot_until) {
            (Some(due), Some(until)) if until > now => Some(due.max(until)),
            (due, _) => due,
        }
    }
}

impl Process {
    /// Learns what workers have done. True if the registry must be read again.
    pub(super) fn take_reports(&mut self) -> bool {
        let now = clock::now();
        let mut reload = false;
        for (view, report) in shared::take_reports(self.database) {
            self.jobs.running.remove(&view);
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
        for view in self.jobs.running.extract_if(|view| !held.contains(view)) {
            // Its worker was ended from outside before it could report.
            self.board.finish(view, now);
            self.board.postpone(view, now.plus(LOOK_AGAIN));
            reload = true;
        }
        reload
    }

    /// Hands out what is due, as far as there are workers.
    pub(super) fn start_due(&mut self) {
        let now = clock::now();
        self.jobs.no_slot_until = self.jobs.no_slot_until.filter(|until| *until > now);
        let all_placed =
            self.board.due(now, shared::MAX_WORKERS).into_iter().all(|due| self.place(due, now));
        if all_placed && std::mem::take(&mut self.jobs.waiting) {
            // What was waiting may have been paused: nobody is to make room for it.
            shared::update_database(self.database, |known| known.waiting_since = None);
        }
        self.jobs.waiting = !all_placed;
    }

    /// Gives one refresh to a worker. False if there is none to be had now.
    fn place(&mut self, due: Due, now: Timestamp) -> bool {
        let owner = self.jobs.owners.get(&due.id).copied().unwrap_or_default();
        let job = Job { view: due.id, owner, why: due.why, due_at: due.due_at };
        let limits = (guc::max_workers(), self.jobs.no_slot_until.is_none());
        let (placement, pid) = shared::place_job(self.database, limits, job, now);
        match placement {
            Assignment::Reuse(_) => latch::wake(pid),
            Assignment::Start(slot) => {
                let found = background_worker::start_worker(slot);
                shared::note_slots(found, now);
                if !found {
                    shared::free_worker(slot);
                    shared::note_starving(now);
                    self.jobs.no_slot_until = Some(now.plus(NO_SLOT_PAUSE));
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
        self.jobs.running.insert(due.id);
        true
    }
}
