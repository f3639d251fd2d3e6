//! When a view's slots are: a fixed grid of an interval, or a cron expression in a time zone.

use std::sync::Arc;
use std::time::Duration;

use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, CronComponent, YEAR_UPPER_LIMIT};
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::interval::MIN_INTERVAL;
use crate::mix;
use crate::time::Timestamp;

/// When a view's slots are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// A slot each so often. Less than [`MIN_INTERVAL`] counts as that, since a scheduler must not
    /// spin whatever it is given.
    Interval(Duration),
    /// A slot so long after the last refresh, for an interval that adapts: there is no grid.
    After(Duration),
    /// A slot at each time that a cron expression matches.
    Cron(CronSchedule),
}

impl Schedule {
    /// The first slot strictly after `after`; `None` if there is none within the years that can be
    /// represented.
    ///
    /// Interval slots lie at `k * interval + grid_offset.within(interval)` from the server's epoch: a
    /// fixed grid, so that slow refreshes don't make it drift. Cron slots ignore the offset.
    pub fn next_after(&self, after: Timestamp, grid_offset: GridOffset) -> Option<Timestamp> {
        match self {
            Self::Interval(interval) => {
                let interval = (*interval).max(MIN_INTERVAL);
                let step = i128::try_from(interval.as_micros()).ok()?;
                let offset = i128::try_from(grid_offset.within(interval).as_micros()).ok()?;
                let passed = (i128::from(after.as_pg()) - offset).div_euclid(step);
                i64::try_from((passed + 1) * step + offset).ok().map(Timestamp::from_pg)
            }
            Self::After(interval) => Some(after.plus((*interval).max(MIN_INTERVAL))),
            Self::Cron(cron) => cron.next_after(after),
        }
    }
}

/// Where on the grid of its interval a view has its place, so that views registered together are
/// not refreshed together. It is a hash of what the view is called, hence the same after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GridOffset(u64);

impl GridOffset {
    /// The offset of a view.
    pub fn of(database_oid: u32, schema: &str, name: &str) -> Self {
        let parts = [&database_oid.to_le_bytes()[..], schema.as_bytes(), name.as_bytes()];
        // FNV alone leaves names that differ in the last letter close together.
        Self(mix::splitmix64(mix::fnv1a(&parts)))
    }

    /// How far after the start of the grid cell the slot lies: over all views uniform in
    /// `[0, interval)`, in whole microseconds.
    pub fn within(self, interval: Duration) -> Duration {
        let micros = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(mix::scale(self.0, micros))
    }
}

/// A cron expression in a time zone.
///
/// When the clocks change, as croner does it (it follows the Open Cron Pattern Specification):
///
/// - An expression with one fixed time of day (`30 2 * * *`) that falls into the hour skipped in
///   spring has its slot at the first moment after it. In the hour repeated in autumn it has one
///   slot, the earlier.
/// - One with a wildcard, step, range or list in seconds, minutes or hours (`*/15 * * * *`) has
///   slots as real time passes: none in the skipped hour, and in both halves of the repeated one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronSchedule {
    /// Shared, since it is large and policies are copied.
    cron: Arc<Cron>,
    time_zone: TimeZone,
}

/// Why there is no such cron schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The expression cannot be read.
    #[error("bad cron expression \"{expression}\": {problem}")]
    Expression {
        /// What was given.
        expression: String,
        /// What is wrong with it, as the parser says.
        problem: String,
    },
    /// There is no such time zone.
    #[error("time zone \"{time_zone}\" is not known")]
    TimeZone {
        /// What was given.
        time_zone: String,
    },
    /// Longer than any that makes sense: to read it again and again would take time from other views.
    #[error("a {what} of {length} bytes is too long, at most {limit} are allowed")]
    TooLong {
        /// Which of the two.
        what: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The expression can be read, but matches no time, such as 30 February, or none for ever.
    #[error("cron expression \"{expression}\" never matches")]
    NeverFires {
        /// What was given.
        expression: String,
    },
}

/// Bytes of an expression at most.
const MOST_EXPRESSION: usize = 1000;
/// Bytes of the name of a time zone at most.
const MOST_TIME_ZONE: usize = 100;
/// Years until a date comes again at most: 29 February on a weekday, over a century without.
const MOST_YEARS: u16 = 40;
/// The last year that croner knows.
const LAST_YEAR: u16 = YEAR_UPPER_LIMIT as u16;
/// The year 2100. Where clocks change by a calendar of the moon, the database lists the changes until 2087.
const SETTLED: Timestamp = Timestamp::from_pg(3_155_760_000_000_000);

impl CronSchedule {
    /// Reads an expression of five fields (minute, hour, day of month, month, day of week), or of
    /// six with seconds in front, or a nickname such as `@hourly`. The time zone is a name of the
    /// IANA database, in upper or lower case; the database is the one compiled in.
    pub fn parse(expression: &str, time_zone: &str) -> Result<Self, CronError> {
        for (what, text, limit) in [
            ("cron expression", expression, MOST_EXPRESSION),
            ("time zone", time_zone, MOST_TIME_ZONE),
        ] {
            if text.len() > limit {
                return Err(CronError::TooLong { what, length: text.len(), limit });
            }
        }
        // No year field: a schedule that ends is a view that silently goes stale.
        let parser =
            CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
        let cron = parser.parse(expression).map_err(|error| CronError::Expression {
            expression: expression.to_owned(),
            problem: match expression.split_whitespace().count() {
                1 if expression.trim_start().starts_with('@') => "no such nickname".to_owned(),
                fields @ (0..5 | 7..) => format!("5 or 6 fields are needed, not {fields}"),
                _ => as_clause(&error.to_string()),
            },
        })?;
        let never = || CronError::NeverFires { expression: expression.to_owned() };
        // The parser takes a field of nothing but commas for one without values. The search would go through
        // each minute of thousands of years, and nobody could cancel it.
        let pattern = &cron.pattern;
        let fields = [&pattern.seconds, &pattern.minutes, &pattern.hours, &pattern.months];
        if fields.iter().any(|field| field.values().is_empty()) {
            return Err(never());
        }
        let time_zone = TimeZoneDatabase::bundled()
            .get(time_zone)
            .map_err(|_| CronError::TimeZone { time_zone: time_zone.to_owned() })?;
        let schedule = Self { cron: Arc::new(cron), time_zone };
        // From then on clocks change in the same way each year: what has a slot has one again. What had its
        // last before would be a view that silently goes stale.
        schedule.next_after(SETTLED).map(|_| schedule).ok_or_else(never)
    }

    /// The first match strictly after `after`.
    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let after = after.to_jiff()?.to_zoned(self.time_zone.clone());
        // The search goes second by second through an hour that is skipped. What matches in such hours only,
        // each year, would take seconds of other views' time until the end of years.
        let first = u16::try_from(after.year()).unwrap_or(0).clamp(1, LAST_YEAR);
        let mut years = CronComponent::new(first, LAST_YEAR.min(first + MOST_YEARS), 0, 0);
        years.parse("*").ok()?;
        let mut cron = Cron::clone(&self.cron);
        cron.pattern.years = years;
        let next = cron.find_next_occurrence(&after, false).ok()?;
        Some(Timestamp::from_jiff(next.timestamp()))
    }
}

/// A sentence of the parser as a clause of ours.
fn as_clause(sentence: &str) -> String {
    let mut letters = sentence.trim_end_matches('.').chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(expression: &str, time_zone: &str) -> Result<CronSchedule, CronError> {
        CronSchedule::parse(expression, time_zone)
    }

    #[test]
    fn five_fields_six_with_seconds_and_nicknames_are_read() {
        for expression in ["*/15 * * * *", "30 0 5 * * MON-FRI", "@hourly", "@Daily", "0 0 L * *"] {
            assert!(parse(expression, "Europe/Berlin").is_ok(), "{expression}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_with_it_in_the_message() {
        for expression in ["", "* * * *", "60 * * * *", "0 0 1 1 * 0 2030", "@reboot", "soon"] {
            let error = parse(expression, "UTC").unwrap_err();
            assert!(matches!(error, CronError::Expression { .. }), "{expression}: {error:?}");
            let start = format!("bad cron expression \"{expression}\": ");
            assert!(error.to_string().starts_with(&start), "{error}");
        }
        let problem = |expression| parse(expression, "UTC").unwrap_err().to_string();
        assert!(problem("@reboot").ends_with(": no such nickname"));
        assert!(problem("every day").ends_with(": 5 or 6 fields are needed, not 2"));
    }

    #[test]
    fn an_expression_that_never_matches_is_refused() {
        for expression in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            let error = parse(expression, "UTC").unwrap_err();
            assert_eq!(error, CronError::NeverFires { expression: expression.to_owned() });
        }
        assert!(parse("0 0 29 2 *", "UTC").is_ok());
    }

    #[test]
    fn a_field_without_values_never_matches_and_is_refused_without_a_search() {
        for field in 0..6 {
            let mut fields = ["*"; 6];
            fields[field] = ",";
            let expression = fields.join(" ");
            let error = parse(&expression, "UTC").unwrap_err();
            assert_eq!(error, CronError::NeverFires { expression });
        }
    }

    #[test]
    fn what_matches_skipped_hours_only_is_refused_after_a_short_search() {
        // Each second of the hour that is skipped on these Sundays; in New York they had other ones until 2006.
        for (expression, time_zone) in
            [("* * 2 * 3 +SUNL", "Europe/Berlin"), ("* * 2 8-14 3 +SUN", "America/New_York")]
        {
            let error = parse(expression, time_zone).unwrap_err();
            assert_eq!(error, CronError::NeverFires { expression: expression.to_owned() });
        }
    }

    #[test]
    fn the_rarest_date_is_found() {
        let cron = Schedule::Cron(parse("0 0 29 2 +SUN", "UTC").unwrap());
        let grid_offset = GridOffset::of(5, "public", "v");
        let next = |after: Timestamp| cron.next_after(after, grid_offset);
        let years = std::iter::successors(next(Timestamp::from_pg(0)), |slot| next(*slot))
            .map(|slot| slot.to_rfc3339_millis()[..4].to_owned());
        let before_2200: Vec<String> = years.take_while(|year| year.as_str() < "2200").collect();
        assert_eq!(before_2200, ["2004", "2032", "2060", "2088", "2128", "2156", "2184"]);
    }

    #[test]
    fn an_unknown_time_zone_is_refused() {
        let error = parse("* * * * *", "Mars/Olympus").unwrap_err();
        assert_eq!(error.to_string(), "time zone \"Mars/Olympus\" is not known");
        assert!(parse("* * * * *", "europe/berlin").is_ok());
    }

    #[test]
    fn interval_slots_are_strictly_after_and_an_interval_apart() {
        let interval = Duration::from_secs(300);
        let schedule = Schedule::Interval(interval);
        let grid_offset = GridOffset::of(5, "public", "v");
        let first = schedule.next_after(Timestamp::from_pg(0), grid_offset).unwrap();
        assert_eq!(first.since(Timestamp::from_pg(0)), grid_offset.within(interval));
        assert_eq!(schedule.next_after(first, grid_offset), Some(first.plus(interval)));
        let just_before = first.minus(Duration::from_micros(1));
        assert_eq!(schedule.next_after(just_before, grid_offset), Some(first));
    }

    #[test]
    fn an_interval_of_zero_does_not_make_a_scheduler_spin() {
        let schedule = Schedule::Interval(Duration::ZERO);
        let start = Timestamp::from_pg(0);
        let grid_offset = GridOffset::of(5, "public", "v");
        let first = schedule.next_after(start, grid_offset).unwrap();
        assert_eq!(schedule.next_after(first, grid_offset), Some(first.plus(MIN_INTERVAL)));
    }

    #[test]
    fn the_end_of_time_has_no_slot_after_it() {
        let grid_offset = GridOffset::of(5, "public", "v");
        let end = Timestamp::from_pg(i64::MAX);
        assert_eq!(Schedule::Interval(Duration::from_secs(60)).next_after(end, grid_offset), None);
        let cron = Schedule::Cron(parse("@hourly", "UTC").unwrap());
        assert_eq!(cron.next_after(end, grid_offset), None);
    }

    #[test]
    fn the_phase_is_the_same_in_every_release() {
        // A changed hash would move every view on the clock at an upgrade.
        assert_eq!(GridOffset::of(5, "public", "v"), GridOffset(3_503_489_196_642_080_347));
    }
}
