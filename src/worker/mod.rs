//! The processes: one launcher for the server, a scheduler for each database while something is due,
//! and a pool of workers. Each is a loop: load a snapshot, ask the core, act.

mod launcher;
mod pool_worker;
mod scheduler;

use std::time::Duration;

use crate::pg::process::background_worker::entry_point;

/// A process that has not come up after this time never will.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// When to ask again for a background worker after the server had none. Soon: the place of a process of ours that has
/// just left is free a moment after it says so.
const NO_SLOT_PAUSE: Duration = Duration::from_millis(500);

entry_point!(cache_refresher_launcher_main, launcher::main);
entry_point!(cache_refresher_scheduler_main, scheduler::main);
entry_point!(cache_refresher_worker_main, pool_worker::main);
