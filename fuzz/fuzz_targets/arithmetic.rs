//! Times and durations at the ends of what can be represented: nothing overflows, waits stay within their limits,
//! grids keep their steps, and what comes next is never earlier.
#![no_main]
#![allow(clippy::unwrap_used)] // a target stops at the first surprise

use std::time::Duration;

use cache_refresher_core::backoff::RetryPolicy;
use cache_refresher_core::board::{Board, ViewEntry};
use cache_refresher_core::databases::restart_delay;
use cache_refresher_core::interval::MIN_INTERVAL;
use cache_refresher_core::pace::{Found, Limits, Pace};
use cache_refresher_core::schedule::{GridOffset, Schedule};
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{
    History, NextDue, Policy, Reaction, Verdict, after_cancel, after_failure, after_success,
    next_due, resumed,
};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let input = &mut input;
    for body in [times, slots, waits, pace, life] {
        body(input).unwrap_or_default();
    }
});

const MICROSECOND: Duration = Duration::from_micros(1);

fn time(input: &mut Unstructured) -> Result<Timestamp> {
    let micros: i64 = input.arbitrary()?;
    let micros = match input.int_in_range(0..=3)? {
        0 => i64::MIN.saturating_add(micros & 0xff),
        1 => i64::MAX - (micros & 0xff),
        2 => micros >> 10,
        _ => micros,
    };
    Ok(Timestamp::from_pg(micros))
}

fn duration(input: &mut Unstructured) -> Result<Duration> {
    Ok(match input.int_in_range(0..=4)? {
        0 => Duration::from_micros(input.arbitrary::<u32>()?.into()),
        1 => Duration::from_secs(input.arbitrary::<u32>()?.into()),
        2 => Duration::MAX,
        3 => Duration::ZERO,
        _ => Duration::new(input.arbitrary()?, input.int_in_range(0..=999_999_999)?),
    })
}

fn times(input: &mut Unstructured) -> Result<()> {
    let (one, other, duration) = (time(input)?, time(input)?, duration(input)?);
    assert!(one.minus(duration) <= one && one <= one.plus(duration));
    let (earlier, later) = (one.min(other), one.max(other));
    assert!(earlier.plus(duration) <= later.plus(duration));
    assert!(earlier.minus(duration) <= later.minus(duration));
    assert_eq!(earlier.since(later), Duration::ZERO);
    assert_eq!(
        later.since(earlier).as_micros(),
        i128::from(later.as_pg()).abs_diff(earlier.as_pg().into())
    );
    assert_eq!(earlier.plus(later.since(earlier)), later);
    assert_eq!(later.minus(later.since(earlier)), earlier);
    // Years of four digits sort as texts do.
    let (early, late) = (earlier.to_rfc3339_millis(), later.to_rfc3339_millis());
    assert!(early.starts_with('-') || early <= late, "{early} {late}");
    Ok(())
}

fn slots(input: &mut Unstructured) -> Result<()> {
    let (after, interval) = (time(input)?, duration(input)?);
    let grid_offset = GridOffset::of(input.arbitrary()?, "public", input.arbitrary()?);
    let step = interval.max(MIN_INTERVAL);
    assert!(grid_offset.within(step) < step);
    let grid = Schedule::Interval(interval);
    if let Some(slot) = grid.next_after(after, grid_offset) {
        assert!(slot > after && slot.since(after) <= step);
        let micros = step.as_micros() as i128;
        let place = (i128::from(slot.as_pg()) - grid_offset.within(step).as_micros() as i128)
            .rem_euclid(micros);
        assert_eq!(place, 0);
        assert_eq!(grid.next_after(slot.minus(MICROSECOND), grid_offset), Some(slot));
        if let Some(next) = grid.next_after(slot, grid_offset) {
            assert_eq!(next.since(slot).as_micros(), step.as_micros());
        }
    } else {
        // The next slot is further away than there is time.
        assert_eq!(after.plus(step), Timestamp::from_pg(i64::MAX));
    }
    let drifting = Schedule::After(interval).next_after(after, grid_offset).unwrap();
    assert!(drifting > after || after == Timestamp::from_pg(i64::MAX));
    Ok(())
}

fn waits(input: &mut Unstructured) -> Result<()> {
    let retry = retry(input)?;
    let (attempt, entropy) = (input.arbitrary::<u32>()?, input.arbitrary()?);
    let ceiling = retry.ceiling(attempt);
    assert!(ceiling <= retry.max_delay && ceiling <= retry.ceiling(attempt.saturating_add(1)));
    if attempt <= 31 {
        let doubled = retry.base_delay.saturating_mul(1 << attempt.saturating_sub(1));
        assert_eq!(ceiling, doubled.min(retry.max_delay));
    }
    assert!(retry.delay(attempt, entropy) <= ceiling);
    assert_eq!(retry.delay(attempt, entropy), retry.delay(attempt, entropy));
    let restart = restart_delay(attempt);
    assert!((Duration::from_secs(1)..=Duration::from_secs(60)).contains(&restart));
    assert!(restart <= restart_delay(attempt.saturating_add(1)));
    Ok(())
}

fn retry(input: &mut Unstructured) -> Result<RetryPolicy> {
    let max_retries = input.arbitrary()?;
    Ok(RetryPolicy { max_retries, base_delay: duration(input)?, max_delay: duration(input)? })
}

fn limits(input: &mut Unstructured) -> Result<Limits> {
    let mut three = [duration(input)?, duration(input)?, duration(input)?];
    three.sort();
    let [min, start, max] = three;
    Ok(Limits { min, max, start })
}

fn pace(input: &mut Unstructured) -> Result<()> {
    let limits = limits(input)?;
    let mut pace: Option<Pace> = None;
    for _ in 0..input.int_in_range(0..=20)? {
        let before = limits.interval(pace);
        let found = *input.choose(&[Found::Changes, Found::Nothing, Found::Unknown])?;
        let took = duration(input)?;
        pace = limits.next(pace, found, took);
        let interval = limits.interval(pace);
        assert!((limits.min..=limits.max).contains(&interval));
        assert!(interval >= took.saturating_mul(20).min(limits.max), "a twentieth of its time");
        match found {
            Found::Nothing => assert!(interval >= before),
            Found::Changes if took.is_zero() => assert!(interval <= before),
            Found::Unknown if took.is_zero() => assert_eq!(interval, before),
            _ => {}
        }
    }
    Ok(())
}

/// What becomes of a view that runs at any time, with any outcome.
fn life(input: &mut Unstructured) -> Result<()> {
    let schedule = match input.arbitrary()? {
        true => Schedule::Interval(duration(input)?),
        false => Schedule::After(duration(input)?),
    };
    let policy = Policy {
        schedule,
        adapts: if input.arbitrary()? { Some(limits(input)?) } else { None },
        grid_offset: GridOffset::of(input.arbitrary()?, "public", "v"),
        retry: retry(input)?,
        suspend_after: duration(input)?,
        paused: input.arbitrary()?,
    };
    let mut history = History::default();
    let registered_at = time(input)?;
    let mut entry = ViewEntry {
        id: 1,
        policy: policy.clone(),
        history,
        populated: input.arbitrary()?,
        registered_at,
        parents: vec![1, 2],
        follows: input.arbitrary()?,
        reaction: None,
        sources: vec![7],
        stale_since: None,
    };
    if input.arbitrary()? {
        entry.reaction =
            Some(Reaction { debounce: duration(input)?, max_staleness: duration(input)? });
        entry.stale_since = Some(time(input)?);
    }
    let mut board = Board::default();
    board.load(vec![entry.clone()], time(input)?);
    for _ in 0..input.int_in_range(0..=8)? {
        let now = time(input)?;
        for due in board.due(now, 9) {
            assert!(due.id == 1 && due.due_at <= now && !policy.paused && !history.suspended);
        }
        board.start(1);
        let finished = time(input)?;
        match input.int_in_range(0..=4)? {
            0 => history = after_success(&history, now, finished, input.arbitrary()?),
            1 => history = after_cancel(&history, now, finished),
            2 => history = resumed(&history),
            3 => board.changed(7, finished),
            _ => {
                let (failed, verdict) =
                    after_failure(&policy, &history, now, finished, input.arbitrary()?);
                match verdict {
                    Verdict::RetryAt(at) => {
                        assert!(
                            failed.attempt > history.attempt
                                && failed.attempt <= policy.retry.max_retries
                        );
                        assert!(
                            at >= finished
                                && at.since(finished) <= policy.retry.ceiling(failed.attempt)
                        );
                        assert_eq!(failed.retry_at, Some(at));
                    }
                    Verdict::WaitForSlot(slot) => {
                        assert!(
                            slot.is_none_or(|slot| slot >= finished) && failed.retry_at.is_none()
                        );
                    }
                    Verdict::Suspended => assert!(failed.suspended && failed.retry_at.is_none()),
                }
                history = failed;
            }
        }
        match next_due(&policy, &history, entry.populated, registered_at, finished) {
            NextDue::At(..) => assert!(!policy.paused && !history.suspended),
            NextDue::Never => {}
        }
        board.apply(1, history, input.arbitrary()?, finished);
        board.finish(1, finished);
        if input.arbitrary()? {
            board.postpone(1, time(input)?);
        }
        assert_eq!((board.len(), board.running()), (1, 0));
        if policy.paused || history.suspended {
            assert_eq!(board.wake_at(), None);
        }
    }
    Ok(())
}
