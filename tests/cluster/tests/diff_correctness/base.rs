//! The tables that a drawn view reads, and random changes to them.
//!
//! Rows are computed by the server from numbers, so a case is a few statements however many rows it
//! has. `n` is the number that a row's key columns spell, different in all rows; `serial` says for
//! good which row it is; `u` is different in all rows too and has nothing to do with the key.

use fastrand::Rng;

use crate::draw;
use crate::types::Type;

/// Larger key numbers are too much for some types.
const LARGEST_MOVED: i64 = 100_000;

/// When a key column is NULL.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Nulls {
    Never,
    /// In any row, so that keys may be the same.
    Anywhere,
    /// For one of its key numbers: a value like others, and keys remain different.
    AsValue,
}

/// A key column, which spells a part of the key number.
pub struct KeyColumn {
    pub name: String,
    pub ty: Type,
    pub nulls: Nulls,
    /// How many numbers this part has; the first part has the rest.
    radix: i64,
}

/// A column with a few values that come again and again.
pub struct Payload {
    pub name: String,
    pub ty: Type,
    pub values: Vec<String>,
}

/// The tables `base`, `other` and `shuffle`.
pub struct Base {
    pub key: Vec<KeyColumn>,
    pub payload: Vec<Payload>,
    next_serial: i64,
    next_n: i64,
}

/// A number that makes one statement's draws differ from another's.
fn salt(rng: &mut Rng) -> i64 {
    rng.i64(1..1_000_000_000)
}

/// SQL that is true of one in so many rows.
fn of_one_in(rng: &mut Rng, row: &str, choices: &[i64]) -> String {
    format!("public.pick({row}, {}, {}) = 1", salt(rng), draw::one(rng, choices))
}

impl KeyColumn {
    /// SQL for the column's value in the row `row` with key number `n`.
    fn value(&self, n: &str, row: &str, salt: i64) -> String {
        let expression = self.ty.key.expect("a key column has a type with a form for keys");
        let spelled =
            expression.replace("{n}", n).replace("{v}", &format!("public.pick({row}, {salt}, 3)"));
        match self.nulls {
            Nulls::Never => spelled,
            Nulls::Anywhere => {
                format!("CASE WHEN public.pick({row}, {salt} + 1, 5) > 1 THEN {spelled} END")
            }
            Nulls::AsValue => format!("CASE WHEN {n} <> 1 THEN {spelled} END"),
        }
    }

    /// Some values, as expressions.
    pub fn samples(&self) -> Vec<String> {
        (1..4)
            .map(|n| format!("({})::{}", self.value(&format!("{n}::int8"), "7", 1), self.ty.name))
            .collect()
    }
}

impl Base {
    /// Draws the columns: up to three for the key, two to six others. With `strict`, only types whose
    /// values are the same when they are equal.
    pub fn draw(rng: &mut Rng, types: &[Type], strict: bool) -> Self {
        let keyed: Vec<Type> =
            types.iter().filter(|ty| ty.key.is_some() && !(strict && ty.loose)).copied().collect();
        let unlimited: Vec<Type> = keyed.iter().filter(|ty| ty.limit.is_none()).copied().collect();
        let nulls = *draw::one(rng, &[Nulls::Never, Nulls::Anywhere, Nulls::AsValue]);
        let key = (0..rng.usize(1..=3))
            .map(|part| {
                let ty = *draw::one(rng, if part == 0 { &unlimited } else { &keyed });
                KeyColumn {
                    name: format!("k{part}"),
                    ty,
                    nulls: if part == 0 || rng.bool() { nulls } else { Nulls::Never },
                    radix: rng.i64(2..40).min(ty.limit.unwrap_or(i64::MAX)),
                }
            })
            .collect();
        let payload = (0..rng.usize(2..=6))
            .map(|number| {
                let ty = *draw::one(rng, types);
                let mut values = ty.values();
                rng.shuffle(&mut values);
                values.truncate(rng.usize(2..=5));
                if rng.bool() {
                    values.push("NULL".into());
                }
                Payload { name: format!("p{number}"), ty, values }
            })
            .collect();
        Self { key, payload, next_serial: 1, next_n: 0 }
    }

    /// Whether some column holds long values.
    pub fn is_large(&self) -> bool {
        self.payload.iter().any(|column| column.ty.large)
    }

    /// The statements that make the tables, without rows in `base`.
    pub fn create(&self) -> String {
        let keys = self.key.iter().map(|column| (&column.name, &column.ty));
        let payload = self.payload.iter().map(|column| (&column.name, &column.ty));
        let columns: String = keys
            .chain(payload)
            .map(|(name, ty)| format!(",\n  {name} {}", ty.declaration()))
            .collect();
        format!(
            "CREATE TABLE base (
               serial bigint PRIMARY KEY,
               attic text DEFAULT 'to be dropped',
               n bigint NOT NULL UNIQUE DEFERRABLE,
               u bigint NOT NULL UNIQUE DEFERRABLE,
               flag boolean NOT NULL, ref integer, val integer, tag text{columns});
             CREATE TABLE other (id integer PRIMARY KEY, label text, amount integer);
             INSERT INTO other SELECT i, 'label ' || i % 7, i % 3 FROM generate_series(1, 50) i;
             CREATE TABLE shuffle (salt bigint NOT NULL);
             INSERT INTO shuffle VALUES (1)"
        )
    }

    /// Adds up to `count` rows, whose key numbers begin at `from` where they are free.
    fn insert_from(&mut self, rng: &mut Rng, from: i64, count: i64) -> String {
        let salt = salt(rng);
        let keys =
            self.keys("g.n", "g.serial", salt).into_iter().map(|(name, _, value)| (name, value));
        let payload = self
            .payload
            .iter()
            .zip(salt..)
            .map(|(column, salt)| (column.name.clone(), column.draw("g.serial", salt + 100)));
        let (names, values): (Vec<_>, Vec<_>) = keys.chain(payload).unzip();
        let first = self.next_serial;
        self.next_serial += count;
        self.next_n = self.next_n.max(from + count);
        let order = if rng.bool() { "g.n" } else { "public.pick(g.n, 5, 1000000), g.n" };
        format!(
            "INSERT INTO base (serial, n, u, flag, ref, val, tag, {})
             SELECT g.serial, g.n, g.serial * 7919 % 1000003,
                 public.pick(g.serial, {salt} + 1, 4) > 1,
                 public.pick(g.serial, {salt} + 2, 60),
                 public.pick(g.serial, {salt} + 3, 100) - 50,
                 'tag ' || public.pick(g.serial, {salt} + 4, 9),
                 {}
             FROM (SELECT {first} + i AS serial, {from} + i AS n
                   FROM generate_series(0::bigint, {count} - 1) i) g
             WHERE NOT EXISTS (SELECT FROM base b WHERE b.n = g.n)
             ORDER BY {order}",
            names.join(", "),
            values.join(",\n                 ")
        )
    }

    /// Adds up to `count` rows.
    pub fn insert(&mut self, rng: &mut Rng, count: i64) -> String {
        let from = rng.i64(0..=self.next_n);
        self.insert_from(rng, from, count)
    }

    /// Name, part of the key number, and value of each key column.
    fn keys(&self, n: &str, row: &str, salt: i64) -> Vec<(String, String, String)> {
        let mut divisor: i64 = self.key[1..].iter().map(|column| column.radix).product();
        let mut keys = Vec::new();
        for (part, column) in self.key.iter().enumerate() {
            let number = if part == 0 {
                format!("({n} / {divisor})")
            } else {
                divisor /= column.radix;
                format!("({n} / {divisor} % {})", column.radix)
            };
            let value = column.value(&number, row, salt + 10 * (1 + part as i64));
            keys.push((column.name.clone(), number, value));
        }
        keys
    }

    /// `k0 = …, k1 = …`
    fn set_keys(&self, n: &str, row: &str, salt: i64) -> String {
        let keys: Vec<String> = self
            .keys(n, row, salt)
            .into_iter()
            .map(|(name, _, value)| format!("{name} = {value}"))
            .collect();
        keys.join(", ")
    }

    /// One random statement that writes.
    pub fn change(&mut self, rng: &mut Rng) -> String {
        match rng.u32(0..20) {
            0..=3 => {
                let count = *draw::one(rng, &[1, 10, 100, 400]);
                let count = if self.is_large() { count.min(50) } else { count };
                self.insert(rng, count)
            }
            4..=7 => self.update_payload(rng),
            8 => self.update_hidden(rng),
            9 | 10 => self.respell_keys(rng),
            11 if self.next_n < LARGEST_MOVED => self.move_keys(rng),
            11 | 12 => self.rotate(rng, "n"),
            13 => self.rotate(rng, "u"),
            14 | 15 => format!("DELETE FROM base WHERE {}", of_one_in(rng, "serial", &[2, 5, 20])),
            16 => "TRUNCATE base".into(),
            17 => change_other(rng),
            18 => format!("UPDATE shuffle SET salt = {}", salt(rng)),
            _ => (*draw::one(rng, ALTERATIONS)).into(),
        }
    }

    fn update_payload(&self, rng: &mut Rng) -> String {
        let wanted = rng.usize(1..=self.payload.len());
        let salt = salt(rng);
        let columns: Vec<String> = draw::some(rng, &self.payload, wanted)
            .into_iter()
            .zip(salt..)
            .map(|(column, salt)| format!("{} = {}", column.name, column.draw("serial", salt)))
            .collect();
        let rows = of_one_in(rng, "serial", &[1, 3, 10, 100]);
        format!("UPDATE base SET {} WHERE {rows}", columns.join(", "))
    }

    /// What only joins, filters and aggregates see.
    fn update_hidden(&self, rng: &mut Rng) -> String {
        let salt = salt(rng);
        let change = *draw::one(
            rng,
            &["flag = NOT flag", "ref = {r}", "val = {r}", "tag = tag || 'x'", "tag = tag"],
        );
        let change = change.replace("{r}", &format!("public.pick(serial, {salt}, 60)"));
        format!("UPDATE base SET {change} WHERE {}", of_one_in(rng, "serial", &[1, 4, 20]))
    }

    /// The same keys, spelled otherwise where the type lets one.
    fn respell_keys(&self, rng: &mut Rng) -> String {
        let keys = self.set_keys("n", "serial", salt(rng));
        format!("UPDATE base SET {keys} WHERE {}", of_one_in(rng, "serial", &[1, 3, 10]))
    }

    /// New keys for old rows.
    fn move_keys(&mut self, rng: &mut Rng) -> String {
        let n = format!("(n + {})", self.next_n);
        self.next_n *= 2;
        let keys = self.set_keys(&n, "serial", salt(rng));
        format!("UPDATE base SET n = {n}, {keys} WHERE {}", of_one_in(rng, "serial", &[1, 3, 10]))
    }

    /// Each of some rows takes the value of the next: a swap if it is two.
    fn rotate(&self, rng: &mut Rng, column: &str) -> String {
        let keys = match column {
            "n" => format!(", {}", self.set_keys("s.next", "b.serial", salt(rng))),
            _ => String::new(),
        };
        let limit = *draw::one(rng, &[2, 3, 50, 5000]);
        let order = salt(rng);
        format!(
            "UPDATE base b SET {column} = s.next{keys}
             FROM (SELECT serial AS id, coalesce(lead({column}) OVER w, first_value({column}) OVER w) AS next
                   FROM (SELECT * FROM base ORDER BY public.pick(serial, {order}, 1000000), serial LIMIT {limit}) c
                   WINDOW w AS (ORDER BY n)) s
             WHERE s.id = b.serial"
        )
    }
}

impl Payload {
    /// SQL for one of the values.
    fn draw(&self, row: &str, salt: i64) -> String {
        let cases: String = self
            .values
            .iter()
            .zip(1..)
            .map(|(value, number)| format!(" WHEN {number} THEN {value}"))
            .collect();
        format!("CASE public.pick({row}, {salt}, {}){cases} END", self.values.len())
    }
}

/// Changes of a table's shape that leave the rows that a view shows alone.
const ALTERATIONS: &[&str] = &[
    "ALTER TABLE base DROP COLUMN IF EXISTS attic",
    "ALTER TABLE base ADD COLUMN IF NOT EXISTS annex double precision DEFAULT random()",
    "ANALYZE base",
    "ANALYZE other",
];

fn change_other(rng: &mut Rng) -> String {
    let some = of_one_in(rng, "id", &[1, 5, 20]);
    match rng.u32(0..4) {
        0 => format!("DELETE FROM other WHERE {some}"),
        1 => "INSERT INTO other SELECT i, 'new ' || i % 5, i FROM generate_series(1, 50) i ON CONFLICT DO NOTHING".into(),
        _ => format!("UPDATE other SET label = label || '+', amount = amount + 1 WHERE {some}"),
    }
}
