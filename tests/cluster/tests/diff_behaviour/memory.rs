//! Memory: a diff keeps to work_mem, however little the order of the rows helps.

use cluster_tests::{Counts, Server, Session};

const ROWS: i64 = 300_000;

/// The most memory that a session's process has had, in bytes.
fn peak_memory(db: &mut Session) -> u64 {
    let pid: i32 = db.get("SELECT pg_backend_pid()");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes * 1024
}

#[test]
fn rows_in_reverse_order_are_compared_in_little_memory() {
    // Of its own: others' temporary files and shared memory would be taken for the diff's.
    let server = Server::builder().start();
    let mut db = server.create_database("app");
    db.run(&format!(
        "CREATE TABLE t (id int, sort_key int, note text);
         INSERT INTO t SELECT i, i, repeat('x', 200) FROM generate_series(1, {ROWS}) i;
         CREATE MATERIALIZED VIEW v AS SELECT id, note FROM t ORDER BY sort_key;
         CREATE UNIQUE INDEX ON v (id)"
    ));
    let mut refresher = server.connect("app");
    refresher.run("SET work_mem = '4MB'; SET max_parallel_workers_per_gather = 0");
    // What the process needs anyway.
    refresher.run("SELECT count(*) FROM v; SELECT count(*) FROM t");
    assert_eq!(refresher.diff("v"), Counts::unchanged(ROWS));
    let before = peak_memory(&mut refresher);

    db.run("UPDATE t SET sort_key = -sort_key");
    assert_eq!(refresher.diff("v"), Counts::unchanged(ROWS));
    db.run(
        "UPDATE t SET sort_key = -sort_key, note = CASE WHEN id % 300 = 0 THEN 'y' ELSE note END",
    );
    db.run("DELETE FROM t WHERE id % 300 = 1");
    let counts = refresher.diff("v");
    assert_eq!(counts, Counts { total: ROWS - 1000, inserted: 0, updated: 1000, deleted: 1000 });

    // The rows that lie in another order are 60 MB and more on each side.
    let grown = (peak_memory(&mut refresher) - before) / (1024 * 1024);
    assert!(grown < 30, "the process has grown by {grown} MB");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_ls_tmpdir()"), 0, "temporary files are left");
    db.assert_shows_its_query("v");
    db.assert_sound("v");
}

#[test]
fn rows_that_are_the_same_are_compared_in_little_memory() {
    let server = Server::builder().start();
    let mut db = server.create_database("app");
    db.run(&format!(
        "CREATE TABLE t (id int, note text); INSERT INTO t SELECT i, repeat('x', 400) FROM generate_series(1, {ROWS}) i;
         CREATE MATERIALIZED VIEW v AS SELECT note FROM t WHERE id > 0"
    ));
    let mut refresher = server.connect("app");
    refresher.run("SET work_mem = '4MB'; SET max_parallel_workers_per_gather = 0");
    refresher.run("SELECT count(*) FROM v; SELECT count(*) FROM t");
    assert_eq!(refresher.diff("v"), Counts::unchanged(ROWS));
    let before = peak_memory(&mut refresher);
    let counts = |total, inserted, deleted| Counts { total, inserted, updated: 0, deleted };

    db.run("UPDATE t SET note = repeat('y', 400)");
    assert_eq!(refresher.diff("v"), counts(ROWS, ROWS, ROWS));
    db.run("UPDATE t SET id = -id");
    assert_eq!(refresher.diff("v"), counts(0, 0, ROWS));
    db.run("UPDATE t SET id = -id");
    assert_eq!(refresher.diff("v"), counts(ROWS, ROWS, 0));

    // 120 MB on each side.
    let grown = (peak_memory(&mut refresher) - before) / (1024 * 1024);
    assert!(grown < 40, "the process has grown by {grown} MB");
    db.assert_shows_its_query("v");
}
