//! What a session remembers of the catalogs: not for longer than it is so.

use cluster_tests::{Scratch, Server, Session};

/// What a view reads, its query, and what somebody else does that a session must notice which has it all in its
/// memory. `@` stands for the OID of `s`.
const CHANGES: [(&str, &str, &str); 30] = [
    ("", "SELECT id, x FROM s", "ALTER TABLE s ADD COLUMN y int"),
    ("", "SELECT id, x FROM s", "ALTER TABLE s RENAME COLUMN x TO y"),
    ("", "SELECT id, x FROM s", "ALTER TABLE s DISABLE TRIGGER cache_refresher_capture"),
    ("", "SELECT id, x FROM s", "DROP TRIGGER cache_refresher_capture ON s"),
    ("", "SELECT id, x FROM s", "DROP TRIGGER cache_refresher_truncate ON s"),
    (
        "CREATE VIEW b AS SELECT id, x FROM s; ALTER VIEW b OWNER TO other_owner",
        "SELECT id, x FROM b",
        "ALTER TABLE s ENABLE ROW LEVEL SECURITY",
    ),
    (
        "ALTER TABLE s ENABLE ROW LEVEL SECURITY; ALTER ROLE other_owner BYPASSRLS;
         CREATE VIEW b AS SELECT id, x FROM s; ALTER VIEW b OWNER TO other_owner",
        "SELECT id, x FROM b",
        "ALTER ROLE other_owner NOBYPASSRLS",
    ),
    ("", "SELECT id, x FROM s", "ALTER TABLE s SET UNLOGGED"),
    ("", "SELECT id, x FROM s", "VACUUM FULL s"),
    ("", "SELECT id, x FROM s", "ALTER MATERIALIZED VIEW v OWNER TO other_owner"),
    ("", "SELECT id, x FROM s", "CREATE INDEX ON v (x)"),
    ("", "SELECT id, x FROM s", "CREATE INDEX CONCURRENTLY ON v (x)"),
    ("", "SELECT id, x FROM s", "REFRESH MATERIALIZED VIEW v"),
    ("", "SELECT id, x FROM s", "REFRESH MATERIALIZED VIEW CONCURRENTLY v"),
    (
        "",
        "SELECT id, x FROM s",
        "ALTER EXTENSION cache_refresher DROP TABLE _cache_refresher.changes_@; DROP TABLE _cache_refresher.changes_@",
    ),
    ("", "SELECT id, x FROM s", "DELETE FROM _cache_refresher.capture WHERE source = @"),
    ("", "SELECT id, x FROM s", "CREATE TABLE child () INHERITS (s)"),
    ("CREATE TABLE child () INHERITS (s)", "SELECT id, x FROM s", "ALTER TABLE child NO INHERIT s"),
    ("CREATE TABLE child () INHERITS (s)", "SELECT id, x FROM s", "DROP TABLE child"),
    ("CREATE TABLE child (LIKE s)", "SELECT id, x FROM s", "ALTER TABLE child INHERIT s"),
    (
        "CREATE TABLE empty (); CREATE TABLE child () INHERITS (empty); INSERT INTO child DEFAULT VALUES",
        "SELECT 1 AS id, count(*) AS x FROM empty",
        "ALTER TABLE child NO INHERIT empty",
    ),
    (
        "CREATE TABLE p (id int, x text) PARTITION BY RANGE (id)",
        "SELECT id, x FROM p",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
    ),
    (
        "CREATE TABLE p (id int, x text) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p DEFAULT",
        "SELECT id, x FROM p",
        "ALTER TABLE p DETACH PARTITION p1",
    ),
    (
        "CREATE TABLE p (id int, x text) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
        "SELECT id, x FROM p",
        "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY",
    ),
    (
        "CREATE VIEW beneath AS SELECT id, x FROM s",
        "SELECT id, x FROM beneath",
        "CREATE OR REPLACE VIEW beneath AS SELECT id, x || '!' AS x FROM s",
    ),
    (
        "CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1'",
        "SELECT id, f(x) AS x FROM s",
        "CREATE OR REPLACE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1 || 1'",
    ),
    (
        "CREATE FUNCTION public.g(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
         CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.g($1); END'",
        "SELECT id, f(x) AS x FROM s",
        "CREATE OR REPLACE FUNCTION public.g(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1 || 1'",
    ),
    (
        "CREATE TEXT SEARCH CONFIGURATION words (COPY = simple)",
        "SELECT id, to_tsvector('words', x) AS x FROM s",
        "ALTER TEXT SEARCH CONFIGURATION words DROP MAPPING FOR asciiword",
    ),
    (
        "CREATE TEXT SEARCH DICTIONARY lexemes (TEMPLATE = simple); CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
         ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR asciiword WITH lexemes",
        "SELECT id, to_tsvector('words', x) AS x FROM s",
        "ALTER TEXT SEARCH DICTIONARY lexemes (StopWords = 'english')",
    ),
    (
        "CREATE MATERIALIZED VIEW m AS SELECT id, x FROM s; CREATE UNIQUE INDEX ON m (id)",
        "SELECT id, x FROM m",
        "ALTER EVENT TRIGGER cache_refresher_content_replaced DISABLE",
    ),
];

fn create(db: &mut Session, view: &str, query: &str) {
    db.run(&format!(
        "CREATE MATERIALIZED VIEW {view} AS {query}; CREATE UNIQUE INDEX ON {view} (id)"
    ));
    register(db, view);
}

/// With capture, but nobody refreshes it by himself.
fn register(db: &mut Session, view: &str) {
    db.run(&format!(
        "SELECT cache_refresher.register('{view}', refresh_interval => '1 day', on_change => true,
                                         debounce => '1 day', max_staleness => '1 day')"
    ));
}

fn method(db: &mut Session, view: &str) -> String {
    db.get(&format!("SELECT method FROM cache_refresher.refresh('{view}')"))
}

/// Has this session refresh a view until it is proved to be fresh, and remember by what.
fn prove(db: &mut Session, view: &str) {
    db.refresh(view);
    // Not at once if roles are made meanwhile, as other tests do.
    let proved = (0..20).any(|_| method(db, view) == "skip");
    assert!(proved, "{view} is refreshed each time");
}

#[test]
fn what_others_change_is_noticed() {
    let mut db = Scratch::new("noticed");
    let mut other = db.connect();
    db.run("CREATE ROLE other_owner");
    for (number, (beneath, query, change)) in CHANGES.into_iter().enumerate() {
        let schema = format!("c{number}");
        other.run(&format!(
            "CREATE SCHEMA {schema}; GRANT ALL ON SCHEMA {schema} TO other_owner; SET search_path = {schema}, public;
             CREATE TABLE s (id int PRIMARY KEY, x text); INSERT INTO s VALUES (1, 'one'), (2, 'the');
             GRANT SELECT ON s TO other_owner; {beneath}"
        ));
        create(&mut other, "v", query);
        db.run(&format!("SET search_path = {schema}, public"));
        db.refresh("v");
        for _ in 0..2 {
            assert_eq!(method(&mut db, "v"), "skip", "before: {change}");
        }
        let source: u32 = other.get("SELECT 's'::regclass::oid");
        // One by one: some want no transaction around them.
        for statement in change.replace('@', &source.to_string()).split("; ") {
            other.run(statement);
        }
        assert_ne!(method(&mut db, "v"), "skip", "after: {change}");
        if change.contains("EVENT TRIGGER") {
            other.run("ALTER EVENT TRIGGER cache_refresher_content_replaced ENABLE ALWAYS");
        }
    }
}

#[test]
fn what_concerns_others_makes_nobody_look_again() {
    let mut db = Scratch::new("unconcerned");
    let mut other = db.connect();
    db.run(
        "CREATE TABLE s (id int PRIMARY KEY, x text); CREATE TABLE t (id int PRIMARY KEY, x text)",
    );
    create(&mut db, "v", "SELECT id, x FROM s");
    create(&mut db, "w", "SELECT id, x FROM t");
    for _ in 0..3 {
        db.refresh("v");
    }
    for (change, method_then, looks_again) in [
        (
            "CREATE TABLE u (); ALTER TABLE t ADD COLUMN y int; REFRESH MATERIALIZED VIEW w",
            "skip",
            false,
        ),
        ("ALTER TABLE s ADD COLUMN y int", "diff", true),
    ] {
        other.run(change);
        // Where a view is looked at anew, so is what inherits from its sources.
        let looks = "SELECT coalesce(seq_scan + idx_scan, 0) FROM pg_stat_xact_sys_tables WHERE relname = 'pg_inherits'";
        db.run("BEGIN");
        let before: i64 = db.get(looks);
        assert_eq!(method(&mut db, "v"), method_then, "after: {change}");
        assert_eq!(db.get::<i64>(looks) > before, looks_again, "after: {change}");
        db.run("COMMIT");
    }
}

#[test]
fn sessions_agree_on_what_a_view_rests_on() {
    let mut db = Scratch::new("agreed");
    let mut other = db.connect();
    db.run(
        "CREATE TABLE parent (id int PRIMARY KEY, x text); CREATE TABLE s () INHERITS (parent);
         CREATE TABLE empty (); INSERT INTO s VALUES (1, 'one')",
    );
    create(&mut db, "v", "SELECT id, x FROM s");
    for change in [
        // It gives the view a log of its own.
        "CREATE MATERIALIZED VIEW w AS SELECT id, x FROM v; CREATE UNIQUE INDEX ON w (id);
         SELECT cache_refresher.register('w', refresh_interval => '1 day', on_change => true)",
        "DROP MATERIALIZED VIEW w",
        "ALTER TABLE s INHERIT empty",
        "ALTER TABLE s NO INHERIT empty",
        "VACUUM FULL pg_trigger",
        "VACUUM FULL pg_event_trigger",
    ] {
        prove(&mut db, "v");
        other.run(change);
        // Whoever looks for the first time, and whoever remembers.
        db.connect().refresh("v");
        assert_eq!(method(&mut db, "v"), "skip", "after: {change}");
    }
}

#[test]
fn what_was_rolled_back_is_not_remembered() {
    let mut db = Scratch::new("rolled_back");
    db.run("CREATE TABLE s (id int PRIMARY KEY, x text)");
    create(&mut db, "v", "SELECT id, x FROM s");
    for (begin, end) in [("BEGIN", "ROLLBACK"), ("BEGIN; SAVEPOINT p", "ROLLBACK TO p; COMMIT")] {
        prove(&mut db, "v");
        db.run(begin);
        db.run("ALTER TABLE s DISABLE TRIGGER cache_refresher_capture");
        assert_eq!(method(&mut db, "v"), "diff");
        db.run(end);
        assert_eq!(method(&mut db, "v"), "skip");
        db.run("ALTER TABLE s DISABLE TRIGGER cache_refresher_capture");
        assert_eq!(method(&mut db, "v"), "diff");
        db.run("ALTER TABLE s ENABLE ALWAYS TRIGGER cache_refresher_capture");
    }
}

/// A view that waits for a lock when it is refreshed, beside which others are refreshed together.
fn create_slow(db: &mut Session) {
    db.run(
        "CREATE FUNCTION slowly(int) RETURNS int STABLE LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN $1; END $$;
         CREATE MATERIALIZED VIEW slow AS SELECT slowly(1) AS id; CREATE UNIQUE INDEX ON slow (id);
         SELECT cache_refresher.register('slow', refresh_interval => '1 day')",
    );
}

fn wait_for_lock(db: &mut Session, number: u32) {
    db.wait(
        "somebody waits for that lock",
        &format!("SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = {number} AND NOT granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"),
    );
}

/// Runs `meanwhile` between the moment in which a refresh of `v` looks at what there is, and its work.
fn refresh_while(db: &mut Scratch, meanwhile: impl FnOnce(&mut Scratch)) {
    db.run("SELECT pg_advisory_lock(1)");
    let mut together = db.connect();
    let running = std::thread::spawn(move || {
        together.run("SELECT cache_refresher.refresh_together(ARRAY['slow', 'v']::regclass[])");
    });
    wait_for_lock(db, 1);
    meanwhile(db);
    db.run("SELECT pg_advisory_unlock(1)");
    running.join().unwrap();
}

#[test]
fn what_no_trigger_saw_is_shown_though_it_came_between_snapshot_and_look() {
    let mut db = Scratch::new("between");
    create_slow(&mut db);
    db.run("CREATE TABLE s (id int PRIMARY KEY, x text); INSERT INTO s VALUES (1, 'old')");
    create(&mut db, "v", "SELECT id, x FROM s");
    prove(&mut db, "v");
    refresh_while(&mut db, |db| {
        db.run(
            "BEGIN; ALTER TABLE s DISABLE TRIGGER cache_refresher_capture; UPDATE s SET x = 'new';
             ALTER TABLE s ENABLE ALWAYS TRIGGER cache_refresher_capture; COMMIT",
        );
    });
    db.refresh("v");
    assert_eq!(db.get::<String>("SELECT x FROM v"), "new");
}

#[test]
fn a_partition_that_came_and_went_during_a_refresh_is_not_shown() {
    for (name, go) in [
        ("came_and_went", "ALTER TABLE p DETACH PARTITION p2"),
        ("came_and_went_concurrently", "ALTER TABLE p DETACH PARTITION p2 CONCURRENTLY"),
    ] {
        let mut db = Scratch::new(name);
        create_slow(&mut db);
        db.run(
            "CREATE TABLE p (id int, k int) PARTITION BY LIST (k);
             CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); INSERT INTO p VALUES (1, 1);
             CREATE TABLE p2 (id int, k int); INSERT INTO p2 VALUES (2, 2)",
        );
        create(&mut db, "v", "SELECT id FROM p");
        prove(&mut db, "v");
        // What makes the refresh look at rows.
        db.run("INSERT INTO p VALUES (3, 1)");
        let mut leaving = db.connect();
        let mut gone = None;
        refresh_while(&mut db, |db| {
            db.run("ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2)");
            gone = Some(std::thread::spawn(move || leaving.run(go)));
        });
        gone.unwrap().join().unwrap();
        db.refresh("v");
        assert_eq!(db.get::<String>("SELECT string_agg(id::text, ',' ORDER BY id) FROM v"), "1,3");
    }
}

/// A view whose rows are computed by the function that is found by a name, between two locks.
fn create_finder(db: &mut Session) {
    db.run(
        "CREATE TABLE s (id int PRIMARY KEY, x varchar); INSERT INTO s VALUES (1, 'one');
         CREATE FUNCTION found(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
         CREATE FUNCTION finder(varchar) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
             DECLARE found text;
             BEGIN
                 PERFORM pg_advisory_xact_lock_shared(2);
                 -- To lock a relation has a process hear of what has changed.
                 PERFORM FROM pg_language;
                 found := public.found($1);
                 PERFORM pg_advisory_xact_lock_shared(3);
                 RETURN found;
             END $$",
    );
    create(db, "v", "SELECT id, finder(x) AS x FROM s");
    prove(db, "v");
}

/// Runs one of these before a function is found by its name, and the other thereafter.
fn before_and_after(db: &mut Session, before: &str, after: &str) {
    for (lock, sql) in [(2, before), (3, after)] {
        wait_for_lock(db, lock);
        db.run(sql);
        db.run(&format!("SELECT pg_advisory_unlock({lock})"));
    }
}

#[test]
fn a_function_that_came_and_went_during_a_refresh_counts_no_more() {
    let mut db = Scratch::new("function_came_and_went");
    create_finder(&mut db);
    db.run("UPDATE s SET x = 'two'; SELECT pg_advisory_lock(2), pg_advisory_lock(3)");
    let mut refreshing = db.connect();
    let refreshing = std::thread::spawn(move || refreshing.refresh("v"));
    before_and_after(
        &mut db,
        "CREATE FUNCTION found(varchar) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'other'$$",
        "DROP FUNCTION found(varchar)",
    );
    refreshing.join().unwrap();
    assert_eq!(db.get::<String>("SELECT x FROM v"), "other");
    db.refresh("v");
    assert_eq!(db.get::<String>("SELECT x FROM v"), "two");
}

#[test]
fn what_has_changed_during_a_refresh_by_a_worker_has_the_view_refreshed_once_more() {
    let mut db = Scratch::new("once_more");
    create_finder(&mut db);
    db.run("SELECT cache_refresher.alter('v', debounce => '0', max_staleness => '1 s')");
    let fresh = "SELECT staleness = 'fresh' FROM cache_refresher.status WHERE view_name = 'v'";
    db.wait("v is fresh", fresh);
    db.run("SELECT pg_advisory_lock(2), pg_advisory_lock(3)");
    db.run("UPDATE s SET x = 'two'");
    // Of that no scheduler is told.
    before_and_after(
        &mut db,
        "SELECT",
        "UPDATE pg_proc SET procost = procost + 1 WHERE proname = 'found'",
    );
    db.wait("v is fresh again", fresh);
}

#[test]
fn keys_that_were_refreshed_by_another_definition_are_refreshed_again() {
    let mut db = Scratch::new("other_keys");
    create_finder(&mut db);
    db.run("SELECT cache_refresher.invalidate('v', ARRAY[1])");
    assert_eq!(method(&mut db, "v"), "skip");
    db.run(
        "CREATE FUNCTION found(varchar) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'other'$$",
    );
    // A session that has not called it yet finds the new one.
    db.connect().run("SELECT cache_refresher.invalidate('v', ARRAY[1])");
    assert_eq!(db.get::<String>("SELECT x FROM v"), "other");
    db.run("DROP FUNCTION found(varchar)");
    db.refresh("v");
    assert_eq!(db.get::<String>("SELECT x FROM v"), "one");
}

#[test]
fn where_nobody_notices_that_a_view_is_replaced_nothing_is_proved_of_those_that_read_it() {
    let mut db = Scratch::new("unnoticed");
    db.run(
        "CREATE TABLE s (id int PRIMARY KEY, x text); INSERT INTO s VALUES (1, 'old');
         CREATE MATERIALIZED VIEW m AS SELECT id, x FROM s; CREATE UNIQUE INDEX ON m (id)",
    );
    create(&mut db, "v", "SELECT id, x FROM m");
    create(&mut db, "of_table", "SELECT id, x FROM s");
    for view in ["v", "of_table"] {
        prove(&mut db, view);
    }
    db.run("ALTER EVENT TRIGGER cache_refresher_content_replaced DISABLE");
    for view in ["v", "of_table", "v", "of_table"] {
        assert_eq!(method(&mut db, view), "diff");
    }
    let reason: String =
        db.get("SELECT reason FROM cache_refresher.explain('v') WHERE method = 'skip'");
    assert!(reason.contains("would not be noticed"), "{reason}");
    db.run("UPDATE s SET x = 'new'; REFRESH MATERIALIZED VIEW m");
    db.refresh("v");
    assert_eq!(db.get::<String>("SELECT x FROM v"), "new");
    db.run("ALTER EVENT TRIGGER cache_refresher_content_replaced ENABLE ALWAYS");
    assert_eq!(method(&mut db, "v"), "diff");
    assert_eq!(method(&mut db, "v"), "skip");
}

#[test]
fn what_an_old_snapshot_shows_of_a_view_is_not_remembered() {
    let server = Server::builder().start();
    let mut db = server.create_database("old_snapshot");
    db.create_view("v", 10);
    register(&mut db, "v");
    db.refresh("v");
    db.refresh("v");
    let mut other = server.connect("old_snapshot");
    db.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM v_source");
    other.run(
        "ALTER MATERIALIZED VIEW v RENAME TO w; DROP INDEX v_id_idx; CREATE UNIQUE INDEX ON w (id)",
    );
    // A lock on another table makes the session hear of it.
    db.run("CREATE TEMPORARY TABLE unrelated ()");
    db.get::<bool>(
        "SELECT cache_refresher.is_stale(oid::regclass) FROM pg_class WHERE relname = 'v'",
    );
    db.run("COMMIT");
    other.write("v", 7);
    db.run("SELECT cache_refresher.refresh('w')");
    let logged: String =
        db.get("SELECT view_name FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 1");
    assert_eq!(logged, "w");
    assert_eq!(db.get::<i32>("SELECT value FROM w WHERE id = 1"), 7);
}
