//! How stale a view is: what it rests on, compared with what has been committed.

use cache_refresher_core::obstacle::Obstacle;
use cache_refresher_core::staleness::Staleness;
use cache_refresher_core::time::Timestamp;
use pgrx::pg_sys::Oid;

use super::settings;
use crate::capture::{self, obstacle};
use crate::catalog;
use crate::catalog::registry::Registration;
use crate::error::Result;
use crate::pg::{clock, snapshot};

/// What is known of how stale a view is.
pub struct Known {
    pub staleness: Staleness,
    /// When the oldest change was made that it does not show.
    pub stale_since: Option<Timestamp>,
    /// All that was committed by then is proved to be shown.
    pub proved_until: Option<Timestamp>,
}

impl Known {
    pub const NOTHING: Self =
        Self { staleness: Staleness::Unknown, stale_since: None, proved_until: None };
}

/// How stale a view is.
pub fn of(view: Oid, captured: bool) -> Result<Known> {
    // Of what has been replayed since the snapshot was taken it shows nothing.
    let replayed_until =
        clock::replayed_until().filter(|_| snapshot::is_in_recovery() && snapshot::is_current());
    let (staleness, stale_since) = by_all(view, captured)?;
    Ok(match staleness {
        // What the primary has committed since, a standby cannot know.
        Staleness::Fresh if snapshot::is_in_recovery() => {
            Known { staleness: Staleness::Unknown, stale_since, proved_until: replayed_until }
        }
        Staleness::Fresh => {
            Known { staleness, stale_since, proved_until: Some(snapshot::not_older_than()) }
        }
        _ => Known { staleness, stale_since, proved_until: None },
    })
}

/// The same of a view of which it is not known whether it is captured.
pub fn of_view(view: Oid) -> Result<Known> {
    of(view, is_captured(view)?)
}

fn is_captured(view: Oid) -> Result<bool> {
    let registration = Registration::find(view)?;
    Ok(registration.is_some_and(|registration| registration.policy.on_change))
}

/// Whether a view is proved to show everything, known not to, or neither; and since when it does not. What a
/// materialized view that it reads does not show, it does not show either.
fn by_all(view: Oid, captured: bool) -> Result<(Staleness, Option<Timestamp>)> {
    let mut worst = of_its_own(view, captured)?;
    if worst.0 == Staleness::Fresh {
        for parent in catalog::capture::views_read_by(view)? {
            match by_all(parent, is_captured(parent)?)? {
                (Staleness::Fresh, _) => {}
                (Staleness::Stale, since) => return Ok((Staleness::Stale, since)),
                unknown => worst = unknown,
            }
        }
    }
    Ok(worst)
}

/// The same by what has happened to what it reads.
fn of_its_own(view: Oid, captured: bool) -> Result<(Staleness, Option<Timestamp>)> {
    capture::staleness(view, captured, &settings::text(&settings::configured()?))
}

/// Since when a captured view may not show everything: known to be stale, or not proved to be fresh
/// although that is possible.
pub fn stale_since(view: Oid) -> Result<Option<Timestamp>> {
    let (staleness, since) = of_its_own(view, true)?;
    if staleness != Staleness::Unknown {
        return Ok(since);
    }
    let provable = match obstacle::of(view)? {
        None => true,
        // A refresh by a worker mends that.
        Some(obstacle) => matches!(obstacle, Obstacle::Uncaptured { allowed: true, .. }),
    };
    let basis = catalog::proof::basis(view)?;
    let lost = basis.is_none_or(|basis| basis.fingerprint.is_some());
    Ok((provable || lost).then(clock::now))
}
