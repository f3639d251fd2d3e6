//! The column of a view by which its rows can be replaced one by one, and what has to be known of
//! changed rows for that.

use std::collections::{BTreeSet, HashMap};

use cache_refresher_core::delta::{self, Column, Map, Mapping, Occurrence, Term, Unmappable};
use cache_refresher_core::obstacle::Obstacle;
use pgrx::pg_sys::Oid;

use crate::catalog::capture;
use crate::error::Result;
use crate::pg::query::description::{self, Description};
use crate::pg::query::units::UnitColumn;
use crate::pg::relation::Relation;

/// How changed rows lead to units.
pub struct Unit {
    /// The column that its rows are found by; and those that follow it in an index, each a unit of its own.
    /// Rows that have one of the units in each column are all that the changes can concern.
    pub columns: Vec<UnitColumn>,
    /// Of each query by which changes are mapped.
    pub arms: Vec<Arm>,
}

/// How rows that a query reads lead to units.
pub struct Arm {
    pub description: Description,
    /// To those of each column.
    pub ways: Vec<Way>,
}

/// How they lead to the units of one column.
pub struct Way {
    pub map: Map,
    /// The columns that the unit is made of.
    unit: BTreeSet<Column>,
}

impl Way {
    /// The columns that a mapping by joins reads.
    pub fn read_by(
        &self,
        description: &Description,
        tables: &BTreeSet<Occurrence>,
        conditions: &BTreeSet<usize>,
    ) -> BTreeSet<Column> {
        let by_conditions = conditions.iter().flat_map(|&number| &description.columns_read[number]);
        let all = by_conditions.chain(&self.unit);
        all.filter(|column| tables.contains(&column.of)).copied().collect()
    }

    /// Of which columns of a table values have to be kept, by its place.
    fn needs(&self, description: &Description) -> BTreeSet<Column> {
        let exact = self.map.exact.iter().map(|(_, mapping)| mapping);
        let mut needs = BTreeSet::new();
        for (occurrence, mapping) in &self.map.mappings {
            match mapping {
                Mapping::Direct { column, .. } => {
                    needs.insert(Column { of: *occurrence, number: *column });
                }
                Mapping::Join { tables, conditions } => {
                    needs.extend(self.read_by(description, tables, conditions));
                }
            }
        }
        for mapping in exact {
            if let Mapping::Join { tables, conditions } = mapping {
                needs.extend(self.read_by(description, tables, conditions));
            }
        }
        needs
    }
}

impl Unit {
    /// Of which columns of a table values have to be kept, by its OID.
    pub fn needs(&self) -> HashMap<Oid, BTreeSet<i16>> {
        let mut needs: HashMap<Oid, BTreeSet<i16>> = HashMap::new();
        for arm in &self.arms {
            let columns: BTreeSet<Column> =
                arm.ways.iter().flat_map(|way| way.needs(&arm.description)).collect();
            for table in &arm.description.tables {
                let of_table = columns.iter().filter(|column| column.of == table.occurrence);
                let numbers = of_table.map(|column| column.number);
                needs.entry(table.oid).or_default().extend(numbers);
            }
        }
        needs
    }

    /// Whether rows of a table lie in its partitions or children, too.
    pub fn inherits(&self, table: Oid) -> bool {
        let mut tables = self.arms.iter().flat_map(|arm| &arm.description.tables);
        tables.any(|entry| entry.oid == table && entry.inherits)
    }
}

/// What the unit is, and how changed rows lead to it, by arms.
type Maps = Vec<(Term, Map)>;

/// A column that would do.
struct Candidate {
    column: UnitColumn,
    maps: Maps,
}

impl Candidate {
    /// In how many places rows tell their units themselves.
    fn direct(&self) -> usize {
        let mappings = self.maps.iter().flat_map(|(_, map)| &map.mappings);
        mappings.filter(|(_, how)| matches!(how, Mapping::Direct { .. })).count()
    }
}

/// How many columns of an index are units at most: each is mapped by queries of its own.
const MOST_COLUMNS: usize = 3;

/// The unit of a view.
///
/// The caller holds a lock on the view. Of several columns that would do, one is taken by which most
/// changed rows tell their units themselves, and of the indexes that begin with it one that goes on with others
/// that would do.
pub fn of(view: &Relation) -> Result<std::result::Result<Unit, Obstacle>> {
    let descriptions = match description::describe(view) {
        Ok(descriptions) => descriptions,
        Err(what) => return Ok(Err(Obstacle::Unsupported(what))),
    };
    let mut best: Option<Vec<Candidate>> = None;
    let mut refusal = None;
    for numbers in capture::indexes(view.oid())? {
        let mut columns: Vec<Candidate> = Vec::new();
        for number in numbers {
            let place = usize::try_from(number - 1).unwrap_or_default();
            let reason = match (UnitColumn::of(view, place), map(&descriptions, place)) {
                (Ok(column), Some(Ok(maps))) => {
                    columns.push(Candidate { column, maps });
                    continue;
                }
                (Err(name), Some(Ok(_))) => Some(Obstacle::KeyType(name)),
                (_, Some(Err(reason))) => Some(Obstacle::Mapping(reason)),
                (_, None) => None,
            };
            if columns.is_empty() {
                refusal = reason.or(refusal);
                break;
            }
        }
        columns.truncate(MOST_COLUMNS);
        let rank = |columns: &[Candidate]| (columns[0].direct(), columns.len());
        if !columns.is_empty() && best.as_ref().is_none_or(|best| rank(&columns) > rank(best)) {
            best = Some(columns);
        }
    }
    let Some(candidates) = best else {
        return Ok(Err(refusal.unwrap_or_else(|| without_index(&descriptions))));
    };
    let mut arms: Vec<Arm> =
        descriptions.into_iter().map(|description| Arm { description, ways: Vec::new() }).collect();
    let mut columns = Vec::new();
    for Candidate { column, maps } in candidates {
        columns.push(column);
        for (arm, (unit, map)) in arms.iter_mut().zip(maps) {
            arm.ways.push(Way { map, unit: unit.reads() });
        }
    }
    Ok(Ok(Unit { columns, arms }))
}

/// How changed rows lead to the column of the view at that place; nothing if it is not computed from each
/// row of the joins.
fn map(
    descriptions: &[Description],
    place: usize,
) -> Option<std::result::Result<Maps, Unmappable>> {
    let shown: Vec<Term> = descriptions
        .iter()
        .map(|description| description.outputs.get(place).cloned().flatten())
        .collect::<Option<_>>()?;
    let arms = descriptions.iter().zip(shown);
    Some(
        arms.map(|(description, unit)| {
            let map = delta::map(&description.query, &unit)?;
            Ok((unit, map))
        })
        .collect(),
    )
}

fn without_index(descriptions: &[Description]) -> Obstacle {
    let places = descriptions.iter().map(|description| description.outputs.len()).min();
    if (0..places.unwrap_or(0)).any(|place| matches!(map(descriptions, place), Some(Ok(_)))) {
        Obstacle::NoIndex
    } else {
        Obstacle::Computed
    }
}
