//! The types of the columns that cases are made of, each with values that are hard to tell apart.

use cluster_tests::Session;

/// A type, and what of it the generator uses.
#[derive(Clone, Copy)]
pub struct Type {
    /// As in a cast.
    pub name: &'static str,
    /// What a column of it has besides.
    pub collation: &'static str,
    /// Values as SQL expressions, no two of them with the same image.
    pool: &'static [&'static str],
    /// A value for each key number `{n}`, in one of three spellings `{v}` that `=` takes for one.
    pub key: Option<&'static str>,
    /// Key numbers are below that, for a type that has only so many values.
    pub limit: Option<i64>,
    /// Whether it has an operator class for btree.
    pub sortable: bool,
    /// Whether `=` takes some values for one that are not the same.
    pub loose: bool,
    /// Whether its values are too long for an index.
    pub large: bool,
    /// Another operator class or collation for a key, with a stricter `=`.
    pub stricter: &'static str,
}

impl Type {
    const fn of(name: &'static str, pool: &'static [&'static str]) -> Self {
        Self {
            name,
            collation: "",
            pool,
            key: None,
            limit: None,
            sortable: true,
            loose: false,
            large: false,
            stricter: "",
        }
    }

    const fn key(mut self, expression: &'static str) -> Self {
        self.key = Some(expression);
        self
    }

    const fn limit(mut self, limit: i64) -> Self {
        self.limit = Some(limit);
        self
    }

    const fn collate(mut self, collation: &'static str) -> Self {
        self.collation = collation;
        self
    }

    const fn unsortable(mut self) -> Self {
        self.sortable = false;
        self
    }

    const fn loose(mut self) -> Self {
        self.loose = true;
        self
    }

    const fn large(mut self) -> Self {
        self.large = true;
        self
    }

    const fn stricter(mut self, class: &'static str) -> Self {
        self.stricter = class;
        self
    }

    /// The type as a column is declared.
    pub fn declaration(&self) -> String {
        format!("{}{}", self.name, self.collation)
    }

    /// Its values, as expressions of the type.
    pub fn values(&self) -> Vec<String> {
        self.pool.iter().map(|value| format!("({value})::{}", self.name)).collect()
    }

    /// Whether its name is one of these.
    pub fn is_one_of(&self, names: &[&str]) -> bool {
        names.contains(&self.name)
    }
}

pub const INT4: Type = Type::of("int4", &["0", "1", "-1", "2147483647"]).key("({n} - 1000)::int4");

pub const INT8: Type = Type::of("int8", &["0", "1", "-1", "4294967296"]).key("{n} * 4294967311");

pub const TEXT: Type = Type::of("text", &["''", "'a'", "'A'", "'a '", "'ä'"])
    .key("'key ' || {n}")
    .stricter(" text_pattern_ops");

/// Compressed; toasted; incompressible but short enough to stay in its row.
pub const LARGE_TEXT: Type = Type::of(
    "text",
    &[
        "repeat('ab', 3000)",
        "repeat('ab', 3000) || 'c'",
        "(SELECT string_agg(md5(i::text), '' ORDER BY i) FROM generate_series(1, 300) i)",
        "(SELECT string_agg(md5(i::text), '' ORDER BY i) FROM generate_series(2, 301) i)",
        "(SELECT string_agg(md5(i::text), '' ORDER BY i) FROM generate_series(1, 45) i)",
        "'short'",
    ],
)
.large();

/// What array_agg makes of INT8; of any length.
pub const LARGE_ARRAY: Type = Type::of("int8[]", &["'{}'"]).large();

const XML: Type = Type::of("xml", &["'<a/>'", "'<a></a>'", "'<b>1</b>'"]).unsortable();

const IGNORING_CASE: Type = Type::of("text", &["'a'", "'A'", "'á'", "'b'", "'B'"])
    .collate(" COLLATE public.ignoring_case")
    .key("(ARRAY['key ', 'KEY ', 'Key '])[{v}] || {n}")
    .loose()
    .stricter(" COLLATE \"C\"");

const EVERYWHERE: &[Type] = &[
    INT4,
    INT8,
    TEXT,
    LARGE_TEXT,
    Type::of("int2", &["0", "1", "-1", "32767"]).key("({n})::int2").limit(30_000),
    Type::of("numeric", &["'1.0'", "'1.00'", "'1'", "'0.0'", "'0'", "'-1.5'", "'NaN'", "'1e30'"])
        .key("({n} || (ARRAY['', '.0', '.00'])[{v}])::numeric")
        .loose(),
    Type::of("float8", &["'-0'", "'0'", "'1.5'", "'NaN'", "'Infinity'"])
        .key("CASE WHEN {n} = 0 AND {v} = 1 THEN '-0' ELSE ({n})::float8 END")
        .loose(),
    Type::of("varchar(20)", &["''", "'a'", "'a '", "'A'"])
        .key("('v' || {n})::varchar(20)")
        .stricter(" varchar_pattern_ops"),
    Type::of("char(8)", &["'a'", "'A'", "'ab'"])
        .key("('c' || {n})::char(8)")
        .stricter(" bpchar_pattern_ops"),
    Type::of("bytea", &["'\\x'", "'\\x00'", "'\\x0001'"]).key("int8send({n})"),
    Type::of("bool", &["true", "false"]).key("({n} = 1)").limit(2),
    Type::of("date", &["'2024-02-29'", "'infinity'", "'0044-03-15 BC'"])
        .key("date '2000-01-01' + ({n})::int4"),
    Type::of(
        "timestamptz",
        &["'2024-03-31 01:30:00+00'", "'2024-03-31 01:30:00.000001+00'", "'-infinity'"],
    )
    .key("timestamptz '2000-01-01 00:00:00+00' + {n} * interval '1 hour'"),
    Type::of("timestamp", &["'2024-03-31 02:30:00'", "'2024-03-31 02:30:00.000001'"])
        .key("timestamp '2000-01-01 00:00:00' + {n} * interval '1 minute'"),
    Type::of("interval", &["'1 day'", "'24 hours'", "'1 mon'", "'30 days'", "'0'"])
        .key("CASE {v} WHEN 1 THEN {n} * interval '1 day' ELSE {n} * interval '24 hours' END")
        .loose(),
    Type::of(
        "uuid",
        &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
    )
    .key("md5(({n})::text)::uuid"),
    Type::of("json", &["'{\"a\":1}'", "'{\"a\": 1}'", "'null'"]).unsortable(),
    Type::of(
        "jsonb",
        &["'{\"a\": 1.0}'", "'{\"a\": 1.00}'", "'[1, 2, 3]'", "'{}'", "'null'", "'{\"a\": null}'"],
    )
    .key("('{\"n\": ' || {n} || (ARRAY['', '.0', '.00'])[{v}] || '}')::jsonb")
    .loose(),
    Type::of("point", &["'(0,0)'", "'(-0,0)'", "'(1,2)'"]).unsortable(),
    Type::of("int4range", &["'[1,5)'", "'empty'", "'(,)'", "'[3,9)'"])
        .key("int4range(({n})::int4, ({n})::int4 + 5)"),
    Type::of("numrange", &["'[1.0,2)'", "'[1.00,2)'", "'[1.0,2]'", "'empty'"])
        .key("numrange(({n} || (ARRAY['', '.0', '.00'])[{v}])::numeric, {n} + 0.5)")
        .loose(),
    Type::of("int4multirange", &["'{}'", "'{[1,3),[5,7)}'", "'{[1,7)}'"])
        .key("int4multirange(int4range(({n})::int4, ({n})::int4 + 1))"),
    Type::of("int4[]", &["'{}'", "'{1}'", "'[0:0]={1}'", "'{1,NULL}'", "'{{1,2},{3,4}}'"])
        .key("ARRAY[{n}]::int4[]"),
    Type::of("numeric[]", &["'{1.0}'", "'{1.00}'", "'{1.0,1.00}'"])
        .key("ARRAY[({n} || (ARRAY['', '.0', '.00'])[{v}])::numeric]")
        .loose(),
    Type::of("text[]", &["'{}'", "'{a,b}'", "'{\"a,b\"}'", "'{NULL}'", "'{\"NULL\"}'"])
        .key("ARRAY['t', ({n})::text]"),
    Type::of(
        "public.pair",
        &["ROW(1.0, 'a')", "ROW(1.00, 'a')", "ROW(NULL, NULL)", "ROW(1.0, repeat('x', 3000))"],
    )
    .key("ROW(({n} || (ARRAY['', '.0', '.00'])[{v}])::numeric, 'k')::public.pair")
    .loose()
    .stricter(" record_image_ops"),
    Type::of("public.price", &["'1.0'", "'1.00'", "'-1'"])
        .key("({n} || (ARRAY['', '.0', '.00'])[{v}])::numeric::public.price")
        .loose(),
    Type::of("public.mood", &["'sad'", "'ok'", "'glad'"])
        .key("(ARRAY['sad', 'ok', 'glad'])[({n})::int4 + 1]::public.mood")
        .limit(3),
    Type::of("inet", &["'10.0.0.1'", "'10.0.0.1/8'", "'::1'"]).key("inet '10.0.0.0' + {n}"),
    Type::of("varbit", &["''", "'1'", "'10'", "'100'"]).key("({n})::bit(64)::varbit"),
    Type::of("tsvector", &["''", "'a b'", "'a:1 b:2'", "'b'"]).key("('w' || {n})::tsvector"),
    Type::of("oid", &["0", "1", "4294967295"]).key("({n})::oid"),
    Type::of("\"char\"", &["''", "'a'", "'b'"]).key("chr((65 + {n})::int4)::\"char\"").limit(26),
    Type::of("name", &["'a'", "'b'", "repeat('c', 63)"]).key("('n' || {n})::name"),
];

/// The types that this server has.
pub fn available(db: &mut Session) -> Vec<Type> {
    let mut types = EVERYWHERE.to_vec();
    if db.query_one("SELECT '<a/>'::xml::text", &[]).is_ok() {
        types.push(XML);
    }
    if db.get::<bool>(HAS_ICU) {
        db.run(
            "CREATE COLLATION public.ignoring_case
                 (provider = icu, deterministic = false, locale = 'und-u-ks-level2')",
        );
        types.push(IGNORING_CASE);
    }
    types
}

const HAS_ICU: &str = "SELECT EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')";

/// Makes the types that the server does not come with, and the function that draws values.
pub fn create(db: &mut Session) {
    db.run(
        "CREATE TYPE public.mood AS ENUM ('sad', 'ok', 'glad');
         CREATE DOMAIN public.price AS numeric CHECK (VALUE > -1000);
         CREATE TYPE public.pair AS (amount numeric, gone integer, word text);
         ALTER TYPE public.pair DROP ATTRIBUTE gone;
         -- The same number from 1 to `choices` for the same row and salt.
         CREATE FUNCTION public.pick(whose bigint, salt bigint, choices integer) RETURNS integer
             LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
             1 + ((pg_catalog.hashint8extended(whose, salt) & 9223372036854775807) % choices)::integer",
    );
}
