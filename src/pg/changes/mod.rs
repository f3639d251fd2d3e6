//! Changes of captured tables: noted by a trigger, written to logs, read from there.

pub mod capture_trigger;
pub mod change_log;
pub mod change_writer;
pub mod triggers;
pub mod unused_updates;
