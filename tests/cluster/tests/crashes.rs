//! Processes that are terminated or killed come back, and refreshing goes on.

use cluster_tests::{LAUNCHER, PATIENCE, SCHEDULER, Server, Session, Signal, WORKER, seconds};

/// A server with a view that is refreshed all the time, and everything staying around.
fn start() -> (Server, Session) {
    let server = Server::builder().setting("cache_refresher.worker_linger", "10min").start();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.register("v", "500 ms");
    app.wait_for_refreshes("v", 2);
    (server, app)
}

fn first_pid_of(server: &Server, kind: &str) -> i32 {
    let mut found = None;
    server.wait_until(kind, PATIENCE, || {
        found = server.pids_of(kind).first().copied();
        found.is_some()
    });
    found.unwrap()
}

/// A worker that is in the middle of a refresh.
fn busy_worker(server: &Server, app: &mut Session) -> i32 {
    app.create_paced_view("slow");
    app.set_pace("slow", 600.0);
    app.register("slow", "500 ms");
    let mut found = None;
    server.wait_until("a worker is busy", PATIENCE, || {
        found = server
            .processes()
            .iter()
            .find(|p| p.kind == WORKER && p.wait_event.as_deref() == Some("PgSleep"))
            .map(|process| process.pid);
        found.is_some()
    });
    found.unwrap()
}

/// A worker that has nothing to do.
fn idle_worker(server: &Server, app: &mut Session) -> i32 {
    app.run("SELECT cache_refresher.alter('v', refresh_interval => '3 seconds')");
    app.wait_for_refreshes("v", 1);
    let mut found = None;
    server.wait_until("a worker is idle", PATIENCE, || {
        found = server
            .processes()
            .iter()
            .find(|p| p.kind == WORKER && p.wait_event.as_deref() != Some("PgSleep"))
            .map(|process| process.pid);
        found.is_some()
    });
    found.unwrap()
}

fn terminate(server: &Server, app: &mut Session, pid: i32) {
    assert!(app.get::<bool>(&format!("SELECT pg_terminate_backend({pid})")));
    server.wait_until("the process is gone", seconds(5), || {
        server.processes().iter().all(|process| process.pid != pid)
    });
    app.wait_for_refreshes_within(seconds(10), "v", 2);
    assert_eq!(server.log_lines(&["crash of another server process"]), 0);
}

fn kill(server: &Server, app: Session, pid: i32) {
    drop(app);
    server.kill(pid, Signal::KILL);
    let mut after = None;
    server.wait_until("the server took note and is back", PATIENCE, || {
        if server.log_lines(&["terminated by signal 9"]) > 0 {
            after = server.try_connect("app", "postgres").ok();
        }
        after.is_some()
    });
    let mut app = after.unwrap();
    app.wait_for_refreshes_within(seconds(10), "v", 2);
    assert_eq!(server.pids_of(LAUNCHER).len(), 1);
}

#[test]
fn terminating_the_launcher_is_survived() {
    let (server, mut app) = start();
    let pid = first_pid_of(&server, LAUNCHER);
    terminate(&server, &mut app, pid);
    server.wait_until("a new launcher", seconds(10), || server.pids_of(LAUNCHER).len() == 1);
    // It does a launcher's work: a new database is found.
    let mut other = server.create_database("other");
    other.create_view("v", 10);
    other.register("v", "300 ms");
    other.wait_for_refreshes_within(seconds(10), "v", 2);
}

#[test]
fn terminating_a_scheduler_is_survived() {
    let (server, mut app) = start();
    let pid = first_pid_of(&server, SCHEDULER);
    terminate(&server, &mut app, pid);
}

#[test]
fn terminating_an_idle_worker_is_survived() {
    let (server, mut app) = start();
    let pid = idle_worker(&server, &mut app);
    terminate(&server, &mut app, pid);
}

#[test]
fn terminating_a_busy_worker_is_survived_and_its_refresh_is_logged_as_cancelled() {
    let (server, mut app) = start();
    let pid = busy_worker(&server, &mut app);
    terminate(&server, &mut app, pid);
    app.set_pace("slow", 0.0);
    app.wait(
        "the log tells of the refresh that was cut off",
        "SELECT count(*) = 1 FROM cache_refresher.refresh_log
         WHERE view_name = 'slow' AND outcome = 'cancelled' AND sqlstate = '57014'",
    );
}

#[test]
fn a_first_population_that_is_cut_off_is_taken_up_again_at_once() {
    let (server, mut app) = start();
    app.run(
        "CREATE TABLE blocker (id int);
         CREATE MATERIALIZED VIEW first AS SELECT * FROM blocker WITH NO DATA",
    );
    let mut other = server.connect("app");
    other.run("BEGIN");
    other.run("LOCK blocker");
    app.register("first", "1 day");
    app.wait(
        "a worker waits for the table",
        "SELECT count(*) = 1 FROM cache_refresher.progress
          WHERE view = 'first'::regclass AND phase = 'waiting for locks'",
    );
    let worker = app.get("SELECT pid FROM cache_refresher.progress WHERE view = 'first'::regclass");
    terminate(&server, &mut app, worker);
    other.run("ROLLBACK");
    app.wait_for(
        "it is populated",
        seconds(10),
        "SELECT relispopulated FROM pg_class WHERE relname = 'first'",
    );
}

#[test]
fn terminating_everything_again_and_again_is_survived() {
    let (server, mut app) = start();
    for _ in 0..5 {
        app.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE backend_type LIKE 'cache_refresher %'",
        );
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    app.wait_for_refreshes("v", 3);
    assert_eq!(server.pids_of(LAUNCHER).len(), 1);
}

#[test]
fn killing_the_launcher_is_survived() {
    let (server, app) = start();
    let pid = first_pid_of(&server, LAUNCHER);
    kill(&server, app, pid);
}

#[test]
fn killing_a_scheduler_is_survived() {
    let (server, app) = start();
    let pid = first_pid_of(&server, SCHEDULER);
    kill(&server, app, pid);
}

#[test]
fn killing_an_idle_worker_is_survived() {
    let (server, mut app) = start();
    let pid = idle_worker(&server, &mut app);
    kill(&server, app, pid);
}

#[test]
fn killing_a_busy_worker_is_survived_and_leaves_nothing_running() {
    let (server, mut app) = start();
    let pid = busy_worker(&server, &mut app);
    app.set_pace("slow", 0.0);
    kill(&server, app, pid);
    // Had 'running' been stored, this view would be stuck now.
    server.connect("app").wait_for_refreshes("slow", 2);
}
