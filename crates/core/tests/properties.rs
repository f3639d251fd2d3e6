//! What must hold for every input: properties of durations, identifiers, schedules, backoff, order
//! and board, tried on generated ones.

// Clippy takes only functions marked #[test] for tests; helpers may panic here too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use cache_refresher_core::backoff::RetryPolicy;
use cache_refresher_core::board::{Board, ViewEntry, ViewId};
use cache_refresher_core::duration;
use cache_refresher_core::identifiers;
use cache_refresher_core::interval::{MAX_INTERVAL, MIN_INTERVAL};
use cache_refresher_core::order::refresh_order;
use cache_refresher_core::schedule::{CronSchedule, GridOffset, Schedule};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{
    History, Policy, after_cancel, after_failure, after_success,
};
use proptest::prelude::*;

/// Some time between 2000 and 2100.
fn any_time() -> impl Strategy<Value = Timestamp> {
    (0..3_155_760_000_000_000_i64).prop_map(Timestamp::from_pg)
}

fn any_interval() -> impl Strategy<Value = Duration> {
    (MIN_INTERVAL.as_micros() as u64..MAX_INTERVAL.as_micros() as u64)
        .prop_map(Duration::from_micros)
}

/// When the clocks of a time zone change next.
fn next_clock_change(zone: &str, after: Timestamp) -> Option<Timestamp> {
    const EPOCHS_APART: i64 = 946_684_800_000_000;
    let zone = jiff::tz::TimeZoneDatabase::bundled().get(zone).ok()?;
    let after = jiff::Timestamp::from_microsecond(after.as_pg() + EPOCHS_APART).ok()?;
    let change = zone.following(after).next()?.timestamp();
    Some(Timestamp::from_pg(change.as_microsecond() - EPOCHS_APART))
}

proptest! {
    #[test]
    fn durations_read_back_as_they_were_written(nanos in 0..400_000_000_000_000_000_u64) {
        let duration = Duration::from_nanos(nanos);
        prop_assert_eq!(duration::parse(&duration::format(duration)), Ok(duration));
    }

    #[test]
    fn reading_a_duration_never_panics(text in "[-+0-9a-z., ]{0,12}") {
        if let Ok(duration) = duration::parse(&text) {
            prop_assert_eq!(duration::parse(&duration::format(duration)), Ok(duration));
        }
    }

    #[test]
    fn identifiers_read_back_as_they_were_written(names in prop::collection::vec("\\PC{1,9}", 1..5)) {
        let list: Vec<String> = names.iter().map(|name| identifiers::quote(name)).collect();
        let list = list.join(", ");
        let read: Result<Vec<_>, _> =
            identifiers::entries(&list).into_iter().map(identifiers::whole).collect();
        prop_assert_eq!(read, Ok(names));
    }

    #[test]
    fn reading_identifiers_never_panics(list in "\\PC{0,20}") {
        for entry in identifiers::entries(&list) {
            let _ = identifiers::whole(entry);
        }
    }

    #[test]
    fn interval_slots_lie_on_the_grid_strictly_after_and_none_is_left_out(
        after in any_time(), interval in any_interval(), name in "[a-z]{1,8}",
    ) {
        let grid_offset = GridOffset::of(5, "public", &name);
        let schedule = Schedule::Interval(interval);
        let slot = schedule.next_after(after, grid_offset).unwrap();
        prop_assert!(slot > after);
        prop_assert!(slot.since(after) <= interval);
        let from_grid = slot.as_pg() - grid_offset.within(interval).as_micros() as i64;
        prop_assert_eq!(from_grid.rem_euclid(interval.as_micros() as i64), 0);
        prop_assert_eq!(schedule.next_after(slot, grid_offset), Some(slot.plus(interval)));
    }

    #[test]
    fn the_place_on_the_grid_is_within_the_interval(interval in any_interval(), name in "\\PC*") {
        prop_assert!(GridOffset::of(5, "public", &name).within(interval) < interval);
    }

    #[test]
    fn backoff_stays_within_its_ceiling(
        attempt in any::<u32>(), entropy in any::<u64>(),
        base in 0..10_000_000_u64, max in 0..10_000_000_000_u64,
    ) {
        let policy = RetryPolicy {
            max_retries: 5,
            base_delay: Duration::from_micros(base),
            max_delay: Duration::from_micros(max),
        };
        prop_assert!(policy.delay(attempt, entropy) <= policy.ceiling(attempt));
        prop_assert!(policy.ceiling(attempt) <= policy.max_delay);
        prop_assert!(policy.ceiling(attempt) <= policy.ceiling(attempt.saturating_add(1)));
    }

    #[test]
    fn refresh_order_names_each_view_once_and_parents_first(
        // Edges to lower numbers only, so without a circle.
        edges in prop::collection::vec((0..20_u32, 0..20_u32), 0..40),
        ids in Just((0..20).collect::<Vec<u32>>()).prop_shuffle(),
    ) {
        let reads: Vec<(u32, u32)> =
            edges.into_iter().filter(|(view, read)| read < view).collect();
        let order = refresh_order(&ids, &reads);
        prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), ids.len());
        prop_assert_eq!(order.len(), ids.len());
        let place = |id| order.iter().position(|other| *other == id);
        for (view, read) in reads {
            prop_assert!(place(read) < place(view));
        }
    }

    #[test]
    fn refresh_order_ends_and_names_each_view_once_in_any_tangle(
        reads in prop::collection::vec((0..12_u32, 0..12_u32), 0..40),
    ) {
        let ids: Vec<u32> = (0..8).collect();
        let mut order = refresh_order(&ids, &reads);
        order.sort_unstable();
        prop_assert_eq!(order, ids);
    }
}

proptest! {
    #[test]
    fn cron_slots_are_strictly_after_and_none_is_left_out(
        time in any_time(),
        // Most trouble is where clocks change: within hours of it, unless None.
        from_change in prop::option::weighted(0.8, -18_000_000_000..18_000_000_000_i64),
        expression in prop::sample::select(vec![
            "* * * * *", "*/15 * * * *", "30 2 * * *", "0 0 * * MON", "*/7 30 1-4 * * *",
            "15 10 5 L * *", "0 2,3 * * *",
        ]),
        zone in prop::sample::select(vec![
            "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe",
        ]),
    ) {
        let schedule = Schedule::Cron(CronSchedule::parse(expression, zone).unwrap());
        let grid_offset = GridOffset::of(5, "public", "v");
        let after = match (from_change, next_clock_change(zone, time)) {
            (Some(micros), Some(change)) => Timestamp::from_pg(change.as_pg() + micros),
            _ => time,
        };
        let slot = schedule.next_after(after, grid_offset).unwrap();
        prop_assert!(slot > after);
        // From anywhere before a slot and after the one before, the slot is the next one.
        let between = Timestamp::from_pg(after.as_pg().midpoint(slot.as_pg()));
        prop_assert_eq!(schedule.next_after(between, grid_offset), Some(slot));
        let just_before = slot.minus(Duration::from_micros(1));
        prop_assert_eq!(schedule.next_after(just_before, grid_offset), Some(slot));
        prop_assert!(schedule.next_after(slot, grid_offset).unwrap() > slot);
    }
}

/// Something that happens to a board.
#[derive(Debug, Clone)]
enum Event {
    Pass(Duration),
    ClockBack(Duration),
    Run(usize),
    Succeed(ViewId),
    Fail(ViewId, u64),
    Cancel(ViewId),
    Postpone(ViewId, Duration),
    Load(Vec<ViewId>),
}

fn any_event() -> impl Strategy<Value = Event> {
    let id = || 1..6_u32;
    let seconds = || (0..200_u64).prop_map(Duration::from_secs);
    prop_oneof![
        4 => seconds().prop_map(Event::Pass),
        1 => seconds().prop_map(Event::ClockBack),
        4 => (1..4_usize).prop_map(Event::Run),
        3 => id().prop_map(Event::Succeed),
        2 => (id(), any::<u64>()).prop_map(|(id, entropy)| Event::Fail(id, entropy)),
        1 => id().prop_map(Event::Cancel),
        1 => (id(), seconds()).prop_map(|(id, wait)| Event::Postpone(id, wait)),
        1 => prop::collection::vec(id(), 0..8).prop_map(Event::Load),
    ]
}

fn policy(id: ViewId) -> Policy {
    Policy {
        schedule: Schedule::Interval(Duration::from_secs(60)),
        adapts: None,
        grid_offset: GridOffset::of(5, "public", &id.to_string()),
        retry: RetryPolicy {
            max_retries: 2,
            base_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
        },
        suspend_after: Duration::from_secs(1),
        paused: false,
    }
}

proptest! {
    #[test]
    fn whatever_happens_no_view_runs_twice_at_once_and_none_that_waits_is_forgotten(
        events in prop::collection::vec(any_event(), 1..60),
    ) {
        let mut now = Timestamp::from_pg(800_000_000_000_000);
        let registered_at = now;
        let entry = |id: ViewId, history: History| ViewEntry {
            id, policy: policy(id), history, populated: true, registered_at, parents: Vec::new(), follows: false,
            reaction: None, sources: Vec::new(),
        };
        let mut registered: BTreeSet<ViewId> = (1..6).collect();
        let mut histories = [History::default(); 6];
        let mut running: BTreeSet<ViewId> = BTreeSet::new();
        let mut board = Board::default();
        board.load(registered.iter().map(|id| entry(*id, History::default())).collect(), now);

        for event in events {
            let ends = |id: ViewId, outcome: History, board: &mut Board, now| {
                board.apply(id, outcome, true, now);
                board.finish(id, now);
            };
            match event {
                Event::Pass(time) => now = now.plus(time),
                Event::ClockBack(time) => now = now.minus(time),
                Event::Run(limit) => {
                    let due = board.due(now, limit);
                    prop_assert!(due.len() <= limit);
                    prop_assert!(due.is_sorted_by_key(|due| due.due_at));
                    for due in due {
                        prop_assert!(due.due_at <= now);
                        prop_assert!(registered.contains(&due.id));
                        prop_assert!(!histories[due.id as usize].suspended);
                        prop_assert!(running.insert(due.id), "{} ran already", due.id);
                        board.start(due.id);
                    }
                }
                Event::Succeed(id) if running.remove(&id) => {
                    let history = &mut histories[id as usize];
                    *history = after_success(history, now, now, true);
                    ends(id, *history, &mut board, now);
                }
                Event::Fail(id, entropy) if running.remove(&id) => {
                    let history = &mut histories[id as usize];
                    *history = after_failure(&policy(id), history, now, now, entropy).0;
                    ends(id, *history, &mut board, now);
                }
                Event::Cancel(id) if running.remove(&id) => {
                    let history = &mut histories[id as usize];
                    *history = after_cancel(history, now, now);
                    ends(id, *history, &mut board, now);
                }
                Event::Succeed(_) | Event::Fail(..) | Event::Cancel(_) => {}
                Event::Postpone(id, wait) => board.postpone(id, now.plus(wait)),
                Event::Load(ids) => {
                    registered = ids.into_iter().collect();
                    let entries =
                        registered.iter().map(|id| entry(*id, histories[*id as usize])).collect();
                    board.load(entries, now);
                }
            }
            prop_assert_eq!(board.running(), running.len());
            prop_assert_eq!(board.len(), registered.len());
            prop_assert_eq!(board.is_empty(), registered.is_empty());
            let waits = |id: &ViewId| !running.contains(id) && !histories[*id as usize].suspended;
            prop_assert_eq!(board.wake_at().is_some(), registered.iter().any(waits));
        }

        // Long enough for every interval, retry and postponement to have passed.
        now = now.plus(Duration::from_secs(1000));
        let due: BTreeSet<ViewId> = board.due(now, 99).iter().map(|due| due.id).collect();
        let waiting: BTreeSet<ViewId> = registered
            .iter()
            .copied()
            .filter(|id| !running.contains(id) && !histories[*id as usize].suspended)
            .collect();
        prop_assert_eq!(due, waiting);
    }
}
