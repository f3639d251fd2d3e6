//! Whether a view shows the present state of its sources.

use std::time::Duration;

use serde::Serialize;

/// What is known about a view's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Staleness {
    /// Proved: every source is captured, and no change is unshown.
    Fresh,
    /// A change is unshown.
    Stale,
    /// Not every source is captured.
    Unknown,
}

impl Staleness {
    /// The word for status and results.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether a view is too stale for somebody who accepts content up to `max_age` old, or, without
/// `max_age`, whether it shows old content at all (`None`: not known). An unknown age is too old:
/// who asks wants a guarantee.
pub fn is_stale(
    staleness: Staleness,
    age: Option<Duration>,
    max_age: Option<Duration>,
) -> Option<bool> {
    match (staleness, max_age) {
        (Staleness::Fresh, _) => Some(false),
        (_, Some(max_age)) => Some(age.is_none_or(|age| age > max_age)),
        (Staleness::Stale, None) => Some(true),
        (Staleness::Unknown, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staleness_and_age_decide_together() {
        let minutes = |count: u64| Some(Duration::from_secs(60 * count));
        for (staleness, age, max_age, expected) in [
            (Staleness::Fresh, minutes(9), None, Some(false)),
            (Staleness::Stale, minutes(9), None, Some(true)),
            (Staleness::Unknown, minutes(9), None, None),
            (Staleness::Fresh, minutes(9), minutes(5), Some(false)),
            (Staleness::Stale, minutes(9), minutes(5), Some(true)),
            (Staleness::Stale, minutes(5), minutes(5), Some(false)),
            (Staleness::Unknown, minutes(4), minutes(5), Some(false)),
            (Staleness::Unknown, minutes(6), minutes(5), Some(true)),
            (Staleness::Unknown, None, minutes(5), Some(true)),
        ] {
            assert_eq!(is_stale(staleness, age, max_age), expected, "{staleness:?} {age:?}");
        }
    }
}
