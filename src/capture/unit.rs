//! The column of a view by which its rows can be replaced one by one, and what has to be known of
//! changed rows for that.

use std::collections::{BTreeSet, HashMap};

use cache_refresher_core::delta::{self, Column, Map, Mapping, Occurrence, Reason, Term};
use cache_refresher_core::obstacle::Obstacle;
use pgrx::pg_sys::Oid;

use crate::catalog::capture;
use crate::error::Result;
use crate::pg::query_description::{self, Description};
use crate::pg::relation::Relation;
use crate::pg::units::UnitColumn;

/// How changed rows lead to units.
pub struct Unit {
    pub column: UnitColumn,
    /// Of each query by which changes are mapped.
    pub arms: Vec<Arm>,
}

/// How rows that a query reads lead to units.
pub struct Arm {
    pub description: Description,
    pub map: Map,
    /// The columns that the unit is made of.
    unit: BTreeSet<Column>,
}

impl Arm {
    /// The columns that a mapping by joins reads.
    pub fn read_by(
        &self,
        tables: &BTreeSet<Occurrence>,
        conditions: &BTreeSet<usize>,
    ) -> BTreeSet<Column> {
        let by_conditions =
            conditions.iter().flat_map(|&number| &self.description.columns_read[number]);
        let all = by_conditions.chain(&self.unit);
        all.filter(|column| tables.contains(&column.of)).copied().collect()
    }

    /// Of which columns of a table values have to be kept, by its place.
    fn needs(&self) -> BTreeSet<Column> {
        let exact = self.map.exact.iter().map(|(_, mapping)| mapping);
        let mut needs = BTreeSet::new();
        for (occurrence, mapping) in &self.map.mappings {
            match mapping {
                Mapping::Direct { column, .. } => {
                    needs.insert(Column { of: *occurrence, number: *column });
                }
                Mapping::Join { tables, conditions } => {
                    needs.extend(self.read_by(tables, conditions));
                }
            }
        }
        for mapping in exact {
            if let Mapping::Join { tables, conditions } = mapping {
                needs.extend(self.read_by(tables, conditions));
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
            let columns = arm.needs();
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

/// A column that would do: how many tables' changed rows tell it themselves, and how all of them lead to it.
type Candidate = (usize, UnitColumn, Maps);

/// The unit of a view.
///
/// The caller holds a lock on the view. Of several columns that would do, one is taken by which most
/// changed rows tell their units themselves.
pub fn of(view: &Relation) -> Result<std::result::Result<Unit, Obstacle>> {
    let descriptions = match query_description::describe(view) {
        Ok(descriptions) => descriptions,
        Err(what) => return Ok(Err(Obstacle::Strange(what))),
    };
    let mut best: Option<Candidate> = None;
    let mut refusal = None;
    for number in capture::leading_columns(view.oid())? {
        let place = usize::try_from(number - 1).unwrap_or_default();
        let Some(column) = UnitColumn::of(view, place) else { continue };
        match map(&descriptions, place) {
            Some(Ok(maps)) => {
                let direct =
                    |(_, how): &&(Occurrence, Mapping)| matches!(how, Mapping::Direct { .. });
                let directly =
                    maps.iter().flat_map(|(_, map)| &map.mappings).filter(direct).count();
                if best.as_ref().is_none_or(|(most, ..)| directly > *most) {
                    best = Some((directly, column, maps));
                }
            }
            Some(Err(reason)) => refusal = Some(Obstacle::Mapping(reason)),
            None => {}
        }
    }
    let Some((_, column, maps)) = best else {
        return Ok(Err(refusal.unwrap_or_else(|| without_index(&descriptions))));
    };
    let arms = descriptions.into_iter().zip(maps);
    let arms = arms
        .map(|(description, (unit, map))| Arm { description, map, unit: unit.reads() })
        .collect();
    Ok(Ok(Unit { column, arms }))
}

/// How changed rows lead to the column of the view at that place; nothing if it is not computed from each
/// row of the joins.
fn map(descriptions: &[Description], place: usize) -> Option<std::result::Result<Maps, Reason>> {
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
