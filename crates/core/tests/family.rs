//! Views that read views: who goes first, and who follows.

// Clippy takes only functions marked #[test] for tests; helpers may panic here too.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cache_refresher_core::backoff::RetryPolicy;
use cache_refresher_core::board::{Board, ViewEntry, ViewId};
use cache_refresher_core::schedule::{GridOffset, Schedule};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{History, Policy, Why, after_success};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn start() -> Timestamp {
    Timestamp::from_pg(815_998_470_000_000)
}

/// A view that was refreshed a moment before the start and is due by itself a minute later.
fn view(id: ViewId, parents: &[ViewId]) -> ViewEntry {
    ViewEntry {
        id,
        policy: Policy {
            schedule: Schedule::Interval(MINUTE),
            adapts: None,
            grid_offset: GridOffset::of(5, "public", "v"),
            retry: RetryPolicy { max_retries: 2, base_delay: SECOND, max_delay: MINUTE },
            suspend_after: MINUTE,
            paused: false,
        },
        history: refreshed(start(), false),
        populated: true,
        registered_at: start(),
        parents: parents.to_vec(),
        follows: !parents.is_empty(),
        reaction: None,
        sources: Vec::new(),
    }
}

fn refreshed(finished: Timestamp, changed: bool) -> History {
    after_success(&History::default(), finished.minus(SECOND), finished, changed)
}

/// The time at which all of them are due by themselves.
fn slot() -> Timestamp {
    let policy = view(1, &[]).policy;
    policy.schedule.next_after(start(), policy.grid_offset).unwrap()
}

fn board(entries: Vec<ViewEntry>) -> Board {
    let mut board = Board::default();
    board.load(entries, start());
    board
}

fn due(board: &mut Board, now: Timestamp) -> Vec<(ViewId, Why)> {
    board.due(now, 99).into_iter().map(|due| (due.id, due.why)).collect()
}

fn finish(board: &mut Board, id: ViewId, now: Timestamp, changed: bool) {
    board.finish(id, now);
    board.apply(id, refreshed(now, changed), true, now);
}

#[test]
fn the_bottom_of_a_diamond_is_refreshed_once_after_both_sides() {
    let mut board = board(vec![view(4, &[2, 3]), view(3, &[1]), view(2, &[1]), view(1, &[])]);
    let mut now = slot();
    assert_eq!(due(&mut board, now), [(1, Why::Interval)]);
    board.start(1);
    assert_eq!(due(&mut board, now), [], "all the others read it");
    now = now.plus(SECOND);
    finish(&mut board, 1, now, true);
    assert_eq!(due(&mut board, now), [(2, Why::Interval), (3, Why::Interval)]);
    board.start(2);
    board.start(3);
    now = now.plus(SECOND);
    finish(&mut board, 2, now, true);
    assert_eq!(due(&mut board, now), [], "the other side still runs");
    now = now.plus(SECOND);
    finish(&mut board, 3, now, true);
    assert_eq!(due(&mut board, now).len(), 1);
    board.start(4);
    now = now.plus(SECOND);
    finish(&mut board, 4, now, true);
    assert_eq!(due(&mut board, now), []);
}

#[test]
fn new_rows_make_followers_due_and_the_same_rows_do_not() {
    for changed in [false, true] {
        let mut board = board(vec![view(1, &[]), view(2, &[1])]);
        // By hand, long before its time.
        let now = start().plus(SECOND * 5);
        finish(&mut board, 1, now, changed);
        let expected: &[_] = if changed { &[(2, Why::Parent)] } else { &[] };
        assert_eq!(due(&mut board, now), expected);
    }
}

#[test]
fn a_view_with_a_pace_of_its_own_keeps_to_it() {
    let mut board = board(vec![view(1, &[]), ViewEntry { follows: false, ..view(2, &[1]) }]);
    let now = start().plus(SECOND * 5);
    finish(&mut board, 1, now, true);
    assert_eq!(due(&mut board, now), []);
}

#[test]
fn what_a_reload_finds_counts_as_much_as_what_was_seen() {
    let now = start().plus(SECOND * 5);
    let mut board = Board::default();
    let parent = ViewEntry { history: refreshed(now, true), ..view(1, &[]) };
    board.load(vec![parent.clone(), view(2, &[1])], now);
    assert_eq!(due(&mut board, now), [(2, Why::Parent)]);
    let shown = ViewEntry { history: refreshed(now.plus(SECOND * 2), true), ..view(2, &[1]) };
    board.load(vec![parent, shown], now.plus(SECOND * 3));
    assert_eq!(due(&mut board, now.plus(SECOND * 3)), []);
}

#[test]
fn a_stuck_parent_holds_nobody_up_for_longer_than_an_interval() {
    let mut board = board(vec![view(1, &[]), view(2, &[1])]);
    assert_eq!(due(&mut board, slot()), [(1, Why::Interval)]);
    board.start(1);
    assert_eq!(due(&mut board, slot().plus(MINUTE - SECOND)), []);
    assert_eq!(due(&mut board, slot().plus(MINUTE)), [(2, Why::Interval)]);
}

#[test]
fn a_parent_that_is_due_again_lets_others_pass() {
    let mut busy = view(1, &[]);
    busy.policy.schedule = Schedule::Interval(SECOND);
    let mut board = board(vec![busy, ViewEntry { follows: false, ..view(2, &[1]) }]);
    // It was due before, and runs when the other one's time comes.
    board.start(1);
    assert_eq!(due(&mut board, slot()), []);
    let now = slot().plus(SECOND * 5);
    finish(&mut board, 1, now, true);
    let now = now.plus(SECOND);
    let ids: Vec<ViewId> = due(&mut board, now).into_iter().map(|(id, _)| id).collect();
    assert!(ids.contains(&2), "{ids:?}");
}

#[test]
fn parents_that_do_not_run_hold_nobody_up() {
    let mut paused = view(1, &[]);
    paused.policy.paused = true;
    let suspended = History { suspended: true, ..refreshed(start(), false) };
    let mut retrying = view(3, &[]);
    retrying.policy.schedule = Schedule::Interval(MINUTE * 1000);
    retrying.history.retry_at = Some(slot().plus(SECOND * 9));
    let mut board = board(vec![
        paused,
        ViewEntry { history: suspended, ..view(2, &[]) },
        retrying,
        view(4, &[1, 2, 3, 77]),
    ]);
    assert_eq!(due(&mut board, slot()), [(4, Why::Interval)]);
}

#[test]
fn a_circle_is_broken_by_patience() {
    let mut board = board(vec![view(1, &[2]), view(2, &[1])]);
    assert_eq!(due(&mut board, slot()), []);
    assert_eq!(due(&mut board, slot().plus(MINUTE)).len(), 2);
}
