//! Random indexes on a drawn view, and for each a condition that it answers.

use fastrand::Rng;

use crate::draw;
use crate::types::Type;
use crate::view::{KeySet, Output, View};

/// An index that is to return what a scan of the view does.
pub struct Index {
    pub statement: String,
    pub condition: String,
}

/// A way to index a column `{c}`, and to look for `{value}` with it.
struct Access {
    definition: &'static str,
    condition: &'static str,
    fits: fn(&Type) -> bool,
}

fn is_sortable(ty: &Type) -> bool {
    ty.sortable && !ty.large
}

fn is_hashable(ty: &Type) -> bool {
    is_sortable(ty) && !ty.is_one_of(&["varbit", "tsvector", "public.pair"])
}

fn is_text(ty: &Type) -> bool {
    ty.is_one_of(&["text"]) && !ty.large
}

fn is_plain_text(ty: &Type) -> bool {
    is_text(ty) && ty.collation.is_empty()
}

const ACCESSES: &[Access] = &[
    Access { definition: "({c})", condition: "{c} >= {value}", fits: is_sortable },
    Access { definition: "({c} DESC NULLS LAST)", condition: "{c} <= {value}", fits: is_sortable },
    Access {
        definition: "({c}) WHERE {c} IS NOT NULL",
        condition: "{c} >= {value}",
        // IS NOT NULL means something else for a row, and equality does not imply it.
        fits: |ty| is_sortable(ty) && !ty.is_one_of(&["public.pair"]),
    },
    Access {
        definition: "(({c} % 7))",
        condition: "{c} % 7 = 1",
        fits: |ty| ty.is_one_of(&["int4", "int8"]),
    },
    Access { definition: "(lower({c}))", condition: "lower({c}) = 'a'", fits: is_text },
    Access {
        definition: "(abs({c}))",
        condition: "abs({c}) >= 1",
        fits: |ty| ty.is_one_of(&["numeric"]),
    },
    Access {
        definition: "(array_length({c}, 1))",
        condition: "array_length({c}, 1) = 1",
        fits: |ty| ty.is_one_of(&["int4[]", "text[]", "numeric[]"]),
    },
    Access { definition: "USING hash ({c})", condition: "{c} = {value}", fits: is_hashable },
    Access {
        definition: "USING gin ({c})",
        condition: "{c} @> {value}",
        fits: |ty| ty.is_one_of(&["int4[]", "text[]", "numeric[]", "jsonb"]),
    },
    Access {
        definition: "USING gin ({c})",
        condition: "{c} @@ 'b'::tsquery",
        fits: |ty| ty.is_one_of(&["tsvector"]),
    },
    Access {
        definition: "USING gist ({c})",
        condition: "{c} && {value}",
        fits: |ty| ty.is_one_of(&["int4range", "numrange", "int4multirange"]),
    },
    Access {
        definition: "USING gist ({c})",
        condition: "{c} <@ '(1,1),(-1,-1)'::box",
        fits: |ty| ty.is_one_of(&["point"]),
    },
    Access {
        definition: "USING gist ({c} inet_ops)",
        condition: "{c} <<= '10.0.0.0/8'::inet",
        fits: |ty| ty.is_one_of(&["inet"]),
    },
    Access {
        definition: "USING spgist ({c})",
        condition: "{c} && {value}",
        fits: |ty| ty.is_one_of(&["int4range", "numrange"]),
    },
    Access {
        definition: "USING spgist ({c})",
        condition: "{c} <@ '(1,1),(-1,-1)'::box",
        fits: |ty| ty.is_one_of(&["point"]),
    },
    Access { definition: "USING spgist ({c})", condition: "{c} = {value}", fits: is_plain_text },
    Access {
        definition: "USING brin ({c}) WITH (pages_per_range = 1)",
        condition: "{c} >= {value}",
        fits: |ty| {
            let summarized = ["int4", "int8", "numeric", "date", "timestamptz", "uuid", "bytea"];
            ty.is_one_of(&summarized) || is_plain_text(ty)
        },
    },
];

/// Random indexes, none of them unique.
pub fn draw_others(rng: &mut Rng, view: &View) -> Vec<Index> {
    (0..rng.usize(0..=4)).filter_map(|_| draw_other(rng, view)).collect()
}

fn draw_other(rng: &mut Rng, view: &View) -> Option<Index> {
    let output = draw::one(rng, &view.outputs);
    let fitting: Vec<&Access> =
        ACCESSES.iter().filter(|access| (access.fits)(&output.ty)).collect();
    if fitting.is_empty() {
        return None;
    }
    let access = draw::one(rng, &fitting);
    let value = draw::one(rng, &output.samples);
    let fill = |form: &str| form.replace("{c}", &output.name).replace("{value}", value);
    Some(Index {
        statement: format!("CREATE INDEX ON v {}", fill(access.definition)),
        condition: fill(access.condition),
    })
}

/// The statements that make random unique indexes: mostly one that tells which row is which, at times
/// more, at times only such as cannot.
pub fn draw_unique(rng: &mut Rng, view: &View) -> Vec<String> {
    if view.keys.is_empty() {
        return Vec::new();
    }
    let key = draw::one(rng, &view.keys);
    let mut statements = Vec::new();
    if draw::once_in(rng, 6) {
        statements.push(unusable(rng, key));
    } else {
        statements.push(usable(rng, key, view));
        for key in &view.keys {
            match rng.u32(0..4) {
                0 => statements.push(usable(rng, key, view)),
                1 => statements.push(unusable(rng, key)),
                _ => {}
            }
        }
    }
    rng.shuffle(&mut statements);
    statements
}

fn usable(rng: &mut Rng, key: &KeySet, view: &View) -> String {
    let included: Vec<&Output> =
        view.outputs.iter().filter(|output| !output.ty.large && !key.contains(output)).collect();
    let include = if !included.is_empty() && draw::once_in(rng, 5) {
        format!(" INCLUDE ({})", draw::one(rng, &included).name)
    } else {
        String::new()
    };
    let nulls = if key.nulls_equal && rng.bool() { " NULLS NOT DISTINCT" } else { "" };
    format!("CREATE UNIQUE INDEX ON v ({}){include}{nulls}", index_columns(rng, key))
}

/// With a predicate, or on an expression.
fn unusable(rng: &mut Rng, key: &KeySet) -> String {
    let columns = index_columns(rng, key);
    let first = &key.columns[0].name;
    if rng.bool() {
        format!("CREATE UNIQUE INDEX ON v ({columns}) WHERE {first} IS NOT NULL")
    } else {
        format!("CREATE UNIQUE INDEX ON v ({columns}, ({first} IS NULL))")
    }
}

fn index_columns(rng: &mut Rng, key: &KeySet) -> String {
    let mut columns: Vec<String> =
        key.columns.iter().map(|column| index_column(rng, column)).collect();
    rng.shuffle(&mut columns);
    columns.join(", ")
}

fn index_column(rng: &mut Rng, column: &Output) -> String {
    let stricter = if draw::once_in(rng, 3) { column.ty.stricter } else { "" };
    let order = *draw::one(rng, &["", "", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
    format!("{}{stricter}{order}", column.name)
}

impl KeySet {
    fn contains(&self, output: &Output) -> bool {
        self.columns.iter().any(|column| column.name == output.name)
    }
}
