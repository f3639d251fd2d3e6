//! What those pay whose tables are captured, and what they get for it: how soon a change is to be seen.

use std::path::Path;
use std::time::{Duration, Instant};

use cluster_tests::{Server, Session};

use crate::report::{self, Comparison, Goals};
use crate::stats::Samples;
use crate::{pg_cron, servers};

const SOON: &str = "commit until seen in a view of 100,000 rows, median/max ms";
/// The last is the one that is captured.
const TABLES: [&str; 3] = ["plain", "control", "captured"];
/// How often pgbench is run in each protocol.
const ROUNDS: usize = 7;
/// How long it runs each time.
const ROUND_SECONDS: &str = "15";
const BULK_ROUNDS: usize = 15;
const ROWS: i32 = 100_000;
const WRITES: i32 = 400;
/// A hundred writes a second.
const PACE: Duration = Duration::from_millis(10);

/// Measures and prints.
pub fn measure(with_cron: bool, goals: &mut Goals, beside: &mut Comparison) {
    let server = servers::start(&[("shared_buffers", "512MB"), ("max_wal_size", "8GB")]);
    let mut db = server.create_database("bench");
    db.run("SET statement_timeout = 0");
    for table in TABLES {
        set_up(&mut db, table);
    }
    db.run(
        "SELECT cache_refresher.register('captured_view', refresh_interval => '1 day', on_change => true,
                    debounce => '1 day', max_staleness => '1 day')",
    );
    db.run("SELECT cache_refresher.refresh('captured_view')");
    report::heading("Writing to a table of 100,000 rows that a view reads, captured over not");
    let (single, control) = single_rows(&server, "simple");
    report::row("transactions of one UPDATE each, by pgbench, per second", &single);
    report::row("  a third table over the first, neither captured", &control);
    let (prepared, control) = single_rows(&server, "prepared");
    report::row("the same, the statement prepared", &prepared);
    report::row("  a third table over the first, neither captured", &control);
    let bulk = bulk(&mut db, "value = value + 1");
    report::row("time of an UPDATE of all rows", &bulk);
    let unused = self::bulk(&mut db, "note = 'n' || random()");
    report::row("the same, a column that the view does not use", &unused);
    // Higher is better here, and goals are upper limits.
    goals.below(
        "single-row UPDATEs without capture over with it",
        1.0 / single.median(),
        1.0 / 0.93,
        report::RATIO,
    );
    goals.below("UPDATE of 100,000 rows, captured over not", bulk.median(), 1.5, report::RATIO);
    goals.below("the same, of a column that is not used", unused.median(), 1.15, report::RATIO);

    report::progress("writers: latency");
    db.run(
        "SELECT cache_refresher.refresh('captured_view');
         SELECT cache_refresher.alter('captured_view', debounce => '0', max_staleness => '1 s')",
    );
    let latency = latency(&mut db, WRITES);
    report::heading("From the commit of one row until the view shows it, 100 writes a second; ms");
    report::row("on_change, debounce 0", &latency);
    goals.below("commit until seen, median", latency.median(), 10.0, "ms");
    goals.below("commit until seen, p99", latency.percentile(99.0), 50.0, "ms");
    beside.ours(SOON, pg_cron::median_and_max(&latency));
    if with_cron {
        let (_server, mut db) = pg_cron::start(&[]);
        db.run("SET statement_timeout = 0");
        set_up(&mut db, "captured");
        // Before 1.5 a minute was the least.
        let seconds: bool = db.get(
            "SELECT string_to_array(split_part(extversion, '-', 1), '.')::int[] >= '{1,5}' FROM pg_extension WHERE extname = 'pg_cron'",
        );
        let (schedule, writes) = if seconds { ("1 second", 40) } else { ("* * * * *", 3) };
        db.run(&format!(
            "SELECT cron.schedule('often', '{schedule}', 'REFRESH MATERIALIZED VIEW CONCURRENTLY captured_view')",
        ));
        report::progress("writers: latency under pg_cron");
        beside.theirs(SOON, pg_cron::median_and_max(&self::latency(&mut db, writes)));
    }
}

fn set_up(db: &mut Session, table: &str) {
    db.run(&format!(
        "CREATE TABLE {table} (id int PRIMARY KEY, value int NOT NULL, note text NOT NULL);
         INSERT INTO {table} SELECT i, 0, 'note ' || i FROM generate_series(1, {ROWS}) i;
         CREATE MATERIALIZED VIEW {table}_view AS SELECT id, value FROM {table};
         CREATE UNIQUE INDEX ON {table}_view (id)"
    ));
    db.run(&format!("VACUUM (ANALYZE) {table}, {table}_view"));
}

/// Transactions per second of a single client in that protocol, captured over plain and control over plain.
///
/// Each transaction is on one of the three tables by lot, so that whatever else slows the machine for a while
/// slows all three: run one after the other, the two plain ones differed by a tenth.
fn single_rows(server: &Server, protocol: &str) -> (Samples, Samples) {
    let folder = server.new_folder(protocol);
    let (mut captured, mut control) = (Samples::default(), Samples::default());
    for round in 0..ROUNDS {
        report::progress(&format!("writers: single rows, {protocol}, {} of {ROUNDS}", round + 1));
        let [without, other, with] = latencies(server, &folder, protocol);
        captured.push(without / with);
        control.push(without / other);
    }
    (captured, control)
}

/// Of an UPDATE of one row in each of the tables.
fn latencies(server: &Server, folder: &Path, protocol: &str) -> [f64; 3] {
    let mut pgbench = server.client("pgbench");
    pgbench.args(["--no-vacuum", "--time", ROUND_SECONDS, "--protocol", protocol]);
    for table in TABLES {
        let script = folder.join(table);
        let text = format!(
            "\\set id random(1, {ROWS})\nUPDATE {table} SET value = value + 1 WHERE id = :id;\n"
        );
        std::fs::write(&script, text).unwrap();
        pgbench.arg("--file").arg(script);
    }
    let output = pgbench.arg("bench").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let averages = text.lines().filter_map(|line| line.strip_prefix(" - latency average = "));
    let averages: Vec<f64> =
        averages.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    averages.try_into().expect("a latency for each of pgbench's scripts")
}

/// Captured over plain.
fn bulk(db: &mut Session, assignment: &str) -> Samples {
    report::progress(&format!("writers: {assignment}"));
    let mut ratios = Samples::default();
    for round in 0..=BULK_ROUNDS {
        let mut tables = ["plain", "captured"];
        tables.rotate_left(round % 2);
        let [first, second] = tables.map(|table| {
            // Both begin with as many dead rows.
            db.run(&format!("VACUUM {table}"));
            db.run("CHECKPOINT");
            let start = Instant::now();
            db.run(&format!("UPDATE {table} SET {assignment}"));
            start.elapsed().as_secs_f64()
        });
        if round > 0 {
            ratios.push(if round % 2 == 0 { second / first } else { first / second });
        }
    }
    ratios
}

fn latency(db: &mut Session, writes: i32) -> Samples {
    let write =
        db.prepare("UPDATE captured SET value = value + 1 WHERE id = $1 RETURNING value").unwrap();
    let read = db.prepare("SELECT value FROM captured_view WHERE id = $1").unwrap();
    let mut samples = Samples::default();
    for number in 0..writes {
        let id = 1 + number * 7919 % ROWS;
        let begun = Instant::now();
        let wanted: i32 = db.query_one(&write, &[&id]).unwrap().get(0);
        let committed = Instant::now();
        while db.query_one(&read, &[&id]).unwrap().get::<_, i32>(0) != wanted {
            // Often enough not to matter, seldom enough not to take a processor away.
            std::thread::sleep(Duration::from_micros(300));
        }
        samples.push(committed.elapsed().as_secs_f64() * 1000.0);
        std::thread::sleep(PACE.saturating_sub(begun.elapsed()));
    }
    samples
}
