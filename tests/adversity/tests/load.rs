//! Very many views, and a long time: what is kept in memory and on disk has a bound.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adversity_tests::{Load, check, create_views, number, wait_until_right};
use cluster_tests::{
    LAUNCHER, SCHEDULER, Server, Session, WORKER, describe, millis, seconds, seeds,
};
use fastrand::Rng;

/// Private and shared memory of a process that nobody else maps, in MB.
fn memory(pid: i32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Descriptors that a process cannot owe to the files of its relations, each of which PostgreSQL keeps open once
/// until it needs the place: all others, and second ones.
fn stray_files(pid: i32) -> usize {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let mut relations = HashSet::new();
    descriptors
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|file| {
            let name = file.to_string_lossy();
            !(name.contains("/base/") || name.contains("/global/"))
                || !relations.insert(name.into_owned())
        })
        .count()
}

#[test]
fn five_thousand_views_in_one_database() {
    let views = number("CACHE_REFRESHER_VIEWS", 5000);
    let server = Server::builder()
        .setting("shared_buffers", "128MB")
        .setting("max_locks_per_transaction", "512")
        .setting("cache_refresher.worker_linger", "10min")
        .setting("cache_refresher.log_min_duration", "1h")
        .start();
    let mut db = server.create_database("app");
    db.run("SET statement_timeout = 0; CREATE TABLE t (id int PRIMARY KEY, value int); INSERT INTO t VALUES (1, 1)");
    for first in (0..views).step_by(250) {
        db.run(&format!(
            "DO $$ BEGIN FOR i IN {first} .. {} LOOP
                 EXECUTE format('CREATE MATERIALIZED VIEW v%s AS SELECT id, value FROM t', i);
                 PERFORM cache_refresher.register(format('v%s', i)::regclass, refresh_interval => '30 s', method => CASE WHEN i % 10 = 0 THEN 'diff' ELSE 'full' END);
             END LOOP; END $$",
            (first + 250).min(views) - 1
        ));
    }
    db.run("ANALYZE");
    let begun = Instant::now();
    db.wait_for(
        "each has been refreshed",
        seconds(240),
        &format!("SELECT count(*) = {views} FROM _cache_refresher.content"),
    );
    let all = begun.elapsed();
    // Another round, in which none is left out.
    let since: String = db.get("SELECT now()::text");
    db.wait_for(
        "each has been refreshed again",
        seconds(240),
        &format!(
            "SELECT count(*) = {views} FROM _cache_refresher.content WHERE refreshed_at > '{since}'"
        ),
    );
    let asked = Instant::now();
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM (SELECT s.* FROM cache_refresher.status s) s"),
        i64::from(views)
    );
    let asked = asked.elapsed();
    assert_eq!(
        db.get::<i64>(
            "SELECT count(*) FROM cache_refresher.refresh_log WHERE outcome <> 'refreshed'"
        ),
        0
    );
    for (kind, ceiling) in [(LAUNCHER, 10.0), (SCHEDULER, 40.0), (WORKER, 80.0)] {
        for pid in server.pids_of(kind) {
            let used = memory(pid);
            println!("{kind}: {used:.1} MB");
            assert!(used < ceiling, "{kind} uses {used:.1} MB");
        }
    }
    println!("{views} views: {all:?} for the first round; status in {asked:?}");
    assert!(db.get::<bool>("SELECT cache_refresher.healthy()"));
    // Dropping it takes a lock for each log and table, not for each view.
    let begun = Instant::now();
    db.run("DROP EXTENSION cache_refresher");
    assert!(begun.elapsed() < seconds(10));
}

#[test]
fn fifty_databases() {
    let databases = number("CACHE_REFRESHER_DATABASES", 50);
    let server = Server::builder()
        .setting("cache_refresher.worker_linger", "200ms")
        .setting("max_worker_processes", "16")
        .start();
    for number in 0..databases {
        let mut db = server.create_database(&format!("db{number}"));
        db.create_view("v", 5);
        db.register("v", "5 s");
    }
    let mut late: Vec<String> = (0..databases).map(|number| format!("db{number}")).collect();
    let begun = Instant::now();
    while !late.is_empty() {
        late.retain(|name| server.connect(name).refreshes("v") < 2);
        assert!(begun.elapsed() < seconds(120), "not refreshed twice: {late:?}\n{}", server.log());
        std::thread::sleep(millis(200));
    }
    println!("{databases} databases: two refreshes in each after {:?}", begun.elapsed());
    assert_eq!(server.fatal_lines(), [""; 0]);
}

#[test]
fn a_hundred_databases_of_which_three_have_the_extension() {
    let server = Server::builder().setting("cache_refresher.worker_linger", "1s").start();
    let ours = [7, 50, 93].map(|number| format!("db{number}"));
    let mut admin = server.connect("postgres");
    for number in 0..100 {
        admin.run(&format!("CREATE DATABASE db{number}"));
    }
    for name in &ours {
        let mut db = server.connect(name);
        db.run("CREATE EXTENSION cache_refresher");
        db.create_view("v", 5);
        db.register("v", "500 ms");
    }
    // Each is looked at once.
    server.restart();
    for name in &ours {
        server.connect(name).wait_for_refreshes("v", 2);
    }
    let others = |process: &cluster_tests::Process| {
        process.database.as_ref().is_some_and(|name| !ours.contains(name))
    };
    server.wait_until("nobody stays where nothing is", seconds(60), || {
        std::thread::sleep(millis(500));
        !server.processes().iter().any(others)
    });
    for name in &ours {
        server.connect(name).wait_for_refreshes("v", 2);
    }
    assert!(!server.processes().iter().any(others));
    assert_eq!(server.fatal_lines(), [""; 0]);
}

#[test]
fn a_worker_that_has_grown_is_replaced_between_two_refreshes() {
    let server = Server::builder()
        .setting("cache_refresher.worker_linger", "10min")
        .setting("cache_refresher.log_min_duration", "1h")
        .setting("cache_refresher.max_workers", "1")
        .start();
    let mut db = server.create_database("app");
    // A plan for each statement is kept in the process that runs them.
    db.run(
        "DO $$ BEGIN EXECUTE 'CREATE FUNCTION wide(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $f$ BEGIN '
             || repeat('x := x + 1; ', 13000) || 'RETURN x; END $f$'; END $$;
         CREATE TABLE t (id int PRIMARY KEY, value int);
         INSERT INTO t VALUES (1, 0);
         CREATE MATERIALIZED VIEW v AS SELECT id, wide(value) AS value FROM t;
         CREATE UNIQUE INDEX ON v (id);
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')",
    );
    db.run("UPDATE t SET value = value + 1");
    db.wait_for("the first refresh", seconds(20), "SELECT value = 13001 FROM v");
    let first = server.pids_of(WORKER);
    let memory = memory(first[0]);
    let begun = Instant::now();
    while server.pids_of(WORKER) == first {
        assert!(begun.elapsed() < seconds(240), "{} refreshes, {memory} MB", db.refreshes("v"));
        for _ in 0..50 {
            db.run("UPDATE t SET value = value + 1");
            std::thread::sleep(millis(4));
        }
    }
    println!(
        "{memory:.0} MB: replaced after {} refreshes in {:?}",
        db.refreshes("v"),
        begun.elapsed()
    );
    assert!(memory > 64.0, "{memory}");
    db.wait_for("its successor goes on", seconds(5), "SELECT v.value = t.value + 13000 FROM v, t");
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM cache_refresher.refresh_log WHERE outcome = 'failed'"),
        0
    );
    assert_eq!(server.fatal_lines(), [""; 0]);
}

/// What must not grow.
#[derive(Debug)]
struct Size {
    scheduler: f64,
    worker: f64,
    files: usize,
    logs: i64,
    dead: i64,
    history: i64,
}

fn size(server: &Server, db: &mut Session) -> Size {
    let largest = |kind| server.pids_of(kind).into_iter().map(memory).fold(0.0, f64::max);
    let ours = [LAUNCHER, SCHEDULER, WORKER].map(|kind| server.pids_of(kind));
    db.run("VACUUM");
    Size {
        scheduler: largest(SCHEDULER),
        worker: largest(WORKER),
        files: ours.into_iter().flatten().map(stray_files).max().unwrap_or_default(),
        logs: db.get(
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::int8 FROM pg_class c WHERE c.relname ~ '^changes_[0-9]+$'",
        ),
        dead: db.get("SELECT coalesce(sum(n_dead_tup), 0)::int8 FROM pg_stat_user_tables WHERE schemaname = '_cache_refresher'"),
        history: db.get("SELECT count(*) FROM _cache_refresher.history"),
    }
}

#[test]
fn nothing_grows_in_a_long_run_of_writes_refreshes_definitions_and_faults() {
    let time = Duration::from_secs(u64::from(number("CACHE_REFRESHER_SOAK", 45)));
    for seed in seeds(1) {
        let mut rng = Rng::with_seed(seed);
        let server = Arc::new(
            Server::builder()
                .setting("autovacuum_naptime", "5s")
                .setting("cache_refresher.log_max_rows", "200")
                .setting("cache_refresher.retry_base_delay", "100ms")
                .setting("cache_refresher.retry_max_delay", "500ms")
                .setting("cache_refresher.worker_linger", "10min")
                .start(),
        );
        let mut db = server.create_database("app");
        create_views(&mut db);
        let load = Load::start(&server, "app", 2, seed);
        let begun = Instant::now();
        let mut first = None;
        let mut changes = 0;
        while begun.elapsed() < time {
            std::thread::sleep(millis(rng.u64(50..400)));
            let statement = match rng.u32(0..9) {
                0 => "CREATE OR REPLACE VIEW unrelated AS SELECT 1 AS x",
                1 => "ALTER TABLE item ADD COLUMN extra int; ALTER TABLE item DROP COLUMN extra",
                2 => "CREATE INDEX IF NOT EXISTS soon_gone ON item (note); DROP INDEX soon_gone",
                3 => "SELECT cache_refresher.refresh('joined', 'diff')",
                4 => "SELECT cache_refresher.alter('ticking', refresh_interval => '350 ms')",
                5 => "REFRESH MATERIALIZED VIEW CONCURRENTLY grouped",
                6 => "SELECT count(*) FROM cache_refresher.refresh_all()",
                7 => "VACUUM item",
                // Later they live on, to be measured.
                _ if first.is_some() => continue,
                _ => {
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'cache_refresher worker' ORDER BY random() LIMIT 1"
                }
            };
            match db.batch_execute(statement) {
                Ok(()) => changes += 1,
                // Deadlocks and timeouts are what such a mix brings.
                Err(error) => db.batch_execute("ROLLBACK").unwrap_or_else(|_| {
                    panic!("{statement}: {}\n{:?}", describe(&error), server.fatal_lines())
                }),
            }
            if first.is_none() && begun.elapsed() > time / 3 {
                // In the server itself each of these leaves something in the caches of whoever runs it.
                db.run("SELECT cache_refresher.alter('concurrent', method => 'diff')");
                std::thread::sleep(seconds(2));
                first = Some(size(&server, &mut db));
            }
        }
        let written = load.stop();
        wait_until_right(&mut db, seconds(30));
        check(&mut db).unwrap();
        let first = first.unwrap();
        let last = size(&server, &mut db);
        println!(
            "{written:?}, {changes} statements beside; after a third {first:?}, at the end {last:?}"
        );
        assert!(written.compared > 10, "{written:?}");
        assert!(last.scheduler < first.scheduler * 1.3 + 3.0, "{first:?} {last:?}");
        assert!(last.worker < first.worker * 1.3 + 3.0, "{first:?} {last:?}");
        assert!(last.files <= first.files + 2, "{first:?} {last:?}");
        assert!(last.logs < (16 << 20), "{last:?}");
        assert!(last.dead < 50_000, "{last:?}");
        // For each view so many, and a few until it is looked at again.
        assert!(last.history < 7 * 300, "{last:?}");
        assert_eq!(
            server.log_lines(&["TRAP:"])
                + server.log_lines(&["PANIC:"])
                + server.log_lines(&["terminated by signal"]),
            0
        );
        assert_eq!(server.log_lines(&["still referenced"]), 0);
    }
}
