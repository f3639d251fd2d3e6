//! Triggers on our own tables.

use std::convert::Infallible;

use pgrx::AllocatedByPostgres;
use pgrx::prelude::*;

use crate::pg::hooks::announcements;
use crate::pg::identity;

/// For each row: however a registration comes or goes, by our functions, from a dump that is restored
/// or by an administrator's own hand, the scheduler learns of it.
#[pg_trigger(sql = false)]
fn registry_changed<'a>(
    _trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, Infallible> {
    announcements::registry_changed();
    Ok(None)
}

/// What another server has noted of its views is not true of ours. A publication of all tables, which
/// pg_createsubscriber makes, has our tables in it.
#[pg_trigger(sql = false)]
fn ignore_replicated<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, Infallible> {
    let row = trigger.new().or_else(|| trigger.old());
    Ok(row.filter(|_| !identity::applies_replication()))
}
