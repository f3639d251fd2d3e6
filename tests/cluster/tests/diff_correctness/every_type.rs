//! Each value of each type in turn, alone: what random cases leave to chance.

use cluster_tests::{Counts, Scratch, Session};

use crate::types::{self, Type};

/// How many rows the view has, each with another value of each type.
const ROWS: i64 = 3;

/// View `v`, a column `c0`, `c1`, … for each type. Raising a column of `steps` gives that view column
/// the next value in each row and leaves the others alone.
fn create_view(db: &mut Session, types: &[Type]) {
    let steps: Vec<String> =
        (0..types.len()).map(|number| format!("c{number} integer NOT NULL DEFAULT 0")).collect();
    let columns: String = types.iter().enumerate().map(|(number, ty)| column(number, ty)).collect();
    db.run(&format!(
        "CREATE TABLE steps (line integer, {});
         INSERT INTO steps DEFAULT VALUES;
         CREATE MATERIALIZED VIEW v AS
             SELECT id{columns} FROM generate_series(1, {ROWS}) id CROSS JOIN steps",
        steps.join(", ")
    ));
}

fn column(number: usize, ty: &Type) -> String {
    let values = ty.values();
    let cases: String = values
        .iter()
        .enumerate()
        .map(|(choice, value)| format!(" WHEN {choice} THEN {value}"))
        .collect();
    format!(
        ",\n(CASE (id + steps.c{number}) % {}{cases} END){} AS c{number}",
        values.len(),
        ty.collation
    )
}

fn write_each_value(db: &mut Session, expected: Counts) {
    let types = types::available(db);
    create_view(db, &types);
    if expected.updated > 0 {
        db.run("CREATE UNIQUE INDEX ON v (id)");
    }
    assert_eq!(
        db.diff("v"),
        Counts::unchanged(ROWS),
        "nothing has changed since the view was made"
    );
    for (number, ty) in types.iter().enumerate() {
        for step in 1..=ty.values().len() {
            db.run(&format!("UPDATE steps SET c{number} = {step}"));
            assert_eq!(db.diff("v"), expected, "step {step} of {}", ty.declaration());
            db.assert_shows_its_query("v");
            assert_eq!(db.diff("v"), Counts::unchanged(ROWS), "{} is as it was", ty.declaration());
        }
    }
    db.assert_sound("v");
}

#[test]
fn a_change_that_equality_does_not_see_is_written_in_a_view_with_a_key() {
    let mut db = Scratch::new("diff_types_keyed");
    types::create(&mut db);
    write_each_value(&mut db, Counts { total: ROWS, inserted: 0, updated: ROWS, deleted: 0 });
}

#[test]
fn a_change_that_equality_does_not_see_is_written_in_a_view_without_a_key() {
    let mut db = Scratch::new("diff_types_bag");
    types::create(&mut db);
    write_each_value(&mut db, Counts { total: ROWS, inserted: ROWS, updated: 0, deleted: ROWS });
}
