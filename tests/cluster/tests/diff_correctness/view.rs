//! Random views over the drawn tables: their query, their columns, and which of these are a key.

use fastrand::Rng;

use crate::base::{Base, Nulls};
use crate::draw;
use crate::types::{INT4, INT8, LARGE_ARRAY, LARGE_TEXT, TEXT, Type};

/// What kind of views a test is about.
#[derive(Clone, Copy)]
pub enum Family {
    /// A row per row of the base table, which can be told by its key.
    Keyed,
    /// Aggregates and DISTINCT.
    Grouped,
    /// Rows that can be the same as others.
    Bag,
}

/// A column that a view shows.
#[derive(Clone)]
pub struct Output {
    pub name: String,
    pub ty: Type,
    /// Values that can be in it, as expressions.
    pub samples: Vec<String>,
    expression: String,
}

/// Columns that differ in all rows.
pub struct KeySet {
    pub columns: Vec<Output>,
    /// Even if one NULL is taken for another.
    pub nulls_equal: bool,
}

/// A view.
pub struct View {
    pub query: String,
    pub outputs: Vec<Output>,
    pub keys: Vec<KeySet>,
}

impl Output {
    fn new(name: &str, expression: &str, ty: Type) -> Self {
        Self { name: name.into(), ty, samples: ty.values(), expression: expression.into() }
    }
}

fn select_list(outputs: &[Output]) -> String {
    let list: Vec<String> =
        outputs.iter().map(|output| format!("{} AS {}", output.expression, output.name)).collect();
    list.join(", ")
}

fn key_columns(base: &Base) -> Vec<Output> {
    base.key
        .iter()
        .map(|column| Output {
            name: column.name.clone(),
            ty: column.ty,
            samples: column.samples(),
            expression: format!("b.{}", column.name),
        })
        .collect()
}

fn payload_columns(base: &Base) -> Vec<Output> {
    base.payload
        .iter()
        .map(|column| Output {
            name: column.name.clone(),
            ty: column.ty,
            samples: column.values.clone(),
            expression: format!("b.{}", column.name),
        })
        .collect()
}

fn joined_columns() -> [Output; 2] {
    [Output::new("label", "o.label", TEXT), Output::new("amount", "o.amount", INT4)]
}

impl View {
    pub fn draw(rng: &mut Rng, base: &Base, family: Family) -> Self {
        match family {
            Family::Keyed => keyed(rng, base),
            Family::Grouped if draw::once_in(rng, 3) => distinct(rng, base),
            Family::Grouped => grouped(rng, base),
            Family::Bag => bag(rng, base),
        }
    }

    /// The view's name, or a query in parentheses, with columns that `EXCEPT` can compare.
    pub fn comparable(&self, relation: &str) -> String {
        let columns: Vec<String> = self
            .outputs
            .iter()
            .map(|output| {
                format!("{}{}", output.name, if output.ty.sortable { "" } else { "::text" })
            })
            .collect();
        format!("SELECT {} FROM {relation} compared", columns.join(", "))
    }
}

/// `FROM base b` with what may come after it; true if `other o` is joined.
fn source(rng: &mut Rng) -> (String, bool) {
    let joins = draw::once_in(rng, 3);
    let kind = if rng.bool() { " LEFT" } else { "" };
    let join = if joins { format!("{kind} JOIN other o ON o.id = b.ref") } else { String::new() };
    let filter = *draw::one(rng, &["", "", " WHERE b.flag", " WHERE b.val > -20"]);
    (format!(" FROM base b{join}{filter}"), joins)
}

/// An order that changes as a whole with the row of `shuffle`.
const SHUFFLED: &str = " ORDER BY hashint8extended(b.serial, (SELECT salt FROM shuffle)), b.serial";

fn keyed(rng: &mut Rng, base: &Base) -> View {
    let key = key_columns(base);
    let nulls_equal = base.key.iter().all(|column| column.nulls != Nulls::Anywhere);
    let mut keys = vec![KeySet { columns: key.clone(), nulls_equal }];
    let mut outputs = key;
    outputs.extend(payload_columns(base));
    let (source, joins) = source(rng);
    if joins {
        outputs.extend(joined_columns());
    }
    if rng.bool() {
        let (unique, ty, nullable) = *draw::one(
            rng,
            &[
                ("b.u", INT8, false),
                ("md5(b.u::text)", TEXT, false),
                ("CASE WHEN b.u % 3 > 0 THEN b.u END", INT8, true),
            ],
        );
        let unique = Output::new("u", unique, ty);
        outputs.push(unique.clone());
        keys.push(KeySet { columns: vec![unique], nulls_equal: !nullable });
    }
    if draw::once_in(rng, 4) {
        let place = Output::new("place", "row_number() OVER (ORDER BY b.n)", INT8);
        outputs.push(place.clone());
        keys.push(KeySet { columns: vec![place], nulls_equal: true });
    }
    rng.shuffle(&mut outputs);
    let order = if rng.bool() { SHUFFLED } else { "" };
    View { query: format!("SELECT {}{source}{order}", select_list(&outputs)), outputs, keys }
}

fn aggregates() -> [Output; 6] {
    [
        Output::new("counted", "count(*)", INT8),
        Output::new("total", "sum(b.val)", INT8),
        Output::new("lowest", "min(b.val)", INT4),
        Output::new("highest", "max(b.val)", INT4),
        Output::new("tags", "string_agg(b.tag, ',' ORDER BY b.serial)", LARGE_TEXT),
        Output::new("serials", "array_agg(b.serial ORDER BY b.serial)", LARGE_ARRAY),
    ]
}

/// Of some columns of the key, or of everything. A NULL is a group like others.
fn grouped(rng: &mut Rng, base: &Base) -> View {
    let columns = key_columns(base);
    let wanted = rng.usize(0..=columns.len());
    let key: Vec<Output> = draw::some(rng, &columns, wanted).into_iter().cloned().collect();
    let shown = rng.usize(1..=6);
    let aggregates = aggregates();
    let mut outputs = key.clone();
    outputs.extend(draw::some(rng, &aggregates, shown).into_iter().cloned());
    rng.shuffle(&mut outputs);
    let (source, _) = source(rng);
    let mut query = format!("SELECT {}{source}", select_list(&outputs));
    let mut keys = Vec::new();
    if !key.is_empty() {
        let columns: Vec<&str> = key.iter().map(|output| output.expression.as_str()).collect();
        let having = if draw::once_in(rng, 3) { " HAVING count(*) > 1" } else { "" };
        query = format!("{query} GROUP BY {}{having}", columns.join(", "));
        keys.push(KeySet { columns: key, nulls_equal: true });
    }
    View { query, outputs, keys }
}

fn distinct(rng: &mut Rng, base: &Base) -> View {
    let columns: Vec<Output> = key_columns(base)
        .into_iter()
        .chain(payload_columns(base))
        .filter(|output| output.ty.sortable && !output.ty.loose && !output.ty.large)
        .collect();
    let wanted = rng.usize(1..=columns.len().min(3));
    let outputs: Vec<Output> = draw::some(rng, &columns, wanted).into_iter().cloned().collect();
    let (source, _) = source(rng);
    let query = format!("SELECT DISTINCT {}{source}", select_list(&outputs));
    let keys = vec![KeySet { columns: outputs.clone(), nulls_equal: true }];
    View { query, outputs, keys }
}

fn bag(rng: &mut Rng, base: &Base) -> View {
    let mut columns = payload_columns(base);
    let wanted = rng.usize(1..=columns.len().min(3));
    rng.shuffle(&mut columns);
    columns.truncate(wanted);
    let (outputs, query) = match rng.u32(0..3) {
        0 => {
            let (source, joins) = source(rng);
            if joins {
                columns.extend(joined_columns());
            }
            let query = format!("SELECT {}{source}", select_list(&columns));
            (columns, query)
        }
        1 => {
            columns.extend(key_columns(base));
            let list = select_list(&columns);
            let query = format!(
                "SELECT {list} FROM base b UNION ALL SELECT {list} FROM base b WHERE b.flag"
            );
            (columns, query)
        }
        _ => {
            columns.extend(joined_columns());
            let query = format!(
                "SELECT {} FROM base b JOIN other o ON o.id BETWEEN b.ref AND b.ref + 1{SHUFFLED}",
                select_list(&columns)
            );
            (columns, query)
        }
    };
    View { query, outputs, keys: Vec::new() }
}
