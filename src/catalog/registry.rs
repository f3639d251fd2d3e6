//! Registrations: which views are kept fresh, and how.

use std::time::Duration;

use cache_refresher_core::method::Requested;
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::History;
use pgrx::datum::Interval;
use pgrx::pg_sys::Oid;

use super::attempts::{self, history_columns};
use super::binding;
use super::query::{self, Row};
use super::view::ViewName;
use crate::error::{Error, Result};
use crate::pg::clock;

/// How a view is kept fresh. `None` means inherited from the settings.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    pub refresh_interval: Option<Duration>,
    pub schedule: Option<String>,
    pub time_zone: Option<String>,
    /// The shortest and the longest interval, if it adapts.
    pub adapts: Option<(Duration, Duration)>,
    pub method: Option<Requested>,
    pub on_change: bool,
    pub debounce: Option<Duration>,
    pub max_staleness: Option<Duration>,
    pub timeout: Option<Duration>,
    pub summary: Option<Summary>,
}

/// A summary query and the role that set it.
#[derive(Debug, Clone)]
pub struct Summary {
    pub query: String,
    /// It runs only while this role owns the view.
    pub owner: String,
}

/// A registered view.
#[derive(Debug, Clone)]
pub struct Registration {
    pub name: ViewName,
    pub policy: Policy,
    pub paused: bool,
    pub registered_at: Timestamp,
}

/// The columns of a registration, in the order in which [`registration`] reads them.
macro_rules! registration_columns {
    () => {
        "view_schema, view_name, refresh_interval, schedule, time_zone, method, timeout,
       summary_query, summary_owner, paused, registered_at,
       on_change, debounce, max_staleness, min_interval, max_interval"
    };
}
pub(super) use registration_columns;

const FIND: &str = concat!(
    "SELECT ",
    registration_columns!(),
    "
  FROM _cache_refresher.registry JOIN _cache_refresher.binding USING (view_schema, view_name)
 WHERE view = $1"
);

const ALL: &str = concat!(
    "SELECT ",
    registration_columns!(),
    ", c.oid, c.relowner, c.relispopulated, ",
    history_columns!(),
    "
  FROM _cache_refresher.registry
  JOIN _cache_refresher.binding b USING (view_schema, view_name)
  JOIN pg_class c ON c.oid = b.view AND c.relkind = 'm'
  LEFT JOIN _cache_refresher.attempts a ON a.view = c.oid"
);

const INSERT: &str = "
INSERT INTO _cache_refresher.registry
       (view_schema, view_name, refresh_interval, schedule, time_zone, method, timeout,
        summary_query, summary_owner, on_change, debounce, max_staleness, min_interval, max_interval)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT DO NOTHING";

const UPDATE: &str = "
UPDATE _cache_refresher.registry
   SET refresh_interval = $3, schedule = $4, time_zone = $5, method = $6, timeout = $7,
       summary_query = $8, summary_owner = $9, on_change = $10, debounce = $11, max_staleness = $12,
       min_interval = $13, max_interval = $14
 WHERE (view_schema, view_name) = ($1, $2)";

const SET_PAUSED: &str = "
UPDATE _cache_refresher.registry SET paused = $3 WHERE (view_schema, view_name) = ($1, $2)";

const DELETE: &str = "
WITH granted AS (
    DELETE FROM _cache_refresher.refresh_grant WHERE (view_schema, view_name) = ($1, $2)
)
DELETE FROM _cache_refresher.registry WHERE (view_schema, view_name) = ($1, $2)";

const DELETE_UNBOUND: &str = "
WITH gone AS (
    DELETE FROM _cache_refresher.registry r
     WHERE (r.view_schema, r.view_name) = ($1, $2)
       AND NOT EXISTS (SELECT FROM _cache_refresher.binding b
                        WHERE (b.view_schema, b.view_name) = (r.view_schema, r.view_name))
    RETURNING r.view_schema, r.view_name
)
DELETE FROM _cache_refresher.refresh_grant g USING gone
 WHERE (g.view_schema, g.view_name) = (gone.view_schema, gone.view_name)";

const EXISTS: &str = "
SELECT true FROM _cache_refresher.registry WHERE (view_schema, view_name) = ($1, $2)";

const MISSING: &str = "
SELECT true FROM _cache_refresher.registry r
 WHERE (r.view_schema, r.view_name) = ($1, $2)
   AND NOT EXISTS (SELECT FROM _cache_refresher.binding b
                    WHERE (b.view_schema, b.view_name) = (r.view_schema, r.view_name))";

const NAMED: &str = "
SELECT r.view_schema, r.view_name
  FROM _cache_refresher.registry r
 WHERE r.view_name = $1
   AND NOT EXISTS (SELECT FROM _cache_refresher.binding b JOIN pg_class c ON c.oid = b.view
                    WHERE (b.view_schema, b.view_name) = (r.view_schema, r.view_name))
   -- One that is there and not bound yet, as after a restore, is its owner's, but for one of another owner.
   AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE c.relkind = 'm' AND (n.nspname, c.relname) = (r.view_schema, r.view_name)
                      AND coalesce(r.last_owner, pg_get_userbyid(c.relowner)) = pg_get_userbyid(c.relowner))";

const REGISTRY_OID: &str = "SELECT '_cache_refresher.registry'::regclass::oid";

pub(super) fn name(row: &Row) -> Result<ViewName> {
    Ok(ViewName { schema: row.required(1)?, name: row.required(2)? })
}

pub(super) fn registration(row: &Row) -> Result<Registration> {
    let interval = |column, name| -> Result<Option<Duration>> {
        let value: Option<Interval> = row.optional(column)?;
        value.map(|value| clock::from_interval(name, &value)).transpose()
    };
    let method: Option<String> = row.optional(6)?;
    let summary = match (row.optional(8)?, row.optional(9)?) {
        (Some(query), Some(owner)) => Some(Summary { query, owner }),
        _ => None,
    };
    Ok(Registration {
        name: name(row)?,
        policy: Policy {
            refresh_interval: interval(3, "refresh_interval")?,
            schedule: row.optional(4)?,
            time_zone: row.optional(5)?,
            method: method.map(|method| method.parse()).transpose()?,
            on_change: row.required(12)?,
            debounce: interval(13, "debounce")?,
            max_staleness: interval(14, "max_staleness")?,
            adapts: interval(15, "min_interval")?.zip(interval(16, "max_interval")?),
            timeout: interval(7, "timeout")?,
            summary,
        },
        paused: row.required(10)?,
        registered_at: row.required_time(11)?,
    })
}

impl Registration {
    /// The registration of a view, if it has one.
    pub fn find(view: Oid) -> Result<Option<Self>> {
        let find = || query::select_current(FIND, &[view.into()], |row| registration(&row));
        Ok(find()?.into_iter().next())
    }

    /// Like [`find`](Self::find), but first follows renames and binds what a restored dump has
    /// brought back; an error if the view is not registered.
    pub fn get(view: Oid, name: &ViewName) -> Result<Self> {
        binding::reconcile_view(view)?;
        Self::find(view)?.ok_or_else(|| Error::NotRegistered { name: name.to_string() })
    }
}

/// A registered view that exists, as the scheduler needs it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub view: u32,
    pub owner: u32,
    pub registration: Registration,
    pub populated: bool,
    pub history: History,
}

/// All registered views that exist; in place of one whose row makes no sense, its OID and what is wrong.
pub fn all() -> Result<Vec<std::result::Result<Entry, (u32, Error)>>> {
    query::select_current(ALL, &[], |row| {
        let view = row.required::<Oid>(17)?.to_u32();
        let entry = |row: &Row| {
            Ok(Entry {
                view,
                owner: row.required::<Oid>(18)?.to_u32(),
                registration: registration(row)?,
                populated: row.required(19)?,
                history: attempts::history(row, 20)?,
            })
        };
        Ok(entry(&row).map_err(|error| (view, error)))
    })
}

fn write(sql: &'static str, name: &ViewName, policy: &Policy) -> Result<usize> {
    let interval = |value: Option<Duration>| value.map(clock::to_interval);
    let summary = policy.summary.as_ref();
    query::execute(
        sql,
        &[
            name.schema.as_str().into(),
            name.name.as_str().into(),
            interval(policy.refresh_interval).into(),
            policy.schedule.as_deref().into(),
            policy.time_zone.as_deref().into(),
            policy.method.map(Requested::as_str).into(),
            interval(policy.timeout).into(),
            summary.map(|summary| summary.query.as_str()).into(),
            summary.map(|summary| summary.owner.as_str()).into(),
            policy.on_change.into(),
            interval(policy.debounce).into(),
            interval(policy.max_staleness).into(),
            interval(policy.adapts.map(|(min, _)| min)).into(),
            interval(policy.adapts.map(|(_, max)| max)).into(),
        ],
    )
}

/// Registers a view; an error if it is registered already.
pub fn insert(view: Oid, name: &ViewName, policy: &Policy) -> Result<()> {
    match write(INSERT, name, policy)? {
        0 => Err(Error::AlreadyRegistered { name: name.to_string() }),
        _ => {
            attempts::forget(view)?;
            binding::reconcile_view(view)
        }
    }
}

/// Changes a registration.
pub fn update(name: &ViewName, policy: &Policy) -> Result<()> {
    match write(UPDATE, name, policy)? {
        0 => Err(Error::NotRegistered { name: name.to_string() }),
        _ => Ok(()),
    }
}

/// Pauses a registered view, or ends that.
pub fn set_paused(name: &ViewName, paused: bool) -> Result<()> {
    let arguments = [name.schema.as_str().into(), name.name.as_str().into(), paused.into()];
    query::execute(SET_PAUSED, &arguments).map(drop)
}

/// Ends a registration.
pub fn delete(name: &ViewName) -> Result<()> {
    let arguments = [name.schema.as_str().into(), name.name.as_str().into()];
    query::execute(DELETE, &arguments).map(drop)
}

/// Ends a registration that stands for no view; false if there is none.
pub fn delete_unbound(name: &ViewName) -> Result<bool> {
    let arguments = [name.schema.as_str().into(), name.name.as_str().into()];
    Ok(query::execute(DELETE_UNBOUND, &arguments)? > 0)
}

/// Whether a registration stands for no view.
pub fn is_missing(name: &ViewName) -> Result<bool> {
    let arguments = [name.schema.as_str().into(), name.name.as_str().into()];
    Ok(!query::select_current(MISSING, &arguments, |row| row.required::<bool>(1))?.is_empty())
}

/// Whether a name is registered, whether or not there is such a view.
pub fn is_registered(name: &ViewName) -> Result<bool> {
    let arguments = [name.schema.as_str().into(), name.name.as_str().into()];
    Ok(!query::select_current(EXISTS, &arguments, |row| row.required::<bool>(1))?.is_empty())
}

/// Registrations under a name without schema whose view does not exist.
pub fn missing_named(name: &str) -> Result<Vec<ViewName>> {
    query::select_current(NAMED, &[name.into()], |row| {
        Ok(ViewName { schema: row.required(1)?, name: row.required(2)? })
    })
}

/// OID of the registry table: the class of the refresh locks.
pub fn oid() -> Result<Oid> {
    let rows = query::select(REGISTRY_OID, &[], |row| row.required(1))?;
    rows.into_iter().next().ok_or_else(|| Error::Corrupt("no registry".to_owned()))
}
