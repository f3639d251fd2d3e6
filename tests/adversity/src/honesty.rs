//! Views that say what they show: whoever is called fresh is right.

use std::time::{Duration, Instant};

use cluster_tests::{Session, millis};

/// Makes a materialized view with a unique index, has its changes captured, and waits until it is proved to be
/// fresh. Nothing but a change refreshes it within an hour.
pub fn capture(db: &mut Session, name: &str, key: &str, query: &str) {
    db.run(&format!(
        "CREATE MATERIALIZED VIEW {name} AS {query};
         CREATE UNIQUE INDEX ON {name} ({key});
         SELECT cache_refresher.register('{name}', refresh_interval => '1 year', on_change => true, debounce => '0')"
    ));
    settle(db, name, query);
}

/// How many rows differ between a view and what its query returns.
pub(crate) fn wrong(db: &mut Session, name: &str, query: &str) -> Result<i64, postgres::Error> {
    let question = format!(
        "SELECT count(*) FROM ((TABLE {name} EXCEPT ALL ({query})) UNION ALL (({query}) EXCEPT ALL TABLE {name})) x"
    );
    Ok(db.query_one(&question, &[])?.get(0))
}

/// Whether a view is called fresh, and how many rows differ from what its query returns, in one snapshot.
pub fn state(db: &mut Session, name: &str, query: &str) -> (bool, i64) {
    db.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    let fresh = db.get(&format!(
        "SELECT coalesce(cache_refresher.freshness('{name}') ->> 'staleness' = 'fresh', false)"
    ));
    let wrong = wrong(db, name, query).unwrap();
    db.run("COMMIT");
    (fresh, wrong)
}

/// Asserts that a view does not claim more than is true; whether it is fresh.
pub fn assert_honest(db: &mut Session, name: &str, query: &str) -> bool {
    let (fresh, wrong) = state(db, name, query);
    assert!(!fresh || wrong == 0, "{name} is called fresh, and {wrong} rows differ");
    fresh
}

/// Waits until a view is fresh, and asserts all the time that it does not claim more than is true.
pub fn settle(db: &mut Session, name: &str, query: &str) {
    let start = Instant::now();
    while !assert_honest(db, name, query) {
        if start.elapsed() > Duration::from_secs(15) {
            db.wait_for(&format!("{name} is fresh"), millis(1), "SELECT false");
        }
        std::thread::sleep(millis(20));
    }
}

/// Asserts that a view does not claim more than is true, for a while.
pub fn stays_honest(db: &mut Session, name: &str, query: &str) {
    let start = Instant::now();
    while start.elapsed() < millis(700) {
        assert_honest(db, name, query);
        std::thread::sleep(millis(20));
    }
    // Nor does a refresh that finds nothing to do.
    db.refresh(name);
    assert_honest(db, name, query);
}
