//! Durations as people write them in settings: PostgreSQL's habit and Go's.

use std::time::Duration;

use jiff::fmt::friendly::SpanParser;
use jiff::{Span, SpanRelativeTo};

/// The accepted forms, as a sentence for a hint.
pub const FORMS: &str = "Write a duration such as 500ms, 30s, 5m (or 5min), 1h30m, 1.5h or 2d; \
                         0 is the only number that needs no unit.";

/// The longest duration that is read, about 20,000 years. Beyond it lie sums of units each of which can be
/// read, but which [`format()`] would write with more days than can.
pub const MAX: Duration = Duration::from_secs(7_304_484 * 24 * 60 * 60);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing but white space.
    #[error("the duration is empty")]
    Empty,
    /// A number other than zero without a unit. The server's settings would take it in a unit that
    /// differs from setting to setting.
    #[error("duration \"{value}\" has no unit")]
    NoUnit {
        /// What was given.
        value: String,
    },
    /// Less than zero.
    #[error("duration \"{value}\" is negative")]
    Negative {
        /// What was given.
        value: String,
    },
    /// Months and years, which have no fixed length.
    #[error("duration \"{value}\" uses months or years, which vary in length")]
    Calendar {
        /// What was given.
        value: String,
    },
    /// Anything else, too large a number included.
    #[error("\"{value}\" is not a duration")]
    Malformed {
        /// What was given.
        value: String,
    },
}

/// Reads a duration. A day has 24 hours.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    static PARSER: SpanParser = SpanParser::new();

    let text = text.trim();
    let value = || text.to_owned();
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let Ok(span) = PARSER.parse_span(text) else {
        return Err(match text.parse::<f64>() {
            Ok(number) if number < 0.0 => DurationError::Negative { value: value() },
            Ok(number) if number.is_finite() => DurationError::NoUnit { value: value() },
            _ => DurationError::Malformed { value: value() },
        });
    };
    if span.is_negative() {
        return Err(DurationError::Negative { value: value() });
    }
    if span.get_months() != 0 || span.get_years() != 0 {
        return Err(DurationError::Calendar { value: value() });
    }
    to_std(&span)
        .filter(|duration| *duration <= MAX)
        .ok_or_else(|| DurationError::Malformed { value: value() })
}

fn to_std(span: &Span) -> Option<Duration> {
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(signed).ok()
}

/// Writes a duration in its shortest exact form, such as `5m`, `1h30m`, `500ms` or `0`.
/// [`parse`] reads it back, up to [`MAX`].
pub fn format(duration: Duration) -> String {
    const UNITS: [(u128, &str); 7] = [
        (86_400_000_000_000, "d"),
        (3_600_000_000_000, "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];

    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0".to_owned();
    }
    let mut text = String::new();
    for (size, unit) in UNITS {
        let count = rest / size;
        rest %= size;
        if count > 0 {
            text.push_str(&count.to_string());
            text.push_str(unit);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn both_habits_are_read() {
        for (text, seconds) in [
            ("5min", 300),
            ("5m", 300),
            ("30s", 30),
            ("30 s", 30),
            ("1h", 3600),
            ("1 h", 3600),
            (" 1h30m ", 5400),
            ("1.5h", 5400),
            ("1h 30min", 5400),
            ("2d", 172_800),
            ("1w", 604_800),
            ("3660d", 3660 * 86_400),
            ("1 hour 30 minutes", 5400),
        ] {
            assert_eq!(parse(text), Ok(SECOND * seconds), "{text}");
        }
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_the_bad_value_in_the_message() {
        for (text, message) in [
            ("", "the duration is empty"),
            ("  ", "the duration is empty"),
            ("5", "duration \"5\" has no unit"),
            ("1.5", "duration \"1.5\" has no unit"),
            ("-5", "duration \"-5\" is negative"),
            ("-5m", "duration \"-5m\" is negative"),
            ("5m ago", "duration \"5m ago\" is negative"),
            ("1mo", "duration \"1mo\" uses months or years, which vary in length"),
            ("1 year", "duration \"1 year\" uses months or years, which vary in length"),
            ("soon", "\"soon\" is not a duration"),
            ("5 parsecs", "\"5 parsecs\" is not a duration"),
            ("m5", "\"m5\" is not a duration"),
            ("5m30", "\"5m30\" is not a duration"),
            ("inf", "\"inf\" is not a duration"),
            ("99999999999999999999h", "\"99999999999999999999h\" is not a duration"),
            ("PT5M", "\"PT5M\" is not a duration"),
        ] {
            let error = parse(text).map_err(|error| error.to_string());
            assert_eq!(error, Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn the_longest_that_is_read_can_be_written() {
        for text in ["7304484d", "1043497w 5d", "175307616h"] {
            assert_eq!(parse(text), Ok(MAX), "{text}");
        }
        assert_eq!(parse(&format(MAX)), Ok(MAX));
        for text in ["7304484d 1ns", "7304484d 24h", "1043497w 175307616h", "175307616:59:59"] {
            assert!(matches!(parse(text), Err(DurationError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn the_shortest_form_is_written() {
        for (duration, text) in [
            (Duration::ZERO, "0"),
            (SECOND * 300, "5m"),
            (SECOND * 5400, "1h30m"),
            (Duration::from_millis(500), "500ms"),
            (Duration::from_millis(1500), "1s500ms"),
            (Duration::from_micros(250), "250us"),
            (SECOND * 604_800, "7d"),
        ] {
            assert_eq!(format(duration), text);
        }
    }
}
