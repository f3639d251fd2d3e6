//! The SQL functions: check arguments, call, convert. Their declarations are in `sql/functions.sql`.

mod control;
mod freshness;
mod health;
mod metrics;
mod progress;
mod refresh;
mod registration;
mod status;
mod trigger;

use pgrx::Spi;
use pgrx::pg_sys::Oid;

use crate::catalog::view::View;
use crate::error::{Error, Result};

/// The relation that a name stands for by the caller's search_path; nothing if there is none. Read only: a
/// transaction that has merely asked has not written.
fn relation_named(name: &str) -> Result<Option<Oid>> {
    Ok(Spi::connect(|client| {
        let sql = "SELECT pg_catalog.to_regclass($1)::oid";
        client.select(sql, Some(1), &[name.into()])?.first().get_one()
    })?)
}

/// The view that a function was given.
fn view(oid: Option<Oid>) -> Result<View> {
    View::find(oid.ok_or(Error::NullArgument { argument: "view" })?)
}
