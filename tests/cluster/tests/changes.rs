//! Views that are refreshed when something has changed.

use std::time::Instant;

use cluster_tests::{Mode, Scratch, Server, Session, Signal, WORKER, millis, seconds};

/// A view that is refreshed by its interval hardly ever, and is proved to be fresh.
fn reacting(db: &mut Session, name: &str, reaction: &str) {
    db.create_view(name, 10);
    db.run(&format!(
        "SELECT cache_refresher.register('{name}', refresh_interval => '1 hour', on_change => true, {reaction})"
    ));
    // The first refresh need not be waited for as changes are.
    db.refresh(name);
    wait_until_fresh(db, name);
}

fn wait_until_fresh(db: &mut Session, name: &str) {
    db.wait(
        &format!("{name} is fresh"),
        &format!(
            "SELECT staleness = 'fresh' FROM cache_refresher.status WHERE view_name = '{name}'"
        ),
    );
}

fn by_change(db: &mut Session, name: &str) -> i64 {
    db.get(&format!(
        "SELECT count(*) FROM cache_refresher.refresh_log
         WHERE view_name = '{name}' AND trigger = 'change' AND outcome = 'refreshed'"
    ))
}

#[test]
fn a_change_is_shown_at_once() {
    let mut db = Scratch::new("change_at_once");
    reacting(&mut db, "v", "debounce => '0'");
    let before = by_change(&mut db, "v");
    for value in 1..=20 {
        db.write("v", value);
        db.wait_for(
            "it is shown",
            seconds(2),
            &format!("SELECT value = {value} FROM v WHERE id = 1"),
        );
    }
    assert!((1..=20).contains(&(by_change(&mut db, "v") - before)));
    wait_until_fresh(&mut db, "v");
    let age: f64 = db.get("SELECT extract(epoch FROM cache_refresher.age('v'))::float8");
    assert!(age < 1.0, "what is fresh is as old as the question: {age}");
}

#[test]
fn a_view_is_stale_since_a_commit_where_the_server_keeps_track_of_commits() {
    let server = Server::builder().setting("track_commit_timestamp", "on").start();
    let mut db = server.create_database("app");
    let mut other = server.connect("app");
    reacting(&mut db, "v", "debounce => '1 hour', max_staleness => '1 day'");
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
    reacting(&mut db, "quiet", "debounce => '1 second', max_staleness => '1 hour'");
    reacting(&mut db, "bounded", "debounce => '1 second', max_staleness => '2 seconds'");
    let (quiet, bounded) = (by_change(&mut db, "quiet"), by_change(&mut db, "bounded"));
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
        assert_eq!(by_change(&mut db, "quiet"), quiet, "there was no quiet");
    }
    assert!(by_change(&mut db, "bounded") > bounded, "max_staleness had passed");
    db.wait_until_shown("quiet", value);
    db.wait_until_shown("bounded", value);
}

#[test]
fn who_says_so_has_a_view_refreshed() {
    let mut db = Scratch::new("invalidate");
    reacting(&mut db, "v", "debounce => '0'");
    let before = by_change(&mut db, "v");
    db.run("BEGIN; SELECT cache_refresher.invalidate('v'); ROLLBACK");
    std::thread::sleep(millis(300));
    assert_eq!(by_change(&mut db, "v"), before, "it was taken back");
    db.run("SELECT cache_refresher.invalidate('v')");
    db.wait(
        "it is refreshed",
        &format!(
            "SELECT count(*) > {before} FROM cache_refresher.refresh_log WHERE trigger = 'change'"
        ),
    );
    wait_until_fresh(&mut db, "v");
}

#[test]
fn changes_share_the_fate_of_the_subtransaction_that_made_them() {
    let mut db = Scratch::new("subtransactions");
    db.create_view("v", 2000);
    db.run(
        "SELECT cache_refresher.register('v', refresh_interval => '1 hour', on_change => true,
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
fn a_writer_of_many_subtransactions_needs_no_memory_for_each() {
    let mut db = Scratch::new("subtransaction_memory");
    reacting(&mut db, "v", "debounce => '1 hour', max_staleness => '1 day'");
    db.run("BEGIN");
    db.run(
        "DO $$
         BEGIN
             FOR i IN 1..3000 LOOP
                 BEGIN
                     UPDATE v_source SET value = i WHERE id = 1;
                     PERFORM 1 / (i % 10);
                 EXCEPTION WHEN division_by_zero THEN NULL;
                 END;
             END LOOP;
         END $$",
    );
    let kept: i64 = db.get(
        "SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'CurTransactionContext'",
    );
    assert!(kept < 100, "{kept} of 3,000 subtransactions left something behind");
    db.run("COMMIT");
    let method: String = db.get("SELECT method FROM cache_refresher.refresh('v')");
    assert_eq!(method, "delta");
    db.wait_until_shown("v", 2999);
}

#[test]
fn a_prepared_transaction_counts_from_its_commit() {
    let server = Server::builder().setting("max_prepared_transactions", "5").start();
    let mut db = server.create_database("app");
    reacting(&mut db, "v", "debounce => '0'");
    db.run("BEGIN; UPDATE v_source SET value = 7 WHERE id = 1; PREPARE TRANSACTION 'changes'");
    wait_until_fresh(&mut db, "v");
    db.run("COMMIT PREPARED 'changes'");
    db.wait_until_shown("v", 7);
}

#[test]
fn a_new_partition_is_captured_too() {
    let mut db = Scratch::new("new_partition");
    db.run(
        "CREATE TABLE t (id int, value int) PARTITION BY RANGE (id);
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);
         CREATE MATERIALIZED VIEW v AS SELECT id, value FROM t;
         CREATE INDEX ON v (id);
         SELECT cache_refresher.register('v', refresh_interval => '1 hour', on_change => true, debounce => '0')",
    );
    wait_until_fresh(&mut db, "v");
    db.run(
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20); INSERT INTO t VALUES (11, 1)",
    );
    db.wait("it is shown", "SELECT count(*) = 1 FROM v");
    wait_until_fresh(&mut db, "v");
    db.run("INSERT INTO t VALUES (12, 1)");
    db.wait("its changes are captured", "SELECT count(*) = 2 FROM v");
    db.run("DROP TABLE t2");
    db.wait("it goes", "SELECT count(*) = 0 FROM v");
    wait_until_fresh(&mut db, "v");
}

#[test]
fn a_row_too_wide_for_the_log_is_no_reason_to_refuse_it() {
    let mut db = Scratch::new("wide");
    let list = |of: &dyn Fn(u32) -> String| (0..127).map(of).collect::<Vec<_>>().join(", ");
    db.run(&format!(
        "CREATE TABLE t ({}); CREATE MATERIALIZED VIEW v AS SELECT least({}) AS k, count(*) AS c FROM t GROUP BY 1;
         CREATE INDEX ON v (k);
         SELECT cache_refresher.register('v', refresh_interval => '1 hour', on_change => true, debounce => '0')",
        list(&|i| format!("n{i} name")),
        list(&|i| format!("n{i}")),
    ));
    wait_until_fresh(&mut db, "v");
    let values = list(&|i| format!("'x{i}'"));
    db.run(&format!("INSERT INTO t VALUES ({values})"));
    db.wait("it is shown", "SELECT count(*) = 1 FROM v");
    db.run(&format!("INSERT INTO t VALUES ({values}), ({values})"));
    db.wait("they are shown", "SELECT c = 3 FROM v");
    wait_until_fresh(&mut db, "v");

    // Some of it can go out of line, and the rest is too long as well.
    db.run(&format!(
        "CREATE TABLE t2 ({}, {}, note text);
         CREATE MATERIALIZED VIEW v2 AS SELECT least({}) || note || ({})::text AS k, count(*) AS c FROM t2 GROUP BY 1; CREATE INDEX ON v2 (k);
         SELECT cache_refresher.register('v2', refresh_interval => '1 hour', on_change => true, debounce => '0')",
        (0..126).map(|i| format!("n{i} name")).collect::<Vec<_>>().join(", "),
        (0..14).map(|i| format!("i{i} int")).collect::<Vec<_>>().join(", "),
        (0..126).map(|i| format!("n{i}")).collect::<Vec<_>>().join(", "),
        (0..14).map(|i| format!("i{i}")).collect::<Vec<_>>().join(" + "),
    ));
    wait_until_fresh(&mut db, "v2");
    let names = (0..126).map(|i| format!("'x{i}'")).collect::<Vec<_>>().join(", ");
    db.run(&format!("INSERT INTO t2 VALUES ({names}, {}, 'note')", ["1"; 14].join(", ")));
    db.wait("it is shown", "SELECT count(*) = 1 FROM v2");
}

#[test]
fn the_extension_is_dropped_beside_writers() {
    let server = Server::builder().start();
    let mut db = server.create_database("app");
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, value int); INSERT INTO t VALUES (1, 1);
         CREATE MATERIALIZED VIEW v AS SELECT id, value FROM t; CREATE UNIQUE INDEX ON v (id);
         SELECT cache_refresher.register('v', on_change => true)",
    );
    let mut writer = server.connect("app");
    writer.run("BEGIN");
    writer.run("UPDATE t SET value = 0 WHERE id = -1");
    let dropping = server.background("app", "DROP EXTENSION cache_refresher");
    db.wait("it waits", "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted");
    writer.run("UPDATE t SET value = 2 WHERE id = 1");
    writer.run("COMMIT");
    dropping.join().unwrap().unwrap();
    assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass"), 0);
}

#[test]
fn what_views_read_or_compute_with_is_watched_too() {
    let mut db = Scratch::new("watched");
    db.run(
        "CREATE TABLE p (id int, value int); INSERT INTO p VALUES (1, 1);
         CREATE FUNCTION inner_one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
         CREATE FUNCTION outer_one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.inner_one($1); END';
         CREATE MATERIALIZED VIEW v AS SELECT id, outer_one(value) AS value FROM p;
         SELECT cache_refresher.register('v', refresh_interval => '1 hour', on_change => true, debounce => '0')",
    );
    wait_until_fresh(&mut db, "v");
    db.run("CREATE TABLE child () INHERITS (p); INSERT INTO child VALUES (2, 2)");
    db.wait("it is shown", "SELECT count(*) = 2 FROM v");
    wait_until_fresh(&mut db, "v");
    db.run("DROP TABLE child");
    db.wait("it goes", "SELECT count(*) = 1 FROM v");
    wait_until_fresh(&mut db, "v");
    db.run("DROP FUNCTION inner_one");
    db.run("CREATE FUNCTION inner_one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 2; END'");
    db.wait("another value", "SELECT value = 2 FROM v");
    wait_until_fresh(&mut db, "v");
    db.run("CREATE INDEX ON v (value)");
    wait_until_fresh(&mut db, "v");
}

#[test]
fn what_changed_while_nobody_looked_is_shown_afterwards() {
    for (mode, value) in [(Mode::Fast, 1), (Mode::Immediate, 2)] {
        let server = Server::builder().start();
        let mut app = server.create_database("app");
        reacting(&mut app, "v", "debounce => '0'");
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
        wait_until_fresh(&mut app, "v");
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
         SELECT cache_refresher.register('v', refresh_interval => '1 hour', on_change => true, debounce => '0')",
    );
    wait_until_fresh(&mut app, "v");
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
        let shown = by_change(&mut app, "v");
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
        wait_until_fresh(&mut app, "v");
        app.assert_shows_its_query("v");
    }
}

#[test]
fn what_writers_hold_is_tidied_up_later() {
    let mut db = Scratch::new("tidy_later");
    reacting(&mut db, "v", "debounce => '0'");
    let mut writer = db.connect();
    writer.run("BEGIN; UPDATE v_source SET value = 3 WHERE id = 2");
    db.run("SELECT cache_refresher.unregister('v')");
    let left = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'cache_refresher%'";
    assert_eq!(db.get::<i64>(left), 2, "nobody waits for the writer");
    writer.run("COMMIT");
    db.wait("it is tidied up", &format!("SELECT ({left}) = 0"));
    db.wait(
        "the log is gone, too",
        "SELECT count(*) = 0 FROM pg_class WHERE relname LIKE 'changes\\_%'",
    );
}

#[test]
fn a_dropped_view_leaves_nothing_at_its_sources() {
    let mut db = Scratch::new("dropped_captured");
    reacting(&mut db, "v", "debounce => '0'");
    db.run("DROP MATERIALIZED VIEW v");
    db.wait(
        "its registration waits for a new view, without capture",
        "SELECT count(*) = 0 FROM pg_trigger WHERE tgname LIKE 'cache_refresher%'",
    );
    db.run("CREATE MATERIALIZED VIEW v AS SELECT id, value FROM v_source; CREATE INDEX ON v (id)");
    wait_until_fresh(&mut db, "v");
    db.write("v", 5);
    db.wait_until_shown("v", 5);
}

#[test]
fn broken_capture_fails_no_write_and_claims_nothing() {
    let mut db = Scratch::new("broken_capture");
    reacting(&mut db, "v", "debounce => '1 hour', max_staleness => '1 hour'");
    db.run(
        "DO $$ DECLARE log text := (SELECT oid::regclass FROM pg_class WHERE relname LIKE 'changes\\_%' AND relkind = 'r'); BEGIN
             EXECUTE format('ALTER EXTENSION cache_refresher DROP TABLE %s', log);
             EXECUTE format('DROP TABLE %s', log);
         END $$",
    );
    db.write("v", 9);
    let staleness: String = db.get("SELECT staleness FROM cache_refresher.status");
    assert_eq!(staleness, "unknown");
    assert_eq!(db.refresh("v"), "refreshed");
    assert_eq!(db.shown("v"), 9);
}

#[test]
fn the_index_of_a_log_can_be_rebuilt_and_can_be_missing() {
    let mut db = Scratch::new("log_index");
    reacting(&mut db, "v", "debounce => '1 hour', max_staleness => '1 hour'");
    let log: String = db.get(
        "SELECT oid::regclass::text FROM pg_class WHERE relname LIKE 'changes\\_%' AND relkind = 'r'",
    );
    let index: String = db.get(&format!(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = '{log}'::regclass"
    ));
    db.write("v", 1);
    db.run(&format!("REINDEX TABLE CONCURRENTLY {log}"));
    db.write("v", 2);
    assert_eq!(db.refresh("v"), "refreshed");
    assert_eq!(db.shown("v"), 2);
    db.run(&format!("DROP INDEX {index}"));
    db.write("v", 3);
    assert_eq!(db.refresh("v"), "refreshed");
    assert_eq!(db.shown("v"), 3);
    db.run(&format!("CREATE INDEX ON {log} (xid)"));
    db.write("v", 4);
    assert_eq!(db.refresh("v"), "refreshed");
    assert_eq!(db.shown("v"), 4);
    assert_eq!(db.refresh("v"), "skipped");
}

#[test]
fn a_writer_notices_that_the_index_of_a_log_is_being_rebuilt() {
    let mut db = Scratch::new("log_reindex");
    reacting(&mut db, "v", "debounce => '1 hour', max_staleness => '1 hour'");
    let log: String = db.get(
        "SELECT oid::regclass::text FROM pg_class WHERE relname LIKE 'changes\\_%' AND relkind = 'r'",
    );
    let mut writer = db.connect();
    writer.write("v", 1);
    assert_eq!(db.refresh("v"), "refreshed");
    // What the writer knows about the log is from here.
    writer.run("BEGIN; UPDATE v_source SET value = 5; ROLLBACK");
    // It begins before the new index is there, and writes to the log once that is ready.
    let slow = std::thread::spawn(move || {
        writer.run(
            "UPDATE v_source SET value = 2 WHERE id = 1 AND (SELECT pg_sleep(1.5)) IS NOT NULL",
        );
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    db.run(&format!("REINDEX TABLE CONCURRENTLY {log}"));
    slow.join().unwrap();
    assert_eq!(db.refresh("v"), "refreshed");
    assert_eq!(db.shown("v"), 2);
}

#[test]
fn a_log_that_nobody_reads_does_not_grow_without_end() {
    let mut db = Scratch::new("large_log");
    // Keys of a kilobyte, for a log that is large soon.
    db.run(
        "CREATE TABLE source (id text PRIMARY KEY, value int);
         INSERT INTO source
         SELECT (SELECT string_agg(md5(i || '.' || j), '') FROM generate_series(1, 32) j), 0
           FROM generate_series(1, 25000) i;
         CREATE MATERIALIZED VIEW v AS SELECT id, value FROM source;
         CREATE UNIQUE INDEX ON v (id)",
    );
    db.run(
        "SELECT cache_refresher.register('v', refresh_interval => '1 hour', on_change => true,
                    debounce => '1 hour', max_staleness => '1 day')",
    );
    db.refresh("v");
    let log: String = db.get("SELECT '_cache_refresher.changes_' || 'source'::regclass::oid");
    // The second time no view has any use for what the log says.
    for round in 1..=2 {
        for _ in 0..3 {
            db.run("UPDATE source SET value = value + 1");
        }
        db.wait(
            "the statistics know",
            &format!("SELECT pg_stat_get_live_tuples('{log}'::regclass) >= 75000"),
        );
        // A new one looks at the logs when it hears of the first change, and then once a minute.
        db.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE backend_type = 'cache_refresher scheduler' AND datname = current_database()",
        );
        db.wait_for(
            &format!("the log is emptied, round {round}"),
            seconds(30),
            &format!(
                "WITH change AS (UPDATE source SET value = value + 1 WHERE id = (SELECT min(id) FROM source) RETURNING 1)
                 SELECT (SELECT count(*) FROM {log}) < 1000 FROM change"
            ),
        );
    }
    assert_eq!(db.get::<String>("SELECT staleness FROM cache_refresher.status"), "stale");
    assert_eq!(
        db.get::<String>("SELECT method || ': ' || reason FROM cache_refresher.refresh('v')"),
        "diff: writes only what differs; not delta: it was invalidated, its capture has begun anew, or more has changed than is kept"
    );
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM (SELECT * FROM source EXCEPT SELECT * FROM v) d"),
        0
    );
}

#[test]
fn a_locked_source_holds_up_no_other_view() {
    let mut db = Scratch::new("locked_source");
    reacting(&mut db, "v", "debounce => '0'");
    reacting(&mut db, "w", "debounce => '0'");
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
    reacting(&mut db, "v", "debounce => '0'");
    db.run(
        "CREATE MATERIALIZED VIEW w AS SELECT id, value * 2 AS value FROM v;
         CREATE UNIQUE INDEX ON w (id);
         SELECT cache_refresher.register('w', refresh_interval => '1 hour', method => 'delta',
                                         on_change => true, debounce => '0')",
    );
    db.refresh("w");
    wait_until_fresh(&mut db, "w");
    db.write("v", 4);
    db.wait_until_shown("w", 8);
    wait_until_fresh(&mut db, "w");
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
         SELECT cache_refresher.register('x', refresh_interval => '1 hour', on_change => true,
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

#[test]
fn a_dump_brings_capture_back() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    reacting(&mut app, "v", "debounce => '0'");
    let folder = server.new_folder("dump");
    let file = folder.join("app.sql");
    let dumped = server.client("pg_dump").arg("app").arg("-f").arg(&file).status().unwrap();
    assert!(dumped.success());
    server.create_plain_database("copy");
    // As the documentation says: a worker could make the triggers before the dump does.
    server.set("cache_refresher.enabled", "off");
    server.reload();
    let restored = server
        .client("psql")
        .args(["-qX", "-v", "ON_ERROR_STOP=1", "-d", "copy", "-f"])
        .arg(&file)
        .status()
        .unwrap();
    assert!(restored.success());
    server.set("cache_refresher.enabled", "on");
    server.reload();
    let mut copy = server.connect("copy");
    wait_until_fresh(&mut copy, "v");
    copy.write("v", 4);
    copy.wait_until_shown("v", 4);
    copy.run("DROP EXTENSION cache_refresher");
    copy.write("v", 5);
}

#[test]
fn a_view_that_was_not_captured_for_a_while_rests_on_nothing() {
    let mut db = Scratch::new("capture_gap");
    let slow = "debounce => '1 hour', max_staleness => '1 hour'";
    reacting(&mut db, "v", slow);
    db.run(&format!(
        "CREATE MATERIALIZED VIEW w AS SELECT id, value FROM v_source;
         CREATE UNIQUE INDEX ON w (id);
         SELECT cache_refresher.register('w', refresh_interval => '1 hour', on_change => true, {slow})"
    ));
    db.refresh("w");
    wait_until_fresh(&mut db, "w");
    db.run("SELECT cache_refresher.alter('w', reset => '{on_change}')");
    db.write("v", 1);
    db.refresh("v");
    db.run(&format!("SELECT cache_refresher.alter('w', on_change => true, {slow})"));
    let staleness: String =
        db.get("SELECT staleness FROM cache_refresher.status WHERE view_name = 'w'");
    assert_eq!(staleness, "unknown");
    assert_eq!(db.refresh("w"), "refreshed");
    assert_eq!(db.shown("w"), 1);
}

#[test]
fn a_refresh_under_way_keeps_what_it_has_not_seen() {
    let mut db = Scratch::new("refresh_under_way");
    let slow = "debounce => '1 hour', max_staleness => '1 hour'";
    reacting(&mut db, "v", slow);
    db.run(&format!(
        "CREATE FUNCTION slowly(value int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.1); RETURN value; END $$;
         CREATE MATERIALIZED VIEW w AS SELECT id, slowly(value) AS value FROM v_source;
         CREATE UNIQUE INDEX ON w (id);
         SELECT cache_refresher.register('w', refresh_interval => '1 hour', on_change => true, {slow})"
    ));
    // Its first refresh, without a proof to begin with, has its snapshot and takes a second.
    let first = db.server().background(db.name(), "SELECT cache_refresher.refresh('w')");
    db.wait(
        "it is under way",
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()",
    );
    db.write("v", 1);
    db.refresh("v");
    first.join().unwrap().unwrap();
    let fresh: bool =
        db.get("SELECT staleness = 'fresh' FROM cache_refresher.status WHERE view_name = 'w'");
    assert!(!fresh, "it began before the change");
    assert_eq!(db.refresh("w"), "refreshed");
    assert_eq!(db.shown("w"), 1);
}

#[test]
fn values_of_domains_are_kept_without_their_constraints() {
    let mut db = Scratch::new("domain_unit");
    db.run(
        "CREATE FUNCTION never(value int) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN IF current_setting('is_superuser') = 'on' AND value IS NULL THEN RAISE 'as superuser'; END IF; RETURN true; END $$;
         CREATE DOMAIN number AS int NOT NULL CHECK (never(VALUE));
         CREATE TABLE t (id number, value int);
         INSERT INTO t VALUES (1, 1), (2, 2);
         CREATE MATERIALIZED VIEW v AS SELECT t.id, t.value, o.value AS other FROM t JOIN t o ON o.id = t.id;
         CREATE INDEX ON v (value);
         SELECT cache_refresher.register('v', refresh_interval => '1 hour', on_change => true, debounce => '0')",
    );
    wait_until_fresh(&mut db, "v");
    db.run("INSERT INTO t VALUES (3, 3); UPDATE t SET value = 20 WHERE id = 2");
    db.wait("it is shown", "SELECT count(*) = 2 FROM v WHERE value IN (3, 20)");
    db.assert_shows_its_query("v");
}

#[test]
fn values_of_any_length_are_kept() {
    let mut db = Scratch::new("long_units");
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, c char(9000), b bit(100000)); CREATE TABLE u (id int, c char(9000), b bit(100000));
         CREATE MATERIALIZED VIEW v AS SELECT u.id, t.id AS other FROM u JOIN t ON t.c = u.c AND t.b = u.b;
         CREATE INDEX ON v (id);
         SELECT cache_refresher.register('v', refresh_interval => '1 hour', on_change => true,
                                         debounce => '1 hour', max_staleness => '1 hour')",
    );
    db.refresh("v");
    let random = "SELECT 1, string_agg(md5(i::text), ''), (repeat('10', 50000))::bit(100000) FROM generate_series(1, 280) i";
    db.run(&format!("INSERT INTO t {random}"));
    db.run(&format!("INSERT INTO u {random}"));
    let how: String = db.get(
        "SELECT method || ', ' || reason FROM cache_refresher.refresh('v', method => 'delta')",
    );
    assert!(how.starts_with("delta"), "{how}");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM v"), 1);
    db.assert_shows_its_query("v");
}

#[test]
fn a_type_goes_though_a_log_keeps_values_of_it() {
    let mut db = Scratch::new("dropped_type");
    db.run(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE t (id int PRIMARY KEY, m mood, o mood);
         INSERT INTO t VALUES (1, 'sad', 'ok'), (2, 'ok', 'ok');
         CREATE MATERIALIZED VIEW v AS SELECT m, count(*) AS n FROM t GROUP BY m; CREATE INDEX ON v (m);
         CREATE MATERIALIZED VIEW w AS SELECT o, count(*) AS n FROM t GROUP BY o; CREATE INDEX ON w (o);
         SELECT cache_refresher.register(view, refresh_interval => '1 hour', on_change => true,
                                         debounce => '1 hour', max_staleness => '1 hour')
           FROM unnest('{v,w}'::regclass[]) view",
    );
    db.refresh("v");
    db.run(
        "BEGIN; DROP MATERIALIZED VIEW v, w;
         ALTER TYPE mood RENAME TO old_mood; CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
         ALTER TABLE t ALTER m TYPE mood USING m::text::mood, ALTER o TYPE mood USING o::text::mood;
         DROP TYPE old_mood;
         UPDATE t SET m = 'happy' WHERE id = 2;
         CREATE MATERIALIZED VIEW v AS SELECT m, count(*) AS n FROM t GROUP BY m; CREATE INDEX ON v (m); COMMIT;
         SELECT cache_refresher.alter('v', on_change => true)",
    );
    db.refresh("v");
    db.run("UPDATE t SET m = 'ok' WHERE id = 1");
    let how: String = db.get("SELECT method FROM cache_refresher.refresh('v', method => 'delta')");
    assert_eq!(how, "delta");
    db.assert_shows_its_query("v");
}

#[test]
fn types_can_be_changed_though_they_were_joined_by() {
    let mut db = Scratch::new("changed_types");
    db.run(
        "CREATE DOMAIN pos AS int; CREATE TYPE cc AS (a int, b pos); CREATE TABLE row_t (x int, y int);
         CREATE TABLE t (id int PRIMARY KEY, c cc, r row_t, ar cc[], d pos[], keep int);
         CREATE TABLE u (id int PRIMARY KEY, c cc, r row_t, ar cc[], d pos[]);
         INSERT INTO t (id, c) VALUES (1, ROW(1, 2)); INSERT INTO u (id, c) VALUES (7, ROW(1, 2));
         CREATE MATERIALIZED VIEW v AS SELECT t.id, u.id AS other FROM t LEFT JOIN u ON u.c = t.c AND u.r IS NOT DISTINCT FROM t.r;
         CREATE INDEX ON v (id);
         CREATE MATERIALIZED VIEW w AS SELECT id, keep FROM t; CREATE INDEX ON w (id);
         SELECT cache_refresher.register(view, refresh_interval => '1 hour', on_change => true,
                                         debounce => '1 hour', max_staleness => '1 hour')
           FROM unnest('{v,w}'::regclass[]) view",
    );
    db.refresh("v");
    db.run("UPDATE u SET c = ROW(1, 3)");
    db.refresh("v");
    db.assert_shows_its_query("v");
    db.run(
        "DROP MATERIALIZED VIEW v;
         ALTER TABLE t DROP c, DROP r, DROP ar, DROP d; ALTER TABLE u DROP c, DROP r, DROP ar, DROP d;
         ALTER TYPE cc ALTER ATTRIBUTE a TYPE bigint;
         ALTER DOMAIN pos ADD CHECK (value > 0);
         ALTER TABLE row_t ALTER x TYPE bigint",
    );
}
