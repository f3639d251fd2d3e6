//! Databases whose settings have the server do something else than usual.

use cluster_tests::{Installation, Scratch, Server, Session, seconds};

const FRESH: &str = "SELECT bool_and(staleness = 'fresh') FROM cache_refresher.status";

/// Has a setting hold for the database, and connects with it.
fn with_setting(db: &mut Scratch, setting: &str) -> Session {
    let name = db.name().to_owned();
    db.run(&format!("ALTER DATABASE {name} SET {setting}"));
    let mut session = db.connect();
    session.run(
        "CREATE TABLE source (id int PRIMARY KEY, part int NOT NULL);
         INSERT INTO source SELECT i, i % 3 FROM generate_series(1, 10) i;
         CREATE MATERIALIZED VIEW v AS SELECT id, part FROM source; CREATE UNIQUE INDEX ON v (id)",
    );
    session
}

fn register(db: &mut Session, view: &str) {
    db.run(&format!(
        "SELECT cache_refresher.register('{view}', refresh_interval => '1 year', on_change => true, debounce => '0')"
    ));
}

fn reacts(db: &mut Session, view: &str, id: i32) {
    db.run(&format!("INSERT INTO source VALUES ({id}, 1)"));
    db.wait("the change is shown", &format!("SELECT EXISTS (SELECT FROM {view} WHERE id = {id})"));
    db.assert_shows_its_query(view);
}

#[test]
fn a_registration_follows_its_view_where_no_foreign_key_cascades() {
    let mut scratch = Scratch::new("unusual_replica");
    let mut db = with_setting(&mut scratch, "session_replication_role = replica");
    register(&mut db, "v");
    reacts(&mut db, "v", 11);
    db.run("ALTER MATERIALIZED VIEW v RENAME TO w");
    db.wait(
        "the name is followed",
        "SELECT array_agg(view_name) = '{w}' FROM cache_refresher.status",
    );
    reacts(&mut db, "w", 12);
    db.run("SELECT cache_refresher.unregister('w'); ALTER MATERIALIZED VIEW w RENAME TO x");
    register(&mut db, "x");
    reacts(&mut db, "x", 13);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM cache_refresher.status"), 1);
}

#[test]
fn changes_are_captured_where_backslashes_escape() {
    let mut scratch = Scratch::new("unusual_strings");
    let mut db = with_setting(&mut scratch, "standard_conforming_strings = off");
    register(&mut db, "v");
    reacts(&mut db, "v", 11);
    db.wait("the view is fresh", FRESH);
}

#[test]
fn a_refresh_that_no_event_trigger_sees_is_seen() {
    if Installation::get().major() < 17 {
        return;
    }
    let mut scratch = Scratch::new("unusual_events");
    let mut db = with_setting(&mut scratch, "event_triggers = off");
    db.run(
        "CREATE MATERIALIZED VIEW parts AS SELECT part, count(*) FROM v GROUP BY part;
         CREATE UNIQUE INDEX ON parts (part)",
    );
    register(&mut db, "v");
    register(&mut db, "parts");
    db.wait("both are fresh", FRESH);
    // It leaves the view in the file where it was.
    db.run("BEGIN; INSERT INTO source VALUES (11, 7); REFRESH MATERIALIZED VIEW CONCURRENTLY v; COMMIT");
    db.wait("what reads it shows it", "SELECT EXISTS (SELECT FROM parts WHERE part = 7)");
    db.wait("both are fresh", FRESH);
    db.assert_shows_its_query("parts");
}

#[test]
fn who_looks_at_the_past_is_not_told_of_the_present() {
    let mut scratch = Scratch::new("unusual_past");
    let mut db = with_setting(&mut scratch, "default_transaction_isolation = 'repeatable read'");
    db.run("SET default_transaction_isolation = 'read committed'");
    register(&mut db, "v");
    reacts(&mut db, "v", 11);
    db.wait("the view is fresh", FRESH);
    let mut past = scratch.connect();
    past.run("BEGIN; SELECT count(*) FROM v");
    let began: String = past.get("SELECT now()::text");
    let mut cursor = scratch.connect();
    cursor.run(
        "BEGIN ISOLATION LEVEL READ COMMITTED;
         DECLARE c CURSOR FOR SELECT data_as_of::text FROM cache_refresher.status WHERE staleness = 'fresh'",
    );
    let opened: String = cursor.get("SELECT clock_timestamp()::text");
    reacts(&mut db, "v", 12);
    let as_of: String = cursor.get("FETCH c");
    assert!(cursor.get::<bool>(&format!("SELECT '{as_of}'::timestamptz <= '{opened}'")));
    let told = format!("SELECT data_as_of <= '{began}' FROM cache_refresher.status");
    assert!(past.get::<bool>(FRESH) && past.get::<bool>(&told));
    assert!(past.get::<bool>(
        "SELECT cache_refresher.is_stale('v', '1 ms') IS FALSE AND cache_refresher.age('v') > interval '0'"
    ));
    assert_eq!(past.get::<i64>("SELECT count(*) FROM v"), 11);
}

#[test]
fn nothing_of_ours_is_compiled_however_much_the_catalogs_hold() {
    let server = Server::builder().setting("session_preload_libraries", "auto_explain").start();
    let mut db = server.create_database("app");
    db.run(
        "CREATE TABLE source (id int PRIMARY KEY);
         CREATE MATERIALIZED VIEW v AS SELECT id FROM source; CREATE UNIQUE INDEX ON v (id)",
    );
    register(&mut db, "v");
    db.wait_for("the view is fresh", seconds(10), FRESH);
    let mut asking = server.connect("app");
    asking.run(
        "SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;
         SET jit = on; SET jit_above_cost = 10; SELECT cache_refresher.freshness('v')",
    );
    let log = server.log();
    assert!(log.contains("Scan") && log.contains("pg_rewrite"), "the log has plans: {log}");
    assert!(!log.contains("JIT:"), "{log}");
}
