//! Rows that come in another order each time, of a query that has done most of its work before it
//! returns the first: it is not run again in the order of the key, so they are sorted by hash.

use cluster_tests::{Counts, Scratch, Session};

use crate::counts;

const ROWS: i64 = 4000;

/// A view `v` that returns its rows sorted by what a hash says, with this type of key and this index
/// of it. Half of its rows are long, and half so short that their pages hold more than others.
fn create_scattered_view(db: &mut Session, key: &str, index: &str) {
    db.run(&format!(
        "CREATE TABLE t (id int PRIMARY KEY, key {key}, note text, place text);
         INSERT INTO t SELECT i, {key_of}, CASE WHEN i % {ROWS} < {ROWS} / 2 THEN repeat('x', 300) ELSE '' END, ''
             FROM generate_series(1, {ROWS}) i;
         CREATE MATERIALIZED VIEW v AS SELECT key, note, id % 7 AS other FROM t ORDER BY place;
         CREATE UNIQUE INDEX ON v {index};
         CREATE INDEX ON v (other);
         ANALYZE v;
         SET work_mem = '64kB'",
        key_of = key_of(key, "i"),
    ));
}

/// The key of a row with that number, of that type.
fn key_of(key: &str, number: &str) -> String {
    match key {
        "numeric" => format!("({number})::numeric / 4"),
        "int[]" => format!("ARRAY[{number} % 50, {number}]"),
        _ => format!("({number})::{key}"),
    }
}

/// Other order, and some rows changed, gone, new, and with another key.
fn change(db: &mut Session, key: &str, round: i64) -> Counts {
    let new = ROWS * (round + 1);
    db.run(&format!(
        "UPDATE t SET place = md5((id + {round})::text);
         UPDATE t SET note = note || '{round}' WHERE id % 19 = {round};
         DELETE FROM t WHERE id % 23 = {round};
         INSERT INTO t SELECT i, {new_key}, repeat('n', i % 40), md5(i::text) FROM generate_series({new} + 1, {new} + 100) i;
         UPDATE t SET key = {other_key} WHERE id % 101 = {round} AND id <= {ROWS}",
        new_key = key_of(key, "i"),
        other_key = key_of(key, &format!("id + {ROWS} * 100")),
    ));
    let expected = "
        SELECT ARRAY[count(*) FILTER (WHERE new.key IS NOT NULL),
                     count(*) FILTER (WHERE old.key IS NULL),
                     count(*) FILTER (WHERE new.key = old.key AND (new.note, new.other) IS DISTINCT FROM (old.note, old.other)),
                     count(*) FILTER (WHERE new.key IS NULL)]
        FROM (SELECT key, note, id % 7 AS other FROM t) new FULL JOIN v old USING (key)";
    db.run("SET work_mem = '64MB'");
    let expected: Vec<i64> = db.get(expected);
    db.run("SET work_mem = '64kB'");
    let [total, inserted, updated, deleted] = expected[..] else { panic!("{expected:?}") };
    counts(total, inserted, updated, deleted)
}

fn refresh_while_it_changes(name: &'static str, key: &str, index: &str) {
    let mut db = Scratch::new(name);
    create_scattered_view(&mut db, key, index);
    for round in 0..4 {
        let expected = change(&mut db, key, round);
        assert_eq!(db.diff("v"), expected, "round {round}");
        db.assert_shows_its_query("v");
        db.assert_sound("v");
    }
    assert_eq!(db.diff("v"), Counts::unchanged(db.get("SELECT count(*) FROM v")));
}

#[test]
fn rows_are_found_by_a_number() {
    refresh_while_it_changes("diff_scattered", "int", "(key)");
}

#[test]
fn rows_are_found_by_a_text_in_descending_order() {
    refresh_while_it_changes("diff_scattered_text", "text", "(key DESC NULLS LAST)");
}

#[test]
fn rows_are_found_by_several_columns() {
    refresh_while_it_changes("diff_scattered_columns", "int[]", "(other, key)");
}

#[test]
fn rows_are_found_by_a_value_that_has_several_spellings() {
    let mut db = Scratch::new("diff_scattered_spellings");
    create_scattered_view(&mut db, "numeric", "(key)");
    for (decimals, changed) in [(30, ROWS), (30, 0), (31, ROWS)] {
        db.run(&format!(
            "UPDATE t SET key = round(key, {decimals}), place = md5((id + {decimals})::text)"
        ));
        let Counts { total, inserted, updated, deleted } = db.diff("v");
        assert_eq!((total, inserted + updated, deleted + updated), (ROWS, changed, changed));
        db.assert_shows_its_query("v");
        db.assert_sound("v");
    }
}

#[test]
fn rows_without_a_key_are_found_beside_others() {
    let mut db = Scratch::new("diff_scattered_nulls");
    create_scattered_view(&mut db, "int", "(key)");
    for round in 1..4 {
        db.run(&format!(
            "UPDATE t SET place = md5((id + {round})::text), key = CASE WHEN id % 4 = {round} THEN NULL ELSE id END"
        ));
        let Counts { total, .. } = db.diff("v");
        assert_eq!(total, ROWS);
        db.assert_shows_its_query("v");
        db.assert_sound("v");
        db.run(&format!("UPDATE t SET place = md5((id - {round})::text)"));
        assert_eq!(db.diff("v"), Counts::unchanged(ROWS));
    }
}

#[test]
fn a_key_that_is_returned_twice_is_refused() {
    let mut db = Scratch::new("diff_scattered_twice");
    create_scattered_view(&mut db, "int", "(key)");
    let before: String = db.get("SELECT md5(string_agg(v::text, '' ORDER BY ctid)) FROM v");
    db.run(&format!(
        "UPDATE t SET place = md5(id::text), key = CASE id WHEN 17 THEN {ROWS} ELSE key END"
    ));
    let refusal = db.error_of("SELECT cache_refresher.refresh('v', method => 'diff')");
    assert_eq!(refusal.code().code(), "23505", "{refusal:?}");
    assert_eq!(
        db.get::<String>("SELECT md5(string_agg(v::text, '' ORDER BY ctid)) FROM v"),
        before
    );
}
