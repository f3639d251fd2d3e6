//! When launcher, schedulers and workers are there, and when they are not.

use std::collections::BTreeSet;
use std::time::Instant;

use cluster_tests::{
    A_SECOND, LAUNCHER, Mode, PATIENCE, SCHEDULER, Server, WORKER, millis, seconds,
};

#[test]
fn create_extension_starts_scheduling_without_a_restart() {
    let server = Server::builder().start();
    assert_eq!(server.pids_of(LAUNCHER).len(), 1);
    server.create_plain_database("app");
    let mut app = server.connect("app");
    app.run("SELECT pg_sleep(1)"); // the launcher has been here and found nothing
    app.create_view("v", 10);

    app.run("CREATE EXTENSION cache_refresher");
    app.register("v", "300 ms");

    app.wait_for_refreshes("v", 3);
    assert!(server.log_lines(&["cache_refresher", "launcher", "started"]) >= 1);
}

#[test]
fn an_extension_that_comes_with_a_prepared_transaction_is_scheduled() {
    let server = Server::builder().setting("max_prepared_transactions", "2").start();
    server.create_plain_database("app");
    let mut app = server.connect("app");
    app.run("SELECT pg_sleep(1)"); // the launcher has been here and found nothing
    app.create_view("v", 10);

    app.run("BEGIN");
    app.run("CREATE EXTENSION cache_refresher");
    app.register("v", "300 ms");
    app.run("PREPARE TRANSACTION 'install'");
    drop(app);
    server.connect("postgres").run("SELECT pg_sleep(0.5)");
    let mut app = server.connect("app");
    app.run("COMMIT PREPARED 'install'");

    app.wait_for_refreshes("v", 2);
}

#[test]
fn drop_extension_ends_scheduling_within_a_second() {
    let server = Server::builder().setting("cache_refresher.worker_linger", "10min").start();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.create_paced_view("slow");
    app.register("v", "200 ms");
    app.register("slow", "200 ms");
    app.wait_for_refreshes("v", 2);
    app.set_pace("slow", 600.0);
    app.wait_for_state("slow", "running");

    let start = Instant::now();
    app.run("DROP EXTENSION cache_refresher");
    assert!(start.elapsed() < A_SECOND, "DROP EXTENSION took {:?}", start.elapsed());

    server.wait_until("nothing runs in app", A_SECOND, || server.processes_in("app") == 0);
    std::thread::sleep(seconds(1));
    assert_eq!(server.processes_in("app"), 0, "nothing comes back");
    assert_eq!(server.fatal_lines(), [""; 0]);
}

#[test]
fn the_extension_can_be_dropped_and_created_again() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.register("v", "300 ms");
    app.wait_for_refreshes("v", 1);
    app.run("DROP EXTENSION cache_refresher");
    app.run("CREATE EXTENSION cache_refresher");
    app.register("v", "300 ms");
    app.wait_for_refreshes("v", 2);
}

#[test]
fn an_idle_server_keeps_only_the_launcher() {
    let server = Server::builder().setting("cache_refresher.worker_linger", "500ms").start();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.run("CREATE MATERIALIZED VIEW fresh AS SELECT id FROM v WITH NO DATA");
    app.register("v", "1 year");
    app.register("fresh", "1 year");
    app.wait("fresh is populated", "SELECT relispopulated FROM pg_class WHERE relname = 'fresh'");

    let only_the_launcher = || {
        let kinds: Vec<String> = server.processes().into_iter().map(|p| p.kind).collect();
        kinds == [LAUNCHER]
    };
    server.wait_until("only the launcher is left", PATIENCE, only_the_launcher);
    let log = server.log().len();
    for _ in 0..20 {
        std::thread::sleep(millis(100));
        assert!(only_the_launcher(), "{:#?}", server.processes());
    }
    assert_eq!(server.log().len(), log, "an idle server says nothing");

    // The deadline that the scheduler left behind is kept: a change of it wakes the launcher.
    app.run("SELECT cache_refresher.alter('v', refresh_interval => '300 ms')");
    app.wait_for_refreshes("v", 2);
}

#[test]
fn a_deadline_beyond_the_linger_time_is_kept() {
    let server = Server::builder().setting("cache_refresher.worker_linger", "200ms").start();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.register("v", "3 seconds");
    app.wait_for_refreshes("v", 1);
    server.wait_until("the scheduler went", seconds(3), || server.pids_of(SCHEDULER).is_empty());
    app.wait_for_refreshes_within(seconds(6), "v", 1);
}

#[test]
fn among_many_databases_only_those_with_the_extension_have_processes() {
    let server = Server::builder().setting("cache_refresher.worker_linger", "500ms").start();
    let mut admin = server.connect("postgres");
    for number in 0..28 {
        admin.run(&format!("CREATE DATABASE plain_{number}"));
    }
    for name in ["first", "second"] {
        let mut app = server.create_database(name);
        app.create_view("v", 10);
        app.register("v", "300 ms");
    }
    drop(admin);
    server.restart();

    let (mut first, mut second) = (server.connect("first"), server.connect("second"));
    first.wait_for_refreshes("v", 1);
    second.wait_for_refreshes("v", 1);
    // After a start the launcher looks into each database once.
    let elsewhere = || {
        server
            .processes()
            .iter()
            .filter(|p| p.database.as_ref().is_some_and(|name| name.starts_with("plain")))
            .count()
    };
    let mut quiet_since = Instant::now();
    server.wait_until("the plain databases are left alone", seconds(40), || {
        if elsewhere() > 0 {
            quiet_since = Instant::now();
        }
        quiet_since.elapsed() > seconds(2)
    });
    let databases: BTreeSet<String> = (0..20)
        .flat_map(|_| {
            std::thread::sleep(millis(50));
            server.processes()
        })
        .filter_map(|process| process.database)
        .collect();
    assert_eq!(databases, BTreeSet::from(["first".into(), "second".into()]));

    // With nothing to do soon, they go too.
    for app in [&mut first, &mut second] {
        app.run("SELECT cache_refresher.alter('v', refresh_interval => '1 year')");
    }
    server.wait_until("only the launcher is left", PATIENCE, || server.processes().len() == 1);
}

#[test]
fn the_databases_setting_limits_where_schedulers_run() {
    let server =
        Server::builder().setting("cache_refresher.databases", "wanted, also_wanted").start();
    let mut wanted = server.create_database("wanted");
    let mut unwanted = server.create_database("unwanted");
    for app in [&mut wanted, &mut unwanted] {
        app.create_view("v", 10);
        app.register("v", "300 ms");
    }
    wanted.wait_for_refreshes("v", 3);
    assert_eq!(unwanted.refreshes("v"), 0);
    assert_eq!(server.processes_in("unwanted"), 0);
    assert_eq!(unwanted.refresh("v"), "refreshed", "by hand it works");

    server.set("cache_refresher.databases", "unwanted");
    server.reload();
    unwanted.wait_for_refreshes("v", 2);
    server.wait_until("nothing runs in wanted", PATIENCE, || server.processes_in("wanted") == 0);
    wanted.stays_unrefreshed("v", seconds(1));

    server.set("cache_refresher.databases", "*");
    server.reload();
    wanted.wait_for_refreshes("v", 2);
    unwanted.wait_for_refreshes("v", 2);
}

#[test]
fn enabled_off_stops_scheduling_and_on_starts_it_again() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.register("v", "200 ms");
    app.wait_for_refreshes("v", 2);

    server.set("cache_refresher.enabled", "off");
    server.reload();
    server
        .wait_until("workers and scheduler are gone", PATIENCE, || server.processes_in("app") == 0);
    app.stays_unrefreshed("v", seconds(1));
    assert_eq!(app.refresh("v"), "refreshed", "by hand it works");

    server.set("cache_refresher.enabled", "on");
    server.reload();
    app.wait_for_refreshes("v", 2);
}

#[test]
fn a_shutdown_does_not_wait_for_a_running_refresh() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    app.create_paced_view("slow");
    app.create_view("quick", 10);
    app.register("slow", "200 ms");
    app.register("quick", "200 ms");
    app.set_pace("slow", 600.0);

    for mode in [Mode::Smart, Mode::Fast, Mode::Immediate] {
        app.wait_for_state("slow", "running");
        app.wait_for_refreshes("quick", 1);
        drop(app);
        let took = server.stop(mode);
        assert!(took < seconds(5), "{mode:?} shutdown took {took:?}");
        assert_eq!(server.log_lines(&["cache_refresher", "ERROR"]), 0, "{}", server.log());
        server.start();
        app = server.connect("app");
    }
    app.wait_for_refreshes("quick", 2);
}

#[test]
fn without_preload_everything_but_scheduling_works() {
    let server = Server::builder().preload(false).start();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.register("v", "100 ms");
    app.write("v", 7);
    assert_eq!(app.refresh("v"), "refreshed");
    assert_eq!(app.shown("v"), 7);
    assert_eq!(app.refreshes("v"), 1);
    assert_eq!(
        app.get::<String>("SELECT cache_refresher.freshness('v') ->> 'data_source'"),
        "cached"
    );
    assert!(app.get::<bool>("SELECT cache_refresher.age('v') < '1 minute'"));
    assert_eq!(app.get::<String>("SELECT view_name FROM cache_refresher.status"), "v");
    app.run("SELECT cache_refresher.pause('v'); SELECT cache_refresher.resume('v')");
    app.run("SELECT * FROM cache_refresher.refresh_all()");
    app.run("SELECT cache_refresher.alter('v', refresh_interval => '1 minute')");
    assert!(!app.get::<bool>("SELECT cache_refresher.cancel('v')"));

    assert!(!app.get::<bool>("SELECT cache_refresher.healthy()"));
    let hint: String =
        app.get("SELECT hint FROM cache_refresher.health() WHERE status = 'critical'");
    assert!(hint.contains("shared_preload_libraries"), "{hint}");
    app.run("SELECT cache_refresher.unregister('v')");
    assert!(server.processes().is_empty());
    assert!(server.pids_of(WORKER).is_empty());
}

#[test]
fn a_standby_runs_nothing_until_it_is_promoted() {
    let primary = Server::builder().start();
    let mut app = primary.create_database("app");
    app.create_view("v", 10);
    app.register("v", "300 ms");
    app.wait_for_refreshes("v", 2);
    let standby = Server::builder().standby_of(&primary).start();

    let mut copy = standby.connect("app");
    app.write("v", 5);
    app.wait_until_shown("v", 5);
    copy.wait_until_shown("v", 5);
    assert!(standby.processes().is_empty(), "{:?}", standby.processes());
    assert!(copy.get::<bool>("SELECT cache_refresher.age('v') IS NOT NULL"));
    let refusal = copy.error_of("SELECT cache_refresher.refresh('v')");
    assert_eq!(refusal.code().code(), "25006", "{refusal:?}");

    drop(app);
    primary.stop(Mode::Immediate);
    copy.run("SELECT pg_promote()");
    copy.wait_for_refreshes("v", 2);
    copy.write("v", 6);
    copy.wait_until_shown("v", 6);
}

#[test]
fn a_standby_that_lags_calls_nothing_fresh() {
    let primary = Server::builder().start();
    let mut app = primary.create_database("app");
    app.create_view("v", 10);
    app.run("SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')");
    let fresh = "SELECT staleness = 'fresh' FROM cache_refresher.status";
    app.wait("it is fresh", fresh);
    let standby = Server::builder().standby_of(&primary).start();
    let mut copy = standby.connect("app");
    copy.wait("it is shown", "SELECT count(*) = 10 FROM v");
    copy.run("SELECT pg_wal_replay_pause()");
    app.write("v", 5);
    app.wait_until_shown("v", 5);
    app.wait("it is fresh", fresh);
    std::thread::sleep(millis(1100));
    for asked in [
        "SELECT staleness = 'unknown' AND age > '1 s' FROM cache_refresher.status",
        "SELECT cache_refresher.is_stale('v', '1 s')",
        "SELECT cache_refresher.is_stale('v') IS NULL",
        "SELECT (cache_refresher.freshness('v') ->> 'age_seconds')::float > 1",
    ] {
        assert!(copy.get::<bool>(asked), "{asked}");
    }
    copy.run("SELECT pg_wal_replay_resume()");
    copy.wait_until_shown("v", 5);
}

#[test]
fn errors_of_other_statements_keep_their_code_and_context() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    let error = app.error_of("DO $$ BEGIN RAISE 'mine' USING ERRCODE = 'P0042'; END $$");
    assert_eq!(error.code().code(), "P0042");
    let context = error.where_().unwrap_or_default();
    assert!(context.contains("inline_code_block"), "{context}");
}

#[test]
fn after_a_restart_no_database_waits_for_the_work_of_others_to_end() {
    let server = Server::builder().setting("max_worker_processes", "20").start();
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        let mut db = server.create_database(name);
        db.create_view("v", 5);
        db.register("v", "500 ms");
    }
    server.restart();
    for name in names {
        let mut db = server.connect(name);
        db.wait_for_refreshes_within(seconds(10), "v", 1);
    }
}

#[test]
fn a_session_that_is_terminated_while_it_refreshes_leaves_a_log_row_and_no_mark() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    app.create_paced_view("v");
    app.register("v", "1 year");
    app.set_pace("v", 60.0);
    let refresh = server.background("app", "SELECT cache_refresher.refresh('v')");
    app.wait_for_state("v", "running");
    app.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE query LIKE '%refresher.refresh%' AND pid <> pg_backend_pid()",
    );
    assert!(refresh.join().unwrap().is_err());
    app.wait_for_state("v", "scheduled");
    app.wait(
        "it is logged",
        "SELECT count(*) = 1 FROM cache_refresher.refresh_log
          WHERE outcome = 'cancelled' AND sqlstate = '57P01'",
    );
    assert!(!app.get::<bool>("SELECT cache_refresher.cancel('v')"));
}
