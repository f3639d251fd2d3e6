//! Who refreshes: a session for each method.

use std::time::Instant;

use cluster_tests::{Server, Session};
use postgres::SimpleQueryMessage;

use crate::process;

/// How a view is refreshed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The server's statement.
    Full,
    /// The server's other one.
    Concurrently,
    /// The extension's.
    Diff,
}

impl Method {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Full, Self::Concurrently, Self::Diff];

    fn statement(self) -> &'static str {
        match self {
            Self::Full => "REFRESH MATERIALIZED VIEW v_full",
            Self::Concurrently => "REFRESH MATERIALIZED VIEW CONCURRENTLY v_concurrent",
            Self::Diff => "SELECT * FROM cache_refresher.refresh('v_diff', method => 'diff')",
        }
    }
}

/// One for each method: what the others have left allocated would count as memory of diff.
pub struct Sessions {
    by_method: [Session; 3],
    diff_backend: i32,
    /// kB of the backend of diff before it has refreshed anything.
    diff_at_first: u64,
}

impl Sessions {
    /// Connects them.
    pub fn start(server: &Server, work_mem: u32) -> Self {
        let mut by_method = Method::ALL.map(|_| {
            let mut session = server.connect("bench");
            session.run(&format!("SET statement_timeout = 0; SET work_mem = '{work_mem}MB'"));
            session
        });
        let diff_backend = by_method[Method::Diff as usize].get("SELECT pg_backend_pid()");
        let diff_at_first = process::anonymous(diff_backend);
        Self { by_method, diff_backend, diff_at_first }
    }

    /// Milliseconds until the client has the answer. Diff has to tell of as many updated rows as are
    /// expected.
    pub fn refresh(&mut self, method: Method, expected: Option<u64>) -> f64 {
        let start = Instant::now();
        let answer = self.by_method[method as usize].simple_query(method.statement()).unwrap();
        let taken = start.elapsed().as_secs_f64() * 1000.0;
        if method == Method::Diff {
            let row = answer.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            let row = row.unwrap();
            assert_eq!(row.get("outcome"), Some("refreshed"));
            assert_eq!(row.get("method"), Some("diff"));
            if let Some(expected) = expected {
                let updated: u64 = row.get("rows_updated").unwrap().parse().unwrap();
                assert_eq!(updated, expected, "rows that diff has updated");
            }
        }
        taken
    }

    /// Refreshes by diff; the most memory that its backend gained, in MB.
    pub fn watch_diff(&mut self, expected: Option<u64>) -> f64 {
        let (backend, at_first) = (self.diff_backend, self.diff_at_first);
        let peak = process::peak_anonymous(backend, || {
            self.refresh(Method::Diff, expected);
        });
        peak.saturating_sub(at_first) as f64 / 1024.0
    }
}
