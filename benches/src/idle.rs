//! What it costs to have 1,000 registered views while nothing is due.

use std::thread::sleep;
use std::time::{Duration, Instant};

use cluster_tests::{LAUNCHER, SCHEDULER, Server, Session, WORKER};

use crate::pg_cron;
use crate::process::{cpu, memory, wake_ups};
use crate::report::{self, Comparison, Goals, number};
use crate::servers::{self, VIEWS, process};

/// Nothing falls due meanwhile: the slots of 1,000 views are days apart.
const INTERVAL: &str = "3650 days";
const MINUTE: Duration = Duration::from_secs(60);
/// Processes that linger for so long do so throughout.
const LONG: &str = "1h";
/// A process that PostgreSQL itself keeps, and that has nothing to do: what any process costs.
const BYSTANDER: &str = "logical replication launcher";

// Ours while the scheduler is away, as it is by default, and while it lingers.
const CPU: &str = "1,000 jobs, idle minute: CPU ms (launcher / + scheduler)";
const CPU_WORKERS: &str = "  the same with cron.use_background_workers";
const MEMORY: &str = "  memory, PSS MB (launcher / + scheduler)";

/// A server with 1,000 registered views that have all been refreshed once.
pub struct Views {
    server: Server,
    db: Session,
}

impl Views {
    /// Another session there.
    pub fn connect(&self) -> Session {
        self.server.connect("bench")
    }
}

/// Makes it, and waits until the workers have filled the views for the first time.
pub fn prepare(settings: &[(&str, &str)]) -> Views {
    let server = servers::start(settings);
    let mut db = server.create_database("bench");
    servers::create_views(&mut db, false);
    let start = Instant::now();
    servers::register_views(&mut db, INTERVAL);
    db.wait_for(
        "all views are filled",
        MINUTE,
        &format!("SELECT count(*) = {VIEWS} FROM _cache_refresher.content"),
    );
    let taken = start.elapsed().as_secs_f64();
    report::progress(&format!("{VIEWS} views filled by 2 workers in {} s", number(taken)));
    Views { server, db }
}

/// A process that is watched for a minute.
struct Watched {
    label: &'static str,
    pid: i32,
    cpu: Duration,
    wake_ups: u64,
}

impl Watched {
    fn new(db: &mut Session, label: &'static str, backend_type: &str) -> Self {
        let pid = process(db, backend_type);
        assert_ne!(pid, 0, "there is no {backend_type}");
        Self { label, pid, cpu: cpu(pid), wake_ups: wake_ups(pid) }
    }

    /// Prints what it has used since, and returns milliseconds of CPU and megabytes.
    fn print(&self) -> (f64, f64) {
        let used = (cpu(self.pid) - self.cpu).as_secs_f64() * 1000.0;
        let memory = memory(self.pid);
        let megabytes = |kilobytes: u64| kilobytes as f64 / 1024.0;
        println!(
            "  {:<56}{:>9}{:>9}{:>9}{:>9}",
            self.label,
            number(used),
            wake_ups(self.pid) - self.wake_ups,
            number(megabytes(memory.proportional)),
            number(megabytes(memory.private)),
        );
        (used, megabytes(memory.proportional))
    }
}

/// Measures and prints; `alone` are views whose scheduler leaves when it has nothing to do.
pub fn measure(alone: Views, with_cron: bool, goals: &mut Goals, beside: &mut Comparison) {
    let mut alone = alone;
    let mut staying = prepare(&[("cache_refresher.worker_linger", LONG)]);
    let mut crons = Vec::new();
    if with_cron {
        for workers in ["off", "on"] {
            crons.push(cron_server(workers));
        }
    }
    alone.server.wait_until("the scheduler leaves", MINUTE, || {
        alone.server.processes().iter().all(|process| process.kind == LAUNCHER)
    });
    sleep(Duration::from_secs(2));

    report::progress("an idle minute");
    let refreshes =
        |views: &mut Views| views.db.get::<i64>("SELECT count(*) FROM _cache_refresher.history");
    let before = (refreshes(&mut alone), refreshes(&mut staying));
    let left = Watched::new(&mut alone.db, "launcher, scheduler gone (default)", LAUNCHER);
    let launcher = Watched::new(&mut staying.db, "launcher, scheduler lingering", LAUNCHER);
    let scheduler = Watched::new(&mut staying.db, "scheduler", SCHEDULER);
    let worker = Watched::new(&mut staying.db, "for comparison: an idle worker", WORKER);
    let bystander =
        Watched::new(&mut staying.db, "for comparison: logical replication launcher", BYSTANDER);
    let cron_labels = ["pg_cron launcher", "pg_cron launcher, cron.use_background_workers"];
    let watched_crons: Vec<Watched> = crons
        .iter_mut()
        .zip(cron_labels)
        .map(|((_, db), label)| Watched::new(db, label, pg_cron::LAUNCHER))
        .collect();
    sleep(MINUTE);

    println!(
        "\n{:<58}{:>9}{:>9}{:>9}{:>9}",
        format!("An idle minute with {VIEWS} views or jobs"),
        "CPU ms",
        "wake-ups",
        "PSS MB",
        "private"
    );
    let left = left.print();
    let (launcher, scheduler) = (launcher.print(), scheduler.print());
    worker.print();
    bystander.print();
    let crons_used: Vec<(f64, f64)> = watched_crons.iter().map(Watched::print).collect();
    assert_eq!(before, (refreshes(&mut alone), refreshes(&mut staying)), "it was not idle");

    let both = (launcher.0 + scheduler.0, launcher.1 + scheduler.1);
    println!(
        "  {:<56}{:>9}{:>9}{:>9}",
        "launcher and scheduler together",
        number(both.0),
        "",
        number(both.1)
    );
    goals.below("idle minute, launcher and scheduler", both.0, 10.0, "ms CPU");
    goals.below("idle minute, scheduler gone (default)", left.0, 10.0, "ms CPU");
    goals.below("memory of launcher and scheduler", both.1, 12.0, "MB PSS");
    beside.ours(CPU, format!("{} / {}", number(left.0), number(both.0)));
    beside.ours(MEMORY, format!("{} / {}", number(left.1), number(both.1)));
    if let [own, workers] = crons_used[..] {
        beside.theirs(CPU, number(own.0));
        beside.theirs(CPU_WORKERS, number(workers.0));
        beside.theirs(MEMORY, number(own.1));
    }
}

fn cron_server(background_workers: &str) -> (Server, Session) {
    let (server, mut db) = pg_cron::start(&[("cron.use_background_workers", background_workers)]);
    servers::create_views(&mut db, true);
    pg_cron::schedule_views(&mut db, &pg_cron::not_soon());
    (server, db)
}
