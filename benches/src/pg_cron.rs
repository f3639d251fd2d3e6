//! The same work under pg_cron, where the server has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cluster_tests::{Installation, Server, Session};
use postgres::fallible_iterator::FallibleIterator;

use crate::report::{self, number};
use crate::servers::{self, VIEWS, now};
use crate::stats::Samples;

/// Label of a row of the comparison.
pub const DUE_UNTIL_SEEN: &str = "1,000-row view: due until commit is seen, median/max ms";

/// The backend type of its launcher.
pub const LAUNCHER: &str = "pg_cron launcher";

/// How often the watcher looks whether it has seen enough.
const WATCH: Duration = Duration::from_millis(500);
/// The single job runs once a minute: wait for at least so many runs.
const LEAST_RUNS: usize = 3;

/// Whether the server has it; says so if not.
pub fn is_available() -> bool {
    let folder = |option| {
        let output = Installation::get().command("pg_config").arg(option).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let control = format!("{}/extension/pg_cron.control", folder("--sharedir"));
    let library = format!("{}/pg_cron.so", folder("--pkglibdir"));
    std::path::Path::new(&control).exists() && std::path::Path::new(&library).exists()
}

/// A server with pg_cron instead of cache_refresher, and a session in its database.
pub fn start(settings: &[(&str, &str)]) -> (Server, Session) {
    let mut all = vec![("shared_preload_libraries", "pg_cron"), ("cron.database_name", "postgres")];
    all.extend(settings);
    let server = servers::start(&all);
    let mut db = server.connect("postgres");
    db.run("CREATE EXTENSION pg_cron");
    (server, db)
}

/// Schedules a refresh of each of the views.
pub fn schedule_views(db: &mut Session, schedule: &str) {
    db.run(&format!(
        "SELECT cron.schedule(relname, '{schedule}', 'REFRESH MATERIALIZED VIEW CONCURRENTLY ' || relname)
           FROM pg_class WHERE relkind = 'm'"
    ));
}

/// A schedule whose minute is half an hour from now.
pub fn not_soon() -> String {
    format!("{} * * * *", ((now() / 60.0) as u64 + 30) % 60)
}

/// Which one it is.
pub fn version(db: &mut Session) -> String {
    db.get("SELECT extversion FROM pg_extension WHERE extname = 'pg_cron'")
}

/// How a comparison shows measurements.
pub fn median_and_max(samples: &Samples) -> String {
    format!("{} / {}", number(samples.median()), number(samples.max()))
}

/// One view, refreshed at each full minute, on a server of its own.
pub struct SingleJob {
    server: Server,
    enough: Arc<AtomicBool>,
    watcher: JoinHandle<Samples>,
}

impl SingleJob {
    /// Schedules it, and notes from now on when its commits are seen.
    pub fn start(rows: u32) -> Self {
        let (server, mut db) = start(&[]);
        db.create_view("single", rows);
        db.run(
            "SELECT cron.schedule('single', '* * * * *',
                 'REFRESH MATERIALIZED VIEW CONCURRENTLY single; NOTIFY single')",
        );
        db.run("LISTEN single");
        let enough = Arc::new(AtomicBool::new(false));
        let watcher = std::thread::spawn({
            let enough = enough.clone();
            move || watch(db, &enough)
        });
        Self { server, enough, watcher }
    }

    /// Milliseconds from the full minute until the commit was seen.
    pub fn finish(self) -> Samples {
        self.enough.store(true, Ordering::Relaxed);
        std::thread::sleep(WATCH * 2);
        if !self.watcher.is_finished() {
            report::progress("a few more runs of the single job of pg_cron");
        }
        let samples = self.watcher.join().unwrap();
        drop(self.server);
        samples
    }
}

fn watch(mut db: Session, enough: &AtomicBool) -> Samples {
    let mut samples = Samples::default();
    while !(enough.load(Ordering::Relaxed) && samples.count() >= LEAST_RUNS) {
        let mut notifications = db.notifications();
        let arrived = notifications.timeout_iter(WATCH).next().unwrap();
        let seen = now();
        drop(notifications);
        if arrived.is_some() {
            samples.push(seen % 60.0 * 1000.0);
            db.run("UPDATE single_source SET value = value + 1 WHERE id % 100 = 0");
        }
    }
    samples
}

/// The start of each run of the minutes from `first` on: how late it was and when, in seconds.
pub struct Runs {
    /// Seconds after the full minute.
    pub lateness: Samples,
    /// Seconds after the full minute until its end.
    pub end: Samples,
    /// When.
    pub starts: Vec<f64>,
    /// How many did not succeed.
    pub failed: usize,
}

/// What it logged since `first`, a full minute.
pub fn runs(db: &mut Session, first: f64) -> Runs {
    let rows = db
        .query(
            "SELECT extract(epoch FROM start_time)::float8, extract(epoch FROM end_time)::float8,
                    status = 'succeeded',
                    row_number() OVER (PARTITION BY jobid ORDER BY runid) - 1
               FROM cron.job_run_details
              WHERE start_time >= to_timestamp($1)",
            &[&first],
        )
        .unwrap();
    let mut runs = Runs {
        lateness: Samples::default(),
        end: Samples::default(),
        starts: Vec::new(),
        failed: 0,
    };
    for row in rows {
        let (started, ended): (f64, Option<f64>) = (row.get(0), row.get(1));
        let due = first + 60.0 * row.get::<_, i64>(3) as f64;
        runs.lateness.push(started - due);
        runs.starts.push(started);
        if row.get(2) {
            runs.end.push(ended.unwrap_or(f64::NAN) - due);
        } else {
            runs.failed += 1;
        }
    }
    runs
}

/// Whether all views have been refreshed so many times since `first`.
pub fn has_run(db: &mut Session, first: f64, times: usize) -> bool {
    let done: i64 = db
        .query_one(
            "SELECT count(*) FROM cron.job_run_details
              WHERE start_time >= to_timestamp($1) AND end_time IS NOT NULL",
            &[&first],
        )
        .unwrap()
        .get(0);
    done as usize >= times * VIEWS
}
