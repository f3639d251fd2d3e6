//! Names in settings: one that is quoted reads back as it was, alone, in a list and with its schema; a list holds
//! what was written into it, and nothing else.
#![no_main]
#![allow(clippy::unwrap_used)] // a target stops at the first surprise

use std::collections::BTreeMap;
use std::time::Duration;

use cache_refresher_core::databases::{DatabaseList, DatabaseListError};
use cache_refresher_core::duration;
use cache_refresher_core::identifiers::{IdentifierError, entries, leading, quote, whole};
use cache_refresher_core::interval::{MAX_INTERVAL, MIN_INTERVAL};
use cache_refresher_core::interval_list::{IntervalList, IntervalListError};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data) {
        any_text(text);
    }
    written_intervals(&mut Unstructured::new(data)).unwrap_or_default();
});

fn any_text(text: &str) {
    let read = whole(&quote(text));
    if text.is_empty() {
        assert_eq!(read, Err(IdentifierError::EmptyQuoted));
    } else {
        assert_eq!(read.as_deref(), Ok(text));
    }
    if let Ok((name, rest)) = leading(text) {
        assert!(text.ends_with(rest) && rest.trim_start() == rest);
        for follows in ["", ".", "=5m", " \"\""] {
            let again = format!(" {}{follows}", quote(&name));
            assert_eq!(leading(&again), Ok((name.clone(), follows.trim_start())));
        }
    }
    let parse_list = |list: &str| entries(list).into_iter().map(whole).collect();
    let names: std::result::Result<Vec<String>, _> = parse_list(text);
    if let Ok(names) = &names {
        assert!(names.iter().all(|name| !name.is_empty()));
        assert_eq!(names.len(), entries(text).len());
        let written: Vec<String> = names.iter().map(|name| quote(name)).collect();
        assert_eq!(parse_list(&written.join(",")).as_ref(), Ok(names));
    }
    let databases = text.parse::<DatabaseList>();
    match (&names, databases) {
        (_, Ok(all)) if text.trim() == "*" => assert!(all.contains(text)),
        (Ok(names), Ok(list)) => {
            assert!(names.iter().all(|name| list.contains(name)));
            let more = names.concat() + "x";
            assert_eq!(list.contains(&more), names.contains(&more));
        }
        (Ok(names), Err(error)) => {
            assert!(names.is_empty() && error == DatabaseListError::Empty);
        }
        (Err(problem), Err(DatabaseListError::Entry { entry, problem: same })) => {
            assert!(*problem == same && text.contains(&entry));
        }
        (names, databases) => panic!("{names:?} but {databases:?}"),
    }
    match text.parse::<IntervalList>() {
        Ok(list) => assert!(list.get(text, text).is_none_or(is_an_interval)),
        Err(IntervalListError::Entry { entry, .. }) => assert!(text.contains(&entry)),
        Err(IntervalListError::Duplicate { name }) => assert!(leading(&name).is_ok()),
    }
}

fn is_an_interval(interval: Duration) -> bool {
    (MIN_INTERVAL..=MAX_INTERVAL).contains(&interval)
}

fn written_intervals(input: &mut Unstructured) -> Result<()> {
    let mut meant = BTreeMap::new();
    let mut written = Vec::new();
    let mut repeated = false;
    for _ in 0..input.int_in_range(0..=5)? {
        let (schema, name): (Option<&str>, &str) = input.arbitrary()?;
        if name.is_empty() || schema == Some("") {
            continue;
        }
        let range = MIN_INTERVAL.as_micros() as u64..=MAX_INTERVAL.as_micros() as u64;
        let interval = Duration::from_micros(input.int_in_range(range)?);
        repeated |= meant.insert((schema, name), interval).is_some();
        let schema = schema.map(|schema| quote(schema) + " . ").unwrap_or_default();
        written.push(format!("{schema}{} = {}", quote(name), duration::format(interval)));
    }
    let list = written.join(" , ").parse::<IntervalList>();
    if repeated {
        assert!(matches!(list, Err(IntervalListError::Duplicate { .. })));
        return Ok(());
    }
    let list = list.unwrap();
    for (schema, name) in meant.keys() {
        let schema = schema.unwrap_or("elsewhere");
        let expected = meant.get(&(Some(schema), *name)).or_else(|| meant.get(&(None, *name)));
        assert_eq!(list.get(schema, name).as_ref(), expected);
    }
    Ok(())
}
