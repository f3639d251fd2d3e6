//! Whatever its query, its columns, its indexes and its history: after a diff a view holds what a
//! plain REFRESH would put there, to the byte, and its indexes are sound.
//!
//! Cases are drawn from a seed, which a failure names: `CACHE_REFRESHER_SEED=… cargo test
//! -p cluster_tests --test diff_correctness NAME` runs that one case again.

mod base;
mod case;
mod draw;
mod every_type;
mod indexes;
mod types;
mod unordered;
mod view;

use cluster_tests::{Scratch, seeds};
use view::Family;

fn run_cases(database: &'static str, cases: u64, family: Family) {
    let mut db = Scratch::new(database);
    types::create(&mut db);
    let types = types::available(&mut db);
    for seed in seeds(cases) {
        case::run(&mut db, seed, family, &types);
    }
}

#[test]
fn a_view_with_a_key_shows_what_its_query_returns() {
    run_cases("diff_keyed", 40, Family::Keyed);
}

#[test]
fn a_view_of_groups_shows_what_its_query_returns() {
    run_cases("diff_grouped", 25, Family::Grouped);
}

#[test]
fn a_view_that_repeats_rows_shows_what_its_query_returns() {
    run_cases("diff_bag", 25, Family::Bag);
}
