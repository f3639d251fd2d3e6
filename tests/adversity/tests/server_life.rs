//! Databases that are closed, standbys that are away, primaries that become standbys, backups that are restored, clocks
//! that are set.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

use adversity_tests::{capture, settle, state};
use cluster_tests::{A_SECOND, LAUNCHER, Mode, PATIENCE, Server, output, seconds};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, value int);
                     INSERT INTO t SELECT i, i FROM generate_series(1, 100) i";
const QUERY: &str = "SELECT id, value FROM t";

#[test]
fn a_database_that_is_closed_or_made_a_template_is_left() {
    let server = Server::builder().setting("cache_refresher.worker_linger", "10min").start();
    let mut admin = server.connect("postgres");
    let mut app = server.create_database("app");
    app.create_view("v", 5);
    app.register("v", "300 ms");
    app.wait_for_refreshes("v", 2);
    drop(app);
    admin.run("CREATE ROLE copier LOGIN CREATEDB");
    for (close, open) in [
        ("ALTER DATABASE app ALLOW_CONNECTIONS false", "ALTER DATABASE app ALLOW_CONNECTIONS true"),
        ("ALTER DATABASE app IS_TEMPLATE true", "ALTER DATABASE app IS_TEMPLATE false"),
    ] {
        admin.run(close);
        server.wait_until("our processes have left", PATIENCE, || server.processes_in("app") == 0);
        std::thread::sleep(seconds(2));
        assert_eq!(server.processes_in("app"), 0, "nothing comes back");
        assert_eq!(server.fatal_lines(), [""; 0]);
        if close.contains("TEMPLATE") {
            server.connect_as("postgres", "copier").run("CREATE DATABASE copy TEMPLATE app");
        }
        admin.run(open);
        let mut app = server.connect("app");
        app.wait_for_refreshes("v", 2);
    }
}

#[test]
fn a_synchronous_standby_that_is_away_holds_up_neither_refreshes_nor_the_shutdown() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    app.run(TABLE);
    capture(&mut app, "v", "id", QUERY);
    app.run("SELECT cache_refresher.alter('v', refresh_interval => '300 ms')");
    server.set("synchronous_standby_names", "nobody_there");
    server.reload();
    // Our own session does not wait, as those of a careful application would.
    app.run("SET synchronous_commit = local; UPDATE t SET value = -1 WHERE id = 1");
    settle(&mut app, "v", QUERY);
    app.run("UPDATE t SET value = -2 WHERE id = 2");
    settle(&mut app, "v", QUERY);
    drop(app);
    assert!(server.stop(Mode::Fast) < seconds(5));
}

#[test]
fn a_primary_that_becomes_a_standby_schedules_nothing_any_more() {
    let primary = Server::builder()
        .setting("wal_log_hints", "on")
        .setting("full_page_writes", "on")
        .setting("wal_keep_size", "256MB")
        .setting("cache_refresher.worker_linger", "1s")
        .start();
    let mut app = primary.create_database("app");
    app.run(TABLE);
    capture(&mut app, "v", "id", QUERY);
    let standby = Server::builder()
        .setting("wal_log_hints", "on")
        .setting("full_page_writes", "on")
        .standby_of(&primary)
        .start();
    drop(app);
    standby.connect("postgres").run("SELECT pg_promote()");
    let mut promoted = standby.connect("app");
    promoted.wait("it is a primary", "SELECT NOT pg_is_in_recovery()");
    promoted.run("UPDATE t SET value = -2 WHERE id = 2");
    settle(&mut promoted, "v", QUERY);
    standby.wait_until("one launcher", PATIENCE, || standby.pids_of(LAUNCHER).len() == 1);

    // Two primaries for a moment; the old one has gone on by itself.
    primary.connect("app").run("UPDATE t SET value = -3 WHERE id = 3");
    primary.stop(Mode::Fast);
    promoted.run("CHECKPOINT");
    primary.give(&primary.data().join("test.conf"));
    let mut rewind: Command = standby.client("pg_rewind");
    let source = format!(
        "host={} port={} user=postgres dbname=postgres",
        standby.folder().display(),
        standby.port()
    );
    let done = rewind
        .arg("--target-pgdata")
        .arg(primary.data())
        .args(["--source-server", &source, "--write-recovery-conf", "--no-sync"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    // pg_rewind has taken over the other one's port.
    primary.write_settings();
    primary.start();
    let mut old = primary.connect("app");
    assert!(old.get::<bool>("SELECT pg_is_in_recovery()"));
    old.wait("it shows what the new primary does", "SELECT count(*) = 1 FROM v WHERE value = -2");
    assert_eq!(old.get::<i64>("SELECT count(*) FROM v WHERE value = -3"), 0);
    assert!(primary.processes().is_empty(), "{:?}", primary.processes());
    let begun = std::time::Instant::now();
    drop(old);
    primary.stop(Mode::Fast);
    assert!(begun.elapsed() < A_SECOND * 3);
}

#[test]
fn a_restore_to_a_point_in_time_is_stale_where_it_was_and_goes_on() {
    let primary =
        Server::builder().setting("archive_mode", "on").setting("full_page_writes", "on").prepare();
    let archive = primary.new_folder("archive");
    primary.set("archive_command", &format!("cp %p {}/%f", archive.display()));
    primary.start();
    let mut app = primary.create_database("app");
    app.run(TABLE);
    app.run("CREATE TABLE u (id int PRIMARY KEY, value int); INSERT INTO u SELECT i, i FROM generate_series(1, 100) i");
    capture(&mut app, "v", "id", QUERY);
    capture(&mut app, "w", "id", "SELECT id, value FROM u");
    primary.set("cache_refresher.enabled", "off");
    primary.reload();
    primary.wait_until("nobody is there", PATIENCE, || primary.processes_in("app") == 0);
    let restored = Server::builder()
        .setting("cache_refresher.enabled", "off")
        .setting("restore_command", &format!("cp {}/%f %p", archive.display()))
        .setting("recovery_target_name", "here")
        .setting("recovery_target_action", "promote")
        .standby_of(&primary)
        .prepare();
    std::fs::rename(
        restored.data().join("standby.signal"),
        restored.data().join("recovery.signal"),
    )
    .unwrap();
    app.run("UPDATE t SET value = -1 WHERE id = 1");
    app.run("SELECT pg_create_restore_point('here')");
    // Neither the refresh nor what it showed has happened.
    app.run("UPDATE u SET value = -1 WHERE id = 1");
    app.refresh("v");
    app.refresh("w");
    app.run("SELECT pg_switch_wal()");
    drop(app);
    primary.stop(Mode::Fast);

    restored.start();
    let mut app = restored.connect("app");
    app.wait("it is a primary", "SELECT NOT pg_is_in_recovery()");
    assert_eq!(state(&mut app, "v", QUERY), (false, 2), "a change that was not shown");
    assert_eq!(state(&mut app, "w", "SELECT id, value FROM u"), (true, 0), "nothing has changed");
    restored.set("cache_refresher.enabled", "on");
    restored.reload();
    settle(&mut app, "v", QUERY);
    app.run("UPDATE u SET value = -2 WHERE id = 2");
    settle(&mut app, "w", "SELECT id, value FROM u");
    assert_eq!(restored.fatal_lines(), [""; 0]);
}

#[test]
fn a_clock_that_is_set_by_an_hour_both_ways_changes_no_pace() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let (library, file) = (folder.path().join("clock.so"), folder.path().join("offset"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/clock.c");
    output(Command::new("cc").args(["-shared", "-fPIC", "-O", source, "-o"]).arg(&library));
    // The file is mapped: it must not shrink on the way.
    let step = |seconds: i64| {
        let mut file =
            OpenOptions::new().create(true).truncate(false).write(true).open(&file).unwrap();
        file.write_all(&seconds.to_ne_bytes()).unwrap();
    };
    step(0);
    let server = Server::builder()
        .environment("LD_PRELOAD", library.to_str().unwrap())
        .environment("CLOCK_OFFSET", file.to_str().unwrap())
        .prepare();
    server.give(folder.path());
    server.start();
    let mut app = server.create_database("app");
    app.run(TABLE);
    capture(&mut app, "captured", "id", QUERY);
    app.create_view("ticking", 5);
    app.register("ticking", "1 s");
    app.create_view("slow", 5);
    app.register("slow", "50 min");
    app.create_view("by_the_clock", 5);
    app.run("SELECT cache_refresher.register('by_the_clock', schedule => '* * * * *')");
    app.wait_for_refreshes("ticking", 2);
    let begun: f64 = app.get("SELECT extract(epoch FROM clock_timestamp())::float8");
    for (number, offset) in [3600, 0, -3600, 0].into_iter().enumerate() {
        let slow = app.refreshes("slow");
        step(offset);
        let now: f64 = app.get("SELECT extract(epoch FROM clock_timestamp())::float8");
        let stepped = now - begun - offset as f64;
        assert!((0.0..300.0).contains(&stepped), "the clock does not follow: {begun} {now}");
        let before = app.refreshes("ticking");
        app.wait_for_refreshes_within(seconds(8), "ticking", 3);
        assert!(app.refreshes("ticking") < before + 10, "no burst");
        app.run(&format!("UPDATE t SET value = -{number} WHERE id = 50"));
        settle(&mut app, "captured", QUERY);
        app.wait(
            "nothing waits for times that were",
            "SELECT bool_and(next_refresh_at BETWEEN now() - interval '3 s' AND now() + interval '51 min')
               AND bool_and(next_refresh_at < now() + interval '61 s') FILTER (WHERE view_name = 'by_the_clock')
               AND bool_and(age >= '0') FROM cache_refresher.status WHERE view_name <> 'captured'",
        );
        if offset == 3600 {
            assert!(app.refreshes("slow") > slow, "it was due");
        }
        assert!(app.get::<bool>("SELECT cache_refresher.healthy()"), "{offset}");
    }
    assert_eq!(server.fatal_lines(), [""; 0]);
}
