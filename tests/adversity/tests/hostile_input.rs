//! Arguments, settings and states that nobody expects: an answer or a clear error, never a crash, and nothing that
//! stops others.

use cluster_tests::{Scratch, Server, Session, describe, seconds, state_of};

/// Literals of each type, from the usual to the absurd.
fn literals(type_name: &str) -> Vec<String> {
    let texts: &[&str] = match type_name {
        "regclass" => &["'v'", "'v_source'", "'v_id_idx'", "0", "4294967295", "'pg_class'"],
        "regclass[]" => &["'{}'", "'{v}'", "'{v,v}'", "'{v,NULL}'", "'{{v,v},{v,v}}'", "'{0}'"],
        "interval" => &[
            "'0'",
            "'-1 second'",
            "'100 ms'",
            "'1 hour'",
            "'178000000 years'",
            "'-178000000 years'",
            "'1 microsecond'",
            "'2147483647 months'",
        ],
        "boolean" => &["true", "false"],
        "regrole" => &["'postgres'", "0", "4294967295"],
        "text[]" => &["'{}'", "'{method}'", "'{method,NULL}'", "'{{a,b},{c,d}}'", "'{nothing}'"],
        "anyarray" => &[
            "ARRAY[1]",
            "ARRAY[]::int[]",
            "ARRAY[NULL]::int[]",
            "ARRAY[['a','b'],['c','d']]",
            "ARRAY[ROW(1,2)]",
            "ARRAY[ROW()]",
            "ARRAY[1.5]",
            "ARRAY['x'::unknown]",
            "(SELECT array_agg(i) FROM generate_series(1, 50000) i)",
        ],
        _ => &[
            "''",
            "'v'",
            "'public.v'",
            "'no such'",
            "'\"'",
            "'diff'",
            "'delta'",
            "'full'",
            "'concurrent'",
            "'auto'",
            "'* * * * *'",
            "'@hourly'",
            "'Europe/Berlin'",
            "'SELECT 1 AS x'",
            "'SELECT 1; DROP TABLE v_source'",
            "'1 hour'",
            "'-1'",
            "E'a\\nb\\t\\\\'",
            "'\u{202e}\u{1f4a9}'",
            "repeat('x', 100000)",
            "'v''; DROP TABLE v_source; --'",
        ],
    };
    texts.iter().map(|&text| text.to_owned()).chain(["NULL".to_owned()]).collect()
}

/// All functions, with the types of their arguments.
fn functions(db: &mut Session) -> Vec<(String, Vec<String>, bool)> {
    db.query(
        "SELECT n.nspname || '.' || p.proname,
                ARRAY(SELECT t.oid::regtype::text FROM unnest(p.proargtypes) WITH ORDINALITY a (type, place) JOIN pg_type t ON t.oid = a.type ORDER BY a.place),
                p.proretset
           FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
          WHERE n.nspname IN ('cache_refresher', '_cache_refresher') AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
          ORDER BY 1",
        &[],
    )
    .unwrap()
    .iter()
    .map(|row| (row.get(0), row.get(1), row.get(2)))
    .collect()
}

#[test]
fn every_function_answers_or_refuses_whatever_it_is_given() {
    let server = Server::builder().start();
    let mut db = server.create_database("app");
    db.create_view("v", 10);
    db.run("CREATE ROLE nobody LOGIN");
    let functions = functions(&mut db);
    assert!(functions.len() > 25, "{}", functions.len());
    let mut calls = Vec::new();
    for (name, types, _) in &functions {
        let choices: Vec<Vec<String>> = types.iter().map(|name| literals(name)).collect();
        if choices.is_empty() {
            calls.push(format!("SELECT * FROM {name}()"));
        }
        // Each value of each argument, the others as usual.
        for (place, values) in choices.iter().enumerate() {
            for value in values {
                let arguments: Vec<&str> = (0..choices.len())
                    .map(
                        |other| {
                            if other == place { value } else { choices[other].first().unwrap() }
                        },
                    )
                    .map(String::as_str)
                    .collect();
                calls.push(format!("SELECT * FROM {name}({})", arguments.join(", ")));
            }
        }
    }
    let modes: [(&str, &str, &str); 6] = [
        ("postgres", "BEGIN", "ROLLBACK"),
        ("postgres", "BEGIN ISOLATION LEVEL SERIALIZABLE", "ROLLBACK"),
        ("postgres", "BEGIN READ ONLY", "ROLLBACK"),
        ("postgres", "BEGIN; SAVEPOINT s; CREATE TEMP TABLE x (y int)", "ROLLBACK TO s; ROLLBACK"),
        ("nobody", "BEGIN", "ROLLBACK"),
        ("postgres", "BEGIN; SELECT 1 / 0", "ROLLBACK"),
    ];
    let mut internal = Vec::new();
    for (role, begin, end) in modes {
        let mut session = server.connect_as("app", role);
        session.run("SET client_min_messages = error; SET statement_timeout = '20s'");
        for call in &calls {
            drop(session.batch_execute(begin));
            if let Err(error) = session.batch_execute(call) {
                let state = error.as_db_error().map(|_| state_of(&error).to_owned());
                let Some(state) = state else { panic!("{role}, {begin}: {call}\n{error}") };
                let short: String = call.chars().take(150).collect();
                // Internal functions are within a superuser's reach only, and need not be polite.
                if (state == "XX000" && !call.contains("_cache_refresher.")) || state == "57014" {
                    internal.push(format!("{role}, {begin}: {short}: {}", describe(&error)));
                }
            }
            session.run(end);
        }
    }
    println!("{} calls in {} modes", calls.len(), modes.len());
    internal.dedup();
    assert!(
        internal.is_empty(),
        "{} of these:\n{}",
        internal.len(),
        internal[..internal.len().min(20)].join("\n")
    );
    assert_eq!(
        server.log_lines(&["PANIC:"])
            + server.log_lines(&["TRAP:"])
            + server.log_lines(&["panicked at"]),
        0
    );
    assert_eq!(server.log_lines(&["terminated by signal"]), 0);
    db.register("v", "200 ms");
    db.wait_for_refreshes("v", 2);
}

#[test]
fn callers_of_the_old_functions_share_a_refresh() {
    let server = Server::builder().start();
    let mut db = server.create_database("app");
    db.run(
        "CREATE TABLE pace (seconds float8); INSERT INTO pace VALUES (0.3);
         CREATE MATERIALIZED VIEW streams_with_users_cache AS SELECT 1 AS id, pg_sleep(seconds)::text AS slept FROM pace;
         CREATE UNIQUE INDEX ON streams_with_users_cache (id); SELECT refresh_streams_cache()",
    );
    let before = db.refreshes("streams_with_users_cache");
    let callers: Vec<_> =
        (0..12).map(|_| server.background("app", "SELECT refresh_streams_cache()")).collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap().unwrap());
    assert!(db.refreshes("streams_with_users_cache") - before <= 3, "they were to share");
}

#[test]
fn a_view_that_reacts_to_changes_and_fails_is_not_tried_without_pause() {
    let server = Server::builder().setting("cache_refresher.max_retries", "0").start();
    let mut db = server.create_database("app");
    db.run(
        "CREATE TABLE t (id int PRIMARY KEY, d int); INSERT INTO t VALUES (1, 1), (2, 2);
         CREATE MATERIALIZED VIEW v AS SELECT d, id FROM t; CREATE UNIQUE INDEX ON v (d);
         SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true, debounce => '0')",
    );
    db.wait("v is fresh", "SELECT staleness = 'fresh' FROM cache_refresher.status");
    db.run("UPDATE t SET d = 1");
    std::thread::sleep(seconds(3));
    let failures = db.logged("v", "failed");
    assert!((1..=2).contains(&failures), "{failures} failures in three seconds");
    // What mends it is tried before the hour is over.
    db.run("UPDATE t SET d = 3 WHERE id = 2");
    db.wait("that is shown", "SELECT count(*) = 1 FROM v WHERE d = 3");
}

#[test]
fn a_log_kept_for_ages_is_kept() {
    let mut db = Scratch::new("ages");
    db.create_view("v", 1);
    db.run("SET cache_refresher.log_retention = '3000000d'; SET cache_refresher.log_max_rows = 16");
    for _ in 0..20 {
        db.refresh("v");
    }
    assert!(db.refreshes("v") >= 16);
}

#[test]
fn statements_that_do_not_concern_us_work_as_ever() {
    let server = Server::builder().start();
    server.connect("postgres").run("CREATE DATABASE d1 TEMPLATE DEFAULT");
    server.connect("postgres").run("CREATE DATABASE d2 TEMPLATE = template0 TABLESPACE DEFAULT");
    let refusal = {
        server.connect("postgres").run("CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'");
        server.connect("latin1").error_of("CREATE EXTENSION cache_refresher")
    };
    assert_eq!(refusal.code().code(), "0A000");
}

#[test]
fn a_row_of_the_registry_that_makes_no_sense_stops_no_other() {
    let server = Server::builder().start();
    let mut db = server.create_database("app");
    for view in ["bad", "good"] {
        db.create_view(view, 1);
        db.register(view, "300 ms");
    }
    for spoilt in [
        "refresh_interval = '11 years'",
        "timeout = '1000000 years'",
        "schedule = repeat('x', 2000)",
    ] {
        let state = db.error_of(&format!(
            "UPDATE _cache_refresher.registry SET {spoilt} WHERE view_name = 'bad'"
        ));
        assert!(
            state.code().code() == "23514" || state.code().code() == "22008",
            "{}",
            state.message()
        );
    }
    db.run(
        "ALTER TABLE _cache_refresher.registry DROP CONSTRAINT registry_intervals_bounded, DROP CONSTRAINT registry_method_known;
         UPDATE _cache_refresher.registry SET method = 'nonsense' WHERE view_name = 'bad'",
    );
    drop(db);
    server.restart();
    let mut db = server.connect("app");
    db.wait_for_refreshes("good", 3);
    assert!(server.log_lines(&["is not scheduled", "nonsense"]) > 0);
    db.run("SELECT cache_refresher.refresh_all(); SELECT cache_refresher.refresh('good')");
}

#[test]
fn a_summary_keeps_every_digit() {
    let mut db = Scratch::new("digits");
    db.create_view("v", 1);
    db.run("SELECT cache_refresher.register('v', summary_query => 'SELECT 12345678901234567890123456::numeric AS n, 0.1234567890123456789012345 AS f, 1.10 AS d, 1e400::numeric AS huge')");
    db.refresh("v");
    let kept: bool = db.get(
        "SELECT (summary ->> 'n', summary ->> 'f', summary ->> 'd') = ('12345678901234567890123456', '0.1234567890123456789012345', '1.10')
             AND (summary ->> 'huge')::numeric = 1e400::numeric FROM cache_refresher.refresh_log WHERE summary IS NOT NULL LIMIT 1",
    );
    assert!(kept);
}

#[test]
fn a_view_does_not_refresh_itself() {
    let mut db = Scratch::new("itself");
    db.run(
        "CREATE FUNCTION again() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
             IF to_regclass('public.v') IS NOT NULL THEN PERFORM cache_refresher.refresh('public.v'); END IF; RETURN 1; END $$;
         CREATE MATERIALIZED VIEW v AS SELECT 1 AS id, again() AS x WITH NO DATA; CREATE UNIQUE INDEX ON v (id)",
    );
    let refusal = db.error_of("SELECT cache_refresher.refresh('v')");
    assert_eq!(refusal.code().code(), "55006", "{}", refusal.message());
    let refusal = db.error_of("SELECT cache_refresher.refresh_together('{v,v}')");
    assert_eq!(refusal.code().code(), "55006", "{}", refusal.message());
}

#[test]
fn grants_are_for_roles_that_exist() {
    let mut db = Scratch::new("grants");
    db.create_view("v", 1);
    db.register("v", "1 year");
    for call in ["grant_refresh", "revoke_refresh"] {
        for role in ["0", "4294967295"] {
            let refusal =
                db.error_of(&format!("SELECT cache_refresher.{call}('v', {role}::oid::regrole)"));
            assert_eq!(refusal.code().code(), "42704", "{call} {role}");
        }
    }
}

#[test]
fn a_standby_is_healthy() {
    let primary = Server::builder().setting("wal_level", "replica").start();
    let mut db = primary.create_database("app");
    db.create_view("v", 5);
    db.register("v", "1 year");
    db.refresh("v");
    let standby = Server::builder().standby_of(&primary).start();
    let mut copy = standby.connect("app");
    assert!(copy.get::<bool>("SELECT cache_refresher.healthy()"));
    assert_eq!(copy.error_of("SELECT refresh_streams_cache()").code().code(), "42P01");
    assert_eq!(copy.error_of("SELECT cache_refresher.refresh('v')").code().code(), "25006");
}
