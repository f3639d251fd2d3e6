//! Queries that return their rows in another order than that in which they lie in the view: a join for another
//! setting of work_mem, in batches where its hash table does not fit; a scan of a large table that begins where
//! somebody else's is.

use cluster_tests::{Counts, Scratch, Session};

use crate::counts;

const USERS: i64 = 40_000;
/// Many more, so that the first comes long before the last.
const ROWS: i64 = 6 * USERS;
/// Less than the hash table needs, 3.5 MB, of which the server grants twice the setting.
const BATCHES: &str = "SET work_mem = '1MB'";
const ONE_BATCH: &str = "SET work_mem = '64MB'";

fn create_join(db: &mut Session, index: &str) {
    db.run(&format!(
        "CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL);
         CREATE TABLE streams (id int PRIMARY KEY, user_id int NOT NULL, views int NOT NULL);
         INSERT INTO users SELECT i, 'The name of user ' || i FROM generate_series(1, {USERS}) i;
         INSERT INTO streams SELECT i, 1 + i * 7 % {USERS}, 0 FROM generate_series(1, {ROWS}) i"
    ));
    db.run("VACUUM (ANALYZE) users, streams");
    db.run("SET enable_mergejoin = off; SET max_parallel_workers_per_gather = 0");
    db.run(&format!(
        "CREATE MATERIALIZED VIEW v AS
             SELECT s.id, s.views, u.name FROM streams s LEFT JOIN users u ON u.id = s.user_id;
         {index};
         ANALYZE v"
    ));
}

/// So many rows change.
const CHANGED: i64 = ROWS / 1000;

fn change(db: &mut Session, round: i64) {
    db.run(&format!("UPDATE streams SET views = {round} WHERE id % 1000 = {round}"));
}

fn temporary_files(db: &mut Session) -> i64 {
    db.run("SELECT pg_stat_force_next_flush()");
    db.get("SELECT temp_files FROM pg_stat_database WHERE datname = current_database()")
}

/// With too little memory for a hash table in the session, but not too little for a diff: from the second on
/// nothing is written to temporary files, and there is nothing to sort.
fn refresh_in_one_batch(name: &'static str, index: &str, expected: &Counts) {
    let mut db = Scratch::new(name);
    db.run(ONE_BATCH);
    create_join(&mut db, index);
    db.run(BATCHES);
    let explain = "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF)
                   SELECT s.id, u.name FROM streams s LEFT JOIN users u ON u.id = s.user_id";
    let plan: Vec<String> =
        db.query(explain, &[]).unwrap().iter().map(|line| line.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("Batches: 2")), "no join in batches: {plan:?}");
    for round in 1..4 {
        change(&mut db, round);
        let before = temporary_files(&mut db);
        assert_eq!(db.diff("v"), *expected, "round {round}");
        let written = temporary_files(&mut db) - before;
        assert_eq!(written > 0, round == 1, "round {round}: {written} temporary files");
        db.assert_shows_its_query("v");
    }
    db.assert_sound("v");
}

#[test]
fn a_view_made_with_more_memory_is_compared_in_its_order() {
    refresh_in_one_batch(
        "diff_one_batch",
        "CREATE UNIQUE INDEX ON v (id)",
        &counts(ROWS, 0, CHANGED, 0),
    );
}

#[test]
fn a_view_without_a_key_made_with_more_memory_is_compared_in_its_order() {
    refresh_in_one_batch(
        "diff_one_batch_bag",
        "CREATE INDEX ON v (id)",
        &counts(ROWS, CHANGED, 0, CHANGED),
    );
}

/// Tables of more than a quarter of shared_buffers, which has 16 MB here.
#[test]
fn scans_do_not_begin_where_those_of_others_have_ended() {
    let mut db = Scratch::new("diff_scans_of_others");
    db.run(ONE_BATCH);
    create_join(&mut db, "CREATE UNIQUE INDEX ON v (id)");
    db.run("SET hash_mem_multiplier = 10");
    for (round, read) in (1..).zip(["streams", "v"]) {
        change(&mut db, round);
        db.run(&format!("SELECT count(*) FROM (SELECT FROM {read} LIMIT {ROWS} / 2) half"));
        db.run(BATCHES);
        let before = temporary_files(&mut db);
        assert_eq!(db.diff("v"), counts(ROWS, 0, CHANGED, 0), "after a scan of {read}");
        assert_eq!(temporary_files(&mut db) - before, 0, "after a scan of {read}");
        db.run(ONE_BATCH);
    }
    db.assert_shows_its_query("v");
}

#[test]
fn a_view_made_with_less_memory_is_compared_by_its_key() {
    let mut db = Scratch::new("diff_fewer_batches");
    db.run(BATCHES);
    create_join(&mut db, "CREATE UNIQUE INDEX ON v (id)");
    for (round, work_mem) in (1..).zip([BATCHES, ONE_BATCH, ONE_BATCH, BATCHES]) {
        db.run(work_mem);
        change(&mut db, round);
        assert_eq!(db.diff("v"), counts(ROWS, 0, CHANGED, 0), "round {round}");
        db.assert_shows_its_query("v");
    }
    db.assert_sound("v");
}
