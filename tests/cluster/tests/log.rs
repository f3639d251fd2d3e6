//! What happened is in the log, and what the log says has happened.

use cluster_tests::{Scratch, Server, millis, seconds, state_of};

#[test]
fn each_refresh_that_ran_has_exactly_one_row() {
    let mut db = Scratch::new("one_row");
    db.create_view("v", 30);
    db.register("v", "1 year");
    for count in 1..=3 {
        db.refresh("v");
        assert_eq!(db.refreshes("v"), count);
    }
    assert!(db.get::<bool>(
        "SELECT bool_and(trigger = 'manual' AND method = 'diff' AND rows_total = 30
                AND role_name = 'postgres' AND view_schema = 'public' AND reason IS NOT NULL
                AND duration_ms > 0 AND data_as_of >= started_at - interval '1 ms'
                AND sqlstate IS NULL AND message IS NULL)
         FROM cache_refresher.refresh_log"
    ));
    db.run("SELECT cache_refresher.alter('v', refresh_interval => '200 ms')");
    db.wait_for_refreshes("v", 4);
    db.run("SELECT cache_refresher.pause('v')");
    db.stays_unrefreshed("v", millis(400));
    assert!(db.get::<bool>(
        "SELECT s.refreshes = (SELECT count(*) FROM cache_refresher.refresh_log)
            AND s.failures = 0 AND s.cancellations = 0 FROM cache_refresher.status s"
    ));
    assert!(db.get::<bool>(
        "SELECT count(*) = 1 AND bool_and(view_name = 'v' AND total_rows = 30
                AND last_refreshed_at = (SELECT last_refreshed_at FROM cache_refresher.status))
         FROM cache_refresher.materialized_view_refresh_log"
    ));
}

#[test]
fn a_refresh_that_is_rolled_back_leaves_no_trace() {
    let mut db = Scratch::new("rolled_back");
    db.create_view("v", 10);
    db.register("v", "1 year");
    db.write("v", 5);
    db.run("BEGIN");
    assert_eq!(db.refresh("v"), "refreshed");
    assert_eq!(db.refreshes("v"), 1, "its own transaction sees it");
    db.run("ROLLBACK");
    assert_eq!(db.shown("v"), 0);
    assert_eq!(db.refreshes("v"), 0);
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM cache_refresher.materialized_view_refresh_log"),
        0
    );
    assert!(db.get::<bool>("SELECT cache_refresher.age('v') IS NULL"));
    assert!(db.get::<bool>(
        "SELECT last_refreshed_at IS NULL AND refreshes = 0 FROM cache_refresher.status"
    ));
}

#[test]
fn a_failure_in_a_users_session_is_logged_by_the_scheduler() {
    let mut db = Scratch::new("users_failure");
    db.run("CREATE ROLE log_tester LOGIN; GRANT ALL ON SCHEMA public TO log_tester");
    let mut user = db.connect_as("log_tester");
    for view in ["registered", "unregistered"] {
        user.create_fragile_view(view);
        user.break_view(view);
    }
    user.register("registered", "1 year");
    for view in ["registered", "unregistered"] {
        let refusal = user.error_of(&format!("SELECT cache_refresher.refresh('{view}')"));
        assert_eq!(refusal.code().code(), "22012", "the error itself is raised: {refusal:?}");
        db.wait(
            "it is logged",
            &format!(
                "SELECT count(*) = 1 AND bool_and(outcome = 'failed' AND sqlstate = '22012'
                     AND message = 'division by zero' AND trigger = 'manual' AND role_name = 'log_tester')
                 FROM cache_refresher.refresh_log WHERE view_name = '{view}'"
            ),
        );
    }
    std::thread::sleep(millis(500));
    assert_eq!(db.get::<i64>("SELECT count(*) FROM cache_refresher.refresh_log"), 2);
    db.run("DROP OWNED BY log_tester CASCADE; DROP ROLE log_tester");
}

#[test]
fn cancel_ends_a_workers_refresh_and_is_logged() {
    let mut db = Scratch::new("cancel_worker");
    db.create_paced_view("v");
    db.set_pace("v", 600.0);
    assert!(!db.get::<bool>("SELECT cache_refresher.cancel('v')"), "nothing runs");
    db.register("v", "300 ms");
    db.wait_until_pacing();
    db.set_pace("v", 0.0);
    assert!(db.get::<bool>("SELECT cache_refresher.cancel('v')"));
    db.wait_for(
        "it is logged as cancelled",
        seconds(5),
        "SELECT count(*) = 1 AND bool_and(sqlstate = '57014')
         FROM cache_refresher.refresh_log WHERE outcome = 'cancelled'",
    );
    assert!(
        db.get::<bool>("SELECT cancellations = 1 AND failures = 0 FROM cache_refresher.status")
    );
    db.wait_for_refreshes("v", 1);
}

#[test]
fn cancel_ends_a_users_refresh() {
    let mut db = Scratch::new("cancel_user");
    db.create_paced_view("v");
    db.set_pace("v", 600.0);
    let caller = db.server().background(db.name(), "SELECT cache_refresher.refresh('v')");
    db.wait("it can be cancelled", "SELECT cache_refresher.cancel('v')");
    let error = caller.join().unwrap().unwrap_err();
    assert_eq!(state_of(&error), "57014", "{error}");
    db.wait(
        "it is logged as cancelled",
        "SELECT count(*) = 1 FROM cache_refresher.refresh_log
         WHERE outcome = 'cancelled' AND sqlstate = '57014' AND trigger = 'manual'",
    );
}

#[test]
fn cancel_ends_nothing_but_refreshes() {
    for preload in [true, false] {
        let server = Server::builder().preload(preload).start();
        let mut db = server.create_database("app");
        db.create_view("v", 3);
        db.run(
            "CREATE ROLE helper; GRANT SELECT ON v TO helper;
             SELECT cache_refresher.register('v', refresh_interval => '1 day');
             SELECT cache_refresher.grant_refresh('v', 'helper')",
        );
        let other = server.background(
            "app",
            "SELECT cache_refresher.refresh('v'); SELECT pg_sleep(1.5), 'something else'",
        );
        db.wait(
            "it does something else",
            "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
        );
        db.run("SET ROLE helper");
        assert!(!db.get::<bool>("SELECT cache_refresher.cancel('v')"), "preload {preload}");
        other.join().unwrap().unwrap();
    }
}

#[test]
fn a_views_own_timeout_ends_a_long_refresh() {
    let mut db = Scratch::new("own_timeout");
    db.create_paced_view("v");
    db.run(
        "SELECT cache_refresher.register('v', refresh_interval => '300 ms', timeout => '500 ms')",
    );
    db.wait_for_refreshes("v", 1);
    db.set_pace("v", 600.0);
    db.wait(
        "it failed with a message that says why",
        "SELECT outcome = 'failed' AND message LIKE '%timeout%' AND duration_ms BETWEEN 400 AND 5000
         FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 1",
    );
    assert!(db.get::<bool>("SELECT cancellations = 0 FROM cache_refresher.status"));
    let refusal = db.error_of("SELECT cache_refresher.refresh('v')");
    assert!(refusal.message().contains("timeout"), "by hand too: {refusal:?}");
    db.set_pace("v", 0.0);
    db.run("SELECT cache_refresher.resume('v')");
    db.wait_for_refreshes("v", 1);
}

#[test]
fn the_timeout_setting_ends_a_long_refresh() {
    let server = Server::builder().setting("cache_refresher.timeout", "500ms").start();
    let mut app = server.create_database("app");
    app.create_paced_view("v");
    app.set_pace("v", 600.0);
    app.register("v", "300 ms");
    app.wait(
        "it failed with a message that says why",
        "SELECT count(*) > 0 AND bool_and(outcome = 'failed' AND message LIKE '%timeout%')
         FROM cache_refresher.refresh_log",
    );
    // A view's own value comes first.
    app.create_paced_view("patient");
    app.set_pace("patient", 1.0);
    app.run("SELECT cache_refresher.register('patient', refresh_interval => '300 ms', timeout => '1 minute')");
    app.wait_for_refreshes("patient", 1);
}

#[test]
fn history_is_bounded_by_rows_for_each_view() {
    let server = Server::builder().setting("cache_refresher.log_max_rows", "5").start();
    let mut app = server.create_database("app");
    app.create_view("rare", 5);
    app.refresh("rare");
    app.create_view("v", 5);
    app.register("v", "100 ms");
    app.wait(
        "thirty refreshes",
        "SELECT refreshes >= 30 FROM cache_refresher.status WHERE view_name = 'v'",
    );
    app.run("SELECT cache_refresher.pause('v')");
    app.wait(
        "only the latest five are kept",
        "SELECT count(*) BETWEEN 1 AND 5 AND max(started_at) = max(started_at) FILTER (WHERE rank <= 5)
         FROM (SELECT *, row_number() OVER (ORDER BY id DESC) AS rank
                 FROM cache_refresher.refresh_log WHERE view_name = 'v') l",
    );
    assert_eq!(app.refreshes("rare"), 1, "each view has rows of its own");
}

#[test]
fn history_is_bounded_by_age() {
    let server = Server::builder().setting("cache_refresher.log_retention", "2s").start();
    let mut app = server.create_database("app");
    app.create_view("rare", 5);
    app.refresh("rare");
    app.create_view("v", 5);
    app.register("v", "300 ms");
    app.wait_for_refreshes("v", 2);
    app.wait_for(
        "what is older is gone, whatever view it is about",
        seconds(30),
        "SELECT min(started_at) > (SELECT min(registered_at) + interval '2 s' FROM cache_refresher.status)
            AND bool_and(view_name = 'v') FROM cache_refresher.refresh_log",
    );
    assert!(app.get::<bool>("SELECT refreshes > 3 FROM cache_refresher.status"), "totals are kept");
}

#[test]
fn the_summary_is_kept_with_the_refresh() {
    let mut db = Scratch::new("summary");
    db.create_view("v", 20);
    db.run(
        "SELECT cache_refresher.register('v', refresh_interval => '1 year',
             summary_query => 'SELECT count(*) AS total_jobs, sum(value) AS total_value FROM v')",
    );
    db.write("v", 42);
    db.refresh("v");
    for place in ["refresh_log", "materialized_view_refresh_log"] {
        assert_eq!(
            db.get::<serde_json::Value>(&format!("SELECT summary FROM cache_refresher.{place}")),
            serde_json::json!({"total_jobs": 20, "total_value": 42}),
            "it sees what was just refreshed"
        );
    }
    db.run("SELECT cache_refresher.alter('v', reset => '{summary_query}')");
    db.refresh("v");
    assert!(db.get::<bool>(
        "SELECT summary IS NULL FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 1"
    ));
}

#[test]
fn a_summary_that_fails_fails_its_refresh_and_the_view_keeps_its_content() {
    let mut db = Scratch::new("failing_summary");
    db.create_view("v", 10);
    db.run(
        "CREATE TABLE divisor AS SELECT 1 AS d;
         SELECT cache_refresher.register('v', refresh_interval => '300 ms',
             summary_query => 'SELECT 10 / d AS x FROM divisor')",
    );
    db.wait_for_refreshes("v", 1);
    db.run("UPDATE divisor SET d = 0");
    db.wait(
        "the refresh failed",
        "SELECT count(*) > 0 FROM cache_refresher.refresh_log
         WHERE outcome = 'failed' AND sqlstate = '22012' AND message LIKE '%division by zero%'",
    );
    db.write("v", 5);
    let failures = db.logged("v", "failed");
    db.wait(
        "it is tried again",
        &format!(
            "SELECT count(*) > {failures} FROM cache_refresher.refresh_log WHERE outcome = 'failed'"
        ),
    );
    assert_eq!(db.shown("v"), 0);
    let refusal = db.error_of("SELECT cache_refresher.refresh('v')");
    assert_eq!(refusal.code().code(), "22012", "by hand too");

    // No row, or several, as it was refused when it was registered.
    db.run("DELETE FROM divisor");
    let none = db.error_of("SELECT cache_refresher.refresh('v')");
    db.run("INSERT INTO divisor VALUES (1), (2)");
    let several = db.error_of("SELECT cache_refresher.refresh('v')");
    for refusal in [none, several] {
        assert!(refusal.message().contains("row"), "{refusal:?}");
    }
    db.run("DELETE FROM divisor WHERE d = 2; SELECT cache_refresher.resume('v')");
    db.wait_until_shown("v", 5);
}

#[test]
fn each_refresh_notifies_with_its_commit() {
    let mut db = Scratch::new("notify");
    db.create_view("v", 12);
    let mut listener = db.connect();
    listener.run("LISTEN cache_refresher");

    db.run("BEGIN");
    db.refresh("v");
    assert!(listener.payloads(1, millis(300)).is_empty(), "not before the commit");
    db.run("COMMIT");
    let payloads = listener.payloads(2, millis(700));
    assert_eq!(payloads.len(), 1, "{payloads:?}");
    let payload = &payloads[0];
    assert!(payload["view"].as_str().unwrap().contains('v'), "{payload}");
    assert_eq!(payload["outcome"], "refreshed");
    assert_eq!(payload["method"], "diff");
    assert_eq!(payload["rows"], 12);
    assert!(payload["duration_ms"].as_f64().unwrap() > 0.0);
    let logged = db.get::<bool>(&format!(
        "SELECT data_as_of BETWEEN '{0}'::timestamptz - interval '1 ms' AND '{0}'::timestamptz + interval '1 ms'
         FROM cache_refresher.refresh_log",
        payload["data_as_of"].as_str().unwrap()
    ));
    assert!(logged, "{payload}");

    db.run("BEGIN");
    db.refresh("v");
    db.run("ROLLBACK");
    assert!(listener.payloads(1, millis(300)).is_empty(), "nothing happened");

    db.register("v", "200 ms");
    assert!(listener.payloads(3, seconds(10)).len() == 3, "workers notify too");
    db.run("SELECT cache_refresher.unregister('v')");
    db.stays_unrefreshed("v", millis(300));
    listener.payloads(1000, millis(300));

    db.run("SET cache_refresher.notify = off");
    db.refresh("v");
    assert!(listener.payloads(1, millis(300)).is_empty(), "switched off");
}

#[test]
fn the_server_log_tells_of_each_refresh_that_was_slow_enough() {
    let server = Server::builder().setting("cache_refresher.log_min_duration", "200ms").start();
    let mut app = server.create_database("app");
    app.create_view("quick", 1000);
    app.create_paced_view("slow");
    app.set_pace("slow", 0.3);
    let told =
        |view: &str| server.log_lines(&["refreshed", &format!("public.{view} "), "diff", " row"]);

    app.register("slow", "500 ms");
    app.register("quick", "300 ms");
    app.wait_for_refreshes("slow", 1);
    app.wait_for_refreshes("quick", 2);
    assert!(told("slow") >= 1);
    assert_eq!(told("quick"), 0);

    server.set("cache_refresher.log_min_duration", "0");
    server.reload();
    server.wait_until("quick ones are told", seconds(10), || told("quick") > 0);
    assert!(server.log_lines(&["public.quick", "1000 rows"]) > 0);

    server.set("cache_refresher.log_min_duration", "-1");
    server.reload();
    app.wait_for_refreshes("quick", 3);
    let (quick, slow) = (told("quick"), told("slow"));
    app.wait_for_refreshes("quick", 3);
    app.wait_for_refreshes("slow", 1);
    assert_eq!((told("quick"), told("slow")), (quick, slow));
}
