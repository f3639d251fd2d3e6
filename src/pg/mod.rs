//! Everything unsafe: one small safe wrapper for each facility of the server that we use.
//! The rest of the extension is ordinary safe Rust on top of these.
#![allow(unsafe_code)]

pub mod changes;
pub mod clock;
pub mod dependency;
pub mod extension;
pub mod hooks;
pub mod identity;
pub mod lock;
pub mod memory;
pub mod process;
pub mod query;
pub mod read_only;
pub mod relation;
pub mod report;
pub mod rows;
pub mod shared;
pub mod snapshot;
pub mod statement;
pub mod transaction;
pub mod types;
mod unguarded;
pub mod view_name;
