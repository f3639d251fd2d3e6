//! What a session remembers of the catalogs: not for longer than it is so.

use cluster_tests::{Scratch, Server, Session};

/// What a view reads, its query, and what somebody else does that a session must notice which has it all in its
/// memory. `@` stands for the OID of `s`.
const CHANGES: [(&str, &str, &str); 29] = [
    ("", "SELECT id, x FROM s", "ALTER TABLE s ADD COLUMN y int"),
    ("", "SELECT id, x FROM s", "ALTER TABLE s RENAME COLUMN x TO y"),
    ("", "SELECT id, x FROM s", "ALTER TABLE s DISABLE TRIGGER cache_refresher_capture"),
    ("", "SELECT id, x FROM s", "DROP TRIGGER cache_refresher_capture ON s"),
    ("", "SELECT id, x FROM s", "DROP TRIGGER cache_refresher_truncate ON s"),
    ("", "SELECT id, x FROM s", "ALTER TABLE s ENABLE ROW LEVEL SECURITY"),
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
        "CREATE FUNCTION g(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1';
         CREATE FUNCTION f(text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN g($1); END'",
        "SELECT id, f(x) AS x FROM s",
        "CREATE OR REPLACE FUNCTION g(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1 || 1'",
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

fn method(db: &mut Session) -> String {
    db.get("SELECT method FROM cache_refresher.refresh('v')")
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
             CREATE TABLE s (id int PRIMARY KEY, x text); INSERT INTO s VALUES (1, 'one'), (2, 'the'); {beneath};
             CREATE MATERIALIZED VIEW v AS {query}; CREATE UNIQUE INDEX ON v (id);
             SELECT cache_refresher.register('v', refresh_interval => '1 day', on_change => true,
                                             debounce => '1 day', max_staleness => '1 day')"
        ));
        db.run(&format!("SET search_path = {schema}, public"));
        db.run("SELECT cache_refresher.refresh('v')");
        for _ in 0..2 {
            assert_eq!(method(&mut db), "skip", "before: {change}");
        }
        let source: u32 = other.get("SELECT 's'::regclass::oid");
        // One by one: some want no transaction around them.
        for statement in change.replace('@', &source.to_string()).split("; ") {
            other.run(statement);
        }
        assert_ne!(method(&mut db), "skip", "after: {change}");
        if change.contains("EVENT TRIGGER") {
            other.run("ALTER EVENT TRIGGER cache_refresher_content_replaced ENABLE ALWAYS");
        }
    }
}

#[test]
fn what_an_old_snapshot_shows_of_a_view_is_not_remembered() {
    let server = Server::builder().start();
    let mut db = server.create_database("old_snapshot");
    db.create_view("v", 10);
    db.run(
        "SELECT cache_refresher.register('v', refresh_interval => '1 day', on_change => true,
                                         debounce => '1 day', max_staleness => '1 day')",
    );
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
