//! Columns that are computed when they are read (PostgreSQL 18): changes of what they are computed from are
//! captured, and mapped, and so is another expression noticed.

use cluster_tests::{Installation, Scratch};

/// A database with a table of both, or nothing where the server knows no such columns.
fn scratch(name: &'static str) -> Option<Scratch> {
    let mut db = Scratch::new(name);
    if Installation::get().major() < 18 {
        eprintln!("skipped: before PostgreSQL 18 there are no virtual columns");
        return None;
    }
    db.run(
        "CREATE TABLE t (gone int, id int PRIMARY KEY, a int, other int,
                         kind int GENERATED ALWAYS AS (a % 4) VIRTUAL,
                         known int GENERATED ALWAYS AS (coalesce(a, 7)) VIRTUAL);
         ALTER TABLE t DROP COLUMN gone;
         CREATE TABLE u (id int PRIMARY KEY, t_id int);
         CREATE INDEX ON u (t_id);
         INSERT INTO t (id, a) SELECT i, nullif(i % 10, 3) FROM generate_series(1, 200) i;
         INSERT INTO u SELECT i, i + 50 FROM generate_series(1, 200) i",
    );
    Some(db)
}

fn register(db: &mut Scratch, query: &str, unit: &str) {
    db.run(&format!(
        "CREATE MATERIALIZED VIEW v AS {query}; CREATE INDEX ON v ({unit});
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true,
                                         debounce => '1 hour', max_staleness => '1 hour')"
    ));
    db.refresh("v");
    assert_eq!(
        db.get::<String>("SELECT staleness FROM cache_refresher.status"),
        "fresh",
        "{query}"
    );
}

const CHANGES: [&str; 5] = [
    "UPDATE t SET a = a + 1 WHERE id IN (1, 60, 61)",
    "UPDATE t SET a = NULL WHERE id = 62; INSERT INTO t (id, a) VALUES (300, 2), (301, NULL)",
    "UPDATE t SET id = 400 WHERE id = 70; DELETE FROM t WHERE id IN (71, 72)",
    "UPDATE u SET t_id = 1 WHERE id IN (5, 190)",
    "DELETE FROM u WHERE id = 5; INSERT INTO u VALUES (500, 60), (501, 999)",
];

#[test]
fn what_virtual_columns_are_computed_from_is_mapped() {
    let Some(mut db) = scratch("virtual_mapped") else { return };
    for (query, unit) in [
        ("SELECT id, known FROM t WHERE kind IS DISTINCT FROM 2", "id"),
        ("SELECT kind, count(*) AS n, max(known) AS most FROM t GROUP BY kind", "kind"),
        ("SELECT u.id, t.kind, t.known FROM u JOIN t ON t.id = u.t_id", "id"),
        ("SELECT u.id, t.kind, t.known FROM u LEFT JOIN t ON t.id = u.t_id", "id"),
        ("SELECT u.id, t.a, t.other FROM u LEFT JOIN t ON t.id = u.t_id AND t.kind = 1", "id"),
        (
            "SELECT t.id, t.known, count(u) AS n FROM t LEFT JOIN u ON u.t_id = t.id GROUP BY t.id",
            "id",
        ),
        ("SELECT u.id FROM u WHERE u.t_id IN (SELECT t.id FROM t WHERE t.known = 7)", "id"),
        ("SELECT u.id, (SELECT t.known FROM t WHERE t.id = u.t_id) AS known FROM u", "id"),
        ("SELECT id, t AS whole FROM t", "id"),
        ("SELECT t.id, o.id AS next FROM t JOIN t o ON o.known = t.kind AND o.id < 20", "id"),
    ] {
        register(&mut db, query, unit);
        for change in CHANGES {
            db.run(&format!("BEGIN; {change}"));
            let how: String =
                db.get("SELECT method || ', ' || reason FROM cache_refresher.refresh('v', method => 'delta')");
            assert!(how.starts_with("delta") || how.starts_with("skip"), "{query}: {how}");
            assert_eq!(db.difference("v", &format!("({query})")), None, "{query}: {change}: {how}");
            db.run("ROLLBACK");
        }
        db.run("SELECT cache_refresher.unregister('v'); DROP MATERIALIZED VIEW v");
    }
}

#[test]
fn virtual_columns_that_an_outer_join_extends_are_shown_as_they_are() {
    let Some(mut db) = scratch("virtual_extended") else { return };
    for query in [
        "SELECT u.id, t.kind, t.known FROM u LEFT JOIN t ON t.id = u.t_id",
        "SELECT u.id, t.known FROM t RIGHT JOIN u ON t.id = u.t_id WHERE t.known IS DISTINCT FROM 4",
        "SELECT u.id, t.known FROM u FULL JOIN t ON t.id = u.t_id",
    ] {
        register(&mut db, query, "id");
        for change in CHANGES {
            db.run(change);
            db.refresh("v");
            assert_eq!(db.difference("v", &format!("({query})")), None, "{query}: {change}");
        }
        db.run(
            "SELECT cache_refresher.unregister('v'); DROP MATERIALIZED VIEW v;
             DELETE FROM t WHERE id > 200; DELETE FROM u WHERE id > 200",
        );
        db.run("INSERT INTO t (id, a) VALUES (70, 3), (71, 4) ON CONFLICT DO NOTHING");
    }
}

#[test]
fn what_no_virtual_column_of_the_view_is_computed_from_is_not_noted() {
    let Some(mut db) = scratch("virtual_unused") else { return };
    register(&mut db, "SELECT id, kind FROM t", "id");
    db.run("UPDATE t SET other = 1");
    assert_eq!(db.refresh("v"), "skipped");
    db.run("UPDATE t SET a = 1 WHERE id = 2");
    assert_eq!(db.refresh("v"), "refreshed");
    assert_eq!(db.get::<i32>("SELECT kind FROM v WHERE id = 2"), 1);
}

#[test]
fn text_search_that_a_virtual_column_names_is_noticed() {
    let Some(mut db) = scratch("virtual_search") else { return };
    db.run(
        "CREATE TEXT SEARCH CONFIGURATION public.ours (COPY = english);
         CREATE TABLE d (id int PRIMARY KEY, body text,
                         words tsvector GENERATED ALWAYS AS (to_tsvector('public.ours'::regconfig, body)) VIRTUAL);
         INSERT INTO d VALUES (1, 'the running dogs')",
    );
    register(&mut db, "SELECT id, words FROM d", "id");
    db.run("ALTER TEXT SEARCH CONFIGURATION public.ours ALTER MAPPING FOR asciiword WITH simple");
    assert_eq!(db.get::<String>("SELECT staleness FROM cache_refresher.status"), "unknown");
    db.refresh("v");
    assert_eq!(db.difference("v", "(SELECT id, words FROM d)"), None);
}

#[test]
fn another_expression_of_a_virtual_column_is_noticed() {
    let Some(mut db) = scratch("virtual_expression") else { return };
    for query in ["SELECT id, kind FROM t", "SELECT id, t AS whole FROM t"] {
        register(&mut db, query, "id");
        for expression in ["a % 3", "a % 4"] {
            db.run(&format!("ALTER TABLE t ALTER COLUMN kind SET EXPRESSION AS ({expression})"));
            assert_eq!(db.get::<String>("SELECT staleness FROM cache_refresher.status"), "unknown");
            assert_eq!(db.refresh("v"), "refreshed");
            assert_eq!(db.difference("v", &format!("({query})")), None, "{query}");
            assert_eq!(db.get::<String>("SELECT staleness FROM cache_refresher.status"), "fresh");
        }
        db.run("SELECT cache_refresher.unregister('v'); DROP MATERIALIZED VIEW v");
    }
}
