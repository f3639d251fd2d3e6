//! How long it takes to ask for the state of 1,000 views.

use std::time::Instant;

use cluster_tests::Session;
use postgres::SimpleQueryMessage;

use crate::idle::Views;
use crate::report::{self, Goals};
use crate::servers::VIEWS;
use crate::stats::Samples;

/// Measures and prints.
pub fn measure(views: &mut Views, goals: &mut Goals) {
    report::progress("queries");
    let all = |_| "SELECT * FROM cache_refresher.status".to_owned();
    let one = |i| format!("SELECT cache_refresher.freshness('v{:04}')", i % VIEWS + 1);
    let other = |i| format!("SELECT cache_refresher.age('v{:04}')", i % VIEWS + 1);
    let health = |_| "SELECT * FROM cache_refresher.health()".to_owned();
    let metrics = |_| "SELECT cache_refresher.metrics_text()".to_owned();

    let mut db = views.connect();
    let status = times(&mut db, 200, all);
    // What a client pays for as many rows of this width, whatever computes them.
    db.batch_execute("CREATE TEMP TABLE copied AS SELECT * FROM cache_refresher.status").unwrap();
    let copied = times(&mut db, 200, |_| "SELECT * FROM copied".to_owned());
    let freshness = times(&mut db, 3000, one);
    report::heading(&format!("Questions about {VIEWS} views, as a client sees them; ms"));
    report::row("SELECT * FROM cache_refresher.status", &status);
    report::row("  of that: executing it (EXPLAIN ANALYZE), no output", &executions(&mut db, 100));
    report::row("  the same rows from a plain table", &copied);
    report::row("SELECT cache_refresher.freshness(…)", &freshness);
    report::row("SELECT cache_refresher.age(…)", &times(&mut db, 3000, other));
    report::row("SELECT * FROM cache_refresher.health()", &times(&mut db, 50, health));
    report::row("SELECT cache_refresher.metrics_text()", &times(&mut db, 20, metrics));
    let first = |sql: &dyn Fn(usize) -> String| -> Samples {
        (0..20).map(|i| once(&mut views.connect(), &sql(i))).collect()
    };
    report::row("status, the first statement of a session", &first(&all));
    report::row("freshness, the first statement of a session", &first(&one));
    goals.below("status, 1,000 views, median", status.median(), 5.0, "ms");
    let beyond = status.median() - copied.median();
    goals.below("  beyond the same rows from a plain table", beyond, 5.0, "ms");
    goals.below("freshness, 1,000 views, median", freshness.median(), 0.5, "ms");
}

fn times(db: &mut Session, count: usize, sql: impl Fn(usize) -> String) -> Samples {
    for i in 0..10 {
        once(db, &sql(i));
    }
    (0..count).map(|i| once(db, &sql(i))).collect()
}

/// Milliseconds of a statement as psql would send it, until its last row has arrived.
fn once(db: &mut Session, sql: &str) -> f64 {
    let start = Instant::now();
    db.simple_query(sql).unwrap();
    start.elapsed().as_secs_f64() * 1000.0
}

/// Milliseconds that the server needs to compute the rows of `status`, without planning, turning
/// them into text, and sending them.
fn executions(db: &mut Session, count: usize) -> Samples {
    let explain = "EXPLAIN (ANALYZE, TIMING off, FORMAT json) SELECT * FROM cache_refresher.status";
    (0..count)
        .map(|_| {
            let messages = db.simple_query(explain).unwrap();
            let plan = messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            let (_, time) = plan.unwrap().split_once("\"Execution Time\": ").unwrap();
            time.split([',', '\n']).next().unwrap().trim().parse::<f64>().unwrap()
        })
        .collect()
}
