//! What has changed: heard from writers, and looked for where nobody listened.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::time::Duration;

use cache_refresher_core::time::Timestamp;
use pgrx::pg_sys::Oid;

use super::{PATIENCE, Process, patience};
use crate::capture;
use crate::pg::process::background_worker;
use crate::pg::{clock, relation, report, shared, transaction};
use crate::refresh::freshness;

/// How long to wait between taking changes, at least and at most.
const LEAST_DEAF: Duration = Duration::from_millis(5);
const MOST_DEAF: Duration = Duration::from_millis(250);
/// How long to look at views without looking at anything else.
const LOOK_TIME: Duration = Duration::from_millis(20);
/// How often to look at the size of logs of changes, while there are changes.
const BOUND_EVERY: Duration = Duration::from_secs(60);

/// Views to be looked at, one after the other.
struct Unlooked {
    views: VecDeque<u32>,
    /// The one that was looked at last.
    last: u32,
    /// How long locks are waited for.
    patience: &'static CStr,
}

impl Default for Unlooked {
    fn default() -> Self {
        Self { views: VecDeque::new(), last: 0, patience: PATIENCE }
    }
}

impl Unlooked {
    /// All views again, in the order of their OIDs, but first those that it was not the turn of: the registry may
    /// be read again and again.
    fn anew(&self, views: Vec<u32>) -> Self {
        let mut views = VecDeque::from(views);
        if !self.views.is_empty() {
            views.rotate_left(views.partition_point(|view| *view <= self.last));
        }
        Self { views, last: self.last, patience: PATIENCE }
    }
}

/// What is known of changes, and when there is more to hear.
#[derive(Default)]
pub(super) struct Hearing {
    /// Of which views it is not known what was changed while nobody listened.
    unlooked: Unlooked,
    /// When logs of changes were looked at last.
    bounded_at: Option<Timestamp>,
    /// No changes are taken before this time.
    deaf_until: Option<Timestamp>,
    /// There are some; they are taken at this time.
    wait: Option<Timestamp>,
}

impl Hearing {
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.wait
    }

    /// Whether it is known of all views what was changed while nobody listened.
    pub(super) fn is_caught_up(&self) -> bool {
        self.unlooked.views.is_empty()
    }

    /// All these views have to be looked at.
    pub(super) fn look_anew(&mut self, views: Vec<u32>) {
        self.unlooked = self.unlooked.anew(views);
    }
}

impl Process {
    /// Learns what has been changed. Where that is too much to tell, the registry is read again, and
    /// then what each view does not show.
    ///
    /// Whoever changes what is reported already has nobody to wake. So changes are taken a moment after
    /// those before, and not each as it comes: a view waits for some quiet anyway, or is being refreshed
    /// meanwhile.
    pub(super) fn take_changes(&mut self) {
        let now = clock::now();
        let soon =
            self.hearing.deaf_until.filter(|until| now < *until && until.since(now) <= MOST_DEAF);
        if soon.is_some() && shared::has_changes(self.database) {
            self.hearing.wait = soon;
            return;
        }
        self.hearing.wait = None;
        let Some(changes) = shared::take_changes(self.database) else { return };
        self.active_at = now;
        let shortest = self.board.shortest_debounce().unwrap_or(MOST_DEAF);
        self.hearing.deaf_until = Some(now.plus((shortest / 4).clamp(LEAST_DEAF, MOST_DEAF)));
        if self.hearing.bounded_at.is_none_or(|at| at.plus(BOUND_EVERY) <= now || at > now) {
            self.hearing.bounded_at = Some(now);
            self.bound_logs();
        }
        match changes.sources() {
            Some(sources) => sources.iter().for_each(|&source| self.board.changed(source, now)),
            None => self.reload.at(now),
        }
    }

    /// Keeps logs of changes from growing without end where a view is not refreshed for long.
    fn bound_logs(&mut self) {
        let bounded = transaction::run(|| {
            let _patience = patience(PATIENCE);
            capture::bound().unwrap_or_else(|error| error.raise())
        });
        // They tell how many rows a log has.
        background_worker::report_statistics();
        match bounded {
            Ok(emptied) => emptied.iter().for_each(|name| {
                report::log(
                    &format!("cache_refresher: the log of changes of {name} has become too large, and was emptied"),
                    None,
                    Some("Views that had not shown them are refreshed with diff."),
                );
            }),
            Err(caught) => self.try_again("bound the logs of changes", &caught),
        }
    }

    /// Learns what was changed while nobody listened, of some of the views: what is due goes on meanwhile. That
    /// takes locks on what the views read, so each view gets a transaction of its own: two such locks at once might
    /// wait for somebody who waits for one of them.
    pub(super) fn look_for_changes(&mut self) {
        let begun = clock::now();
        while let Some(id) = self.hearing.unlooked.views.pop_front() {
            self.hearing.unlooked.last = id;
            let patience_with = self.hearing.unlooked.patience;
            match transaction::run(|| {
                let _patience = patience(patience_with);
                freshness::stale_since(Oid::from(id)).unwrap_or_else(|error| error.raise())
            }) {
                Ok(None) => {}
                Ok(Some(since)) => self.board.stale(id, since, clock::now()),
                // Whoever dropped it has poked.
                Err(_) if relation::is_gone(id.into()) => {}
                Err(caught) => {
                    // One table that is locked for long holds up the views of others no more than once.
                    self.hearing.unlooked.patience = c"1";
                    self.try_again("see whether a view is stale", &caught);
                }
            }
            if clock::now().since(begun) > LOOK_TIME {
                break;
            }
        }
        self.reload.takes_longer(clock::now().since(begun));
    }
}
