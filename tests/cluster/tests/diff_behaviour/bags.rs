//! Views without a unique index: rows are told apart as a whole, and the same rows are counted.

use cluster_tests::Scratch;

use crate::{counts, remember_rows, undisturbed};

#[test]
fn a_view_that_repeats_rows_is_refreshed_by_how_often_each_occurs() {
    let mut db = Scratch::new("diff_words");
    db.run(
        "CREATE TABLE t (word text);
         INSERT INTO t VALUES ('a'), ('a'), ('a'), ('b'), ('b'), ('c'), (NULL), (NULL);
         CREATE MATERIALIZED VIEW v AS SELECT word FROM t",
    );
    remember_rows(&mut db, "v");
    db.run(
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE word = 'b');
         DELETE FROM t WHERE word = 'c';
         INSERT INTO t VALUES ('a'), ('a'), ('d'), (NULL)",
    );
    let row = db.row("SELECT method, rows_inserted, rows_updated, rows_deleted, rows_total FROM cache_refresher.refresh('v')");
    assert_eq!(row.get::<_, String>(0), "diff", "auto takes diff without a unique index too");
    let written: [i64; 4] = [row.get(1), row.get(2), row.get(3), row.get(4)];
    assert_eq!(written, [4, 0, 2, 10]);
    assert_eq!(undisturbed(&mut db, "v"), 6, "three a, one b, two NULLs");
    db.assert_shows_its_query("v");
}

#[test]
fn a_view_with_a_unique_index_is_refreshed_with_diff_too() {
    let mut db = Scratch::new("diff_auto");
    db.create_view("v", 10);
    let method = "SELECT method FROM cache_refresher.refresh('v')";
    assert_eq!(db.get::<String>(method), "diff");
}

#[test]
fn rows_of_a_type_without_equality_are_told_apart() {
    let mut db = Scratch::new("diff_json");
    db.run(
        "CREATE TABLE t (document json, place point);
         INSERT INTO t VALUES ('{\"a\":1}', '(0,0)'), ('{\"a\":1}', '(0,0)'), ('{\"a\": 1}', '(0,0)');
         CREATE MATERIALIZED VIEW v AS SELECT * FROM t",
    );
    db.run("UPDATE t SET place = '(-0,0)' WHERE document::text = '{\"a\": 1}'");
    assert_eq!(db.diff("v"), counts(3, 1, 0, 1));
    db.run("UPDATE t SET document = '{\"a\":  1}' WHERE ctid = (SELECT min(ctid) FROM t)");
    assert_eq!(db.diff("v"), counts(3, 1, 0, 1));
    db.assert_shows_its_query("v");
}

#[test]
fn a_unique_index_that_cannot_tell_all_rows_apart_is_kept_in_order() {
    let mut db = Scratch::new("diff_unusable");
    db.run(
        "CREATE TABLE t (id int, value int);
         INSERT INTO t SELECT i, i FROM generate_series(1, 100) i;
         INSERT INTO t VALUES (0, 0), (0, 0), (0, 0);
         CREATE MATERIALIZED VIEW v AS SELECT * FROM t;
         CREATE UNIQUE INDEX ON v (id) WHERE id > 0",
    );
    db.run(
        "UPDATE t SET value = value + 1; INSERT INTO t VALUES (0, 1); DELETE FROM t WHERE id = 50",
    );
    let counts = db.diff("v");
    assert_eq!(counts.total, 103);
    db.assert_shows_its_query("v");
    db.assert_sound("v");
}
