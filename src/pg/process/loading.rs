//! How the library was loaded.

use pgrx::pg_sys;

/// By shared_preload_libraries: only then can shared memory be had and workers registered.
pub fn is_preload() -> bool {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// By a server that pg_upgrade has started: nothing may run in it.
pub fn is_binary_upgrade() -> bool {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::IsBinaryUpgrade }
}
