//! Views on tables of another server, which may be down, slow or unwilling.

use std::time::Instant;

use cluster_tests::{
    A_SECOND, Mode, PATIENCE, Server, Session, WORKER, create_auth_db, create_streams_db,
    create_vod_db, seconds,
};

const CACHE: &str = "streams_with_users_cache";

struct Fixture {
    local: Server,
    remote: Server,
    auth_db: Session,
    streams_db: Session,
}

/// Both servers, and beside the cache the view `sound`, which needs nothing from afar.
fn start() -> Fixture {
    let remote = Server::builder().preload(false).start();
    let local = Server::builder()
        .setting("cache_refresher.retry_base_delay", "200ms")
        .setting("cache_refresher.retry_max_delay", "500ms")
        .setting("cache_refresher.max_retries", "1000")
        .setting("cache_refresher.streams_refresh_interval", "500ms")
        .start();
    let auth_db = create_auth_db(&remote, 100);
    let mut streams_db = create_streams_db(&local, &remote, 1000);
    streams_db.run(&format!("SELECT cache_refresher.register('{CACHE}')"));
    streams_db.create_view("sound", 10);
    streams_db.register("sound", "500 ms");
    streams_db.wait_for_refreshes(CACHE, 2);
    Fixture { local, remote, auth_db, streams_db }
}

/// The username that the cache shows for user 1.
fn wait_for_username(streams_db: &mut Session, name: &str) {
    streams_db.wait(
        &format!("the cache shows {name}"),
        &format!("SELECT bool_and(username = '{name}') FROM {CACHE} WHERE user_id = 1"),
    );
}

fn assert_last_good_content(streams_db: &mut Session) {
    assert!(
        streams_db.get::<bool>(&format!(
            "SELECT count(*) = 1000 AND count(username) = 1000 FROM {CACHE}"
        ))
    );
}

fn wait_for_failure(streams_db: &mut Session, condition: &str) {
    streams_db.wait(
        &format!("a failure with {condition}"),
        &format!(
            "SELECT count(*) > 0 FROM cache_refresher.refresh_log
             WHERE view_name = '{CACHE}' AND outcome = 'failed' AND {condition}"
        ),
    );
}

#[test]
fn the_functions_for_existing_callers_refresh_both_caches() {
    let server = Server::builder().start();
    let mut auth_db = create_auth_db(&server, 100);
    let mut streams_db = create_streams_db(&server, &server, 500);
    let mut vod_db = create_vod_db(&server, &server, 300);
    assert!(streams_db.get::<bool>(
        "SELECT outcome = 'refreshed' AND method = 'full' AND rows_total = 500 FROM refresh_streams_cache()"
    ));
    assert!(vod_db.get::<bool>(
        "SELECT outcome = 'refreshed' AND method = 'full' AND rows_total = 300 FROM refresh_videos_cache()"
    ));
    auth_db.run("UPDATE users SET username = 'renamed' WHERE id = 1");
    assert!(vod_db.get::<bool>("SELECT method = 'diff' FROM refresh_videos_cache()"));
    assert!(vod_db.get::<bool>(
        "SELECT bool_and(username = 'renamed') FROM videos_with_users_cache WHERE user_id = 1"
    ));
    for (db, other) in [(&mut streams_db, "videos"), (&mut vod_db, "streams")] {
        let refusal = db.error_of(&format!("SELECT refresh_{other}_cache()"));
        assert_eq!(refusal.code().code(), "42P01", "{refusal:?}");
        assert!(refusal.hint().is_some(), "{refusal:?}");
    }
}

#[test]
fn a_remote_server_that_is_down_is_waited_for() {
    let Fixture { local, remote, auth_db, mut streams_db } = start();
    drop(auth_db);
    remote.stop(Mode::Fast);

    wait_for_failure(&mut streams_db, "sqlstate LIKE '08%' AND message IS NOT NULL");
    assert_last_good_content(&mut streams_db);
    assert!(local.log_lines(&[CACHE, "failed", "attempt"]) > 0);
    assert!(streams_db.get::<bool>(&format!(
        "SELECT consecutive_failures > 0 AND last_error_sqlstate LIKE '08%'
         FROM cache_refresher.status WHERE view_name = '{CACHE}'"
    )));
    streams_db.wait_for_refreshes_within(seconds(5), "sound", 3);
    assert_eq!(streams_db.logged("sound", "failed"), 0);

    remote.start();
    remote.connect("auth_db").run("UPDATE users SET username = 'back' WHERE id = 1");
    wait_for_username(&mut streams_db, "back");
    streams_db.wait(
        "the failures are over",
        &format!("SELECT consecutive_failures = 0 FROM cache_refresher.status WHERE view_name = '{CACHE}'"),
    );
}

#[test]
fn a_slow_remote_server_is_left_at_the_timeout() {
    let Fixture { local, remote: _remote, mut auth_db, mut streams_db } = start();
    auth_db.run(
        "CREATE VIEW slow_users AS SELECT u.* FROM users u WHERE (SELECT pg_sleep(600) IS NOT NULL);
         GRANT SELECT ON slow_users TO fdw_reader",
    );
    streams_db.run(&format!("SELECT cache_refresher.alter('{CACHE}', timeout => '1 second')"));
    streams_db.run("ALTER FOREIGN TABLE users_foreign OPTIONS (SET table_name 'slow_users')");

    wait_for_failure(
        &mut streams_db,
        "message LIKE '%timeout%' AND duration_ms BETWEEN 900 AND 8000",
    );
    assert_last_good_content(&mut streams_db);
    streams_db.wait_for_refreshes_within(seconds(5), "sound", 3);
    auth_db.wait(
        "nothing is left running on the remote server",
        "SELECT count(*) <= 1 FROM pg_stat_activity WHERE usename = 'fdw_reader' AND state = 'active'",
    );

    streams_db.run("ALTER FOREIGN TABLE users_foreign OPTIONS (SET table_name 'users')");
    auth_db.run("UPDATE users SET username = 'quick' WHERE id = 1");
    wait_for_username(&mut streams_db, "quick");
    assert!(local.pids_of(WORKER).len() <= 2);
}

#[test]
fn a_remote_server_that_refuses_is_asked_again() {
    let Fixture { local: _local, remote, mut auth_db, mut streams_db } = start();
    auth_db.run("REVOKE SELECT ON users FROM fdw_reader");
    wait_for_failure(&mut streams_db, "sqlstate = '42501' AND message LIKE '%permission denied%'");
    assert_last_good_content(&mut streams_db);
    streams_db.wait_for_refreshes_within(seconds(5), "sound", 3);
    auth_db.run(
        "GRANT SELECT ON users TO fdw_reader; UPDATE users SET username = 'granted' WHERE id = 1",
    );
    wait_for_username(&mut streams_db, "granted");

    // Not let in at all.
    auth_db.run("ALTER ROLE fdw_reader NOLOGIN");
    wait_for_failure(&mut streams_db, "message LIKE '%not permitted to log in%'");
    assert_last_good_content(&mut streams_db);
    auth_db.run("ALTER ROLE fdw_reader LOGIN; UPDATE users SET username = 'let in' WHERE id = 1");
    wait_for_username(&mut streams_db, "let in");
    drop(remote);
}

#[test]
fn a_shutdown_does_not_wait_for_the_remote_server() {
    let Fixture { local, remote: _remote, mut auth_db, mut streams_db } = start();
    auth_db.run(
        "CREATE VIEW slow_users AS SELECT u.* FROM users u WHERE (SELECT pg_sleep(600) IS NOT NULL);
         GRANT SELECT ON slow_users TO fdw_reader",
    );
    streams_db.run("ALTER FOREIGN TABLE users_foreign OPTIONS (SET table_name 'slow_users')");
    streams_db.wait_for_state(CACHE, "running");
    auth_db.wait(
        "the remote server is asked",
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'fdw_reader' AND wait_event = 'PgSleep'",
    );
    drop(streams_db);
    let took = local.stop(Mode::Fast);
    assert!(took < seconds(5), "{took:?}");
}

#[test]
fn the_remote_database_can_be_dropped_after_a_refresh() {
    let server = Server::builder()
        .setting("cache_refresher.worker_linger", "10min")
        .setting("cache_refresher.streams_refresh_interval", "1h")
        .start();
    drop(create_auth_db(&server, 100));
    let mut streams_db = create_streams_db(&server, &server, 1000);
    streams_db.run(&format!("SELECT cache_refresher.register('{CACHE}')"));
    streams_db.wait_for_refreshes(CACHE, 1); // never populated: at once
    server.wait_until("the worker is idle", PATIENCE, || {
        server.processes().iter().any(|process| process.kind == WORKER)
    });
    std::thread::sleep(seconds(1));
    assert!(!server.pids_of(WORKER).is_empty(), "the worker lingers");
    let mut admin = server.connect("postgres");
    let start = Instant::now();
    admin.run("DROP DATABASE auth_db");
    assert!(start.elapsed() < A_SECOND, "{:?}", start.elapsed());
    assert_last_good_content(&mut streams_db);
}
