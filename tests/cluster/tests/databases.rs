//! DROP DATABASE and its kin work without FORCE, and refreshing goes on where it can.

use std::time::Instant;

use cluster_tests::{A_SECOND, PATIENCE, SCHEDULER, Server, Session, WORKER, seconds};

/// A server on which scheduler and workers stay, with `app` in which `v` is refreshed all the time.
fn start() -> (Server, Session) {
    let server = Server::builder().setting("cache_refresher.worker_linger", "10min").start();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.register("v", "300 ms");
    app.wait_for_refreshes("v", 2);
    (server, app)
}

/// Runs a statement in `postgres` that has to be done within a second.
fn promptly(server: &Server, sql: &str) {
    let mut admin = server.connect("postgres");
    let start = Instant::now();
    admin.run(sql);
    assert!(start.elapsed() < A_SECOND, "{sql} took {:?}", start.elapsed());
}

#[test]
fn drop_database_needs_no_force_beside_an_idle_worker() {
    let (server, mut app) = start();
    app.run("SELECT cache_refresher.alter('v', refresh_interval => '1 year')");
    std::thread::sleep(seconds(1));
    assert_eq!(server.pids_of(SCHEDULER).len(), 1, "{:?}", server.processes());
    assert!(!server.pids_of(WORKER).is_empty(), "{:?}", server.processes());
    drop(app);
    promptly(&server, "DROP DATABASE app");
    std::thread::sleep(seconds(2));
    assert_eq!(server.fatal_lines(), [""; 0], "nothing tries to go back");
}

#[test]
fn drop_database_needs_no_force_during_a_long_refresh() {
    let (server, mut app) = start();
    app.create_paced_view("slow");
    app.set_pace("slow", 600.0);
    app.register("slow", "300 ms");
    app.wait_for_state("slow", "running");
    drop(app);
    promptly(&server, "DROP DATABASE app");
    server.wait_until("no worker is left", PATIENCE, || server.pids_of(WORKER).is_empty());
}

#[test]
fn other_databases_are_not_disturbed_by_a_drop() {
    let (server, app) = start();
    let mut other = server.create_database("other");
    other.create_view("v", 10);
    other.register("v", "300 ms");
    other.wait_for_refreshes("v", 1);
    drop(app);
    promptly(&server, "DROP DATABASE app");
    other.wait_for_refreshes_within(seconds(5), "v", 3);
    // A database of the same name later on is a new one.
    let mut again = server.create_database("app");
    again.create_view("v", 10);
    again.register("v", "300 ms");
    again.wait_for_refreshes("v", 2);
}

#[test]
fn a_database_in_use_by_us_can_be_a_template() {
    let (server, app) = start();
    drop(app);
    server.connect("postgres").run("CREATE DATABASE copy TEMPLATE app");
    server.connect("app").wait_for_refreshes("v", 2);
    // The copy holds the extension and the registration.
    let mut copy = server.connect("copy");
    copy.write("v", 3);
    copy.wait_until_shown("v", 3);
}

#[test]
fn a_renamed_database_goes_on_under_its_new_name() {
    let (server, app) = start();
    drop(app);
    promptly(&server, "ALTER DATABASE app RENAME TO renamed");
    let mut renamed = server.connect("renamed");
    renamed.wait_for_refreshes("v", 2);
    assert!(server.processes_in("renamed") > 0);
}

#[test]
fn a_database_moved_to_another_tablespace_goes_on() {
    let (server, app) = start();
    drop(app);
    let folder = server.new_folder("elsewhere");
    let mut admin = server.connect("postgres");
    admin.run(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", folder.display()));
    admin.run("ALTER DATABASE app SET TABLESPACE elsewhere");
    let mut app = server.connect("app");
    app.wait_for_refreshes("v", 2);
}

#[test]
fn a_statement_that_fails_gives_the_database_back() {
    let (server, mut app) = start();
    server.create_plain_database("taken");
    let mut admin = server.connect("postgres");
    let refusal = admin.error_of("ALTER DATABASE app RENAME TO taken");
    assert!(matches!(refusal.code().code(), "42P04" | "55006"), "{refusal:?}");
    app.wait_for_refreshes("v", 2);

    // Somebody else's session is in the way, as without the extension.
    let refusal = admin.error_of("DROP DATABASE app");
    assert_eq!(refusal.code().code(), "55006", "{refusal:?}");
    app.wait_for_refreshes("v", 2);
}

#[test]
fn a_transaction_keeps_the_database_to_itself_until_it_ends() {
    let (server, app) = start();
    drop(app);
    let mut admin = server.connect("postgres");
    admin.run("BEGIN");
    admin.run("ALTER DATABASE app RENAME TO renamed");
    server.wait_until("nothing runs there", PATIENCE, || server.pids_of(SCHEDULER).is_empty());
    std::thread::sleep(seconds(1));
    assert!(server.pids_of(SCHEDULER).is_empty(), "{:?}", server.processes());
    admin.run("ROLLBACK");
    server.connect("app").wait_for_refreshes("v", 2);
}

#[test]
fn a_session_that_dies_gives_the_database_back() {
    let (server, app) = start();
    drop(app);
    let mut admin = server.connect("postgres");
    admin.run("BEGIN");
    admin.run("ALTER DATABASE app RENAME TO renamed");
    drop(admin);
    server.wait_until("app can be connected to", PATIENCE, || {
        server.try_connect("app", "postgres").is_ok()
    });
    server.connect("app").wait_for_refreshes("v", 2);
}

#[test]
fn a_user_without_rights_disturbs_nothing() {
    let (server, mut app) = start();
    app.run("CREATE ROLE nobody LOGIN");
    let pids = server.pids_of(SCHEDULER);
    let mut nobody = server.connect_as("postgres", "nobody");
    let refusal = nobody.error_of("DROP DATABASE app");
    assert_eq!(refusal.code().code(), "42501", "{refusal:?}");
    app.wait_for_refreshes("v", 2);
    assert_eq!(server.pids_of(SCHEDULER), pids, "the scheduler was not even stopped");
}

#[test]
fn registrations_survive_dump_and_restore() {
    let (server, mut app) = start();
    app.create_view("hourly", 5);
    app.run(
        "CREATE ROLE fan;
         SELECT cache_refresher.register('hourly', schedule => '0 * * * *', time_zone => 'Europe/Berlin',
             method => 'full', summary_query => 'SELECT count(*) AS n FROM hourly');
         SELECT cache_refresher.grant_refresh('hourly', 'fan')",
    );
    let configuration = "SELECT string_agg(r::text, ' ' ORDER BY r.view_name)
                         || (SELECT string_agg(g::text, ' ') FROM _cache_refresher.refresh_grant g)
                         FROM _cache_refresher.registry r";
    let before: String = app.get(configuration);
    let dump = server.new_folder("dump").join("app.sql");
    let dumped = server.client("pg_dump").args(["--dbname=app", "--file"]).arg(&dump).status();
    assert!(dumped.unwrap().success());

    server.create_plain_database("restored");
    let restored = server
        .client("psql")
        .args(["--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1"])
        .args(["--dbname=restored", "--file"])
        .arg(&dump)
        .status();
    assert!(restored.unwrap().success());

    let mut restored = server.connect("restored");
    assert_eq!(restored.get::<String>(configuration), before);
    restored.wait_for_refreshes("v", 2);
    restored.write("v", 9);
    restored.wait_until_shown("v", 9);
}

#[test]
fn a_view_is_found_by_what_it_is_when_schemas_change_their_names_meanwhile() {
    let (_server, mut app) = start();
    app.run(
        "CREATE SCHEMA live; CREATE SCHEMA next;
         CREATE TABLE live_source AS SELECT 1 AS x; CREATE TABLE next_source AS SELECT 2 AS x;
         CREATE MATERIALIZED VIEW live.w AS SELECT x FROM live_source;
         CREATE MATERIALIZED VIEW next.w AS SELECT x FROM next_source",
    );
    let oid: u32 = app.get("SELECT 'live.w'::regclass::oid");
    app.run("INSERT INTO live_source VALUES (10); BEGIN; LOCK live_source");
    let (server, mut swapper) = (&_server, _server.connect("app"));
    let refresh = server.background(
        "app",
        &format!("SET cache_refresher.lock_timeout = '20s'; SELECT cache_refresher.refresh({oid}::oid::regclass, 'full')"),
    );
    server.wait_until("the refresh waits for the source", seconds(10), || {
        swapper.get::<bool>("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
    });
    swapper.run("ALTER SCHEMA live RENAME TO old; ALTER SCHEMA next RENAME TO live");
    app.run("COMMIT");
    refresh.join().unwrap().unwrap();
    assert_eq!(app.get::<i64>("SELECT count(*) FROM old.w"), 2);
}

#[test]
fn databases_whose_registry_cannot_be_read_hold_up_no_others() {
    let server = Server::builder().setting("max_worker_processes", "20").start();
    for number in 1..=4 {
        let mut db = server.create_database(&format!("broken{number}"));
        // As where the library is of another version than what was installed there.
        db.run("ALTER TABLE _cache_refresher.registry RENAME COLUMN paused TO stopped");
    }
    server.restart();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.register("v", "300 ms");
    app.wait_for_refreshes("v", 2);
}

#[test]
fn more_databases_than_the_server_has_places_for_take_turns() {
    let server = Server::builder()
        .setting("max_worker_processes", "7")
        .setting("cache_refresher.max_workers", "2")
        .start();
    let mut sessions: Vec<Session> = (0..9)
        .map(|number| {
            let mut db = server.create_database(&format!("app{number}"));
            db.create_view("v", 10);
            db.register("v", "1 second");
            db
        })
        .collect();
    for (number, db) in sessions.iter_mut().enumerate() {
        let before = db.refreshes("v");
        db.wait_for_refreshes_within(seconds(60), "v", 3);
        assert!(db.refreshes("v") > before, "app{number}");
    }
    assert_eq!(server.fatal_lines(), [""; 0]);
}
