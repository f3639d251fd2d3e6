//! Databases: what is known of each, its scheduler, and how both are woken.

use cache_refresher_core::time::Timestamp;

use super::text::Text;
use super::workers::Worker;
use super::{read, write};
use crate::pg::process::latch;
use crate::pg::process::signals::{self, Signal};

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
    /// When the refresh was due that waits for a place in the worker pool.
    pub waiting_since: Option<Timestamp>,
    /// Somebody committed something that a scheduler has to look at.
    pub poked: bool,
    /// Schedulers that ended badly in a row.
    pub failures: u32,
    /// No scheduler before this time.
    pub not_before: Option<Timestamp>,
    /// Sources that somebody has changed, which the scheduler has not taken yet.
    pub changes: ChangedSources,
}

/// Changes that are reported at once; more are not told apart.
const MAX_CHANGES: usize = 16;

/// Which sources have changed.
#[derive(Clone, Copy, Debug)]
pub struct ChangedSources {
    sources: [u32; MAX_CHANGES],
    count: usize,
}

impl ChangedSources {
    const NONE: Self = Self { sources: [0; MAX_CHANGES], count: 0 };

    /// The sources; none if there were too many to tell.
    pub fn sources(&self) -> Option<&[u32]> {
        self.sources.get(..self.count)
    }

    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn contains(&self, source: u32) -> bool {
        self.sources().is_none_or(|sources| sources.contains(&source))
    }

    fn add(&mut self, source: u32) {
        if self.contains(source) {
            return;
        }
        if let Some(place) = self.sources.get_mut(self.count) {
            *place = source;
        }
        self.count += 1;
    }
}

impl Database {
    pub(super) const FREE: Self = Self {
        oid: 0,
        knowledge: Knowledge::Unvisited,
        scheduler: Scheduler::None,
        deadline: None,
        waiting_since: None,
        poked: false,
        failures: 0,
        not_before: None,
        changes: ChangedSources::NONE,
    };
}

/// The settings that a new session would have, for refreshes that must not depend on who asks.
#[derive(Clone, Copy)]
pub struct ServerDefaults {
    /// TimeZone.
    pub time_zone: Text<64>,
    /// timezone_abbreviations.
    pub timezone_abbreviations: Text<64>,
    /// DateStyle.
    pub date_style: Text<32>,
    /// IntervalStyle.
    pub interval_style: Text<32>,
    /// lc_time.
    pub lc_time: Text<64>,
    /// lc_numeric.
    pub lc_numeric: Text<64>,
    /// lc_monetary.
    pub lc_monetary: Text<64>,
}

/// Registers this process as the launcher, which is to read the list of databases.
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

/// Leaves with this deadline, unless somebody has poked meanwhile: then false, and stay. Changes keep nobody where
/// the extension is not.
pub fn detach_scheduler(oid: u32, knowledge: Knowledge, deadline: Option<Timestamp>) -> bool {
    write(
        |shared| match shared.database(oid) {
            Some(database)
                if database.poked
                    || knowledge != Knowledge::Absent && !database.changes.is_empty() =>
            {
                false
            }
            Some(database) => {
                database.changes = ChangedSources::NONE;
                (database.scheduler, database.waiting_since) = (Scheduler::None, None);
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
    latch::wake(if pids.0 != 0 { pids.0 } else { pids.1 });
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

/// Tells the scheduler that these sources have changed; where there is none the launcher, which starts one. Costs
/// next to nothing while the same is pending already.
pub fn sources_changed(oid: u32, sources: &[u32]) {
    if sources.is_empty() {
        return;
    }
    let pending = read(
        |shared| {
            let known = shared.databases.iter().find(|database| database.oid == oid);
            known.is_some_and(|known| {
                sources.iter().all(|&source| known.changes.contains(source))
                    && (known.poked || matches!(known.scheduler, Scheduler::Running(_)))
            })
        },
        true,
    );
    if pending {
        return;
    }
    let pid = write(
        |shared| match shared.database(oid) {
            Some(database) => {
                sources.iter().for_each(|&source| database.changes.add(source));
                if let Scheduler::Running(pid) = database.scheduler {
                    return pid;
                }
                database.poked = true;
                shared.launcher
            }
            None => 0,
        },
        0,
    );
    latch::wake(pid);
}

/// Whether sources have changed since changes were taken.
pub fn has_changes(oid: u32) -> bool {
    read(
        |shared| shared.databases.iter().any(|known| known.oid == oid && !known.changes.is_empty()),
        false,
    )
}

/// The sources that have changed since the last call.
pub fn take_changes(oid: u32) -> Option<ChangedSources> {
    if !has_changes(oid) {
        return None;
    }
    write(
        |shared| {
            let database = shared.database(oid)?;
            Some(std::mem::replace(&mut database.changes, ChangedSources::NONE))
        },
        None,
    )
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
        signals::send(pid, Signal::Terminate);
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
    latch::wake(launcher);
}
