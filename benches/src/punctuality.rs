//! How late 1,000 tiny views with an interval of a minute are refreshed, and whether in bursts.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::Duration;

use crate::pg_cron;
use crate::report::{self, COUNT, Comparison, Goals, fact, number};
use crate::servers::{self, VIEWS, now};
use crate::stats::{Samples, most_within};

/// Seconds, the interval of all views; long enough that no lateness is taken for that of another slot.
const INTERVAL: f64 = 60.0;
/// How long to look, in seconds.
const WINDOW: f64 = 122.0;
/// A burst is what starts within so many seconds.
const BURST: f64 = 0.1;
/// So often pg_cron is to start each of its jobs.
const CRON_TIMES: usize = 2;

const LATENESS: &str = "1,000 views a minute: start after due, median/p99 ms";
const END: &str = "  end after due, median/p99 ms";
const AT_ONCE: &str = "  most starts within 100 ms";
const CPU: &str = "  CPU of the whole server, ms for each refresh";
const DONE: &str = "  refreshes due / done";

/// Measures and prints.
pub fn measure(with_cron: bool, goals: &mut Goals, beside: &mut Comparison) {
    ours(goals, beside);
    if with_cron {
        theirs(beside);
    }
}

fn ours(goals: &mut Goals, beside: &mut Comparison) {
    let server = servers::start(&[]);
    let mut db = server.create_database("bench");
    servers::create_views(&mut db, true);
    servers::register_views(&mut db, "60s");
    let postmaster = servers::postmaster(&mut db);
    sleep(Duration::from_secs(3));
    let slots: HashMap<String, f64> = db
        .query(
            "SELECT view_name::text, extract(epoch FROM next_refresh_at)::float8
               FROM cache_refresher.status",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    report::progress(&format!("punctuality: {WINDOW} s of {VIEWS} views"));
    let from = now();
    let cpu = crate::process::server_cpu(postmaster);
    sleep(Duration::from_secs_f64(WINDOW));
    let cpu = crate::process::server_cpu(postmaster) - cpu;
    let to = now();
    sleep(Duration::from_secs(1));

    let rows = db
        .query(
            "SELECT view_name::text, extract(epoch FROM started_at)::float8, duration_ms,
                    outcome = 'refreshed' AND trigger = 'interval'
               FROM cache_refresher.refresh_log WHERE started_at >= to_timestamp($1)",
            &[&from],
        )
        .unwrap();
    let mut starts = Vec::new();
    let mut lateness = Samples::default();
    let mut end = Samples::default();
    for row in rows {
        let started: f64 = row.get(1);
        assert!(row.get::<_, bool>(3), "a refresh failed:\n{}", server.log());
        let slot = slots[row.get::<_, &str>(0)];
        let late = (started - slot).rem_euclid(INTERVAL);
        if started - late >= from && started - late < to {
            starts.push(started);
            lateness.push(late * 1000.0);
            end.push(late * 1000.0 + row.get::<_, f64>(2));
        }
    }
    let due: Vec<f64> = slots
        .values()
        .flat_map(|&slot| (-1..4).map(move |k| slot + f64::from(k) * INTERVAL))
        .filter(|slot| (from..to).contains(slot))
        .collect();

    report::heading(&format!("{VIEWS} views with an interval of 60 s, 2 workers; ms"));
    report::row("start after due", &lateness);
    report::row("end after due (without the commit)", &end);
    fact("latest start after due", &number(lateness.max()));
    fact("refreshes due / done", &format!("{} / {}", due.len(), starts.len()));
    let most = most_within(BURST, &starts);
    fact("most due within 100 ms (the hash spreads them)", &most_within(BURST, &due).to_string());
    fact("most started within 100 ms", &most.to_string());
    let each = cpu.as_secs_f64() * 1000.0 / starts.len() as f64;
    fact("CPU of the whole server for each refresh", &number(each));
    goals.below("lateness of 1,000 views on 60 s, p99", lateness.percentile(99.0), 250.0, "ms");
    goals.below("burst: starts within 100 ms, of 1,000", most as f64, 20.0, COUNT);
    let missed = due.len() as f64 - starts.len() as f64;
    goals.below("refreshes missed of those 1,000 views", missed.max(0.0), 1.0, COUNT);
    beside.ours(LATENESS, median_and_p99(&lateness));
    beside.ours(END, median_and_p99(&end));
    beside.ours(AT_ONCE, most.to_string());
    beside.ours(CPU, number(each));
    beside.ours(DONE, format!("{} / {}", due.len(), starts.len()));
}

fn theirs(beside: &mut Comparison) {
    let (_server, mut db) = pg_cron::start(&[]);
    servers::create_views(&mut db, true);
    pg_cron::schedule_views(&mut db, "* * * * *");
    let postmaster = servers::postmaster(&mut db);
    report::progress(&format!("pg_cron {}: {VIEWS} jobs each minute", pg_cron::version(&mut db)));
    db.run("TRUNCATE cron.job_run_details");
    let first = (now() / INTERVAL).ceil() * INTERVAL;
    sleep(Duration::from_secs_f64(first - now() - 0.5));
    let cpu = crate::process::server_cpu(postmaster);
    let limit = first + CRON_TIMES as f64 * INTERVAL;
    while !pg_cron::has_run(&mut db, first, CRON_TIMES) && now() < limit {
        sleep(Duration::from_millis(500));
    }
    let cpu = crate::process::server_cpu(postmaster) - cpu;
    let runs = pg_cron::runs(&mut db, first);
    let in_ms = |samples: &Samples| samples.scaled(1000.0);
    beside.theirs(LATENESS, median_and_p99(&in_ms(&runs.lateness)));
    beside.theirs(END, median_and_p99(&in_ms(&runs.end)));
    beside.theirs(AT_ONCE, most_within(BURST, &runs.starts).to_string());
    beside.theirs(CPU, number(cpu.as_secs_f64() * 1000.0 / runs.starts.len() as f64));
    let due = CRON_TIMES * VIEWS;
    beside.theirs(DONE, format!("{due} / {}", runs.starts.len() - runs.failed));
}

fn median_and_p99(samples: &Samples) -> String {
    format!("{} / {}", number(samples.median()), number(samples.percentile(99.0)))
}
