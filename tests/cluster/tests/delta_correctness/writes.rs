//! Transactions that are drawn: rows come, change and go.

use fastrand::Rng;

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
    format!("INSERT INTO t{table} (id, x, y, z) VALUES ({id}, {x}, {y}, {z})")
}

fn condition(rng: &mut Rng) -> String {
    let column = ["id", "x", "y"][rng.usize(0..3)];
    match rng.u8(0..4) {
        0 => format!("{column} IS NULL"),
        1 => format!("{column} = {} AND z = 'a'", rng.u8(0..7)),
        _ => format!("{column} = {}", rng.u8(0..7)),
    }
}

fn statement(rng: &mut Rng, truncate: bool, only: Option<usize>) -> String {
    let table = only.unwrap_or_else(|| rng.usize(0..3));
    match rng.u8(0..20) {
        0 if truncate && rng.u8(0..4) == 0 => format!("TRUNCATE t{table}"),
        1 if truncate && rng.u8(0..4) == 0 => "TRUNCATE t2_low".to_owned(),
        0..8 => insert(rng, table),
        8..12 => format!("DELETE FROM t{table} WHERE {}", condition(rng)),
        12 => {
            let (z, condition) = (text(rng), condition(rng));
            format!("UPDATE t{table} SET z = {z} WHERE {condition}")
        }
        13 => format!(
            "MERGE INTO t0 USING (SELECT DISTINCT id FROM t1 WHERE id < 3) s ON t0.id = s.id
             WHEN MATCHED THEN UPDATE SET y = t0.y + 1
             WHEN NOT MATCHED THEN INSERT (id, x) VALUES (s.id, {})",
            number(rng)
        ),
        _ => {
            let column = ["id", "x", "y"][rng.usize(0..3)];
            let (value, condition) = (number(rng), condition(rng));
            format!("UPDATE t{table} SET {column} = {value} WHERE {condition}")
        }
    }
}

/// One or more transactions. `truncate` says whether nobody else is writing.
pub fn transaction(rng: &mut Rng, truncate: bool) -> String {
    // What happens to one table alone is not hidden by what happens to the others.
    let only = rng.bool().then(|| rng.usize(0..3));
    let statements = |rng: &mut Rng| {
        (0..rng.usize(0..4)).map(|_| statement(rng, truncate, only) + ";\n").collect::<String>()
    };
    let mut text = format!("BEGIN;\n{}", statements(rng));
    if rng.u8(0..3) == 0 {
        let end = if rng.bool() { "ROLLBACK TO SAVEPOINT s" } else { "RELEASE SAVEPOINT s" };
        text += &format!("SAVEPOINT s;\n{}{end};\n", statements(rng));
    }
    text += &statements(rng);
    text += if rng.u8(0..8) == 0 { "ROLLBACK" } else { "COMMIT" };
    text
}
