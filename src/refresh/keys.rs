//! A refresh of the rows with certain keys only: what a caller knows to have changed in sources whose changes
//! nobody here can see. Of everything else the view shows what it showed before, and so `data_as_of` and
//! what is known of its staleness stay as they were.

use cache_refresher_core::method::{Method, Requested};
use cache_refresher_core::outcome::{Outcome, RowChanges, RowCounts};
use pgrx::datum::AnyArray;
use pgrx::pg_sys::Oid;

use super::session::{self, Answer};
use super::{Refresh, Request, delta, diff, privilege, record, settings};
use crate::capture::conclude_part;
use crate::catalog::view::View;
use crate::catalog::{capture, content, registry};
use crate::error::{Error, Result};
use crate::guc::RefreshSettings;
use crate::pg::hooks::announcements;
use crate::pg::identity::{Restriction, Scope};
use crate::pg::lock::RefreshLock;
use crate::pg::query::units::{self, UnitColumn, Units};
use crate::pg::relation::Relation;
use crate::pg::snapshot::ActiveSnapshot;
use crate::pg::{clock, identity, transaction};

/// Refreshes the rows of a view that have one of these keys.
pub fn refresh(oid: Oid, keys: &AnyArray, settings: &RefreshSettings) -> Result<Answer> {
    let view = View::find(oid)?;
    privilege::require_refresh(&view)?;
    session::prepare_transaction()?;
    let called_at = clock::now();
    let _lock = RefreshLock::acquire(registry::oid()?, oid);
    session::logging_failure(oid, called_at, || refresh_locked(&view, keys, settings))
}

fn refresh_locked(view: &View, keys: &AnyArray, settings: &RefreshSettings) -> Result<Answer> {
    let registration = session::find_registration(view.oid)?;
    // With the lock of a diff, and where that is possible.
    let request = Request {
        trigger: "manual",
        method: Some(Requested::Diff),
        role: identity::current_role(),
    };
    let named = (view.oid, &view.name);
    let refresh = Refresh::begin(named, registration.as_ref(), request, settings)?;
    refresh.limited(|| {
        let locked = refresh.lock()?;
        let view = &locked.view;
        let (total, data_as_of) = match content::find_current(view.oid)? {
            Some(content) => (content.rows_total, content.data_as_of),
            None => (None, None),
        };
        let definition = refresh.look()?;
        let pinned = settings::pinned(settings.lock_timeout)?;
        let (before, changes, named) = {
            let _snapshot = ActiveSnapshot::take();
            let restriction = Restriction::RestrictedOperation;
            let _scope = Scope::enter(view.owner, restriction, &settings::refs(&pinned));
            // Within the scope: to read a key can call functions of whoever made its type.
            let (sets, named) = sets(view, keys)?;
            let before = match total {
                Some(total) => total,
                None => delta::count(view),
            };
            let changes = match sets.is_empty() {
                true => RowChanges::default(),
                false => refresh_units(view, &sets, &refresh)?,
            };
            (before, changes, named)
        };
        if let Some(definition) = &definition {
            conclude_part(view.oid, definition, &settings::text(&pinned))?;
        }
        let rows = RowCounts {
            total: before + changes.inserted - changes.deleted,
            changes: Some(changes),
        };
        let duration = clock::now().since(refresh.started_at);
        let reason = match named {
            1 => "one key was invalidated".to_owned(),
            many => format!("{many} keys were invalidated"),
        };
        let answer = Answer {
            view: view.oid,
            outcome: Outcome::Refreshed,
            method: Some(Method::Delta),
            reason,
            duration: Some(duration),
            rows_total: Some(rows.total),
            changes: Some(changes),
            data_as_of,
        };
        record::partial(view, &answer, rows, (refresh.started_at, duration), request, settings)?;
        if registration.is_some() {
            announcements::view_refreshed();
        }
        Ok(answer)
    })
}

/// Replaces the rows with these units; or all that differ, where to compute those alone fails.
fn refresh_units(view: &View, sets: &[Units], refresh: &Refresh) -> Result<RowChanges> {
    match transaction::attempt(|| delta::refresh_units(view, sets, &refresh.running)) {
        Ok(changes) => Ok(changes),
        Err(caught) => {
            delta::failed(view, &caught);
            Ok(diff::refresh(view, &refresh.running)?.changes.unwrap_or_default())
        }
    }
}

/// The keys as sets of units, and their number: of the columns of the view's key, or of its only index.
fn sets(view: &View, keys: &AnyArray) -> Result<(Vec<Units>, usize)> {
    // Without a unique index there is no telling which of several the caller means.
    let numbers = match &view.key[..] {
        [] => match &capture::indexes(view.oid)?[..] {
            [only] => only.clone(),
            _ => Vec::new(),
        },
        key => key.to_vec(),
    };
    let relation = Relation::open(view.oid);
    let columns: Option<Vec<UnitColumn>> = numbers
        .iter()
        .map(|number| UnitColumn::of(&relation, usize::try_from(number - 1).ok()?).ok())
        .collect();
    let name = view.name.to_string();
    let columns = columns
        .filter(|columns| !columns.is_empty() && (!view.key.is_empty() || columns.len() == 1));
    let Some(columns) = columns else { return Err(Error::NoKey { name }) };
    units::from_array(&columns, keys).map_err(|wrong| Error::KeyType {
        name,
        given: wrong.given,
        expected: wrong.expected,
    })
}
