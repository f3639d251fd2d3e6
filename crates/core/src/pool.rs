//! Which worker runs the next refresh: the pool is shared by all databases of the server, and a
//! worker belongs to one database and one role until it exits.

use std::time::Duration;

use crate::time::Timestamp;

/// What a place of the pool is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// No process.
    Free,
    /// Asked for, with its first refresh.
    Starting,
    /// Waits for work.
    Idle,
    /// Runs a refresh.
    Busy,
    /// Has been asked to leave; its place is taken until it has.
    Stopping,
}

/// Whom a worker serves. What the functions of a role leave behind in a session, such as connections to
/// elsewhere, is not for those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// OID of the database.
    pub database: u32,
    /// OID of the owner of the views.
    pub role: u32,
}

/// One place of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Whom the worker serves; meaningless in a free place.
    pub home: Home,
    /// What it is doing.
    pub state: SlotState,
}

/// Where a refresh is to run. Indexes are those of the slots given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignment {
    /// In this idle worker of the same home.
    Reuse(usize),
    /// In a new worker in this free place.
    Start(usize),
    /// Nowhere yet: ask this idle worker of another home to leave, then decide again.
    Evict(usize),
    /// Nowhere yet: decide again when a worker becomes idle or leaves.
    Wait,
}

/// How much longer a refresh of another database must have waited to be let in first. Changing the
/// database of a place costs a process, so it is not done for less.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a refresh that is due at `due_at` has to let another database in first; `others` are the
/// times since when other databases have been waiting for a place. Without this, a database whose
/// work never ends would keep its workers for ever.
pub fn yields(due_at: Timestamp, others: impl IntoIterator<Item = Timestamp>) -> bool {
    others.into_iter().any(|since| since.plus(PATIENCE) <= due_at)
}

/// The decision for a refresh that yields: its own idle worker leaves to make room.
pub fn make_room(slots: &[Slot], database: u32) -> Assignment {
    let leaving = slots.iter().any(|slot| slot.state == SlotState::Stopping);
    let own = |slot: &Slot| slot.state == SlotState::Idle && slot.home.database == database;
    match slots.iter().position(own) {
        Some(own) if !leaving => Assignment::Evict(own),
        _ => Assignment::Wait,
    }
}

/// Decides where a refresh at `home` is to run. Unless `may_start`, no process can be had for a new worker:
/// others have taken them.
pub fn decide(slots: &[Slot], max_workers: usize, may_start: bool, home: Home) -> Assignment {
    let count =
        |wanted: fn(SlotState) -> bool| slots.iter().filter(|slot| wanted(slot.state)).count();
    let working = count(|state| matches!(state, SlotState::Starting | SlotState::Busy));
    if working >= max_workers {
        // Idle workers may be left over from before max_workers was lowered; they don't help.
        return Assignment::Wait;
    }
    let idle = |slot: &Slot| slot.state == SlotState::Idle;
    if let Some(own) = slots.iter().position(|slot| idle(slot) && slot.home == home) {
        return Assignment::Reuse(own);
    }
    let taken = count(|state| state != SlotState::Free);
    if may_start
        && taken < max_workers
        && let Some(free) = slots.iter().position(|slot| slot.state == SlotState::Free)
    {
        return Assignment::Start(free);
    }
    // The place of one that is leaving already will do; to evict a second would empty the pool.
    if slots.iter().any(|slot| slot.state == SlotState::Stopping) {
        return Assignment::Wait;
    }
    slots.iter().position(idle).map_or(Assignment::Wait, Assignment::Evict)
}

#[cfg(test)]
mod tests {
    use super::SlotState::*;
    use super::*;

    const fn home(database: u32) -> Home {
        Home { database, role: 10 }
    }

    fn slots(states: &[(u32, SlotState)]) -> Vec<Slot> {
        states.iter().map(|&(database, state)| Slot { home: home(database), state }).collect()
    }

    #[test]
    fn what_one_role_leaves_in_a_session_is_not_for_another() {
        let other = Home { database: 1, role: 11 };
        let mut pool = slots(&[(1, Idle), (0, Free)]);
        assert_eq!(decide(&pool, 2, true, other), Assignment::Start(1));
        assert_eq!(decide(&pool, 1, true, other), Assignment::Evict(0));
        pool[0].home = other;
        assert_eq!(decide(&pool, 1, true, other), Assignment::Reuse(0));
    }

    #[test]
    fn an_idle_worker_of_the_same_database_is_preferred_to_a_free_place() {
        let slots = slots(&[(0, Free), (2, Idle), (1, Idle)]);
        assert_eq!(decide(&slots, 3, true, home(1)), Assignment::Reuse(2));
    }

    #[test]
    fn who_has_waited_longer_by_more_than_patience_goes_first() {
        let due_at = Timestamp::from_pg(10_000_000);
        assert!(yields(due_at, [due_at.minus(PATIENCE)]));
        assert!(!yields(due_at, [due_at.minus(PATIENCE / 2), due_at]));
        assert!(!yields(due_at, []));
    }

    #[test]
    fn who_yields_gives_up_one_idle_worker_of_its_own() {
        let pool = slots(&[(2, Idle), (1, Busy), (1, Idle), (1, Idle)]);
        assert_eq!(make_room(&pool, 1), Assignment::Evict(2));
        let pool = slots(&[(2, Stopping), (1, Idle)]);
        assert_eq!(make_room(&pool, 1), Assignment::Wait, "one is leaving already");
        let pool = slots(&[(1, Busy), (0, Free)]);
        assert_eq!(make_room(&pool, 1), Assignment::Wait, "the free place is for the other");
    }

    #[test]
    fn a_free_place_is_taken_only_below_the_maximum() {
        let slots = slots(&[(2, Busy), (0, Free), (0, Free)]);
        assert_eq!(decide(&slots, 2, true, home(1)), Assignment::Start(1));
        assert_eq!(decide(&slots, 1, true, home(1)), Assignment::Wait);
        assert_eq!(decide(&[], 1, true, home(1)), Assignment::Wait);
        assert_eq!(decide(&slots, 0, true, home(1)), Assignment::Wait);
    }

    #[test]
    fn a_leaving_worker_still_takes_its_place() {
        let slots = slots(&[(2, Stopping), (0, Free)]);
        assert_eq!(decide(&slots, 1, true, home(1)), Assignment::Wait);
        assert_eq!(decide(&slots, 2, true, home(1)), Assignment::Start(1));
    }

    #[test]
    fn an_idle_worker_of_another_database_gives_way_one_at_a_time() {
        assert_eq!(decide(&slots(&[(2, Busy), (3, Idle)]), 2, true, home(1)), Assignment::Evict(1));
        assert_eq!(decide(&slots(&[(2, Stopping), (3, Idle)]), 2, true, home(1)), Assignment::Wait);
    }

    #[test]
    fn where_no_process_is_to_be_had_those_that_are_there_go_on() {
        let pool = slots(&[(1, Idle), (0, Free)]);
        assert_eq!(decide(&pool, 2, false, home(1)), Assignment::Reuse(0));
        assert_eq!(decide(&pool, 2, false, home(2)), Assignment::Evict(0), "it does nothing");
        let pool = slots(&[(1, Busy), (0, Free)]);
        assert_eq!(decide(&pool, 2, false, home(1)), Assignment::Wait);
    }

    #[test]
    fn busy_and_starting_workers_are_left_alone() {
        assert_eq!(decide(&slots(&[(2, Busy), (1, Starting)]), 2, true, home(1)), Assignment::Wait);
    }

    #[test]
    fn a_lowered_maximum_holds_for_idle_workers_too() {
        assert_eq!(decide(&slots(&[(1, Busy), (1, Idle)]), 1, true, home(1)), Assignment::Wait);
    }
}
