//! What users of a view notice of a diff, and what they do not.

mod bags;
mod interruptions;
mod keys;
mod locks;
mod memory;
mod order;
mod progress;
mod readers;
mod scattered;
mod slow;
mod surroundings;
mod writes;

use cluster_tests::{Counts, Session};

/// The counts of a refresh after which the view has so many rows.
const fn counts(total: i64, inserted: i64, updated: i64, deleted: i64) -> Counts {
    Counts { total, inserted, updated, deleted }
}

/// The rows of a view and where they lie, for `undisturbed`.
fn remember_rows(db: &mut Session, view: &str) {
    db.run(&format!(
        "DROP TABLE IF EXISTS remembered;
         CREATE TEMPORARY TABLE remembered AS
             SELECT v::text AS shown, ctid::text AS place, xmin::text AS writer FROM {view} v"
    ));
}

/// How many rows are where they were, as they were, written by whom they were.
fn undisturbed(db: &mut Session, view: &str) -> i64 {
    db.get(&format!(
        "SELECT count(*) FROM {view} v JOIN remembered r
             ON (v::text, v.ctid::text, v.xmin::text) = (r.shown, r.place, r.writer)"
    ))
}
