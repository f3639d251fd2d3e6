//! Durations mean what whoever wrote them meant, in PostgreSQL's habit or in Go's; what is read is written so
//! that it reads back; what is refused is named in the message.
#![no_main]

use std::time::Duration;

use cache_refresher_core::duration::{DurationError, format, parse};
use cache_refresher_core::interval::{IntervalError, MAX_INTERVAL, MIN_INTERVAL, check};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data) {
        any_text(text);
    }
    written_by_others(&mut Unstructured::new(data)).unwrap_or_default();
});

fn any_text(text: &str) {
    match parse(text) {
        Ok(duration) => {
            assert_eq!(parse(&format(duration)), Ok(duration));
            assert_eq!(parse(&format!("\t{text} ")), Ok(duration));
            assert_eq!(
                check(duration),
                match duration {
                    interval if interval < MIN_INTERVAL =>
                        Err(IntervalError::TooShort { interval }),
                    interval if interval > MAX_INTERVAL => Err(IntervalError::TooLong { interval }),
                    interval => Ok(interval),
                }
            );
        }
        Err(DurationError::Empty) => assert_eq!(text.trim(), ""),
        Err(error) => assert!(error.to_string().contains(text.trim())),
    }
}

fn written_by_others(input: &mut Unstructured) -> Result<()> {
    // PostgreSQL: one number with one unit.
    let (unit, nanos) = *input.choose(&[
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("min", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000_u64),
    ])?;
    // The server keeps them in 32 bits.
    let count = u64::from(input.arbitrary::<u32>()? >> 1) % (u64::MAX / 4 / nanos);
    let meant = Duration::from_nanos(count * nanos);
    for text in [format!("{count}{unit}"), format!("{count} {unit}")] {
        assert_eq!(parse(&text), Ok(meant), "{text}");
    }
    // Go: 64 bits of nanoseconds.
    let nanos: u64 = input.arbitrary::<u64>()? >> input.int_in_range(1..=63)?;
    assert_eq!(parse(&as_go(nanos)), Ok(Duration::from_nanos(nanos)), "{}", as_go(nanos));
    Ok(())
}

/// As Go's `Duration.String` writes it.
fn as_go(nanos: u64) -> String {
    let decimal = |whole: u64, size: u64| {
        let digits = size.ilog10() as usize;
        let text = format!("{whole}.{:0digits$}", nanos % size);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(nanos / 1_000, 1_000) + "µs",
        1_000_000..1_000_000_000 => decimal(nanos / 1_000_000, 1_000_000) + "ms",
        _ => {
            let all = nanos / 1_000_000_000;
            let seconds = decimal(all % 60, 1_000_000_000);
            match (all / 3600, all / 60 % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}
