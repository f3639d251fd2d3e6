//! Views on the board that react to changes of their sources.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise

use std::time::Duration;

use cache_refresher_core::backoff::RetryPolicy;
use cache_refresher_core::board::{Board, Due, ViewEntry};
use cache_refresher_core::schedule::{GridOffset, Schedule};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{
    History, Policy, Reaction, Why, after_cancel, after_failure, after_success,
};

const SECOND: Duration = Duration::from_secs(1);
const SOURCE: u32 = 100;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_pg(815_998_470_000_000).plus(SECOND * seconds as u32)
}

fn policy() -> Policy {
    Policy {
        schedule: Schedule::Interval(SECOND * 86_400),
        adapts: None,
        grid_offset: GridOffset::of(5, "public", "v"),
        retry: RetryPolicy { max_retries: 2, base_delay: SECOND * 30, max_delay: SECOND * 60 },
        suspend_after: Duration::ZERO,
        paused: false,
    }
}

fn view(id: u32) -> ViewEntry {
    ViewEntry {
        id,
        policy: policy(),
        history: after_success(&History::default(), at(0), at(0), true),
        populated: true,
        registered_at: at(0),
        parents: Vec::new(),
        follows: false,
        reaction: Some(Reaction { debounce: SECOND * 2, max_staleness: SECOND * 5 }),
        sources: vec![SOURCE, id],
    }
}

fn board() -> Board {
    let mut board = Board::default();
    board.load(vec![view(1)], at(1));
    board
}

fn ids(due: &[Due]) -> Vec<u32> {
    due.iter().map(|due| due.id).collect()
}

#[test]
fn a_change_is_waited_out() {
    let mut board = board();
    assert!(board.due(at(10), 10).is_empty());
    board.changed(SOURCE, at(10));
    assert_eq!(board.wake_at(), Some(at(12)));
    board.changed(SOURCE, at(11));
    assert!(board.due(at(12), 10).is_empty());
    let due = board.due(at(13), 10);
    assert_eq!(due, [Due { id: 1, due_at: at(13), why: Why::Change }]);
    board.changed(99, at(13));
    assert_eq!(ids(&board.due(at(13), 10)), [1], "nobody reads that");
}

#[test]
fn constant_change_does_not_put_it_off_for_ever() {
    let mut board = board();
    (10..15).for_each(|second| board.changed(SOURCE, at(second)));
    assert_eq!(ids(&board.due(at(15), 10)), [1]);
}

#[test]
fn a_change_during_a_refresh_asks_for_another_one() {
    let mut board = board();
    board.changed(1, at(10));
    board.start(1);
    board.changed(SOURCE, at(14));
    assert!(board.due(at(60), 10).is_empty(), "it runs");
    board.finish(1, at(15));
    board.apply(1, after_success(&History::default(), at(12), at(15), true), true, at(15));
    assert_eq!(board.wake_at(), Some(at(16)), "a change after it had begun");
    board.start(1);
    board.finish(1, at(18));
    board.apply(1, after_success(&History::default(), at(16), at(18), true), true, at(18));
    assert!(board.due(at(100), 10).is_empty());
}

#[test]
fn a_failure_waits_for_its_retries_and_then_for_what_is_new() {
    let mut board = board();
    board.changed(SOURCE, at(10));
    board.start(1);
    board.finish(1, at(13));
    let (failed, _) = after_failure(&policy(), &view(1).history, at(12), at(13), 7);
    board.apply(1, failed, true, at(13));
    assert_eq!(board.wake_at(), failed.retry_at, "the change does not hurry it");
    board.start(1);
    board.finish(1, at(80));
    let (given_up, _) = after_failure(&policy(), &failed, at(79), at(80), 7);
    let over = History { retry_at: None, ..given_up };
    board.apply(1, over, true, at(80));
    assert!(board.due(at(500), 10).is_empty(), "it has failed to show that, and would again");
    board.changed(SOURCE, at(501));
    assert_eq!(ids(&board.due(at(502), 10)), [1], "that may be what mends it");
}

#[test]
fn who_cancels_does_not_want_it_back_at_once() {
    let mut board = board();
    board.changed(SOURCE, at(10));
    board.start(1);
    board.finish(1, at(13));
    board.apply(1, after_cancel(&view(1).history, at(12), at(13)), true, at(13));
    assert!(board.due(at(100), 10).is_empty());
    board.changed(SOURCE, at(100));
    assert_eq!(ids(&board.due(at(102), 10)), [1]);
}

#[test]
fn what_changed_while_nobody_listened_is_due() {
    let mut board = Board::default();
    board.load(vec![view(1)], at(20));
    board.stale(1, at(3), at(20));
    assert_eq!(ids(&board.due(at(20), 10)), [1]);
    // A reload keeps what was told in between.
    let mut board = self::board();
    board.changed(SOURCE, at(10));
    board.load(vec![view(1)], at(11));
    assert_eq!(ids(&board.due(at(12), 10)), [1]);
}

#[test]
fn a_paused_view_does_not_react() {
    let mut board = Board::default();
    let paused = ViewEntry { policy: Policy { paused: true, ..policy() }, ..view(1) };
    board.load(vec![paused], at(1));
    board.changed(SOURCE, at(10));
    assert!(board.due(at(100), 10).is_empty());
}

#[test]
fn a_clock_that_goes_back_puts_nothing_off() {
    let mut board = board();
    board.changed(SOURCE, at(5_000));
    assert_eq!(ids(&board.due(at(12), 10)), Vec::<u32>::new());
    assert_eq!(ids(&board.due(at(14), 10)), [1]);
}
