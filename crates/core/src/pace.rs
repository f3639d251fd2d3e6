//! An interval that adapts: shorter while refreshes find changes, longer while they find none, and never so
//! short that a view does little else than being refreshed.

use std::time::Duration;

/// Between what an interval adapts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The shortest.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
    /// What it begins with, within the two.
    pub start: Duration,
}

/// What a refresh has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The view was not up to date.
    Changes,
    /// It was.
    Nothing,
    /// The method does not tell.
    Unknown,
}

/// Why an interval is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaceReason {
    /// The last refresh found changes.
    Changes,
    /// The last refresh found none.
    Nothing,
    /// Refreshes take long.
    Cost,
}

impl PaceReason {
    const ALL: [Self; 3] = [Self::Changes, Self::Nothing, Self::Cost];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Nothing => "no changes",
            Self::Cost => "cost",
        }
    }

    /// The reason that is called that; nothing if there is none.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// An interval that has adapted. Plain data: it is kept in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long after a refresh the next one is due.
    pub interval: Duration,
    /// Why.
    pub reason: PaceReason,
}

/// A view is refreshed for one part in so many of its time at most.
const SHARE: u32 = 20;

impl Limits {
    /// The interval that holds, whatever the limits were when it was adapted.
    #[must_use]
    pub fn interval(&self, pace: Option<Pace>) -> Duration {
        pace.map_or(self.start, |pace| pace.interval).max(self.min).min(self.max)
    }

    /// The pace after a refresh that was due by it.
    ///
    /// Halving follows a source that has become busy within a few refreshes; growing by a half is slower, so
    /// that a pause is not taken for the end. What refreshing costs comes first.
    #[must_use]
    pub fn next(&self, pace: Option<Pace>, found: Found, took: Duration) -> Option<Pace> {
        let present = self.interval(pace);
        let (wanted, reason) = match found {
            Found::Changes => (present / 2, Some(PaceReason::Changes)),
            Found::Nothing => (present.saturating_add(present / 2), Some(PaceReason::Nothing)),
            Found::Unknown => (present, pace.map(|pace| pace.reason)),
        };
        let wanted = wanted.max(self.min).min(self.max);
        let affordable = took.saturating_mul(SHARE).min(self.max);
        if affordable > wanted {
            Some(Pace { interval: affordable, reason: PaceReason::Cost })
        } else {
            reason.map(|reason| Pace { interval: wanted, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits =
        Limits { min: SECOND, max: Duration::from_secs(3600), start: Duration::from_secs(60) };

    fn after(found: &[Found]) -> Duration {
        let pace = found.iter().fold(None, |pace, &found| LIMITS.next(pace, found, Duration::ZERO));
        LIMITS.interval(pace)
    }

    #[test]
    fn it_begins_where_it_is_told() {
        assert_eq!(after(&[]), LIMITS.start);
        assert_eq!(after(&[Found::Unknown; 3]), LIMITS.start);
    }

    #[test]
    fn changes_make_it_shorter_and_their_absence_longer() {
        assert_eq!(after(&[Found::Changes]), SECOND * 30);
        assert_eq!(after(&[Found::Nothing]), SECOND * 90);
        assert_eq!(after(&[Found::Changes; 20]), LIMITS.min);
        assert_eq!(after(&[Found::Nothing; 20]), LIMITS.max);
    }

    #[test]
    fn what_takes_long_is_done_seldom() {
        let pace = LIMITS.next(None, Found::Changes, SECOND * 10).unwrap();
        assert_eq!(pace, Pace { interval: SECOND * 200, reason: PaceReason::Cost });
        let pace = LIMITS.next(Some(pace), Found::Changes, SECOND * 1000).unwrap();
        assert_eq!(pace.interval, LIMITS.max, "but not less often than allowed");
        let quick = LIMITS.next(Some(pace), Found::Nothing, Duration::ZERO).unwrap();
        assert_eq!(quick.reason, PaceReason::Nothing);
    }

    #[test]
    fn an_interval_without_limit_grows_as_far_as_durations_do() {
        let endless = Limits { max: Duration::MAX, start: Duration::MAX, ..LIMITS };
        let pace = endless.next(None, Found::Nothing, Duration::MAX);
        assert_eq!(endless.interval(pace), Duration::MAX);
    }

    #[test]
    fn narrower_limits_hold_at_once() {
        let pace = Some(Pace { interval: SECOND * 1800, reason: PaceReason::Nothing });
        let narrower = Limits { max: SECOND * 120, ..LIMITS };
        assert_eq!(narrower.interval(pace), SECOND * 120);
    }

    #[test]
    fn every_reason_reads_back() {
        for reason in PaceReason::ALL {
            assert_eq!(PaceReason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(PaceReason::parse("none"), None);
    }

    proptest! {
        #[test]
        fn it_stays_within_its_limits(
            found in prop::collection::vec(0..3_u8, 0..50),
            took in prop::collection::vec(0..10_000_u64, 50),
            (min, more) in (1..1000_u64, 0..1000_u64),
        ) {
            let (min, max) = (Duration::from_secs(min), Duration::from_secs(min + more));
            let limits = Limits { min, max, start: min };
            let mut pace = None;
            for (found, took) in found.into_iter().zip(took) {
                let found = [Found::Changes, Found::Nothing, Found::Unknown][usize::from(found)];
                pace = limits.next(pace, found, Duration::from_millis(took));
                let interval = limits.interval(pace);
                prop_assert!(min <= interval && interval <= max);
                prop_assert!(interval >= Duration::from_millis(took).min(max));
            }
        }
    }
}
