//! The queries of TPC-H as materialized views, under changes like those of its refresh streams: after each
//! refresh by captured changes a view holds what its query returns, and those are refreshed by delta of which
//! `docs/incremental.md` says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use cluster_tests::{Scratch, Session, seeds};
use fastrand::Rng;

const SCHEMA: &str = include_str!("schema.sql");
const QUERIES: &str = include_str!("queries.sql");
const PAGE: &str = include_str!("../../../../docs/incremental.md");

struct View {
    name: String,
    /// The column of its index.
    column: String,
    query: String,
}

fn views() -> Vec<View> {
    let parts = QUERIES.split("\n-- q").skip(1);
    parts
        .map(|part| {
            let (head, query) = part.split_once('\n').unwrap();
            let (number, column) = head.split_once(' ').unwrap();
            let column = column.trim_matches(['(', ')']).to_owned();
            View { name: format!("q{number}"), column, query: query.trim().to_owned() }
        })
        .collect()
}

/// How many kinds of change there are.
const KINDS: u8 = 12;
const ROUNDS: u32 = 6;

/// One transaction: orders come or go with their items, or something about one of the other tables changes.
fn change(rng: &mut Rng, kind: u8, next_order: &mut i32) -> String {
    let order = rng.i32(1..*next_order);
    let (part, supplier, customer) = (rng.i32(1..=200), rng.i32(1..=20), rng.i32(1..=150));
    match kind {
        0..3 => {
            let many = rng.i32(1..5);
            *next_order += many;
            format!("CALL add_orders({}, {many})", *next_order - many)
        }
        3..6 => format!("DELETE FROM orders WHERE o_orderkey BETWEEN {order} AND {order} + 3"),
        6 => format!(
            "UPDATE lineitem SET l_quantity = l_quantity + 1, l_receiptdate = l_receiptdate + 9 WHERE l_orderkey = {order}"
        ),
        7 => format!(
            "UPDATE partsupp SET ps_availqty = ps_availqty / 2, ps_supplycost = ps_supplycost + 1 WHERE ps_partkey = {part}"
        ),
        8 => format!(
            "UPDATE supplier SET s_nationkey = (s_nationkey + 1) % 10, s_acctbal = s_acctbal + 5 WHERE s_suppkey = {supplier}"
        ),
        9 => format!(
            "UPDATE customer SET c_nationkey = (c_nationkey + 3) % 10, c_acctbal = c_acctbal - 700 WHERE c_custkey = {customer}"
        ),
        10 => format!(
            "UPDATE part SET p_size = 15, p_type = 'ECONOMY PLATED BRASS' WHERE p_partkey = {part}"
        ),
        _ => format!(
            "UPDATE orders SET o_orderstatus = 'F', o_orderpriority = '1-URGENT' WHERE o_orderkey = {order}"
        ),
    }
}

#[test]
fn the_queries_of_tpch_are_refreshed_by_changes() {
    let mut db = Scratch::new("tpch");
    let mut methods: BTreeMap<String, u32> = BTreeMap::new();
    let mut by_delta: BTreeSet<String> = BTreeSet::new();
    for seed in seeds(cases()) {
        let mut rng = Rng::with_seed(seed);
        let server_seed = rng.f64();
        db.run(&format!("DROP SCHEMA IF EXISTS tpch CASCADE; CREATE SCHEMA tpch; SET search_path = tpch, public;
                         SELECT setseed({server_seed})"));
        db.run(SCHEMA);
        let views = views();
        assert_eq!(views.len(), 22);
        for View { name, column, query } in &views {
            db.run(&format!(
                "CREATE MATERIALIZED VIEW {name} AS {query};
                 CREATE INDEX ON {name} ({column});
                 SELECT cache_refresher.register('{name}', refresh_interval => '1 year', on_change => true,
                                                 debounce => '1 hour', max_staleness => '1 hour')"
            ));
        }
        let mut next_order = 1501;
        for round in 1..=ROUNDS {
            // In the end each query has seen changes of all that it reads.
            let kinds: Vec<u8> = match round {
                ROUNDS => (0..KINDS).collect(),
                _ => (0..rng.usize(1..4)).map(|_| rng.u8(0..KINDS)).collect(),
            };
            for kind in kinds {
                let change = change(&mut rng, kind, &mut next_order);
                println!("round {round}: {change}");
                db.run(&change);
            }
            for view in &views {
                let how = check(&mut db, view);
                if how.starts_with("delta ") {
                    by_delta.insert(view.name.clone());
                }
                let how = how.split(" concern").next().unwrap_or_default();
                *methods.entry(format!("{}: {how}", view.name)).or_default() += 1;
            }
        }
        compare_with_the_page(&mut db, &views);
        for View { name, .. } in &views {
            db.run(&format!("SELECT cache_refresher.unregister('{name}')"));
        }
    }
    for (how, count) in &methods {
        println!("{count:6} {how}");
    }
    for View { name, column, .. } in views() {
        let listed = PAGE.contains(&format!("| {} | by `{column}` |", &name[1..]));
        assert_eq!(by_delta.contains(&name), listed, "whether {name} was refreshed by delta");
    }
}

/// More by hand: `CACHE_REFRESHER_CASES=100`.
fn cases() -> u64 {
    std::env::var("CACHE_REFRESHER_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1)
}

/// Refreshes a view, compares it with its query, and returns how it was refreshed.
fn check(db: &mut Session, View { name, query, .. }: &View) -> String {
    let how: String = db.get(&format!(
        "SELECT method || ' ' || reason FROM cache_refresher.refresh('{name}', method => 'delta')"
    ));
    if let Some(difference) = db.difference(name, &format!("({query})")) {
        panic!("{name} after {how}, the view (-) is not what its query returns (+):\n{difference}");
    }
    how
}

/// What the page says of each query is what `explain` does.
fn compare_with_the_page(db: &mut Session, views: &[View]) {
    let mut table = String::new();
    for View { name, column, .. } in views {
        let row = db.row(&format!(
            "SELECT possible, reason FROM cache_refresher.explain('{name}') WHERE method = 'delta'"
        ));
        let how = if row.get(0) { format!("by `{column}`") } else { "no".to_owned() };
        let reason: String = if row.get(0) { String::new() } else { row.get(1) };
        writeln!(table, "| {} | {how} | {reason} |", &name[1..]).unwrap();
    }
    assert!(PAGE.contains(&table), "docs/incremental.md should say\n{table}");
}
