//! The column of a view by which its rows can be replaced one by one, and what has to be known of
//! changed rows for that.

use std::collections::{BTreeSet, HashMap};

use cache_refresher_core::delta::{self, Column, Mapping, Occurrence};
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
    pub description: Description,
    pub mappings: Vec<(Occurrence, Mapping)>,
}

impl Unit {
    /// Of which columns of a table values have to be kept, by its OID.
    pub fn needs(&self) -> HashMap<Oid, BTreeSet<i16>> {
        let joins = self.mappings.iter().any(|(_, how)| matches!(how, Mapping::Join { .. }));
        let mut needs: HashMap<Oid, BTreeSet<i16>> = HashMap::new();
        for table in &self.description.tables {
            let numbers = needs.entry(table.oid).or_default();
            let how = self.mappings.iter().find(|(place, _)| *place == table.occurrence);
            if let Some((_, Mapping::Direct { column, .. })) = how {
                numbers.insert(*column);
            }
            if joins {
                let read = self.description.read_by_conditions.iter();
                numbers.extend(
                    read.filter(|column| column.of == table.occurrence).map(|column| column.number),
                );
            }
        }
        needs
    }
}

/// A column that would do: how many tables' changed rows tell it themselves, and how all of them lead
/// to it.
type Candidate = (usize, UnitColumn, Vec<(Occurrence, Mapping)>);

/// The unit of a view.
///
/// The caller holds a lock on the view. Of several columns that would do, one is taken by which most
/// changed rows tell their units themselves.
pub fn of(view: &Relation) -> Result<std::result::Result<Unit, Obstacle>> {
    let description = match query_description::describe(view) {
        Ok(description) => description,
        Err(what) => return Ok(Err(Obstacle::Strange(what))),
    };
    let mut best: Option<Candidate> = None;
    let mut refusal = None;
    for number in capture::leading_columns(view.oid())? {
        let place = usize::try_from(number - 1).unwrap_or_default();
        let Some(shown) = description.outputs.get(place).copied().flatten() else {
            continue;
        };
        let Some(column) = UnitColumn::of(view, place) else { continue };
        match delta::map(&description.query, shown) {
            Ok(mappings) => {
                let direct =
                    |(_, how): &&(Occurrence, Mapping)| matches!(how, Mapping::Direct { .. });
                let directly = mappings.iter().filter(direct).count();
                if best.as_ref().is_none_or(|(most, ..)| directly > *most) {
                    best = Some((directly, column, mappings));
                }
            }
            Err(reason) => refusal = Some(Obstacle::Mapping(reason)),
        }
    }
    Ok(match best {
        Some((_, column, mappings)) => Ok(Unit { column, description, mappings }),
        None => Err(refusal.unwrap_or_else(|| without_index(&description))),
    })
}

fn without_index(description: &Description) -> Obstacle {
    let mut shown = description.outputs.iter().flatten();
    if shown.any(|column: &Column| delta::map(&description.query, *column).is_ok()) {
        Obstacle::NoIndex
    } else {
        Obstacle::NoPlainColumn
    }
}
