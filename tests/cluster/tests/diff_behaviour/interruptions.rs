//! A diff that is cut off, while it reads or while it writes, has changed nothing.

use cluster_tests::{PATIENCE, Scratch, Server, Session, Signal, state_of};

use crate::counts;
use crate::slow::{PHASES, Phase, ROWS, create_slow_view, start_diff};

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
