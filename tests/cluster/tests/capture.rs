//! Triggers and logs of captured tables: what they keep, whom they never fail, and how they go.

use cluster_tests::{Scratch, Server, seconds};

#[test]
fn a_writer_of_many_subtransactions_needs_no_memory_for_each() {
    let mut db = Scratch::new("subtransaction_memory");
    db.create_reacting_view("v", "debounce => '1 hour', max_staleness => '1 day'");
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
fn a_new_partition_is_captured_too() {
    let mut db = Scratch::new("new_partition");
    db.run(
        "CREATE TABLE t (id int, value int) PARTITION BY RANGE (id);
         CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);
         CREATE MATERIALIZED VIEW v AS SELECT id, value FROM t;
         CREATE INDEX ON v (id);
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')",
    );
    db.wait_until_fresh("v");
    db.run(
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20); INSERT INTO t VALUES (11, 1)",
    );
    db.wait("it is shown", "SELECT count(*) = 1 FROM v");
    db.wait_until_fresh("v");
    db.run("INSERT INTO t VALUES (12, 1)");
    db.wait("its changes are captured", "SELECT count(*) = 2 FROM v");
    db.run("DROP TABLE t2");
    db.wait("it goes", "SELECT count(*) = 0 FROM v");
    db.wait_until_fresh("v");
}

#[test]
fn a_row_too_wide_for_the_log_is_no_reason_to_refuse_it() {
    let mut db = Scratch::new("wide");
    let list = |of: &dyn Fn(u32) -> String| (0..127).map(of).collect::<Vec<_>>().join(", ");
    db.run(&format!(
        "CREATE TABLE t ({}); CREATE MATERIALIZED VIEW v AS SELECT least({}) AS k, count(*) AS c FROM t GROUP BY 1;
         CREATE INDEX ON v (k);
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')",
        list(&|i| format!("n{i} name")),
        list(&|i| format!("n{i}")),
    ));
    db.wait_until_fresh("v");
    let values = list(&|i| format!("'x{i}'"));
    db.run(&format!("INSERT INTO t VALUES ({values})"));
    db.wait("it is shown", "SELECT count(*) = 1 FROM v");
    db.run(&format!("INSERT INTO t VALUES ({values}), ({values})"));
    db.wait("they are shown", "SELECT c = 3 FROM v");
    db.wait_until_fresh("v");

    // Some of it can go out of line, and the rest is too long as well.
    db.run(&format!(
        "CREATE TABLE t2 ({}, {}, note text);
         CREATE MATERIALIZED VIEW v2 AS SELECT least({}) || note || ({})::text AS k, count(*) AS c FROM t2 GROUP BY 1; CREATE INDEX ON v2 (k);
         SELECT cache_refresher.register('v2', refresh_interval => '1 year', on_change => true, debounce => '0')",
        (0..126).map(|i| format!("n{i} name")).collect::<Vec<_>>().join(", "),
        (0..14).map(|i| format!("i{i} int")).collect::<Vec<_>>().join(", "),
        (0..126).map(|i| format!("n{i}")).collect::<Vec<_>>().join(", "),
        (0..14).map(|i| format!("i{i}")).collect::<Vec<_>>().join(" + "),
    ));
    db.wait_until_fresh("v2");
    let names = (0..126).map(|i| format!("'x{i}'")).collect::<Vec<_>>().join(", ");
    db.run(&format!("INSERT INTO t2 VALUES ({names}, {}, 'note')", ["1"; 14].join(", ")));
    db.wait("it is shown", "SELECT count(*) = 1 FROM v2");
}

#[test]
fn the_extension_is_dropped_beside_writers() {
    let server = Server::builder().start();
    server.connect("postgres").run("CREATE ROLE installer SUPERUSER");
    for (database, drop) in [
        ("by_name", "DROP EXTENSION cache_refresher"),
        ("with_its_schema", "DROP SCHEMA nothing, tools CASCADE"),
        ("with_its_owner", "DROP OWNED BY installer"),
    ] {
        let mut db = server.create_database(database);
        db.run("DROP EXTENSION cache_refresher; CREATE SCHEMA nothing; CREATE SCHEMA tools");
        db.run("SET ROLE installer");
        db.run("CREATE EXTENSION cache_refresher SCHEMA tools");
        db.run("RESET ROLE");
        db.run(
            "CREATE TABLE t (id int PRIMARY KEY, value int); INSERT INTO t VALUES (1, 1);
             CREATE MATERIALIZED VIEW v AS SELECT id, value FROM t; CREATE UNIQUE INDEX ON v (id);
             SELECT cache_refresher.register('v', on_change => true)",
        );
        let mut writer = server.connect(database);
        writer.run("BEGIN");
        writer.run("UPDATE t SET value = 0 WHERE id = -1");
        let dropping = server.background(database, drop);
        db.wait(
            "it waits",
            "SELECT count(*) = 1 FROM pg_stat_activity
              WHERE datname = current_database() AND query LIKE 'DROP%' AND wait_event_type = 'Lock'",
        );
        writer.run("UPDATE t SET value = 2 WHERE id = 1");
        writer.run("COMMIT");
        dropping.join().unwrap().unwrap();
        assert_eq!(
            db.get::<i64>("SELECT count(*) FROM pg_trigger WHERE tgrelid = 't'::regclass"),
            0,
            "{drop}"
        );
    }
}

#[test]
fn what_writers_hold_is_tidied_up_later() {
    let mut db = Scratch::new("tidy_later");
    db.create_reacting_view("v", "debounce => '0'");
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
    db.create_reacting_view("v", "debounce => '0'");
    db.run("DROP MATERIALIZED VIEW v");
    db.wait(
        "its registration waits for a new view, without capture",
        "SELECT count(*) = 0 FROM pg_trigger WHERE tgname LIKE 'cache_refresher%'",
    );
    db.run("CREATE MATERIALIZED VIEW v AS SELECT id, value FROM v_source; CREATE INDEX ON v (id)");
    db.wait_until_fresh("v");
    db.write("v", 5);
    db.wait_until_shown("v", 5);
}

#[test]
fn broken_capture_fails_no_write_and_claims_nothing() {
    let mut db = Scratch::new("broken_capture");
    db.create_reacting_view("v", "debounce => '1 hour', max_staleness => '1 hour'");
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
    db.create_reacting_view("v", "debounce => '1 hour', max_staleness => '1 hour'");
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
    db.create_reacting_view("v", "debounce => '1 hour', max_staleness => '1 hour'");
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
        "SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true,
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
fn a_dump_brings_capture_back() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    app.create_reacting_view("v", "debounce => '0'");
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
    copy.wait_until_fresh("v");
    copy.write("v", 4);
    copy.wait_until_shown("v", 4);
    copy.run("DROP EXTENSION cache_refresher");
    copy.write("v", 5);
}

#[test]
fn a_view_that_was_not_captured_for_a_while_rests_on_nothing() {
    let mut db = Scratch::new("capture_gap");
    let slow = "debounce => '1 hour', max_staleness => '1 hour'";
    db.create_reacting_view("v", slow);
    db.run(&format!(
        "CREATE MATERIALIZED VIEW w AS SELECT id, value FROM v_source;
         CREATE UNIQUE INDEX ON w (id);
         SELECT cache_refresher.register('w', refresh_interval => '1 year', on_change => true, {slow})"
    ));
    db.refresh("w");
    db.wait_until_fresh("w");
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
    db.create_reacting_view("v", slow);
    db.run(&format!(
        "CREATE FUNCTION slowly(value int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.1); RETURN value; END $$;
         CREATE MATERIALIZED VIEW w AS SELECT id, slowly(value) AS value FROM v_source;
         CREATE UNIQUE INDEX ON w (id);
         SELECT cache_refresher.register('w', refresh_interval => '1 year', on_change => true, {slow})"
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
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')",
    );
    db.wait_until_fresh("v");
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
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true,
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
         SELECT cache_refresher.register(view, refresh_interval => '1 year', on_change => true,
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
         SELECT cache_refresher.register(view, refresh_interval => '1 year', on_change => true,
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

#[test]
fn a_log_that_is_copied_by_its_index_is_not_taken_for_complete() {
    let mut db = Scratch::new("clustered_log");
    db.create_reacting_view("v", "debounce => '1 day', max_staleness => '2 days'");
    db.run("INSERT INTO v_source SELECT i, i FROM generate_series(11, 1000) i");
    let log: String = db.get("SELECT 'changes_' || 'v_source'::regclass::oid");
    db.run(&format!("CLUSTER _cache_refresher.{log} USING {log}_xid_idx"));
    assert_ne!(
        db.get::<String>("SELECT staleness FROM cache_refresher.status WHERE view_name = 'v'"),
        "fresh"
    );
    db.refresh("v");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM v"), 1000);
}

#[test]
fn a_table_whose_name_passes_to_another_meanwhile_is_the_one_that_is_captured() {
    let mut db = Scratch::new("passed_name");
    db.run(
        "CREATE SCHEMA one; CREATE TABLE one.t (n int);
         CREATE SCHEMA two; CREATE TABLE two.t (n int);
         CREATE MATERIALIZED VIEW v AS SELECT n FROM one.t",
    );
    let mut swap = db.connect();
    swap.run("BEGIN; INSERT INTO one.t VALUES (1)");
    let register = "SELECT cache_refresher.register('v', on_change => true)";
    let registering = db.server().background(db.name(), register);
    db.wait(
        "registering waits for the writer",
        "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'one.t'::regclass AND NOT granted",
    );
    swap.run(
        "ALTER SCHEMA two RENAME TO three; ALTER SCHEMA one RENAME TO two;
         ALTER SCHEMA three RENAME TO one; COMMIT",
    );
    registering.join().unwrap().unwrap();
    let captured: Vec<String> = db.get(
        "SELECT array_agg(DISTINCT tgrelid::regclass::text) FROM pg_trigger
          WHERE tgname IN ('cache_refresher_capture', 'cache_refresher_truncate')",
    );
    assert_eq!(captured, ["two.t"]);
    db.run("INSERT INTO two.t VALUES (2)");
    db.wait("the view follows", "SELECT count(*) = 2 FROM v");
}

#[test]
fn event_triggers_of_users_do_not_meet_our_logs() {
    let mut db = Scratch::new("event_triggers");
    db.create_view("v", 10);
    // As somebody writes it who thinks of the search_path of those that define things, and who wants to know first.
    db.run(
        "CREATE TABLE heard (tag text);
         CREATE FUNCTION hear() RETURNS event_trigger LANGUAGE plpgsql
         AS $$ BEGIN INSERT INTO heard VALUES (tg_tag); END $$;
         CREATE FUNCTION deny() RETURNS event_trigger LANGUAGE plpgsql
         AS $$ BEGIN RAISE EXCEPTION '% only while nobody works', tg_tag; END $$;
         CREATE EVENT TRIGGER hears ON ddl_command_end EXECUTE FUNCTION hear();
         CREATE EVENT TRIGGER hears_of_what_goes ON sql_drop EXECUTE FUNCTION hear();
         CREATE EVENT TRIGGER denies ON ddl_command_start EXECUTE FUNCTION deny()",
    );
    db.run(
        "SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')",
    );
    db.wait_until_fresh("v");
    db.run("UPDATE v_source SET value = 2");
    db.wait_until_shown("v", 2);
    db.run("SELECT cache_refresher.unregister('v')");
    db.wait(
        "nothing is left of its capture",
        "SELECT count(*) = 0 FROM pg_class WHERE relname LIKE 'changes\\_%'",
    );
    assert_eq!(db.get::<i64>("SELECT count(*) FROM heard"), 0);
}
