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
//!
//! Views may read other views. Parents come first: a view whose time has come is not handed out while
//! something that it reads, through others too, is due as well or runs. So the bottom of a diamond is
//! refreshed once, after both sides. This is a matter of economy, not of rightness, and so it has an
//! end: a view waits for others no longer than one interval of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::schedule::Schedule;
use crate::time::Timestamp;
use crate::view_state::{
    Change, History, NextDue, Policy, Reaction, Why, following, next_due, reacting,
};

/// OID of a materialized view.
pub type ViewId = u32;

/// OID of something that changes.
pub type SourceId = u32;

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
    /// The views that it reads. Those that are not on the board don't matter.
    pub parents: Vec<ViewId>,
    /// It has no pace of its own: new rows in what it reads make it due.
    pub follows: bool,
    /// How it reacts to changes of its sources, if it does.
    pub reaction: Option<Reaction>,
    /// The sources of whose changes we are told. Invalidation goes by the view's own OID.
    pub sources: Vec<SourceId>,
}

impl ViewEntry {
    /// How long it lets others go first.
    fn patience(&self) -> Duration {
        match *self.policy.slots(&self.history) {
            Schedule::Interval(interval) | Schedule::After(interval) => interval,
            Schedule::Cron(_) => Duration::from_secs(60),
        }
    }
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
    /// With what made them due. Kept apart from `views`: who is unregistered while running is
    /// running still.
    running: BTreeMap<ViewId, NextDue>,
    /// Who follows a view.
    followers: BTreeMap<ViewId, Vec<ViewId>>,
    /// Who reacts to changes of a source.
    reacting: BTreeMap<SourceId, Vec<ViewId>>,
    /// The latest time that we were told; an earlier one means that the clock went back.
    now: Option<Timestamp>,
}

#[derive(Debug, Clone)]
struct View {
    entry: ViewEntry,
    due: NextDue,
    /// What it does not show yet.
    change: Option<Change>,
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
        self.followers.clear();
        self.reacting.clear();
        for entry in entries {
            let id = entry.id;
            for parent in entry.parents.iter().filter(|_| entry.follows) {
                self.followers.entry(*parent).or_default().push(id);
            }
            for source in entry.sources.iter().filter(|_| entry.reaction.is_some()) {
                self.reacting.entry(*source).or_default().push(id);
            }
            let before = previous.remove(&id);
            let change = before
                .as_ref()
                .and_then(|view| view.change)
                .and_then(|change| unshown(change, &entry.history));
            let not_before =
                before.filter(|view| view.entry == entry).and_then(|view| view.not_before);
            self.views.insert(id, View { entry, due: NextDue::Never, change, not_before });
        }
        self.schedule_all(now);
    }

    /// Takes in what has become of a view, and whether that has given it content. Unknown views are
    /// ignored: they were unregistered meanwhile.
    pub fn apply(&mut self, id: ViewId, history: History, populated: bool, now: Timestamp) {
        self.observe(now);
        self.dequeue(id);
        let mut changed = false;
        if let Some(view) = self.views.get_mut(&id) {
            changed = view.entry.history.changed_at != history.changed_at;
            view.entry.history = history;
            view.entry.populated |= populated;
            view.change = view.change.and_then(|change| unshown(change, &history));
            view.not_before = None;
        }
        self.schedule(id, now);
        if changed {
            for follower in self.followers.get(&id).cloned().unwrap_or_default() {
                self.dequeue(follower);
                self.schedule(follower, now);
            }
        }
    }

    /// The shortest time of quiet that a view waits for, if there are any that react to changes.
    pub fn shortest_debounce(&self) -> Option<Duration> {
        let reactions = self.views.values().filter_map(|view| view.entry.reaction);
        reactions.map(|reaction| reaction.debounce).min()
    }

    /// Somebody has committed a change of a source.
    pub fn changed(&mut self, source: SourceId, now: Timestamp) {
        self.observe(now);
        for id in self.reacting.get(&source).cloned().unwrap_or_default() {
            self.dequeue(id);
            if let Some(view) = self.views.get_mut(&id) {
                view.change = Some(Change::and(view.change, now));
            }
            self.schedule(id, now);
        }
    }

    /// The views that react to changes, in the order of their OIDs.
    pub fn reacting(&self) -> Vec<ViewId> {
        let reacting = self.views.values().filter(|view| view.entry.reaction.is_some());
        reacting.map(|view| view.entry.id).collect()
    }

    /// It was found that a view has not shown everything since then.
    pub fn stale(&mut self, id: ViewId, since: Timestamp, now: Timestamp) {
        self.observe(now);
        self.dequeue(id);
        if let Some(view) = self.views.get_mut(&id) {
            view.change = Some(Change::and(view.change, since.min(now)));
        }
        self.schedule(id, now);
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
        let due = self.views.get(&id).map_or(NextDue::Never, |view| view.due);
        self.running.insert(id, due);
    }

    /// Takes the running mark away. What came of the refresh is told by [`apply`](Self::apply),
    /// before or after; without it the view is as due as it was.
    pub fn finish(&mut self, id: ViewId, now: Timestamp) {
        self.observe(now);
        self.dequeue(id);
        self.running.remove(&id);
        self.enqueue(id);
    }

    /// Up to `limit` views that are due and not running, and have nothing to wait for,
    /// longest-waiting first. Does not mark them.
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
            .filter(|(due_at, id)| !self.waits(*id, *due_at, now))
            .filter_map(|&(due_at, id)| match self.views.get(&id)?.due {
                NextDue::At(_, why) => Some(Due { id, due_at, why }),
                NextDue::Never => None,
            })
            .take(limit)
            .collect()
    }

    /// Whether something that a view reads goes first. What became due later does not, or a view
    /// that is always due would keep its readers waiting; but what follows others comes of something
    /// that was due before.
    fn waits(&self, id: ViewId, due_at: Timestamp, now: Timestamp) -> bool {
        let Some(view) = self.views.get(&id).filter(|view| !view.entry.parents.is_empty()) else {
            return false;
        };
        if due_at.plus(view.entry.patience()) <= now {
            return false;
        }
        let mut seen = BTreeSet::from([id]);
        let mut open: Vec<ViewId> = view.entry.parents.clone();
        while let Some(ancestor) = open.pop() {
            if !seen.insert(ancestor) {
                continue;
            }
            let Some(view) = self.views.get(&ancestor) else { continue };
            let due = self.running.get(&ancestor).or_else(|| {
                // Postponed is being refreshed by somebody else.
                Some(&view.due).filter(|due| matches!(due, NextDue::At(at, _) if *at <= now))
            });
            let goes_first = due.is_some_and(|due| match *due {
                NextDue::At(_, Why::Parent) => true,
                NextDue::At(at, _) => at <= due_at,
                NextDue::Never => false,
            });
            if goes_first {
                return true;
            }
            open.extend(&view.entry.parents);
        }
        false
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
            view.not_before = None;
            view.change = view.change.map(|Change { first, last }| Change {
                first: first.min(now),
                last: last.min(now),
            });
        }
        self.schedule_all(now);
    }

    fn schedule_all(&mut self, now: Timestamp) {
        let ids: Vec<ViewId> = self.views.keys().copied().collect();
        for id in ids {
            self.schedule(id, now);
        }
    }

    /// Computes anew when a view is due, and puts it where it belongs.
    fn schedule(&mut self, id: ViewId, now: Timestamp) {
        let Some(View { entry, change, .. }) = self.views.get(&id) else { return };
        let mut due = due_of(entry, now);
        if entry.follows {
            let parents = entry.parents.iter().filter_map(|parent| self.views.get(parent));
            let changed_at = parents.filter_map(|parent| parent.entry.history.changed_at).max();
            // A time in the future comes of a clock that went back.
            due = following(due, &entry.history, changed_at.filter(|at| *at <= now));
        }
        if let Some(reaction) = entry.reaction {
            due = reacting(due, reaction, *change, &entry.history, entry.policy.retry);
        }
        if let Some(view) = self.views.get_mut(&id) {
            view.due = due;
        }
        self.enqueue(id);
    }

    /// Puts a view into the set where it belongs, if any.
    fn enqueue(&mut self, id: ViewId) {
        if self.running.contains_key(&id) {
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

/// What of a change is still to be shown. After a failure all of it; a refresh that was cancelled is not
/// wanted back at once.
fn unshown(change: Change, history: &History) -> Option<Change> {
    match history.last_started {
        Some(started) if history.consecutive_failures == 0 => change.since(started),
        _ => Some(change),
    }
}

fn due_of(entry: &ViewEntry, now: Timestamp) -> NextDue {
    next_due(&entry.policy, &entry.history, entry.populated, entry.registered_at, now)
}
