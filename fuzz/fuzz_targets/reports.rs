//! What programs read of us: metrics that Prometheus reads as they were meant, whatever labels and help hold, and
//! JSON that says what it was given.
#![no_main]
#![allow(clippy::unwrap_used)] // a target stops at the first surprise

use std::collections::{BTreeMap, BTreeSet};

use cache_refresher_core::freshness::Freshness;
use cache_refresher_core::metrics::{Kind, Metric, exposition};
use cache_refresher_core::notification::Notification;
use cache_refresher_core::staleness::Staleness;
use cache_refresher_core::time::Timestamp;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    metrics(&mut input).unwrap_or_default();
    notification(&mut input).unwrap_or_default();
    freshness(&mut input).unwrap_or_default();
});

/// A sample as it is read: name, labels, and the value's bits.
type Sample = (String, BTreeMap<String, String>, u64);

fn metrics(input: &mut Unstructured) -> Result<()> {
    let mut metrics = Vec::new();
    let mut helps = BTreeMap::new();
    for _ in 0..input.int_in_range(0..=6)? {
        let name = *input.choose(&["a_total", "b", "c:d"])?;
        let help: String = input.arbitrary()?;
        helps.entry(name.to_owned()).or_insert_with(|| help.clone());
        let mut labels = BTreeMap::new();
        for _ in 0..input.int_in_range(0..=3)? {
            labels.insert(
                (*input.choose(&["view", "database", "why"])?).to_owned(),
                input.arbitrary()?,
            );
        }
        let kind = *input.choose(&[Kind::Counter, Kind::Gauge])?;
        metrics.push(Metric {
            name: name.to_owned(),
            kind,
            help,
            labels,
            value: input.arbitrary()?,
        });
    }
    let text = exposition(&metrics);
    let mut meant: Vec<Sample> = metrics.iter().map(sample).collect();
    let mut read = Vec::new();
    let mut headed = BTreeSet::new();
    let mut heading = "";
    for line in text.split_terminator('\n') {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(headed.insert(name), "{name} comes twice");
            heading = name;
            assert_eq!(unescaped(help, &['\\', 'n']), helps[name]);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert!(["counter", "gauge"].contains(&kind.split_once(' ').unwrap().1));
        } else {
            let sample = read_sample(line);
            assert_eq!(sample.0, heading);
            read.push(sample);
        }
    }
    assert!(text.is_empty() || text.ends_with('\n'));
    meant.sort();
    read.sort();
    assert_eq!(read, meant, "{text}");
    Ok(())
}

fn sample(metric: &Metric) -> Sample {
    (metric.name.clone(), metric.labels.clone(), bits(metric.value))
}

/// One number for all that are none.
fn bits(value: f64) -> u64 {
    if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

fn read_sample(line: &str) -> Sample {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    while let Some(pair) = rest.strip_prefix(['{', ',']) {
        let (label, value) = pair.split_once("=\"").unwrap();
        let mut escaped = false;
        let close = value.find(|character| {
            let ends = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        });
        let (value, after) = value.split_at(close.unwrap());
        labels.insert(label.to_owned(), unescaped(value, &['\\', 'n', '"']));
        rest = after.strip_prefix('"').unwrap();
    }
    let value = rest.trim_start_matches('}').strip_prefix(' ').unwrap();
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().unwrap(),
    };
    (name.to_owned(), labels, bits(value))
}

fn unescaped(text: &str, escapes: &[char]) -> String {
    let mut characters = text.chars();
    let mut plain = String::new();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => {
                let escape = characters.next().unwrap();
                assert!(escapes.contains(&escape), "\\{escape}");
                if escape == 'n' { '\n' } else { escape }
            }
            plain => plain,
        });
    }
    plain
}

/// What JSON makes of a number: it has none for what is not finite.
fn number(value: Option<f64>) -> Value {
    value.map_or(Value::Null, Value::from)
}

fn notification(input: &mut Unstructured) -> Result<()> {
    let (view, outcome, method) = input.arbitrary()?;
    let (duration_ms, rows, data_as_of) = input.arbitrary()?;
    let notification = Notification { view, outcome, method, duration_ms, rows, data_as_of };
    let payload = notification.to_payload();
    // A listener that reads line by line gets one.
    assert!(
        !payload.contains(|character: char| character.is_ascii_control() && character != '\u{7f}')
    );
    let read: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(read["view"], *notification.view);
    assert_eq!(read["outcome"], *notification.outcome);
    assert_eq!(read["method"], *notification.method);
    assert_eq!(read["duration_ms"], number(Some(notification.duration_ms)));
    assert_eq!(read["rows"], Value::from(notification.rows));
    assert_eq!(read["data_as_of"], Value::from(notification.data_as_of));
    Ok(())
}

fn freshness(input: &mut Unstructured) -> Result<()> {
    let view: String = input.arbitrary()?;
    let mut time = || Ok(input.arbitrary::<Option<i64>>()?.map(Timestamp::from_pg));
    let (refreshed_at, data_as_of, stale_since, now) = (time()?, time()?, time()?, time()?);
    let duration_ms: Option<f64> = input.arbitrary()?;
    let staleness = *input.choose(&[Staleness::Fresh, Staleness::Stale, Staleness::Unknown])?;
    let now = now.unwrap_or(Timestamp::from_pg(0));
    let document = Freshness::new(
        view.clone(),
        refreshed_at,
        duration_ms,
        data_as_of,
        staleness,
        stale_since,
        now,
    );
    let read: Value = serde_json::from_str(&serde_json::to_string(&document).unwrap()).unwrap();
    assert_eq!(read["view"], *view);
    assert_eq!(read["staleness"], *staleness.as_str());
    assert_eq!(
        read["is_stale"].as_bool(),
        match staleness {
            Staleness::Fresh => Some(false),
            Staleness::Stale => Some(true),
            Staleness::Unknown => None,
        }
    );
    assert_eq!(read["cache_refresh_duration_ms"].is_i64(), duration_ms.is_some());
    assert_eq!(read["age_seconds"].as_f64().is_some_and(|age| age >= 0.0), data_as_of.is_some());
    let stale_since = stale_since.filter(|_| staleness == Staleness::Stale);
    for (key, time) in [
        ("cache_refreshed_at", refreshed_at),
        ("data_as_of", data_as_of),
        ("stale_since", stale_since),
    ] {
        assert_eq!(read[key].is_null(), time.is_none());
        if let (Some(text), Some(time)) = (read[key].as_str(), time) {
            let unix: jiff::Timestamp = text.parse().unwrap();
            let nearest = unix.as_microsecond() - 946_684_800_000_000;
            let off = i128::from(nearest) - i128::from(time.as_pg());
            let ends = [jiff::Timestamp::MIN, jiff::Timestamp::MAX].map(|end| end.as_millisecond());
            assert!(off.abs() < 1000 || ends.contains(&unix.as_millisecond()), "{text}");
        }
    }
    Ok(())
}
