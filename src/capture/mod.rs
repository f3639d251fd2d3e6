//! Change capture: what has happened to the sources of a view since its content was made.
//!
//! Triggers write to a log beside each source, in the writer's transaction; whoever refreshes a materialized view
//! that others read does it himself. A view remembers the snapshot of its last refresh; its changes are those that
//! this snapshot does not show. What no trigger sees, above all DDL, shows in a fingerprint of everything that the
//! view's rows depend on.

pub mod install;
pub mod obstacle;
pub mod unit;

use cache_refresher_core::obstacle::NotNow;
use cache_refresher_core::staleness::Staleness;
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::visibility::Visibility;
use pgrx::pg_sys::Oid;

use crate::catalog::capture::Told;
use crate::catalog::proof::{self, Basis, Fingerprint};
use crate::catalog::{capture, registry};
use crate::error::Result;
use crate::pg::changes::capture_trigger::ViewLog;
use crate::pg::changes::change_log;
use crate::pg::hooks::{announcements, invalidation};
use crate::pg::lock::RefreshLock;
use crate::pg::{clock, identity};

/// What is known about the changes of a view's sources, under the active snapshot.
#[derive(Debug, Clone)]
pub struct Knowledge {
    /// What it shows now.
    pub before: Option<Visibility>,
    /// What the view depends on had changed while it was refreshed the last time.
    changed_before: bool,
    /// What its content will rest on if it is refreshed now.
    pub basis: Basis,
    pub changes: Changes,
}

/// What has happened to the sources of a view since its content was made.
#[derive(Debug, Clone)]
pub enum Changes {
    /// Anything may have; why that is not known, if there is something to say about it.
    Unknown(Option<NotNow>),
    /// Nothing: the content is what the query would return now.
    None,
    /// What the logs say of transactions that this does not show.
    Some(Visibility),
}

/// On what the rows of a view depended when it was looked at, and who tells of their changes.
///
/// Looked at before the snapshot is taken under which the view is refreshed: were it looked at later only, a
/// change that the snapshot does not show, and that no trigger saw, could seem to have been shown. And looked at
/// again afterwards: what is computed depends on what the catalogs say then.
#[derive(Debug)]
pub struct Definition {
    fingerprint: Fingerprint,
    /// How much had been changed by then of what belongs to no relation.
    loose: u64,
}

impl Definition {
    /// As it is now. The caller holds locks on the view and its sources.
    pub fn of(view: Oid) -> Result<Self> {
        Self::with(view, capture::told(view)?)
    }

    fn with(view: Oid, told: Told) -> Result<Self> {
        let fingerprint = proof::fingerprint(view, told)?;
        Ok(Self { fingerprint, loose: invalidation::loose() })
    }

    fn sources(&self) -> &[Oid] {
        &self.fingerprint.told.sources
    }

    /// For this server: a subscriber made of a copy of it has the same catalogs, but transactions of its own.
    fn under(&self, settings: &str) -> String {
        format!("{} {} {settings}", self.fingerprint.text, identity::server())
    }

    /// Whether all that the rows depend on is as it was, and was not something else in between.
    fn still_holds(&self, view: Oid) -> Result<bool> {
        let Self { fingerprint: now, loose } = Self::of(view)?;
        let then = &self.fingerprint;
        let is_loose = then.is_loose || now.is_loose;
        Ok(then.told == now.told
            && then.definition() == now.definition()
            && (!is_loose || self.loose == loose))
    }
}

/// In place of a fingerprint: what the view depends on has changed while it was refreshed.
const CHANGED_MEANWHILE: &str = "changed meanwhile";

/// To be called when the rows of a view have been computed. If what it depends on has changed since it was looked
/// at, it is to be refreshed once more: once, since it may be the refresh itself that changes something.
pub fn conclude(view: Oid, definition: &Definition, knowledge: &mut Knowledge) -> Result<()> {
    if let Some(fingerprint) = &mut knowledge.basis.fingerprint
        && (fingerprint == CHANGED_MEANWHILE || !definition.still_holds(view)?)
    {
        CHANGED_MEANWHILE.clone_into(fingerprint);
        if !knowledge.changed_before {
            announcements::source_changed(view);
        }
    }
    Ok(())
}

/// The same when some rows have been computed, which leaves the proof of the others as it is: it has to be one of
/// the same definition.
pub fn conclude_part(view: Oid, definition: &Definition, settings: &str) -> Result<()> {
    let stored = proof::basis(view)?.and_then(|basis| basis.fingerprint);
    let Some(stored) = stored else { return Ok(()) };
    if stored != definition.under(settings) || !definition.still_holds(view)? {
        proof::distrust(view)?;
        announcements::source_changed(view);
    }
    Ok(())
}

/// Looks at what a view shows and what has changed, if changes are captured for it. The caller holds locks on the
/// view and its sources.
///
/// `settings` are those under which the query runs: its result may depend on them.
pub fn examine(view: Oid, definition: Option<&Definition>, settings: &str) -> Result<Knowledge> {
    let shown = proof::visible_now()?;
    let Some(definition) = definition else {
        return Ok(Knowledge {
            before: None,
            changed_before: false,
            basis: Basis { shown, fingerprint: None },
            changes: Changes::Unknown(None),
        });
    };
    let mut fingerprint = definition.under(settings);
    let basis = proof::basis(view)?;
    let before = basis.as_ref().map(|basis| basis.shown.clone());
    let stored = basis.as_ref().and_then(|basis| basis.fingerprint.clone());
    let changed_before = stored.as_deref() == Some(CHANGED_MEANWHILE);
    let trusted = basis.filter(|basis| basis.fingerprint.as_deref() == Some(&fingerprint));
    if let Some(Basis { shown: last, .. }) = trusted {
        let invalidated = proof::invalidated_since(view, Some(&last))?.is_some();
        let unshown = is_unshown(definition.sources(), &last);
        // What the logs say counts for what they were logs of.
        let holds = definition.still_holds(view)?;
        if !holds {
            CHANGED_MEANWHILE.clone_into(&mut fingerprint);
        }
        let changes = if invalidated {
            Changes::Unknown(Some(NotNow::Invalidated))
        } else if !holds {
            Changes::Unknown(Some(NotNow::Redefined))
        } else if unshown {
            Changes::Some(last)
        } else {
            Changes::None
        };
        let basis = Basis { shown, fingerprint: Some(fingerprint) };
        return Ok(Knowledge { before, changed_before, basis, changes });
    }
    let obstacle = obstacle::of(view)?;
    let proved = obstacle.is_none() && !capture::begins_here(view)?;
    let why = match (obstacle, stored) {
        (Some(obstacle), _) => obstacle.into(),
        _ if proof::invalidated_since(view, before.as_ref())?.is_some() => NotNow::Invalidated,
        (None, Some(_)) => NotNow::Redefined,
        (None, None) => NotNow::First,
    };
    let fingerprint = proved.then_some(fingerprint);
    let basis = Basis { shown, fingerprint };
    Ok(Knowledge { before, changed_before, basis, changes: Changes::Unknown(Some(why)) })
}

/// Where the rows of a view are has changed since `basis` was looked at, by this refresh.
pub fn follow_to_new_file(view: Oid, basis: &mut Basis) -> Result<()> {
    if let Some(fingerprint) = &mut basis.fingerprint {
        let parts: Vec<&str> = fingerprint.splitn(3, ' ').collect();
        if let [definition, _, settings] = parts[..] {
            *fingerprint = format!("{definition} {} {settings}", proof::file(view)?);
        }
    }
    Ok(())
}

/// How stale a view is, by what the calling statement sees.
pub fn staleness(
    view: Oid,
    captured: bool,
    settings: &str,
) -> Result<(Staleness, Option<Timestamp>)> {
    let Some(basis) = proof::basis(view)? else {
        return Ok((Staleness::Unknown, None));
    };
    // Whoever looks at all views is not to wait for the owner of one.
    let told = capture::told(view)?;
    if !told.sources.iter().copied().all(change_log::try_lock) {
        return Ok((Staleness::Unknown, None));
    }
    if let Some(since) = unshown_since(view, &told.sources, &basis.shown)? {
        return Ok((Staleness::Stale, Some(since)));
    }
    let Some(fingerprint) = basis.fingerprint.filter(|_| captured) else {
        return Ok((Staleness::Unknown, None));
    };
    let now = Definition::with(view, told)?.under(settings);
    Ok((if now == fingerprint { Staleness::Fresh } else { Staleness::Unknown }, None))
}

/// Whether anything has changed that is not shown.
fn is_unshown(sources: &[Oid], shown: &Visibility) -> bool {
    sources.iter().any(|&source| {
        let mut found = false;
        change_log::read(source, shown.earliest(), |entry| {
            found = !shown.shows(entry.xid);
            !found
        });
        found
    })
}

/// When the oldest change was committed that is not shown; where the server keeps no track of that, a time before
/// it, and not before the change was made. What is replicated says when it was committed elsewhere.
fn unshown_since(view: Oid, sources: &[Oid], shown: &Visibility) -> Result<Option<Timestamp>> {
    let mut since = proof::invalidated_since(view, Some(shown))?;
    let mut last = (0, None);
    for &source in sources {
        change_log::read(source, shown.earliest(), |entry| {
            if !shown.shows(entry.xid) {
                if last.0 != entry.xid {
                    last = (entry.xid, clock::committed_at(entry.xid));
                }
                let at = last.1.map_or(entry.at, |at| at.max(entry.at));
                since = Some(since.map_or(at, |since| since.min(at)));
            }
            true
        });
    }
    Ok(since)
}

/// Removes what nobody needs any more of what led to a view's new content.
///
/// What another view needs is what its content does not show. A view without a proof needs nothing, and
/// any refresh of it that begins from now on sees all that is removed here; one that is under way may
/// have begun before, and might rest on what it does not see: then everything stays.
///
/// `before` is what the view showed before. Whatever else is needed no more was so when the last of those
/// who needed it had been refreshed, and is gone since then: but for what stayed at that time, which is
/// why now and then everything is looked at, the more seldom the more there is.
pub fn settle(view: Oid, shown: &Visibility, before: Option<&Visibility>) -> Result<()> {
    proof::settle(view, shown)?;
    for source in capture::sources(view)? {
        let mut others = Vec::new();
        let mut under_way = false;
        for consumer in capture::other_consumers(source, view)? {
            match consumer.needs_after {
                Some(shown) => others.push(shown),
                None => under_way |= is_being_refreshed(consumer.view)?,
            }
        }
        if !under_way {
            let before = before.filter(|_| !draw(change_log::blocks(source)));
            change_log::prune(source, before.map_or(0, Visibility::earliest), |xid| {
                shown.shows(xid) && others.iter().all(|other| other.shows(xid))
            });
        }
    }
    Ok(())
}

/// Whether it is the turn of everything, for a log of that size.
fn draw(blocks: u32) -> bool {
    let one_in = (blocks / SWEPT_BLOCKS).clamp(SWEEP_AT_MOST, SWEEP_AT_LEAST);
    clock::now().as_pg().rem_euclid(i64::from(one_in)) == 0
}

/// Whether another transaction refreshes a view.
fn is_being_refreshed(view: Oid) -> Result<bool> {
    let lock = RefreshLock::try_acquire(registry::oid()?, view);
    Ok(lock.map(RefreshLock::release).is_none())
}

/// Nothing is proved any more of a view that begins to be captured, or does so again: what happened
/// before was nobody's business. A refresh that is under way could still write a proof; what is said
/// here outlives that.
fn begin(view: Oid) -> Result<()> {
    proof::distrust(view)?;
    if is_being_refreshed(view)? {
        invalidate(view)?;
    }
    Ok(())
}

/// Marks a view as stale because somebody says so, from the commit of this transaction on.
pub fn invalidate(view: Oid) -> Result<()> {
    proof::invalidate(view)?;
    announcements::source_changed(view);
    Ok(())
}

/// What follows from a REFRESH of these views: nothing is proved of them any more, and for those that read them any
/// row may be another one.
pub fn content_replaced(views: Vec<Oid>) -> Result<()> {
    proof::distrust_refreshed(views.clone())?;
    views.into_iter().for_each(ViewLog::note_any);
    Ok(())
}

/// Of so many refreshes no more than one looks through a whole log, however small that is.
const SWEEP_AT_MOST: u32 = 64;
/// Of so many refreshes one looks through a whole log, however large that is.
const SWEEP_AT_LEAST: u32 = 512;
/// Within these limits whole logs are looked through so often that it makes so many blocks a refresh, on average.
const SWEPT_BLOCKS: u32 = 8;

/// A log larger than this costs more to read than a diff of most views.
const LARGEST_LOG: i64 = 64 << 20;

/// Empties logs that have become too large because a view that needs them is not refreshed: it is known
/// to be stale, and its next refresh will look at everything. Returns the names of their sources.
pub fn bound() -> Result<Vec<String>> {
    // Whoever registers from now on has a snapshot that shows all of this, and is not among those who are told.
    let seen = proof::visible_now()?;
    let mut names = Vec::new();
    for large in capture::logs_larger_than(LARGEST_LOG)? {
        for view in capture::release(large.oid)? {
            invalidate(view)?;
        }
        change_log::prune(large.oid, 0, |xid| seen.shows(xid));
        names.push(pgrx::spi::quote_qualified_identifier(&large.schema, &large.name));
    }
    Ok(names)
}
