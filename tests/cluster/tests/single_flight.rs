//! Simultaneous callers share refreshes, and everyone reads their own writes.

use std::sync::{Arc, Barrier};

use cluster_tests::{Scratch, Server, Session, millis, seconds};

const CALLERS: i32 = 100;

/// What one of the callers saw.
struct Call {
    outcome: String,
    shows_what_came_before: bool,
    shows_own_row: bool,
}

fn call(mut session: Session, number: i32, together: &Barrier) -> Call {
    together.wait();
    session.run(&format!("INSERT INTO entries VALUES ({number})"));
    let before: String = session.get("SELECT clock_timestamp()::text");
    let row = session
        .query_one(
            "SELECT outcome, data_as_of >= $1::text::timestamptz FROM cache_refresher.refresh('v')",
            &[&before],
        )
        .unwrap_or_else(|error| panic!("{}", cluster_tests::describe(&error)));
    Call {
        outcome: row.get(0),
        shows_what_came_before: row.get(1),
        shows_own_row: session.get(&format!("SELECT count(*) = 1 FROM v WHERE number = {number}")),
    }
}

fn a_hundred_callers(preload: bool) {
    let server = Server::builder().preload(preload).setting("max_connections", "130").start();
    let mut app = server.create_database("app");
    // Two seconds long: even a busy machine gets all callers under way while the first refresh runs.
    app.run(
        "CREATE TABLE entries (number int PRIMARY KEY);
         INSERT INTO entries VALUES (-1);
         CREATE MATERIALIZED VIEW v AS
             SELECT number, (SELECT pg_sleep(2) IS NULL) AS waited_once FROM entries;
         CREATE UNIQUE INDEX ON v (number)",
    );
    let together = Arc::new(Barrier::new(CALLERS as usize));
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| {
            let session = server.connect("app");
            let together = Arc::clone(&together);
            std::thread::spawn(move || call(session, number, &together))
        })
        .collect();
    let calls: Vec<Call> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();

    let refreshed = calls.iter().filter(|call| call.outcome == "refreshed").count();
    let shared = calls.iter().filter(|call| call.outcome == "shared").count();
    assert!((1..=2).contains(&refreshed), "{refreshed} refreshes");
    assert_eq!(refreshed + shared, calls.len());
    assert_eq!(app.refreshes("v"), refreshed as i64, "the log says the same");
    for call in &calls {
        assert!(call.shows_what_came_before);
        assert!(call.shows_own_row);
    }
}

#[test]
fn a_hundred_callers_cause_at_most_two_refreshes() {
    a_hundred_callers(true);
}

#[test]
fn a_hundred_callers_cause_at_most_two_refreshes_without_preload() {
    a_hundred_callers(false);
}

#[test]
fn max_age_leaves_a_view_alone_that_is_fresh_enough() {
    let mut db = Scratch::new("max_age");
    db.create_view("v", 10);
    let with_max_age = |max_age: &str| {
        format!("SELECT outcome FROM cache_refresher.refresh('v', max_age => '{max_age}')")
    };
    assert_eq!(db.get::<String>(&with_max_age("1 hour")), "refreshed", "nothing is known yet");
    db.write("v", 1);
    assert_eq!(db.get::<String>(&with_max_age("1 hour")), "fresh");
    assert_eq!(db.shown("v"), 0);
    assert_eq!(db.refreshes("v"), 1, "a view left alone is not a refresh");
    std::thread::sleep(millis(50));
    assert_eq!(db.get::<String>(&with_max_age("20 ms")), "refreshed");
    assert_eq!(db.shown("v"), 1);
    assert_eq!(db.refresh("v"), "refreshed", "without max_age always");
    assert_eq!(db.refreshes("v"), 3);
}

#[test]
fn calls_one_after_the_other_each_refresh() {
    let mut db = Scratch::new("one_by_one");
    db.create_view("v", 10);
    for value in 1..=5 {
        db.write("v", value);
        assert_eq!(db.refresh("v"), "refreshed");
        assert_eq!(db.shown("v"), value);
    }
    assert_eq!(db.refreshes("v"), 5);
}

#[test]
fn an_uncommitted_refresh_holds_up_no_other_view() {
    let server = Server::builder()
        .setting("cache_refresher.max_workers", "2")
        .setting("cache_refresher.lock_timeout", "500ms")
        .start();
    let mut app = server.create_database("app");
    for view in ["held", "a", "b"] {
        app.create_view(view, 10);
        app.register(view, "300 ms");
    }
    app.wait_for_refreshes("held", 1);
    let mut holder = server.connect("app");
    holder.run("BEGIN");
    assert_eq!(holder.refresh("held"), "refreshed");

    app.wait_for_refreshes_within(seconds(6), "a", 8);
    app.wait_for_refreshes_within(seconds(6), "b", 8);
    for view in ["a", "b"] {
        assert_eq!(app.logged(view, "failed"), 0);
    }
    app.write("held", 3);
    holder.run("COMMIT");
    app.wait_until_shown("held", 3);
}

#[test]
fn one_worker_is_enough_beside_an_uncommitted_refresh() {
    let server = Server::builder().setting("cache_refresher.max_workers", "1").start();
    let mut app = server.create_database("app");
    for view in ["held", "a"] {
        app.create_view(view, 10);
        app.register(view, "300 ms");
    }
    app.wait_for_refreshes("held", 1);
    let mut holder = server.connect("app");
    holder.run("BEGIN");
    holder.refresh("held");
    app.wait_for_refreshes_within(seconds(8), "a", 5);
    holder.run("ROLLBACK");
    app.wait_for_refreshes_within(seconds(8), "held", 2);
}

#[test]
fn whoever_waits_for_a_refresh_that_is_rolled_back_refreshes() {
    let mut db = Scratch::new("rolled_back_leader");
    db.create_view("v", 10);
    let mut leader = db.connect();
    leader.run("BEGIN");
    leader.refresh("v");
    db.write("v", 6);
    let follower = db.server().background(db.name(), "SELECT cache_refresher.refresh('v')");
    std::thread::sleep(millis(500));
    assert!(!follower.is_finished(), "it waits for the leader");
    leader.run("ROLLBACK");
    follower.join().unwrap().unwrap();
    assert_eq!(db.shown("v"), 6);
    assert_eq!(db.refreshes("v"), 1);
}
