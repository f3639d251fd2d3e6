//! Words that settings, tables and the server hold: each that is read is written the same; all others are refused
//! and named; a snapshot shows what its text says; each question about methods has an answer that fits.
#![no_main]
#![allow(clippy::unwrap_used)] // a target stops at the first surprise

use cache_refresher_core::method::{Facts, Method, Requested, choose, explain};
use cache_refresher_core::pace::PaceReason;
use cache_refresher_core::visibility::Visibility;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = str::from_utf8(data) {
        any_text(text);
    }
    let mut input = Unstructured::new(data);
    methods(&mut input).unwrap_or_default();
    snapshots(&mut input).unwrap_or_default();
});

fn any_text(text: &str) {
    match text.parse::<Requested>() {
        Ok(read) => assert_eq!(read.as_str(), text),
        Err(error) => assert!(error.value == text && error.to_string().contains(text)),
    }
    if let Some(reason) = PaceReason::parse(text) {
        assert_eq!(reason.as_str(), text);
    }
    match text.parse::<Visibility>() {
        Ok(read) => assert_eq!(read.to_string().parse(), Ok(read)),
        Err(error) => assert_eq!(error.text, text),
    }
}

fn methods(input: &mut Unstructured) -> Result<()> {
    let words = ["auto", "full", "concurrent", "diff", "delta"];
    let requested: Requested = input.choose(&words)?.parse().unwrap();
    let [populated, unique_key, heap, auto_full, mostly_changed, bloated] = input.arbitrary()?;
    let facts = Facts { populated, unique_key, heap, auto_full, mostly_changed, bloated };
    let choice = choose(requested, facts);
    if let Ok(choice) = choice {
        match choice.method {
            Method::Full => assert!(!populated || auto_full || requested == Requested::Full),
            Method::Concurrent => assert!(populated && unique_key),
            Method::Diff => assert!(populated && heap),
            Method::Skip | Method::Delta => panic!("nothing is known of changes yet"),
        }
        let named = choice.method.as_str() == requested.as_str();
        assert!(named || matches!(requested, Requested::Auto | Requested::Delta));
        assert!(!choice.is_open(requested) || choice.method != Method::Full);
    }
    let chosen: Vec<_> =
        explain(requested, facts).into_iter().filter(|option| option.chosen).collect();
    assert_eq!(chosen.len(), usize::from(choice.is_ok()));
    assert!(chosen.iter().all(|option| option.verdict.is_ok()));
    Ok(())
}

fn snapshots(input: &mut Unstructured) -> Result<()> {
    let earliest: u64 = input.arbitrary()?;
    let mut running: Vec<u64> = Vec::new();
    for gap in input.arbitrary::<Vec<u8>>()? {
        let after = running.last().copied().unwrap_or(earliest);
        running.push(after.saturating_add(gap.into()));
    }
    let next =
        running.last().copied().unwrap_or(earliest).saturating_add(input.arbitrary::<u8>()?.into());
    let list: Vec<String> = running.iter().map(u64::to_string).collect();
    let text = format!("{earliest}:{next}:{}", list.join(","));
    let valid = running.is_sorted_by(|left, right| left < right)
        && running.last().is_none_or(|last| *last < next);
    assert_eq!(text.parse::<Visibility>().is_ok(), valid, "{text}");
    let Ok(snapshot) = text.parse::<Visibility>() else { return Ok(()) };
    assert_eq!(snapshot.to_string(), text);
    assert_eq!(snapshot.earliest(), earliest);

    let taken = input.arbitrary::<u8>()?;
    let taken = earliest.saturating_sub(20).saturating_add(taken.into());
    let less = snapshot.clone().without(taken);
    assert_eq!(less.to_string().parse().as_ref(), Ok(&less));
    let around =
        earliest.saturating_sub(30)..=next.saturating_add(2).min(earliest.saturating_add(300));
    for xid in around.chain([0, u64::MAX, taken]) {
        assert_eq!(snapshot.shows(xid), xid < next && !running.contains(&xid), "{xid} in {text}");
        assert_eq!(less.shows(xid), snapshot.shows(xid) && xid != taken, "{xid} in {less}");
    }
    Ok(())
}
