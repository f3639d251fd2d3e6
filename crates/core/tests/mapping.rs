//! The rules of `delta`, tried against queries and changes that are drawn, on tables in memory: whatever
//! differs between a query's results before and after lies in the units that the mapping names.
#![allow(clippy::unwrap_used)] // a test stops at the first surprise

use std::collections::{BTreeMap, BTreeSet};

use cache_refresher_core::delta::{
    Column, Condition, From, JoinKind, Mapping, Partition, Query, map,
};
use proptest::prelude::*;

/// A row of a table: two numbers that may be NULL. Where an outer join extends by NULLs, both are.
type Row = [Option<i8>; 2];
/// A row of a join, by occurrence; nothing where an outer join has found no match.
type Joined = BTreeMap<usize, Option<Row>>;
type Tables = Vec<Vec<Row>>;

/// A condition with its meaning.
#[derive(Debug, Clone)]
enum Test {
    Equal(Column, Column),
    /// Accepts NULLs of the second.
    EqualOrElse(Column, Column, i8),
    Greater(Column, i8),
    IsNull(Column),
    All(Vec<Self>),
}

fn value(row: &Joined, column: Column) -> Option<i8> {
    row.get(&column.of).copied().flatten().and_then(|row| row[column.number as usize - 1])
}

impl Test {
    fn holds(&self, row: &Joined) -> bool {
        match self {
            Self::Equal(left, right) => {
                value(row, *left).is_some() && value(row, *left) == value(row, *right)
            }
            Self::EqualOrElse(left, right, or_else) => {
                value(row, *left).is_some_and(|left| left == value(row, *right).unwrap_or(*or_else))
            }
            Self::Greater(column, than) => value(row, *column).is_some_and(|value| value > *than),
            Self::IsNull(column) => value(row, *column).is_none(),
            Self::All(parts) => parts.iter().all(|part| part.holds(row)),
        }
    }

    fn described(&self) -> Condition {
        let set = |columns: &[Column]| columns.iter().map(|column| column.of).collect();
        match self {
            Self::Equal(left, right) => Condition {
                reads: set(&[*left, *right]),
                rejects_nulls_of: set(&[*left, *right]),
                equal: vec![(*left, *right)],
            },
            Self::EqualOrElse(left, right, _) => Condition {
                reads: set(&[*left, *right]),
                rejects_nulls_of: set(&[*left]),
                equal: Vec::new(),
            },
            Self::Greater(column, _) => Condition {
                reads: set(&[*column]),
                rejects_nulls_of: set(&[*column]),
                equal: Vec::new(),
            },
            Self::IsNull(column) => Condition { reads: set(&[*column]), ..Condition::default() },
            Self::All(parts) => {
                parts.iter().map(Self::described).fold(Condition::default(), |mut all, part| {
                    all.reads.extend(part.reads);
                    all.rejects_nulls_of.extend(part.rejects_nulls_of);
                    all.equal.extend(part.equal);
                    all
                })
            }
        }
    }
}

/// A join tree with the meaning of its conditions.
#[derive(Debug, Clone)]
enum Tree {
    Table(usize),
    Join(JoinKind, Box<Self>, Box<Self>, Test),
    /// A subquery with a condition of its own.
    Where(Box<Self>, Test),
}

impl Tree {
    fn described(&self) -> From {
        match self {
            Self::Table(occurrence) => From::Table(*occurrence),
            Self::Join(kind, left, right, on) => From::Join {
                kind: *kind,
                left: Box::new(left.described()),
                right: Box::new(right.described()),
                on: on.described(),
            },
            Self::Where(of, condition) => From::Join {
                kind: JoinKind::Inner,
                left: Box::new(of.described()),
                right: Box::new(From::Product(Vec::new())),
                on: condition.described(),
            },
        }
    }

    fn occurrences(&self) -> Vec<usize> {
        match self {
            Self::Table(occurrence) => vec![*occurrence],
            Self::Join(_, left, right, _) => [left.occurrences(), right.occurrences()].concat(),
            Self::Where(of, _) => of.occurrences(),
        }
    }

    /// The rows of the join, with these rows in the places of the tables.
    fn rows(&self, tables: &Tables) -> Vec<Joined> {
        match self {
            Self::Table(occurrence) => {
                let rows = tables[*occurrence].iter();
                rows.map(|row| BTreeMap::from([(*occurrence, Some(*row))])).collect()
            }
            Self::Where(of, condition) => {
                of.rows(tables).into_iter().filter(|row| condition.holds(row)).collect()
            }
            Self::Join(kind, left, right, on) => {
                let right_rows = right.rows(tables);
                let mut joined = Vec::new();
                for row in left.rows(tables) {
                    let before = joined.len();
                    for other in &right_rows {
                        let mut both = row.clone();
                        both.extend(other.clone());
                        if on.holds(&both) {
                            joined.push(both);
                        }
                    }
                    if *kind == JoinKind::Left && joined.len() == before {
                        let mut extended = row;
                        extended.extend(right.occurrences().into_iter().map(|place| (place, None)));
                        joined.push(extended);
                    }
                }
                joined
            }
        }
    }
}

#[derive(Debug, Clone)]
struct View {
    tree: Tree,
    filter: Vec<Test>,
    unit: Column,
    /// Counts rows for each unit, with a second grouping column, instead of listing them.
    group: Option<Column>,
    more_than_one: bool,
}

impl View {
    fn described(&self) -> Query {
        let partitions = self.group.map(|by| (Partition::Group, BTreeSet::from([self.unit, by])));
        Query {
            from: self.tree.described(),
            filter: self.filter.iter().map(Test::described).collect(),
            partitions: partitions.into_iter().collect(),
        }
    }

    /// The result, by unit.
    fn result(&self, tables: &Tables) -> BTreeMap<Option<i8>, Vec<String>> {
        let mut result: BTreeMap<Option<i8>, Vec<String>> = BTreeMap::new();
        let rows = self.tree.rows(tables).into_iter();
        let rows = rows.filter(|row| self.filter.iter().all(|part| part.holds(row)));
        match self.group {
            None => {
                for row in rows {
                    result.entry(value(&row, self.unit)).or_default().push(format!("{row:?}"));
                }
            }
            Some(by) => {
                let mut counts: BTreeMap<(Option<i8>, Option<i8>), u32> = BTreeMap::new();
                for row in rows {
                    *counts.entry((value(&row, self.unit), value(&row, by))).or_default() += 1;
                }
                for ((unit, by), count) in counts {
                    if count > 1 || !self.more_than_one {
                        result.entry(unit).or_default().push(format!("{by:?}: {count}"));
                    }
                }
            }
        }
        result.values_mut().for_each(|rows| rows.sort());
        result
    }

    /// The units that the mapping names for a change from the tables before to those now.
    fn mapped(
        &self,
        mappings: &[(usize, Mapping)],
        changed: &[Changed],
        now: &Tables,
    ) -> BTreeSet<Option<i8>> {
        let mut units = BTreeSet::new();
        for (occurrence, mapping) in mappings {
            let of_this = &changed[*occurrence];
            match mapping {
                Mapping::Direct { column, with_null } => {
                    let values = of_this.all.iter().map(|row| row[*column as usize - 1]);
                    units.extend(values.filter(|value| value.is_some() || *with_null));
                }
                Mapping::Join { filter } => {
                    let others: Vec<usize> = (0..changed.len())
                        .filter(|other| other != occurrence && !changed[*other].old.is_empty())
                        .collect();
                    for choice in 0..1_usize << others.len() {
                        let mut tables = now.clone();
                        tables[*occurrence].clone_from(&of_this.all);
                        for (place, other) in others.iter().enumerate() {
                            if choice >> place & 1 == 1 {
                                tables[*other].clone_from(&changed[*other].old);
                            }
                        }
                        for row in self.tree.rows(&tables) {
                            let kept = filter.iter().all(|place| self.filter[*place].holds(&row));
                            if kept && row[occurrence].is_some() {
                                units.insert(value(&row, self.unit));
                            }
                        }
                    }
                }
            }
        }
        units
    }
}

#[derive(Debug, Clone, Default)]
struct Changed {
    all: Vec<Row>,
    old: Vec<Row>,
}

fn column(occurrences: Vec<usize>) -> impl Strategy<Value = Column> {
    (prop::sample::select(occurrences), 1..=2_i16).prop_map(|(of, number)| Column { of, number })
}

fn test(left: Vec<usize>, right: Vec<usize>) -> impl Strategy<Value = Test> {
    let all = [left.clone(), right.clone()].concat();
    let equal = (column(left.clone()), column(right.clone()))
        .prop_map(|(left, right)| Test::Equal(left, right))
        .boxed();
    let loose = (column(right), column(left.clone()), 0..3_i8)
        .prop_map(|(one, other, or_else)| Test::EqualOrElse(one, other, or_else));
    let narrow = (equal.clone(), column(all), 0..2_i8)
        .prop_map(|(equal, column, than)| Test::All(vec![equal, Test::Greater(column, than)]));
    // Besides, two columns of the same side.
    let odd = (equal.clone(), column(left.clone()), column(left))
        .prop_map(|(equal, one, other)| Test::All(vec![equal, Test::Equal(one, other)]));
    prop_oneof![6 => equal, 2 => loose, 2 => narrow, 1 => odd]
}

fn tree(occurrences: Vec<usize>) -> BoxedStrategy<Tree> {
    let condition = prop::option::weighted(0.2, filter(occurrences.clone()));
    let filtered = |(tree, condition)| match condition {
        Some(condition) => Tree::Where(Box::new(tree), condition),
        None => tree,
    };
    (joins(occurrences), condition).prop_map(filtered).boxed()
}

fn joins(occurrences: Vec<usize>) -> BoxedStrategy<Tree> {
    if let [one] = occurrences[..] {
        return Just(Tree::Table(one)).boxed();
    }
    (1..occurrences.len())
        .prop_flat_map(move |split| {
            let (left, right) = occurrences.split_at(split);
            let kind = prop_oneof![Just(JoinKind::Inner), Just(JoinKind::Left)];
            let on = test(left.to_vec(), right.to_vec());
            (kind, tree(left.to_vec()), tree(right.to_vec()), on)
        })
        .prop_map(|(kind, left, right, on)| Tree::Join(kind, Box::new(left), Box::new(right), on))
        .boxed()
}

fn filter(all: Vec<usize>) -> impl Strategy<Value = Test> {
    prop_oneof![
        (column(all.clone()), 0..2_i8).prop_map(|(column, than)| Test::Greater(column, than)),
        column(all.clone()).prop_map(Test::IsNull),
        (column(all.clone()), column(all.clone())).prop_map(|(one, other)| Test::Equal(one, other)),
        (column(all.clone()), column(all), 0..3_i8)
            .prop_map(|(one, other, or_else)| Test::EqualOrElse(one, other, or_else)),
    ]
}

fn view(count: usize) -> impl Strategy<Value = View> {
    let all: Vec<usize> = (0..count).collect();
    let filters = prop::collection::vec(filter(all.clone()), 0..2);
    let group = prop::option::of(column(all.clone()));
    (tree(all.clone()), filters, column(all), group, any::<bool>()).prop_map(
        |(tree, filter, unit, group, more_than_one)| View {
            tree,
            filter,
            unit,
            group,
            more_than_one,
        },
    )
}

fn row() -> impl Strategy<Value = Row> {
    let number = || prop_oneof![1 => Just(None), 5 => (0..4_i8).prop_map(Some)];
    [number(), number()]
}

/// Rows before, and what becomes of each: nothing, it goes, or it changes; and rows that come. A change
/// may pass through a state in between.
fn history() -> impl Strategy<Value = (Vec<Row>, Vec<Row>, Changed)> {
    let fate = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Vec::new())),
        2 => prop::collection::vec(row(), 1..3).prop_map(Some)
    ];
    let rows = prop::collection::vec((row(), fate), 0..6);
    (rows, prop::collection::vec(row(), 0..2)).prop_map(|(rows, new)| {
        let (mut before, mut now, mut changed) = (Vec::new(), Vec::new(), Changed::default());
        for (row, fate) in rows {
            before.push(row);
            match fate {
                None => now.push(row),
                Some(states) => {
                    changed.all.push(row);
                    changed.old.push(row);
                    for (place, state) in states.iter().enumerate() {
                        changed.all.push(*state);
                        if place + 1 == states.len() {
                            now.push(*state);
                        } else {
                            changed.old.push(*state);
                        }
                    }
                }
            }
        }
        for row in new {
            now.push(row);
            changed.all.push(row);
        }
        (before, now, changed)
    })
}

/// More by hand: `MAPPING_CASES=2000000 cargo test --release --test mapping`.
fn cases() -> u32 {
    std::env::var("MAPPING_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(20_000)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_global_rejects: u32::MAX,
        ..Default::default()
    })]

    #[test]
    fn what_differs_is_mapped(
        (view, tables) in (1..=4_usize)
            .prop_flat_map(|count| (view(count), prop::collection::vec(history(), count)))
    ) {
        let mappings = map(&view.described(), view.unit);
        prop_assume!(mappings.is_ok());
        let before: Tables = tables.iter().map(|(before, ..)| before.clone()).collect();
        let now: Tables = tables.iter().map(|(_, now, _)| now.clone()).collect();
        let changed: Vec<Changed> = tables.into_iter().map(|(.., changed)| changed).collect();
        let mapped = view.mapped(&mappings.unwrap(), &changed, &now);
        let (old, new) = (view.result(&before), view.result(&now));
        for unit in old.keys().chain(new.keys()) {
            prop_assert!(
                old.get(unit) == new.get(unit) || mapped.contains(unit),
                "unit {:?} changed from {:?} to {:?}, mapped are {:?}",
                unit, old.get(unit), new.get(unit), mapped
            );
        }
    }
}
