//! Why nothing can be proved about a view, in words that tell what to change.

use pgrx::pg_sys::Oid;

use super::install::{self, Wanted};
use crate::catalog::capture::{Kind, Leaf, Surroundings};
use crate::error::Result;
use crate::pg::change_log::Watch;
use crate::pg::node_tree::{self, Restless};
use crate::pg::relation::Relation;

/// Why changes of a view are not all seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// As a clause.
    pub reason: String,
    /// As a sentence.
    pub remedy: String,
}

/// The first obstacle, if there is one.
pub fn of(view: Oid, surroundings: &Surroundings) -> Result<Option<Obstacle>> {
    let relation = Relation::open(view);
    let findings = node_tree::inspect(&relation);
    if let Some(restless) = findings.restless {
        let reason = match restless {
            Restless::Function(name) => {
                format!("its result can change by itself: it calls {name}")
            }
            Restless::Sample => "it takes a sample of a table".to_owned(),
            Restless::SystemColumn => "it reads system columns".to_owned(),
            Restless::Catalog => "it reads system catalogs".to_owned(),
        };
        let remedy = "Leave that out of the view's query, or let the interval do its work.";
        return Ok(Some(Obstacle { reason, remedy: remedy.to_owned() }));
    }
    let wanted = Wanted::by(&relation)?;
    for leaf in &surroundings.leaves {
        let obstacle = of_source(leaf, &wanted.of(leaf)?);
        if obstacle.is_some() {
            return Ok(obstacle);
        }
    }
    Ok(None)
}

fn of_source(leaf: &Leaf, wanted: &Watch) -> Option<Obstacle> {
    let name = pgrx::spi::quote_qualified_identifier(&leaf.schema, &leaf.name);
    let invalidate = "Call cache_refresher.invalidate when it has changed; the interval sees to the \
                      rest.";
    let (reason, remedy) = match leaf.kind {
        Kind::Foreign => (format!("{name} is a foreign table"), invalidate.to_owned()),
        Kind::Materialized => (
            format!("{name} is a materialized view"),
            "It follows that view where it has no interval of its own.".to_owned(),
        ),
        Kind::Unlogged => (
            format!("{name} is unlogged: a crash empties it unseen"),
            format!("ALTER TABLE {name} SET LOGGED, or call cache_refresher.invalidate."),
        ),
        Kind::RowSecurity => (
            format!("{name} has row security, whose policies may read anything"),
            invalidate.to_owned(),
        ),
        Kind::Catalog => (format!("{name} is a system catalog"), invalidate.to_owned()),
        Kind::Table => {
            if install::present(leaf).is_some_and(|present| present.covers(wanted)) {
                return None;
            }
            let remedy = if leaf.allowed {
                "The next refresh by a worker sets it up.".to_owned()
            } else {
                format!("GRANT TRIGGER ON {name} to the owner of the view.")
            };
            (format!("changes of {name} are not captured"), remedy)
        }
    };
    Some(Obstacle { reason, remedy })
}
