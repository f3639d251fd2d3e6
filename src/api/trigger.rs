//! The trigger on the registry.

use std::convert::Infallible;

use pgrx::AllocatedByPostgres;
use pgrx::prelude::*;

use crate::pg::announcements;

/// For each row: however a registration comes or goes, by our functions, from a dump that is restored
/// or by an administrator's own hand, the scheduler learns of it.
#[pg_trigger(sql = false)]
fn registry_changed<'a>(
    _trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, Infallible> {
    announcements::registry_changed();
    Ok(None)
}
