//! The query of a view: run as REFRESH runs it, looked at, and taken apart into the queries that map changes.

mod arms;
pub mod description;
mod dissolve;
mod flat_query;
mod hash_joins;
pub mod inspection;
pub mod mapping_query;
mod places;
mod tree_walk;
pub mod units;
pub mod view_query;
#[cfg(feature = "pg18")]
mod virtual_columns;
