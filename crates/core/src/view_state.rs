//! The life of one registered view: when it is due, and what each outcome makes of its history.
//!
//! ```text
//!              ┌────────── success, by anyone ──────────┐
//!              ▼                                        │
//!  due ──► waiting for its slot ──► running ────────────┤
//!              ▲    ▲    ▲             │ failure        │
//!              │    │    └─ cancel ────┤                │
//!              │    │                  ├─► retry_at set ┘  retries left, and the retry before the slot
//!              │    └──────────────────┤                   round over: wait for the slot
//!              └── resume ─ suspended ◄┘                   failing for too long
//! ```
//!
//! "Running" is not here: it is a mark in shared memory and on the board, so that a crash leaves
//! nothing to put right. The functions below are the only ones that make a new [`History`].

use std::borrow::Cow;
use std::time::Duration;

use crate::backoff::RetryPolicy;
use crate::pace::{Limits, Pace};
use crate::schedule::{GridOffset, Schedule};
use crate::time::Timestamp;

/// A view is suspended after this many failed rounds at the earliest, however long they took: with a
/// long interval, time alone would suspend it after a single mishap.
pub const LEAST_ROUNDS: u32 = 3;

/// What was decided about a view by its owner and the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// When its slots are, unless its interval adapts.
    pub schedule: Schedule,
    /// Between what its interval adapts, if it does.
    pub adapts: Option<Limits>,
    /// Where its interval slots lie on the grid.
    pub grid_offset: GridOffset,
    /// How failures are retried.
    pub retry: RetryPolicy,
    /// How long it may fail before it is suspended; zero is for ever.
    pub suspend_after: Duration,
    /// Its owner wants no refreshes for now.
    pub paused: bool,
}

/// What has happened to a view. The default is a view that never ran.
/// Plain data without pointers: it is kept in shared memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    /// Start of the last refresh, whatever came of it.
    pub last_started: Option<Timestamp>,
    /// End of the last refresh, whatever came of it.
    pub last_finished: Option<Timestamp>,
    /// When to try again, while a failed round has retries left.
    pub retry_at: Option<Timestamp>,
    /// Retries used in the current round.
    pub attempt: u32,
    /// Rounds that ended in failure since the last success.
    pub failed_rounds: u32,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// End of the first failure since the last success.
    pub failing_since: Option<Timestamp>,
    /// End of the last refresh that brought new rows, or cannot tell: what reads the view may be due.
    pub changed_at: Option<Timestamp>,
    /// The interval to which it has adapted.
    pub pace: Option<Pace>,
    /// Failed too long: nothing runs until somebody resumes or refreshes it.
    pub suspended: bool,
}

impl Policy {
    /// When the slots of a view are that has gone through that.
    pub fn slots(&self, history: &History) -> Cow<'_, Schedule> {
        match &self.adapts {
            Some(limits) => Cow::Owned(Schedule::After(limits.interval(history.pace))),
            None => Cow::Borrowed(&self.schedule),
        }
    }
}

/// Why a view is due. Plain data: it is kept in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It never had content, and reading it is an error until it has.
    Unpopulated,
    /// A slot of its interval has come.
    Interval,
    /// A slot of its cron schedule has come.
    Schedule,
    /// It has no pace of its own, and a view that it reads has new rows.
    Parent,
    /// A source has changed, or somebody said so.
    Change,
    /// It failed, and is tried again.
    Retry,
}

impl Why {
    /// The word for the refresh log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unpopulated => "never populated",
            Self::Interval => "interval",
            Self::Schedule => "schedule",
            Self::Parent => "parent",
            Self::Change => "change",
            Self::Retry => "retry",
        }
    }
}

/// When a view is to be refreshed next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextDue {
    /// At this time, which may have passed.
    At(Timestamp, Why),
    /// Not at all, until something about it is changed.
    Never,
}

/// How a view reacts to changes of its sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaction {
    /// It waits until the sources have been quiet for so long.
    pub debounce: Duration,
    /// But no longer than this after the first change.
    pub max_staleness: Duration,
}

/// Changes that a view does not show yet, as far as the scheduler has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The earliest.
    pub first: Timestamp,
    /// The latest.
    pub last: Timestamp,
}

impl Change {
    /// With one more, at that time.
    #[must_use]
    pub fn and(change: Option<Self>, at: Timestamp) -> Self {
        match change {
            Some(Self { first, last }) => Self { first: first.min(at), last: last.max(at) },
            None => Self { first: at, last: at },
        }
    }

    /// What is left of it after an attempt that began at `started`: whoever was told of a change before
    /// that shows it.
    #[must_use]
    pub fn since(self, started: Timestamp) -> Option<Self> {
        let Self { first, last } = self;
        (last > started).then_some(Self { first: first.max(started), last })
    }
}

/// What a failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again at this time.
    RetryAt(Timestamp),
    /// The round is over; the next one begins with this slot, if there is any.
    WaitForSlot(Option<Timestamp>),
    /// Nothing more happens until somebody resumes or refreshes it.
    Suspended,
}

/// When a view is due, as known at `now`.
///
/// The slot that counts is the first after the last refresh ended. So slots that pass during a slow
/// refresh are skipped, and after a pause of the whole server a view is refreshed once, at once,
/// however many slots it missed.
///
/// The clock may go back. A history that lies in the future by a slot or more is not believed: the
/// view is due at once, since to wait until the clock has caught up could take hours. Less than a
/// slot makes no difference, so that small corrections cause no extra refresh.
pub fn next_due(
    policy: &Policy,
    history: &History,
    populated: bool,
    registered_at: Timestamp,
    now: Timestamp,
) -> NextDue {
    if policy.paused || history.suspended {
        return NextDue::Never;
    }
    let since = history.last_finished.unwrap_or(registered_at);
    let slot = next_slot(&policy.slots(history), policy.grid_offset, since, now);
    if let Some(retry_at) = history.retry_at {
        // A retry lies before the slot when it is decided; a schedule changed since then, or the
        // clock, may have brought the slot forward.
        return match slot {
            NextDue::At(slot, why) if slot < retry_at => NextDue::At(slot, why),
            _ => NextDue::At(retry_at, Why::Retry),
        };
    }
    // After a failure or cancellation it waits for a retry or slot as other views do.
    if !populated && history.last_finished.is_none() {
        return NextDue::At(registered_at.min(now), Why::Unpopulated);
    }
    slot
}

fn next_slot(
    slots: &Schedule,
    grid_offset: GridOffset,
    since: Timestamp,
    now: Timestamp,
) -> NextDue {
    let why = match slots {
        Schedule::Interval(_) | Schedule::After(_) => Why::Interval,
        Schedule::Cron(_) => Why::Schedule,
    };
    let after = |time| slots.next_after(time, grid_offset);
    let clock_went_back = since > now && after(now).is_some_and(|slot| slot <= since);
    if clock_went_back {
        return NextDue::At(now, why);
    }
    after(since).map_or(NextDue::Never, |slot| NextDue::At(slot, why))
}

/// When a view is due that follows others, of which one got new rows at `changed_at`: at once, unless
/// it has been refreshed since. What it has to wait for by its own history, it waits for.
#[must_use]
pub fn following(due: NextDue, history: &History, changed_at: Option<Timestamp>) -> NextDue {
    match (due, changed_at) {
        (NextDue::At(slot, Why::Interval | Why::Schedule), Some(changed_at))
            if changed_at < slot
                && history.last_started.is_none_or(|started| started < changed_at) =>
        {
            NextDue::At(changed_at, Why::Parent)
        }
        _ => due,
    }
}

/// When a view is due that reacts to changes of what it reads: after they have come to rest, at the
/// latest when its content may not be staler. What it has to wait for by its own history, it waits for.
///
/// While it fails, what had changed before its last attempt is left to retries and slots, and what has changed
/// since may be what mends it, but is not worth an attempt sooner than a retry would be.
#[must_use]
pub fn reacting(
    due: NextDue,
    reaction: Reaction,
    change: Option<Change>,
    history: &History,
    retry: RetryPolicy,
) -> NextDue {
    let failed = history.last_started.zip(history.last_finished);
    let failed = failed.filter(|_| history.consecutive_failures > 0);
    let change = match failed {
        Some((started, _)) => change.and_then(|change| change.since(started)),
        None => change,
    };
    let Some(Change { first, last }) = change else { return due };
    let mut at = last.plus(reaction.debounce).min(first.plus(reaction.max_staleness));
    if let Some((_, finished)) = failed {
        at = at.max(finished.plus(retry.ceiling(history.consecutive_failures)));
    }
    match due {
        NextDue::At(slot, Why::Interval | Why::Schedule | Why::Parent) if at < slot => {
            NextDue::At(at, Why::Change)
        }
        _ => due,
    }
}

impl History {
    /// Whether there are failures that could be forgotten.
    pub const fn has_failed(&self) -> bool {
        self.retry_at.is_some()
            || self.failed_rounds > 0
            || self.consecutive_failures > 0
            || self.suspended
    }
}

/// After a refresh that succeeded, whoever asked for it: all failures are forgotten. `changed` tells
/// whether it brought new rows; true where the method cannot tell.
#[must_use]
pub fn after_success(
    history: &History,
    started: Timestamp,
    finished: Timestamp,
    changed: bool,
) -> History {
    History {
        last_started: Some(started),
        last_finished: Some(finished),
        changed_at: if changed { Some(finished) } else { history.changed_at },
        pace: history.pace,
        ..History::default()
    }
}

/// After a refresh that failed, and what follows from it. `entropy` is any number, for the jitter.
#[must_use]
pub fn after_failure(
    policy: &Policy,
    history: &History,
    started: Timestamp,
    finished: Timestamp,
    entropy: u64,
) -> (History, Verdict) {
    let failed = History {
        last_started: Some(started),
        last_finished: Some(finished),
        retry_at: None,
        consecutive_failures: history.consecutive_failures.saturating_add(1),
        failing_since: history.failing_since.or(Some(finished)),
        ..*history
    };
    if history.suspended {
        // Somebody tried by hand.
        return (failed, Verdict::Suspended);
    }
    let slot = policy.slots(history).next_after(finished, policy.grid_offset);

    if history.attempt < policy.retry.max_retries {
        let attempt = history.attempt + 1;
        let retry_at = finished.plus(policy.retry.delay(attempt, entropy));
        // A retry past the slot would delay what the schedule promises.
        if slot.is_none_or(|slot| retry_at <= slot) {
            let history = History { retry_at: Some(retry_at), attempt, ..failed };
            return (history, Verdict::RetryAt(retry_at));
        }
    }

    let failed_rounds = history.failed_rounds.saturating_add(1);
    let failing_for = finished.since(failed.failing_since.unwrap_or(finished));
    let suspended = !policy.suspend_after.is_zero()
        && failed_rounds >= LEAST_ROUNDS
        && failing_for >= policy.suspend_after;
    let history = History { attempt: 0, failed_rounds, suspended, ..failed };
    (history, if suspended { Verdict::Suspended } else { Verdict::WaitForSlot(slot) })
}

/// After a refresh that somebody cancelled: no failure, but no retry either. Who cancels a refresh
/// does not want it back in a second, so it waits for the next slot.
#[must_use]
pub fn after_cancel(history: &History, started: Timestamp, finished: Timestamp) -> History {
    History {
        last_started: Some(started),
        last_finished: Some(finished),
        retry_at: None,
        attempt: 0,
        ..*history
    }
}

/// After somebody resumed the view: as if it had never failed. A slot that passed meanwhile is
/// caught up at once.
#[must_use]
pub fn resumed(history: &History) -> History {
    History {
        last_started: history.last_started,
        last_finished: history.last_finished,
        changed_at: history.changed_at,
        pace: history.pace,
        ..History::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::schedule::CronSchedule;

    const MINUTE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> Policy {
        Policy {
            schedule: Schedule::Interval(MINUTE),
            adapts: None,
            grid_offset: GridOffset::of(5, "public", "v"),
            retry: RetryPolicy { max_retries: 2, base_delay: SECOND, max_delay: MINUTE * 5 },
            suspend_after: SECOND,
            paused: false,
        }
    }

    /// Some slot of [`policy`].
    fn slot() -> Timestamp {
        let noon = Timestamp::from_pg(815_998_470_000_000);
        policy().schedule.next_after(noon, policy().grid_offset).unwrap()
    }

    fn success(finished: Timestamp) -> History {
        after_success(&History::default(), finished.minus(SECOND), finished, true)
    }

    fn due(history: &History, now: Timestamp) -> NextDue {
        next_due(&policy(), history, true, slot().minus(MINUTE * 99), now)
    }

    #[test]
    fn a_view_never_populated_is_due_from_its_registration() {
        let registered_at = slot();
        let now = registered_at.plus(SECOND);
        let due = next_due(&policy(), &History::default(), false, registered_at, now);
        assert_eq!(due, NextDue::At(registered_at, Why::Unpopulated));
    }

    #[test]
    fn a_populated_view_that_never_ran_waits_for_the_slot_after_its_registration() {
        let registered_at = slot().plus(SECOND);
        let due = next_due(&policy(), &History::default(), true, registered_at, registered_at);
        assert_eq!(due, NextDue::At(slot().plus(MINUTE), Why::Interval));
    }

    #[test]
    fn slots_that_pass_during_a_slow_refresh_are_skipped() {
        let finished = slot().plus(MINUTE * 3 + SECOND);
        assert_eq!(
            due(&success(finished), finished),
            NextDue::At(slot().plus(MINUTE * 4), Why::Interval)
        );
    }

    #[test]
    fn after_an_outage_the_first_missed_slot_counts() {
        let history = success(slot().plus(SECOND));
        assert_eq!(
            due(&history, slot().plus(MINUTE * 60)),
            NextDue::At(slot().plus(MINUTE), Why::Interval)
        );
    }

    #[test]
    fn while_a_view_fails_only_what_is_new_brings_an_attempt_and_none_too_soon() {
        let reaction = Reaction { debounce: Duration::ZERO, max_staleness: SECOND };
        let at = |seconds| slot().plus(SECOND * seconds);
        let interval = NextDue::At(at(600), Why::Interval);
        let failed = History {
            last_started: Some(at(10)),
            last_finished: Some(at(11)),
            consecutive_failures: 3,
            ..History::default()
        };
        let change = |first, last| Some(Change { first: at(first), last: at(last) });
        let due = |change| reacting(interval, reaction, change, &failed, policy().retry);
        assert_eq!(due(change(1, 9)), interval, "what it has failed to show");
        let wait = policy().retry.ceiling(3);
        assert!(wait > SECOND);
        assert_eq!(due(change(1, 12)), NextDue::At(at(11).plus(wait), Why::Change));
        let late = NextDue::At(at(500), Why::Change);
        assert_eq!(due(change(500, 500)), late);
    }

    #[test]
    fn a_change_waits_for_quiet_but_not_for_ever() {
        let reaction = Reaction { debounce: SECOND * 2, max_staleness: SECOND * 5 };
        let at = |seconds| slot().plus(SECOND * seconds);
        let interval = NextDue::At(at(60), Why::Interval);
        let due = |first, last| {
            let change = Change { first: at(first), last: at(last) };
            reacting(interval, reaction, Some(change), &History::default(), policy().retry)
        };
        assert_eq!(
            reacting(interval, reaction, None, &History::default(), policy().retry),
            interval
        );
        assert_eq!(due(1, 1), NextDue::At(at(3), Why::Change));
        assert_eq!(due(1, 3), NextDue::At(at(5), Why::Change));
        assert_eq!(due(1, 30), NextDue::At(at(6), Why::Change), "max_staleness");
        assert_eq!(due(59, 59), interval, "the slot comes earlier");
        let change = Some(Change { first: at(1), last: at(1) });
        for other in [NextDue::Never, NextDue::At(at(30), Why::Retry)] {
            assert_eq!(
                reacting(other, reaction, change, &History::default(), policy().retry),
                other,
                "what it has to wait for"
            );
        }
    }

    #[test]
    fn a_refresh_shows_the_changes_of_which_it_was_told_before() {
        let at = |seconds| slot().plus(SECOND * seconds);
        let change = Change { first: at(1), last: at(3) };
        assert_eq!(change.since(at(3)), None);
        assert_eq!(change.since(at(2)), Some(Change { first: at(2), last: at(3) }));
        assert_eq!(change.since(at(0)), Some(change));
        assert_eq!(Change::and(None, at(3)), Change { first: at(3), last: at(3) });
        assert_eq!(Change::and(Some(change), at(4)), Change { first: at(1), last: at(4) });
    }

    #[test]
    fn a_view_follows_what_it_reads_unless_it_shows_it_already() {
        let (started, finished) = (slot(), slot().plus(SECOND));
        let history = after_success(&History::default(), started, finished, true);
        let due = due(&history, finished);
        assert_eq!(following(due, &history, None), due);
        assert_eq!(following(due, &history, Some(started)), due, "seen");
        let changed_at = started.plus(SECOND * 2);
        let follows = NextDue::At(changed_at, Why::Parent);
        assert_eq!(following(due, &history, Some(changed_at)), follows);
        assert_eq!(following(due, &history, Some(slot().plus(MINUTE * 2))), due, "due before");
        assert_eq!(following(NextDue::Never, &history, Some(changed_at)), NextDue::Never);
        let retry = NextDue::At(slot().plus(MINUTE), Why::Retry);
        assert_eq!(following(retry, &history, Some(changed_at)), retry);
    }

    #[test]
    fn a_refresh_without_new_rows_leaves_the_time_of_the_last_ones() {
        let first = after_success(&History::default(), slot(), slot().plus(SECOND), true);
        let second = after_success(&first, slot().plus(MINUTE), slot().plus(MINUTE), false);
        assert_eq!(second.changed_at, Some(slot().plus(SECOND)));
        assert_eq!(resumed(&second).changed_at, second.changed_at);
    }

    #[test]
    fn paused_and_suspended_views_are_never_due() {
        let paused = Policy { paused: true, ..policy() };
        let now = slot();
        assert_eq!(next_due(&paused, &History::default(), false, now, now), NextDue::Never);
        let suspended = History { suspended: true, ..success(now) };
        assert_eq!(due(&suspended, now), NextDue::Never);
    }

    #[test]
    fn a_history_from_the_future_makes_a_view_due_at_once() {
        let now = slot();
        assert_eq!(due(&success(now.plus(MINUTE * 60)), now), NextDue::At(now, Why::Interval));
        let retrying =
            History { retry_at: Some(now.plus(MINUTE * 61)), ..success(now.plus(MINUTE * 60)) };
        assert_eq!(due(&retrying, now), NextDue::At(now, Why::Interval));
    }

    #[test]
    fn a_small_step_back_of_the_clock_causes_no_extra_refresh() {
        let finished = slot().plus(SECOND);
        assert_eq!(
            due(&success(finished), slot()),
            NextDue::At(slot().plus(MINUTE), Why::Interval)
        );
    }

    #[test]
    fn a_cron_schedule_is_named_as_the_reason() {
        let cron = Schedule::Cron(CronSchedule::parse("* * * * *", "UTC").unwrap());
        let policy = Policy { schedule: cron, ..policy() };
        let history = success(slot());
        let due = next_due(&policy, &history, true, slot(), slot());
        assert!(matches!(due, NextDue::At(_, Why::Schedule)), "{due:?}");
    }

    #[test]
    fn rounds_alone_do_not_suspend_a_view_that_has_not_failed_for_long() {
        let patient = Policy { suspend_after: MINUTE * 10, ..policy() };
        let mut history = success(slot());
        let mut failures = 0;
        while !history.suspended && failures < 1000 {
            let at = slot().plus(SECOND * failures);
            (history, _) = after_failure(&patient, &history, at, at, 0);
            failures += 1;
        }
        assert!(history.failed_rounds > LEAST_ROUNDS);
        // One a second, and the round in which the time runs out is finished first.
        assert!((601..=604).contains(&failures), "{failures}");
    }

    #[test]
    fn failures_are_retried_then_wait_for_the_slot_then_suspend() {
        let policy = policy();
        let mut history = success(slot());
        let mut verdicts = Vec::new();
        for round in 0..3 {
            let mut at = slot().plus(MINUTE * round);
            for _ in 0..3 {
                let (next, verdict) = after_failure(&policy, &history, at, at, 7);
                history = next;
                verdicts.push(match verdict {
                    Verdict::RetryAt(retry_at) => {
                        assert_eq!(due(&history, at), NextDue::At(retry_at, Why::Retry));
                        at = retry_at;
                        "retry"
                    }
                    Verdict::WaitForSlot(next_slot) => {
                        assert_eq!(next_slot, Some(slot().plus(MINUTE * (round + 1))));
                        assert_eq!(history.attempt, 0);
                        "wait"
                    }
                    Verdict::Suspended => "suspended",
                });
            }
        }
        assert_eq!(
            verdicts,
            ["retry", "retry", "wait", "retry", "retry", "wait", "retry", "retry", "suspended"]
        );
        assert_eq!((history.consecutive_failures, history.failed_rounds), (9, 3));
        assert_eq!(due(&history, slot().plus(MINUTE * 9)), NextDue::Never);
    }

    #[test]
    fn a_retry_past_the_next_slot_ends_the_round() {
        let late = slot().minus(Duration::from_micros(1));
        let (history, verdict) = after_failure(&policy(), &success(late), late, late, 7);
        assert_eq!(verdict, Verdict::WaitForSlot(Some(slot())));
        assert_eq!((history.attempt, history.failed_rounds), (0, 1));
    }

    #[test]
    fn without_a_limit_of_time_a_view_is_never_suspended() {
        let policy = Policy { suspend_after: Duration::ZERO, ..policy() };
        let mut history = History::default();
        for _ in 0..1000 {
            let (next, verdict) = after_failure(&policy, &history, slot(), slot(), 7);
            assert_ne!(verdict, Verdict::Suspended);
            history = next;
        }
    }

    #[test]
    fn a_failing_view_without_content_is_retried_and_then_waits_for_its_slot() {
        let policy = Policy {
            retry: RetryPolicy { max_retries: 0, base_delay: SECOND, max_delay: SECOND },
            ..policy()
        };
        let (history, _) = after_failure(&policy, &History::default(), slot(), slot(), 7);
        let due = next_due(&policy, &history, false, slot(), slot());
        assert_eq!(due, NextDue::At(slot().plus(MINUTE), Why::Interval));
    }

    #[test]
    fn success_forgets_all_failures() {
        let failing = History {
            retry_at: Some(slot()),
            attempt: 2,
            failed_rounds: 2,
            consecutive_failures: 8,
            suspended: true,
            ..success(slot())
        };
        let finished = slot().plus(SECOND);
        assert_eq!(after_success(&failing, slot(), finished, true), success(finished));
        assert_eq!(resumed(&failing), success(slot()));
    }

    #[test]
    fn a_cancelled_refresh_is_no_failure_and_waits_for_the_next_slot() {
        let (failing, _) = after_failure(&policy(), &success(slot()), slot(), slot(), 7);
        let finished = slot().plus(SECOND);
        let history = after_cancel(&failing, slot(), finished);
        assert_eq!(history.consecutive_failures, 1);
        assert_eq!(due(&history, finished), NextDue::At(slot().plus(MINUTE), Why::Interval));

        let never = after_cancel(&History::default(), slot(), finished);
        let due = next_due(&policy(), &never, false, slot(), finished);
        assert_eq!(due, NextDue::At(slot().plus(MINUTE), Why::Interval));
    }

    #[test]
    fn a_failure_by_hand_does_not_lift_a_suspension() {
        let suspended = History { suspended: true, failed_rounds: 3, ..success(slot()) };
        let (history, verdict) = after_failure(&policy(), &suspended, slot(), slot(), 7);
        assert_eq!(verdict, Verdict::Suspended);
        assert!(history.suspended);
        assert_eq!(history.retry_at, None);
    }
}
