//! What a refresh by a worker costs beyond the bare statement.
//!
//! A view of 1,000 rows is registered with a short interval. After each refresh by the worker, a
//! session refreshes the same view with the bare statement, with and without waiting for the disk at
//! commit, so that both see the same machine and the same view. Ten rows change before each.

use std::time::{Duration, Instant};

use cluster_tests::{SCHEDULER, Server, Session, WORKER};
use postgres::fallible_iterator::FallibleIterator;

use crate::pg_cron::{self, SingleJob};
use crate::report::{self, Comparison, Goals};
use crate::servers::{self, now, process};
use crate::stats::Samples;

const ROWS: u32 = 1000;
const ROUNDS: usize = 54;
/// The first refreshes of a process fill its caches.
const WARM_UP: usize = 6;
const INTERVAL: &str = "500ms";

/// Milliseconds of each round.
#[derive(Default)]
struct Figures {
    bare: Samples,
    bare_without_flush: Samples,
    log_duration: Samples,
    start_after_due: Samples,
    due_until_seen: Samples,
    records_and_commit: Samples,
    over_bare: Samples,
    over_bare_without_flush: Samples,
    session_cpu: Samples,
    worker_cpu: Samples,
    scheduler_cpu: Samples,
}

/// Measures and prints; leaves a job of pg_cron running, which is due once a minute only.
pub fn measure(with_cron: bool, goals: &mut Goals, beside: &mut Comparison) -> Option<SingleJob> {
    let single_job = with_cron.then(|| SingleJob::start(ROWS));
    let server = servers::start(&[]);
    let mut db = server.create_database("bench");
    for (method, statement, is_default) in [
        ("concurrent", "REFRESH MATERIALIZED VIEW CONCURRENTLY", true),
        ("full", "REFRESH MATERIALIZED VIEW", false),
    ] {
        report::progress(&format!("overhead, {method}: {} rounds", ROUNDS + WARM_UP));
        let view = format!("kept_{method}");
        db.create_view(&view, ROWS);
        db.run(&format!(
            "SELECT cache_refresher.register('{view}', '{INTERVAL}', method => '{method}')"
        ));
        let figures = rounds(&server, &mut db, &view, &format!("{statement} {view}"));
        db.run(&format!("SELECT cache_refresher.unregister('{view}')"));
        print(method, statement, &figures);
        goals.below(
            &format!("worker's job over the bare statement, {method}, median"),
            figures.over_bare.median(),
            3.0,
            "ms",
        );
        if is_default {
            let seen = &figures.due_until_seen;
            beside.ours(pg_cron::DUE_UNTIL_SEEN, pg_cron::median_and_max(seen));
        }
    }
    single_job
}

fn rounds(server: &Server, db: &mut Session, view: &str, statement: &str) -> Figures {
    let mut listener = server.connect("bench");
    listener.run("LISTEN cache_refresher");
    let mut session = server.connect("bench");
    let backend: i32 = session.get("SELECT pg_backend_pid()");
    let change = format!("UPDATE {view}_source SET value = value + 1 WHERE id % 100 = 0");

    let mut figures = Figures::default();
    wait_for_refresh(&mut listener);
    for round in 0..WARM_UP + ROUNDS {
        // Alternately the one and the other first.
        let order = if round % 2 == 0 { [true, false] } else { [false, true] };
        let mut bare = [0.0; 2];
        let mut session_cpu = 0.0;
        for flush in order {
            db.run(&change);
            session.run(&format!("SET synchronous_commit = {}", if flush { "on" } else { "off" }));
            let cpu = crate::process::cpu(backend);
            let start = Instant::now();
            session.run(statement);
            bare[usize::from(flush)] = milliseconds(start.elapsed());
            if flush {
                // It is on its way back to waiting for the next statement.
                std::thread::sleep(Duration::from_millis(1));
                session_cpu = milliseconds(crate::process::cpu(backend) - cpu);
            }
        }
        db.run(&change);
        let due: f64 = db.get(&format!(
            "SELECT extract(epoch FROM next_refresh_at)::float8 FROM cache_refresher.status
             WHERE view_name = '{view}'"
        ));
        let (worker, scheduler) = (process(db, WORKER), process(db, SCHEDULER));
        let before = (crate::process::cpu(worker), crate::process::cpu(scheduler));
        let seen = wait_for_refresh(&mut listener);
        std::thread::sleep(Duration::from_millis(3));
        let after = (crate::process::cpu(worker), crate::process::cpu(scheduler));
        let logged = db
            .query_one(
                "SELECT extract(epoch FROM started_at)::float8, duration_ms
                   FROM cache_refresher.refresh_log ORDER BY id DESC LIMIT 1",
                &[],
            )
            .unwrap();
        if round < WARM_UP {
            continue;
        }
        let (started, duration): (f64, f64) = (logged.get(0), logged.get(1));
        let [without_flush, with_flush] = bare;
        let due_until_seen = (seen - due) * 1000.0;
        let start_after_due = (started - due) * 1000.0;
        figures.bare.push(with_flush);
        figures.bare_without_flush.push(without_flush);
        figures.log_duration.push(duration);
        figures.start_after_due.push(start_after_due);
        figures.due_until_seen.push(due_until_seen);
        figures.records_and_commit.push(due_until_seen - start_after_due - duration);
        figures.over_bare.push(due_until_seen - with_flush);
        figures.over_bare_without_flush.push(due_until_seen - without_flush);
        figures.session_cpu.push(session_cpu);
        figures.worker_cpu.push(milliseconds(after.0 - before.0));
        figures.scheduler_cpu.push(milliseconds(after.1 - before.1));
    }
    figures
}

/// The time when a listener learns of a refresh.
fn wait_for_refresh(listener: &mut Session) -> f64 {
    let mut notifications = listener.notifications();
    let next = notifications.timeout_iter(Duration::from_secs(20)).next().unwrap();
    assert!(next.is_some(), "no refresh in 20 s");
    now()
}

fn print(method: &str, statement: &str, figures: &Figures) {
    report::heading(&format!("A view of {ROWS} rows, method {method}; {ROUNDS} rounds, ms"));
    report::row(&format!("{statement}, by a session"), &figures.bare);
    report::row("  the same with synchronous_commit = off", &figures.bare_without_flush);
    report::row("worker: from due until a listener sees the commit", &figures.due_until_seen);
    report::row("  from due until started_at", &figures.start_after_due);
    report::row("  duration_ms, as logged", &figures.log_duration);
    report::row("  from there: records, commit, notification", &figures.records_and_commit);
    report::row("worker minus bare statement, of the same round", &figures.over_bare);
    report::row("  with synchronous_commit = off", &figures.over_bare_without_flush);
    report::row("CPU of the bare statement", &figures.session_cpu);
    report::row("CPU of the worker's whole job", &figures.worker_cpu);
    report::row("CPU of the scheduler for it", &figures.scheduler_cpu);
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
