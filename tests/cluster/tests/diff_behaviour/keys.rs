//! Keys that move, repeat, change their spelling or are NULL, and values that are unique besides.

use cluster_tests::{Counts, Scratch, Session};

use crate::{counts, remember_rows, undisturbed};

/// View `v` of all of table `t`, with unique indexes on these lists of columns.
fn create_view(db: &mut Session, columns: &str, rows: &str, unique: &[&str]) {
    db.run(&format!(
        "CREATE TABLE t ({columns});
         INSERT INTO t VALUES {rows};
         CREATE MATERIALIZED VIEW v AS SELECT * FROM t"
    ));
    for list in unique {
        db.run(&format!("CREATE UNIQUE INDEX ON v {list}"));
    }
}

/// Refreshes after a change, and looks whether all is well.
fn diff_after(db: &mut Session, change: &str) -> Counts {
    db.run(change);
    let counts = db.diff("v");
    db.assert_shows_its_query("v");
    db.assert_sound("v");
    counts
}

#[test]
fn two_rows_swap_the_values_of_a_second_unique_index() {
    let mut db = Scratch::new("diff_swap");
    create_view(&mut db, "id int, place int", "(1, 10), (2, 20), (3, 30)", &["(id)", "(place)"]);
    let swap = "UPDATE t SET place = 30 - place WHERE id <= 2";
    assert_eq!(diff_after(&mut db, swap), counts(3, 0, 2, 0));
}

#[test]
fn a_ring_of_rows_passes_on_the_values_of_a_unique_expression() {
    let mut db = Scratch::new("diff_ring");
    let rows = "(1, 'A'), (2, 'B'), (3, 'C'), (4, 'D')";
    create_view(&mut db, "id int, name text", rows, &["(id)", "(lower(name))"]);
    let pass_on = "UPDATE t SET name = chr(97 + id % 4)";
    assert_eq!(diff_after(&mut db, pass_on), counts(4, 0, 4, 0));
}

#[test]
fn a_row_gives_way_to_another_in_a_partial_unique_index() {
    let mut db = Scratch::new("diff_partial");
    let rows = "(1, 7, true), (2, 7, false), (3, 7, false)";
    let unique = ["(id)", "(team) WHERE leads"];
    create_view(&mut db, "id int, team int, leads boolean", rows, &unique);
    for leader in [3, 2, 1] {
        let elect = format!("UPDATE t SET leads = (id = {leader})");
        assert_eq!(diff_after(&mut db, &elect), counts(3, 0, 2, 0), "{leader} leads");
    }
}

#[test]
fn keys_move_up_in_a_chain() {
    let mut db = Scratch::new("diff_chain");
    create_view(&mut db, "id int, name text", "(1, 'a'), (2, 'b'), (3, 'c')", &["(id)"]);
    assert_eq!(diff_after(&mut db, "UPDATE t SET id = id + 1"), counts(3, 1, 2, 1));
}

#[test]
fn keys_move_up_in_a_chain_of_a_thousand() {
    let mut db = Scratch::new("diff_long_chain");
    create_view(&mut db, "id int, name text", "(0, '0')", &["(id)", "(name)"]);
    db.run("INSERT INTO t SELECT i, i FROM generate_series(1, 999) i");
    db.diff("v");
    assert_eq!(diff_after(&mut db, "UPDATE t SET id = id + 1"), counts(1000, 1, 999, 1));
}

/// A key that is spelled otherwise is the same to its index. Whether that counts as one row updated
/// or as one deleted and one inserted is left open.
fn respell(db: &mut Session, change: &str, shown: &str) {
    remember_rows(db, "v");
    let Counts { total, inserted, updated, deleted } = diff_after(db, change);
    assert_eq!((total, inserted + updated, deleted + updated), (2, 1, 1), "{change}");
    assert_eq!(db.get::<String>("SELECT string_agg(v::text, ' ' ORDER BY place) FROM v"), shown);
    assert_eq!(undisturbed(db, "v"), 1, "the other row");
}

#[test]
fn a_key_changes_its_case_under_a_collation_that_ignores_case() {
    let mut db = Scratch::new("diff_case");
    db.run(
        "CREATE COLLATION ignoring_case (provider = icu, deterministic = false, locale = 'und-u-ks-level2')",
    );
    let columns = "name text COLLATE ignoring_case, place int";
    create_view(&mut db, columns, "('anna', 1), ('Bob', 2)", &["(name)"]);
    respell(&mut db, "UPDATE t SET name = 'ANNA' WHERE place = 1", "(ANNA,1) (Bob,2)");
}

#[test]
fn a_key_changes_its_number_of_decimals() {
    let mut db = Scratch::new("diff_decimals");
    create_view(&mut db, "price numeric, place int", "(1.0, 1), (2.0, 2)", &["(price)"]);
    respell(&mut db, "UPDATE t SET price = 1.00 WHERE place = 1", "(1.00,1) (2.0,2)");
}

#[test]
fn the_zero_of_a_key_changes_its_sign() {
    let mut db = Scratch::new("diff_zero");
    create_view(&mut db, "degrees float8, place int", "(0, 1), (1, 2)", &["(degrees)"]);
    respell(&mut db, "UPDATE t SET degrees = '-0' WHERE place = 1", "(-0,1) (1,2)");
}

#[test]
fn rows_with_a_null_in_the_key_may_be_the_same() {
    let mut db = Scratch::new("diff_null_keys");
    let rows = "(1, NULL, 'x'), (1, NULL, 'x'), (1, NULL, 'y'), (NULL, NULL, 'z'), (1, 1, 'k')";
    create_view(&mut db, "a int, b int, name text", rows, &["(a, b)"]);
    assert_eq!(db.diff("v"), Counts::unchanged(5));
    remember_rows(&mut db, "v");
    let counts = diff_after(&mut db, "INSERT INTO t VALUES (1, NULL, 'x'), (NULL, NULL, 'z')");
    assert_eq!(counts.written(), (2, 0, 0));
    assert_eq!(undisturbed(&mut db, "v"), 5);
    let counts = diff_after(&mut db, "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)");
    assert_eq!((counts.total, counts.written()), (6, (0, 0, 1)), "one of three that are the same");
    let counts = diff_after(&mut db, "UPDATE t SET b = 2 WHERE name = 'y'");
    assert_eq!(counts.total, 6);
}

#[test]
fn a_null_is_a_key_where_nulls_are_not_distinct() {
    let mut db = Scratch::new("diff_null_is_key");
    let rows = "(NULL, 'a'), (1, 'b')";
    create_view(&mut db, "id int, name text", rows, &["(id) NULLS NOT DISTINCT"]);
    let counts = diff_after(&mut db, "UPDATE t SET name = 'c' WHERE id IS NULL");
    assert_eq!(counts.total, 2);
    let counts = diff_after(&mut db, "UPDATE t SET id = CASE WHEN id IS NULL THEN 1 END");
    assert_eq!(counts.total, 2, "two rows have swapped NULL and 1");
}

/// While an index is created concurrently, rows of before have no entries in it, so it cannot vouch for them.
#[test]
fn an_index_that_is_not_valid_yet_vouches_for_no_row() {
    let mut db = Scratch::new("diff_invalid");
    let rows = "(1, 'a', 0), (2, 'b', 0)";
    create_view(&mut db, "id int, name text, value int", rows, &["(id)", "(name)"]);
    db.run("CREATE INDEX ON v (value)");
    let set = |db: &mut Session, ready: bool| {
        db.run(&format!(
            "UPDATE pg_index SET indisvalid = false, indisready = {ready} WHERE indexrelid = 'v_name_idx'::regclass"
        ));
    };
    set(&mut db, false);
    db.run("INSERT INTO t VALUES (3, 'b', 0)");
    assert_eq!(db.diff("v"), counts(3, 1, 0, 0));
    set(&mut db, true);
    db.run("UPDATE t SET value = 1 WHERE id = 3");
    let refusal = db.error_of("SELECT * FROM cache_refresher.refresh('v', method => 'diff')");
    assert_eq!(refusal.code().code(), "23505", "{refusal:?}");
}

/// The refresh after this change must fail and leave everything as it was.
fn assert_refused(db: &mut Session, change: &str, failures: i64) {
    remember_rows(db, "bookings");
    let rows: i64 = db.get("SELECT count(*) FROM bookings");
    db.run(change);
    let refusal =
        db.error_of("SELECT * FROM cache_refresher.refresh('bookings', method => 'diff')");
    let said = format!("{refusal:?}");
    assert_eq!(refusal.code().code(), "23505", "{said}");
    let words = [refusal.message(), refusal.detail().unwrap_or(""), refusal.where_().unwrap_or("")];
    assert!(words.iter().any(|words| words.contains("4711")), "the key is named: {said}");
    assert!(words.iter().any(|words| words.contains("bookings")), "the view is named: {said}");
    assert_eq!(undisturbed(db, "bookings"), rows, "nothing is written after: {change}");
    db.assert_sound("bookings");
    db.wait(
        "the failure is logged",
        &format!(
            "SELECT count(*) = {failures} FROM cache_refresher.refresh_log
             WHERE view_name = 'bookings' AND outcome = 'failed' AND sqlstate = '23505'"
        ),
    );
}

#[test]
fn duplicate_keys_in_the_new_result_are_refused_and_nothing_is_changed() {
    let mut db = Scratch::new("diff_duplicates");
    db.run(
        "CREATE TABLE t (number int, name text, seat int);
         INSERT INTO t SELECT i, 'name ' || i, -i FROM generate_series(4700, 4720) i;
         CREATE MATERIALIZED VIEW bookings AS SELECT * FROM t;
         CREATE UNIQUE INDEX by_number ON bookings (number);
         CREATE UNIQUE INDEX by_seat ON bookings (seat)",
    );
    assert_refused(&mut db, "INSERT INTO t VALUES (4711, 'another', 1)", 1);
    db.run("DELETE FROM t WHERE name = 'another'");
    assert_refused(&mut db, "INSERT INTO t SELECT * FROM t WHERE number = 4711", 2);
    db.run("DELETE FROM t WHERE number = 4711");
    db.diff("bookings");
    let two_new = "INSERT INTO t VALUES (4711, 'one', 1), (4711, 'two', 2)";
    assert_refused(&mut db, two_new, 3);
    db.run("DELETE FROM t WHERE number = 4711; INSERT INTO t VALUES (5000, 'five', 4711)");
    assert_refused(&mut db, "INSERT INTO t VALUES (6000, 'six', 4711)", 4);
    db.run("DELETE FROM t WHERE number = 6000");
    assert_eq!(db.diff("bookings"), counts(21, 1, 0, 0), "once the duplicate is gone");
}
