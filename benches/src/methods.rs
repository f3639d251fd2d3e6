//! The methods of a refresh side by side: the server's two statements, and `diff`.
//!
//! Each method has a view of its own with the same query. A round changes rows of a source, and then
//! each method brings its view up to date with that same change, in rotating order.

mod sessions;

use cluster_tests::{Server, Session};

use crate::report::{self, Goals, number};
use crate::servers;
use crate::source::{self, Kind};
use crate::stats::Samples;
use sessions::{Method, Sessions};

/// Rows of the source, smallest first.
pub const SIZES: [u32; 3] = [10_000, 100_000, MILLION];
/// Up to which size it takes minutes rather than a good part of an hour.
pub const QUICK: u32 = 100_000;
const MILLION: u32 = 1_000_000;
/// Per cent of the source's rows that change before each refresh.
const SHARES: [f64; 6] = [0.0, 0.01, 0.1, 1.0, 10.0, ALL_ROWS];
const ALL_ROWS: f64 = 100.0;
/// MB.
const WORK_MEM: [u32; 2] = [4, 64];

/// Checkpoints happen only where this part asks for one, and the source stays in memory.
const SETTINGS: [(&str, &str); 3] =
    [("checkpoint_timeout", "1h"), ("max_wal_size", "8GB"), ("shared_buffers", "512MB")];

const NOTE: &str = "
The methods of a refresh, each on a view of its own, timed by a client
  Server: shared_buffers 512MB, max_wal_size 8GB. No autovacuum of what is measured: source and views
  are vacuumed when they are made and after each change of all rows. Figures are medians of 5 rounds;
  with 1000000 rows CONCURRENTLY has one or none. Spread is (max - min) / median. 'of full', 'of conc':
  the median of diff's time over theirs in the same round. WAL is in kB, full page images included; a
  checkpoint and an untimed round precede each line, and there is no checkpoint in between. 'peak MB':
  anonymous memory of diff's backend, at its most in the untimed round, beyond that of a new session;
  without parallel workers.";

const COLUMNS: [&str; 11] = [
    "full ms", "spread", "conc ms", "spread", "diff ms", "spread", "of full", "of conc",
    "WAL full", "WAL conc", "WAL diff",
];
const MEMORY: &str = "peak MB";

/// What one table of the report is about.
#[derive(Clone, Copy)]
struct Block {
    kind: Kind,
    rows: u32,
    work_mem: u32,
}

/// A row of it: by method, milliseconds and kB of each round; MB of diff.
#[derive(Default)]
struct Figures {
    time: [Samples; 3],
    wal: [Samples; 3],
    peak: f64,
}

/// Measures and prints; sources of no more than `most_rows`.
pub fn measure(most_rows: u32, goals: &mut Goals) {
    let server = servers::start(&SETTINGS);
    let mut db = server.create_database("bench");
    // For what is not measured: the changes, and the comparison of views.
    db.run("SET statement_timeout = 0; SET work_mem = '256MB'");
    println!("{NOTE}");
    let sizes: Vec<u32> = SIZES.into_iter().filter(|&rows| rows <= most_rows).collect();
    for &rows in &sizes {
        for kind in Kind::ALL {
            for work_mem in WORK_MEM {
                let block = Block { kind, rows, work_mem };
                let lines = block.measure(&server, &mut db);
                block.print(&lines, sizes.last() == Some(&rows));
                if rows == MILLION && kind == Kind::Join {
                    block.compare(&lines, goals);
                }
            }
        }
    }
}

impl Block {
    fn title(self) -> String {
        format!("{}, {} rows, work_mem {} MB", self.kind.name(), self.rows, self.work_mem)
    }

    fn measure(self, server: &Server, db: &mut Session) -> Vec<(f64, Figures)> {
        report::progress(&format!("methods: {}", self.title()));
        source::set_up(db, self.kind, self.rows, &["v_full", "v_concurrent", "v_diff"]);
        let mut sessions = Sessions::start(server, self.work_mem);
        let lines = SHARES.map(|share| (share, self.rounds(db, &mut sessions, share)));
        let differences: i64 = db.get(
            "SELECT count(*) FROM ((TABLE v_diff EXCEPT ALL TABLE v_full)
                                   UNION ALL (TABLE v_full EXCEPT ALL TABLE v_diff)) either",
        );
        assert_eq!(differences, 0, "{}: v_diff is not what v_full is", self.title());
        lines.into()
    }

    /// How many rounds are timed. CONCURRENTLY needs 13 s and more for a million rows.
    fn timed_rounds(self, method: Method, share: f64) -> usize {
        match method {
            Method::Concurrently if self.rows == MILLION => {
                usize::from(self.work_mem == 64 && share >= 0.1)
            }
            _ => 5,
        }
    }

    fn rounds(self, db: &mut Session, sessions: &mut Sessions, share: f64) -> Figures {
        let mut figures = Figures::default();
        let timed = Method::ALL.map(|method| self.timed_rounds(method, share));
        db.run("CHECKPOINT");
        // Round 0 is not timed. It also brings up to date a view whose method was left out before.
        for round in 0..=timed.into_iter().max().unwrap() {
            let changed = source::change(db, share, round);
            let mut turns: Vec<Method> = Method::ALL
                .into_iter()
                .filter(|&method| timed[method as usize] >= round.max(1))
                .collect();
            let first = round % turns.len();
            turns.rotate_left(first);
            for method in turns {
                // Each stream is one row of a join, and none of an aggregate.
                let expected = (self.kind == Kind::Join).then_some(changed);
                if round == 0 {
                    // Watching the memory takes time, so it is done here.
                    if method == Method::Diff {
                        figures.peak = sessions.watch_diff(expected);
                    } else {
                        sessions.refresh(method, expected);
                    }
                    continue;
                }
                let before = wal_position(db);
                figures.time[method as usize].push(sessions.refresh(method, expected));
                figures.wal[method as usize].push((wal_position(db) - before) / 1024.0);
            }
            if share == ALL_ROWS {
                // As autovacuum would. v_full has nothing dead in it.
                db.run("VACUUM (ANALYZE) streams, v_concurrent, v_diff");
            }
        }
        figures
    }

    fn print(self, lines: &[(f64, Figures)], with_memory: bool) {
        println!("\n{}", self.title());
        let mut columns = COLUMNS.map(str::to_owned).to_vec();
        columns.extend(with_memory.then(|| MEMORY.to_owned()));
        report::line("changed", &columns);
        for (share, figures) in lines {
            let mut cells = Vec::new();
            for time in &figures.time {
                cells.push(number(time.median()));
                cells.push(report::spread(time));
            }
            for other in [Method::Full, Method::Concurrently] {
                cells.push(number(figures.diff_over(other)));
            }
            cells.extend(figures.wal.iter().map(|wal| number(wal.median())));
            cells.extend(with_memory.then(|| number(figures.peak)));
            report::line(&format!("{share} %"), &cells);
        }
    }

    fn compare(self, lines: &[(f64, Figures)], goals: &mut Goals) {
        let work_mem = self.work_mem;
        let of = |method, share| {
            format!("diff's time over {method}, {share} % changed, work_mem {work_mem} MB")
        };
        for (share, figures) in lines {
            let over_full = figures.diff_over(Method::Full);
            match *share {
                ALL_ROWS => goals.below(&of("full", *share), over_full, 2.0, report::RATIO),
                10.0 => {}
                _ => goals.below(&of("full", *share), over_full, 0.6, report::RATIO),
            }
            let over_concurrently = figures.diff_over(Method::Concurrently);
            if !over_concurrently.is_nan() {
                goals.below(&of("concurrently", *share), over_concurrently, 0.1, report::RATIO);
            }
        }
        let peak: Samples = lines.iter().map(|(_, figures)| figures.peak).collect();
        goals.below(
            &format!("diff's peak memory, work_mem {work_mem} MB"),
            peak.max(),
            f64::from(work_mem) + 20.0,
            "MB",
        );
    }
}

impl Figures {
    /// NaN if the other method was left out.
    fn diff_over(&self, other: Method) -> f64 {
        self.time[Method::Diff as usize].over(&self.time[other as usize]).median()
    }
}

/// Bytes of WAL that the server has written so far.
fn wal_position(db: &mut Session) -> f64 {
    db.get("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8")
}
