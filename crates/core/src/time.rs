//! Points in time as the server counts them.

use std::time::Duration;

/// Microseconds from the Unix epoch to the server's, 2000-01-01 00:00:00 UTC.
const UNIX_TO_PG_MICROS: i64 = 946_684_800_000_000;

/// A point in time: microseconds since 2000-01-01 00:00:00 UTC, like the server's `TimestampTz`.
///
/// Arithmetic saturates, since a schedule that overflows must not take a scheduler down.
/// Plain data without pointers: it is kept in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From the server's representation.
    pub const fn from_pg(micros: i64) -> Self {
        Self(micros)
    }

    /// To the server's representation.
    pub const fn as_pg(self) -> i64 {
        self.0
    }

    /// The time `duration` later; parts of a microsecond are dropped.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add_unsigned(micros(duration)))
    }

    /// The time `duration` earlier; parts of a microsecond are dropped.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub_unsigned(micros(duration)))
    }

    /// How long after `earlier` this is; zero if it is before.
    pub fn since(self, earlier: Self) -> Duration {
        let micros = i128::from(self.0) - i128::from(earlier.0);
        // The difference of two i64 fits into a u64 once it is not negative.
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    /// As RFC 3339 in UTC with milliseconds (truncated), such as `2025-11-09T10:14:30.123Z`.
    /// Years outside -9999 to 9999 become the nearest inside.
    pub fn to_rfc3339_millis(self) -> String {
        let nearest = match self.to_jiff() {
            Some(timestamp) => timestamp,
            None if self.0 < 0 => jiff::Timestamp::MIN,
            None => jiff::Timestamp::MAX,
        };
        format!("{nearest:.3}")
    }

    /// Seconds since the Unix epoch, to a microsecond in this century.
    pub fn as_unix_seconds(self) -> f64 {
        (self.0 as f64 + UNIX_TO_PG_MICROS as f64) / 1e6
    }

    /// The same point for jiff, unless it is outside the years that jiff knows.
    pub(crate) fn to_jiff(self) -> Option<jiff::Timestamp> {
        let unix = self.0.checked_add(UNIX_TO_PG_MICROS)?;
        jiff::Timestamp::from_microsecond(unix).ok()
    }

    /// The same point from jiff.
    pub(crate) fn from_jiff(timestamp: jiff::Timestamp) -> Self {
        Self(timestamp.as_microsecond().saturating_sub(UNIX_TO_PG_MICROS))
    }
}

/// Whole microseconds of a duration, at most `u64::MAX`, which is from one end of time to the other.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_epoch_is_the_year_2000() {
        assert_eq!(Timestamp::from_pg(0).to_rfc3339_millis(), "2000-01-01T00:00:00.000Z");
    }

    #[test]
    fn milliseconds_are_always_written_and_truncated() {
        let time = Timestamp::from_pg(815_998_470_123_999);
        assert_eq!(time.to_rfc3339_millis(), "2025-11-09T10:14:30.123Z");
    }

    #[test]
    fn arithmetic_saturates_instead_of_overflowing() {
        let end = Timestamp::from_pg(i64::MAX);
        assert_eq!(end.plus(Duration::MAX), end);
        assert_eq!(Timestamp::from_pg(0).plus(Duration::MAX), end);
        let start = Timestamp::from_pg(i64::MIN);
        assert_eq!(start.minus(Duration::from_secs(1)), start);
        assert_eq!(end.since(start), Duration::from_micros(u64::MAX));
        assert_eq!(start.plus(Duration::MAX), end);
        assert_eq!(start.plus(end.since(start)), end);
        assert_eq!(end.minus(end.since(start)), start);
        assert_eq!(end.to_rfc3339_millis().get(..4), Some("9999"));
        assert!(start.to_rfc3339_millis().starts_with("-009999"));
    }

    #[test]
    fn time_since_something_later_is_zero() {
        let time = Timestamp::from_pg(5);
        assert_eq!(time.since(time.plus(Duration::from_secs(1))), Duration::ZERO);
        assert_eq!(time.plus(Duration::from_secs(1)).since(time), Duration::from_secs(1));
    }
}
