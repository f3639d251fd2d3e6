//! cache_refresher keeps PostgreSQL materialized views fresh from inside the server.
//!
//! `cache_refresher_core` decides, `pg` wraps the server's facilities, `catalog` holds our tables,
//! `capture` knows what has changed, `refresh` runs one refresh, `worker` holds the background processes
//! and `api` the SQL functions.
//! Imports go one way: core ← error, pg ← catalog ← capture ← refresh ← {worker, api} ← lib.

use pgrx::prelude::*;

mod api;
mod capture;
mod catalog;
mod error;
mod guc;
mod pg;
mod refresh;
mod worker;

#[cfg(any(test, feature = "pg_test"))]
mod tests;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/bootstrap.sql", name = "bootstrap", bootstrap);
extension_sql_file!("../sql/tables.sql", name = "tables", requires = ["bootstrap"]);
extension_sql_file!("../sql/functions.sql", name = "functions", requires = ["tables"]);
extension_sql_file!("../sql/views.sql", name = "views", requires = ["functions"]);
extension_sql_file!("../sql/grants.sql", name = "grants", requires = ["views"]);

/// Writers lock a table before its log, and what drops the extension would lock the log first.
fn before_drop() {
    capture::install::lock_captured().unwrap_or_else(|error| error.raise());
}

/// Where the extension is not, nothing has to be noted.
fn after_refresh(view: pgrx::pg_sys::Oid) {
    let installed = catalog::version::installed().unwrap_or_else(|error| error.raise());
    if installed.is_some() {
        capture::content_replaced(vec![view]).unwrap_or_else(|error| error.raise());
    }
}

/// Called when the server loads the library: at its start if it is preloaded, else by the session
/// that first needs it.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    guc::define();
    if pg::process::loading::is_preload() && !pg::process::loading::is_binary_upgrade() {
        pg::shared::reserve();
        pg::hooks::utility::install(pg::hooks::utility::Callbacks { before_drop, after_refresh });
        pg::changes::unused_updates::install();
        pg::process::background_worker::register_launcher();
    }
}

/// Settings of the server that `cargo pgrx test` starts.
#[cfg(test)]
pub mod pg_test {
    /// One-off initialization when the test framework starts.
    pub fn setup(_options: Vec<&str>) {}

    /// Lines of postgresql.conf.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries = 'cache_refresher'"]
    }
}
