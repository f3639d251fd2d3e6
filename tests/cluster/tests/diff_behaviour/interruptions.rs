//! A diff that is cut off, while it reads or while it writes, has changed nothing.

use std::thread::JoinHandle;

use cluster_tests::{PATIENCE, Scratch, Server, Session, Signal, millis, state_of};
use postgres::Error;

use crate::counts;

const ROWS: i64 = 100;

/// What a diff is doing when it is cut off.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It runs the view's query and reads the view.
    Reading,
    /// It writes rows and index entries.
    Writing,
}

const PHASES: [Phase; 2] = [Phase::Reading, Phase::Writing];

impl Phase {
    /// Column of `pace` with the seconds that each row takes.
    const fn column(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Writing => "writing",
        }
    }
}

/// View `v`, whose query takes a while for each row as `pace` says, and so does an index on it.
fn create_slow_view(db: &mut Session) {
    db.run(&format!(
        "CREATE TABLE pace (reading float8 NOT NULL, writing float8 NOT NULL);
         INSERT INTO pace VALUES (0, 0);
         CREATE FUNCTION slowly(value int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
         BEGIN
             PERFORM pg_catalog.pg_sleep(writing) FROM public.pace;
             RETURN value;
         END $$;
         CREATE TABLE t (id int PRIMARY KEY, value int);
         INSERT INTO t SELECT i, 0 FROM generate_series(1, {ROWS}) i;
         CREATE MATERIALIZED VIEW v AS
             SELECT id, value, pg_sleep(reading) IS NULL AS slept FROM t CROSS JOIN pace;
         CREATE UNIQUE INDEX ON v (id);
         CREATE INDEX ON v (slowly(value))"
    ));
}

/// Changes all rows of the source and starts a diff that is in the middle of that phase.
fn start_diff(
    server: &Server,
    db: &mut Session,
    name: &str,
    phase: Phase,
) -> (i32, JoinHandle<Result<(), Error>>) {
    db.run(&format!("UPDATE t SET value = value + 1; UPDATE pace SET {} = 0.1", phase.column()));
    let statement = "SELECT cache_refresher.refresh('v', method => 'diff')";
    let diff = server.background(name, statement);
    let asleep = "SELECT min(pid) FROM pg_stat_activity
                  WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let mut pid = None;
    server.wait_until("the diff is under way", PATIENCE, || {
        pid = db.get::<Option<i32>>(asleep);
        pid.is_some()
    });
    // A few rows further on.
    std::thread::sleep(millis(500));
    assert!(!diff.is_finished());
    (pid.unwrap(), diff)
}

/// The view shows the old rows and is sound; the next refresh brings the new ones.
fn assert_unharmed(db: &mut Session, before: &str, phase: Phase) {
    assert_eq!(content(db), before, "cut off while {phase:?}");
    db.run("UPDATE pace SET reading = 0, writing = 0");
    db.assert_sound("v");
    assert_eq!(db.diff("v"), counts(ROWS, 0, ROWS, 0));
    db.assert_sound("v");
    assert_ne!(content(db), before);
}

fn content(db: &mut Session) -> String {
    db.get("SELECT string_agg(v::text, ' ' ORDER BY id) FROM v")
}

/// Ends diffs in each phase with a statement that gets the process id as `{pid}`.
fn interrupt(name: &'static str, statement: &str, sqlstate: &str) {
    let mut db = Scratch::new(name);
    create_slow_view(&mut db);
    for phase in PHASES {
        let before = content(&mut db);
        let mut other = db.connect();
        let (pid, diff) = start_diff(db.server(), &mut other, name, phase);
        assert!(other.get::<bool>(&statement.replace("{pid}", &pid.to_string())));
        let error = diff.join().unwrap().unwrap_err();
        // The end of a connection may overtake what the server said of it.
        assert!(error.is_closed() || state_of(&error) == sqlstate, "{error}");
        assert_unharmed(&mut db, &before, phase);
    }
}

#[test]
fn a_diff_that_is_cancelled_changes_nothing() {
    interrupt("diff_cancelled", "SELECT cache_refresher.cancel('v')", "57014");
}

#[test]
fn a_diff_whose_statement_is_cancelled_changes_nothing() {
    interrupt("diff_statement", "SELECT pg_cancel_backend({pid})", "57014");
}

#[test]
fn a_diff_whose_session_is_terminated_changes_nothing() {
    interrupt("diff_terminated", "SELECT pg_terminate_backend({pid})", "57P01");
}

#[test]
fn a_diff_that_takes_too_long_changes_nothing() {
    let mut db = Scratch::new("diff_timeout");
    create_slow_view(&mut db);
    for phase in PHASES {
        let before = content(&mut db);
        db.run(&format!(
            "UPDATE t SET value = value + 1; UPDATE pace SET {} = 0.1",
            phase.column()
        ));
        db.run("SET cache_refresher.timeout = '700ms'");
        let refusal = db.error_of("SELECT cache_refresher.refresh('v', method => 'diff')");
        assert_eq!(refusal.code().code(), "57014", "{refusal}");
        db.run("RESET cache_refresher.timeout");
        assert_unharmed(&mut db, &before, phase);
    }
}

#[test]
fn a_diff_whose_process_is_killed_changes_nothing() {
    let server = Server::builder().start();
    let mut db = server.create_database("killed");
    create_slow_view(&mut db);
    for (crashes, phase) in PHASES.into_iter().enumerate() {
        let before = content(&mut db);
        let (pid, diff) = start_diff(&server, &mut db, "killed", phase);
        server.kill(pid, Signal::KILL);
        assert!(diff.join().unwrap().is_err());
        let mut after = None;
        server.wait_until("the server took note and is back", PATIENCE, || {
            if server.log_lines(&["terminated by signal 9"]) > crashes {
                after = server.try_connect("killed", "postgres").ok();
            }
            after.is_some()
        });
        db = after.unwrap();
        assert_unharmed(&mut db, &before, phase);
    }
}
