//! What cannot be done is refused with a SQLSTATE and a remedy, and changes nothing.

use cluster_tests::Scratch;

/// Views and tables to be wrong about. `v` is registered, `w` is not, `bare` has no unique index.
fn start(name: &'static str) -> Scratch {
    let mut db = Scratch::new(name);
    db.create_view("v", 10);
    db.create_view("w", 10);
    db.run(
        "CREATE TABLE t (id int);
         INSERT INTO t VALUES (1), (2);
         CREATE VIEW plain AS SELECT 1 AS id;
         CREATE MATERIALIZED VIEW bare AS SELECT 1 AS id;
         CREATE FUNCTION writer() RETURNS int LANGUAGE sql AS 'DELETE FROM public.t RETURNING id'",
    );
    db.register("v", "1 year");
    db
}

/// Everything that a refused call must leave as it was.
const STATE: &str = "SELECT md5(coalesce((SELECT string_agg(r::text, ' ' ORDER BY r::text) FROM _cache_refresher.registry r), '')
    || coalesce((SELECT string_agg(b::text, ' ' ORDER BY b::text) FROM _cache_refresher.binding b), '')
    || coalesce((SELECT string_agg(g::text, ' ' ORDER BY g::text) FROM _cache_refresher.refresh_grant g), '')
    || (SELECT string_agg(id::text, ' ') FROM t))";

/// Asserts that `call`, in schema cache_refresher, is refused with one of those states and a hint.
#[track_caller]
fn refused_as(db: &mut Scratch, call: &str, states: &[&str]) {
    let before: String = db.get(STATE);
    let refusal = db.error_of(&format!("SELECT cache_refresher.{call}"));
    assert!(states.contains(&refusal.code().code()), "{call}: {refusal:?}");
    assert!(refusal.hint().is_some_and(|hint| !hint.is_empty()), "no hint: {call}: {refusal:?}");
    let first = refusal.message().chars().next().unwrap();
    assert!(!first.is_uppercase() && !refusal.message().ends_with('.'), "{call}: {refusal:?}");
    assert_eq!(db.get::<String>(STATE), before, "{call} changed something");
}

#[track_caller]
fn refused(db: &mut Scratch, call: &str, state: &str) {
    refused_as(db, call, &[state]);
}

#[test]
fn what_is_no_materialized_view_is_refused() {
    let mut db = start("no_matview");
    for function in ["register", "refresh", "alter", "pause", "freshness", "age", "cancel"] {
        for relation in ["t", "plain", "v_id_idx"] {
            refused(&mut db, &format!("{function}('{relation}')"), "42809");
        }
        refused(&mut db, &format!("{function}(3999999999::oid)"), "42P01");
        refused(&mut db, &format!("{function}(NULL::regclass)"), "22004");
        // The server itself says this, before we are called.
        let refusal = db.error_of(&format!("SELECT cache_refresher.{function}('nowhere')"));
        assert_eq!(refusal.code().code(), "42P01", "{refusal:?}");
    }
}

#[test]
fn registering_twice_is_refused_and_points_at_alter() {
    let mut db = start("twice");
    refused(&mut db, "register('v')", "42710");
    let refusal =
        db.error_of("SELECT cache_refresher.register('v', refresh_interval => '2 hours')");
    assert!(refusal.hint().unwrap().contains("alter"), "{refusal:?}");
    assert!(db.get::<bool>("SELECT refresh_interval = '1 year' FROM cache_refresher.status"));
}

#[test]
fn what_is_not_registered_is_refused() {
    let mut db = start("not_registered");
    db.run("CREATE ROLE bad_input_role");
    for call in [
        "alter('w', refresh_interval => '1 year')",
        "pause('w')",
        "resume('w')",
        "unregister('w')",
        "unregister('nowhere')",
        "unregister('public.nowhere')",
        "grant_refresh('w', 'bad_input_role')",
        "revoke_refresh('w', 'bad_input_role')",
    ] {
        refused(&mut db, call, "42704");
    }
    refused(&mut db, "unregister(NULL)", "22004");
    refused(&mut db, "grant_refresh('v', NULL)", "22004");
    db.run("DROP ROLE bad_input_role");
}

#[test]
fn absurd_intervals_are_refused() {
    let mut db = start("absurd_interval");
    let mut intervals =
        vec!["0", "-1 second", "50 milliseconds", "11 years", "1 month -40 days", "100000 years"];
    if db.get::<bool>("SELECT current_setting('server_version_num')::int >= 170000") {
        intervals.extend(["infinity", "-infinity"]);
    }
    for interval in intervals {
        refused(&mut db, &format!("register('w', refresh_interval => '{interval}')"), "22023");
        refused(&mut db, &format!("alter('v', refresh_interval => '{interval}')"), "22023");
    }
    refused(&mut db, "register('w', timeout => '-1 second')", "22023");
    for interval in ["100 milliseconds", "10 years"] {
        db.run(&format!("SELECT cache_refresher.alter('v', refresh_interval => '{interval}')"));
    }
}

#[test]
fn bad_schedules_are_refused() {
    let mut db = start("bad_schedule");
    for schedule in
        ["every day", "61 * * * *", "* * *", "* * * * * * * *", "", "*/0 * * * *", "0 25 * * *"]
    {
        refused(&mut db, &format!("register('w', schedule => '{schedule}')"), "22023");
        refused(&mut db, &format!("alter('v', schedule => '{schedule}')"), "22023");
    }
    refused(
        &mut db,
        "register('w', schedule => '0 3 * * *', time_zone => 'Mars/Olympus')",
        "22023",
    );
    refused(&mut db, "register('w', schedule => '0 3 * * *', time_zone => '')", "22023");
    refused(&mut db, "register('w', time_zone => 'Europe/Berlin')", "22023");
    refused(
        &mut db,
        "register('w', refresh_interval => '1 year', schedule => '0 3 * * *')",
        "22023",
    );
    refused(&mut db, "alter('v', refresh_interval => '2 hours', schedule => '0 3 * * *')", "22023");
}

#[test]
fn unknown_methods_and_settings_are_refused() {
    let mut db = start("unknown_method");
    for method in ["magic", "", "FULL ", "skip"] {
        refused(&mut db, &format!("register('w', method => '{method}')"), "22023");
        refused(&mut db, &format!("alter('v', method => '{method}')"), "22023");
        refused(&mut db, &format!("refresh('v', method => '{method}')"), "22023");
    }
    refused(&mut db, "alter('v', reset => '{colour}')", "22023");
    refused(&mut db, "alter('v', reset => '{method,NULL}')", "22004");
    refused(&mut db, "alter('v', method => 'full', reset => '{method}')", "22023");
    assert_eq!(db.refreshes("v"), 0);
}

#[test]
fn limits_of_an_interval_that_make_no_sense_are_refused() {
    let mut db = start("bad_limits");
    for argument in [
        "min_interval => '1 minute'",
        "max_interval => '1 hour'",
        "min_interval => '1 hour', max_interval => '1 minute'",
        "min_interval => '0', max_interval => '1 minute'",
        "min_interval => '1 minute', max_interval => '1 hour', schedule => '@hourly'",
    ] {
        refused(&mut db, &format!("register('w', {argument})"), "22023");
        refused(&mut db, &format!("alter('v', {argument})"), "22023");
    }
}

#[test]
fn a_reaction_to_changes_that_makes_no_sense_is_refused() {
    let mut db = start("bad_reaction");
    for argument in [
        "debounce => '1 second'",
        "max_staleness => '1 minute'",
        "on_change => true, debounce => '-1 second'",
        "on_change => true, max_staleness => '-1 second'",
        "on_change => true, debounce => '2 minutes', max_staleness => '1 minute'",
    ] {
        refused(&mut db, &format!("register('w', {argument})"), "22023");
        refused(&mut db, &format!("alter('v', {argument})"), "22023");
    }
}

#[test]
fn summary_queries_that_cannot_work_are_refused() {
    let mut db = start("bad_summary");
    for (query, states) in [
        ("SELEC 1", &["42601"][..]),
        ("", &["22023", "42601"]),
        ("SELECT * FROM nowhere", &["42P01"]),
        ("SELECT 1 / 0 AS x", &["22012"]),
        ("SELECT 1 AS x WHERE false", &["22023", "21000", "02000", "P0002"]),
        ("SELECT id FROM t", &["22023", "21000", "P0003"]),
        ("DELETE FROM t RETURNING id", &["22023", "25006", "0A000"]),
        (
            "WITH d AS (DELETE FROM t RETURNING id) SELECT count(*) FROM d",
            &["22023", "25006", "0A000"],
        ),
        ("SELECT writer()", &["25006"]),
        ("SELECT 1 AS x; DELETE FROM t", &["22023", "42601", "25006"]),
        ("DROP TABLE t", &["22023", "25006", "0A000"]),
        ("COMMIT", &["22023", "25006", "0A000", "2D000", "25001"]),
    ] {
        let query = query.replace('\'', "''");
        refused_as(&mut db, &format!("register('w', summary_query => '{query}')"), states);
        refused_as(&mut db, &format!("alter('v', summary_query => '{query}')"), states);
    }
}

#[test]
fn a_method_that_needs_a_unique_index_is_not_replaced_behind_ones_back() {
    let mut db = start("no_index");
    let concurrent = "refresh('bare', method => 'concurrent')";
    refused(&mut db, concurrent, "55000");
    let refusal = db.error_of(&format!("SELECT cache_refresher.{concurrent}"));
    assert!(refusal.hint().unwrap().contains("CREATE UNIQUE INDEX"), "{refusal:?}");
    // Neither of these is a usable one.
    db.run("CREATE UNIQUE INDEX ON bare (id) WHERE id > 0; CREATE UNIQUE INDEX ON bare ((id + 1))");
    refused(&mut db, concurrent, "55000");
    let method_of = |db: &mut Scratch, call: &str| -> String {
        db.get(&format!("SELECT method FROM cache_refresher.{call}"))
    };
    assert_eq!(method_of(&mut db, "refresh('bare')"), "diff", "needs none");
    assert_eq!(method_of(&mut db, "refresh('bare', method => 'full')"), "full", "asked for");
    db.run("SELECT cache_refresher.register('bare', method => 'full')");
    assert_eq!(method_of(&mut db, "refresh('bare')"), "full");
    db.run("SELECT cache_refresher.alter('bare', method => 'concurrent'); CREATE UNIQUE INDEX ON bare (id)");
    assert_eq!(method_of(&mut db, "refresh('bare')"), "concurrent");
}

#[test]
fn a_scheduled_refresh_that_needs_a_unique_index_fails_visibly() {
    let mut db = Scratch::new("no_index_scheduled");
    db.run("CREATE MATERIALIZED VIEW bare AS SELECT 1 AS id");
    db.run("SELECT cache_refresher.register('bare', '300 ms', method => 'concurrent')");
    db.wait(
        "it failed",
        "SELECT count(*) > 0 FROM cache_refresher.refresh_log WHERE outcome = 'failed' AND sqlstate = '55000'",
    );
    db.run("CREATE UNIQUE INDEX ON bare (id); SELECT cache_refresher.resume('bare')");
    db.wait_for_refreshes("bare", 2);
}

#[test]
fn a_read_only_transaction_refreshes_nothing() {
    let mut db = start("read_only");
    db.run("BEGIN READ ONLY");
    let refusal = db.error_of("SELECT cache_refresher.refresh('v')");
    assert_eq!(refusal.code().code(), "25006", "{refusal:?}");
    db.run("ROLLBACK");
    assert_eq!(db.refreshes("v"), 0);
}

#[test]
fn names_that_need_quoting_work_everywhere() {
    let mut db = Scratch::new("quoting");
    db.run(
        r#"CREATE SCHEMA "odd ""schema""";
           CREATE MATERIALIZED VIEW "odd ""schema"""."it's; DROP TABLE x --" AS
               SELECT 1 AS "select", 'ü'::text AS "Größe";
           CREATE UNIQUE INDEX "odd index" ON "odd ""schema"""."it's; DROP TABLE x --" ("select")"#,
    );
    let view = r#""odd ""schema"""."it''s; DROP TABLE x --""#;
    db.run(&format!("SELECT cache_refresher.register('{view}', refresh_interval => '300 ms')"));
    db.wait(
        "it is refreshed",
        "SELECT count(*) > 1 FROM cache_refresher.refresh_log WHERE outcome = 'refreshed'",
    );
    for function in ["pause", "resume", "freshness", "refresh", "unregister"] {
        db.run(&format!("SELECT cache_refresher.{function}('{view}')"));
    }
    assert_eq!(db.logged("it''s; DROP TABLE x --", "failed"), 0);
}
