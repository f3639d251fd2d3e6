//! From changed rows to the rows of a view that they can concern.
//!
//! A view is refreshed key by key: the *unit* is one of its columns, and every row with one of the
//! units that can have changed is computed afresh from the present sources. Nothing is added to or
//! taken from what is stored, so nothing can drift, and a unit too many costs a look-up. A unit too
//! few would leave a wrong row for ever, which is why the rules below are strict.
//!
//! Queries that are understood are trees of inner and left joins of tables, with conditions, grouping,
//! HAVING, DISTINCT, aggregates and window functions as they like. A subquery that groups stands there as
//! the rows that it groups: what it computes is *unknown*, and what it groups by is not. Then for each
//! occurrence *i* of a table in the query: put the changed rows, before and after, in its place, let the
//! others be what they are now *or* the old images of their own changed rows, make sure that a changed
//! row takes part, and leave out
//!
//! - what is unknown,
//! - the parts of an ON that let it accept a row of NULLs in place of a table that an outer join extends by
//!   those, and the parts of WHERE that read such a table at all,
//! - tables that are not on the way from *i* to the unit, unless an outer join preserves them for one that is.
//!
//! The units that come out are the ones to compute again. Where the unit is a column of *i*, or equated to
//! one, it is read off the changed row. GROUP BY, DISTINCT ON and every PARTITION BY have to contain the
//! unit.
//!
//! Why nothing is missed: for each row of the query, before or after, there is one of the mapped rows that is
//! the same in every table that is not NULL in the former. That holds for a table, whose rows of before and
//! after are all there, and it is handed up by each join, since what an ON says of tables that are not NULL
//! it says of both rows, and of tables that are NULL it says nothing that is left in. A row of the query
//! that comes or goes does so for a changed row in one of its tables, or for one that an outer join has
//! found, or not found, for it; in both cases that row takes part in a mapped one. A unit of a table that
//! is NULL in the row is NULL itself; it is added wherever such rows are not certain to come out by
//! themselves.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Place of a table in the query: one that is joined twice has two.
pub type Occurrence = usize;

/// A column of an occurrence, by its number in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Column {
    /// Where its table stands.
    pub of: Occurrence,
    /// Counted from 1.
    pub number: i16,
}

/// What a query shows or groups by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Term {
    /// A column as it is.
    Column(Column),
    /// What is computed from columns of the same row.
    Expression {
        /// Those.
        reads: BTreeSet<Column>,
        /// The same for equal expressions of one query.
        number: usize,
    },
}

impl Term {
    /// The columns that it is made of.
    pub fn reads(&self) -> BTreeSet<Column> {
        match self {
            Self::Column(column) => BTreeSet::from([*column]),
            Self::Expression { reads, .. } => reads.clone(),
        }
    }
}

/// What matters of a condition, or of one part of a conjunction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Its place among all conditions of the query.
    pub number: usize,
    /// The tables that it reads.
    pub reads: BTreeSet<Occurrence>,
    /// It reads what is computed by a subquery besides.
    pub unknown: bool,
    /// Those among the tables a row of NULLs of which makes it false or NULL.
    pub rejects_nulls_of: BTreeSet<Occurrence>,
    /// Columns that must be equal for it to hold, by the equality of their common type.
    pub equal: Vec<(Column, Column)>,
}

/// How two sides are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    /// Only what matches.
    Inner,
    /// The left side entirely.
    Left,
    /// Both sides entirely.
    Full,
}

/// What a query reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// One table.
    Table(Occurrence),
    /// Several, each with each.
    Product(Vec<Self>),
    /// Two sides, joined.
    Join {
        /// How.
        kind: JoinKind,
        /// The side that a left join preserves.
        left: Box<Self>,
        /// The side that it extends by NULLs.
        right: Box<Self>,
        /// The parts of ON, all of which must hold.
        on: Vec<Condition>,
    },
}

impl From {
    /// The tables in it.
    pub fn tables(&self) -> BTreeSet<Occurrence> {
        match self {
            Self::Table(occurrence) => BTreeSet::from([*occurrence]),
            Self::Product(parts) => parts.iter().flat_map(Self::tables).collect(),
            Self::Join { left, right, .. } => &left.tables() | &right.tables(),
        }
    }
}

/// A query, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// FROM.
    pub from: From,
    /// The parts of WHERE, all of which must hold.
    pub filter: Vec<Condition>,
    /// What stands in GROUP BY, in DISTINCT ON and in each PARTITION BY.
    pub partitions: Vec<(Partition, BTreeSet<Term>)>,
    /// Some subquery stands for more rows than it returns.
    pub approximate: bool,
    /// What changes is in a subquery that decides which rows an outer join around it finds: places of its
    /// tables begin here.
    pub decides_matches: Option<Occurrence>,
}

/// What divides rows into groups that are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partition {
    /// GROUP BY.
    Group,
    /// DISTINCT ON.
    DistinctOn,
    /// PARTITION BY of a window.
    Window,
}

/// How the units are found that a changed row of one occurrence can concern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mapping {
    /// The unit is the value of this column of the changed row; NULL concerns none unless
    /// `with_null`.
    Direct {
        /// Number of the column.
        column: i16,
        /// The unit can be NULL.
        with_null: bool,
    },
    /// By the query's own joins.
    Join {
        /// Of these tables. A join of which one side is left out is its other side.
        tables: BTreeSet<Occurrence>,
        /// The conditions that stay, by number.
        conditions: BTreeSet<usize>,
    },
}

/// How changed rows lead to the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    /// For each occurrence.
    pub mappings: Vec<(Occurrence, Mapping)>,
    /// What takes the place of each where only rows of one occurrence have changed, and this is one of them.
    /// It is there if the unit can be NULL for want of a row that an outer join could find.
    pub exact: Option<(BTreeSet<Occurrence>, Mapping)>,
    may_be_null: bool,
}

impl Map {
    /// What to do where rows of these occurrences have changed; and whether NULL is one of the units.
    pub fn steps(&self, changed: &BTreeSet<Occurrence>) -> (Vec<(Occurrence, &Mapping)>, bool) {
        let alone = self.exact.as_ref().filter(|_| changed.len() == 1);
        let alone =
            alone.and_then(|(places, exact)| Some((*changed.intersection(places).next()?, exact)));
        if let Some(step) = alone {
            return (vec![step], false);
        }
        let steps = self.mappings.iter().filter(|(occurrence, _)| changed.contains(occurrence));
        let steps = steps.map(|(occurrence, mapping)| (*occurrence, mapping)).collect();
        (steps, self.may_be_null && !changed.is_empty())
    }
}

/// Why a column cannot be the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmappable {
    /// There is a FULL JOIN.
    FullJoin,
    /// The unit is computed from tables that are extended by NULLs.
    NullableUnit,
    /// A condition of a join accepts NULLs of a table that is extended by them.
    LooseCondition,
    /// Tables are joined only by what a subquery computes.
    ComputedCondition,
    /// Rows are divided into groups across units.
    Divided(Partition),
}

/// How changed rows of each occurrence are mapped to the unit.
///
/// # Errors
/// Why that cannot be the unit.
pub fn map(query: &Query, unit: &Term) -> Result<Map, Unmappable> {
    let from = normalized(query)?;
    let extended = extended_by_nulls(&from);
    let of: BTreeSet<Occurrence> = unit.reads().iter().map(|column| column.of).collect();
    // Of a row that is found or not, both what it is and the row of NULLs in its place are concerned: conditions
    // of that subquery hold for the one, and those around it may hold for the other alone.
    let around: BTreeSet<Occurrence> = match query.decides_matches {
        Some(first) => {
            let outer = extended_by_nulls(&query.from).into_iter();
            outer.filter(|table| *table < first).collect()
        }
        None => BTreeSet::new(),
    };
    let of_subquery = |part: &Condition| {
        query.decides_matches.is_some_and(|first| part.reads.iter().any(|table| *table >= first))
    };
    let may_be_null = !of.is_disjoint(&(&extended | &around));
    if may_be_null && matches!(unit, Term::Expression { .. }) {
        return Err(Unmappable::NullableUnit);
    }
    for (kind, terms) in &query.partitions {
        if !terms.contains(unit) {
            return Err(Unmappable::Divided(*kind));
        }
    }
    let mut usable: Vec<&Condition> = query
        .filter
        .iter()
        .filter(|part| !part.unknown && part.reads.is_disjoint(&extended))
        .filter(|part| part.reads.is_disjoint(&around) || of_subquery(part))
        .collect();
    usable_in_joins(&from, &(&extended | &around), &mut usable)?;
    let tables = from.tables();
    let map_one = |occurrence| {
        if let Term::Column(column) = unit {
            if occurrence == column.of {
                return Mapping::Direct { column: column.number, with_null: true };
            }
            let in_filter = query.filter.iter().find_map(|part| equated(part, *column, occurrence));
            if let Some(column) = in_filter.or_else(|| equated_in_joins(&from, *column, occurrence))
            {
                return Mapping::Direct { column, with_null: false };
            }
        }
        let way = way(occurrence, &of, &usable).unwrap_or_else(|| tables.clone());
        let way = with_preserved(&from, way, occurrence);
        let mut conditions = BTreeSet::new();
        conditions_within(&from, &way, &mut conditions);
        conditions.extend(query.filter.iter().map(|part| part.number));
        let stays =
            |part: &&&Condition| conditions.contains(&part.number) && part.reads.is_subset(&way);
        let conditions = usable.iter().filter(stays).map(|part| part.number).collect();
        Mapping::Join { tables: way, conditions }
    };
    let mappings = tables.iter().map(|&occurrence| (occurrence, map_one(occurrence))).collect();
    let exact =
        exact(query, &from).filter(|_| may_be_null).map(|mapping| (&tables - &extended, mapping));
    Ok(Map { mappings, exact, may_be_null })
}

/// The query as it is, if all of it is known.
fn exact(query: &Query, from: &From) -> Option<Mapping> {
    let mut all: Vec<&Condition> = query.filter.iter().collect();
    each_on(from, &mut |on| all.extend(on));
    let conditions = all.iter().map(|part| part.number).collect();
    let known = !query.approximate
        && query.decides_matches.is_none()
        && all.iter().all(|part| !part.unknown);
    known.then(|| Mapping::Join { tables: from.tables(), conditions })
}

fn each_on<'a>(from: &'a From, body: &mut impl FnMut(&'a [Condition])) {
    match from {
        From::Table(_) => {}
        From::Product(parts) => parts.iter().for_each(|part| each_on(part, body)),
        From::Join { left, right, on, .. } => {
            each_on(left, body);
            each_on(right, body);
            body(on);
        }
    }
}

/// The tree with outer joins turned into inner ones where WHERE, or an inner join above, rejects the
/// NULLs that they make.
fn normalized(query: &Query) -> Result<From, Unmappable> {
    let rejected = query.filter.iter().flat_map(|part| part.rejects_nulls_of.clone()).collect();
    reduce(&query.from, &rejected)
}

fn reduce(from: &From, rejected: &BTreeSet<Occurrence>) -> Result<From, Unmappable> {
    Ok(match from {
        From::Table(occurrence) => From::Table(*occurrence),
        From::Product(parts) => From::Product(
            parts.iter().map(|part| reduce(part, rejected)).collect::<Result<_, _>>()?,
        ),
        From::Join { kind: JoinKind::Full, .. } => return Err(Unmappable::FullJoin),
        From::Join { kind, left, right, on } => {
            let reduced = *kind == JoinKind::Left && !right.tables().is_disjoint(rejected);
            let kind = if reduced { JoinKind::Inner } else { *kind };
            // A row that an inner join lets through has no NULLs where its condition rejects them.
            let below = match kind {
                JoinKind::Inner => {
                    on.iter().fold(rejected.clone(), |all, part| &all | &part.rejects_nulls_of)
                }
                _ => rejected.clone(),
            };
            // Rows of NULLs that come from within the right side of a left join do not matter above
            // it, unless that side is there at all.
            let left = Box::new(reduce(left, &below)?);
            let right = Box::new(reduce(right, &below)?);
            From::Join { kind, left, right, on: on.clone() }
        }
    })
}

/// The tables whose rows some outer join extends by NULLs.
fn extended_by_nulls(from: &From) -> BTreeSet<Occurrence> {
    match from {
        From::Table(_) => BTreeSet::new(),
        From::Product(parts) => parts.iter().flat_map(extended_by_nulls).collect(),
        From::Join { kind, left, right, .. } => {
            let right =
                if *kind == JoinKind::Inner { extended_by_nulls(right) } else { right.tables() };
            &extended_by_nulls(left) | &right
        }
    }
}

/// Adds the parts of each ON that are known and that together reject NULLs of each extended table that they
/// read.
fn usable_in_joins<'a>(
    from: &'a From,
    extended: &BTreeSet<Occurrence>,
    usable: &mut Vec<&'a Condition>,
) -> Result<(), Unmappable> {
    let mut refusal = None;
    each_on(from, &mut |on| {
        let mut parts: Vec<&Condition> = on.iter().filter(|part| !part.unknown).collect();
        let mut before = usize::MAX;
        while parts.len() < before {
            before = parts.len();
            let rejected: BTreeSet<Occurrence> =
                parts.iter().flat_map(|part| part.rejects_nulls_of.clone()).collect();
            parts.retain(|part| (&part.reads & extended).is_subset(&rejected));
        }
        if parts.is_empty() && !on.is_empty() {
            let computed = on.iter().all(|part| part.unknown);
            refusal = Some(if computed {
                Unmappable::ComputedCondition
            } else {
                Unmappable::LooseCondition
            });
        }
        usable.extend(parts);
    });
    refusal.map_or(Ok(()), Err)
}

/// The tables on the shortest ways by equal columns from a changed one to those of the unit, if there are
/// such ways.
fn way(
    start: Occurrence,
    ends: &BTreeSet<Occurrence>,
    usable: &[&Condition],
) -> Option<BTreeSet<Occurrence>> {
    let mut neighbours: BTreeMap<Occurrence, BTreeSet<Occurrence>> = BTreeMap::new();
    for (one, other) in usable.iter().flat_map(|part| &part.equal) {
        neighbours.entry(one.of).or_default().insert(other.of);
        neighbours.entry(other.of).or_default().insert(one.of);
    }
    let mut reached_from = BTreeMap::from([(start, start)]);
    let mut queue = VecDeque::from([start]);
    while let Some(table) = queue.pop_front() {
        for &next in neighbours.get(&table).into_iter().flatten() {
            if let Entry::Vacant(place) = reached_from.entry(next) {
                place.insert(table);
                queue.push_back(next);
            }
        }
    }
    let mut way = BTreeSet::from([start]);
    for &end in ends {
        let mut table = end;
        while way.insert(table) {
            table = *reached_from.get(&table)?;
        }
    }
    Some(way)
}

/// The same with the left sides of left joins where the right sides are needed, unless a changed row stands
/// there itself: rows of NULLs are then needed, too.
fn with_preserved(
    from: &From,
    way: BTreeSet<Occurrence>,
    changed: Occurrence,
) -> BTreeSet<Occurrence> {
    match from {
        From::Table(_) => way,
        From::Product(parts) => {
            parts.iter().fold(way, |way, part| with_preserved(part, way, changed))
        }
        From::Join { kind, left, right, .. } => {
            let (on_left, on_right) = (left.tables(), right.tables());
            let lost = *kind == JoinKind::Left
                && on_left.is_disjoint(&way)
                && !on_right.is_disjoint(&way)
                && !on_right.contains(&changed);
            let way = if lost { &way | &on_left } else { way };
            with_preserved(right, with_preserved(left, way, changed), changed)
        }
    }
}

/// The conditions of the joins of which something is left: not of left joins without a right side, whose
/// conditions filter nothing.
fn conditions_within(from: &From, way: &BTreeSet<Occurrence>, numbers: &mut BTreeSet<usize>) {
    match from {
        From::Table(_) => {}
        From::Product(parts) => {
            parts.iter().for_each(|part| conditions_within(part, way, numbers));
        }
        From::Join { kind, left, right, on } => {
            conditions_within(left, way, numbers);
            conditions_within(right, way, numbers);
            if *kind == JoinKind::Inner || !right.tables().is_disjoint(way) {
                numbers.extend(on.iter().map(|part| part.number));
            }
        }
    }
}

/// The column of that occurrence that the condition equates to the unit.
fn equated(condition: &Condition, unit: Column, occurrence: Occurrence) -> Option<i16> {
    condition.equal.iter().find_map(|&(left, right)| match (left, right) {
        (one, other) | (other, one) if one == unit && other.of == occurrence => Some(other.number),
        _ => None,
    })
}

/// The same in an ON that a row of the occurrence has to pass: of an inner join, or of a left join that
/// has it on the right.
fn equated_in_joins(from: &From, unit: Column, occurrence: Occurrence) -> Option<i16> {
    match from {
        From::Table(_) => None,
        From::Product(parts) => {
            parts.iter().find_map(|part| equated_in_joins(part, unit, occurrence))
        }
        From::Join { kind, left, right, on } => {
            let passes = *kind == JoinKind::Inner || right.tables().contains(&occurrence);
            passes
                .then(|| on.iter().find_map(|part| equated(part, unit, occurrence)))
                .flatten()
                .or_else(|| equated_in_joins(left, unit, occurrence))
                .or_else(|| equated_in_joins(right, unit, occurrence))
        }
    }
}
