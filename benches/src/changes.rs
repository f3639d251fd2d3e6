//! What it costs to bring a view up to date with few changes: `delta` beside everything else.
//!
//! Each way has a view of its own with the same query. A round changes rows of the source, and then each
//! way brings its view up to date with that same change, in rotating order.

use std::time::Instant;

use cluster_tests::{Server, Session};
use postgres::SimpleQueryMessage;

use crate::report::{self, Goals, number};
use crate::servers;
use crate::source::{self, Kind};
use crate::stats::Samples;

/// How a view is refreshed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Full,
    Concurrently,
    Diff,
    Delta,
    Auto,
}

impl Way {
    const ALL: [Self; 5] = [Self::Full, Self::Concurrently, Self::Diff, Self::Delta, Self::Auto];

    const fn view(self) -> &'static str {
        ["v_full", "v_concurrent", "v_diff", "v_delta", "v_auto"][self as usize]
    }

    fn statement(self) -> String {
        let view = self.view();
        match self {
            Self::Full => format!("REFRESH MATERIALIZED VIEW {view}"),
            Self::Concurrently => format!("REFRESH MATERIALIZED VIEW CONCURRENTLY {view}"),
            Self::Diff => format!("SELECT * FROM cache_refresher.refresh('{view}', 'diff')"),
            Self::Delta => format!("SELECT * FROM cache_refresher.refresh('{view}', 'delta')"),
            Self::Auto => format!("SELECT * FROM cache_refresher.refresh('{view}')"),
        }
    }
}

const SIZES: [u32; 3] = [10_000, 100_000, 1_000_000];
/// Per cent of the source's rows; one row comes before.
const SHARES: [f64; 4] = [0.01, 0.1, 1.0, 10.0];

/// As for the other methods, but with room for the five views of a block, of which a real server has one; logs of
/// changes are vacuumed as always.
const SETTINGS: [(&str, &str); 3] =
    [("checkpoint_timeout", "1h"), ("max_wal_size", "8GB"), ("shared_buffers", "2GB")];

const NOTE: &str = "
Few changes, each way on a view of its own, timed by a client
  Server: shared_buffers 2GB, max_wal_size 8GB. Sessions: work_mem 64MB, synchronous_commit off, as
  workers have it, and have read their view and its sources before. Medians of 9 rounds after an
  untimed one, with one row of 49 for delta and auto and of 5 for full and conc, of 1 for conc with
  1000000 rows; spread is (max - min) / median.
  'by' is the method that auto has taken; it may take full (auto_full), with which it is compared.";

/// What was measured after changes of one size.
#[derive(Default)]
struct Line {
    label: String,
    time: [Samples; 5],
    taken: String,
}

/// Measures and prints; sources of no more than `most_rows`.
pub fn measure(most_rows: u32, goals: &mut Goals) {
    let server = servers::start(&SETTINGS);
    let mut db = server.create_database("bench");
    db.run("SET statement_timeout = 0; SET work_mem = '256MB'");
    println!("{NOTE}");
    let sizes: Vec<u32> = SIZES.into_iter().filter(|&rows| rows <= most_rows).collect();
    for kind in Kind::ALL {
        let mut one_row = Vec::new();
        for &rows in &sizes {
            let lines = block(&server, &mut db, kind, rows);
            print(kind, rows, &lines);
            one_row.push(lines[0].time[Way::Delta as usize].median());
            if rows == 1_000_000 {
                compare(kind, &lines, goals);
            }
        }
        if let (Some(small), Some(large), true) = (one_row.first(), one_row.last(), sizes.len() > 1)
        {
            let what = format!("{}: delta of 1 row, largest view over smallest", kind.name());
            goals.below(&what, large / small, 2.0, report::RATIO);
        }
    }
}

fn block(server: &Server, db: &mut Session, kind: Kind, rows: u32) -> Vec<Line> {
    report::progress(&format!("changes: {}, {rows} rows", kind.name()));
    source::set_up(db, kind, rows, &Way::ALL.map(Way::view));
    // What finds the rows of a group.
    db.run("CREATE INDEX ON streams (user_id)");
    for way in [Way::Delta, Way::Auto] {
        db.run(&format!(
            "SELECT cache_refresher.register('{view}', refresh_interval => '1 day', on_change => true,
                        debounce => '1 day', max_staleness => '1 day')",
            view = way.view()
        ));
        // Not in the transaction that begins capture, which proves nothing.
        db.run(&format!("SELECT cache_refresher.refresh('{}')", way.view()));
    }
    let mut sessions = Way::ALL.map(|_| {
        let mut session = server.connect("bench");
        session
            .run("SET statement_timeout = 0; SET work_mem = '64MB'; SET synchronous_commit = off");
        session
    });
    for way in Way::ALL {
        read_all(&mut sessions[way as usize], way.view());
    }
    sessions[Way::Auto as usize].run("SET cache_refresher.auto_full = on");
    let one = 100.0 / f64::from(rows);
    let lines = [one].into_iter().chain(SHARES).filter(|&share| share >= one).map(|share| {
        let label = if share == one { "1 row".to_owned() } else { format!("{share} %") };
        rounds(db, &mut sessions, label, share, rows)
    });
    // A share that is one row was measured already.
    let mut lines: Vec<Line> = lines.collect();
    lines.dedup_by(|line, before| before.label == line.label);
    for way in &Way::ALL[1..] {
        let (view, full) = (way.view(), Way::Full.view());
        let different: i64 = db.get(&format!(
            "SELECT count(*) FROM ((TABLE {view} EXCEPT ALL TABLE {full})
                                   UNION ALL (TABLE {full} EXCEPT ALL TABLE {view})) either"
        ));
        assert_eq!(different, 0, "{view} is not what {full} is");
    }
    for way in [Way::Delta, Way::Auto] {
        db.run(&format!("SELECT cache_refresher.unregister('{}')", way.view()));
    }
    lines
}

/// Has the process touch each page once, as one that lives longer has: the first time the kernel has to map it.
fn read_all(session: &mut Session, view: &str) {
    session.run("SET enable_seqscan = off");
    for relation in [view, "streams", "users"] {
        let key: String = session.get(&format!(
            "SELECT attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
             WHERE i.indrelid = '{relation}'::regclass AND i.indisunique"
        ));
        session.run(&format!(
            "SELECT count(r.*) FROM (SELECT * FROM {relation} ORDER BY {key} OFFSET 0) r"
        ));
    }
    session.run("RESET enable_seqscan");
}

fn rounds(
    db: &mut Session,
    sessions: &mut [Session; 5],
    label: String,
    share: f64,
    rows: u32,
) -> Line {
    let mut line = Line { label, ..Line::default() };
    let single = line.label == "1 row";
    let timed = |way: Way| match way {
        Way::Concurrently if rows == 1_000_000 => 1,
        Way::Delta | Way::Auto if single => 49,
        Way::Full | Way::Concurrently if single => 5,
        _ => 9,
    };
    db.run("CHECKPOINT");
    for round in 0.. {
        let mut turns = Way::ALL.to_vec();
        turns.retain(|&way| round == 0 || round <= timed(way));
        if turns.is_empty() {
            break;
        }
        source::change(db, share, round);
        let first = round % turns.len();
        turns.rotate_left(first);
        // What is left out stays behind; in the end all have to agree.
        for way in turns {
            let start = Instant::now();
            let answer = sessions[way as usize].simple_query(&way.statement()).unwrap();
            let taken = start.elapsed().as_secs_f64() * 1000.0;
            if round > 0 {
                line.time[way as usize].push(taken);
            }
            let method = answer.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get("method"),
                _ => None,
            });
            match way {
                Way::Delta => assert_eq!(method, Some("delta")),
                Way::Auto => line.taken = method.unwrap_or_default().to_owned(),
                _ => {}
            }
        }
    }
    // Nobody is to begin the next line with more to do than the others.
    for way in Way::ALL {
        sessions[way as usize].simple_query(&way.statement()).unwrap();
    }
    line
}

fn print(kind: Kind, rows: u32, lines: &[Line]) {
    println!("\n{}, {rows} rows", kind.name());
    let mut columns: Vec<String> = Vec::new();
    for name in ["full ms", "conc ms", "diff ms", "delta ms", "auto ms"] {
        columns.extend([name.to_owned(), "spread".to_owned()]);
    }
    columns.extend(["full/Δ", "conc/Δ", "diff/Δ", "by"].map(str::to_owned));
    report::line("changed", &columns);
    for line in lines {
        let mut cells = Vec::new();
        for time in &line.time {
            cells.extend([number(time.median()), report::spread(time)]);
        }
        for way in [Way::Full, Way::Concurrently, Way::Diff] {
            cells.push(number(line.over_delta(way)));
        }
        cells.push(line.taken.clone());
        report::line(&line.label, &cells);
    }
}

fn compare(kind: Kind, lines: &[Line], goals: &mut Goals) {
    let name = kind.name();
    for line in lines {
        let of = |what: &str| format!("{name}, {} changed: {what}", line.label);
        let delta = line.time[Way::Delta as usize].median();
        if line.label == "1 row" {
            goals.below(&of("delta"), delta, 3.0, "ms");
        }
        if line.label == "0.1 %" {
            let (least, over) = match kind {
                Kind::Join => (80.0, Some(600.0)),
                Kind::Aggregate => (20.0, None),
            };
            goals.below(
                &of("delta over full"),
                1.0 / line.over_delta(Way::Full),
                1.0 / least,
                report::RATIO,
            );
            if let Some(over) = over {
                let ratio = 1.0 / line.over_delta(Way::Concurrently);
                goals.below(&of("delta over concurrently"), ratio, 1.0 / over, report::RATIO);
            }
        }
        let others = Way::ALL[..4].iter().map(|&way| line.time[way as usize].median());
        let best = others.fold(f64::INFINITY, f64::min);
        let auto = line.time[Way::Auto as usize].median();
        goals.below(&of("auto over the best"), auto / best, 1.2, report::RATIO);
    }
}

impl Line {
    fn over_delta(&self, way: Way) -> f64 {
        self.time[way as usize].median() / self.time[Way::Delta as usize].median()
    }
}
