//! Seeds from which test cases are drawn. A failure names its own:
//! `CACHE_REFRESHER_SEED=… cargo test -p cluster_tests --test FILE NAME` runs that one case again.

use std::time::{SystemTime, UNIX_EPOCH};

const SEED: &str = "CACHE_REFRESHER_SEED";

/// The seed that the environment names, or so many that begin with the clock's.
pub fn seeds(cases: u64) -> impl Iterator<Item = u64> {
    let (first, count) = match std::env::var(SEED) {
        Ok(seed) => (seed.parse().unwrap_or_else(|_| panic!("{SEED}={seed} is no number")), 1),
        Err(_) => (now(), cases),
    };
    println!("{count} cases from {SEED}={first}");
    (0..count).map(move |number| first.wrapping_add(number))
}

fn now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since_epoch.as_micros()).unwrap()
}
