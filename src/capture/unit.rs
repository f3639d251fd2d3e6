//! The column of a view by which its rows can be replaced one by one, and what has to be known of
//! changed rows for that.

use std::collections::{BTreeSet, HashMap};

use cache_refresher_core::delta::{self, Column, Mapping, Occurrence, Reason};
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
    /// Of each query that the view combines, or of the one that it is.
    pub arms: Vec<Arm>,
}

/// How rows that a query reads lead to units.
pub struct Arm {
    pub description: Description,
    pub mappings: Vec<(Occurrence, Mapping)>,
}

impl Unit {
    /// Of which columns of a table values have to be kept, by its OID.
    pub fn needs(&self) -> HashMap<Oid, BTreeSet<i16>> {
        let mut needs: HashMap<Oid, BTreeSet<i16>> = HashMap::new();
        for arm in &self.arms {
            let joins = arm.mappings.iter().any(|(_, how)| matches!(how, Mapping::Join { .. }));
            for table in &arm.description.tables {
                let numbers = needs.entry(table.oid).or_default();
                let how = arm.mappings.iter().find(|(place, _)| *place == table.occurrence);
                if let Some((_, Mapping::Direct { column, .. })) = how {
                    numbers.insert(*column);
                }
                if joins {
                    let read = arm.description.read_by_conditions.iter();
                    let of_table = read.filter(|column| column.of == table.occurrence);
                    numbers.extend(of_table.map(|column| column.number));
                }
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

/// How changed rows lead to a unit, by arms.
type Mappings = Vec<Vec<(Occurrence, Mapping)>>;

/// A column that would do: how many tables' changed rows tell it themselves, and how all of them lead to it.
type Candidate = (usize, UnitColumn, Mappings);

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
            Some(Ok(mappings)) => {
                let direct =
                    |(_, how): &&(Occurrence, Mapping)| matches!(how, Mapping::Direct { .. });
                let directly = mappings.iter().flatten().filter(direct).count();
                if best.as_ref().is_none_or(|(most, ..)| directly > *most) {
                    best = Some((directly, column, mappings));
                }
            }
            Some(Err(reason)) => refusal = Some(Obstacle::Mapping(reason)),
            None => {}
        }
    }
    let Some((_, column, mappings)) = best else {
        return Ok(Err(refusal.unwrap_or_else(|| without_index(&descriptions))));
    };
    let arms = descriptions.into_iter().zip(mappings);
    let arms = arms.map(|(description, mappings)| Arm { description, mappings }).collect();
    Ok(Ok(Unit { column, arms }))
}

/// How changed rows lead to the column of the view at that place; nothing if it is no plain column.
fn map(
    descriptions: &[Description],
    place: usize,
) -> Option<std::result::Result<Mappings, Reason>> {
    let shown: Vec<Column> = descriptions
        .iter()
        .map(|description| description.outputs.get(place).copied().flatten())
        .collect::<Option<_>>()?;
    let arms = descriptions.iter().zip(shown);
    Some(arms.map(|(description, column)| delta::map(&description.query, column)).collect())
}

fn without_index(descriptions: &[Description]) -> Obstacle {
    let places = descriptions.iter().map(|description| description.outputs.len()).min();
    if (0..places.unwrap_or(0)).any(|place| matches!(map(descriptions, place), Some(Ok(_)))) {
        Obstacle::NoIndex
    } else {
        Obstacle::NoPlainColumn
    }
}
