//! Processes that die, queries that never end, resources that run out: no wrong row, and refreshes go on.

use std::process::Command;
use std::sync::Arc;

use adversity_tests::{Load, check, create_views, number, wait_until_right};
use cluster_tests::{LAUNCHER, PATIENCE, Server, Session, Signal, WORKER, millis, seconds, seeds};
use fastrand::Rng;

/// A server with a database of views of every kind.
fn start(settings: &[(&str, &str)]) -> (Arc<Server>, Session) {
    let mut builder = Server::builder()
        .setting("cache_refresher.max_workers", "2")
        .setting("cache_refresher.retry_base_delay", "100ms")
        .setting("cache_refresher.retry_max_delay", "500ms")
        .setting("cache_refresher.max_retries", "1000");
    for (name, value) in settings {
        builder = builder.setting(name, value);
    }
    let server = Arc::new(builder.start());
    let mut db = server.create_database("app");
    create_views(&mut db);
    (server, db)
}

/// Everything is as if nothing had happened: all views are right, both workers can be had, and nobody is left
/// who holds something.
fn recovered(server: &Server) {
    let mut db = server.connect("app");
    wait_until_right(&mut db, seconds(30));
    check(&mut db).unwrap();
    // The last fault may have been its own, a moment ago.
    server.wait_until("a launcher is there", seconds(10), || !server.pids_of(LAUNCHER).is_empty());
    assert_eq!(server.pids_of(LAUNCHER).len(), 1);
    // As many refreshes at once as ever.
    for name in ["slow_1", "slow_2"] {
        db.create_paced_view(name);
        db.set_pace(name, 600.0);
        db.register(name, "200 ms");
    }
    server.wait_until("both workers are to be had", PATIENCE, || {
        let sleeping = |process: &&cluster_tests::Process| {
            process.kind == WORKER && process.wait_event.as_deref() == Some("PgSleep")
        };
        server.processes().iter().filter(sleeping).count() == 2
    });
    for name in ["slow_1", "slow_2"] {
        db.run(&format!("SELECT cache_refresher.pause('{name}')"));
    }
    db.run("SELECT cache_refresher.cancel(view) FROM cache_refresher.status WHERE state = 'running' OR view_name LIKE 'slow%';
            SELECT cache_refresher.pause(view) FROM cache_refresher.status");
    server.wait_until("nobody is at work", PATIENCE, || server.refreshes_at_work() == 0);
    db.run(
        "SELECT cache_refresher.unregister('slow_1'), cache_refresher.unregister('slow_2');
            DROP MATERIALIZED VIEW slow_1, slow_2; DROP TABLE slow_1_pace, slow_2_pace",
    );
    db.wait(
        "no lock is left",
        "SELECT count(*) = 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE a.backend_type LIKE 'cache_refresher %' AND (l.locktype = 'advisory' OR l.mode LIKE '%Exclusive%')
           AND l.locktype <> 'virtualxid'",
    );
    assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_ls_tmpdir()"), 0, "temporary files are left");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM pg_prepared_xacts"), 0);
    assert_eq!(server.log_lines(&["TRAP:"]), 0, "an assertion has failed");
    assert_eq!(server.log_lines(&["PANIC:"]), 0);
    assert_eq!(server.log_lines(&["still referenced"]), 0, "a resource was leaked");
}

#[test]
fn processes_terminated_cancelled_and_killed_at_random_under_load() {
    let faults = number("CACHE_REFRESHER_FAULTS", 100);
    for seed in seeds(1) {
        let mut rng = Rng::with_seed(seed);
        let (server, db) = start(&[("cache_refresher.worker_linger", "300ms")]);
        drop(db);
        let load = Load::start(&server, "app", 2, seed);
        let mut counts = [0_u32; 3];
        while counts.iter().sum::<u32>() < faults {
            std::thread::sleep(millis(rng.u64(0..400)));
            let Ok(mut admin) = server.try_connect("postgres", "postgres") else {
                std::thread::sleep(millis(200));
                continue;
            };
            // The server may be going down for the last fault.
            let Ok(rows) = admin.query(
                "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'cache_refresher %'",
                &[],
            ) else {
                continue;
            };
            let Some(row) = rng.choice(&rows) else { continue };
            let pid: i32 = row.get(0);
            let (kind, signal) = match rng.u32(0..10) {
                0 => (0, Signal::KILL),
                1..=3 => (1, Signal::INT),
                _ => (2, Signal::TERM),
            };
            if server.try_kill(pid, signal) {
                counts[kind] += 1;
            }
        }
        server.wait_until("the server lets us in", seconds(30), || {
            server.try_connect("app", "postgres").is_ok()
        });
        let written = load.stop();
        println!("killed, cancelled, terminated: {counts:?}; {written:?}");
        assert!(written.committed > 100 && written.compared > 20, "there was no load: {written:?}");
        recovered(&server);
    }
}

#[test]
fn a_session_that_ends_itself_inside_a_refresh_takes_nobody_with_it() {
    let (server, mut db) = start(&[]);
    // FATAL in the middle of a query, in whatever process.
    db.run(
        "CREATE TABLE sharp (armed bool); INSERT INTO sharp VALUES (false);
         CREATE MATERIALIZED VIEW suicidal AS SELECT 1 AS id, CASE WHEN armed THEN pg_terminate_backend(pg_backend_pid()) END AS gone FROM sharp;
         CREATE UNIQUE INDEX ON suicidal (id);
         SELECT cache_refresher.register('suicidal', refresh_interval => '200 ms');
         UPDATE sharp SET armed = true",
    );
    let load = Load::start(&server, "app", 1, 1);
    server.wait_until("it has ended a few workers", PATIENCE, || {
        server.log_lines(&["refresh of public.suicidal was cancelled"]) >= 3
    });
    db.wait_for_refreshes("ticking", 3);
    db.run("UPDATE sharp SET armed = false");
    db.wait_for_refreshes("suicidal", 1);
    load.stop();
    recovered(&server);
}

#[test]
fn writers_that_are_terminated_while_they_note_long_values_end_alone() {
    let (server, mut db) = start(&[]);
    db.run(
        "CREATE TABLE a (id int PRIMARY KEY, k text); CREATE TABLE b (k text, v int);
         ALTER TABLE a ALTER k SET STORAGE EXTERNAL; ALTER TABLE b ALTER k SET STORAGE EXTERNAL;
         INSERT INTO a SELECT i, repeat('x', 200000) || i FROM generate_series(1, 30) i; INSERT INTO b SELECT k, id FROM a;
         CREATE MATERIALIZED VIEW long AS SELECT a.id, b.v FROM a JOIN b ON a.k = b.k; CREATE UNIQUE INDEX ON long (id);
         SELECT cache_refresher.register('long', refresh_interval => '1 year', on_change => true, debounce => '1 hour', max_staleness => '1 day')",
    );
    for round in 0..30 {
        let writer =
            server.background("app", "UPDATE b SET k = k || '.', v = v + 1; SELECT pg_sleep(5)");
        std::thread::sleep(millis(round * 4));
        db.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'UPDATE b SET%' AND pid <> pg_backend_pid()");
        drop(writer.join());
    }
    assert_eq!(server.log_lines(&["terminated by signal"]), 0, "somebody has crashed");
    db.wait("their locks are gone", "SELECT count(*) = 0 FROM pg_locks WHERE relation = 'b'::regclass AND pid <> pg_backend_pid()");
    db.run("UPDATE b SET v = v + 1");
    db.refresh("long");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM long FULL JOIN (SELECT a.id, b.v FROM a JOIN b ON a.k = b.k) q USING (id) WHERE long.v IS DISTINCT FROM q.v"), 0);
    recovered(&server);
}

#[test]
fn memory_and_stack_that_run_out_are_errors_like_others() {
    let (server, mut db) = start(&[]);
    db.run(
        "CREATE FUNCTION deep(n int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN public.deep(n + 1); END $$;
         CREATE TABLE fuse (lit bool); INSERT INTO fuse VALUES (false);
         CREATE MATERIALIZED VIEW greedy AS SELECT 1 AS id, length(repeat('x', CASE WHEN lit THEN 1073741824 ELSE 1 END)) AS long FROM fuse;
         CREATE MATERIALIZED VIEW deep_view AS SELECT 1 AS id, CASE WHEN lit THEN deep(1) END AS depth FROM fuse;
         CREATE UNIQUE INDEX ON greedy (id); CREATE UNIQUE INDEX ON deep_view (id);
         SELECT cache_refresher.register('greedy', refresh_interval => '300 ms');
         SELECT cache_refresher.register('deep_view', refresh_interval => '300 ms');
         UPDATE fuse SET lit = true",
    );
    for (view, state) in [("greedy", "54000"), ("deep_view", "54001")] {
        db.wait(
            "the failure is logged",
            &format!(
                "SELECT count(*) > 0 FROM cache_refresher.refresh_log
                 WHERE view_name = '{view}' AND outcome = 'failed' AND sqlstate = '{state}'"
            ),
        );
        db.wait(
            "status says so",
            &format!(
                "SELECT consecutive_failures > 0 AND last_error IS NOT NULL FROM cache_refresher.status
                 WHERE view_name = '{view}'"
            ),
        );
    }
    db.run("UPDATE fuse SET lit = false");
    db.wait_for_refreshes("greedy", 1);
    db.wait_for_refreshes("deep_view", 1);
    recovered(&server);
}

#[test]
fn workers_that_others_have_taken_are_waited_for() {
    // The launcher, a scheduler and the background processes of the server leave nothing.
    let (server, mut db) = start(&[
        ("max_worker_processes", "5"),
        ("max_parallel_workers", "4"),
        ("cache_refresher.worker_linger", "100ms"),
    ]);
    db.wait_for_refreshes("ticking", 2);
    db.run(
        "CREATE TABLE big AS SELECT i FROM generate_series(1, 200000) i; ANALYZE big;
         ALTER TABLE big SET (parallel_workers = 4)",
    );
    let hog = "SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
               SET max_parallel_workers_per_gather = 4; SET statement_timeout = 0;
               SELECT count(pg_sleep(0.0001)) FROM big";
    let hogs: Vec<_> = (0..3).map(|_| server.background("app", hog)).collect();
    let load = Load::start(&server, "app", 1, 2);
    std::thread::sleep(seconds(4));
    load.stop();
    db.run("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(0.0001)%' AND pid <> pg_backend_pid()");
    hogs.into_iter().for_each(|hog| drop(hog.join()));
    recovered(&server);
}

#[test]
fn connections_that_others_have_taken_do_not_stop_refreshes() {
    let (server, mut db) = start(&[("max_connections", "15")]);
    let mut taken = Vec::new();
    while let Ok(session) = server.try_connect("app", "postgres") {
        taken.push(session);
        assert!(taken.len() < 30);
    }
    // Background workers have places of their own.
    db.run("UPDATE item SET value = value + 1");
    wait_until_right(&mut db, PATIENCE);
    db.wait_for_refreshes("ticking", 3);
    drop(taken);
    server.wait_until("there is room again", PATIENCE, || {
        server.try_connect("app", "postgres").is_ok()
    });
    recovered(&server);
}

/// A file system of so many megabytes, gone at the end. None where one may not make any.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(server: &Server, megabytes: u32) -> Option<Self> {
        let path = server.new_folder("small");
        let size = format!("size={megabytes}m,mode=777");
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).status();
        done.is_ok_and(|status| status.success()).then_some(Self(path))
    }

    fn fill(&self) {
        let size = Command::new("sh")
            .arg("-c")
            .arg("cat /dev/zero > \"$0\"/ballast")
            .arg(&self.0)
            .output();
        size.unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The server may still have files open; no panic in a drop.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_fails_refreshes_and_nothing_else() {
    let (server, mut db) = start(&[]);
    let Some(disk) = SmallDisk::mount(&server, 16) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    let folder = disk.0.join("tablespace");
    std::fs::create_dir(&folder).unwrap();
    server.give(&folder);
    db.run(&format!("CREATE TABLESPACE small LOCATION '{}'", folder.display()));
    // Some views there, and the log of changes and the history too.
    db.run(
        "ALTER MATERIALIZED VIEW plain SET TABLESPACE small; ALTER MATERIALIZED VIEW joined SET TABLESPACE small;
         ALTER MATERIALIZED VIEW ticking SET TABLESPACE small",
    );
    wait_until_right(&mut db, PATIENCE);
    disk.fill();
    db.run(
        "INSERT INTO item SELECT i, 1, i, repeat('long', 100) FROM generate_series(2000, 12000) i",
    );
    db.wait(
        "refreshes fail for want of space",
        "SELECT count(DISTINCT view_name) >= 2 FROM cache_refresher.refresh_log WHERE sqlstate = '53100'",
    );
    db.run("SELECT cache_refresher.healthy()");
    check(&mut db).unwrap();
    disk.free();
    wait_until_right(&mut db, PATIENCE);
    recovered(&server);
    db.run("ALTER MATERIALIZED VIEW plain SET TABLESPACE pg_default; ALTER MATERIALIZED VIEW joined SET TABLESPACE pg_default;
            ALTER MATERIALIZED VIEW ticking SET TABLESPACE pg_default");
}

#[test]
fn timeouts_of_idle_and_long_transactions_end_no_refresh() {
    let server = Server::builder().setting("idle_in_transaction_session_timeout", "50ms").start();
    let mut db = server.create_database("app");
    db.create_paced_view("slow");
    db.set_pace("slow", 0.7);
    // Since PostgreSQL 17; for sessions that begin from now on, and for the workers.
    if db.get::<bool>("SELECT current_setting('server_version_num')::int >= 170000") {
        db.run("ALTER DATABASE app SET transaction_timeout = '200ms'");
    }
    db.run("ALTER ROLE postgres IN DATABASE app SET idle_session_timeout = '100ms'");
    db.register("slow", "1 s");
    db.wait_for_refreshes("slow", 3);
    assert_eq!(db.logged("slow", "failed"), 0);
    assert_eq!(server.fatal_lines(), [""; 0]);
}

#[test]
fn a_catalog_that_cannot_be_read_in_the_midst_of_a_query_tree_is_an_error_like_others() {
    let server = Server::builder().start();
    let mut db = server.create_database("app");
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, x text);
         CREATE MATERIALIZED VIEW plain AS SELECT id FROM t;
         CREATE MATERIALIZED VIEW calling AS SELECT id, btrim(ltrim(rtrim(x))) AS trimmed FROM t;",
    );
    // Of another session; whatever else is looked up is known then.
    let mut db = server.connect("app");
    db.run("SELECT cache_refresher.explain('plain'); SET lock_timeout = '300ms'");
    let mut other = server.connect("app");
    other.run("BEGIN; LOCK TABLE pg_proc IN ACCESS EXCLUSIVE MODE");
    let refusal = db.error_of("SELECT cache_refresher.explain('calling')");
    assert_eq!(refusal.code().code(), "55P03", "{refusal:?}");
    other.run("ROLLBACK");
    db.run("SELECT cache_refresher.explain('calling')");
    assert_eq!(server.fatal_lines(), [""; 0]);
}
