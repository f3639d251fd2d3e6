//! The decisions of `cache_refresher` as pure functions of values: no server, no clock, no files.
//!
//! The extension loads a snapshot from catalog and shared memory, asks a function here what to do,
//! and acts. Time is always an argument, so that tests can live through hours in milliseconds.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod backoff;
pub mod board;
pub mod databases;
pub mod delta;
pub mod diff;
pub mod duration;
pub mod freshness;
pub mod identifiers;
pub mod interval;
pub mod interval_list;
pub mod method;
pub mod metrics;
mod mix;
pub mod notification;
pub mod obstacle;
pub mod order;
pub mod outcome;
pub mod pace;
pub mod placement;
pub mod pool;
pub mod progress;
pub mod schedule;
pub mod staleness;
pub mod time;
pub mod version;
pub mod view_state;
pub mod visibility;
