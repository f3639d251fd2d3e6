//! Whatever its joins, its groups and what happens to its sources: after a refresh by captured changes a
//! view holds what its query returns.
//!
//! Cases are drawn from a seed: tables full of NULLs and repeated values, some of them partitioned, some with
//! foreign keys that pass on what happens to another; a query over up to four of them, directly or by way of
//! views, subqueries and WITH, or several such combined; rounds of transactions, some rolled back in part. A
//! second session writes meanwhile, and ends in the midst of the first one's transactions and refreshes. One
//! thread drives both, and what would have to wait for the other session does not happen at all, so that the
//! seed decides everything. See `cluster_tests::seeds` for running one again.

mod query;
mod tally;
mod writes;

use cluster_tests::{Installation, Scratch, Script, Session, seeds};
use fastrand::Rng;
use query::Query;
use tally::Tally;

/// How many there are: t0 and so on.
const TABLES: usize = 4;

/// In a schema of its own; `:y` is the column that is written to so that y changes. Partitions have their columns in another order than their parent, and the foreign
/// key of one table moves its rows from partition to partition.
const CREATE: &str = "DROP SCHEMA IF EXISTS drawn CASCADE;
    CREATE SCHEMA drawn;
    SET search_path = drawn, public;
    CREATE TABLE t0 (id int, x int, y int, z text COLLATE \"C\");
    CREATE TABLE t3 (id int PRIMARY KEY, x int, y int, z text COLLATE \"C\");
    INSERT INTO t3 (id, x, :y, z) SELECT n, n % 4, n % 3, chr(97 + n % 3) FROM generate_series(0, 6) n;
    CREATE TABLE t1 (gone int, id int, x int REFERENCES t3 ON DELETE CASCADE ON UPDATE CASCADE, y int,
                     z text COLLATE \"C\");
    ALTER TABLE t1 DROP COLUMN gone;
    CREATE TABLE t2 (id int, x int REFERENCES t3 ON DELETE SET NULL ON UPDATE CASCADE, y int,
                     z text COLLATE \"C\") PARTITION BY LIST (x);
    CREATE TABLE t2_low (z text COLLATE \"C\", y int, id int, x int);
    ALTER TABLE t2 ATTACH PARTITION t2_low FOR VALUES IN (0, 1, 2);
    CREATE TABLE t2_rest PARTITION OF t2 DEFAULT;
    CREATE VIEW v0 AS SELECT id, x, y, z FROM t0 WHERE x IS NOT NULL;
    CREATE VIEW v1 AS SELECT a.id, b.x, a.y, b.z FROM t1 a LEFT JOIN t2 b ON b.y = a.x;
    CREATE VIEW v2 AS SELECT x AS id, count(*)::int AS x, max(y) AS y, max(z) AS z FROM v0 GROUP BY x;
    CREATE MATERIALIZED VIEW m0 AS SELECT y AS id, x, id AS y, z FROM t0 WHERE x IS NOT NULL;
    CREATE FUNCTION attempt(statement text) RETURNS void LANGUAGE plpgsql SET lock_timeout = '20ms' AS $$
        BEGIN
            EXECUTE statement;
        EXCEPTION WHEN integrity_constraint_violation OR lock_not_available THEN NULL;
        END $$";

/// What the columns y are: plain ones, or computed from others when they are written, or read.
#[derive(Clone, Copy)]
enum Computed {
    No,
    Stored(&'static str),
    Virtual(&'static str),
}

impl Computed {
    fn draw(rng: &mut Rng, major: u32) -> Self {
        // NULL for NULL, or not.
        let expression =
            ["7 - w", "CASE WHEN w = 5 THEN NULL ELSE COALESCE(w, 5) END"][rng.usize(0..2)];
        match rng.u8(0..6) {
            0..3 => Self::No,
            3 | 4 if major >= 18 => Self::Virtual(expression),
            _ => Self::Stored(expression),
        }
    }

    /// A statement as it has to be then.
    fn adapt(self, statement: &str) -> String {
        let (expression, kind) = match self {
            Self::No => return statement.replace(":y", "y"),
            Self::Stored(expression) => (expression, "STORED"),
            Self::Virtual(expression) => (expression, "VIRTUAL"),
        };
        let column = format!("w int, y int GENERATED ALWAYS AS ({expression}) {kind}");
        statement.replace("y int", &column).replace(":y", "w")
    }
}

struct Case<'a> {
    rng: Rng,
    script: Script<'a>,
    query: Query,
    computed: Computed,
    /// Delta is possible for the view.
    mappable: bool,
    /// The view has a proof, and all that has changed since has changed row by row.
    known: bool,
    other: &'a mut Session,
    /// The other session is in a transaction.
    open: bool,
}

impl<'a> Case<'a> {
    fn create(session: &'a mut Session, other: &'a mut Session, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let query = Query::draw(&mut rng);
        let computed = Computed::draw(&mut rng, Installation::get().major());
        let mut script = Script::new(session, seed);
        script.run(&computed.adapt(CREATE));
        for table in 0..3 {
            for _ in 0..rng.usize(0..30) {
                let insert = writes::insert(&mut rng, table);
                script.run(&computed.adapt(&writes::attempt(&insert)));
            }
        }
        script.run(&format!("CREATE MATERIALIZED VIEW v AS {}", query.text));
        for column in &query.indexed {
            script.run(&format!("CREATE INDEX ON v ({column})"));
        }
        if query.indexed.len() > 1 {
            script.run(&format!("CREATE INDEX ON v ({})", query.indexed.join(", ")));
        }
        // Where everything seems to be expensive, rows are looked for by more than one column, or key by key.
        let cost = if rng.bool() { "1000" } else { "DEFAULT" };
        script.run(&format!("SET cpu_tuple_cost = {cost}; SET cpu_operator_cost = {cost}"));
        script.run(
            "SELECT cache_refresher.register('v', refresh_interval => '1 year', on_change => true,
                                             debounce => '1 hour', max_staleness => '1 hour')",
        );
        let mappable: bool = script
            .session
            .get("SELECT possible FROM cache_refresher.explain('v') WHERE method = 'delta'");
        let plain = query.is_plain() && !matches!(computed, Computed::Virtual(_));
        assert!(mappable || !plain, "no delta is possible for {}", query.text);
        Self { rng, script, query, computed, mappable, known: false, other, open: false }
    }

    fn round(&mut self, tally: &mut Tally) {
        self.write();
        let reads_view = query::reads_view(&self.query.text);
        if reads_view {
            self.refresh_the_view_it_reads();
        }
        if self.rng.u8(0..3) == 0 {
            self.script.run("BEGIN");
            self.refresh(tally);
            (0..self.rng.usize(0..4)).for_each(|_| self.meanwhile());
            let end = if self.rng.u8(0..4) == 0 { "ROLLBACK" } else { "COMMIT" };
            self.script.run(end);
            self.known |= end == "COMMIT";
            return;
        }
        self.refresh(tally);
        self.known = true;
        // The materialized view shows what it did when that was refreshed.
        if !self.open && !reads_view {
            let staleness: String = self
                .script
                .session
                .get("SELECT staleness FROM cache_refresher.status WHERE view_name = 'v'");
            assert_eq!(staleness, "fresh");
        }
    }

    /// A transaction, with what the other session does between its statements.
    fn write(&mut self) {
        // What happens to one table alone is not hidden by what happens to the others.
        let only = self.rng.bool().then(|| self.rng.usize(0..TABLES));
        self.script.run("BEGIN");
        self.statements(only);
        if self.rng.u8(0..3) == 0 {
            self.script.run("SAVEPOINT s");
            self.statements(only);
            let end =
                if self.rng.bool() { "ROLLBACK TO SAVEPOINT s" } else { "RELEASE SAVEPOINT s" };
            self.script.run(end);
        }
        self.statements(only);
        self.script.run(if self.rng.u8(0..8) == 0 { "ROLLBACK" } else { "COMMIT" });
    }

    fn statements(&mut self, only: Option<usize>) {
        for _ in 0..self.rng.usize(0..4) {
            self.meanwhile();
            let statement = writes::statement(&mut self.rng, only, !self.open);
            self.known &= !statement.contains("TRUNCATE");
            self.script.run(&self.computed.adapt(&statement));
        }
    }

    /// What the other session does next, which may be nothing.
    fn meanwhile(&mut self) {
        let statement = match (self.open, self.rng.u8(0..8)) {
            (false, 0) => format!("BEGIN; {}", writes::of_another(&mut self.rng)),
            (true, 0) => "ROLLBACK".to_owned(),
            (true, 1 | 2) => "COMMIT".to_owned(),
            (true, 3..6) => writes::of_another(&mut self.rng),
            _ => return,
        };
        let statement = self.computed.adapt(&statement);
        self.script.run(&format!("/* the other session: {statement} */"));
        self.other.run(&statement);
        self.open = !["ROLLBACK", "COMMIT"].contains(&statement.as_str());
    }

    fn refresh_the_view_it_reads(&mut self) {
        let (refresh, row_by_row) = match self.rng.u8(0..8) {
            0 => ("REFRESH MATERIALIZED VIEW m0", false),
            1 => ("SELECT cache_refresher.refresh('m0', method => 'full')", false),
            2..7 => ("SELECT cache_refresher.refresh('m0', method => 'diff')", true),
            _ => return,
        };
        self.script.run(refresh);
        self.known &= row_by_row;
    }

    /// Refreshes the view, by delta or as it is registered, and compares it with its query.
    fn refresh(&mut self, tally: &mut Tally) {
        let asked = self.rng.u8(0..4) > 0;
        let method = if asked { ", method => 'delta'" } else { "" };
        let refresh = format!("SELECT method, reason FROM cache_refresher.refresh('v'{method})");
        self.script.run(&format!("-- {refresh}"));
        let row = self.script.session.row(&refresh);
        let (method, reason): (String, String) = (row.get(0), row.get(1));
        let query = format!("({})", self.query.text);
        if let Some(difference) = self.script.session.difference("v", &query) {
            panic!(
                "after {method}, {reason}, the view (-) is not what its query returns (+):\n{difference}"
            );
        }
        let could_be = asked && self.mappable && self.known && method != "skip";
        assert!(
            method == "delta" || !could_be || !self.query.is_plain(),
            "this should have been delta, not {method}, {reason}"
        );
        tally.add_round(&method, &reason, could_be);
    }

    fn end(mut self) {
        if self.open {
            self.other.run("ROLLBACK");
        }
        self.script.run("SELECT cache_refresher.unregister('v')");
    }
}

#[test]
fn a_view_refreshed_by_changes_shows_what_its_query_returns() {
    let mut db = Scratch::new("delta_drawn");
    let mut other = db.connect();
    other.run("SET search_path = drawn, public");
    let mut tally = Tally::default();
    for seed in seeds(cases()) {
        let mut case = Case::create(&mut db, &mut other, seed);
        tally.add_case(case.mappable);
        for _ in 0..12 {
            case.round(&mut tally);
        }
        case.end();
    }
    tally.print();
    tally.assert_that_much_was_delta();
}

/// More by hand: `CACHE_REFRESHER_CASES=5000`.
fn cases() -> u64 {
    std::env::var("CACHE_REFRESHER_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(120)
}
