//! The scheduler's model of its database: every view, when each is due, and which ones run.
//!
//! Due times are computed when something about a view changes, not each time one asks: a tick with
//! ten thousand views touches only those that are due. A view that is not running is in one of
//! two ordered sets or in neither:
//!
//! ```text
//!  queue        by due time; those up to now are ready, longest-waiting first
//!  postponed    by the time to look again; then back to the queue, with its place by due time kept
//!  neither      paused, suspended, or without a further slot
//! ```

use std::collections::{BTreeMap, BTreeSet};

use crate::time::Timestamp;
use crate::view_state::{History, NextDue, Policy, Why, next_due};

/// OID of a materialized view.
pub type ViewId = u32;

/// All that decides when one view is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewEntry {
    /// Which view.
    pub id: ViewId,
    /// What was decided about it.
    pub policy: Policy,
    /// What has happened to it.
    pub history: History,
    /// Whether it has content.
    pub populated: bool,
    /// Since when it is registered.
    pub registered_at: Timestamp,
}

/// A view whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Which view.
    pub id: ViewId,
    /// Since when it waits.
    pub due_at: Timestamp,
    /// Why it is due.
    pub why: Why,
}

/// Every registered view of a database, with due times and running marks.
#[derive(Debug, Clone, Default)]
pub struct Board {
    views: BTreeMap<ViewId, View>,
    queue: BTreeSet<(Timestamp, ViewId)>,
    postponed: BTreeSet<(Timestamp, ViewId)>,
    /// Kept apart from `views`: who is unregistered while running is running still.
    running: BTreeSet<ViewId>,
    /// The latest time that we were told; an earlier one means that the clock went back.
    now: Option<Timestamp>,
}

#[derive(Debug, Clone)]
struct View {
    entry: ViewEntry,
    due: NextDue,
    /// Somebody else is at it: not before this time.
    not_before: Option<Timestamp>,
}

impl Board {
    /// Replaces all views by what the registry says now. Running marks stay, and so does the
    /// postponement of a view about which nothing has changed.
    pub fn load(&mut self, entries: Vec<ViewEntry>, now: Timestamp) {
        self.observe(now);
        let mut previous = std::mem::take(&mut self.views);
        self.queue.clear();
        self.postponed.clear();
        for entry in entries {
            let id = entry.id;
            let not_before = previous
                .remove(&id)
                .filter(|view| view.entry == entry)
                .and_then(|view| view.not_before);
            let due = due_of(&entry, now);
            self.views.insert(id, View { entry, due, not_before });
        }
        let ids: Vec<ViewId> = self.views.keys().copied().collect();
        for id in ids {
            self.enqueue(id);
        }
    }

    /// Takes in what has become of a view. Unknown views are ignored: they were unregistered
    /// meanwhile.
    pub fn apply(&mut self, id: ViewId, history: History, populated: bool, now: Timestamp) {
        self.observe(now);
        self.dequeue(id);
        if let Some(view) = self.views.get_mut(&id) {
            view.entry.history = history;
            view.entry.populated = populated;
            view.due = due_of(&view.entry, now);
            view.not_before = None;
        }
        self.enqueue(id);
    }

    /// Somebody else refreshes the view: look again at `until`. It keeps its place among those
    /// that wait.
    pub fn postpone(&mut self, id: ViewId, until: Timestamp) {
        self.dequeue(id);
        if let Some(view) = self.views.get_mut(&id) {
            view.not_before = Some(until);
        }
        self.enqueue(id);
    }

    /// Marks a view as running: it is not due until [`finish`](Self::finish).
    pub fn start(&mut self, id: ViewId) {
        self.dequeue(id);
        self.running.insert(id);
    }

    /// Takes the running mark away. What came of the refresh is told by [`apply`](Self::apply),
    /// before or after; without it the view is as due as it was.
    pub fn finish(&mut self, id: ViewId, now: Timestamp) {
        self.observe(now);
        self.dequeue(id);
        self.running.remove(&id);
        self.enqueue(id);
    }

    /// Up to `limit` views that are due and not running, longest-waiting first. Does not mark them.
    pub fn due(&mut self, now: Timestamp, limit: usize) -> Vec<Due> {
        self.observe(now);
        while let Some(&(until, id)) = self.postponed.first()
            && until <= now
        {
            self.dequeue(id);
            if let Some(view) = self.views.get_mut(&id) {
                view.not_before = None;
            }
            self.enqueue(id);
        }
        self.queue
            .iter()
            .take_while(|(due_at, _)| *due_at <= now)
            .filter_map(|&(due_at, id)| match self.views.get(&id)?.due {
                NextDue::At(_, why) => Some(Due { id, due_at, why }),
                NextDue::Never => None,
            })
            .take(limit)
            .collect()
    }

    /// When to look again: the earliest due time of the views that are not running. It may have
    /// passed. `None`: not until something changes.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let first = |set: &BTreeSet<(Timestamp, ViewId)>| set.first().map(|&(time, _)| time);
        first(&self.queue).into_iter().chain(first(&self.postponed)).min()
    }

    /// How many views run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// How many views there are.
    pub fn len(&self) -> usize {
        self.views.len()
    }

    /// Whether there are no views.
    pub fn is_empty(&self) -> bool {
        self.views.is_empty()
    }

    /// Notices that the clock went back: then due times were computed from a time that is not to be
    /// believed, and a postponement could last for hours.
    fn observe(&mut self, now: Timestamp) {
        let went_back = self.now.is_some_and(|before| now < before);
        self.now = Some(now);
        if !went_back {
            return;
        }
        self.queue.clear();
        self.postponed.clear();
        for view in self.views.values_mut() {
            view.due = due_of(&view.entry, now);
            view.not_before = None;
        }
        let ids: Vec<ViewId> = self.views.keys().copied().collect();
        for id in ids {
            self.enqueue(id);
        }
    }

    /// Puts a view into the set where it belongs, if any.
    fn enqueue(&mut self, id: ViewId) {
        if self.running.contains(&id) {
            return;
        }
        let Some(View { due: NextDue::At(due_at, _), not_before, .. }) = self.views.get(&id) else {
            return;
        };
        match *not_before {
            Some(until) if until > *due_at => self.postponed.insert((until, id)),
            _ => self.queue.insert((*due_at, id)),
        };
    }

    /// Takes a view out of the set where it is, if any.
    fn dequeue(&mut self, id: ViewId) {
        let Some(View { due: NextDue::At(due_at, _), not_before, .. }) = self.views.get(&id) else {
            return;
        };
        self.queue.remove(&(*due_at, id));
        if let Some(until) = *not_before {
            self.postponed.remove(&(until, id));
        }
    }
}

fn due_of(entry: &ViewEntry, now: Timestamp) -> NextDue {
    next_due(&entry.policy, &entry.history, entry.populated, entry.registered_at, now)
}
