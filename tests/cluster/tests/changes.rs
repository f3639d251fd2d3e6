//! Views that are refreshed when something has changed.

use std::time::Instant;

use cluster_tests::{Mode, Scratch, Server, Session, Signal, WORKER, millis, seconds};

#[test]
fn a_change_is_shown_at_once() {
    let mut db = Scratch::new("change_at_once");
    db.create_reacting_view("v", "debounce => '0'");
    let before = db.refreshes_by_change("v");
    for value in 1..=20 {
        db.write("v", value);
        db.wait_for(
            "it is shown",
            seconds(2),
            &format!("SELECT value = {value} FROM v WHERE id = 1"),
        );
    }
    assert!((1..=20).contains(&(db.refreshes_by_change("v") - before)));
    db.wait_until_fresh("v");
    let age: f64 = db.get("SELECT extract(epoch FROM cache_refresher.age('v'))::float8");
    assert!(age < 1.0, "what is fresh is as old as the question: {age}");
}

#[test]
fn a_view_is_stale_since_a_commit_where_the_server_keeps_track_of_commits() {
    let server = Server::builder().setting("track_commit_timestamp", "on").start();
    let mut db = server.create_database("app");
    let mut other = server.connect("app");
    db.create_reacting_view("v", "debounce => '1 hour', max_staleness => '1 day'");
    other.run("BEGIN; UPDATE v_source SET value = 7 WHERE id = 1");
    other.run("SELECT pg_sleep(0.1); COMMIT");
    assert!(db.get::<bool>(
        "SELECT cache_refresher.stale_since('v') = pg_xact_commit_timestamp(xmin) FROM v_source WHERE id = 1"
    ));
    db.refresh("v");
    other.run("BEGIN; SELECT cache_refresher.invalidate('v')");
    other.run("SELECT pg_sleep(0.1); COMMIT");
    assert!(db.get::<bool>(
        "SELECT cache_refresher.stale_since('v') = pg_xact_commit_timestamp(xmin) FROM _cache_refresher.invalidation"
    ));
}

#[test]
fn many_changes_are_waited_out_but_not_for_ever() {
    let mut db = Scratch::new("debounce");
    db.create_reacting_view("quiet", "debounce => '1 second', max_staleness => '1 hour'");
    db.create_reacting_view("bounded", "debounce => '1 second', max_staleness => '2 seconds'");
    let (quiet, bounded) = (db.refreshes_by_change("quiet"), db.refreshes_by_change("bounded"));
    let start = Instant::now();
    let mut value = 0;
    let mut pauses = 0;
    while start.elapsed() < seconds(5) {
        value += 1;
        let write = Instant::now();
        db.write("quiet", value);
        db.write("bounded", value);
        // On a machine that is too busy to keep writing there is quiet after all.
        pauses += i32::from(write.elapsed() > millis(700));
        std::thread::sleep(millis(150));
    }
    if pauses == 0 {
        assert_eq!(db.refreshes_by_change("quiet"), quiet, "there was no quiet");
    }
    assert!(db.refreshes_by_change("bounded") > bounded, "max_staleness had passed");
    db.wait_until_shown("quiet", value);
    db.wait_until_shown("bounded", value);
}

#[test]
fn who_says_so_has_a_view_refreshed() {
    let mut db = Scratch::new("invalidate");
    db.create_reacting_view("v", "debounce => '0'");
    let before = db.refreshes_by_change("v");
    db.run("BEGIN; SELECT cache_refresher.invalidate('v'); ROLLBACK");
    std::thread::sleep(millis(300));
    assert_eq!(db.refreshes_by_change("v"), before, "it was taken back");
    db.run("SELECT cache_refresher.invalidate('v')");
    db.wait(
        "it is refreshed",
        &format!(
            "SELECT count(*) > {before} FROM cache_refresher.refresh_log WHERE trigger = 'change'"
        ),
    );
    db.wait_until_fresh("v");
}

#[test]
fn changes_share_the_fate_of_the_subtransaction_that_made_them() {
    let mut db = Scratch::new("subtransactions");
    db.create_view("v", 2000);
    db.run(
        "SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true,
                    debounce => '1 hour', max_staleness => '1 day')",
    );
    let method = |db: &mut Session| -> Option<String> {
        db.get("SELECT method FROM cache_refresher.refresh('v', 'delta')")
    };
    let wrong = "SELECT count(*) FROM v FULL JOIN v_source s USING (id) WHERE v.value IS DISTINCT FROM s.value";
    method(&mut db);
    method(&mut db);

    db.run("BEGIN; UPDATE v_source SET value = value + 1 WHERE id <= 600");
    assert_eq!(method(&mut db).as_deref(), Some("delta"), "its own changes are known");
    assert_eq!(db.get::<i64>(wrong), 0);
    // What the outer one has not written yet, an inner one cannot write.
    db.run(
        "UPDATE v_source SET value = value + 1 WHERE id = 601; SAVEPOINT nested;
            UPDATE v_source SET value = value + 1 WHERE id = 602",
    );
    method(&mut db);
    assert_eq!(db.get::<i64>(wrong), 0);
    assert_eq!(db.get::<String>("SELECT staleness FROM cache_refresher.status"), "stale");
    db.run(
        "UPDATE v_source SET value = value + 1 WHERE id BETWEEN 603 AND 1200; ROLLBACK TO nested",
    );
    method(&mut db);
    assert_eq!(db.get::<i64>(wrong), 0);
    db.run("UPDATE v_source SET value = value + 1 WHERE id = 1201; COMMIT");
    assert_eq!(method(&mut db).as_deref(), Some("delta"));
    assert_eq!(db.get::<i64>(wrong), 0);

    // Every third fails, and every second of the others in a subtransaction that another is inside of.
    db.run(
        "DO $$ BEGIN
             FOR n IN 1 .. 900 LOOP
                 BEGIN
                     UPDATE v_source SET value = -n WHERE id = n;
                     IF n % 2 = 0 THEN
                         BEGIN UPDATE v_source SET value = value - 1 WHERE id = n + 1000; EXCEPTION WHEN division_by_zero THEN END;
                     END IF;
                     PERFORM 1 / (n % 3);
                 EXCEPTION WHEN division_by_zero THEN END;
             END LOOP;
         END $$",
    );
    assert_eq!(method(&mut db).as_deref(), Some("delta"));
    assert_eq!(db.get::<i64>(wrong), 0);
    assert_eq!(db.get::<i64>("SELECT count(*) FROM v WHERE value < -1"), 599);
}

#[test]
fn a_prepared_transaction_counts_from_its_commit() {
    let server = Server::builder().setting("max_prepared_transactions", "5").start();
    let mut db = server.create_database("app");
    db.create_reacting_view("v", "debounce => '0'");
    db.run("BEGIN; UPDATE v_source SET value = 7 WHERE id = 1; PREPARE TRANSACTION 'changes'");
    db.wait_until_fresh("v");
    db.run("COMMIT PREPARED 'changes'");
    db.wait_until_shown("v", 7);
}

#[test]
fn what_views_read_or_compute_with_is_watched_too() {
    let mut db = Scratch::new("watched");
    db.run(
        "CREATE TABLE p (id int, value int); INSERT INTO p VALUES (1, 1);
         CREATE FUNCTION inner_one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE FUNCTION outer_one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.inner_one($1); END';
         CREATE MATERIALIZED VIEW v AS SELECT id, outer_one(value) AS value FROM p;
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')",
    );
    db.wait_until_fresh("v");
    db.run("CREATE TABLE child () INHERITS (p); INSERT INTO child VALUES (2, 2)");
    db.wait("it is shown", "SELECT count(*) = 2 FROM v");
    db.wait_until_fresh("v");
    db.run("DROP TABLE child");
    db.wait("it goes", "SELECT count(*) = 1 FROM v");
    db.wait_until_fresh("v");
    db.run("DROP FUNCTION inner_one");
    db.run("CREATE FUNCTION inner_one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 2; END'");
    db.wait("another value", "SELECT value = 2 FROM v");
    db.wait_until_fresh("v");
    db.run("CREATE INDEX ON v (value)");
    db.wait_until_fresh("v");
}

#[test]
fn what_changed_while_nobody_looked_is_shown_afterwards() {
    for (mode, value) in [(Mode::Fast, 1), (Mode::Immediate, 2)] {
        let server = Server::builder().start();
        let mut app = server.create_database("app");
        app.create_reacting_view("v", "debounce => '0'");
        server.set("cache_refresher.enabled", "off");
        server.reload();
        app.wait(
            "nothing is scheduled",
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type IN
                 ('cache_refresher scheduler', 'cache_refresher worker')",
        );
        app.write("v", value);
        drop(app);
        server.set("cache_refresher.enabled", "on");
        server.stop(mode);
        server.start();
        let mut app = server.connect("app");
        app.wait_until_shown("v", value);
        app.wait_until_fresh("v");
    }
}

#[test]
fn a_crash_under_load_loses_no_change() {
    let server = Server::builder().setting("synchronous_commit", "off").start();
    let mut app = server.create_database("app");
    app.run(
        "CREATE TABLE parent (id int PRIMARY KEY, name int);
         CREATE TABLE child (id int PRIMARY KEY, parent_id int, amount int);
         INSERT INTO parent SELECT i, i FROM generate_series(1, 200) i;
         INSERT INTO child SELECT i, i % 200 + 1, i FROM generate_series(1, 2000) i;
         CREATE INDEX ON child (parent_id);
         CREATE MATERIALIZED VIEW v AS
             SELECT p.id, p.name, count(c.id) AS n, sum(c.amount) AS amount
               FROM parent p LEFT JOIN child c ON c.parent_id = p.id GROUP BY p.id;
         CREATE UNIQUE INDEX ON v (id);
         ANALYZE;
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')",
    );
    app.wait_until_fresh("v");
    for round in 0..4 {
        let load = server.background(
            "app",
            "DO $$ BEGIN FOR i IN 1..100000 LOOP
                 UPDATE child SET amount = amount + 1 WHERE id = 1 + i * 7 % 2000;
                 UPDATE child SET parent_id = 1 + i * 11 % 200 WHERE id = 1 + i * 13 % 2000;
                 IF i % 17 = 0 THEN DELETE FROM child WHERE id = 1 + i * 3 % 2000; END IF;
                 COMMIT;
             END LOOP; END $$",
        );
        let shown = app.refreshes_by_change("v");
        app.wait(
            "it is refreshed under load",
            &format!(
                "SELECT count(*) > {shown} + 5 FROM cache_refresher.refresh_log WHERE trigger = 'change'"
            ),
        );
        let victim = if round % 2 == 0 {
            *server.pids_of(WORKER).first().unwrap()
        } else {
            app.get("SELECT pid FROM pg_stat_activity WHERE query LIKE 'DO %' AND pid <> pg_backend_pid()")
        };
        let ready = "database system is ready to accept connections";
        let starts = server.log_lines(&[ready]);
        server.kill(victim, Signal::KILL);
        let _ = load.join();
        server
            .wait_until("the server is back", seconds(30), || server.log_lines(&[ready]) > starts);
        app = server.connect("app");
        app.wait_until_fresh("v");
        app.assert_shows_its_query("v");
    }
}

#[test]
fn a_locked_source_holds_up_no_other_view() {
    let mut db = Scratch::new("locked_source");
    db.create_reacting_view("v", "debounce => '0'");
    db.create_reacting_view("w", "debounce => '0'");
    // Whether it shows everything is not known after this, and has to be found out.
    db.run("SELECT cache_refresher.pause('v')");
    db.run("REFRESH MATERIALIZED VIEW v");
    let mut holder = db.connect();
    holder.run("BEGIN; LOCK TABLE v_source IN ACCESS EXCLUSIVE MODE");
    // The registry is read again, and with it since when each view is stale.
    db.run("SELECT cache_refresher.alter('w', debounce => '1 ms')");
    db.write("w", 5);
    db.wait_until_shown("w", 5);
    holder.run("ROLLBACK");
    db.run("SELECT cache_refresher.resume('v')");
    db.write("v", 6);
    db.wait_until_shown("v", 6);
}

#[test]
fn a_view_of_a_view_is_refreshed_by_what_changed_in_that() {
    let mut db = Scratch::new("view_of_view");
    db.create_reacting_view("v", "debounce => '0'");
    db.run(
        "CREATE MATERIALIZED VIEW w AS SELECT id, value * 2 AS value FROM v;
         CREATE UNIQUE INDEX ON w (id);
         SELECT cache_refresher.register('w', refresh_interval => '1 year', method => 'delta',
                                         on_change => true, debounce => '0')",
    );
    db.refresh("w");
    db.wait_until_fresh("w");
    db.write("v", 4);
    db.wait_until_shown("w", 8);
    db.wait_until_fresh("w");
    let last = "SELECT method FROM cache_refresher.refresh_log
                 WHERE view_name = 'w' AND outcome = 'refreshed' ORDER BY id DESC LIMIT 1";
    assert_eq!(db.get::<String>(last), "delta");

    // The one is not concerned by its own changes.
    let skips = "SELECT skips FROM cache_refresher.status WHERE view_name = 'v'";
    let before: i64 = db.get(skips);
    db.write("v", 3);
    db.wait_until_shown("w", 6);
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(db.get::<i64>(skips), before);

    // What the one does not show, the other does not either.
    let staleness = "SELECT staleness FROM cache_refresher.status WHERE view_name = 'w'";
    db.run("SELECT cache_refresher.pause('v')");
    db.write("v", 5);
    assert_eq!(db.get::<String>(staleness), "stale");

    // By hand it leaves no trace of what has changed, but that something has.
    db.run("REFRESH MATERIALIZED VIEW CONCURRENTLY v");
    db.wait_until_shown("w", 10);
    assert_eq!(db.get::<String>(last), "diff");

    // The same for a reader that comes while somebody does that.
    let mut other = db.connect();
    db.write("v", 6);
    other.run("BEGIN; REFRESH MATERIALIZED VIEW CONCURRENTLY v");
    db.run(
        "CREATE MATERIALIZED VIEW x AS SELECT id, value FROM v;
         CREATE UNIQUE INDEX ON x (id);
         SELECT cache_refresher.register('x', refresh_interval => '1 year', on_change => true,
                                         debounce => '0')",
    );
    db.refresh("x");
    other.run("COMMIT");
    db.wait_until_shown("x", 6);
    db.run("SELECT cache_refresher.unregister('x')");

    // A log is taken away with its last reader.
    db.run("SELECT cache_refresher.unregister('w')");
    db.wait(
        "the log of v is gone",
        "SELECT to_regclass('_cache_refresher.changes_' || 'v'::regclass::oid) IS NULL",
    );
}

/// View `v` on tables `a` and `b`, refreshed when they change.
fn joined(name: &'static str) -> Scratch {
    let mut db = Scratch::new(name);
    db.run(
        "CREATE TABLE a (id int PRIMARY KEY, value int); INSERT INTO a VALUES (1, 1);
         CREATE TABLE b (id int PRIMARY KEY, value int); INSERT INTO b VALUES (1, 1);
         CREATE MATERIALIZED VIEW v AS SELECT id, a.value AS x, b.value AS y FROM a JOIN b USING (id);
         CREATE UNIQUE INDEX ON v (id);
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')",
    );
    db.wait_until_fresh("v");
    db
}

#[test]
fn a_migration_that_locks_what_a_worker_has_locked_goes_through() {
    let mut db = joined("migration");
    let mut migration = db.connect();
    migration.run("BEGIN");
    migration.run("ALTER TABLE b ADD COLUMN note text");
    db.run("UPDATE a SET value = 2");
    db.wait(
        "a worker has locked the first table",
        "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'a'::regclass AND pid <> pg_backend_pid()",
    );
    std::thread::sleep(millis(300));
    migration.run("ALTER TABLE a ADD COLUMN note text");
    migration.run("COMMIT");
    db.wait("it is shown", "SELECT x = 2 FROM v");
}

#[test]
fn a_writer_that_meets_a_worker_who_mends_capture_goes_through() {
    let mut db = joined("mending");
    let mut writer = db.connect();
    db.run("ALTER TABLE a DISABLE TRIGGER ALL; ALTER TABLE b DISABLE TRIGGER ALL");
    db.run("ALTER TABLE a ENABLE TRIGGER ALL; ALTER TABLE b ENABLE TRIGGER ALL");
    writer.run("BEGIN");
    writer.run("UPDATE b SET value = 3");
    db.run("SELECT cache_refresher.invalidate('v')");
    db.wait(
        "a worker has locked the first table",
        "SELECT count(*) > 0 FROM pg_locks
          WHERE relation = 'a'::regclass AND mode = 'ShareRowExclusiveLock' AND granted",
    );
    std::thread::sleep(millis(150));
    writer.run("UPDATE a SET value = 3");
    writer.run("COMMIT");
    db.wait("it is shown", "SELECT x = 3 AND y = 3 FROM v");
    db.wait_until_fresh("v");
}
