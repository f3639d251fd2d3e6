//! Everything unsafe: one small safe wrapper for each facility of the server that we use.
//! The rest of the extension is ordinary safe Rust on top of these.
#![allow(unsafe_code)]

pub mod announcements;
mod arms;
pub mod background_worker;
pub mod capture_trigger;
pub mod change_log;
pub mod change_writer;
pub mod clock;
pub mod databases;
pub mod deadline;
pub mod dependency;
mod dissolve;
mod flat_query;
pub mod guc_hooks;
pub mod hooks;
pub mod identity;
mod index_writer;
pub mod inspection;
pub mod invalidation;
pub mod key_order;
pub mod latch;
pub mod loading;
pub mod lock;
pub mod mapping_query;
pub mod memory;
mod places;
pub mod query_description;
pub mod read_only;
pub mod relation;
pub mod report;
pub mod result_rows;
pub mod row;
pub mod row_streams;
pub mod shared;
pub mod signals;
pub mod slot;
pub mod snapshot;
pub mod sorter;
pub mod spool;
pub mod statement;
pub mod stored;
pub mod table_writer;
pub mod transaction;
mod tree_walk;
pub mod types;
mod unguarded;
pub mod units;
pub mod unused_updates;
pub mod view_name;
pub mod view_query;
#[cfg(feature = "pg18")]
mod virtual_columns;
