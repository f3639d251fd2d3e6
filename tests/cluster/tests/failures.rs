//! Views that fail, vanish or move, and surroundings that are hostile to the workers.

use cluster_tests::{Scratch, Server, Session, millis, seconds};

#[test]
fn a_failing_view_is_retried_then_suspended_then_resumed() {
    let mut db = Scratch::new("suspended");
    db.run("ALTER DATABASE suspended SET cache_refresher.suspend_after = '1s'");
    db.create_fragile_view("v");
    db.create_view("sound", 10);
    db.register("v", "300 ms");
    db.register("sound", "300 ms");
    db.wait_for_refreshes("v", 1);
    let start = db.server().log().len();
    db.break_view("v");

    db.wait_for_state("v", "suspended");
    assert!(db.get::<bool>(
        "SELECT last_error_sqlstate = '22012' AND last_error = 'division by zero'
            AND consecutive_failures >= 3 AND failures = consecutive_failures
         FROM cache_refresher.status WHERE view_name = 'v'"
    ));
    // Two retries a round: each attempt is there, counted.
    assert!(db.get::<bool>(
        "SELECT count(DISTINCT attempt) = 3 AND max(attempt) - min(attempt) = 2
            AND bool_and(sqlstate = '22012' AND message = 'division by zero')
            AND bool_or(trigger = 'retry') AND bool_or(trigger = 'interval')
         FROM cache_refresher.refresh_log WHERE view_name = 'v' AND outcome = 'failed'"
    ));
    assert_eq!(
        db.get::<i64>("SELECT failures FROM cache_refresher.status WHERE view_name = 'v'"),
        db.logged("v", "failed")
    );
    assert_eq!(db.get::<i32>("SELECT quotient FROM v"), 100, "the last good content");
    assert!(db.get::<bool>(
        "SELECT status = 'warning' AND detail LIKE '%22012%' AND hint LIKE '%resume%'
         FROM cache_refresher.health() WHERE \"check\" = 'view public.v'"
    ));
    let log = db.server().log().split_off(start);
    for words in
        [["public.v", "attempt 1 of 3"], ["public.v", "attempt 3 of 3"], ["public.v", "suspended"]]
    {
        assert!(
            log.lines().any(|line| words.iter().all(|word| line.contains(word))),
            "{words:?} in\n{log}"
        );
    }
    assert!(log.contains("division by zero") && log.contains("22012"), "{log}");
    assert!(log.contains("next try in") && log.contains("next try at its due time"), "{log}");

    let failures = db.logged("v", "failed");
    db.wait_for_refreshes("sound", 3);
    assert_eq!(db.logged("v", "failed"), failures, "nobody tries any more");

    db.mend_view("v");
    db.run("SELECT cache_refresher.resume('v')");
    db.wait_for_refreshes_within(seconds(5), "v", 2);
    assert_eq!(db.get::<i32>("SELECT quotient FROM v"), 50);
    db.wait(
        "the count starts anew",
        "SELECT consecutive_failures = 0 AND state IN ('scheduled', 'running')
         FROM cache_refresher.status WHERE view_name = 'v'",
    );
}

#[test]
fn a_view_that_is_mended_recovers_by_itself() {
    let server = Server::builder()
        .setting("cache_refresher.retry_base_delay", "200ms")
        .setting("cache_refresher.retry_max_delay", "500ms")
        .setting("cache_refresher.max_retries", "1000")
        .start();
    let mut app = server.create_database("app");
    app.create_fragile_view("v");
    app.register("v", "1 year");
    app.break_view("v");
    let refusal = app.error_of("SELECT cache_refresher.refresh('v')");
    assert_eq!(refusal.code().code(), "22012");
    app.run("SELECT cache_refresher.alter('v', refresh_interval => '1 second')");
    app.wait(
        "it is retried",
        "SELECT state = 'retrying' AND next_refresh_at < now() + '1 second'
            AND consecutive_failures > 2 FROM cache_refresher.status",
    );
    app.mend_view("v");
    app.wait_for_refreshes_within(seconds(5), "v", 2);
    assert!(app.get::<bool>(
        "SELECT consecutive_failures = 0 AND failures > 2 FROM cache_refresher.status"
    ));
}

#[test]
fn a_refresh_by_hand_that_succeeds_ends_a_suspension() {
    let mut db = Scratch::new("by_hand");
    db.run("ALTER DATABASE by_hand SET cache_refresher.suspend_after = '1s'");
    db.create_fragile_view("v");
    db.break_view("v");
    db.register("v", "300 ms");
    db.wait_for_state("v", "suspended");
    db.mend_view("v");
    assert_eq!(db.refresh("v"), "refreshed");
    db.wait_for_refreshes_within(seconds(5), "v", 2);
}

#[test]
fn a_dropped_view_is_missing_and_is_taken_up_again_when_it_is_back() {
    let mut db = Scratch::new("dropped");
    db.create_view("ticker", 10);
    db.create_view("other", 10);
    db.register("ticker", "300 ms");
    db.register("other", "300 ms");
    db.wait_for_refreshes("ticker", 2);

    let start = db.server().log().len();
    db.run("DROP MATERIALIZED VIEW ticker");
    db.wait_for_state("ticker", "missing");
    assert!(db.get::<bool>(
        "SELECT status = 'warning' AND hint LIKE '%unregister%'
         FROM cache_refresher.health() WHERE \"check\" = 'view public.ticker'"
    ));
    db.wait_for_refreshes("other", 6);
    let log = db.server().log().split_off(start);
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("public.ticker") && !line.contains("refreshed"))
        .collect();
    assert_eq!(lines.len(), 1, "one line, no storm:\n{log}");
    assert!(db.get::<bool>("SELECT cache_refresher.healthy()"));

    db.run("CREATE MATERIALIZED VIEW ticker AS SELECT id, value + 100 AS value FROM ticker_source WITH NO DATA");
    db.run("CREATE UNIQUE INDEX ON ticker (id)");
    db.wait_for_refreshes_within(seconds(5), "ticker", 2);
    assert_eq!(db.shown("ticker"), 100);
    assert!(db.get::<bool>(
        "SELECT refresh_interval = '300 ms' AND state IN ('scheduled', 'running')
         FROM cache_refresher.status WHERE view_name = 'ticker'"
    ));
}

#[test]
fn a_migration_that_drops_and_recreates_a_view_keeps_its_registration() {
    let mut db = Scratch::new("migration");
    db.create_view("v", 10);
    db.register("v", "300 ms");
    db.wait_for_refreshes("v", 1);
    db.run(
        "BEGIN;
         DROP MATERIALIZED VIEW v;
         CREATE MATERIALIZED VIEW v AS SELECT id, value, true AS more FROM v_source;
         CREATE UNIQUE INDEX ON v (id);
         COMMIT",
    );
    db.wait_for_refreshes_within(seconds(5), "v", 2);
    db.write("v", 8);
    db.wait_until_shown("v", 8);
}

#[test]
fn a_missing_view_can_be_unregistered() {
    let mut db = Scratch::new("unregister_missing");
    db.create_view("v", 10);
    db.register("v", "300 ms");
    db.run("DROP MATERIALIZED VIEW v");
    db.wait_for_state("v", "missing");
    db.run("SELECT cache_refresher.unregister('v')");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM cache_refresher.status"), 0);
}

#[test]
fn a_rename_and_a_move_to_another_schema_are_followed() {
    let mut db = Scratch::new("renamed_view");
    db.create_view("v", 10);
    db.register("v", "300 ms");
    db.wait_for_refreshes("v", 1);

    db.run("ALTER MATERIALIZED VIEW v RENAME TO \"New Name\"");
    db.wait_for_refreshes("New Name", 2);
    assert!(db.get::<bool>(
        "SELECT count(*) = 1 AND bool_and(view_schema = 'public' AND view_name = 'New Name')
         FROM cache_refresher.status"
    ));

    db.run("CREATE SCHEMA elsewhere; ALTER MATERIALIZED VIEW \"New Name\" SET SCHEMA elsewhere");
    db.wait(
        "it is refreshed there",
        "SELECT count(*) > 1 FROM cache_refresher.refresh_log WHERE view_schema = 'elsewhere'",
    );
    assert!(db.get::<bool>(
        "SELECT count(*) = 1 AND bool_and(view_schema = 'elsewhere' AND refresh_interval = '300 ms')
         FROM cache_refresher.status"
    ));
}

#[test]
fn views_that_exchange_their_names_keep_their_registrations() {
    let mut db = Scratch::new("exchanged_names");
    for (view, every) in [("a", "1 h"), ("b", "2 h"), ("c", "3 h")] {
        db.create_view(view, 10);
        db.register(view, every);
    }
    db.run("CREATE ROLE of_a; SELECT cache_refresher.grant_refresh('a', 'of_a')");
    let all = "SELECT string_agg(view_name || ' ' || refresh_interval || ' ' || granted_to::text, ', ' ORDER BY view_name)
                 FROM cache_refresher.registrations";
    // The scheduler and a session do it each in its way.
    for call in ["SELECT 1", "SELECT cache_refresher.pause('a'), cache_refresher.resume('a')"] {
        db.run(
            "BEGIN; ALTER MATERIALIZED VIEW a RENAME TO d; ALTER MATERIALIZED VIEW b RENAME TO a;
             ALTER MATERIALIZED VIEW c RENAME TO b; ALTER MATERIALIZED VIEW d RENAME TO c; COMMIT",
        );
        db.run(call);
        db.wait(
            "the registrations follow",
            &format!("SELECT ({all}) = 'a 02:00:00 {{}}, b 03:00:00 {{}}, c 01:00:00 {{of_a}}'"),
        );
        db.run(
            "BEGIN; ALTER MATERIALIZED VIEW c RENAME TO d; ALTER MATERIALIZED VIEW b RENAME TO c;
             ALTER MATERIALIZED VIEW a RENAME TO b; ALTER MATERIALIZED VIEW d RENAME TO a; COMMIT",
        );
        db.run(call);
        db.wait(
            "and back",
            &format!("SELECT ({all}) = 'a 01:00:00 {{of_a}}, b 02:00:00 {{}}, c 03:00:00 {{}}'"),
        );
    }

    // The name of one that is gone is free.
    db.run("DROP MATERIALIZED VIEW c");
    db.wait_for_state("c", "missing");
    db.run("ALTER MATERIALIZED VIEW b RENAME TO c");
    db.wait(
        "it has that name",
        &format!("SELECT ({all}) = 'a 01:00:00 {{of_a}}, c 02:00:00 {{}}'"),
    );
    assert!(db.get::<bool>("SELECT bool_and(state = 'scheduled') FROM cache_refresher.status"));
}

#[test]
fn whoever_keeps_a_view_locked_is_named() {
    let mut db = Scratch::new("kept_locked");
    db.create_view("v", 10);
    db.register("v", "1 s");
    db.wait_for_refreshes("v", 1);
    let mut other = db.connect();
    other.run("BEGIN; SELECT cache_refresher.refresh('v')");
    let pid: i32 = other.get("SELECT pg_backend_pid()");
    db.wait(
        "it is named",
        &format!(
            "SELECT bool_or(detail LIKE '%the transaction of process {pid} has refreshed it%')
               FROM cache_refresher.health() WHERE \"check\" = 'view public.v locked'"
        ),
    );
    other.run("ROLLBACK");
    db.wait_for_refreshes("v", 2);
    db.wait(
        "all is well",
        "SELECT count(*) = 0 FROM cache_refresher.health() WHERE \"check\" = 'view public.v locked'",
    );
}

#[test]
fn a_registration_whose_name_somebody_elses_view_has_can_be_ended() {
    let mut db = Scratch::new("taken_name");
    db.create_view("v", 10);
    db.run("CREATE ROLE former_owner; GRANT ALL ON SCHEMA public TO former_owner; ALTER MATERIALIZED VIEW v OWNER TO former_owner");
    db.register("v", "1 h");
    db.run("DROP MATERIALIZED VIEW v; CREATE MATERIALIZED VIEW v AS SELECT 1 AS id");
    db.wait_for_state("v", "missing");
    assert_eq!(
        db.get::<String>(
            "SELECT detail FROM cache_refresher.health() WHERE \"check\" = 'view public.v'"
        ),
        "the view is gone, and what has its name now is no view of its owner's, or was not looked at yet"
    );
    db.run("SELECT cache_refresher.unregister('v')");
    assert_eq!(db.get::<i64>("SELECT count(*) FROM cache_refresher.status"), 0);
    assert_eq!(db.error_of("SELECT cache_refresher.unregister('v')").code().code(), "42704");
}

#[test]
fn a_view_that_is_registered_again_begins_anew() {
    let mut db = Scratch::new("registered_again");
    db.run("ALTER DATABASE registered_again SET cache_refresher.suspend_after = '1s'");
    db.create_fragile_view("v");
    db.register("v", "200 ms");
    db.wait_for_refreshes("v", 1);
    db.break_view("v");
    db.wait_for_state("v", "suspended");
    db.mend_view("v");
    db.run("SELECT cache_refresher.unregister('v')");
    db.register("v", "200 ms");
    db.wait("it is refreshed", "SELECT quotient = 50 FROM v");
    let failures = "SELECT failures + consecutive_failures FROM cache_refresher.status";
    assert_eq!(db.get::<i64>(failures), 0);
}

#[test]
fn a_refresh_gives_way_when_it_cannot_get_its_lock() {
    let server = Server::builder()
        .setting("cache_refresher.lock_timeout", "300ms")
        .setting("cache_refresher.retry_base_delay", "200ms")
        .setting("cache_refresher.retry_max_delay", "400ms")
        .setting("cache_refresher.max_retries", "1000")
        .start();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.register("v", "300 ms");
    app.run("SELECT cache_refresher.alter('v', method => 'full')");
    app.wait_for_refreshes("v", 1);
    // A reader who takes his time. The refresh waits for him, and new readers wait for the refresh.
    let mut holder = server.connect("app");
    holder.run("BEGIN");
    holder.shown("v");
    app.wait(
        "it gave way",
        "SELECT count(*) > 0 FROM cache_refresher.refresh_log
         WHERE outcome = 'failed' AND sqlstate = '55P03'",
    );
    let message: String = app.get(
        "SELECT message FROM cache_refresher.refresh_log WHERE sqlstate = '55P03' ORDER BY id LIMIT 1",
    );
    let who: i32 = holder.get("SELECT pg_backend_pid()");
    let expected =
        format!("could not obtain lock on public.v within 300ms: It is locked by process {who}.");
    assert_eq!(message, expected);
    for _ in 0..20 {
        let start = std::time::Instant::now();
        app.shown("v");
        let waited = start.elapsed();
        assert!(waited < seconds(1), "readers were held up for {waited:?}");
        std::thread::sleep(millis(50));
    }
    holder.run("COMMIT");
    app.wait_for_refreshes_within(seconds(5), "v", 2);
}

/// Defaults of role, database and server that a background worker inherits.
fn make_hostile(app: &mut Session) {
    app.run(
        "CREATE SCHEMA evil;
         CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never);
         CREATE FUNCTION evil.trap() RETURNS timestamptz LANGUAGE plpgsql AS
             'BEGIN RAISE EXCEPTION ''trapped''; END';
         CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.trap()';
         CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.trap()';
         CREATE TABLE evil.pg_class (nothing int);
         CREATE TABLE evil.v (nothing int)",
    );
    for setting in [
        "search_path = evil, pg_catalog",
        "default_transaction_read_only = on",
        "default_transaction_isolation = serializable",
        "default_transaction_deferrable = on",
        "statement_timeout = '100ms'",
        "idle_in_transaction_session_timeout = '1ms'",
        "row_security = off",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = sql_standard",
        "timezone = 'Pacific/Chatham'",
        "extra_float_digits = -15",
        "standard_conforming_strings = off",
        "bytea_output = escape",
        "default_table_access_method = heap",
        "client_min_messages = error",
        "xmloption = document",
        "check_function_bodies = off",
        "transform_null_equals = on",
    ] {
        app.run(&format!("ALTER DATABASE app SET {setting}; ALTER ROLE postgres SET {setting}"));
    }
}

#[test]
fn defaults_of_role_and_database_do_not_stop_the_workers() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    app.create_view("v", 10);
    app.create_paced_view("slow");
    app.set_pace("slow", 0.3);
    for view in ["v", "slow"] {
        app.run(&format!(
            "SELECT cache_refresher.register('{view}', refresh_interval => '400 ms',
                 summary_query => 'SELECT count(*) AS n FROM public.{view}')"
        ));
    }
    make_hostile(&mut app);
    drop(app);
    server.restart();
    let mut app = server.connect("app");
    app.run(
        "SET default_transaction_read_only = off; SET search_path = public; SET transform_null_equals = off;
         SET idle_in_transaction_session_timeout = 0",
    );
    for view in ["v", "slow"] {
        app.wait_for_refreshes(view, 3);
        assert_eq!(app.logged(view, "failed"), 0);
    }
    app.run("BEGIN READ WRITE");
    app.write("v", 4);
    app.run("COMMIT");
    app.wait_until_shown("v", 4);
    assert_eq!(server.fatal_lines(), [""; 0]);
}

#[test]
fn server_wide_defaults_do_not_stop_the_workers_either() {
    let server = Server::builder()
        .setting("default_transaction_read_only", "on")
        .setting("default_transaction_isolation", "serializable")
        .setting("statement_timeout", "100ms")
        .setting("lock_timeout", "1ms")
        .start();
    let mut admin = server.connect("postgres");
    admin.run("SET default_transaction_read_only = off");
    admin.run("CREATE DATABASE app");
    let mut app = server.connect("app");
    app.run("SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'");
    app.run("SET lock_timeout = 0");
    app.run("CREATE EXTENSION cache_refresher");
    app.create_paced_view("slow");
    app.set_pace("slow", 0.3);
    app.register("slow", "500 ms");
    app.wait_for_refreshes("slow", 3);
    assert_eq!(app.logged("slow", "failed"), 0);
}

#[test]
fn a_broken_row_in_the_registry_stops_nobody_else() {
    let server = Server::builder().start();
    let mut app = server.create_database("app");
    for view in ["a", "b", "sound"] {
        app.create_view(view, 5);
        app.register(view, "300 ms");
    }
    app.run(
        "UPDATE _cache_refresher.registry SET refresh_interval = NULL, schedule = 'nonsense' WHERE view_name = 'a';
         UPDATE _cache_refresher.registry SET refresh_interval = NULL, schedule = '* * * * *',
             time_zone = 'Mars/Olympus' WHERE view_name = 'b'",
    );
    server.restart();
    let mut app = server.connect("app");
    app.wait_for_refreshes("sound", 3);
    let states: Vec<String> = app.get("SELECT array_agg(state) FROM cache_refresher.status");
    assert_eq!(states.len(), 3, "the status can be read: {states:?}");
}

#[test]
fn a_view_whose_suspension_ends_is_scheduled_though_no_scheduler_was_left() {
    let server = Server::builder()
        .setting("cache_refresher.worker_linger", "100ms")
        .setting("cache_refresher.suspend_after", "500ms")
        .setting("cache_refresher.max_retries", "0")
        .start();
    let mut app = server.create_database("app");
    app.create_fragile_view("v");
    app.break_view("v");
    app.register("v", "200 ms");
    app.wait_for_state("v", "suspended");
    server.wait_until("the scheduler has left", seconds(5), || {
        server.pids_of(cluster_tests::SCHEDULER).is_empty()
    });
    app.mend_view("v");
    assert_eq!(app.refresh("v"), "refreshed");
    app.wait_for_refreshes_within(seconds(5), "v", 2);
}

#[test]
fn an_open_transaction_on_one_registration_does_not_stop_the_other_views() {
    let mut db = Scratch::new("open_pause");
    db.create_view("held", 5);
    db.create_view("free", 5);
    db.register("held", "1 year");
    db.register("free", "200 ms");
    db.wait_for_refreshes("free", 1);
    let mut other = db.connect();
    other.run("BEGIN; SELECT cache_refresher.pause('held')");
    // The scheduler wants to write the new name into the row that the other session has changed.
    db.run("ALTER MATERIALIZED VIEW held RENAME TO moved");
    db.wait_for_refreshes_within(seconds(4), "free", 5);
    other.run("COMMIT");
    db.wait(
        "the rename is followed",
        "SELECT count(*) = 1 FROM cache_refresher.status WHERE view_name = 'moved' AND state = 'paused'",
    );
}

#[test]
fn a_registration_goes_with_the_owner_of_its_view() {
    let mut db = Scratch::new("owner_changes");
    db.run(
        "CREATE ROLE goes_a; CREATE ROLE goes_b; CREATE SCHEMA s AUTHORIZATION goes_a; GRANT ALL ON SCHEMA s TO goes_b;
         SET ROLE goes_a;
         CREATE TABLE s.t (id int PRIMARY KEY); CREATE MATERIALIZED VIEW s.v AS SELECT id FROM s.t;
         SELECT cache_refresher.register('s.v', refresh_interval => '300 ms', summary_query => 'SELECT count(*) AS n FROM s.v');
         RESET ROLE",
    );
    let with_summary = "SELECT bool_and(summary IS NOT NULL) FROM (SELECT summary FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 2) l";
    db.wait("it has a summary", with_summary);
    db.run("ALTER ROLE goes_a RENAME TO goes_c");
    let known = "SELECT owner_name FROM _cache_refresher.binding";
    db.wait("the name is known", &format!("SELECT ({known}) = 'goes_c'"));
    let seen: i64 = db.get("SELECT max(id) FROM cache_refresher.refresh_log");
    db.wait(
        "it is refreshed",
        &format!("SELECT max(id) > {seen} + 2 FROM cache_refresher.refresh_log"),
    );
    assert!(db.get::<bool>(with_summary));

    db.run("REASSIGN OWNED BY goes_c TO goes_b");
    db.wait("the owner is known", &format!("SELECT ({known}) = 'goes_b'"));
    db.run("SET ROLE goes_b; DROP MATERIALIZED VIEW s.v; CREATE MATERIALIZED VIEW s.v AS SELECT id FROM s.t; RESET ROLE");
    db.wait(
        "it is taken up",
        "SELECT state = 'scheduled' AND view IS NOT NULL FROM cache_refresher.status",
    );
    db.run("SELECT cache_refresher.unregister('s.v')");
    db.run("DROP OWNED BY goes_b, goes_c; DROP ROLE goes_b, goes_c");
}
