//! Queries of which the meaning is known, on tables in memory: what they return, and which units the rules of
//! `delta` name after a change. Tried with what is drawn (`main.rs`) and with what a fuzzer finds
//! (`fuzz/fuzz_targets/mapping.rs`).

use std::collections::{BTreeMap, BTreeSet};

use cache_refresher_core::delta::{
    Column, Condition, From, JoinKind, Map, Mapping, Occurrence, Partition, Query, Term, map,
};

/// A row of a table: two numbers that may be NULL. Where an outer join extends by NULLs, both are.
pub type Row = [Option<i8>; 2];
/// A row of a join, by occurrence; nothing where an outer join has found no match.
type Joined = BTreeMap<Occurrence, Option<Row>>;
type Tables = Vec<Vec<Row>>;

/// Subqueries that group have places from here on: they show what they group by, and a count.
pub const GROUPED: Occurrence = 100;

/// A condition with its meaning.
#[derive(Debug, Clone)]
pub enum Test {
    Equal(Column, Column),
    /// Accepts NULLs of the second.
    EqualOrElse(Column, Column, i8),
    Greater(Column, i8),
    IsNull(Column),
}

fn value(row: &Joined, column: Column) -> Option<i8> {
    row.get(&column.of).copied().flatten().and_then(|row| row[column.number as usize - 1])
}

/// What a column of a subquery stands for: nothing if it is computed.
type Meaning = BTreeMap<Occurrence, Column>;

fn meaning(of: Column, meaning: &Meaning) -> Option<Column> {
    if of.of < GROUPED {
        Some(of)
    } else if of.number == 1 {
        Some(meaning[&of.of])
    } else {
        None
    }
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
        }
    }

    /// Its columns, and whether they reject NULLs.
    fn columns(&self) -> Vec<(Column, bool)> {
        match self {
            Self::Equal(left, right) => vec![(*left, true), (*right, true)],
            Self::EqualOrElse(left, right, _) => vec![(*left, true), (*right, false)],
            Self::Greater(column, _) => vec![(*column, true)],
            Self::IsNull(column) => vec![(*column, false)],
        }
    }

    /// The same on the columns that those of subqueries stand for.
    fn flat(&self, by: &Meaning) -> Option<Self> {
        Some(match self {
            Self::Equal(left, right) => Self::Equal(meaning(*left, by)?, meaning(*right, by)?),
            Self::EqualOrElse(left, right, or_else) => {
                Self::EqualOrElse(meaning(*left, by)?, meaning(*right, by)?, *or_else)
            }
            Self::Greater(column, than) => Self::Greater(meaning(*column, by)?, *than),
            Self::IsNull(column) => Self::IsNull(meaning(*column, by)?),
        })
    }
}

/// Part of a conjunction.
#[derive(Debug, Clone)]
pub struct Part {
    pub number: usize,
    pub test: Test,
}

impl Part {
    fn described(&self, by: &Meaning) -> Condition {
        let columns = self.test.columns().into_iter();
        let known: Vec<(Column, bool)> =
            columns.filter_map(|(column, rejects)| Some((meaning(column, by)?, rejects))).collect();
        Condition {
            number: self.number,
            reads: known.iter().map(|(column, _)| column.of).collect(),
            unknown: known.len() < self.test.columns().len(),
            rejects_nulls_of: known
                .iter()
                .filter(|(_, rejects)| *rejects)
                .map(|(column, _)| column.of)
                .collect(),
            equal: match self.test.flat(by) {
                Some(Test::Equal(left, right)) => vec![(left, right)],
                _ => Vec::new(),
            },
        }
    }
}

/// A join tree with the meaning of its conditions.
#[derive(Debug, Clone)]
pub enum Tree {
    Table(Occurrence),
    Join(JoinKind, Box<Self>, Box<Self>, Vec<Part>),
    /// A subquery with a condition of its own.
    Where(Box<Self>, Part),
    /// A subquery that groups by a column and counts; with HAVING or without.
    Grouped {
        place: Occurrence,
        of: Box<Self>,
        by: Column,
        more_than_one: bool,
    },
}

/// What is left of a tree and its conditions in a mapping.
struct Kept<'a> {
    tables: &'a BTreeSet<Occurrence>,
    conditions: &'a BTreeSet<usize>,
}

impl Tree {
    /// Gives each condition a number, and each subquery that groups a place, which the conditions know
    /// already.
    fn number(&mut self, next: &mut usize) {
        let mut number = |part: &mut Part| {
            part.number = *next;
            *next += 1;
        };
        match self {
            Self::Table(_) => {}
            Self::Where(of, part) => {
                number(part);
                of.number(next);
            }
            Self::Grouped { of, .. } => of.number(next),
            Self::Join(_, left, right, on) => {
                on.iter_mut().for_each(number);
                left.number(next);
                right.number(next);
            }
        }
    }

    fn meaning(&self, all: &mut Meaning) {
        match self {
            Self::Table(_) => {}
            Self::Where(of, _) => of.meaning(all),
            Self::Grouped { place, of, by, .. } => {
                of.meaning(all);
                let by = meaning(*by, all).unwrap();
                all.insert(*place, by);
            }
            Self::Join(_, left, right, _) => {
                left.meaning(all);
                right.meaning(all);
            }
        }
    }

    fn described(&self, by: &Meaning) -> From {
        match self {
            Self::Table(occurrence) => From::Table(*occurrence),
            Self::Join(kind, left, right, on) => From::Join {
                kind: *kind,
                left: Box::new(left.described(by)),
                right: Box::new(right.described(by)),
                on: on.iter().map(|part| part.described(by)).collect(),
            },
            Self::Where(of, condition) => From::Join {
                kind: JoinKind::Inner,
                left: Box::new(of.described(by)),
                right: Box::new(From::Product(Vec::new())),
                on: vec![condition.described(by)],
            },
            Self::Grouped { of, .. } => of.described(by),
        }
    }

    /// What a query sees of it.
    pub fn visible(&self) -> Vec<Occurrence> {
        match self {
            Self::Table(occurrence) => vec![*occurrence],
            Self::Join(_, left, right, _) => [left.visible(), right.visible()].concat(),
            Self::Where(of, _) => of.visible(),
            Self::Grouped { place, .. } => vec![*place],
        }
    }

    fn is_approximate(&self) -> bool {
        match self {
            Self::Table(_) => false,
            Self::Join(_, left, right, _) => left.is_approximate() || right.is_approximate(),
            Self::Where(of, _) => of.is_approximate(),
            Self::Grouped { more_than_one, of, .. } => *more_than_one || of.is_approximate(),
        }
    }

    /// The rows of the query, with these rows in the places of the tables.
    fn rows(&self, tables: &Tables) -> Vec<Joined> {
        match self {
            Self::Table(occurrence) => {
                let rows = tables[*occurrence].iter();
                rows.map(|row| BTreeMap::from([(*occurrence, Some(*row))])).collect()
            }
            Self::Where(of, condition) => {
                of.rows(tables).into_iter().filter(|row| condition.test.holds(row)).collect()
            }
            Self::Join(kind, left, right, on) => {
                let all = |row: &Joined| on.iter().all(|part| part.test.holds(row));
                join(*kind, left.rows(tables), &right.rows(tables), &right.visible(), all)
            }
            Self::Grouped { place, of, by, more_than_one } => {
                let mut counts: BTreeMap<Option<i8>, i8> = BTreeMap::new();
                for row in of.rows(tables) {
                    let count = counts.entry(value(&row, *by)).or_default();
                    *count = count.saturating_add(1);
                }
                counts.retain(|_, count| *count > 1 || !more_than_one);
                let rows = counts.into_iter();
                rows.map(|(by, count)| BTreeMap::from([(*place, Some([by, Some(count)]))]))
                    .collect()
            }
        }
    }

    /// The rows of what is left of the joins, subqueries that group being what they group; nothing if
    /// nothing is left.
    fn mapped(&self, tables: &Tables, by: &Meaning, kept: &Kept) -> Option<Vec<Joined>> {
        let holds = |part: &Part, row: &Joined| {
            !kept.conditions.contains(&part.number) || part.test.flat(by).unwrap().holds(row)
        };
        match self {
            Self::Table(occurrence) => kept.tables.contains(occurrence).then(|| self.rows(tables)),
            Self::Where(of, part) => {
                let rows = of.mapped(tables, by, kept)?.into_iter();
                Some(rows.filter(|row| holds(part, row)).collect())
            }
            Self::Grouped { of, .. } => of.mapped(tables, by, kept),
            Self::Join(kind, left, right, on) => {
                let all = |row: &Joined| on.iter().all(|part| holds(part, row));
                let right_side = right.described(by).tables().into_iter().collect::<Vec<_>>();
                match (left.mapped(tables, by, kept), right.mapped(tables, by, kept)) {
                    (None, None) => None,
                    (Some(one), None) | (None, Some(one)) => {
                        Some(one.into_iter().filter(all).collect())
                    }
                    (Some(left), Some(right)) => Some(join(*kind, left, &right, &right_side, all)),
                }
            }
        }
    }
}

fn join(
    kind: JoinKind,
    left: Vec<Joined>,
    right: &[Joined],
    extended: &[Occurrence],
    on: impl Fn(&Joined) -> bool,
) -> Vec<Joined> {
    let mut joined = Vec::new();
    for row in left {
        let before = joined.len();
        for other in right {
            let mut both = row.clone();
            both.extend(other.clone());
            if on(&both) {
                joined.push(both);
            }
        }
        if kind == JoinKind::Left && joined.len() == before {
            let mut alone = row;
            alone.extend(extended.iter().map(|place| (*place, None)));
            joined.push(alone);
        }
    }
    joined
}

#[derive(Debug, Clone, Copy)]
pub enum Unit {
    Column(Column),
    Sum(Column, Column),
}

impl Unit {
    fn of(self, row: &Joined) -> Option<i8> {
        match self {
            Self::Column(column) => value(row, column),
            Self::Sum(one, other) => Some(value(row, one)? + value(row, other)?),
        }
    }

    /// The same of the columns that those of subqueries stand for, if they are not computed.
    fn flat(self, by: &Meaning) -> Option<Self> {
        Some(match self {
            Self::Column(column) => Self::Column(meaning(column, by)?),
            Self::Sum(one, other) => Self::Sum(meaning(one, by)?, meaning(other, by)?),
        })
    }

    fn described(self) -> Term {
        match self {
            Self::Column(column) => Term::Column(column),
            Self::Sum(one, other) => {
                Term::Expression { reads: BTreeSet::from([one, other]), number: 0 }
            }
        }
    }
}

#[derive(Debug, Clone)]
pub struct View {
    pub tree: Tree,
    pub filter: Vec<Part>,
    pub unit: Unit,
    /// Counts rows for each unit, with a second grouping column, instead of listing them.
    pub group: Option<Column>,
    pub more_than_one: bool,
}

impl View {
    /// Gives each condition its number.
    pub fn numbered(mut self) -> Self {
        let mut next = 0;
        self.tree.number(&mut next);
        for part in &mut self.filter {
            part.number = next;
            next += 1;
        }
        self
    }

    /// Whether it is refreshed by changes; fails where some unit of what differs after them is not mapped.
    pub fn check(&self, tables: Vec<History>) -> Result<bool, String> {
        let Some(map) = self.map() else { return Ok(false) };
        let before: Tables = tables.iter().map(|table| table.before.clone()).collect();
        let now: Tables = tables.iter().map(|table| table.now.clone()).collect();
        let changed: Vec<Changed> = tables.into_iter().map(|table| table.changed).collect();
        let mapped = self.mapped(&map, &changed, &now);
        let (old, new) = (self.result(&before), self.result(&now));
        for unit in old.keys().chain(new.keys()) {
            let (was, is) = (old.get(unit), new.get(unit));
            if was != is && !mapped.contains(unit) {
                return Err(format!("unit {unit:?} from {was:?} to {is:?}, mapped are {mapped:?}"));
            }
        }
        Ok(true)
    }

    fn meaning(&self) -> Meaning {
        let mut all = Meaning::new();
        self.tree.meaning(&mut all);
        all
    }

    /// How it is refreshed, if by changes.
    fn map(&self) -> Option<Map> {
        let by = self.meaning();
        let unit = self.unit.flat(&by)?.described();
        let partitions = self.group.map(|group| {
            let group = meaning(group, &by).map(Term::Column);
            (Partition::Group, group.into_iter().chain([unit.clone()]).collect())
        });
        let query = Query {
            from: self.tree.described(&by),
            filter: self.filter.iter().map(|part| part.described(&by)).collect(),
            partitions: partitions.into_iter().collect(),
            approximate: self.tree.is_approximate(),
            decides_matches: None,
        };
        map(&query, &unit).ok()
    }

    /// The result, by unit.
    fn result(&self, tables: &Tables) -> BTreeMap<Option<i8>, Vec<String>> {
        let mut result: BTreeMap<Option<i8>, Vec<String>> = BTreeMap::new();
        let rows = self.tree.rows(tables).into_iter();
        let rows = rows.filter(|row| self.filter.iter().all(|part| part.test.holds(row)));
        match self.group {
            None => {
                for row in rows {
                    result.entry(self.unit.of(&row)).or_default().push(format!("{row:?}"));
                }
            }
            Some(by) => {
                let mut counts: BTreeMap<(Option<i8>, Option<i8>), u32> = BTreeMap::new();
                for row in rows {
                    *counts.entry((self.unit.of(&row), value(&row, by))).or_default() += 1;
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
    fn mapped(&self, map: &Map, changed: &[Changed], now: &Tables) -> BTreeSet<Option<i8>> {
        let by = self.meaning();
        let unit = self.unit.flat(&by).unwrap();
        let places: BTreeSet<Occurrence> =
            (0..changed.len()).filter(|place| !changed[*place].all.is_empty()).collect();
        let (steps, null) = map.steps(&places);
        let mut units = BTreeSet::new();
        if null {
            units.insert(None);
        }
        for (occurrence, mapping) in steps {
            let of_this = &changed[occurrence];
            match mapping {
                Mapping::Direct { column, with_null } => {
                    let values = of_this.all.iter().map(|row| row[*column as usize - 1]);
                    units.extend(values.filter(|value| value.is_some() || *with_null));
                }
                Mapping::Join { tables: way, conditions } => {
                    let kept = Kept { tables: way, conditions };
                    let others: Vec<Occurrence> = way
                        .iter()
                        .copied()
                        .filter(|other| *other != occurrence && !changed[*other].old.is_empty())
                        .collect();
                    for choice in 0..1_usize << others.len() {
                        let mut tables = now.clone();
                        tables[occurrence].clone_from(&of_this.all);
                        for (place, other) in others.iter().enumerate() {
                            if choice >> place & 1 == 1 {
                                tables[*other].clone_from(&changed[*other].old);
                            }
                        }
                        let rows = self.tree.mapped(&tables, &by, &kept).unwrap().into_iter();
                        for row in rows {
                            let kept = self.filter.iter().all(|part| {
                                !conditions.contains(&part.number)
                                    || part.test.flat(&by).unwrap().holds(&row)
                            });
                            if kept && row[&occurrence].is_some() {
                                units.insert(unit.of(&row));
                            }
                        }
                    }
                }
            }
        }
        units
    }
}

/// What has changed of a table: every state of a row, and those that it is not in any more.
#[derive(Debug, Clone, Default)]
struct Changed {
    all: Vec<Row>,
    old: Vec<Row>,
}

/// What has become of a table.
#[derive(Debug, Clone, Default)]
pub struct History {
    before: Vec<Row>,
    now: Vec<Row>,
    changed: Changed,
}

impl History {
    /// Of rows, and what becomes of each: nothing, it goes, or it changes, perhaps through states in between;
    /// and of rows that come.
    pub fn of(rows: Vec<(Row, Option<Vec<Row>>)>, new: Vec<Row>) -> Self {
        let Self { mut before, mut now, mut changed } = Self::default();
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
        Self { before, now, changed }
    }
}
