//! What a view's content rests on, where transactions overlap: whoever is called fresh shows everything that was
//! committed before.

use adversity_tests::{assert_honest, settle, state};
use cluster_tests::{Server, Session, millis};

/// Registered so that nobody but the test refreshes it.
const ALONE: &str = "on_change => true, refresh_interval => '1 day', debounce => '1 hour', max_staleness => '1 hour'";

const QUERY: &str = "SELECT id, a FROM t";

fn server_with_table() -> (Server, Session) {
    let server = Server::builder().start();
    let mut db = server.create_database("app");
    db.run("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t SELECT i, i FROM generate_series(1, 10) i");
    (server, db)
}

fn create(db: &mut Session, name: &str, query: &str) {
    db.run(&format!(
        "CREATE MATERIALIZED VIEW {name} AS {query}; CREATE UNIQUE INDEX ON {name} (id)"
    ));
}

fn register(db: &mut Session, name: &str) {
    db.run(&format!("SELECT cache_refresher.register('{name}', {ALONE})"));
}

#[test]
fn changes_are_kept_for_a_view_that_is_registered_and_refreshed_in_one_transaction() {
    let (server, mut db) = server_with_table();
    for view in ["v", "w"] {
        create(&mut db, view, QUERY);
    }
    register(&mut db, "v");
    db.refresh("v");
    let mut migration = server.connect("app");
    migration.run("BEGIN");
    register(&mut migration, "w");
    migration.refresh("w");
    db.run("UPDATE t SET a = 100 WHERE id = 1");
    // Nobody knows of the other's needs yet.
    db.refresh("v");
    migration.run("COMMIT");
    assert_honest(&mut db, "w", QUERY);
    // What is not proved is refreshed like what has changed.
    db.run("SELECT cache_refresher.alter('w', debounce => '0')");
    settle(&mut db, "w", QUERY);
    db.run("UPDATE t SET a = 101 WHERE id = 1");
    settle(&mut db, "w", QUERY);
}

#[test]
fn what_is_changed_after_capture_was_ended_and_begun_anew_is_noted() {
    let (_server, mut db) = server_with_table();
    let query = "SELECT sum(a) AS id FROM t";
    create(&mut db, "v", query);
    register(&mut db, "v");
    db.refresh("v");
    db.run("BEGIN; UPDATE t SET a = a + 1 WHERE id = 1; SELECT cache_refresher.unregister('v')");
    register(&mut db, "v");
    db.refresh("v");
    db.run("UPDATE t SET a = a + 100 WHERE id = 2; COMMIT");
    assert_honest(&mut db, "v", query);
    db.refresh("v");
    assert_eq!(state(&mut db, "v", query), (true, 0));
}

#[test]
fn views_of_a_group_rest_on_the_snapshot_that_they_share() {
    let (server, mut db) = server_with_table();
    db.run(
        "CREATE TABLE one (id int); INSERT INTO one VALUES (1);
         CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN $1; END $$",
    );
    create(&mut db, "first", "SELECT slow(id) AS id FROM one");
    create(&mut db, "v", QUERY);
    for view in ["first", "v"] {
        register(&mut db, view);
        db.refresh(view);
    }
    db.run("INSERT INTO one VALUES (2); UPDATE t SET a = 50 WHERE id = 3");
    let together = server.background(
        "app",
        "SELECT * FROM cache_refresher.refresh_together(ARRAY['first', 'v']::regclass[])",
    );
    db.wait(
        "the first view is computed",
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
    );
    std::thread::sleep(millis(300));
    db.run("UPDATE t SET a = 100 WHERE id = 1");
    together.join().unwrap().unwrap();
    assert_eq!(state(&mut db, "v", QUERY), (false, 2));
    db.refresh("v");
    assert_eq!(state(&mut db, "v", QUERY), (true, 0));
}

#[test]
fn a_refresh_in_a_transaction_that_has_written_rests_on_what_it_has_seen() {
    let (server, mut db) = server_with_table();
    create(&mut db, "v", QUERY);
    register(&mut db, "v");
    db.run("CREATE TABLE other (i int)");
    db.refresh("v");
    let writers: Vec<_> = (1..=3)
        .map(|id| {
            server.background(
                "app",
                &format!("DO $$ BEGIN FOR i IN 1 .. 4000 LOOP UPDATE t SET a = a + 1 WHERE id = {id}; COMMIT; END LOOP; END $$"),
            )
        })
        .collect();
    let mut rounds = 0;
    while writers.iter().any(|writer| !writer.is_finished()) {
        db.run("BEGIN; INSERT INTO other VALUES (1); SELECT cache_refresher.refresh('v', 'delta'); COMMIT");
        rounds += 1;
    }
    for writer in writers {
        writer.join().unwrap().unwrap();
    }
    println!("{rounds} refreshes beside 12,000 changes");
    assert_honest(&mut db, "v", QUERY);
    db.refresh("v");
    assert_eq!(state(&mut db, "v", QUERY), (true, 0));
}

#[test]
fn rows_and_freshness_of_one_statement_agree() {
    let (server, mut db) = server_with_table();
    create(&mut db, "v", QUERY);
    register(&mut db, "v");
    db.run("CREATE TABLE other (i int)");
    db.refresh("v");
    db.run("UPDATE t SET a = 100 WHERE id = 1");
    for written in [false, true] {
        let mut reader = server.connect("app");
        let reading = std::thread::spawn(move || {
            reader.run("BEGIN");
            if written {
                reader.run("INSERT INTO other VALUES (1)");
            }
            let row = reader.row(
                "SELECT s.shown, s.there, cache_refresher.freshness('v') ->> 'staleness'
                   FROM (SELECT (SELECT a FROM v WHERE id = 1) AS shown, (SELECT a FROM t WHERE id = 1) AS there,
                                pg_sleep(1) OFFSET 0) s",
            );
            (row.get::<_, i32>(0), row.get::<_, i32>(1), row.get::<_, String>(2))
        });
        db.wait(
            "it is reading",
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
        );
        db.refresh("v");
        let (shown, there, staleness) = reading.join().unwrap();
        assert_ne!(shown, there);
        assert_eq!(staleness, "stale", "{written}");
        db.run("UPDATE t SET a = a + 1 WHERE id = 1");
    }
}
