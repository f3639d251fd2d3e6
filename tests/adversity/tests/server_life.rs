//! Databases that are closed, standbys that are away, primaries that become standbys.

use std::process::Command;

use adversity_tests::{capture, settle};
use cluster_tests::{A_SECOND, LAUNCHER, Mode, PATIENCE, Server, seconds};

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
    let query = "SELECT id, value FROM t";
    app.run("CREATE TABLE t (id int PRIMARY KEY, value int); INSERT INTO t SELECT i, i FROM generate_series(1, 100) i");
    capture(&mut app, "v", "id", query);
    app.run("SELECT cache_refresher.alter('v', refresh_interval => '300 ms')");
    server.set("synchronous_standby_names", "nobody_there");
    server.reload();
    // Our own session does not wait, as those of a careful application would.
    app.run("SET synchronous_commit = local; UPDATE t SET value = -1 WHERE id = 1");
    settle(&mut app, "v", query);
    app.run("UPDATE t SET value = -2 WHERE id = 2");
    settle(&mut app, "v", query);
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
    let query = "SELECT id, value FROM t";
    app.run("CREATE TABLE t (id int PRIMARY KEY, value int); INSERT INTO t SELECT i, i FROM generate_series(1, 100) i");
    capture(&mut app, "v", "id", query);
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
    settle(&mut promoted, "v", query);
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
