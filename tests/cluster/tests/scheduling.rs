//! Registered views are refreshed when they are due, each at its own pace.

use cluster_tests::{Scratch, Server, Signal, WORKER, millis, seconds};

#[test]
fn a_registered_view_shows_changed_rows_again_and_again() {
    let mut db = Scratch::new("changed_rows");
    db.create_view("v", 100);
    db.register("v", "1 second");
    for value in 1..=3 {
        db.write("v", value);
        db.wait_until_shown("v", value);
    }
    assert!(db.get::<bool>(
        "SELECT bool_and(method = 'diff' AND rows_total = 100 AND outcome = 'refreshed')
         FROM cache_refresher.refresh_log WHERE trigger = 'interval'"
    ));
}

#[test]
fn a_view_never_populated_is_populated_at_once() {
    let mut db = Scratch::new("never_populated");
    db.create_view("v", 10);
    db.run("CREATE MATERIALIZED VIEW fresh AS SELECT id FROM v WITH NO DATA");
    db.register("fresh", "1 day");
    db.wait_for(
        "fresh is populated",
        seconds(5),
        "SELECT relispopulated FROM pg_class WHERE relname = 'fresh'",
    );
    assert_eq!(db.get::<i64>("SELECT count(*) FROM fresh"), 10);
    assert!(db.get::<bool>(
        "SELECT method = 'full' AND trigger = 'never populated' FROM cache_refresher.refresh_log"
    ));
    // The next one is some hours away, but for a few seconds of each day.
    assert!(
        db.get::<bool>("SELECT next_refresh_at > now() + '1 second' FROM cache_refresher.status")
    );
}

#[test]
fn an_interval_is_kept_without_drift_or_burst() {
    let mut db = Scratch::new("grid");
    db.create_paced_view("v");
    db.set_pace("v", 0.15);
    db.register("v", "500 ms");
    db.wait_for_refreshes("v", 10);
    // From the 2nd to the 9th: seven times 500 ms, whatever each refresh took.
    let span: f64 = db.get(
        "SELECT extract(epoch FROM max(started_at) - min(started_at))::float8 FROM
             (SELECT started_at FROM cache_refresher.refresh_log ORDER BY id OFFSET 1 LIMIT 8) l",
    );
    assert!((3.0..5.5).contains(&span), "{span} s");
    let closest: f64 = db.get(
        "SELECT extract(epoch FROM min(gap))::float8 FROM
             (SELECT started_at - lag(started_at) OVER (ORDER BY id) AS gap, row_number() OVER (ORDER BY id) AS n
                FROM cache_refresher.refresh_log) l WHERE n > 2",
    );
    assert!(closest > 0.2, "two refreshes {closest} s after each other");
}

#[test]
fn an_interval_adapts_to_how_often_there_is_something_new() {
    let mut db = Scratch::new("adaptive");
    db.create_view("v", 10);
    db.run(
        "SELECT cache_refresher.register('v', refresh_interval => '400 ms', min_interval => '200 ms',
                                         max_interval => '2 seconds')",
    );
    let first: String =
        db.get("SELECT refresh_interval || ' ' || interval_source FROM cache_refresher.status");
    assert_eq!(first, "00:00:00.4 adaptive");
    db.wait_for(
        "nothing changes, and it has become as slow as it may",
        seconds(20),
        "SELECT refresh_interval = '2 seconds' AND interval_source = 'adaptive: no changes'
           FROM cache_refresher.status",
    );
    let mut value = 0;
    let server = std::sync::Arc::clone(db.shared_server());
    server.wait_until("it has become as fast as it may", seconds(30), || {
        value += 1;
        db.write("v", value);
        std::thread::sleep(millis(100));
        db.get(
            "SELECT refresh_interval = '200 ms' AND interval_source = 'adaptive: changes'
               FROM cache_refresher.status",
        )
    });
    db.run("SELECT cache_refresher.alter('v', min_interval => '1 second')");
    assert!(db.get::<bool>("SELECT refresh_interval >= '1 second' FROM cache_refresher.status"));
    db.run("SELECT cache_refresher.alter('v', reset => '{min_interval}')");
    assert_eq!(
        db.get::<String>(
            "SELECT refresh_interval || ' ' || interval_source FROM cache_refresher.status"
        ),
        "00:00:00.4 registry"
    );
}

#[test]
fn a_cron_schedule_with_seconds_fires_each_second_once() {
    let mut db = Scratch::new("cron_seconds");
    db.create_view("v", 10);
    db.run("SELECT cache_refresher.register('v', schedule => '* * * * * *')");
    db.wait(
        "four refreshes by schedule",
        "SELECT count(*) >= 4 FROM cache_refresher.refresh_log WHERE trigger = 'schedule'",
    );
    assert!(db.get::<bool>(
        "SELECT count(*) = count(DISTINCT date_trunc('second', started_at))
         FROM cache_refresher.refresh_log WHERE trigger = 'schedule'"
    ));
    assert!(db.get::<bool>(
        "SELECT schedule = '* * * * * *' AND refresh_interval IS NULL AND interval_source = 'registry'
         FROM cache_refresher.status"
    ));
}

#[test]
fn a_cron_schedule_means_the_time_of_its_time_zone() {
    let mut db = Scratch::new("cron_zone");
    for (view, zone) in [("v", "Asia/Kolkata"), ("w", "America/New_York")] {
        db.create_view(view, 1);
        db.run(&format!(
            "SELECT cache_refresher.register('{view}', schedule => '30 3 * * *', time_zone => '{zone}')"
        ));
        assert_eq!(
            db.get::<String>(&format!(
                "SELECT to_char(next_refresh_at AT TIME ZONE '{zone}', 'HH24:MI:SS')
                 FROM cache_refresher.status WHERE view_name = '{view}' AND next_refresh_at > now()"
            )),
            "03:30:00"
        );
    }
}

#[test]
fn no_refresh_begins_after_a_view_was_paused() {
    let server = Server::builder()
        .setting("cache_refresher.worker_linger", "10min")
        .setting("cache_refresher.max_workers", "1")
        .start();
    let mut db = server.create_database("app");
    db.create_view("v", 10);
    db.register("v", "300 ms");
    db.wait_for_refreshes("v", 2);
    // A job is handed over, and its worker has not looked at it yet.
    let worker = server.pids_of(WORKER)[0];
    server.kill(worker, Signal::STOP);
    std::thread::sleep(millis(800));
    db.run("SELECT cache_refresher.pause('v')");
    let before = db.refreshes("v");
    server.kill(worker, Signal::CONT);
    db.stays_unrefreshed("v", seconds(1));
    assert_eq!(db.refreshes("v"), before);
    db.run("SELECT cache_refresher.resume('v')");
    db.wait_for_refreshes("v", 2);
}

#[test]
fn a_paused_view_is_left_alone_until_it_is_resumed() {
    let mut db = Scratch::new("pause");
    db.create_view("v", 10);
    db.register("v", "200 ms");
    db.wait_for_refreshes("v", 2);

    db.run("SELECT cache_refresher.pause('v')");
    db.wait_for_state("v", "paused");
    db.stays_unrefreshed("v", seconds(1));
    assert_eq!(db.refresh("v"), "refreshed", "by hand it works");
    db.wait_for_state("v", "paused");

    db.run("SELECT cache_refresher.resume('v')");
    db.wait_for_refreshes_within(seconds(5), "v", 2);
}

#[test]
fn an_unregistered_view_is_left_alone_and_keeps_its_history() {
    let mut db = Scratch::new("unregister");
    for view in ["bare", "qualified"] {
        db.create_view(view, 10);
        db.register(view, "200 ms");
        db.wait_for_refreshes(view, 2);
    }
    db.run("SELECT cache_refresher.unregister('bare'); SELECT cache_refresher.unregister('public.qualified')");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM cache_refresher.status"), 0);
    for view in ["bare", "qualified"] {
        db.stays_unrefreshed(view, millis(700));
        assert!(db.refreshes(view) >= 2);
    }
    db.register("bare", "200 ms");
    db.wait_for_refreshes("bare", 1);
}

#[test]
fn alter_takes_effect_at_once_and_reset_goes_back_to_the_inherited() {
    let mut db = Scratch::new("altered");
    db.create_view("v", 10);
    db.register("v", "1 year");
    db.stays_unrefreshed("v", millis(500));
    db.run("SELECT cache_refresher.alter('v', refresh_interval => '200 ms')");
    db.wait_for_refreshes_within(seconds(5), "v", 3);

    db.run("SELECT cache_refresher.alter('v', method => 'full')");
    assert!(db.get::<bool>(
        "SELECT refresh_interval = '200 ms' AND method = 'full' FROM cache_refresher.status"
    ));
    db.wait(
        "the method is taken",
        "SELECT method = 'full' FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 1",
    );

    db.run("SELECT cache_refresher.alter('v', reset => '{refresh_interval,method}')");
    assert!(db.get::<bool>(
        "SELECT refresh_interval = '5 minutes' AND method = 'auto' FROM cache_refresher.status"
    ));
    db.stays_unrefreshed("v", seconds(1));

    db.run("SELECT cache_refresher.alter('v', schedule => '* * * * * *')");
    db.wait_for_refreshes_within(seconds(5), "v", 2);
}

#[test]
fn registering_within_a_transaction_counts_from_its_commit() {
    let mut db = Scratch::new("committed");
    db.create_view("v", 10);
    let mut other = db.connect();
    other.run("BEGIN");
    other.register("v", "200 ms");
    std::thread::sleep(millis(600));
    assert_eq!(db.refreshes("v"), 0);
    other.run("ROLLBACK");
    db.stays_unrefreshed("v", millis(500));
    other.run("BEGIN");
    other.register("v", "200 ms");
    other.run("COMMIT");
    db.wait_for_refreshes_within(seconds(5), "v", 2);
}

#[test]
fn a_slow_view_does_not_hold_up_the_others() {
    let server = Server::builder().setting("cache_refresher.max_workers", "2").start();
    let mut app = server.create_database("app");
    app.create_paced_view("slow");
    app.register("slow", "300 ms");
    app.set_pace("slow", 600.0);
    for view in ["a", "b"] {
        app.create_view(view, 10);
        app.register(view, "300 ms");
    }
    app.wait_for_state("slow", "running");
    app.wait_for_refreshes_within(seconds(5), "a", 4);
    app.wait_for_refreshes_within(seconds(5), "b", 4);
    app.wait_for_state("slow", "running");
    let asleep = server
        .processes()
        .iter()
        .filter(|process| process.wait_event.as_deref() == Some("PgSleep"))
        .count();
    assert_eq!(asleep, 1, "a view is never refreshed twice at once");
}

#[test]
fn there_are_never_more_workers_than_the_setting_allows() {
    let server = Server::builder().setting("cache_refresher.max_workers", "2").start();
    let mut app = server.create_database("app");
    let mut other = server.create_database("other");
    for db in [&mut app, &mut other] {
        for view in ["a", "b", "c"] {
            db.create_paced_view(view);
            db.set_pace(view, 0.3);
            db.register(view, "200 ms");
        }
    }
    let mut most = 0;
    for _ in 0..60 {
        most = most.max(server.refreshes_at_work());
        std::thread::sleep(millis(50));
    }
    assert_eq!(most, 2);
    // Nobody starves.
    for db in [&mut app, &mut other] {
        for view in ["a", "b", "c"] {
            db.wait_for_refreshes(view, 1);
        }
    }
}

#[test]
fn reports_tell_how_fresh_a_view_is() {
    let mut db = Scratch::new("reports");
    db.create_view("v", 25);
    db.register("v", "1 year");
    assert!(db.get::<bool>("SELECT cache_refresher.age('v') IS NULL"), "not refreshed yet");
    db.refresh("v");
    let freshness: serde_json::Value = db.get("SELECT cache_refresher.freshness('v')");
    for key in [
        "view",
        "data_source",
        "cache_refreshed_at",
        "cache_refresh_duration_ms",
        "data_as_of",
        "age_seconds",
        "staleness",
        "stale_since",
        "is_stale",
    ] {
        assert!(freshness.get(key).is_some(), "{key} in {freshness}");
    }
    assert_eq!(freshness["data_source"], "cached");
    assert_eq!(freshness["staleness"], "unknown");
    assert!(freshness["is_stale"].is_null());
    assert!(freshness["age_seconds"].as_f64().unwrap() < 20.0);
    let refreshed_at = freshness["cache_refreshed_at"].as_str().unwrap();
    assert!(refreshed_at.ends_with('Z') && refreshed_at.contains('T'), "{refreshed_at}");

    assert!(db.get::<bool>("SELECT cache_refresher.is_stale('v') IS NULL"));
    assert!(!db.get::<bool>("SELECT cache_refresher.is_stale('v', '1 hour')"));
    db.run("SELECT cache_refresher.assert_fresh('v', '1 hour')");
    std::thread::sleep(millis(30));
    assert!(db.get::<bool>("SELECT cache_refresher.is_stale('v', '1 ms')"));
    let refusal = db.error_of("SELECT cache_refresher.assert_fresh('v', '1 ms')");
    assert!(refusal.message().contains('v'), "{refusal:?}");

    assert!(db.get::<bool>("SELECT cache_refresher.healthy()"));
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM cache_refresher.health() WHERE status = 'critical'"),
        0
    );
    let metrics: String = db.get("SELECT cache_refresher.metrics_text()");
    for line in
        ["# TYPE cache_refresher_refreshes_total counter", "view=\"v\"", "cache_refresher_up{"]
    {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert!(db.get::<bool>(
        "SELECT value = 25 FROM cache_refresher.metrics() WHERE name = 'cache_refresher_rows'"
    ));
}

#[test]
fn a_view_on_a_view_is_as_old_as_what_it_reads() {
    let mut db = Scratch::new("on_views");
    db.create_view("parent", 5);
    db.run(
        "CREATE MATERIALIZED VIEW child AS SELECT * FROM parent; CREATE UNIQUE INDEX ON child (id)",
    );
    db.refresh("child");
    let unknown = "SELECT cache_refresher.age('child') IS NULL";
    assert!(db.get::<bool>(unknown), "nobody knows when the parent was made");
    db.refresh("parent");
    db.run("SELECT pg_sleep(0.3)");
    db.refresh("child");
    let age = |db: &mut Scratch, view: &str| {
        db.get::<String>(&format!("SELECT cache_refresher.freshness('{view}') ->> 'data_as_of'"))
    };
    assert_eq!(age(&mut db, "child"), age(&mut db, "parent"));
}

#[test]
fn views_on_views_follow_what_they_read() {
    let mut db = Scratch::new("family");
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, value int); INSERT INTO t VALUES (1, 1);
         CREATE MATERIALIZED VIEW top AS SELECT * FROM t;
         CREATE MATERIALIZED VIEW one AS SELECT * FROM top;
         CREATE MATERIALIZED VIEW two AS SELECT id, value FROM top;
         CREATE MATERIALIZED VIEW bottom AS SELECT one.value + two.value AS value FROM one, two;
         SELECT cache_refresher.register('bottom'), cache_refresher.register('two'),
                cache_refresher.register('one'), cache_refresher.register('top', '1 year')",
    );
    // The default interval is minutes: nothing but the change brings these on.
    db.run("UPDATE t SET value = 2");
    db.refresh("top");
    db.wait("the change has come through", "SELECT value = 4 FROM bottom");
    assert!(db.get::<bool>(
        "SELECT bool_and(trigger = 'parent' AND refreshes = 1)
           FROM (SELECT trigger, count(*) OVER (PARTITION BY view_name) AS refreshes
                   FROM cache_refresher.refresh_log WHERE view_name <> 'top') x"
    ));
    // The same rows again are no news.
    db.refresh("top");
    db.stays_unrefreshed("one", millis(300));
}

#[test]
fn a_worker_renews_statistics_that_a_refresh_has_outdated() {
    let mut db = Scratch::new("statistics");
    db.run(
        "CREATE TABLE t AS SELECT 1 AS value FROM generate_series(1, 2000);
         CREATE MATERIALIZED VIEW v WITH (autovacuum_enabled = false) AS SELECT value FROM t;
         ANALYZE v;
         INSERT INTO t SELECT 2 FROM generate_series(1, 2000)",
    );
    db.register("v", "200 ms");
    db.wait(
        "analyzed",
        "SELECT n_distinct = 2 FROM pg_stats WHERE tablename = 'v' AND attname = 'value'",
    );
}
