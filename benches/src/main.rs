//! The benchmark: what it costs on this machine to keep views fresh, whether the project's goals are
//! met, and the same work under pg_cron beside it. It measures whatever build is installed in the
//! server that `PG_CONFIG` or `PG_MAJOR` names; `scripts/bench.sh` installs a release build first.

mod changes;
mod idle;
mod machine;
mod methods;
mod overhead;
mod pg_cron;
mod process;
mod punctuality;
mod queries;
mod report;
mod servers;
mod source;
mod stats;
mod writers;

use std::process::ExitCode;
use std::time::Instant;

use report::{Comparison, Goals};

const USAGE: &str = "\
Usage: benches [PART]... [ROWS]

  overhead     a refresh by a worker beside the bare statement
  punctuality  1,000 views with an interval of a minute
  idle         CPU and memory with 1,000 views when nothing is due
  queries      status and freshness with 1,000 views
  writers      what capture costs those who write, and how soon a change is to be seen
  methods      diff beside full and concurrent, views on 10,000, 100,000 and 1,000,000 rows
  changes      delta beside all of them, few rows changed, views of the same sizes

Without a part: all of them, in about twenty minutes; methods and changes without the largest views,
which take about half an hour more. ROWS is the most that those two work on.";

const PARTS: [&str; 7] =
    ["overhead", "punctuality", "idle", "queries", "writers", "methods", "changes"];

fn main() -> ExitCode {
    let (numbers, chosen): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.parse::<u32>().is_ok());
    if let Some(unknown) = chosen.iter().find(|part| !PARTS.contains(&part.as_str())) {
        eprintln!("there is no part '{unknown}'\n\n{USAGE}");
        return ExitCode::from(2);
    }
    let most_rows = match numbers.last().and_then(|number| number.parse().ok()) {
        Some(rows) if rows < methods::SIZES[0] => {
            eprintln!("the smallest views have {} rows\n\n{USAGE}", methods::SIZES[0]);
            return ExitCode::from(2);
        }
        Some(rows) => rows,
        None if chosen.is_empty() => methods::QUICK,
        None => u32::MAX,
    };
    let wants = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    let start = Instant::now();
    let mut goals = Goals::default();
    let mut beside = Comparison::default();
    let with_cron = pg_cron::is_available();

    machine::describe();
    if !with_cron {
        println!("pg_cron   not installed for this server, so it is left out");
    }
    let single_job =
        wants("overhead").then(|| overhead::measure(with_cron, &mut goals, &mut beside));
    if wants("idle") || wants("queries") {
        let mut views = idle::prepare(&[]);
        if wants("queries") {
            queries::measure(&mut views, &mut goals);
        }
        if wants("idle") {
            idle::measure(views, with_cron, &mut goals, &mut beside);
        }
    }
    // It is due once a minute only; so it has been running beside the idle minute.
    if let Some(single_job) = single_job.flatten() {
        beside.theirs(pg_cron::DUE_UNTIL_SEEN, pg_cron::median_and_max(&single_job.finish()));
    }
    if wants("punctuality") {
        punctuality::measure(with_cron, &mut goals, &mut beside);
    }
    if wants("writers") {
        writers::measure(with_cron, &mut goals, &mut beside);
    }
    if wants("methods") {
        methods::measure(most_rows, &mut goals);
    }
    if wants("changes") {
        changes::measure(most_rows, &mut goals);
    }
    beside.print();
    goals.print();
    println!();
    machine::describe_load("at the end");
    println!("took      {} s", start.elapsed().as_secs());
    ExitCode::SUCCESS
}
