//! A view whose diff takes its time, while it reads or while it writes.

use std::thread::JoinHandle;

use cluster_tests::{PATIENCE, Server, Session, millis};
use postgres::Error;

pub const ROWS: i64 = 100;

/// What a diff is doing.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    /// It runs the view's query and reads the view.
    Reading,
    /// It writes rows and index entries.
    Writing,
}

pub const PHASES: [Phase; 2] = [Phase::Reading, Phase::Writing];

impl Phase {
    /// Column of `pace` with the seconds that each row takes.
    pub const fn column(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Writing => "writing",
        }
    }
}

/// View `v`, whose query takes a while for each row as `pace` says, and so does an index on it.
pub fn create_slow_view(db: &mut Session) {
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
pub fn start_diff(
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
