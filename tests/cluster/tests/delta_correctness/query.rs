//! Queries that are drawn: joins, conditions, groups.

use fastrand::Rng;

use crate::TABLES;

/// A query over the drawn tables.
pub struct Query {
    pub text: String,
    /// Its columns that get an index.
    pub indexed: Vec<String>,
}

const NUMBERS: [&str; 3] = ["id", "x", "y"];

const KINDS: &[&str] = &[
    "JOIN",
    "JOIN",
    "JOIN",
    "JOIN",
    "JOIN",
    "LEFT JOIN",
    "LEFT JOIN",
    "LEFT JOIN",
    "LEFT JOIN",
    "LEFT JOIN",
    "LEFT JOIN",
    "RIGHT JOIN",
    "RIGHT JOIN",
    "FULL JOIN",
];

fn pick<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.usize(0..from.len())]
}

fn table(rng: &mut Rng) -> usize {
    rng.usize(0..TABLES)
}

fn column(rng: &mut Rng, aliases: &[String]) -> String {
    format!("{}.{}", aliases[rng.usize(0..aliases.len())], pick(rng, &NUMBERS))
}

impl Query {
    pub fn draw(rng: &mut Rng) -> Self {
        let count = [1, 2, 2, 2, 3, 3, 4][rng.usize(0..7)];
        let (aliases, tail) = joins(rng, count);
        let (text, plain) = match rng.u8(0..24) {
            0..10 => plain(rng, &aliases, &tail),
            20.. => combined(rng),
            10..16 => grouped(rng, &aliases, &tail),
            16 | 17 => distinct_on(rng, &aliases, &tail),
            _ => windowed(rng, &aliases, &tail),
        };
        let mut indexed: Vec<String> =
            (0..plain).filter(|_| rng.u8(0..4) > 0).map(|place| format!("c{place}")).collect();
        if indexed.is_empty() {
            indexed.push("c0".to_owned());
        }
        Self { text: with(text), indexed }
    }

    /// Whether it must be possible to refresh it by changes: nothing but tables, joined by `=`.
    pub fn is_plain(&self) -> bool {
        let more = "(SELECT|UNION|INTERSECT|EXCEPT|WITH|v0 |v1 |v2 |m0 |FULL|OVER|DISTINCT ON|DISTINCT FROM|\
                    COALESCE| OR | + | % ";
        !more.split('|').any(|word| self.text.contains(word))
    }
}

/// Aliases, and FROM with WHERE.
fn joins(rng: &mut Rng, count: usize) -> (Vec<String>, String) {
    let aliases: Vec<String> = (0..count).map(|place| format!("r{place}")).collect();
    let from = from(rng, &aliases);
    let filter: Vec<String> =
        (0..[0, 0, 1, 2][rng.usize(0..4)]).map(|_| condition(rng, &aliases)).collect();
    let filter = match filter.as_slice() {
        [] => String::new(),
        parts => format!(" WHERE {}", parts.join(" AND ")),
    };
    (aliases, format!("FROM {from}{filter}"))
}

/// Two or three queries by UNION and its kin.
fn combined(rng: &mut Rng) -> (String, usize) {
    let mut text = String::new();
    for place in 0..rng.usize(2..=3) {
        if place > 0 {
            let by = ["UNION", "UNION ALL", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL"];
            text = format!("{text} {} ", pick(rng, &by));
        }
        let count = rng.usize(1..=2);
        let (aliases, tail) = joins(rng, count);
        let mut shown = columns(rng, &aliases, 2);
        shown.push(text_of(rng, &aliases));
        text = format!("{text}SELECT {} {tail}", select(&shown));
    }
    // Which rows are left out is determined, but not by the arms.
    match rng.u8(0..10) {
        0 => text += " ORDER BY c0, c1, c2 OFFSET 2",
        1 => text += " ORDER BY c0, c1, c2 LIMIT 5",
        _ => {}
    }
    (text, 3)
}

fn from(rng: &mut Rng, aliases: &[String]) -> String {
    if let [alias] = aliases {
        return format!("{} {alias}", source(rng));
    }
    let split = if rng.u8(0..4) == 0 { rng.usize(1..aliases.len()) } else { aliases.len() - 1 };
    let (left, right) = aliases.split_at(split);
    let kind = pick(rng, KINDS);
    let on = loop {
        let on = on(rng, left, right);
        // The server refuses a FULL JOIN that it can neither hash nor merge.
        if kind != "FULL JOIN"
            || !(on.contains("COALESCE")
                || on.contains("DISTINCT")
                || on.contains(" OR ")
                || on.contains("SELECT")
                || on.contains('>'))
        {
            break on;
        }
    };
    let (left, right) = (from(rng, left), from(rng, right));
    if matches!(kind, "JOIN" | "LEFT JOIN") && rng.u8(0..12) == 0 {
        return format!(
            "({left} {kind} LATERAL {} ON true)",
            lateral(rng, &aliases[0], &aliases[split..])
        );
    }
    format!("({left} {kind} {right} ON {on})")
}

/// One for all aliases: it refers to the first of the left side.
fn lateral(rng: &mut Rng, outer: &str, aliases: &[String]) -> String {
    let alias = &aliases[0];
    let (table, column, by) = (table(rng), pick(rng, &NUMBERS), pick(rng, &NUMBERS));
    let tail = format!("FROM t{table} s WHERE s.{column} = {outer}.{by}");
    let body = match rng.u8(0..5) {
        0 => format!("SELECT id, x, y, z {tail}"),
        1 => format!("SELECT count(*)::int AS id, max(x) AS x, min(y) AS y, max(z) AS z {tail}"),
        2 => format!("SELECT id, count(*)::int AS x, min(y) AS y, max(z) AS z {tail} GROUP BY id"),
        3 => format!("SELECT id, x, y, z {tail} ORDER BY id, x, y, z LIMIT 1"),
        // With a column of the outer side besides, the server (17.11) fails to plan some of these.
        _ => format!(
            "SELECT n AS id, n + 1 AS x, n AS y, 'c' AS z FROM generate_series(1, {outer}.{by}) n"
        ),
    };
    let first = format!("({body}) {alias}");
    aliases[1..].iter().fold(first, |all, more| format!("{all} CROSS JOIN t0 {more}"))
}

/// A condition with a subquery that refers to that column, or does not.
fn sublink(rng: &mut Rng, outer: &str) -> String {
    let (table, column) = (table(rng), pick(rng, &NUMBERS));
    let other = pick(rng, &NUMBERS);
    let not = if rng.bool() { "NOT " } else { "" };
    match rng.u8(0..11) {
        10 => format!(
            "{not}EXISTS (SELECT 1 FROM t{table} s LEFT JOIN t1 o ON o.id = s.{other} AND o.y = {outer}
                          WHERE s.{column} = {outer} AND o.x IS NULL)"
        ),
        0 | 1 => format!("{not}EXISTS (SELECT 1 FROM t{table} s WHERE s.{column} = {outer})"),
        2 => format!("{outer} {not}IN (SELECT s.{column} FROM t{table} s)"),
        3 => format!(
            "{outer} {not}IN (SELECT s.{column} FROM t{table} s WHERE s.{other} = {outer} + 1)"
        ),
        4 => format!(
            "{outer} IN (SELECT s.{column} FROM t{table} s GROUP BY s.{column} HAVING count(*) > 1)"
        ),
        5 => {
            format!("{outer} < (SELECT max(s.{other}) FROM t{table} s WHERE s.{column} = {outer})")
        }
        6 => format!("({outer} > 4 OR EXISTS (SELECT 1 FROM v1 s WHERE s.{column} = {outer}))"),
        7 => format!(
            "EXISTS (SELECT 1 FROM t{table} s WHERE s.{column} = {outer}
                     AND {not}EXISTS (SELECT 1 FROM t0 i WHERE i.{other} = s.y AND i.x = {outer}))"
        ),
        8 => format!(
            "{outer} IN (SELECT {column} FROM t0 UNION ALL SELECT {other} FROM t{table} WHERE x = {outer})"
        ),
        _ => format!(
            "{outer} IN (SELECT s.{column} FROM t{table} s LEFT JOIN t1 o ON o.id = s.{other} WHERE o.x IS NULL)"
        ),
    }
}

/// A value that a subquery computes.
fn scalar(rng: &mut Rng, outer: &str) -> String {
    let (table, column) = (table(rng), pick(rng, &NUMBERS));
    let tail = format!("FROM t{table} s WHERE s.{column} = {outer}");
    match rng.u8(0..7) {
        5 => format!(
            "(SELECT count(*) FROM t{table} s LEFT JOIN t1 o ON o.id = s.{column} AND o.y = {outer})"
        ),
        6 => format!(
            "(SELECT sum(o.id) FROM t{table} s LEFT JOIN (SELECT * FROM t2 i WHERE i.x = {outer}) o
                     ON o.y = s.{column} WHERE s.x = {outer})"
        ),
        0 => format!("(SELECT count(*) {tail})"),
        1 => format!("(SELECT sum(s.x) + {outer} {tail} GROUP BY s.{column})"),
        2 => format!("(SELECT s.y {tail} ORDER BY s.y, s.x LIMIT 1)"),
        3 => format!("ARRAY(SELECT s.z {tail} ORDER BY s.z)"),
        _ => format!("(SELECT count(*) {tail} AND s.x IN (SELECT y FROM t0))"),
    }
}

/// A table; or something that stands for tables, which all have the same columns.
fn source(rng: &mut Rng) -> String {
    match rng.u8(0..53) {
        0..28 => format!("t{}", table(rng)),
        28..31 => format!("v{}", rng.usize(0..3)),
        31..34 => format!("w{}", rng.usize(0..3)),
        34..36 => format!("(SELECT * FROM t{} WHERE {} > 1)", table(rng), pick(rng, &NUMBERS)),
        36 | 37 => {
            let computed = [
                "x + 1".to_owned(),
                "7 - x".to_owned(),
                "COALESCE(x, 3)".to_owned(),
                "CASE x WHEN 2 THEN NULL ELSE 2 END".to_owned(),
                format!("(SELECT max(i.x) FROM t{} i WHERE i.y = t.x)", table(rng)),
            ];
            let which = rng.usize(0..computed.len());
            format!("(SELECT y AS id, {} AS x, id AS y, z FROM t{} t)", computed[which], table(rng))
        }
        38 => {
            let inner = ["a".to_owned(), "b".to_owned()];
            format!("(SELECT a.x AS id, b.x, b.y, a.z FROM {})", from(rng, &inner))
        }
        39..43 => {
            let (by, table) = (pick(rng, &NUMBERS), table(rng));
            let having = if rng.u8(0..3) == 0 { " HAVING count(*) > 1" } else { "" };
            let filter = if rng.u8(0..3) == 0 {
                format!(" WHERE {}", sublink(rng, "t.x"))
            } else {
                String::new()
            };
            format!(
                "(SELECT {by} AS id, count(*)::int AS x, max(y) AS y, min(z) AS z FROM t{table} t{filter} GROUP BY {by}{having})"
            )
        }
        43 => format!(
            "(SELECT id, x, row_number() OVER (PARTITION BY x ORDER BY id, y, z)::int AS y, z FROM t{})",
            table(rng)
        ),
        44 => format!(
            "(SELECT DISTINCT ON (x) id, x, y, z FROM t{} ORDER BY x, id, y, z)",
            table(rng)
        ),
        45 => {
            format!("(SELECT id, x, y, z FROM t{} ORDER BY id, x, y, z LIMIT 3)", table(rng))
        }
        46 => "(SELECT * FROM (VALUES (1, 2, 3, 'a'), (2, 3, 4, 'b')) n (id, x, y, z))".to_owned(),
        47 => format!(
            "(SELECT count(*)::int AS id, max(x) AS x, 1 AS y, 'a' AS z FROM t{})",
            table(rng)
        ),
        48 => format!(
            "(SELECT id, x, y, z FROM t{} UNION ALL SELECT x, y, id, z FROM t{})",
            table(rng),
            table(rng)
        ),
        49..52 => "m0".to_owned(),
        _ => format!("(SELECT DISTINCT id, x, y, z FROM t{})", table(rng)),
    }
}

/// Whether a query reads the materialized view.
pub fn reads_view(query: &str) -> bool {
    query.contains("m0 ")
}

/// WITH, if the query refers to it.
fn with(query: String) -> String {
    if (0..3).any(|place| query.contains(&format!("w{place} "))) {
        format!(
            "WITH w0 AS (SELECT * FROM t0 WHERE y IS NOT NULL),
                  w1 AS (SELECT a.id, b.x, a.y, b.z FROM w0 a JOIN v1 b ON b.id = a.x),
                  w2 AS (SELECT x AS id, count(*)::int AS x, max(y) AS y, max(z) AS z FROM w0 GROUP BY x)
             {query}"
        )
    } else {
        query
    }
}

/// Mostly what a developer would write.
fn on(rng: &mut Rng, left: &[String], right: &[String]) -> String {
    let (l, r) = (column(rng, left), column(rng, right));
    match rng.u8(0..22) {
        0 => format!("{r} = COALESCE({l}, 1)"),
        1 => format!("{r} IS NOT DISTINCT FROM {l}"),
        2 => format!("{r} = {l} AND {} > 2", column(rng, left)),
        3 => format!("{r} = {l} AND {} > 2", column(rng, right)),
        4 => format!("({r} = {l} OR {} IS NULL)", column(rng, right)),
        5 => format!("{r} = {l} AND {} = {}", column(rng, left), column(rng, right)),
        6 => format!("{r} = {l} + 1"),
        7 => {
            let outer = column(rng, right);
            format!("{r} = {l} AND {}", sublink(rng, &outer))
        }
        _ => format!("{r} = {l}"),
    }
}

fn condition(rng: &mut Rng, aliases: &[String]) -> String {
    let (one, other) = (column(rng, aliases), column(rng, aliases));
    match rng.u8(0..11) {
        9 | 10 => sublink(rng, &one),
        0 => format!("{one} IS NULL"),
        1 => format!("{one} IS NOT NULL"),
        2 => format!("COALESCE({one}, 0) < 5"),
        3 => format!("{one} = {other}"),
        4 => format!("{one} <> {other}"),
        5 => format!("({one} > 2 OR {other} IS NULL)"),
        6 => format!("{one} = COALESCE({other}, 3)"),
        _ => format!("{one} > 1"),
    }
}

/// `expression AS c<place>`, for each.
fn select(expressions: &[String]) -> String {
    let named = expressions.iter().enumerate().map(|(place, text)| format!("{text} AS c{place}"));
    named.collect::<Vec<String>>().join(", ")
}

fn columns(rng: &mut Rng, aliases: &[String], count: usize) -> Vec<String> {
    (0..count).map(|_| column(rng, aliases)).collect()
}

/// An expression of one or more columns.
fn computed(rng: &mut Rng, aliases: &[String]) -> String {
    let (one, other) = (column(rng, aliases), column(rng, aliases));
    match rng.u8(0..3) {
        0 => format!("({one} % 3)"),
        1 => format!("COALESCE({one}, 0)"),
        _ => format!("({one} + {other})"),
    }
}

fn text_of(rng: &mut Rng, aliases: &[String]) -> String {
    format!("{}.z", aliases[rng.usize(0..aliases.len())])
}

fn plain(rng: &mut Rng, aliases: &[String], tail: &str) -> (String, usize) {
    let count = rng.usize(1..=3);
    let mut shown = columns(rng, aliases, count);
    shown.push(text_of(rng, aliases));
    shown.push(format!("upper({})", text_of(rng, aliases)));
    if rng.u8(0..4) == 0 {
        let outer = column(rng, aliases);
        shown.push(scalar(rng, &outer));
    }
    if rng.u8(0..6) == 0 {
        shown[0] = computed(rng, aliases);
    }
    let distinct = if rng.u8(0..4) == 0 { "DISTINCT " } else { "" };
    (format!("SELECT {distinct}{} {tail}", select(&shown)), count + 1)
}

fn grouped(rng: &mut Rng, aliases: &[String], tail: &str) -> (String, usize) {
    let count = rng.usize(1..=2);
    let mut keys = columns(rng, aliases, count);
    if rng.u8(0..5) == 0 {
        keys[0] = computed(rng, aliases);
    }
    let mut shown = keys.clone();
    shown.push("count(*)".to_owned());
    shown.push(format!("sum({})", column(rng, aliases)));
    shown.push(format!("max({})", text_of(rng, aliases)));
    shown.push(format!("count(DISTINCT {})", column(rng, aliases)));
    let having = match rng.u8(0..6) {
        0 | 1 => " HAVING count(*) > 1".to_owned(),
        2 if !keys[0].contains('(') => format!(" HAVING {}", sublink(rng, &keys[0])),
        _ => String::new(),
    };
    (format!("SELECT {} {tail} GROUP BY {}{having}", select(&shown), keys.join(", ")), count)
}

fn distinct_on(rng: &mut Rng, aliases: &[String], tail: &str) -> (String, usize) {
    let mut shown = columns(rng, aliases, 3);
    shown.push(text_of(rng, aliases));
    let order = "c0, c1, c2, c3";
    let from = format!(
        "SELECT DISTINCT ON (c0) * FROM (SELECT {} {tail}) q ORDER BY {order}",
        select(&shown)
    );
    // With a subquery that is no delta, without it is.
    if rng.bool() {
        return (from, 1);
    }
    let text = format!(
        "SELECT DISTINCT ON ({}) {} {tail} ORDER BY {}",
        shown[0],
        select(&shown),
        shown.join(", ")
    );
    (text, 1)
}

fn windowed(rng: &mut Rng, aliases: &[String], tail: &str) -> (String, usize) {
    let count = rng.usize(1..=2);
    let mut shown = columns(rng, aliases, count);
    let by = shown[rng.usize(0..count)].clone();
    shown.push(format!("count(*) OVER (PARTITION BY {by})"));
    shown.push(format!("sum({}) OVER (PARTITION BY {by})", column(rng, aliases)));
    (format!("SELECT {} {tail}", select(&shown)), count)
}
