//! Where a view's interval comes from, and when a changed setting takes effect.

use cluster_tests::{Server, Session, millis, seconds};

fn interval_of(app: &mut Session, view: &str) -> (i64, String) {
    let row = app
        .query_one(
            "SELECT (extract(epoch FROM refresh_interval) * 1000)::int8, interval_source
             FROM cache_refresher.status WHERE view_name = $1",
            &[&view],
        )
        .unwrap();
    (row.get(0), row.get(1))
}

#[track_caller]
fn assert_interval(app: &mut Session, view: &str, millis: i64, source: &str) {
    let (found, from) = interval_of(app, view);
    assert_eq!(found, millis, "{view}, from {from}");
    assert!(from.contains(source), "{view}: from {from}, not {source}");
}

#[test]
fn the_first_interval_that_is_set_holds_and_status_says_which() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    for view in ["plain", "streams_with_users_cache", "videos_with_users_cache"] {
        app.create_view(view, 5);
        app.run(&format!("SELECT cache_refresher.register('{view}')"));
    }
    assert_interval(&mut app, "plain", 300_000, "default_interval");
    assert_interval(&mut app, "streams_with_users_cache", 300_000, "streams_refresh_interval");
    assert_interval(&mut app, "videos_with_users_cache", 600_000, "videos_refresh_interval");

    server.set("cache_refresher.default_interval", "1h30m");
    server.set("cache_refresher.streams_refresh_interval", "45s");
    server.set("cache_refresher.videos_refresh_interval", "500ms");
    server.reload();
    app.wait(
        "the reload is seen",
        "SELECT refresh_interval = '90 minutes' FROM cache_refresher.status WHERE view_name = 'plain'",
    );
    assert_interval(&mut app, "streams_with_users_cache", 45_000, "streams_refresh_interval");
    assert_interval(&mut app, "videos_with_users_cache", 500, "videos_refresh_interval");

    for view in ["plain", "streams_with_users_cache"] {
        app.run(&format!(
            "SELECT cache_refresher.alter('{view}', refresh_interval => '20 minutes')"
        ));
        assert_interval(&mut app, view, 1_200_000, "registry");
    }

    server.set(
        "cache_refresher.intervals",
        "plain=7m, public.streams_with_users_cache=1h30m, elsewhere.videos_with_users_cache=1d",
    );
    server.reload();
    app.wait(
        "the reload is seen",
        "SELECT refresh_interval = '7 minutes' FROM cache_refresher.status WHERE view_name = 'plain'",
    );
    assert_interval(&mut app, "plain", 420_000, "cache_refresher.intervals");
    assert_interval(&mut app, "streams_with_users_cache", 5_400_000, "cache_refresher.intervals");
    assert_interval(&mut app, "videos_with_users_cache", 500, "videos_refresh_interval");

    server.reset("cache_refresher.intervals");
    server.reload();
    app.wait(
        "the reload is seen",
        "SELECT interval_source = 'registry' FROM cache_refresher.status WHERE view_name = 'plain'",
    );
}

#[test]
fn a_reload_changes_the_pace_without_a_restart() {
    let server = Server::builder().setting("cache_refresher.default_interval", "1h").start();
    let mut app = server.create_database("app");
    app.create_view("v", 5);
    app.create_view("w", 5);
    app.run("SELECT cache_refresher.register('v'), cache_refresher.register('w')");
    app.stays_unrefreshed("v", millis(700));

    server.set("cache_refresher.default_interval", "200ms");
    server.reload();
    app.wait_for_refreshes_within(seconds(5), "v", 3);

    server.set("cache_refresher.intervals", "v=1h");
    server.reload();
    app.wait_for_refreshes_within(seconds(5), "w", 2);
    app.stays_unrefreshed("v", seconds(1));
    app.wait_for_refreshes_within(seconds(5), "w", 2);
}

#[test]
fn a_reload_reaches_a_database_whose_scheduler_has_gone() {
    let server = Server::builder()
        .setting("cache_refresher.default_interval", "1h")
        .setting("cache_refresher.worker_linger", "200ms")
        .start();
    let mut app = server.create_database("app");
    app.create_view("v", 5);
    app.run("SELECT cache_refresher.register('v')");
    server.wait_until("only the launcher is left", seconds(10), || server.processes().len() == 1);
    server.set("cache_refresher.default_interval", "200ms");
    server.reload();
    app.wait_for_refreshes_within(seconds(5), "v", 3);
}

#[test]
fn alter_database_set_takes_effect_without_a_restart() {
    let server = Server::builder().setting("cache_refresher.default_interval", "1h").start();
    let mut app = server.create_database("app");
    let mut other = server.create_database("other");
    for db in [&mut app, &mut other] {
        db.create_view("v", 5);
        db.run("SELECT cache_refresher.register('v')");
    }
    app.stays_unrefreshed("v", millis(500));

    app.run("ALTER DATABASE app SET cache_refresher.default_interval = '200ms'");
    app.wait_for_refreshes_within(seconds(5), "v", 3);
    assert_eq!(other.refreshes("v"), 0, "the other database keeps its own");
    let mut later = server.connect("app");
    assert_interval(&mut later, "v", 200, "default_interval");

    app.run("ALTER DATABASE app RESET cache_refresher.default_interval");
    std::thread::sleep(millis(500));
    app.stays_unrefreshed("v", seconds(1));
}

#[test]
fn max_workers_grows_with_a_reload() {
    let server = Server::builder().setting("cache_refresher.max_workers", "1").start();
    let mut app = server.create_database("app");
    app.create_view("quick", 5);
    app.create_paced_view("slow");
    app.register("quick", "200 ms");
    app.register("slow", "200 ms");
    app.wait_for_refreshes("quick", 1);
    app.set_pace("slow", 600.0);
    app.wait_for_state("slow", "running");
    app.stays_unrefreshed("quick", millis(700));
    server.set("cache_refresher.max_workers", "2");
    server.reload();
    app.wait_for_refreshes_within(seconds(5), "quick", 3);
}

#[test]
fn both_duration_habits_are_accepted_and_anything_else_is_refused() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    for value in ["5m", "1h30m", "500ms", "5min", "30s", "1h", "7d", "2 min", "1.5h"] {
        app.run(&format!("SET cache_refresher.default_interval = '{value}'"));
    }
    for value in ["soon", "5 parsecs", "", "-1s", "0", "1ms", "11 years"] {
        let refusal = app.error_of(&format!("SET cache_refresher.default_interval = '{value}'"));
        assert_eq!(refusal.code().code(), "22023", "{value}: {refusal:?}");
        let told = format!("{:?} {:?}", refusal.detail(), refusal.hint());
        assert!(
            told.contains("1h30m") || told.contains("500ms") || told.contains("5m"),
            "{value}: {told}"
        );
    }
    for (name, value) in [
        ("intervals", "v"),
        ("intervals", "v=soon"),
        ("retry_base_delay", "often"),
        ("lock_timeout", "never"),
        ("timeout", "long"),
        ("log_retention", "always"),
        ("log_min_duration", "x"),
        ("max_retries", "-2"),
    ] {
        let refusal = app.error_of(&format!("SET cache_refresher.{name} = '{value}'"));
        assert_eq!(refusal.code().code(), "22023", "{name}: {refusal:?}");
    }
    let refusal = app.error_of("SET cache_refresher.max_workers = 3");
    assert_eq!(refusal.code().code(), "55P02", "{refusal:?}");
    // The prefix is reserved: a misspelt name is told.
    let refusal = app.error_of("SET cache_refresher.defualt_interval = '1h'");
    assert_eq!(refusal.code().code(), "42602", "{refusal:?}");
}

#[test]
fn a_bad_value_in_the_configuration_leaves_the_old_one_in_force() {
    let server = Server::builder().setting("cache_refresher.default_interval", "200ms").start();
    let mut app = server.create_database("app");
    app.create_view("v", 5);
    app.run("SELECT cache_refresher.register('v')");
    app.wait_for_refreshes("v", 1);
    server.set("cache_refresher.default_interval", "whenever");
    server.reload();
    server.wait_until("the log tells", seconds(5), || {
        server.log_lines(&["invalid value", "cache_refresher.default_interval"]) > 0
    });
    app.wait_for_refreshes("v", 3);
    assert_interval(&mut app, "v", 200, "default_interval");
}
