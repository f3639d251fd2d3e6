//! The processes: one launcher for the server, a scheduler for each database while something is due,
//! and a pool of workers. Each is a loop: load a snapshot, ask the core, act.

mod launcher;
mod pool_worker;
mod scheduler;

use crate::pg::background_worker::entry_point;

entry_point!(cache_refresher_launcher_main, launcher::main);
entry_point!(cache_refresher_scheduler_main, scheduler::main);
entry_point!(cache_refresher_worker_main, pool_worker::main);
