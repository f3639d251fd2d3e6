//! Statements that are drawn: rows come, change and go. What they write of y, they write to `:y`.

use fastrand::Rng;

use crate::TABLES;

/// NULL or one of a few numbers, so that much of it meets.
fn number(rng: &mut Rng) -> String {
    if rng.u8(0..6) == 0 { "NULL".to_owned() } else { rng.u8(0..7).to_string() }
}

fn text(rng: &mut Rng) -> String {
    match rng.u8(0..4) {
        0 => "NULL".to_owned(),
        1 => "'a'".to_owned(),
        2 => "'b'".to_owned(),
        _ => format!("'{}'", rng.alphabetic()),
    }
}

pub fn insert(rng: &mut Rng, table: usize) -> String {
    let (id, x, y, z) = (number(rng), number(rng), number(rng), text(rng));
    let or = if table == 3 { " ON CONFLICT (id) DO UPDATE SET :y = excluded.:y" } else { "" };
    format!("INSERT INTO t{table} (id, x, :y, z) VALUES ({id}, {x}, {y}, {z}){or}")
}

fn condition(rng: &mut Rng) -> String {
    let column = ["id", "x", "y"][rng.usize(0..3)];
    match rng.u8(0..4) {
        0 => format!("{column} IS NULL"),
        1 => format!("{column} = {} AND z = 'a'", rng.u8(0..7)),
        _ => format!("{column} = {}", rng.u8(0..7)),
    }
}

fn drawn(rng: &mut Rng, truncate: bool, only: Option<usize>) -> String {
    let table = only.unwrap_or_else(|| rng.usize(0..TABLES));
    match rng.u8(0..20) {
        0 if truncate && rng.u8(0..4) == 0 => format!("TRUNCATE t{table} CASCADE"),
        1 if truncate && rng.u8(0..4) == 0 => "TRUNCATE t2_low".to_owned(),
        0..8 => insert(rng, table),
        8..12 => format!("DELETE FROM t{table} WHERE {}", condition(rng)),
        12 => {
            let (z, condition) = (text(rng), condition(rng));
            format!("UPDATE t{table} SET z = {z} WHERE {condition}")
        }
        13 => format!(
            "MERGE INTO t0 USING (SELECT DISTINCT id FROM t1 WHERE id < 3) s ON t0.id = s.id
             WHEN MATCHED THEN UPDATE SET :y = t0.y + 1
             WHEN NOT MATCHED THEN INSERT (id, x) VALUES (s.id, {})",
            number(rng)
        ),
        _ => {
            let column = ["id", "x", ":y"][rng.usize(0..3)];
            let (value, condition) = (number(rng), condition(rng));
            format!("UPDATE t{table} SET {column} = {value} WHERE {condition}")
        }
    }
}

/// A statement that leaves everything as it is where a constraint or a lock is against it.
pub fn attempt(statement: &str) -> String {
    format!("SELECT attempt($statement${statement}$statement$)")
}

/// A statement, of one table if that is given; `alone` says whether the other session is in no transaction.
pub fn statement(rng: &mut Rng, only: Option<usize>, alone: bool) -> String {
    let statement = drawn(rng, true, only);
    // Nothing can be against these: t0 has no constraints, and what goes takes with it what refers to it.
    let free = ["INSERT INTO t0 ", "UPDATE t0 ", "MERGE ", "DELETE ", "TRUNCATE "];
    if alone && free.iter().any(|begin| statement.starts_with(begin)) {
        statement
    } else {
        attempt(&statement)
    }
}

/// A statement of the session that never keeps others from reading.
pub fn of_another(rng: &mut Rng) -> String {
    let statement = drawn(rng, false, None);
    attempt(&statement)
}
