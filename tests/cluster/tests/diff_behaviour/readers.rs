//! Readers beside a diff: they see the rows of before or of after, and never wait.

use cluster_tests::{Scratch, Session};

use crate::counts;

/// Values 0 in ten rows; after `change` and a diff, 5 in eight rows and in two new ones.
fn create(name: &'static str) -> Scratch {
    let mut db = Scratch::new(name);
    db.create_view("v", 10);
    db
}

fn change(db: &mut Session) {
    db.run(
        "DELETE FROM v_source WHERE id <= 2;
         UPDATE v_source SET value = 5;
         INSERT INTO v_source VALUES (11, 5), (12, 5)",
    );
}

const BEFORE: &str = "1..10 sum 0";
const AFTER: &str = "3..12 sum 50";

/// What a session sees, by a scan of the view and by its index.
fn seen(session: &mut Session) -> String {
    let query = "SELECT format('%s..%s sum %s', min(id), max(id), sum(value)) FROM v WHERE id > 0";
    session.run("SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off");
    let scanned: String = session.get(query);
    session.run("SET enable_seqscan = off; SET enable_indexscan = on");
    assert_eq!(session.get::<String>(query), scanned, "the index shows the same");
    scanned
}

#[test]
fn a_transaction_that_holds_its_snapshot_sees_the_old_rows_to_its_end() {
    let mut db = create("diff_snapshot");
    let mut reader = db.connect();
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(seen(&mut reader), BEFORE);
    change(&mut db);
    assert_eq!(db.diff("v"), counts(10, 2, 8, 2));
    assert_eq!(seen(&mut reader), BEFORE);
    // Vacuum must not take away what the reader sees.
    db.run("VACUUM v");
    assert_eq!(seen(&mut reader), BEFORE);
    assert_eq!(seen(&mut db), AFTER);
    reader.run("COMMIT");
    assert_eq!(seen(&mut reader), AFTER);
}

#[test]
fn an_open_cursor_returns_the_rows_of_when_it_was_opened() {
    let mut db = create("diff_cursor");
    let mut reader = db.connect();
    reader.run("BEGIN; DECLARE rows CURSOR FOR SELECT value FROM v ORDER BY id; FETCH 3 FROM rows");
    change(&mut db);
    db.diff("v");
    let rest = reader.query("FETCH ALL FROM rows", &[]).unwrap();
    let values: Vec<i32> = rest.iter().map(|row| row.get(0)).collect();
    assert_eq!(values, [0; 7]);
    reader.run("COMMIT");
}

#[test]
fn readers_do_not_wait_for_a_diff_that_is_not_committed() {
    let mut db = create("diff_uncommitted");
    change(&mut db);
    let mut refresher = db.connect();
    refresher.run("BEGIN");
    assert_eq!(refresher.diff("v"), counts(10, 2, 8, 2));
    assert_eq!(seen(&mut refresher), AFTER, "it sees what it wrote itself");
    db.run("SET lock_timeout = '100ms'");
    assert_eq!(seen(&mut db), BEFORE);
    refresher.run("COMMIT");
    assert_eq!(seen(&mut db), AFTER);
}

#[test]
fn a_diff_that_is_rolled_back_has_changed_nothing() {
    let mut db = create("diff_rolled_back");
    change(&mut db);
    db.run("BEGIN");
    db.diff("v");
    db.run("ROLLBACK");
    assert_eq!(seen(&mut db), BEFORE);
    db.assert_sound("v");
    assert_eq!(db.diff("v"), counts(10, 2, 8, 2));
    assert_eq!(seen(&mut db), AFTER);
    db.assert_sound("v");
}

#[test]
fn a_diff_does_not_wait_for_readers() {
    let mut db = create("diff_readers");
    let mut reader = db.connect();
    reader.run("BEGIN");
    assert_eq!(seen(&mut reader), BEFORE);
    change(&mut db);
    db.run("SET cache_refresher.lock_timeout = '100ms'");
    db.diff("v");
    assert_eq!(seen(&mut reader), AFTER, "a statement of READ COMMITTED sees what is committed");
    reader.run("COMMIT");
}
