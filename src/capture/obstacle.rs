//! What stands in the way of proving that a view is fresh.

use cache_refresher_core::obstacle::Obstacle;
use pgrx::pg_sys::Oid;

use super::install::{self, Wanted};
use crate::catalog::capture::{self, Leaf, LeafKind};
use crate::error::Result;
use crate::pg::changes::change_log::Watch;
use crate::pg::query::inspection;
use crate::pg::relation::Relation;

/// The first obstacle, if there is one.
pub fn of(view: Oid) -> Result<Option<Obstacle>> {
    let relation = Relation::open_shared(view);
    if let Some(restless) = inspection::inspect(&relation).restless {
        return Ok(Some(restless));
    }
    if !capture::notices_refresh()? {
        return Ok(Some(Obstacle::Unnoticed));
    }
    let wanted = Wanted::by(&relation)?;
    // Nobody keeps changes for a view of which it is not noted that it needs them.
    let told_of = capture::sources(view)?;
    for leaf in &capture::leaves(view)? {
        let name = || pgrx::spi::quote_qualified_identifier(&leaf.schema, &leaf.name);
        let obstacle = match of_source(leaf, &wanted.of(leaf)?) {
            None if !told_of.contains(&leaf.oid) => {
                Some(Obstacle::Uncaptured { name: name(), allowed: leaf.allowed })
            }
            obstacle => obstacle,
        };
        if obstacle.is_some() {
            return Ok(obstacle);
        }
    }
    Ok(None)
}

fn of_source(leaf: &Leaf, wanted: &Watch) -> Option<Obstacle> {
    let name = pgrx::spi::quote_qualified_identifier(&leaf.schema, &leaf.name);
    match leaf.kind {
        LeafKind::Foreign => Some(Obstacle::Foreign(name)),
        LeafKind::Unlogged => Some(Obstacle::Unlogged(name)),
        LeafKind::RowSecurity => Some(Obstacle::RowSecurity(name)),
        LeafKind::Catalog => Some(Obstacle::Catalog),
        LeafKind::Table | LeafKind::Materialized => {
            let covered = install::present(leaf).is_some_and(|present| present.covers(wanted));
            (!covered).then_some(Obstacle::Uncaptured { name, allowed: leaf.allowed })
        }
    }
}
