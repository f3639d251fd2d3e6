//! Method `delta`: only the rows that the changes of the sources can concern are computed again, from
//! the present sources, and compared with what the view holds of them.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;

use cache_refresher_core::delta::{Mapping, Occurrence};
use cache_refresher_core::diff::Diff;
use cache_refresher_core::obstacle::NotNow;
use cache_refresher_core::outcome::{RowChanges, RowCounts};
use cache_refresher_core::visibility::Visibility;
use pgrx::pg_sys::Oid;

use super::diff::{apply, identity_of, naming_duplicates, signed};
use crate::capture::unit::{self, Arm, Unit, Way};
use crate::catalog::capture;
use crate::catalog::view::View;
use crate::error::Result;
use crate::pg::changes::change_log::{self, ChangeKind};
use crate::pg::identity::{Restriction, Scope};
use crate::pg::memory::{self, Caller, MemoryContext};
use crate::pg::query::mapping_query::{self, Images, Parts};
use crate::pg::query::units::Units;
use crate::pg::query::view_query::{self, ViewQuery};
use crate::pg::relation::Relation;
use crate::pg::report::{self, Caught};
use crate::pg::rows::row_streams::{self, RowStreams};
use crate::pg::shared::RunningMark;
use crate::pg::transaction;

/// What came of the attempt.
pub enum Attempt {
    Done {
        rows: RowCounts,
        reason: String,
    },
    /// Nothing has been written; `diff` does it.
    NotPossible(NotNow),
}

/// Changed rows that are put into one query at most; with more, computing everything is not much more.
const MOST_ROWS: usize = 100_000;
/// Tables whose old rows are put into the others' queries at most: each doubles the number of queries.
const MOST_CHANGED_TABLES: usize = 4;
/// What the planner is told that a page costs which is read out of order, where the setting is higher: the
/// rows that are looked up are near to those that somebody has just written, so most of them are in memory.
/// With the server's default a thousand look-ups in a table of 100,000 rows seem to cost more than reading
/// the table, and take a tenth of the time.
const RANDOM_PAGE_COST: (f64, &CStr) = (1.1, c"1.1");

/// Less than this for each unit is what finding its rows in an index costs: no other plan can be much better.
const LOOKUP_COST: f64 = 100.0;
/// No unit costs less than this: to find its rows in the sources and in the view, and to compare and write them,
/// took 15 to 30 µs in views of a million rows, of which a hundredth is 1 in the units of the planner.
const LEAST_UNIT_COST: f64 = 1.0;
/// What planning a query costs in the units of the planner, of which a hundred are about a millisecond: those
/// of a subquery that groups took 0.15 to 0.3 ms.
const PLANNING_COST: f64 = 30.0;
/// What comparing a row costs in those units, as much as fetching two: on a join of a million rows half of the
/// time of a diff.
const COMPARISON_COST: f64 = 0.02;

/// What has happened to the rows of one table.
#[derive(Default)]
struct ChangedRows {
    /// As they were and as they are.
    all: Images,
    /// As they were.
    old: Images,
}

/// Brings the view up to date with what the active snapshot sees, if the changes that `shown` does not
/// show allow it. Under the same conditions as a diff; `total` is the number of rows in the view.
/// Whoever asks for delta by name gets it at any cost.
pub fn refresh(
    view: &View,
    shown: &Visibility,
    total: i64,
    at_any_cost: bool,
    running: &RunningMark,
) -> Attempt {
    // What rules out a row in the view's query need not do so where some of it is asked for alone: an expression
    // can meet values that it is not made for.
    let attempt = transaction::attempt(|| attempt(view, shown, total, at_any_cost, running));
    attempt.unwrap_or_else(|caught| Attempt::NotPossible(failed(view, &caught)))
}

/// Why the rows concerned were not computed alone. The message, which can hold data, is for the server's log only.
pub fn failed(view: &View, caught: &Caught) -> NotNow {
    let state = caught.sqlstate();
    report::log(
        &format!(
            "cache_refresher: cannot compute the rows concerned of {} alone, and compares all: {}",
            view.name,
            caught.full_message()
        ),
        Some(&format!("SQLSTATE {state}.")),
        None,
    );
    NotNow::Failed(state)
}

fn attempt(
    view: &View,
    shown: &Visibility,
    total: i64,
    at_any_cost: bool,
    running: &RunningMark,
) -> Result<Attempt> {
    let relation = Relation::open(view.oid);
    let unit = match unit::of(&relation)? {
        Ok(unit) => unit,
        Err(obstacle) => return Ok(Attempt::NotPossible(obstacle.into())),
    };
    let memory = MemoryContext::new();
    let changes = match memory.run(|| changed_rows(view.oid, &unit, shown))? {
        Ok(changes) => changes,
        Err(why) => return Ok(Attempt::NotPossible(why)),
    };
    let mut budget =
        if at_any_cost { f64::INFINITY } else { memory.run(|| cost_of_diff(&relation)) };
    let lookups = expecting_memory(view.owner);
    let planned = memory.run(|| plan(&relation, &unit, &changes, &mut budget));
    drop(lookups);
    let (Planned { queries, held, .. }, keys) = match planned {
        Ok((planned, _)) if planned.cost > budget => {
            let why = NotNow::Cost { limit: budget, cost: planned.cost };
            return Ok(Attempt::NotPossible(why));
        }
        Ok(planned) => planned,
        Err(why) => return Ok(Attempt::NotPossible(why)),
    };
    if held.bytes() > memory::work_mem() as f64 {
        return Ok(Attempt::NotPossible(NotNow::Memory));
    }
    let changes = replace(view, &relation, &memory, (queries, held), running)?;
    let rows =
        RowCounts { total: total + changes.inserted - changes.deleted, changes: Some(changes) };
    let reason = match keys {
        1 => "the changes concern one key".to_owned(),
        many => format!("the changes concern {many} keys"),
    };
    Ok(Attempt::Done { rows, reason })
}

/// What computes rows anew, and what the view holds of them.
struct Planned {
    queries: Vec<ViewQuery>,
    held: ViewQuery,
    cost: f64,
}

impl Planned {
    fn of(view: &Relation, units: &[Units], budget: f64) -> Self {
        let queries = match units {
            [one] => queries_of(view, one, budget),
            _ => vec![ViewQuery::plan_units(view, units)],
        };
        let held = ViewQuery::plan_shown(view, units);
        let cost = queries.iter().chain([&held]).map(cost_with_comparison).sum();
        Self { queries, held, cost }
    }
}

/// The units that the changes can concern, as queries, and how many they are; or why that costs too much to
/// find out. The first column of the unit is enough where few rows have it.
fn plan(
    view: &Relation,
    unit: &Unit,
    changes: &HashMap<Oid, ChangedRows>,
    budget: &mut f64,
) -> std::result::Result<(Planned, usize), NotNow> {
    let first = units((unit, 0), changes, budget)?;
    let keys = first.len();
    let least = LEAST_UNIT_COST * keys as f64;
    if least > *budget {
        return Err(NotNow::Cost { limit: *budget, cost: least });
    }
    let mut sets = vec![first];
    let mut best = Planned::of(view, &sets, *budget);
    for column in 1..unit.columns.len() {
        if best.cost <= LOOKUP_COST * keys as f64 {
            break;
        }
        let mut rest = *budget;
        match units((unit, column), changes, &mut rest) {
            Ok(units) => sets.push(units),
            Err(_) => continue,
        }
        let narrower = Planned::of(view, &sets, rest);
        if narrower.cost < best.cost {
            (best, *budget) = (narrower, rest);
        } else {
            sets.pop();
        }
    }
    Ok((best, keys))
}

/// Computes the rows of the view that have one unit of each of these sets, and replaces those that it holds.
/// Under the same conditions as a diff.
pub fn refresh_units(view: &View, units: &[Units], running: &RunningMark) -> Result<RowChanges> {
    let relation = Relation::open(view.oid);
    let memory = MemoryContext::new();
    let lookups = expecting_memory(view.owner);
    let planned = memory.run(|| Planned::of(&relation, units, f64::INFINITY));
    drop(lookups);
    replace(view, &relation, &memory, (planned.queries, planned.held), running)
}

/// How many rows a view holds.
pub fn count(view: &View) -> i64 {
    let memory = MemoryContext::new();
    let all = memory.run(|| ViewQuery::plan_shown(&Relation::open(view.oid), &[]));
    signed(memory.run(|| all.run(&mut |_| true)))
}

/// Replaces the rows that `held` returns by those that the queries do.
fn replace(
    view: &View,
    relation: &Relation,
    memory: &MemoryContext,
    (queries, held): (Vec<ViewQuery>, ViewQuery),
    running: &RunningMark,
) -> Result<RowChanges> {
    let work_mem = memory::work_mem();
    let identity = identity_of(view)?;
    let old = memory.run(|| RowStreams::hold(relation, held));
    let streams = RowStreams::begin_with(relation, memory, identity, old, work_mem);
    let mut diff = Diff::natural(streams, work_mem / 2, 0);
    memory.run(|| {
        for query in queries {
            query.run(&mut |row| {
                row_streams::compare(&mut diff, &row);
                true
            });
        }
    });
    let found = diff.finish().into_changes();
    Ok(naming_duplicates(view, || apply(relation, found, running)))
}

/// What computes the rows of these units: one query, or one for each unit. The server finds the rows of one unit
/// in a subquery that groups, too, but not those of several: it computes all of it then.
fn queries_of(view: &Relation, units: &Units, budget: f64) -> Vec<ViewQuery> {
    let of = |units: &Units| ViewQuery::plan_units(view, std::slice::from_ref(units));
    let together = of(units);
    let many = units.len() as f64;
    if units.len() > 1 && units.are_disjoint() && together.cost() > LOOKUP_COST * many {
        let each = |cost: f64| (cost + PLANNING_COST) * many;
        let first = units.one_by_one().next().map(|one| of(&one));
        let pays = |first: ViewQuery| each(first.cost()) < together.cost().min(budget);
        if first.is_some_and(pays) {
            return units.one_by_one().map(|one| of(&one)).collect();
        }
    }
    vec![together]
}

/// What a diff costs before it writes, by the planner's estimates: it runs the query and reads the view.
fn cost_of_diff(view: &Relation) -> f64 {
    cost_with_comparison(&ViewQuery::plan(view, None))
        + cost_with_comparison(&ViewQuery::plan_shown(view, &[]))
}

fn cost_with_comparison(query: &ViewQuery) -> f64 {
    query.cost() + COMPARISON_COST * query.rows()
}

/// In its scope plans are made for rows that are in memory.
fn expecting_memory(owner: Oid) -> Option<Scope> {
    let (cost, setting) = RANDOM_PAGE_COST;
    (view_query::random_page_cost() > cost).then(|| {
        let settings = [(c"random_page_cost", setting)];
        Scope::enter(owner, Restriction::RestrictedOperation, &settings)
    })
}

/// The changed rows of each table; or why they are not known.
fn changed_rows(
    view: Oid,
    unit: &Unit,
    shown: &Visibility,
) -> Result<std::result::Result<HashMap<Oid, ChangedRows>, NotNow>> {
    let mut changes: HashMap<Oid, ChangedRows> = HashMap::new();
    for (table, numbers) in unit.needs() {
        let columns: Vec<i16> = numbers.into_iter().collect();
        let of_table = changes.entry(table).or_default();
        of_table.all.columns.clone_from(&columns);
        of_table.old.columns.clone_from(&columns);
        for (leaf, numbers) in parts_of(view, table, columns, unit.inherits(table))? {
            let mut unknown = false;
            let complete = change_log::collect(leaf, &numbers, shown, |kind, row| {
                match kind {
                    ChangeKind::Any => unknown = true,
                    ChangeKind::Old | ChangeKind::Both => of_table.old.rows.push(row.clone()),
                    ChangeKind::New => {}
                }
                of_table.all.rows.push(row);
                !unknown && of_table.all.rows.len() <= MOST_ROWS
            });
            if unknown || !complete {
                let name = Relation::open(leaf).name();
                let needless = numbers.is_empty();
                let why = if needless { NotNow::AnyRow(name) } else { NotNow::UnknownRows(name) };
                return Ok(Err(why));
            }
            if of_table.all.rows.len() > MOST_ROWS {
                return Ok(Err(NotNow::ManyRows));
            }
        }
    }
    Ok(Ok(changes))
}

/// The tables in which the rows of a table lie, and the numbers that its columns have there.
fn parts_of(
    view: Oid,
    table: Oid,
    columns: Vec<i16>,
    inherits: bool,
) -> Result<Vec<(Oid, Vec<i16>)>> {
    if !inherits {
        return Ok(vec![(table, columns)]);
    }
    let leaves = capture::leaves(view)?.into_iter();
    leaves
        .filter(|leaf| leaf.family.contains(&table))
        .map(|leaf| Ok((leaf.oid, capture::numbers_in(table, columns.clone(), leaf.oid)?)))
        .collect()
}

/// The units of one column that changed rows can concern; or why that costs too much to find out. What it
/// costs is taken off the budget.
fn units(
    (unit, column): (&Unit, usize),
    changes: &HashMap<Oid, ChangedRows>,
    budget: &mut f64,
) -> std::result::Result<Units, NotNow> {
    let mut units = Units::of(unit.columns[column]);
    for arm in &unit.arms {
        units_of_arm((arm, &arm.ways[column]), changes, budget, &mut units)?;
    }
    Ok(units)
}

fn units_of_arm(
    (arm, way): (&Arm, &Way),
    changes: &HashMap<Oid, ChangedRows>,
    budget: &mut f64,
    units: &mut Units,
) -> std::result::Result<(), NotNow> {
    let of = |occurrence: Occurrence| {
        let table = arm.description.tables.iter().find(|table| table.occurrence == occurrence)?;
        let changes = changes.get(&table.oid)?;
        (!changes.all.rows.is_empty()).then_some((occurrence, table.oid, changes))
    };
    let changed = arm.description.tables.iter().map(|table| table.occurrence);
    let changed: BTreeSet<Occurrence> = changed.filter(|place| of(*place).is_some()).collect();
    let mapped_here = |place: Occurrence| arm.description.maps(place);
    if !changed.iter().any(|place| mapped_here(*place)) {
        return Ok(());
    }
    let (steps, null) = way.map.steps(&changed);
    if null {
        units.add(None, true);
    }
    for (occurrence, mapping) in steps {
        let Some((_, table, changed)) = of(occurrence).filter(|_| mapped_here(occurrence)) else {
            continue;
        };
        match mapping {
            Mapping::Direct { column, with_null } => {
                let place = changed.all.columns.iter().position(|number| number == column);
                for row in &changed.all.rows {
                    units.add(place.and_then(|place| row[place]), *with_null);
                }
            }
            Mapping::Join { tables, conditions } => {
                let others: Vec<_> = tables
                    .iter()
                    .filter(|other| **other != occurrence)
                    .filter_map(|other| of(*other))
                    .filter(|(_, _, changed)| !changed.old.rows.is_empty())
                    .map(|(other, oid, changed)| (other, oid, &changed.old))
                    .collect();
                if others.len() >= MOST_CHANGED_TABLES {
                    return Err(NotNow::ManyTables);
                }
                let read = way.read_by(&arm.description, tables, conditions);
                let parts = Parts {
                    description: &arm.description,
                    unit: units.place(),
                    tables,
                    conditions,
                    read: &read,
                };
                // Each of the others is what it is now, or its old rows.
                for choice in 0..1_usize << others.len() {
                    let chosen = |place: &usize| choice >> place & 1 == 1;
                    let instead: Vec<_> =
                        (0..others.len()).filter(chosen).map(|place| others[place]).collect();
                    let all = (occurrence, table, &changed.all);
                    let query = mapping_query::plan(&parts, all, &instead);
                    *budget -= query.cost();
                    if *budget < 0.0 {
                        return Err(NotNow::Search);
                    }
                    let context = Caller::now();
                    query.run(&mut |row| {
                        context.run(|| units.add_first_of(&row));
                        true
                    });
                }
            }
        }
    }
    Ok(())
}
