//! What the launcher decides: which databases get a scheduler now, and when to look again.

use std::str::FromStr;
use std::time::Duration;

use crate::identifiers::{self, IdentifierError};
use crate::time::Timestamp;

/// The first wait after a scheduler that ended badly.
const RESTART_BASE: Duration = Duration::from_secs(1);
/// The longest.
const RESTART_MAX: Duration = Duration::from_secs(60);

/// What is known about the extension in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Knowledge {
    /// No scheduler has looked yet.
    Unvisited,
    /// It is not there.
    Absent,
    /// It is there.
    Present,
}

/// The scheduler process of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchedulerState {
    /// None.
    None,
    /// Asked for, not there yet.
    Starting,
    /// At work.
    Running,
}

/// One database as the launcher sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseView {
    /// OID in pg_database.
    pub oid: u32,
    /// Connections are possible, it is no template, and the settings name it.
    pub allowed: bool,
    /// Whether the extension is there.
    pub knowledge: Knowledge,
    /// Its scheduler.
    pub scheduler: SchedulerState,
    /// When something is due next; `None` if nothing is.
    pub deadline: Option<Timestamp>,
    /// Something was committed there that a scheduler has to look at.
    pub poked: bool,
    /// Somebody is about to drop, rename or copy it.
    pub held: bool,
    /// No scheduler before this time, because the last ones ended badly.
    pub not_before: Option<Timestamp>,
}

/// What the launcher does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Databases to start a scheduler in, in this order.
    pub start: Vec<u32>,
    /// Others want one, too, and there is no room for it.
    pub crowded: bool,
    /// When to decide again if nobody wakes the launcher before.
    pub wake_at: Option<Timestamp>,
}

/// Decides which databases get a scheduler now. At most `max_visits` schedulers at a time have a
/// first look into databases, so that a start of the server with a thousand of them stays calm; the
/// end of a visit must wake the launcher. No more than `room` are started: those that have waited longest.
pub fn decide(
    databases: &[DatabaseView],
    enabled: bool,
    max_visits: usize,
    room: usize,
    now: Timestamp,
) -> Decision {
    let mut decision = Decision::default();
    if !enabled {
        return decision;
    }
    let is_visit = |database: &&DatabaseView| {
        database.knowledge == Knowledge::Unvisited && database.scheduler != SchedulerState::None
    };
    let mut visits = databases.iter().filter(is_visit).count();
    let mut ready = Vec::new();

    for database in databases {
        let Some(wanted_at) = wanted_at(database, now) else {
            continue;
        };
        let start_at = database.restart_at(now).map_or(wanted_at, |time| time.max(wanted_at));
        if start_at > now {
            let earlier = decision.wake_at.map_or(start_at, |wake_at| wake_at.min(start_at));
            decision.wake_at = Some(earlier);
        } else if database.knowledge != Knowledge::Unvisited {
            ready.push((wanted_at, database.oid));
        } else if visits < max_visits {
            visits += 1;
            ready.push((wanted_at, database.oid));
        }
    }
    ready.sort_by_key(|&(wanted_at, _)| wanted_at);
    decision.crowded = ready.len() > room;
    decision.start = ready.into_iter().take(room).map(|(_, oid)| oid).collect();
    decision
}

/// How many more schedulers there may be. All processes of ours share the server's places with others: schedulers
/// leave enough for workers, without which they are of no use, and for a process of somebody else's. While a
/// scheduler finds no place for a worker (`starving`), there come no others.
pub fn room(places: usize, max_workers: usize, schedulers: usize, starving: bool) -> usize {
    const LAUNCHER_AND_ANOTHER: usize = 2;
    if starving {
        return usize::from(schedulers == 0);
    }
    let for_workers = max_workers.min(places / 3).max(1);
    places.saturating_sub(LAUNCHER_AND_ANOTHER + for_workers).max(1).saturating_sub(schedulers)
}

/// When a database without scheduler wants one, backoff apart.
fn wanted_at(database: &DatabaseView, now: Timestamp) -> Option<Timestamp> {
    if !database.allowed || database.held || database.scheduler != SchedulerState::None {
        return None;
    }
    match database.knowledge {
        Knowledge::Unvisited => Some(now),
        Knowledge::Absent => None,
        Knowledge::Present if database.poked => Some(now),
        Knowledge::Present => database.deadline,
    }
}

impl DatabaseView {
    /// When the backoff ends. One that is longer than any that we give is left over from before
    /// the clock went back, and does not count.
    fn restart_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.not_before.filter(|time| *time <= now.plus(RESTART_MAX))
    }
}

/// How long to wait after `failures` schedulers in a row that ended badly: a second, doubling up to
/// a minute.
pub fn restart_delay(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    RESTART_BASE.saturating_mul(factor).min(RESTART_MAX)
}

/// The setting `cache_refresher.databases`: all of them (the default), or those named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseList {
    /// None: all.
    names: Option<Vec<String>>,
}

/// Why a text is not a list of databases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseListError {
    /// Nothing. Nobody can tell whether all or none is meant.
    #[error("no database is named")]
    Empty,
    /// One entry is wrong.
    #[error("bad database name \"{entry}\": {problem}")]
    Entry {
        /// The entry as it was given.
        entry: String,
        /// What is wrong with it.
        problem: IdentifierError,
    },
}

impl FromStr for DatabaseList {
    type Err = DatabaseListError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "*" {
            return Ok(Self { names: None });
        }
        let entries = identifiers::entries(text);
        if entries.is_empty() {
            return Err(DatabaseListError::Empty);
        }
        let name = |entry: &str| {
            identifiers::whole(entry)
                .map_err(|problem| DatabaseListError::Entry { entry: entry.to_owned(), problem })
        };
        let names = entries.into_iter().map(name).collect::<Result<_, _>>()?;
        Ok(Self { names: Some(names) })
    }
}

impl DatabaseList {
    /// Whether a database belongs to it.
    pub fn contains(&self, database: &str) -> bool {
        match &self.names {
            None => true,
            Some(names) => names.iter().any(|name| name == database),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NOW: Timestamp = Timestamp::from_pg(815_998_470_000_000);

    fn present(oid: u32) -> DatabaseView {
        DatabaseView {
            oid,
            allowed: true,
            knowledge: Knowledge::Present,
            scheduler: SchedulerState::None,
            deadline: None,
            poked: false,
            held: false,
            not_before: None,
        }
    }

    fn unvisited(oid: u32) -> DatabaseView {
        DatabaseView { knowledge: Knowledge::Unvisited, ..present(oid) }
    }

    fn decided(databases: &[DatabaseView]) -> (Vec<u32>, Option<Timestamp>) {
        let decision = decide(databases, true, 2, 100, NOW);
        (decision.start, decision.wake_at)
    }

    #[test]
    fn a_database_with_something_due_or_a_poke_gets_a_scheduler() {
        let due = DatabaseView { deadline: Some(NOW), ..present(1) };
        let poked = DatabaseView { poked: true, ..present(2) };
        assert_eq!(decided(&[due, poked, present(3)]), (vec![1, 2], None));
    }

    #[test]
    fn where_there_is_no_room_for_all_those_that_waited_longest_come_first() {
        let due = |oid, seconds| DatabaseView {
            deadline: Some(NOW.minus(seconds * SECOND)),
            ..present(oid)
        };
        let decision = decide(&[due(1, 1), due(2, 3), due(3, 2)], true, 2, 2, NOW);
        assert_eq!((decision.start, decision.crowded), (vec![2, 3], true));
        let decision = decide(&[due(1, 1), due(2, 3)], true, 2, 2, NOW);
        assert_eq!((decision.start, decision.crowded), (vec![2, 1], false));
    }

    #[test]
    fn schedulers_leave_places_for_workers() {
        for places in 3..64 {
            for max_workers in 1..=64 {
                let most = room(places, max_workers, 0, false);
                assert!(most >= 1 && 1 + most < places, "{most} of {places}");
                assert_eq!(room(places, max_workers, most, false), 0);
            }
        }
        assert_eq!(room(8, 2, 0, false), 4);
        assert_eq!((room(8, 2, 1, true), room(8, 2, 0, true)), (0, 1));
    }

    #[test]
    fn the_launcher_sleeps_until_the_earliest_deadline() {
        let later = |oid, seconds| DatabaseView {
            deadline: Some(NOW.plus(SECOND * seconds)),
            ..present(oid)
        };
        let databases = [later(1, 9), later(2, 5), later(3, 7)];
        assert_eq!(decided(&databases), (vec![], Some(NOW.plus(SECOND * 5))));
    }

    #[test]
    fn first_visits_are_few_at_a_time() {
        let visiting = DatabaseView { scheduler: SchedulerState::Running, ..unvisited(1) };
        assert_eq!(decided(&[unvisited(1), unvisited(2), unvisited(3)]).0, [1, 2]);
        assert_eq!(decided(&[visiting, unvisited(2), unvisited(3)]), (vec![2], None));
        let due = DatabaseView { deadline: Some(NOW), ..present(4) };
        assert_eq!(decided(&[visiting, unvisited(2), unvisited(3), due]).0, [2, 4]);
    }

    #[test]
    fn nothing_starts_where_it_must_not() {
        let due = DatabaseView { deadline: Some(NOW), poked: true, ..present(1) };
        for database in [
            DatabaseView { allowed: false, ..due },
            DatabaseView { held: true, ..due },
            DatabaseView { knowledge: Knowledge::Absent, ..due },
            DatabaseView { scheduler: SchedulerState::Starting, ..due },
            DatabaseView { scheduler: SchedulerState::Running, ..due },
        ] {
            assert_eq!(decided(&[database]), (vec![], None), "{database:?}");
        }
        assert_eq!(decide(&[due], false, 2, 100, NOW), Decision::default());
    }

    #[test]
    fn after_a_bad_end_the_backoff_comes_first() {
        let waiting = |seconds| DatabaseView {
            poked: true,
            not_before: Some(NOW.plus(SECOND * seconds)),
            ..present(1)
        };
        assert_eq!(decided(&[waiting(0)]), (vec![1], None));
        assert_eq!(decided(&[waiting(3)]), (vec![], Some(NOW.plus(SECOND * 3))));
        let idle = DatabaseView { poked: false, ..waiting(3) };
        assert_eq!(decided(&[idle]), (vec![], None));
    }

    #[test]
    fn a_backoff_left_over_from_before_the_clock_went_back_does_not_count() {
        let stranded = DatabaseView { not_before: Some(NOW.plus(SECOND * 3600)), ..unvisited(1) };
        assert_eq!(decided(&[stranded]), (vec![1], None));
    }

    #[test]
    fn the_restart_delay_doubles_up_to_a_minute() {
        let delays: Vec<u64> = (0..9).map(|failures| restart_delay(failures).as_secs()).collect();
        assert_eq!(delays, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(restart_delay(u32::MAX), RESTART_MAX);
    }

    #[test]
    fn the_list_names_databases_or_means_all() {
        assert!(DatabaseList::default().contains("any"));
        assert_eq!(" * ".parse(), Ok(DatabaseList::default()));
        let list: DatabaseList = "App, \"My-DB\", \"*\"".parse().unwrap();
        assert!(list.contains("app") && list.contains("My-DB") && list.contains("*"));
        assert!(!list.contains("App") && !list.contains("other"));
    }

    #[test]
    fn a_malformed_list_of_databases_is_refused() {
        for (text, message) in [
            ("", "no database is named"),
            ("a,", "bad database name \"\": a name is missing"),
            (
                "a, *",
                "bad database name \"*\": unexpected \"*\" (a name with more than letters, \
                      digits, _ and $ needs double quotes)",
            ),
        ] {
            let error = text.parse::<DatabaseList>().map_err(|error| error.to_string());
            assert_eq!(error, Err(message.to_owned()));
        }
    }
}
