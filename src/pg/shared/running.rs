//! Refreshes that run now, and those of sessions that failed.

use std::cell::Cell;

use cache_refresher_core::progress::{Phase, Progress};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::Why;

use super::databases::poke;
use super::text::Text;
use super::{Shared, read, write};
use crate::pg::process::background_worker::my_pid;

/// A refresh that runs now, whoever runs it.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    /// The database.
    pub database: u32,
    /// OID of the view; 0 in a free place.
    pub view: u32,
    /// On whose behalf.
    pub role: u32,
    /// The process.
    pub pid: i32,
    /// Since when.
    pub started_at: Timestamp,
    /// How far it is.
    pub progress: Progress,
    /// How many refreshes of that process are under way: those of a group, or one inside another.
    depth: u32,
    /// Somebody has cancelled the refresh of this view, rather than what the process is doing.
    cancelled: bool,
}

impl Running {
    /// Whether the process has several refreshes under way, of which one is shown.
    pub const fn is_of_several(&self) -> bool {
        self.depth > 1
    }

    pub(super) const FREE: Self = Self {
        database: 0,
        view: 0,
        role: 0,
        pid: 0,
        started_at: Timestamp::from_pg(0),
        progress: Progress::begin(Phase::Locking, None),
        depth: 0,
        cancelled: false,
    };
}

/// Marks a refresh as running until dropped. A process has one place, however many refreshes it has under way:
/// what is shown is the one that was begun or has reported last.
pub struct RunningMark {
    view: u32,
    started_at: Timestamp,
    pid: i32,
}

impl RunningMark {
    /// Marks a refresh by this process.
    pub fn set(database: u32, view: u32, role: u32, started_at: Timestamp) -> Self {
        super::forget_session_at_end();
        let pid = my_pid();
        write(
            |shared| {
                let places = &mut shared.running;
                let own = places.iter().position(|place| place.view != 0 && place.pid == pid);
                let free = || places.iter().position(|place| place.view == 0);
                if let Some(place) = own.or_else(free).map(|place| &mut places[place]) {
                    let depth = if own.is_some() { place.depth + 1 } else { 1 };
                    let progress = Progress::default();
                    *place = Running {
                        database,
                        view,
                        role,
                        pid,
                        started_at,
                        progress,
                        depth,
                        cancelled: false,
                    };
                }
            },
            (),
        );
        Self { view, started_at, pid }
    }

    /// Tells how far the refresh is.
    pub fn report(&self, progress: Progress) {
        write(
            |shared| {
                if let Some(place) = self.place(shared) {
                    (place.view, place.started_at) = (self.view, self.started_at);
                    place.progress = progress;
                }
            },
            (),
        );
    }

    fn place<'a>(&self, shared: &'a mut Shared) -> Option<&'a mut Running> {
        let mut places = shared.running.iter_mut();
        places.find(|place| place.view != 0 && place.pid == self.pid)
    }
}

impl Drop for RunningMark {
    fn drop(&mut self) {
        write(
            |shared| {
                if let Some(place) = self.place(shared) {
                    if place.cancelled && place.view == self.view {
                        CANCELLED.set(self.view);
                    }
                    place.cancelled = false;
                    place.depth -= 1;
                    if place.depth == 0 {
                        place.view = 0;
                    }
                }
            },
            (),
        );
    }
}

thread_local! {
    /// The view whose refresh by this process was cancelled last.
    static CANCELLED: Cell<u32> = const { Cell::new(0) };
}

/// Whether it was the refresh of this view that somebody has cancelled, rather than all that this session does.
/// Asked once.
pub fn take_cancelled(view: u32) -> bool {
    CANCELLED.replace(0) == view
}

/// Notes that a process is to be cancelled because of its refresh of a view.
pub fn note_cancel(pid: i32, view: u32) {
    write(
        |shared| {
            let mut places = shared.running.iter_mut();
            if let Some(place) = places.find(|place| place.pid == pid && place.view == view) {
                place.cancelled = true;
            }
        },
        (),
    );
}

/// Forgets what a process that is ending has marked.
pub(super) fn clear_running(shared: &mut Shared, pid: i32) -> Vec<Running> {
    let mut cleared = Vec::new();
    for place in shared.running.iter_mut().filter(|place| place.pid == pid && place.view != 0) {
        cleared.push(*place);
        place.view = 0;
    }
    cleared
}

/// Gives failures back that could not be logged.
pub fn put_back_failures(failures: &[Failure]) {
    write(
        |shared| {
            let free = shared.failures.iter_mut().filter(|place| place.is_none());
            for (place, failure) in free.zip(failures) {
                *place = Some(*failure);
            }
        },
        (),
    );
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

/// A refresh that failed in a user's session, whose transaction cannot log it, or in a process that was ended.
#[derive(Clone, Copy)]
pub struct Failure {
    /// The database.
    pub database: u32,
    /// OID of the view.
    pub view: u32,
    /// OID of the role that asked.
    pub role: u32,
    /// Why it was due, if it was; else somebody has asked for it.
    pub why: Option<Why>,
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
