//! From changed rows to the rows of a view that they can concern.
//!
//! A view is refreshed key by key: the *unit* is one of its columns, and every row with one of the
//! units that can have changed is computed afresh from the present sources. Nothing is added to or
//! taken from what is stored, so nothing can drift, and a unit too many costs a look-up. A unit too
//! few would leave a wrong row for ever, which is why the rules below are strict.
//!
//! Queries that are understood are trees of inner and left joins of tables, with conditions, grouping,
//! HAVING, DISTINCT, aggregates and window functions as they like, where
//!
//! 1. the unit is a column of a table that no outer join extends by NULLs,
//! 2. every ON that reads such an extended table rejects a row of NULLs in its place,
//! 3. GROUP BY, DISTINCT ON and every PARTITION BY contain the unit.
//!
//! Then for each occurrence *i* of a table in the query: put the changed rows, before and after, in its
//! place, let the others be what they are now *or* the old images of their own changed rows, make sure
//! that a changed row takes part, keep what conditions cannot be fooled by NULLs; the units that come
//! out are the ones to compute again. Where the unit is a column of *i*, or equated to one, it is read
//! off the changed row.

use std::collections::BTreeSet;

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

/// What matters of a condition, or of one part of a conjunction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// The tables that it reads.
    pub reads: BTreeSet<Occurrence>,
    /// Those among them a row of NULLs of which makes it false or NULL.
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
        /// ON.
        on: Condition,
    },
}

impl From {
    fn tables(&self) -> BTreeSet<Occurrence> {
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
    /// The columns of GROUP BY, of DISTINCT ON and of each PARTITION BY, as far as they are columns.
    pub partitions: Vec<(Partition, BTreeSet<Column>)>,
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
    /// By the query's own joins, with these parts of WHERE, by their places.
    Join {
        /// What stays of WHERE.
        filter: Vec<usize>,
    },
}

/// Why a column cannot be the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// There is a FULL JOIN.
    FullJoin,
    /// The column's table is extended by NULLs.
    NullableUnit,
    /// A condition of a join accepts NULLs of this table, which is extended by them.
    LooseCondition(Occurrence),
    /// Rows are divided into groups across units.
    Divided(Partition),
}

/// How changed rows of each occurrence are mapped to the unit.
///
/// # Errors
/// Why that column cannot be the unit.
pub fn map(query: &Query, unit: Column) -> Result<Vec<(Occurrence, Mapping)>, Reason> {
    let from = normalized(query)?;
    let extended = extended_by_nulls(&from);
    if extended.contains(&unit.of) {
        return Err(Reason::NullableUnit);
    }
    if let Some(loose) = loose_condition(&from, &extended) {
        return Err(Reason::LooseCondition(loose));
    }
    for (kind, columns) in &query.partitions {
        if !columns.contains(&unit) {
            return Err(Reason::Divided(*kind));
        }
    }
    let filter: Vec<usize> = (0..query.filter.len())
        .filter(|&place| query.filter[place].reads.is_disjoint(&extended))
        .collect();
    let map_one = |occurrence| {
        if occurrence == unit.of {
            return Mapping::Direct { column: unit.number, with_null: true };
        }
        let in_filter = query.filter.iter().find_map(|part| equated(part, unit, occurrence));
        match in_filter.or_else(|| equated_in_joins(&from, unit, occurrence)) {
            Some(column) => Mapping::Direct { column, with_null: false },
            None => Mapping::Join { filter: filter.clone() },
        }
    };
    Ok(from.tables().into_iter().map(|occurrence| (occurrence, map_one(occurrence))).collect())
}

/// The tree with outer joins turned into inner ones where WHERE, or an inner join above, rejects the
/// NULLs that they make.
fn normalized(query: &Query) -> Result<From, Reason> {
    let rejected = query.filter.iter().flat_map(|part| part.rejects_nulls_of.clone()).collect();
    reduce(&query.from, &rejected)
}

fn reduce(from: &From, rejected: &BTreeSet<Occurrence>) -> Result<From, Reason> {
    Ok(match from {
        From::Table(occurrence) => From::Table(*occurrence),
        From::Product(parts) => From::Product(
            parts.iter().map(|part| reduce(part, rejected)).collect::<Result<_, _>>()?,
        ),
        From::Join { kind: JoinKind::Full, .. } => return Err(Reason::FullJoin),
        From::Join { kind, left, right, on } => {
            let reduced = *kind == JoinKind::Left && !right.tables().is_disjoint(rejected);
            let kind = if reduced { JoinKind::Inner } else { *kind };
            // A row that an inner join lets through has no NULLs where its condition rejects them.
            let below = match kind {
                JoinKind::Inner => rejected | &on.rejects_nulls_of,
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

fn loose_condition(from: &From, extended: &BTreeSet<Occurrence>) -> Option<Occurrence> {
    match from {
        From::Table(_) => None,
        From::Product(parts) => parts.iter().find_map(|part| loose_condition(part, extended)),
        From::Join { left, right, on, .. } => {
            let loose = |table: &&Occurrence| {
                extended.contains(*table) && !on.rejects_nulls_of.contains(*table)
            };
            on.reads
                .iter()
                .find(loose)
                .copied()
                .or_else(|| loose_condition(left, extended))
                .or_else(|| loose_condition(right, extended))
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
                .then(|| equated(on, unit, occurrence))
                .flatten()
                .or_else(|| equated_in_joins(left, unit, occurrence))
                .or_else(|| equated_in_joins(right, unit, occurrence))
        }
    }
}
