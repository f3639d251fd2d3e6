//! What cron schedules do when the clocks change: the two Sundays of 2025 in Berlin (30 March and
//! 26 October, at 01:00 UTC) and New York (9 March 07:00 UTC, 2 November 06:00 UTC).

// Clippy takes only functions marked #[test] for tests; helpers may panic here too.
#![allow(clippy::unwrap_used)]

use cache_refresher_core::schedule::{CronSchedule, GridOffset, Schedule};
use cache_refresher_core::time::Timestamp;

const BERLIN: &str = "Europe/Berlin";
const NEW_YORK: &str = "America/New_York";

/// A time given as RFC 3339.
fn at(text: &str) -> Timestamp {
    let unix: jiff::Timestamp = text.parse().unwrap();
    Timestamp::from_pg(unix.as_microsecond() - 946_684_800_000_000)
}

/// The slots after `from` and up to `to`, as minutes in UTC: `03-30T01:00`.
fn slots(expression: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    let schedule = Schedule::Cron(CronSchedule::parse(expression, zone).unwrap());
    let grid_offset = GridOffset::of(1, "public", "v");
    let next = |time: &Timestamp| schedule.next_after(*time, grid_offset);
    std::iter::successors(next(&at(from)), next)
        .take_while(|slot| *slot <= at(to))
        .map(|slot| slot.to_rfc3339_millis()[5..16].to_owned())
        .collect()
}

#[test]
fn a_fixed_time_in_the_spring_gap_runs_once_right_after_it() {
    assert_eq!(
        slots("30 2 * * *", BERLIN, "2025-03-28T12:00Z", "2025-03-31T12:00Z"),
        // 02:30 winter time, then 03:00 summer time in place of 02:30, then 02:30 summer time.
        ["03-29T01:30", "03-30T01:00", "03-31T00:30"]
    );
    assert_eq!(
        slots("30 2 * * *", NEW_YORK, "2025-03-07T12:00Z", "2025-03-10T12:00Z"),
        ["03-08T07:30", "03-09T07:00", "03-10T06:30"]
    );
}

#[test]
fn fixed_times_around_the_spring_gap_are_not_moved() {
    assert_eq!(
        slots("30 1 * * *", BERLIN, "2025-03-29T12:00Z", "2025-03-31T12:00Z"),
        ["03-30T00:30", "03-30T23:30"]
    );
    assert_eq!(
        slots("0 3 * * *", BERLIN, "2025-03-29T12:00Z", "2025-03-31T12:00Z"),
        ["03-30T01:00", "03-31T01:00"]
    );
}

#[test]
fn a_fixed_time_in_the_autumn_overlap_runs_once_at_the_earlier() {
    assert_eq!(
        slots("30 2 * * *", BERLIN, "2025-10-24T12:00Z", "2025-10-27T12:00Z"),
        // 02:30 summer time twice, then 02:30 winter time.
        ["10-25T00:30", "10-26T00:30", "10-27T01:30"]
    );
    assert_eq!(
        slots("30 1 * * *", NEW_YORK, "2025-10-31T12:00Z", "2025-11-03T12:00Z"),
        ["11-01T05:30", "11-02T05:30", "11-03T06:30"]
    );
}

#[test]
fn a_fixed_time_already_past_in_the_overlap_does_not_run_again_in_its_second_half() {
    assert_eq!(
        slots("30 2 * * *", BERLIN, "2025-10-26T00:45Z", "2025-10-26T12:00Z"),
        Vec::<String>::new()
    );
}

#[test]
fn a_step_runs_at_even_distances_through_the_gap() {
    assert_eq!(
        slots("*/15 * * * *", BERLIN, "2025-03-30T00:30Z", "2025-03-30T01:30Z"),
        ["03-30T00:45", "03-30T01:00", "03-30T01:15", "03-30T01:30"]
    );
    assert_eq!(
        slots("*/15 * * * *", NEW_YORK, "2025-03-09T06:30Z", "2025-03-09T07:30Z"),
        ["03-09T06:45", "03-09T07:00", "03-09T07:15", "03-09T07:30"]
    );
}

#[test]
fn a_step_runs_at_even_distances_through_both_halves_of_the_overlap() {
    for (zone, from, to) in [
        (BERLIN, "2025-10-25T23:30Z", "2025-10-26T02:30Z"),
        (NEW_YORK, "2025-11-02T04:30Z", "2025-11-02T07:30Z"),
    ] {
        let slots = slots("*/15 * * * *", zone, from, to);
        let minutes = |text: &String| text[9..11].parse::<i32>().unwrap();
        assert_eq!(slots.len(), 12, "{zone}: {slots:?}");
        for pair in slots.windows(2) {
            assert_eq!((minutes(&pair[1]) - minutes(&pair[0])).rem_euclid(60), 15, "{slots:?}");
        }
    }
}

#[test]
fn a_list_of_hours_skips_the_gap_and_runs_in_both_halves_of_the_overlap() {
    assert_eq!(
        slots("30 2,4 * * *", BERLIN, "2025-03-30T00:00Z", "2025-03-30T12:00Z"),
        ["03-30T02:30"]
    );
    assert_eq!(
        slots("30 2,4 * * *", BERLIN, "2025-10-26T00:00Z", "2025-10-26T12:00Z"),
        ["10-26T00:30", "10-26T01:30", "10-26T03:30"]
    );
}

#[test]
fn the_same_expression_follows_its_own_time_zone() {
    assert_eq!(
        slots("0 9 * * *", "Asia/Kolkata", "2025-07-01T00:00Z", "2025-07-01T23:00Z"),
        ["07-01T03:30"]
    );
    assert_eq!(
        slots("0 9 * * *", NEW_YORK, "2025-07-01T00:00Z", "2025-07-01T23:00Z"),
        ["07-01T13:00"]
    );
}
