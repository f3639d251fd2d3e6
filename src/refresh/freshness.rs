//! How stale a view is: what it rests on, compared with what has been committed.

use cache_refresher_core::staleness::Staleness;
use cache_refresher_core::time::Timestamp;
use pgrx::pg_sys::Oid;

use super::settings;
use crate::capture;
use crate::catalog;
use crate::catalog::registry::Registration;
use crate::error::Result;
use crate::guc;
use crate::pg::clock;

/// Whether a view is proved to show everything, known not to, or neither; and since when it does not.
pub fn of(view: Oid, captured: bool) -> Result<(Staleness, Option<Timestamp>)> {
    let pinned = settings::pinned(guc::refresh_settings().lock_timeout)?;
    capture::staleness(view, captured, &settings::text(&pinned))
}

/// The same of a view of which it is not known whether it is captured.
pub fn of_view(view: Oid) -> Result<(Staleness, Option<Timestamp>)> {
    let registration = Registration::find(view)?;
    of(view, registration.is_some_and(|registration| registration.policy.on_change))
}

/// Since when a captured view may not show everything: known to be stale, or what it rests on is not as
/// it was, or it rests on nothing yet.
pub fn stale_since(view: Oid) -> Result<Option<Timestamp>> {
    let (staleness, since) = of(view, true)?;
    let basis = catalog::capture::basis(view)?;
    let may_be_proved = basis.is_none_or(|basis| basis.fingerprint.is_some());
    let lost = staleness == Staleness::Unknown && may_be_proved;
    Ok(if lost { Some(clock::now()) } else { since })
}
