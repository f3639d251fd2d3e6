//! Roles that want more than they have: no code of theirs runs as somebody else, and nobody waits for them.

use std::time::Instant;

use cluster_tests::{A_SECOND, Mode, SCHEDULER, Scratch, Server, Session, millis, seconds};

/// Roles alice and mallory with a schema each, and one that both may create in. Whatever code of mallory's runs
/// notes as whom in `m.seen`.
fn start(server: &Server, database: &str) -> (Session, Session, Session) {
    let mut admin = server.create_database(database);
    admin.run(
        "DO $$ BEGIN CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN; CREATE ROLE nobody LOGIN; EXCEPTION WHEN duplicate_object THEN END $$;
         CREATE SCHEMA a AUTHORIZATION alice; CREATE SCHEMA m AUTHORIZATION mallory;
         CREATE SCHEMA shared; GRANT ALL ON SCHEMA shared TO alice, mallory; GRANT USAGE ON SCHEMA a, m TO PUBLIC",
    );
    let (alice, mut mallory) =
        (server.connect_as(database, "alice"), server.connect_as(database, "mallory"));
    // What cannot be rolled back, and works in read-only transactions too: a notice in the server's log.
    mallory.run(
        "CREATE FUNCTION m.look(anyelement) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$
         BEGIN
             IF current_user <> 'mallory' OR session_user NOT IN ('mallory', 'postgres', 'alice') THEN
                 RAISE LOG 'caught: mallory''s code runs as %', current_user;
             END IF;
             RETURN true;
         END $$",
    );
    (admin, alice, mallory)
}

/// Asserts that no code of mallory's has run as somebody else.
fn nothing_caught(server: &Server) {
    assert_eq!(server.log_lines(&["caught: "]), 0, "{}", server.log());
}

#[test]
fn statistics_of_a_log_run_no_function_of_a_users() {
    let server = Server::builder().start();
    let (mut admin, _, mut mallory) = start(&server, "app");
    mallory.run(
        "CREATE FUNCTION m.difference(int4, int4) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS
             'BEGIN PERFORM m.look(1); RETURN ($1 - $2)::float8; END';
         CREATE TYPE m.r AS RANGE (SUBTYPE = int4, SUBTYPE_DIFF = m.difference);
         CREATE TABLE m.ta (id int PRIMARY KEY, r m.r); CREATE TABLE m.tb (r m.r, x int);
         CREATE MATERIALIZED VIEW m.v AS SELECT ta.id, tb.x FROM m.ta JOIN m.tb ON ta.r = tb.r;
         CREATE UNIQUE INDEX ON m.v (id, x);
         SELECT cache_refresher.register('m.v', refresh_interval => '1 day', on_change => true, debounce => '1 hour', max_staleness => '1 day');
         SELECT cache_refresher.pause('m.v');
         INSERT INTO m.tb SELECT m.r(i, i + 5), i FROM generate_series(1, 1000) i",
    );
    let logs: i64 = admin.get("SELECT count(*) FROM pg_class WHERE relname ~ '^changes_[0-9]+$'");
    assert_eq!(logs, 2);
    admin.run("ANALYZE");
    nothing_caught(&server);
}

#[test]
fn what_lies_in_the_way_of_the_installation_is_not_picked_up() {
    let server = Server::builder().start();
    server.create_plain_database("app");
    let mut admin = server.connect("app");
    admin.run("CREATE ROLE dbo LOGIN; ALTER DATABASE app OWNER TO dbo; GRANT CREATE ON SCHEMA public TO dbo");
    let mut owner = server.connect_as("app", "dbo");
    for (operator, left, right, result) in [
        (">=", "float8", "int4", "bool"),
        ("=", "oid", "regclass", "bool"),
        ("=", "text", "unknown", "bool"),
        ("/", "float8", "int4", "float8"),
        ("||", "text", "int4", "text"),
        ("<>", "oid", "oid", "bool"),
        (">", "int8", "int4", "bool"),
        ("-", "timestamptz", "timestamptz", "interval"),
    ] {
        // Where the types are pseudo-types the server refuses it.
        drop(owner.batch_execute(&format!(
            "CREATE FUNCTION public.evil({left}, {right}) RETURNS {result} LANGUAGE sql AS 'SELECT NULL::{result}';
             CREATE OPERATOR public.{operator} (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = public.evil)"
        )));
    }
    owner.run(
        "CREATE FUNCTION public.count(anyelement) RETURNS int8 LANGUAGE sql AS 'SELECT 0::int8'",
    );
    assert!(
        owner.get::<i64>(
            "SELECT count(*)::int8 FROM pg_operator WHERE oprnamespace = 'public'::regnamespace"
        ) >= 5
    );
    admin.run("CREATE EXTENSION cache_refresher");
    // The question is not to fall for it either.
    admin.run("SET search_path = pg_catalog");
    // Of what the extension has made, constraints, views and function bodies included, nothing depends on it.
    let found: Vec<String> = admin
        .query(
            "WITH RECURSIVE member (classid, objid) AS (
                 SELECT classid, objid FROM pg_depend
                  WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
                    AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cache_refresher')
                  UNION
                 SELECT d.classid, d.objid FROM member m JOIN pg_depend d ON (d.refclassid, d.refobjid) = (m.classid, m.objid)
             )
             SELECT pg_describe_object(d.refclassid, d.refobjid, 0)
               FROM member m JOIN pg_depend d USING (classid, objid)
              WHERE d.refclassid = 'pg_operator'::regclass AND d.refobjid >= 16384
                 OR d.refclassid = 'pg_proc'::regclass AND d.refobjid IN (SELECT oid FROM pg_proc WHERE proname IN ('evil', 'count') AND pronamespace = 'public'::regnamespace)",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(found, [""; 0]);
}

#[test]
fn types_and_indexes_of_a_view_run_their_code_as_its_owner() {
    let server = Server::builder().start();
    let (mut admin, _, mut mallory) = start(&server, "app");
    mallory.run(
        "CREATE DOMAIN m.d AS text CHECK (m.look(VALUE));
         CREATE TABLE m.t (k m.d, n int); INSERT INTO m.t VALUES ('a', 1), ('b', 2);
         CREATE MATERIALIZED VIEW m.v AS SELECT k, n FROM m.t WHERE m.look(n);
         CREATE UNIQUE INDEX ON m.v (k, n); CREATE INDEX ON m.v (m.look(n)) WHERE m.look(k::text);
         SELECT cache_refresher.register('m.v', refresh_interval => '300 ms', on_change => true, debounce => '0',
                    summary_query => 'SELECT count(*) FROM m.v WHERE m.look(n)')",
    );
    for method in ["full", "concurrent", "diff", "delta"] {
        mallory.run("UPDATE m.t SET n = n + 1");
        admin.run(&format!("SELECT cache_refresher.refresh('m.v', '{method}')"));
    }
    admin.run("SELECT cache_refresher.invalidate('m.v', ARRAY[ROW('a', 5), ROW('c', 7)])");
    admin.run("SELECT cache_refresher.explain('m.v'), cache_refresher.freshness('m.v')");
    mallory.run("INSERT INTO m.t SELECT 'k' || i, i FROM generate_series(1, 3000) i");
    mallory.wait("workers have refreshed it", "SELECT count(*) > 3000 FROM m.v");
    nothing_caught(&server);
}

#[test]
fn a_worker_is_not_taken_for_the_administrator() {
    let server = Server::builder().start();
    let (mut admin, mut alice, mut mallory) = start(&server, "app");
    alice.run(
        "CREATE TABLE a.secrets (who text, secret text);
         INSERT INTO a.secrets VALUES ('mallory', 'own'), ('postgres', 'of the administrator');
         ALTER TABLE a.secrets ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON a.secrets USING (who = session_user); GRANT SELECT ON a.secrets TO mallory",
    );
    for method in ["full", "concurrent", "diff"] {
        mallory.run(&format!(
            "CREATE MATERIALIZED VIEW m.of_{method} AS
                 SELECT row_number() OVER () AS id, who, session_user::text AS session, current_user::text AS me, current_setting('is_superuser') AS super
                   FROM a.secrets;
             CREATE UNIQUE INDEX ON m.of_{method} (id);
             SELECT cache_refresher.register('m.of_{method}', refresh_interval => '300 ms', method => '{method}')"
        ));
        mallory.wait_for_refreshes(&format!("of_{method}"), 2);
        let row = mallory.row(&format!(
            "SELECT string_agg(who, ','), min(session), min(me), min(super) FROM m.of_{method}"
        ));
        let found: [Option<String>; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
        let found = found.map(Option::unwrap_or_default);
        assert_eq!(found, ["mallory", "mallory", "mallory", "off"], "{method}");
    }
    // And the process itself is what it was.
    admin.wait_for_refreshes("of_full", 2);
    assert_eq!(
        admin.get::<i64>(
            "SELECT count(*) FROM cache_refresher.refresh_log WHERE outcome <> 'refreshed'"
        ),
        0
    );
}

#[test]
fn nobody_locks_the_tables_of_others() {
    let server = Server::builder().setting("cache_refresher.enabled", "off").start();
    let (mut admin, mut alice, mut mallory) = start(&server, "app");
    alice.run(
        "CREATE TABLE a.busy (id int PRIMARY KEY, v int);
         CREATE MATERIALIZED VIEW a.v AS SELECT id, v FROM a.busy; CREATE UNIQUE INDEX ON a.v (id);
         SELECT cache_refresher.register('a.v', refresh_interval => '1 year', on_change => true);
         GRANT SELECT, TRIGGER ON a.busy TO mallory",
    );
    let mut reader = server.connect_as("app", "alice");
    reader.run("BEGIN; SELECT count(*) FROM a.busy");
    let begun = Instant::now();
    alice.run("SELECT cache_refresher.unregister('a.v')");
    assert!(begun.elapsed() < A_SECOND, "what cannot be removed now is not waited for");
    reader.run("COMMIT");
    mallory.run(
        "CREATE MATERIALIZED VIEW m.other AS SELECT 1 AS k; CREATE UNIQUE INDEX ON m.other (k);
         CREATE MATERIALIZED VIEW m.v AS SELECT id, v FROM a.busy; CREATE UNIQUE INDEX ON m.v (id);
         SELECT cache_refresher.register('m.v', refresh_interval => '1 year', on_change => true);
         BEGIN; SELECT cache_refresher.register('m.other', refresh_interval => '1 year');
         SELECT cache_refresher.unregister('m.v')",
    );
    alice.run("SET lock_timeout = '1s'; SELECT count(*) FROM a.busy; UPDATE a.busy SET v = 1");
    assert_eq!(
        admin.get::<i64>("SELECT count(*) FROM pg_locks WHERE relation = 'a.busy'::regclass AND mode LIKE '%Exclusive%'"),
        0
    );
    mallory.run("COMMIT");
    server.set("cache_refresher.enabled", "on");
    server.reload();
    admin.wait(
        "the scheduler tidies",
        "SELECT count(*) = 0 FROM pg_trigger WHERE tgname LIKE 'cache_refresher%'",
    );
}

#[test]
fn an_open_transaction_of_one_owner_stops_nobody_else() {
    let server = Server::builder().setting("cache_refresher.max_workers", "2").start();
    let (mut admin, mut alice, mut mallory) = start(&server, "app");
    alice.run(
        "CREATE MATERIALIZED VIEW a.v AS SELECT clock_timestamp() AS k;
         SELECT cache_refresher.register('a.v', refresh_interval => '300 ms', method => 'full');
         CREATE MATERIALIZED VIEW a.w AS SELECT 1 AS k; CREATE UNIQUE INDEX ON a.w (k)",
    );
    mallory.run(
        "CREATE MATERIALIZED VIEW m.v1 AS SELECT clock_timestamp() AS k; CREATE MATERIALIZED VIEW m.v2 AS SELECT clock_timestamp() AS k;
         SELECT cache_refresher.register('m.v1', '300 ms', method => 'full'), cache_refresher.register('m.v2', '300 ms', method => 'full');
         CREATE TABLE m.t (k int PRIMARY KEY); CREATE MATERIALIZED VIEW m.captured AS SELECT k FROM m.t; CREATE UNIQUE INDEX ON m.captured (k);
         SELECT cache_refresher.register('m.captured', refresh_interval => '1 year', on_change => true);
         CREATE MATERIALIZED VIEW m.gone AS SELECT 1 AS k; SELECT cache_refresher.refresh('m.gone'); DROP MATERIALIZED VIEW m.gone;
         CREATE MATERIALIZED VIEW m.keys AS SELECT 1 AS k; CREATE UNIQUE INDEX ON m.keys (k);
         CREATE MATERIALIZED VIEW m.renamed AS SELECT 1 AS k; SELECT cache_refresher.register('m.renamed', '1 year')",
    );
    mallory.wait_for_refreshes("v1", 1);
    // Everything that touches our tables, left open.
    mallory.run(
        "BEGIN; SELECT cache_refresher.resume('m.v1'), cache_refresher.resume('m.v2'), cache_refresher.pause('m.renamed');
         SELECT cache_refresher.invalidate('m.keys', ARRAY[1]); SELECT cache_refresher.unregister('m.captured')",
    );
    server
        .connect_as("app", "mallory")
        .run("SET lock_timeout = '1s'; ALTER MATERIALIZED VIEW m.renamed RENAME TO renamed_now");
    alice.wait_for_refreshes_within(seconds(10), "v", 12);
    alice.run("SET statement_timeout = '5s'");
    alice.run("SELECT cache_refresher.register('a.w', '1 year'); SELECT cache_refresher.pause('a.w'); SELECT cache_refresher.resume('a.w');
               SELECT cache_refresher.refresh('a.w'); SELECT cache_refresher.invalidate('a.w', ARRAY[1]); SELECT count(*) FROM cache_refresher.refresh_all()");
    // A view made anew is taken up.
    alice.run(
        "DROP MATERIALIZED VIEW a.v; CREATE MATERIALIZED VIEW a.v AS SELECT clock_timestamp() AS k",
    );
    alice.wait("it is taken up again", "SELECT state = 'scheduled' FROM cache_refresher.status WHERE view_name = 'v' AND view_schema = 'a'");
    alice.wait_for_refreshes("v", 1);
    // Whoever watches sees.
    admin.run("SET statement_timeout = '5s'");
    admin.run("SELECT count(*) FROM cache_refresher.status; SELECT count(*) FROM cache_refresher.health(); SELECT length(cache_refresher.metrics_text())");
    mallory.run("COMMIT");
}

#[test]
fn a_registration_and_its_grants_are_for_views_of_the_same_owner() {
    let mut db = Scratch::new("squatted");
    let server = db.shared_server().clone();
    drop(db.batch_execute(
        "CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN; CREATE ROLE nobody LOGIN",
    ));
    db.run("CREATE SCHEMA shared; GRANT ALL ON SCHEMA shared TO PUBLIC");
    let (mut alice, mut mallory) =
        (server.connect_as("squatted", "alice"), server.connect_as("squatted", "mallory"));
    mallory.run(
        "CREATE MATERIALIZED VIEW shared.report AS SELECT 1 AS k;
         SELECT cache_refresher.register('shared.report', refresh_interval => '200 ms', method => 'full', on_change => true);
         SELECT cache_refresher.grant_refresh('shared.report', 'mallory');
         DROP MATERIALIZED VIEW shared.report",
    );
    alice.run(
        "CREATE TABLE shared.src (id int PRIMARY KEY, v int);
         CREATE MATERIALIZED VIEW shared.report AS SELECT id, v FROM shared.src; CREATE UNIQUE INDEX ON shared.report (id)",
    );
    alice.stays_unrefreshed("report", seconds(1));
    assert_eq!(
        db.get::<i64>("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'cache_refresher%'"),
        0
    );
    assert_eq!(
        mallory.error_of("SELECT cache_refresher.refresh('shared.report')").code().code(),
        "42501"
    );
    // Alice registers it as hers; what mallory had said is gone.
    alice.run("SELECT cache_refresher.register('shared.report', refresh_interval => '1 year')");
    assert_eq!(
        mallory.error_of("SELECT cache_refresher.refresh('shared.report')").code().code(),
        "42501"
    );
    assert_eq!(
        alice.get::<Option<String>>("SELECT method FROM cache_refresher.status").as_deref(),
        Some("auto")
    );
    // A migration of hers keeps it.
    alice.run("SELECT cache_refresher.grant_refresh('shared.report', 'nobody');
               DROP MATERIALIZED VIEW shared.report; CREATE MATERIALIZED VIEW shared.report AS SELECT id, v FROM shared.src; CREATE UNIQUE INDEX ON shared.report (id)");
    alice.wait("it is taken up again", "SELECT state <> 'missing' FROM cache_refresher.status");
    assert!(
        db.get::<bool>("SELECT last_owner IS NULL FROM _cache_refresher.registry"),
        "a dump would take it along"
    );
    server.connect_as("squatted", "nobody").run("SELECT cache_refresher.refresh('shared.report')");
    db.run("DROP OWNED BY alice, mallory");
}

#[test]
fn a_view_cannot_end_the_refreshes_of_others() {
    let mut db = Scratch::new("ends_others");
    db.run(
        "CREATE FUNCTION boom() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'stop all' USING ERRCODE = 'query_canceled'; END $$;
         CREATE MATERIALIZED VIEW a_bad AS SELECT boom() AS k WITH NO DATA;
         CREATE MATERIALIZED VIEW b_good AS SELECT 1 AS k WITH NO DATA;
         SELECT cache_refresher.register('a_bad', '1 day'), cache_refresher.register('b_good', '1 day');
         SELECT cache_refresher.pause('a_bad'), cache_refresher.pause('b_good')",
    );
    let outcomes: String = db.get(
        "SELECT string_agg(outcome, ',' ORDER BY view::text) FROM cache_refresher.refresh_all()",
    );
    assert_eq!(outcomes, "failed,refreshed");
    // Whoever cancels one view does not mean the others.
    db.run(
        "CREATE MATERIALIZED VIEW a_slow AS SELECT 1 AS id, pg_sleep(600)::text AS slept WITH NO DATA;
         SELECT cache_refresher.register('a_slow', '1 day'); SELECT cache_refresher.pause('a_slow')",
    );
    let all = db.server().background(
        "ends_others",
        "CREATE TABLE seen AS SELECT view::text, outcome FROM cache_refresher.refresh_all()",
    );
    db.wait(
        "it is being refreshed",
        "SELECT count(*) = 1 FROM cache_refresher.progress WHERE view::text = 'a_slow'",
    );
    assert!(db.get::<bool>("SELECT cache_refresher.cancel('a_slow')"));
    all.join().unwrap().unwrap();
    let outcomes: String = db.get("SELECT string_agg(outcome, ',' ORDER BY view) FROM seen");
    assert_eq!(outcomes, "failed,cancelled,refreshed");
    db.run("SELECT cache_refresher.unregister('a_slow')");
    // In a worker it is a failure like others, which is retried and not for ever.
    db.run("SELECT cache_refresher.alter('a_bad', refresh_interval => '200 ms'), cache_refresher.resume('a_bad')");
    db.wait("it counts as failed", "SELECT count(*) > 0 FROM cache_refresher.refresh_log WHERE view_name = 'a_bad' AND outcome = 'failed' AND trigger <> 'manual'");
}

#[test]
fn a_group_takes_one_place_among_those_that_run() {
    let mut db = Scratch::new("places");
    db.run(
        "DO $$ BEGIN FOR i IN 1 .. 300 LOOP
             EXECUTE format('CREATE MATERIALIZED VIEW s%s AS SELECT CASE WHEN %s = 300 THEN pg_sleep(3)::text END AS k WITH NO DATA', i, i);
         END LOOP; END $$",
    );
    let group = "SELECT count(*) FROM cache_refresher.refresh_together((SELECT array_agg(format('s%s', i)::regclass ORDER BY i) FROM generate_series(1, 300) i))";
    let running = db.server().background("places", group);
    db.wait(
        "the last is being refreshed",
        "SELECT count(*) = 1 FROM cache_refresher.progress WHERE view::text = 's300'",
    );
    db.create_paced_view("slow");
    db.set_pace("slow", 600.0);
    let slow = db.server().background("places", "SELECT cache_refresher.refresh('slow')");
    db.wait(
        "others are seen, too",
        "SELECT count(*) = 1 FROM cache_refresher.progress WHERE view::text = 'slow'",
    );
    assert!(db.get::<bool>("SELECT cache_refresher.cancel('slow')"));
    assert!(slow.join().unwrap().is_err());
    // One of the group that is not being computed just now can be cancelled as well.
    assert!(db.get::<bool>("SELECT cache_refresher.cancel('s1')"));
    assert!(running.join().unwrap().is_err());
}

#[test]
fn texts_of_users_are_bounded() {
    let mut db = Scratch::new("bounded_texts");
    db.create_view("v", 1);
    for call in [
        "SELECT cache_refresher.register('v', schedule => repeat('0,', 1000000) || '0 0 * * *')",
        "SELECT cache_refresher.register('v', schedule => '@hourly', time_zone => repeat('x', 1000))",
    ] {
        assert_eq!(db.error_of(call).code().code(), "22023", "{call}");
    }
    db.run(
        "CREATE FUNCTION loud() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', repeat('ü', 1000000) USING DETAIL = repeat('y', 1000000); END $$;
         CREATE MATERIALIZED VIEW loud_view AS SELECT loud() AS k WITH NO DATA;
         SELECT cache_refresher.register('loud_view', '200 ms')",
    );
    db.wait(
        "the failure is logged",
        "SELECT count(*) > 0 FROM cache_refresher.refresh_log WHERE view_name = 'loud_view'",
    );
    let longest: i32 = db.get("SELECT max(octet_length(message)) FROM cache_refresher.refresh_log WHERE view_name = 'loud_view'");
    assert!(longest < 1100, "{longest}");
    assert!(db.server().log().lines().all(|line| line.len() < 10_000));
    let refusal = db.error_of(
        "SELECT cache_refresher.register('v', summary_query => $$SELECT repeat('x', 100000)$$)",
    );
    assert_eq!(refusal.code().code(), "54000");
}

#[test]
fn what_a_role_sets_for_itself_disturbs_no_scheduler() {
    let server = Server::builder().setting("cache_refresher.worker_linger", "10min").start();
    let (mut admin, _, mut mallory) = start(&server, "app");
    admin.create_view("v", 5);
    admin.register("v", "300 ms");
    admin.wait_for_refreshes("v", 1);
    let before = server.pids_of(SCHEDULER);
    for _ in 0..50 {
        mallory.run("ALTER ROLE CURRENT_USER IN DATABASE app SET work_mem = '1MB'");
    }
    std::thread::sleep(millis(500));
    assert_eq!(server.pids_of(SCHEDULER), before);
    assert_eq!(server.log_lines(&["scheduler", "terminat"]), 0);
}

#[test]
fn who_may_not_know_learns_nothing() {
    let server = Server::builder().start();
    let (mut admin, mut alice, mut mallory) = start(&server, "app");
    alice.run("CREATE MATERIALIZED VIEW a.missing AS SELECT 1 AS k; SELECT cache_refresher.register('a.missing', '1 year'); DROP MATERIALIZED VIEW a.missing");
    for name in ["a.missing", "a.never", "missing", "never"] {
        assert_eq!(
            mallory.error_of(&format!("SELECT cache_refresher.unregister('{name}')")).code().code(),
            "42704",
            "{name}"
        );
    }
    alice.run("SELECT cache_refresher.unregister('missing')");
    // A summary can hold what is in a view, which those who watch may not read.
    alice.run(
        "CREATE MATERIALIZED VIEW a.v AS SELECT 42 AS secret;
         SELECT cache_refresher.register('a.v', '1 year', summary_query => 'SELECT max(secret) AS top FROM a.v'); SELECT cache_refresher.refresh('a.v')",
    );
    admin.run("GRANT pg_monitor TO nobody");
    let mut monitor = server.connect_as("app", "nobody");
    for log in ["refresh_log", "materialized_view_refresh_log"] {
        let seen = format!(
            "SELECT count(*), count(summary) FROM cache_refresher.{log} WHERE view_name = 'v'"
        );
        let row = monitor.row(&seen);
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1, 0), "{log}");
        assert_eq!(alice.row(&seen).get::<_, i64>(1), 1, "{log}");
    }
    // The log of changes lies where the extension wants it.
    let folder = server.new_folder("closed");
    admin.run(&format!("CREATE TABLESPACE closed LOCATION '{}'", folder.display()));
    mallory.run(
        "CREATE TABLE m.t (k int PRIMARY KEY); CREATE MATERIALIZED VIEW m.v AS SELECT k FROM m.t; CREATE UNIQUE INDEX ON m.v (k);
         SET default_tablespace = closed; SELECT cache_refresher.register('m.v', '1 year', on_change => true)",
    );
    assert_eq!(admin.get::<i64>("SELECT count(*) FROM pg_class WHERE reltablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'closed')"), 0);
}

#[test]
fn locks_of_a_views_own_do_not_stay_in_the_worker() {
    let mut db = Scratch::new("advisory");
    db.run(
        "CREATE MATERIALIZED VIEW v AS SELECT 1 AS id, pg_advisory_lock(4711)::text AS x WITH NO DATA;
         SELECT cache_refresher.register('v', refresh_interval => '1 year')",
    );
    db.wait("v is populated", "SELECT relispopulated FROM pg_class WHERE relname = 'v'");
    db.wait_for("nobody holds it", seconds(2), "SELECT pg_try_advisory_lock(4711)");
}

#[test]
fn a_function_that_catches_its_cancellation_is_ended_all_the_same() {
    let server = Server::builder()
        .setting("cache_refresher.max_workers", "1")
        .setting("cache_refresher.timeout", "1s")
        .start();
    let (mut admin, _, mut mallory) = start(&server, "app");
    mallory.run(
        "CREATE FUNCTION m.immortal() RETURNS int LANGUAGE plpgsql AS $$
         BEGIN
             LOOP
                 BEGIN PERFORM pg_sleep(1000); EXCEPTION WHEN query_canceled THEN NULL; END;
             END LOOP;
         END $$;
         CREATE MATERIALIZED VIEW m.v AS SELECT m.immortal() AS id WITH NO DATA;
         SELECT cache_refresher.register('m.v', refresh_interval => '1 year')",
    );
    // By its time limit, as a failure, with tries that become fewer.
    let failed = "SELECT count(*) > 0 FROM cache_refresher.refresh_log
                   WHERE view_name = 'v' AND (outcome, sqlstate, attempt) = ('failed', '57014', 1)";
    admin.wait("the timeout is recorded", failed);
    admin.wait(
        "it is tried again later",
        "SELECT consecutive_failures > 0 FROM cache_refresher.status",
    );
    server.reset("cache_refresher.timeout");
    server.reload();
    // By whoever ends its process.
    admin.wait_until_pacing();
    admin.run("SELECT pg_terminate_backend(pid) FROM cache_refresher.progress");
    admin.wait(
        "the end of its worker is recorded",
        "SELECT count(*) > 0 FROM cache_refresher.refresh_log
          WHERE view_name = 'v' AND (outcome, sqlstate) = ('cancelled', '57P01')",
    );
    // And by a shutdown.
    admin.run("SELECT cache_refresher.resume('m.v')");
    admin.run(
        "UPDATE _cache_refresher.attempts SET last_started_at = NULL, last_finished_at = NULL",
    );
    admin.run("SELECT cache_refresher.alter('m.v', refresh_interval => '100 ms')");
    admin.wait_until_pacing();
    drop((admin, mallory));
    assert!(server.stop(Mode::Fast) < seconds(10));
}

#[test]
fn what_views_of_one_owner_leave_in_a_session_is_not_for_those_of_another() {
    let server = Server::builder().setting("cache_refresher.max_workers", "1").start();
    let (mut admin, mut alice, mut mallory) = start(&server, "app");
    for (session, name) in [(&mut alice, "a.v"), (&mut mallory, "m.w")] {
        session.run(&format!(
            "CREATE MATERIALIZED VIEW {name} AS SELECT pg_backend_pid() AS pid;
             SELECT cache_refresher.register('{name}', refresh_interval => '200 ms',
                                             summary_query => 'SELECT pid FROM {name}')"
        ));
    }
    admin.wait(
        "both are refreshed again and again",
        "SELECT bool_and(refreshes > 3) FROM cache_refresher.status",
    );
    let shared: i64 = admin.get(
        "SELECT count(*) FROM (SELECT summary ->> 'pid' FROM cache_refresher.refresh_log WHERE trigger = 'interval' AND view_name = 'v'
                               INTERSECT
                               SELECT summary ->> 'pid' FROM cache_refresher.refresh_log WHERE trigger = 'interval' AND view_name = 'w') s",
    );
    assert_eq!(shared, 0, "processes that have served both");
    let owners: Vec<String> =
        admin.query("SELECT DISTINCT role_name::text FROM cache_refresher.refresh_log WHERE trigger = 'interval' ORDER BY 1", &[])
            .unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(owners, ["alice", "mallory"]);
}

#[test]
fn who_cancels_what_is_done_ends_nothing_of_others() {
    let server = Server::builder().start();
    let (mut admin, mut alice, mut mallory) = start(&server, "app");
    mallory.run(
        "CREATE MATERIALIZED VIEW m.fast AS SELECT 1 AS id;
         SELECT cache_refresher.register('m.fast', refresh_interval => '1 day')",
    );
    alice.run(
        "CREATE MATERIALIZED VIEW shared.slow AS SELECT pg_sleep(3) IS NULL AS slept WITH NO DATA;
         SELECT cache_refresher.register('shared.slow', refresh_interval => '1 day')",
    );
    admin.wait("it is populated", "SELECT relispopulated FROM pg_class WHERE relname = 'slow'");
    let all = server.background("app", "SELECT cache_refresher.refresh_all('diff')");
    admin.wait(
        "it is the turn of the second one",
        "SELECT count(*) = 1 FROM cache_refresher.progress WHERE view = 'shared.slow'::regclass AND phase = 'comparing'",
    );
    assert!(!mallory.get::<bool>("SELECT cache_refresher.cancel('m.fast')"));
    all.join().unwrap().unwrap();
}
