//! The processes: one launcher for the server, a scheduler for each database while something is due,
//! and a pool of workers. Each is a loop: load a snapshot, ask the core, act.

mod launcher;
mod scheduler;
mod worker;

use crate::pg::background_worker::entry_point;

entry_point!(cache_refresher_launcher_main, launcher::main);
entry_point!(cache_refresher_scheduler_main, scheduler::main);
entry_point!(cache_refresher_worker_main, worker::main);
