//! What is stored of all registered views at once.

use std::hash::Hash;

use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::History;
use hashbrown::HashMap;
use pgrx::AnyNumeric;
use pgrx::pg_sys::Oid;

use super::attempts::{self, history_columns};
use super::content::{self, Content, content_columns};
use super::query::{self, Row};
use super::registry::{self, Registration, registration_columns};
use super::view::ViewName;
use crate::error::Result;
use crate::pg::relation::ViewEntry;

/// A registration, whether or not its view is there.
pub struct Overview<'a> {
    pub name: &'a ViewName,
    pub paused: bool,
    pub registered_at: Timestamp,
    pub on_change: bool,
    /// An error if its row makes no sense.
    pub registration: &'a Result<Registration>,
    pub view: Option<Bound<'a>>,
}

/// The view that a registration stands for.
pub struct Bound<'a> {
    pub oid: Oid,
    pub entry: ViewEntry,
    /// Nothing of one that somebody has emptied.
    pub content: Option<&'a Content>,
    pub tried: &'a Tried,
    pub bloat: Option<&'a AnyNumeric>,
    /// Somebody has said that it does not show everything.
    pub invalidated: bool,
}

/// How refreshing it has gone.
#[derive(Default)]
pub struct Tried {
    pub history: History,
    pub refreshes: i64,
    pub skips: i64,
    pub skipped_at: Option<Timestamp>,
    pub failures: i64,
    pub cancellations: i64,
    pub error_sqlstate: Option<String>,
    pub error_message: Option<String>,
}

/// Calls `body` with each registration.
pub fn each(mut body: impl FnMut(&Overview) -> Result<()>) -> Result<()> {
    let bindings = bindings()?;
    let views = bindings.len();
    let (contents, tried, invalidated) = (contents(views)?, tried(views)?, invalidated()?);
    let never = Tried::default();
    let mut bloat = None;
    query::each("registry", registration_columns!(), |row| {
        let registration = registry::registration(&row);
        let spoilt;
        let name = match &registration {
            Ok(registration) => &registration.name,
            Err(_) => {
                spoilt = registry::name(&row)?;
                &spoilt
            }
        };
        let oid = bindings.get(name).copied();
        let entry = oid.and_then(|oid| Some((oid, ViewEntry::find(oid)?)));
        if bloat.is_none() && entry.is_some_and(|(_, entry)| entry.pages > SMALL) {
            bloat = Some(bloated()?);
        }
        let view = entry.map(|(oid, entry)| Bound {
            oid,
            entry,
            content: contents.get(&oid).filter(|_| entry.populated),
            tried: tried.get(&oid).unwrap_or(&never),
            bloat: bloat.as_ref().and_then(|bloat| bloat.get(&oid)),
            invalidated: invalidated.contains_key(&oid),
        });
        body(&Overview {
            paused: row.required(10)?,
            registered_at: row.required_time(11)?,
            on_change: row.required(12)?,
            registration: &registration,
            name,
            view,
        })
    })
}

/// All rows of a table of which some `expected` are likely: a map that grows is copied again and again.
fn read<K: Hash + Eq, T>(
    expected: usize,
    table: &'static str,
    columns: &'static str,
    of: impl Fn(&Row) -> Result<(K, T)>,
) -> Result<HashMap<K, T>> {
    let mut all = HashMap::with_capacity(expected);
    query::each(table, columns, |row| {
        let (key, value) = of(&row)?;
        all.insert(key, value);
        Ok(())
    })?;
    Ok(all)
}

fn bindings() -> Result<HashMap<ViewName, Oid>> {
    read(0, "binding", "view, view_schema, view_name", |row| {
        let name = ViewName { schema: row.required(2)?, name: row.required(3)? };
        Ok((name, row.required(1)?))
    })
}

const CONTENTS: &str = concat!(content_columns!(), ", view");

fn contents(expected: usize) -> Result<HashMap<Oid, Content>> {
    let of = |row: &Row| Ok((row.required(6)?, content::content(row)?));
    read(expected, "content", CONTENTS, of)
}

const TRIED: &str = concat!(
    history_columns!(),
    ", view, refreshes, skips, skipped_at, failures, cancellations, error_sqlstate, error_message"
);

fn tried(expected: usize) -> Result<HashMap<Oid, Tried>> {
    read(expected, "attempts", TRIED, |row| {
        let tried = Tried {
            history: attempts::history(row, 1)?,
            refreshes: row.required(13)?,
            skips: row.required(14)?,
            skipped_at: row.optional_time(15)?,
            failures: row.required(16)?,
            cancellations: row.required(17)?,
            error_sqlstate: row.optional(18)?,
            error_message: row.optional(19)?,
        };
        Ok((row.required(12)?, tried))
    })
}

fn invalidated() -> Result<HashMap<Oid, ()>> {
    read(0, "invalidation", "view", |row| Ok((row.required(1)?, ())))
}

/// Pages of a table that is not worth a word about bloat.
const SMALL: i32 = 100;

const BLOAT: &str = "SELECT view, bloat FROM _cache_refresher.bloat";

fn bloated() -> Result<HashMap<Oid, AnyNumeric>> {
    let rows = query::select(BLOAT, &[], |row| Ok((row.required(1)?, row.required(2)?)))?;
    Ok(rows.into_iter().collect())
}
