//! Of which version the extension's objects in this database are.

use cache_refresher_core::version::{self, Fit};

use crate::catalog::query;
use crate::error::Result;

/// The version of this library.
pub const LIBRARY: &str = env!("CARGO_PKG_VERSION");

const INSTALLED: &str = "SELECT extversion FROM pg_extension WHERE extname = 'cache_refresher'";

/// That version, and how it fits the library; nothing if the extension is not here.
pub fn installed() -> Result<Option<(String, Fit)>> {
    let rows: Vec<String> = query::select(INSTALLED, &[], |row| row.required(1))?;
    let installed = rows.into_iter().next();
    Ok(installed.map(|objects| {
        let fit = version::fit(&objects, LIBRARY);
        (objects, fit)
    }))
}
