//! The launcher: knows the databases and starts a scheduler where something is due.
//!
//! It is connected to no database and sleeps until the earliest deadline or a wake-up.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use cache_refresher_core::databases::{self, DatabaseView, Knowledge, SchedulerState};
use cache_refresher_core::time::Timestamp;

use super::{NO_SLOT_PAUSE, START_TIMEOUT};
use crate::guc;
use crate::pg::process::databases::DatabaseRow;
use crate::pg::process::{background_worker, latch, signals};
use crate::pg::shared::{self, Scheduler, ServerDefaults, Text};
use crate::pg::{clock, identity, report, transaction};

/// Databases that are looked at for the first time at once: bounds the processes after a start.
const VISITS_AT_ONCE: usize = 2;

/// When to look again for room, if nobody who leaves says that there is some.
const CROWDED_PAUSE: Duration = Duration::from_secs(1);

/// Entry point of the process.
pub fn main(_argument: i64) {
    shared::forget_launcher_at_end();
    signals::install();
    background_worker::connect(None);
    shared::attach_launcher(background_worker::my_pid());
    report::log("cache_refresher launcher started", None, None);
    let mut known = HashMap::new();
    let mut looked_at = clock::now();
    let _ = background_worker::run_loop(|| {
        publish_defaults();
        // Deadlines are computed from settings and the clock: they are void when either is changed.
        let clock_went_back = clock::now() < looked_at;
        if signals::take_reloaded() || clock_went_back {
            shared::nudge_all();
        }
        looked_at = clock::now();
        if shared::take_rescan() {
            rescan(&mut known);
        }
        let sleep = start_schedulers(&known);
        latch::wait(sleep);
        ControlFlow::Continue(())
    });
    report::log("cache_refresher launcher stopped", None, None);
    background_worker::exit_for_restart()
}

/// This process has no settings but those of postgresql.conf: what a new session begins with.
fn publish_defaults() {
    fn value<const N: usize>(name: &std::ffi::CStr) -> Text<N> {
        let value = identity::setting(name).unwrap_or_default();
        Text::new(&value.to_string_lossy())
    }
    shared::publish_defaults(ServerDefaults {
        time_zone: value(c"TimeZone"),
        timezone_abbreviations: value(c"timezone_abbreviations"),
        date_style: value(c"DateStyle"),
        interval_style: value(c"IntervalStyle"),
        lc_time: value(c"lc_time"),
        lc_numeric: value(c"lc_numeric"),
        lc_monetary: value(c"lc_monetary"),
    });
}

/// Reads the list of databases again.
fn rescan(known: &mut HashMap<u32, DatabaseRow>) {
    match transaction::run(crate::pg::process::databases::list) {
        Ok(rows) => {
            // Those that were closed to connections, or made templates, since.
            let closed = rows.iter().filter(|row| !row.is_connectable).map(|row| row.oid);
            closed
                .filter(|&oid| !shared::processes_in(oid).is_empty())
                .for_each(shared::replace_processes);
            known.clear();
            known.extend(rows.into_iter().map(|row| (row.oid, row)));
            let oids: Vec<u32> = known.keys().copied().collect();
            let without_place = shared::set_databases(&oids);
            if without_place > 0 {
                report::log(
                    &format!(
                        "cache_refresher: no room for {without_place} more of the databases; nothing \
                         is refreshed there"
                    ),
                    Some(&format!("At most {} databases are looked at.", shared::MAX_DATABASES)),
                    None,
                );
            }
        }
        Err(caught) => report::log(
            &format!("cache_refresher: cannot read the list of databases: {}", caught.message),
            None,
            None,
        ),
    }
}

/// Starts the schedulers that are needed now; how long to sleep then.
fn start_schedulers(known: &HashMap<u32, DatabaseRow>) -> Duration {
    let now = clock::now();
    let names = guc::databases();
    let views: Vec<DatabaseView> = shared::databases()
        .into_iter()
        .map(|(database, held)| {
            view(&database, held, now, |oid| {
                known.get(&oid).is_some_and(|row| row.is_connectable && names.contains(&row.name))
            })
        })
        .collect();
    let (schedulers, starving) = shared::schedulers(now);
    let places = background_worker::process_places();
    let room = databases::room(places, guc::max_workers(), schedulers, starving);
    let decision = databases::decide(&views, guc::enabled(), VISITS_AT_ONCE, room, now);
    shared::note_crowded(decision.crowded);
    for &oid in &decision.start {
        shared::update_database(oid, |database| database.scheduler = Scheduler::Starting(now));
        let found = background_worker::start_scheduler(oid);
        shared::note_slots(found, now);
        if !found {
            shared::update_database(oid, |database| {
                database.scheduler = Scheduler::None;
                database.not_before = Some(now.plus(NO_SLOT_PAUSE));
            });
        }
    }
    let starting = !decision.start.is_empty()
        || views.iter().any(|view| view.scheduler == SchedulerState::Starting);
    let wake_at = if starting {
        // Look again whether they have come up.
        let check_at = now.plus(START_TIMEOUT);
        Some(decision.wake_at.map_or(check_at, |at| at.min(check_at)))
    } else {
        decision.wake_at
    };
    let wake_at = match wake_at {
        _ if decision.crowded => {
            let soon = now.plus(CROWDED_PAUSE);
            Some(wake_at.map_or(soon, |at| at.min(soon)))
        }
        other => other,
    };
    wake_at.map_or(latch::LONGEST_SLEEP, |at| at.since(clock::now()))
}

fn view(
    database: &shared::Database,
    held: bool,
    now: Timestamp,
    allowed: impl Fn(u32) -> bool,
) -> DatabaseView {
    let scheduler = match database.scheduler {
        Scheduler::None => SchedulerState::None,
        Scheduler::Starting(since) if now.since(since) > START_TIMEOUT => SchedulerState::None,
        Scheduler::Starting(_) => SchedulerState::Starting,
        Scheduler::Running(_) => SchedulerState::Running,
    };
    let knowledge = match database.knowledge {
        shared::Knowledge::Unvisited => Knowledge::Unvisited,
        shared::Knowledge::Absent => Knowledge::Absent,
        shared::Knowledge::Present => Knowledge::Present,
    };
    DatabaseView {
        oid: database.oid,
        allowed: allowed(database.oid),
        knowledge,
        scheduler,
        deadline: database.deadline,
        poked: database.poked,
        held,
        not_before: database.not_before,
    }
}
