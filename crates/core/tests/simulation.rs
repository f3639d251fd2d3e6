//! A scheduler's life under a virtual clock: a board of views, a pool of workers, hours in
//! milliseconds.

// Clippy takes only functions marked #[test] for tests; helpers may panic here too.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use cache_refresher_core::backoff::RetryPolicy;
use cache_refresher_core::board::{Board, ViewEntry, ViewId};
use cache_refresher_core::schedule::{CronSchedule, GridOffset, Schedule};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{
    History, Policy, Why, after_failure, after_success, resumed,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// 2025-11-09 10:00:00 UTC.
const START: Timestamp = Timestamp::from_pg(815_997_600_000_000);

/// One refresh that ran.
#[derive(Debug, Clone, Copy)]
struct Run {
    id: ViewId,
    due_at: Timestamp,
    started: Timestamp,
    why: Why,
}

/// A server with one database: the registry, its scheduler's board, and workers.
struct Server {
    now: Timestamp,
    board: Board,
    registry: BTreeMap<ViewId, ViewEntry>,
    /// Busy workers: when each ends, on a clock that never goes back, and the view.
    workers: Vec<(Duration, ViewId, Timestamp)>,
    uptime: Duration,
    max_workers: usize,
    /// How long a refresh takes.
    cost: fn(ViewId) -> Duration,
    /// Whether it fails.
    fails: fn(ViewId) -> bool,
    runs: Vec<Run>,
}

impl Server {
    fn new(max_workers: usize, entries: Vec<ViewEntry>) -> Self {
        let mut server = Self {
            now: START,
            board: Board::default(),
            registry: entries.into_iter().map(|entry| (entry.id, entry)).collect(),
            workers: Vec::new(),
            uptime: Duration::ZERO,
            max_workers,
            cost: |_| Duration::from_millis(20),
            fails: |_| false,
            runs: Vec::new(),
        };
        server.load();
        server
    }

    fn load(&mut self) {
        self.board.load(self.registry.values().cloned().collect(), self.now);
    }

    /// A new process that knows nothing but the registry, as after an idle time.
    fn restart_scheduler(&mut self) {
        self.board = Board::default();
        self.load();
    }

    /// Lets time pass while the server is off; what runs is lost without a trace.
    fn down_for(&mut self, time: Duration) {
        self.workers.clear();
        self.now = self.now.plus(time);
        self.restart_scheduler();
    }

    /// Lets the server work for a time: from event to event, as the real one, which never polls.
    fn run_for(&mut self, time: Duration) {
        let end = self.uptime + time;
        loop {
            self.dispatch();
            let worker = self.workers.iter().map(|(ends, ..)| *ends).min();
            let idle_worker = self.workers.len() < self.max_workers;
            let due = self.board.wake_at().filter(|_| idle_worker);
            let due = due.map(|time| self.uptime + time.since(self.now));
            let next = worker.into_iter().chain(due).min().unwrap_or(end).min(end);
            self.now = self.now.plus(next - self.uptime);
            self.uptime = next;
            self.collect();
            if self.uptime == end {
                return;
            }
        }
    }

    fn dispatch(&mut self) {
        let free = self.max_workers - self.workers.len();
        for due in self.board.due(self.now, free) {
            let running = self.workers.iter().any(|(_, id, _)| *id == due.id);
            assert!(!running, "{} would run twice at once", due.id);
            self.board.start(due.id);
            self.workers.push((self.uptime + (self.cost)(due.id), due.id, self.now));
            self.runs.push(Run { id: due.id, due_at: due.due_at, started: self.now, why: due.why });
        }
    }

    fn collect(&mut self) {
        let (ended, busy): (Vec<_>, Vec<_>) =
            self.workers.drain(..).partition(|(ends, ..)| *ends <= self.uptime);
        self.workers = busy;
        for (_, id, started) in ended {
            let entry = self.registry.get_mut(&id).unwrap();
            entry.history = if (self.fails)(id) {
                let entropy = self.runs.len() as u64;
                after_failure(&entry.policy, &entry.history, started, self.now, entropy).0
            } else {
                entry.populated = true;
                after_success(&entry.history, started, self.now, true)
            };
            self.board.apply(id, entry.history, entry.populated, self.now);
            self.board.finish(id, self.now);
        }
    }

    /// Runs since the last call, by view.
    fn take_runs(&mut self) -> BTreeMap<ViewId, Vec<Run>> {
        let mut runs: BTreeMap<ViewId, Vec<Run>> = BTreeMap::new();
        for run in self.runs.drain(..) {
            runs.entry(run.id).or_default().push(run);
        }
        runs
    }
}

fn policy(id: ViewId, schedule: Schedule) -> Policy {
    Policy {
        schedule,
        adapts: None,
        grid_offset: GridOffset::of(16_384, "public", &format!("view_{id}")),
        retry: RetryPolicy { max_retries: 3, base_delay: SECOND, max_delay: MINUTE * 5 },
        suspend_after: Duration::from_secs(1),
        paused: false,
    }
}

/// A view that is registered at the start and has content.
fn view(id: ViewId, interval: Duration) -> ViewEntry {
    ViewEntry {
        id,
        policy: policy(id, Schedule::Interval(interval)),
        history: History::default(),
        populated: true,
        registered_at: START,
        parents: Vec::new(),
        follows: false,
        reaction: None,
        sources: Vec::new(),
    }
}

fn views(count: u32, interval: Duration) -> Vec<ViewEntry> {
    (1..=count).map(|id| view(id, interval)).collect()
}

#[test]
fn a_thousand_views_registered_together_spread_over_the_minute_and_run_once_in_each_slot() {
    let mut server = Server::new(2, views(1000, MINUTE));
    server.run_for(MINUTE * 10);

    let mut in_second: BTreeMap<u64, u32> = BTreeMap::new();
    for run in &server.runs {
        *in_second.entry(run.started.since(START).as_secs()).or_default() += 1;
        assert!(run.started.since(run.due_at) < SECOND, "{run:?} waited");
    }
    // On average 16.7; by chance up to about twice as many.
    assert!(*in_second.values().max().unwrap() < 40, "{in_second:?}");

    let runs = server.take_runs();
    assert_eq!(runs.len(), 1000);
    for runs in runs.values() {
        assert_eq!(runs.len(), 10);
        assert!(runs.windows(2).all(|pair| pair[1].due_at == pair[0].due_at.plus(MINUTE)));
    }
}

#[test]
fn a_refresh_slower_than_its_interval_skips_slots_and_stays_on_the_grid() {
    let mut server = Server::new(1, vec![view(1, MINUTE)]);
    server.cost = |_| Duration::from_secs(150);
    server.run_for(HOUR);

    let runs = server.take_runs().remove(&1).unwrap();
    assert_eq!(runs.len(), 20);
    assert!(runs.windows(2).all(|pair| pair[1].due_at == pair[0].due_at.plus(MINUTE * 3)));
    assert!(runs.iter().all(|run| run.started == run.due_at));
}

#[test]
fn one_slow_view_does_not_hold_up_the_others() {
    let mut server = Server::new(2, views(10, MINUTE));
    server.cost = |id| {
        if id == 1 { HOUR } else { Duration::from_millis(20) }
    };
    server.run_for(HOUR);

    let runs = server.take_runs();
    assert_eq!(runs[&1].len(), 1);
    assert!((2..=10).all(|id| runs[&id].len() == 60));
}

#[test]
fn after_an_hour_of_downtime_each_view_catches_up_exactly_once() {
    let mut server = Server::new(2, views(100, MINUTE * 5));
    server.run_for(MINUTE * 10);
    server.down_for(HOUR);
    let back_at = server.now;
    server.take_runs();
    server.run_for(MINUTE * 5);

    for (id, runs) in server.take_runs() {
        assert!(runs[0].started.since(back_at) < SECOND * 2, "{id} waited");
        // The missed twelve slots once, then the one slot within five minutes.
        let slots_since = runs.iter().filter(|run| run.due_at > back_at).count();
        assert_eq!((runs.len(), slots_since), (2, 1), "{id}: {runs:?}");
    }
}

#[test]
fn catching_up_begins_with_the_longest_waiting() {
    let mut server = Server::new(1, views(100, MINUTE * 5));
    server.run_for(MINUTE * 10);
    server.down_for(HOUR);
    server.runs.clear();
    server.run_for(SECOND * 3);

    assert_eq!(server.runs.len(), 100);
    assert!(server.runs.is_sorted_by_key(|run| run.due_at));
}

#[test]
fn when_workers_are_short_every_view_still_has_its_turn() {
    let mut server = Server::new(1, views(60, SECOND * 10));
    server.cost = |_| SECOND;
    server.run_for(MINUTE * 10);

    let runs = server.take_runs();
    // 600 turns of a second for 60 views.
    assert_eq!(runs.len(), 60);
    assert!(runs.values().all(|runs| (9..=11).contains(&runs.len())));
}

#[test]
fn a_clock_that_goes_back_an_hour_stops_no_refreshes() {
    for scheduler_restarts in [false, true] {
        let mut server = Server::new(2, views(50, MINUTE));
        server.run_for(MINUTE * 90);
        server.take_runs();
        server.now = server.now.minus(HOUR);
        for _ in 0..10 {
            if scheduler_restarts {
                server.restart_scheduler();
            }
            server.run_for(MINUTE);
        }

        let runs = server.take_runs();
        assert_eq!(runs.len(), 50);
        for runs in runs.values() {
            // Once for each slot, and at most once more for the history from the future.
            assert!((10..=11).contains(&runs.len()), "{runs:?}");
        }
    }
}

#[test]
fn a_clock_that_goes_back_during_a_backoff_does_not_prolong_it() {
    let mut server = Server::new(1, vec![view(1, MINUTE * 5)]);
    server.fails = |_| true;
    let backs_off = |server: &Server| {
        server.registry[&1].history.retry_at.is_some_and(|retry_at| retry_at > server.now)
    };
    while !backs_off(&server) {
        server.run_for(SECOND);
    }
    server.now = server.now.minus(HOUR);
    server.fails = |_| false;
    server.take_runs();
    server.run_for(MINUTE * 5);
    assert!(!server.take_runs().is_empty());
}

#[test]
fn a_clock_that_jumps_forward_causes_no_burst() {
    let mut server = Server::new(2, views(50, MINUTE));
    server.run_for(MINUTE * 2);
    server.take_runs();
    server.now = server.now.plus(HOUR);
    server.run_for(MINUTE);
    assert!(server.take_runs().values().all(|runs| (1..=2).contains(&runs.len())));
}

#[test]
fn a_failing_view_is_retried_in_rounds_then_suspended_until_it_is_resumed() {
    let mut server = Server::new(1, vec![view(1, MINUTE * 5)]);
    server.fails = |_| true;
    server.run_for(HOUR);

    let runs = server.take_runs().remove(&1).unwrap();
    let reasons: Vec<Why> = runs.iter().map(|run| run.why).collect();
    let round = [Why::Interval, Why::Retry, Why::Retry, Why::Retry];
    assert_eq!(reasons, round.repeat(3));
    // The rounds begin with consecutive slots; suspended after the third.
    assert_eq!(runs[4].due_at, runs[0].due_at.plus(MINUTE * 5));
    assert_eq!(runs[8].due_at, runs[0].due_at.plus(MINUTE * 10));
    assert!(server.registry[&1].history.suspended);
    assert_eq!(server.board.wake_at(), None);

    server.fails = |_| false;
    let entry = server.registry.get_mut(&1).unwrap();
    entry.history = resumed(&entry.history);
    server.load();
    server.run_for(MINUTE * 10);
    let runs = server.take_runs().remove(&1).unwrap();
    // What was missed at once, then by the slots.
    assert_eq!(runs.len(), 3);
    assert!(runs.iter().all(|run| run.why == Why::Interval));
}

#[test]
fn a_failing_view_does_not_disturb_the_others() {
    let mut server = Server::new(1, views(20, MINUTE));
    server.fails = |id| id == 7;
    server.run_for(MINUTE * 10);
    let runs = server.take_runs();
    assert!((1..=20).filter(|id| *id != 7).all(|id| runs[&id].len() == 10));
}

#[test]
fn a_view_without_content_is_refreshed_at_once_and_then_by_its_slots() {
    let mut server = Server::new(1, vec![ViewEntry { populated: false, ..view(1, HOUR) }]);
    server.run_for(HOUR * 3);
    let runs = server.take_runs().remove(&1).unwrap();
    assert_eq!((runs[0].started, runs[0].why), (START, Why::Unpopulated));
    assert_eq!(runs.len(), 4);
    assert!(runs[1..].iter().all(|run| run.why == Why::Interval));
}

#[test]
fn a_new_scheduler_at_each_deadline_misses_no_slot() {
    let mut server = Server::new(1, vec![view(1, MINUTE)]);
    for _ in 0..10 {
        // Leaves with its deadline; its successor comes a little after it.
        let deadline = server.board.wake_at().unwrap();
        let idle = deadline.since(server.now) + Duration::from_millis(50);
        server.now = server.now.plus(idle);
        server.uptime += idle;
        server.restart_scheduler();
        server.run_for(SECOND);
    }
    assert_eq!(server.runs.len(), 10);
}

#[test]
fn a_cron_schedule_runs_through_both_changes_of_the_clocks() {
    let berlin = |expression| {
        let cron = CronSchedule::parse(expression, "Europe/Berlin").unwrap();
        let policy = policy(1, Schedule::Cron(cron));
        Server::new(1, vec![ViewEntry { policy, ..view(1, HOUR) }])
    };
    // From 9 November 2025: 365 days with one gap and one overlap.
    let mut nightly = berlin("30 2 * * *");
    nightly.run_for(HOUR * 24 * 365);
    assert_eq!(nightly.runs.len(), 365);
    let mut hourly = berlin("30 * * * *");
    hourly.run_for(HOUR * 24 * 365);
    assert_eq!(hourly.runs.len(), 24 * 365);
    assert!(hourly.runs.iter().all(|run| run.why == Why::Schedule));
}

#[test]
fn a_view_that_somebody_else_refreshes_keeps_its_place_in_the_queue() {
    let mut board = Board::default();
    board.load(views(3, MINUTE), START);
    let now = START.plus(MINUTE);
    let before = board.due(now, 9);
    let first = before[0];
    board.postpone(first.id, now.plus(SECOND));
    assert_eq!(board.due(now, 9), before[1..]);
    assert_eq!(board.due(now.plus(SECOND), 9), before);
}

#[test]
fn a_postponement_outlasts_a_reload_but_not_a_change_of_the_view() {
    let mut board = Board::default();
    board.load(views(1, MINUTE), START);
    let now = START.plus(MINUTE);
    let until = now.plus(SECOND * 30);

    board.postpone(1, until);
    board.load(views(1, MINUTE), now);
    assert_eq!((board.due(now, 9), board.wake_at()), (Vec::new(), Some(until)));

    board.load(views(1, SECOND), now);
    assert_eq!(board.due(now, 9).len(), 1);

    board.postpone(1, until);
    board.apply(1, History::default(), true, now);
    assert_eq!(board.due(now, 9).len(), 1);
}

#[test]
fn a_running_view_that_is_registered_anew_does_not_run_twice() {
    let mut board = Board::default();
    board.load(views(1, MINUTE), START);
    let now = START.plus(MINUTE);
    board.start(1);
    board.load(Vec::new(), now);
    assert_eq!((board.running(), board.len()), (1, 0));
    board.load(views(1, MINUTE), now);
    assert_eq!(board.due(now, 9), []);
    board.finish(1, now);
    assert_eq!(board.due(now, 9).len(), 1);
}

#[test]
fn ten_thousand_views_are_handled_in_a_moment() {
    let mut server = Server::new(8, views(10_000, MINUTE));
    server.cost = |_| Duration::from_millis(5);
    server.run_for(MINUTE * 3);
    assert_eq!(server.runs.len(), 30_000);
}
