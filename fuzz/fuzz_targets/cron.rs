//! Cron schedules: any text is refused or has slots, in bounded time; each slot is strictly later, the first one
//! from anywhere before it, and at a time that the expression names; between two slots is no such time.
//!
//! The first line is an expression, the second a time zone, and bytes after it choose times. Another reading of
//! the same bytes composes an expression whose meaning is known.
#![no_main]
#![allow(clippy::unwrap_used)] // a target stops at the first surprise

use std::collections::BTreeSet;
use std::time::Duration;

use cache_refresher_core::schedule::{CronError, CronSchedule, GridOffset, Schedule};
use cache_refresher_core::time::Timestamp;
use jiff::Zoned;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
    "Africa/Casablanca",
    "Antarctica/Troll",
    "America/Sao_Paulo",
];
/// From the server's epoch to the year 2400: what is due in a server's life.
const LIFE: i64 = 400 * 365 * 24 * 60 * 60 * 1_000_000;
const EPOCHS_APART: i64 = 946_684_800_000_000;

fuzz_target!(|data: &[u8]| {
    any_text(data);
    composed(&mut Unstructured::new(data)).unwrap_or_default();
});

fn any_text(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let mut line = || str::from_utf8(lines.next().unwrap_or_default()).unwrap_or_default();
    let (expression, zone) = (line(), line());
    let mut times = Unstructured::new(lines.next().unwrap_or_default());
    match CronSchedule::parse(expression, zone) {
        Ok(cron) => {
            let schedule = Schedule::Cron(cron);
            let later = times.int_in_range(0..=LIFE).unwrap_or_default();
            slot_after(&schedule, Timestamp::from_pg(later));
            // Far from what clocks show there may be no slot, but there is an answer.
            let anywhere = Timestamp::from_pg(times.arbitrary().unwrap_or_default());
            let slot = schedule.next_after(anywhere, GridOffset::of(5, "public", "v"));
            assert!(slot.is_none_or(|slot| slot > anywhere));
        }
        Err(CronError::TooLong { length, limit, .. }) => assert!(length > limit),
        Err(CronError::TimeZone { time_zone }) => assert_eq!(time_zone, zone),
        Err(error) => assert!(error.to_string().contains(expression)),
    }
}

/// The first slot after that time, which is the first from wherever one looks.
fn slot_after(schedule: &Schedule, after: Timestamp) -> Timestamp {
    let next = |time| schedule.next_after(time, GridOffset::of(5, "public", "v"));
    let Some(slot) = next(after) else { panic!("no slot after {}", after.to_rfc3339_millis()) };
    assert!(slot > after);
    assert_eq!(slot.as_pg() % 1_000_000, 0, "slots are whole seconds");
    let between = Timestamp::from_pg(after.as_pg().midpoint(slot.as_pg()));
    for from in [between, slot.minus(Duration::from_micros(1))] {
        assert_eq!(next(from), Some(slot), "from {}", from.to_rfc3339_millis());
    }
    slot
}

/// A field as it is written, the values that it names, and whether it is nothing but a number.
struct Field {
    text: String,
    values: BTreeSet<i8>,
    single: bool,
}

impl Field {
    fn draw(input: &mut Unstructured, first: i8, last: i8) -> Result<Self> {
        let number = |input: &mut Unstructured| input.int_in_range(first..=last);
        let (one, other) = (number(input)?, number(input)?);
        let (low, high) = if one < other { (one, other) } else { (first, last) };
        let step = input.int_in_range(1..=last)?;
        let stepped = |low: i8, high: i8| (low..=high).step_by(step as usize).collect();
        let all = (first..=last).collect();
        let (text, values) = match input.int_in_range(0..=5)? {
            0 => ("*".to_owned(), all),
            1 => (format!("*/{step}"), stepped(first, last)),
            2 => (format!("{low}-{high}"), (low..=high).collect()),
            3 => (format!("{low}-{high}/{step}"), stepped(low, high)),
            4 => (format!("{low},{high}"), BTreeSet::from([low, high])),
            _ => {
                return Ok(Self {
                    text: one.to_string(),
                    values: BTreeSet::from([one]),
                    single: true,
                });
            }
        };
        Ok(Self { text, values, single: false })
    }
}

/// An expression whose meaning is known.
struct Meaning {
    second: Field,
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

impl Meaning {
    /// Whether it is a time of day, which has a slot in place of one that is skipped, and one where it comes twice.
    fn is_fixed(&self) -> bool {
        self.second.single && self.minute.single && self.hour.single
    }

    fn names(&self, time: &Zoned) -> bool {
        self.names_minute(time) && self.second.values.contains(&time.second())
    }

    fn names_minute(&self, time: &Zoned) -> bool {
        let day = self.day.values.contains(&time.day());
        let weekday = self.weekday.values.contains(&time.weekday().to_sunday_zero_offset());
        let either = match (self.day.text.as_str(), self.weekday.text.as_str()) {
            ("*", _) => weekday,
            (_, "*") => day,
            _ => day || weekday,
        };
        either
            && self.month.values.contains(&time.month())
            && self.hour.values.contains(&time.hour())
            && self.minute.values.contains(&time.minute())
    }
}

fn composed(input: &mut Unstructured) -> Result<()> {
    let meaning = Meaning {
        second: Field::draw(input, 0, 59)?,
        minute: Field::draw(input, 0, 59)?,
        hour: Field::draw(input, 0, 23)?,
        day: Field::draw(input, 1, 31)?,
        month: Field::draw(input, 1, 12)?,
        weekday: Field::draw(input, 0, 6)?,
    };
    let Meaning { second, minute, hour, day, month, weekday } = &meaning;
    let expression =
        [second, minute, hour, day, month, weekday].map(|field| field.text.as_str()).join(" ");
    let name = *input.choose(&ZONES)?;
    let Ok(cron) = CronSchedule::parse(&expression, name) else {
        // Each day of each month is a day of some year.
        let longest =
            |month: &i8| [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][*month as usize - 1];
        let days =
            day.values.iter().any(|day| month.values.iter().any(|month| *day <= longest(month)));
        assert!(!days && weekday.text == "*", "{expression} has slots");
        return Ok(());
    };
    let zone = TimeZoneDatabase::bundled().get(name).unwrap();
    let mut after = Timestamp::from_pg(input.int_in_range(0..=LIFE)?);
    // Most trouble is where clocks change.
    if input.arbitrary()?
        && let Some(change) = zone.following(local(after, &zone).timestamp()).next()
    {
        let change = change.timestamp().as_microsecond() - EPOCHS_APART;
        after =
            Timestamp::from_pg(change + input.int_in_range(-90_000_000_000..=18_000_000_000_i64)?);
    }
    let schedule = Schedule::Cron(cron);
    for _ in 0..3 {
        let slot = slot_after(&schedule, after);
        let at = local(slot, &zone);
        assert!(
            meaning.names(&at) || (meaning.is_fixed() && is_after_gap(&at)),
            "{expression} in {name} does not name {at}"
        );
        nothing_between(&meaning, &zone, after, slot, &expression);
        after = slot;
    }
    Ok(())
}

fn local(time: Timestamp, zone: &TimeZone) -> Zoned {
    jiff::Timestamp::from_microsecond(time.as_pg() + EPOCHS_APART).unwrap().to_zoned(zone.clone())
}

fn is_after_gap(time: &Zoned) -> bool {
    let before = time.timestamp() - jiff::SignedDuration::from_secs(1);
    before.to_zoned(time.time_zone().clone()).offset() < time.offset()
}

/// Looks at the minutes between two slots, or the first thousand of them. No zone has been off by parts of a minute
/// since the server's epoch.
fn nothing_between(
    meaning: &Meaning,
    zone: &TimeZone,
    after: Timestamp,
    slot: Timestamp,
    expression: &str,
) {
    const MINUTE: i64 = 60_000_000;
    let first = after.as_pg().div_euclid(MINUTE) * MINUTE;
    let minutes = (0..1000).map(|count| first + count * MINUTE);
    for minute in minutes.take_while(|minute| *minute < slot.as_pg()) {
        let at = local(Timestamp::from_pg(minute), zone);
        if !meaning.names_minute(&at) {
            continue;
        }
        let again = zone.to_ambiguous_zoned(at.datetime()).earlier().unwrap() != at;
        for second in &meaning.second.values {
            let time = Timestamp::from_pg(minute + i64::from(*second) * 1_000_000);
            assert!(
                time <= after || time >= slot || (meaning.is_fixed() && again),
                "{expression} leaves out {} before {}",
                local(time, zone),
                local(slot, zone)
            );
        }
    }
}
