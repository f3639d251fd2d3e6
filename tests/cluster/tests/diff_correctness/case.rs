//! One drawn case: tables, a view with indexes, and rounds of changes, each followed by a diff.

use cluster_tests::{Counts, Script, Session};
use fastrand::Rng;

use crate::base::Base;
use crate::draw;
use crate::indexes::{self, Index};

use crate::types::Type;
use crate::view::{Family, View};

/// In a schema of its own, which is left for the next case to drop.
const BEGIN: &str = "DROP SCHEMA IF EXISTS drawn CASCADE;
    CREATE SCHEMA drawn";

const SEARCH_PATH: &str = "SET search_path = drawn, public";

/// Settings that change in which order rows come and where they are kept, one of each line.
const SETTINGS: &[&[&str]] = &[
    &["work_mem = '64kB'", "work_mem = '64kB'", "work_mem = '4MB'", "work_mem = '64MB'"],
    &["enable_hashagg = on", "enable_hashagg = off"],
    &["enable_hashjoin = on", "enable_hashjoin = off"],
    &["enable_mergejoin = on", "enable_mergejoin = off"],
    &["enable_seqscan = on", "enable_seqscan = off"],
    &["enable_sort = on", "enable_sort = off"],
    &["enable_incremental_sort = on", "enable_incremental_sort = off"],
    &[
        "parallel_leader_participation = on",
        "min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0",
    ],
    &["enable_parallel_hash = on", "parallel_leader_participation = off"],
];

struct Case<'a> {
    rng: Rng,
    script: Script<'a>,
    base: Base,
    view: View,
    indexes: Vec<Index>,
    /// How many rows the view had after the diff before.
    rows: i64,
}

/// Draws a case and runs it; panics where the view is not what its query returns.
pub fn run(session: &mut Session, seed: u64, family: Family, types: &[Type]) {
    let mut case = Case::create(session, seed, family, types);
    for _ in 0..case.rng.usize(1..=4) {
        case.round();
    }
}

impl<'a> Case<'a> {
    fn create(session: &'a mut Session, seed: u64, family: Family, types: &[Type]) -> Self {
        let mut rng = Rng::with_seed(seed);
        let strict = matches!(family, Family::Grouped);
        let mut base = Base::draw(&mut rng, types, strict);
        let view = View::draw(&mut rng, &base, family);
        let unique = indexes::draw_unique(&mut rng, &view);
        let others = indexes::draw_others(&mut rng, &view);
        let size = *draw::one(&mut rng, &[0, 1, 2, 30, 30, 300, 300, 3000]);
        let size = if base.is_large() { rng.i64(0..=size.min(300)) } else { rng.i64(0..=size) };

        let mut script = Script::new(session, seed);
        script.run(BEGIN);
        script.run(SEARCH_PATH);
        script.run(&base.create());
        script.run(&base.insert(&mut rng, size));
        let fill = *draw::one(&mut rng, &["", " WITH (fillfactor = 50)"]);
        script.run(&format!("CREATE MATERIALIZED VIEW v{fill} AS {}", view.query));
        script.run(&format!("CREATE MATERIALIZED VIEW twin AS {}", view.query));
        for output in view.outputs.iter().filter(|output| output.ty.large) {
            let storage = draw::one(&mut rng, &["EXTENDED", "EXTERNAL", "MAIN"]);
            let name = &output.name;
            script.run(&format!("ALTER MATERIALIZED VIEW v ALTER {name} SET STORAGE {storage}"));
        }
        for statement in unique.iter().chain(others.iter().map(|index| &index.statement)) {
            script.run(statement);
        }
        let rows = script.session.get("SELECT count(*) FROM v");
        Self { rng, script, base, view, indexes: others, rows }
    }

    fn round(&mut self) {
        match self.rng.u32(0..10) {
            0 | 1 => self.in_one_transaction(),
            2 => {
                self.change();
                self.rolled_back_first();
            }
            3 | 4 => {
                self.script.run("VACUUM v");
                self.change();
                self.diff();
            }
            _ => {
                self.change();
                self.diff();
            }
        }
        self.check_content();
        self.draw_settings();
        let again = self.diff();
        assert_eq!(again, Counts::unchanged(self.rows), "a second diff has nothing to do");
        self.script.session.assert_sound("v");
        self.check_indexes();
    }

    /// Rows that the same transaction has written before are written again.
    fn in_one_transaction(&mut self) {
        self.script.run("BEGIN");
        for _ in 0..2 {
            self.change();
            self.diff();
            self.check_content();
        }
        self.script.run("COMMIT");
    }

    /// Leaves dead rows and index entries behind for the diff that follows.
    fn rolled_back_first(&mut self) {
        let rows = self.rows;
        self.script.run("BEGIN");
        self.diff();
        self.script.run("ROLLBACK");
        self.rows = rows;
        self.diff();
    }

    fn change(&mut self) {
        for _ in 0..self.rng.usize(1..=5) {
            let statement = self.base.change(&mut self.rng);
            self.script.run(&statement);
        }
        if draw::once_in(&mut self.rng, 4) {
            let statement = self.base.insert(&mut self.rng, 20);
            self.script.run(&statement);
        }
        self.draw_settings();
    }

    fn draw_settings(&mut self) {
        let drawn: String = SETTINGS
            .iter()
            .map(|choices| format!("SET {};\n", draw::one(&mut self.rng, choices)))
            .collect();
        self.script.run(&format!("RESET ALL;\n{SEARCH_PATH};\n{drawn}"));
    }

    fn diff(&mut self) -> Counts {
        let counts = self.script.diff();
        assert_eq!(
            self.rows + counts.inserted - counts.deleted,
            counts.total,
            "rows before, inserted and deleted make up the total: {counts:?}"
        );
        self.rows = counts.total;
        counts
    }

    fn check_content(&mut self) {
        self.script.run("REFRESH MATERIALIZED VIEW twin");
        let session = &mut *self.script.session;
        assert_eq!(session.get::<i64>("SELECT count(*) FROM v"), self.rows, "rows_total");
        if let Some(difference) = session.difference("v", "twin") {
            panic!("the view (-) is not what REFRESH makes of it (+):\n{difference}");
        }
        let shown = self.view.comparable("v");
        let returned = self.view.comparable(&format!("({})", self.view.query));
        let wrong: i64 = session.get(&format!(
            "SELECT (SELECT count(*) FROM ({shown} EXCEPT ALL {returned}) extra)
                  + (SELECT count(*) FROM ({returned} EXCEPT ALL {shown}) missing)"
        ));
        assert_eq!(wrong, 0, "rows that only the view or only its query has");
    }

    /// What each index finds is what a scan finds.
    fn check_indexes(&mut self) {
        let session = &mut *self.script.session;
        for Index { statement, condition } in &self.indexes {
            let query = format!("SELECT count(*) FROM v WHERE {condition}");
            session.run(&format!("RESET ALL; {SEARCH_PATH}; SET enable_seqscan = off"));
            let plan = plan_of(session, &query);
            assert!(!plan.contains("Seq Scan"), "{query}\n{plan}");
            let found: i64 = session.get(&query);
            session.run(
                "SET enable_seqscan = on; SET enable_bitmapscan = off;
                 SET enable_indexscan = off; SET enable_indexonlyscan = off",
            );
            let present: i64 = session.get(&query);
            assert_eq!(found, present, "{statement}\n{query}\n{plan}");
        }
    }
}

fn plan_of(session: &mut Session, query: &str) -> String {
    let lines: Vec<String> = session
        .query(&format!("EXPLAIN (COSTS OFF) {query}"), &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    lines.join("\n")
}
