//! Processes of the server: ours, and those that we belong to.

pub mod background_worker;
pub mod databases;
pub mod deadline;
pub mod latch;
pub mod loading;
pub mod signals;
