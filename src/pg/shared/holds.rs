//! Statements that need a database to themselves.

use super::{Shared, read, write};
use crate::pg::process::latch;

/// A statement that needs a database to itself: no process of ours enters until it is over.
#[derive(Clone, Copy)]
pub(super) struct Hold {
    pub(super) database: u32,
    /// The backend that runs the statement; 0 in a free place.
    pub(super) pid: i32,
}

/// Keeps our processes out of a database on behalf of the backend `pid`. Returns the processes of
/// ours that are there now. False in the second place: no hold could be placed.
pub fn hold(oid: u32, pid: i32) -> (Vec<i32>, bool) {
    write(
        |shared| {
            let is_held = |hold: &Hold| hold.pid == pid && hold.database == oid;
            let placed = shared.holds.iter().any(is_held)
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
    latch::wake(launcher);
}
