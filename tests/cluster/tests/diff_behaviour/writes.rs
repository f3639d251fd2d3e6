//! Only what changed is written, and nothing else about the view changes.

use cluster_tests::{Counts, Scratch, Session, seconds};

use crate::{counts, remember_rows, undisturbed};

/// All about a view and its indexes that a REFRESH might make anew or forget.
const IDENTITY: &str = "
    SELECT string_agg(concat_ws(' ', c.oid, c.relfilenode, c.relname, c.relacl, c.reloptions, c.relispopulated,
                                obj_description(c.oid, 'pg_class'), pg_get_indexdef(c.oid)), E'\\n' ORDER BY c.oid)
    FROM pg_class c
    WHERE c.oid = 'v'::regclass
        OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'v'::regclass)";

#[test]
fn a_diff_leaves_the_view_itself_alone() {
    let mut db = Scratch::new("diff_identity");
    db.create_view("v", 10);
    db.run(
        "CREATE INDEX by_value ON v (value) WITH (fillfactor = 70);
         COMMENT ON MATERIALIZED VIEW v IS 'kept';
         COMMENT ON INDEX by_value IS 'kept too';
         ALTER MATERIALIZED VIEW v SET (autovacuum_vacuum_threshold = 77);
         GRANT SELECT ON v TO pg_monitor;
         ANALYZE v;
         CREATE VIEW on_v AS SELECT sum(value) AS total FROM v;
         CREATE MATERIALIZED VIEW on_top AS SELECT id FROM v",
    );
    let before: String = db.get(IDENTITY);
    let statistics = "SELECT count(*) FROM pg_stats WHERE tablename = 'v'";
    let statistics_before: i64 = db.get(statistics);
    db.run("UPDATE v_source SET value = 4; DELETE FROM v_source WHERE id = 1");
    assert_eq!(db.diff("v"), counts(9, 0, 9, 1));
    assert_eq!(db.get::<String>(IDENTITY), before);
    assert_eq!(db.get::<i64>(statistics), statistics_before);
    assert_eq!(db.get::<i64>("SELECT total FROM on_v"), 36);
    assert_eq!(db.diff("on_top"), counts(9, 0, 0, 1));
}

#[test]
fn only_rows_that_changed_are_written() {
    let mut db = Scratch::new("diff_minimal");
    db.create_view("v", 100);
    remember_rows(&mut db, "v");
    db.run(
        "UPDATE v_source SET value = 1 WHERE id IN (10, 50, 90);
         DELETE FROM v_source WHERE id IN (1, 60);
         INSERT INTO v_source VALUES (0, 1), (101, 1), (102, 1), (-5, 1)",
    );
    assert_eq!(db.diff("v"), counts(102, 4, 3, 2));
    assert_eq!(undisturbed(&mut db, "v"), 95);
    db.assert_shows_its_query("v");
    assert!(db.get::<bool>(
        "SELECT (rows_total, rows_inserted, rows_updated, rows_deleted) = (102, 4, 3, 2)
            AND method = 'diff' AND outcome = 'refreshed' AND reason IS NOT NULL
         FROM cache_refresher.refresh_log"
    ));
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    let mut db = Scratch::new("diff_nothing");
    db.create_view("v", 1000);
    remember_rows(&mut db, "v");
    let size = "SELECT pg_relation_size('v')";
    let size_before: i64 = db.get(size);
    assert_eq!(db.diff("v"), Counts::unchanged(1000));
    // The same rows in another order.
    db.run("UPDATE v_source SET value = value WHERE id % 3 = 0");
    assert_eq!(db.diff("v"), Counts::unchanged(1000));
    db.run("CLUSTER v_source USING v_source_pkey");
    assert_eq!(db.diff("v"), Counts::unchanged(1000));
    assert_eq!(undisturbed(&mut db, "v"), 1000);
    assert_eq!(db.get::<i64>(size), size_before);
}

#[test]
fn a_view_grows_from_no_rows_and_shrinks_to_none() {
    let mut db = Scratch::new("diff_extremes");
    db.create_view("v", 0);
    assert_eq!(db.diff("v"), Counts::unchanged(0));
    db.run("INSERT INTO v_source SELECT i, i FROM generate_series(1, 5000) i");
    assert_eq!(db.diff("v"), counts(5000, 5000, 0, 0));
    db.assert_shows_its_query("v");
    db.run("TRUNCATE v_source");
    assert_eq!(db.diff("v"), counts(0, 0, 0, 5000));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM v"), 0);
    db.assert_sound("v");
}

/// Rows of `v` written so far, as the statistics count them: new, changed, of these within their page
/// and without new index entries, deleted.
const WRITTEN: &str = "
    SELECT ARRAY[pg_stat_get_xact_tuples_inserted(v), pg_stat_get_xact_tuples_updated(v),
                 pg_stat_get_xact_tuples_hot_updated(v), pg_stat_get_xact_tuples_deleted(v)]
    FROM (SELECT 'v'::regclass::oid) AS named (v)";

/// What a diff adds to these numbers.
fn written_by_diff(db: &mut Session) -> [i64; 4] {
    // Between transactions they may be handed over and begin anew.
    db.run("BEGIN");
    let before: Vec<i64> = db.get(WRITTEN);
    db.diff("v");
    let after: Vec<i64> = db.get(WRITTEN);
    db.run("COMMIT");
    std::array::from_fn(|number| after[number] - before[number])
}

#[test]
fn columns_without_an_index_are_updated_in_place() {
    let mut db = Scratch::new("diff_hot");
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, value int);
         INSERT INTO t SELECT i, 0 FROM generate_series(1, 50) i;
         CREATE MATERIALIZED VIEW v WITH (fillfactor = 50) AS SELECT id, value FROM t;
         CREATE UNIQUE INDEX ON v (id)",
    );
    db.run("UPDATE t SET value = 1 WHERE id <= 10");
    assert_eq!(written_by_diff(&mut db), [0, 10, 10, 0]);
    db.run("CREATE INDEX ON v (value)");
    db.run("UPDATE t SET value = 2 WHERE id <= 10");
    assert_eq!(written_by_diff(&mut db), [0, 10, 0, 0], "the new index needs entries");
    db.assert_sound("v");
}

/// Where the pages of a view are full, most new versions of its rows are written many at a time, to others.
#[test]
fn many_rows_that_find_no_room_are_written_together() {
    const ROWS: i64 = 5000;
    let mut db = Scratch::new("diff_together");
    db.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, name text, value int, long text, words text[]);
         INSERT INTO t SELECT i, 'Name ' || i, 0, NULL, ARRAY['w' || i % 10] FROM generate_series(1, {ROWS}) i;
         UPDATE t SET long = (SELECT string_agg(md5((id + i)::text), '') FROM generate_series(1, 300) i)
             WHERE id % 500 = 0;
         CREATE MATERIALIZED VIEW v AS SELECT * FROM t;
         CREATE UNIQUE INDEX ON v (id);
         CREATE UNIQUE INDEX ON v (lower(name), id);
         CREATE UNIQUE INDEX ON v (name DESC) INCLUDE (id) WHERE id % 2 = 0;
         CREATE INDEX ON v (value);
         CREATE INDEX ON v USING hash (value);
         CREATE INDEX ON v USING gin (words);
         CREATE INDEX ON v USING brin (value);
         CREATE INDEX ON v ((value + id)) WHERE value > 1"
    ));
    for value in 1..4 {
        db.run(&format!(
            "UPDATE t SET value = {value}, long = long || '{value}', words = words || 'w{value}'::text"
        ));
        let [inserted, updated, _, deleted] = written_by_diff(&mut db);
        assert_eq!((inserted + updated, inserted - deleted), (ROWS, 0), "round {value}");
        assert!((1..ROWS / 10).contains(&updated), "{updated} rows were written one by one");
        db.assert_shows_its_query("v");
        db.assert_sound("v");
        for index_scan in [
            format!("value = {value}"),
            format!("words @> ARRAY['w{value}']"),
            format!("value > 1 AND value + id > {value}"),
        ] {
            db.run("SET enable_seqscan = off");
            let found: i64 = db.get(&format!("SELECT count(*) FROM v WHERE {index_scan}"));
            db.run("RESET enable_seqscan");
            assert_eq!(
                found,
                if value == 1 && index_scan.contains("> 1") { 0 } else { ROWS },
                "{index_scan}"
            );
        }
    }
    assert!(db.get::<bool>(
        "SELECT (rows_total, rows_inserted, rows_updated, rows_deleted) = (5000, 0, 5000, 0)
         FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 1"
    ));
}

#[test]
fn autovacuum_learns_how_much_was_written() {
    let mut db = Scratch::new("diff_statistics");
    db.create_view("v", 100);
    db.run("CREATE INDEX ON v (value)");
    db.run(
        "UPDATE v_source SET value = 1 WHERE id <= 30;
         DELETE FROM v_source WHERE id > 80;
         INSERT INTO v_source VALUES (200, 0)",
    );
    assert_eq!(written_by_diff(&mut db), [1, 30, 0, 20]);
}

/// Both refreshes of the same transaction write the same rows.
#[test]
fn a_transaction_can_refresh_twice() {
    let mut db = Scratch::new("diff_twice");
    db.create_view("v", 10);
    db.run("BEGIN");
    let change = |db: &mut Session, value: i32| {
        db.run(&format!("UPDATE v_source SET value = {value}; UPDATE v_source SET id = id + 1 WHERE id = 9 + {value}"));
        let counts = db.diff("v");
        db.assert_shows_its_query("v");
        counts
    };
    assert_eq!(change(&mut db, 1), counts(10, 1, 9, 1));
    assert_eq!(change(&mut db, 2), counts(10, 1, 9, 1));
    db.run("COMMIT");
    db.assert_shows_its_query("v");
    db.assert_sound("v");
}

#[test]
fn the_scheduler_refreshes_a_populated_view_with_diff() {
    let mut db = Scratch::new("diff_scheduled");
    db.create_view("v", 10);
    db.register("v", "300 ms");
    db.wait_for_refreshes("v", 1);
    db.write("v", 9);
    db.wait_until_shown("v", 9);
    db.wait_for(
        "the log tells of the one row",
        seconds(5),
        "SELECT count(*) = 1 FROM cache_refresher.refresh_log
         WHERE method = 'diff' AND trigger = 'interval' AND rows_total = 10
             AND (rows_inserted, rows_updated, rows_deleted) = (0, 1, 0)",
    );
    assert_eq!(db.logged("v", "failed"), 0);
}
