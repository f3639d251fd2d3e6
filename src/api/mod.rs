//! The SQL functions: check arguments, call, convert. Their declarations are in `sql/functions.sql`.

mod control;
mod freshness;
mod internal;
mod refresh;
mod registration;
mod trigger;

use pgrx::pg_sys::Oid;

use crate::catalog::view::View;
use crate::error::{Error, Result};

/// The view that a function was given.
fn view(oid: Option<Oid>) -> Result<View> {
    View::find(oid.ok_or(Error::NullArgument { argument: "view" })?)
}
