//! What goes on beside a diff, and what waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use cluster_tests::{Scratch, Session};

/// A session that has done a diff and not committed it.
fn uncommitted_diff(db: &mut Scratch) -> Session {
    db.create_view("v", 10);
    db.write("v", 7);
    let mut refresher = db.connect();
    refresher.run("BEGIN");
    assert_eq!(refresher.diff("v").updated, 1);
    refresher
}

#[test]
fn vacuum_and_analyze_go_on_beside_a_diff() {
    let mut db = Scratch::new("diff_vacuum");
    let mut refresher = uncommitted_diff(&mut db);
    db.run("SET lock_timeout = '100ms'");
    for statement in ["VACUUM v", "ANALYZE v", "VACUUM (ANALYZE, FREEZE) v"] {
        db.run(statement);
    }
    refresher.run("COMMIT");
    assert_eq!(db.shown("v"), 7);
    db.assert_sound("v");
}

#[test]
fn a_diff_goes_on_beside_an_analyze_that_is_not_committed() {
    let mut db = Scratch::new("diff_analyze");
    db.create_view("v", 10);
    db.write("v", 7);
    let mut other = db.connect();
    other.run("BEGIN; ANALYZE v");
    db.run("SET cache_refresher.lock_timeout = '100ms'");
    db.diff("v");
    assert_eq!(db.shown("v"), 7);
    other.run("COMMIT");
}

#[test]
fn statements_that_need_the_view_for_themselves_wait_for_a_diff() {
    let mut db = Scratch::new("diff_exclusive");
    let mut refresher = uncommitted_diff(&mut db);
    db.run("SET lock_timeout = '100ms'");
    for statement in [
        "REFRESH MATERIALIZED VIEW v",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "CLUSTER v USING v_id_idx",
        "CREATE INDEX ON v (value)",
        "REINDEX TABLE v",
        "ALTER MATERIALIZED VIEW v RENAME TO w",
        "DROP INDEX v_id_idx",
        "DROP MATERIALIZED VIEW v",
    ] {
        let refusal = db.error_of(statement);
        assert_eq!(refusal.code().code(), "55P03", "{statement}: {refusal}");
    }
    refresher.run("COMMIT");
    db.run("ALTER MATERIALIZED VIEW v RENAME TO w");
    assert_eq!(db.shown("w"), 7, "once it is committed they go on");
}

/// Changes the source and refreshes, again and again; returns how often.
fn keep_refreshing(mut session: Session, stop: Arc<AtomicBool>) -> JoinHandle<u32> {
    std::thread::spawn(move || {
        let mut refreshes = 0;
        while !stop.load(Ordering::Relaxed) {
            session.run(&format!(
                "UPDATE v_source SET value = value + 1 WHERE id % 10 = {};
                 UPDATE v_source SET id = -id WHERE id % 97 = {}",
                refreshes % 10,
                refreshes % 97
            ));
            session.diff("v");
            refreshes += 1;
        }
        refreshes
    })
}

#[test]
fn indexes_are_created_concurrently_beside_diffs() {
    let mut db = Scratch::new("diff_concurrent_index");
    db.create_view("v", 2000);
    let stop = Arc::new(AtomicBool::new(false));
    let refresher = keep_refreshing(db.connect(), Arc::clone(&stop));
    for round in 0..5 {
        db.run(&format!("CREATE INDEX CONCURRENTLY by_value{round} ON v (value)"));
        db.run(&format!("CREATE UNIQUE INDEX CONCURRENTLY by_id{round} ON v (id, value)"));
        db.run("REINDEX INDEX CONCURRENTLY v_id_idx");
        db.run(&format!("DROP INDEX CONCURRENTLY by_id{round}"));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(refresher.join().unwrap() > 0);
    assert_eq!(
        db.get::<i64>(
            "SELECT count(*) FROM pg_index WHERE indrelid = 'v'::regclass AND indisvalid"
        ),
        6
    );
    db.diff("v");
    db.assert_shows_its_query("v");
    db.assert_sound("v");
}
