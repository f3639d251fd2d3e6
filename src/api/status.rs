//! What `cache_refresher.status` shows of each registered view, by the code that schedules it.

use std::borrow::Cow;
use std::collections::HashSet;

use cache_refresher_core::interval::{IntervalSettings, IntervalSource};
use cache_refresher_core::method::Requested;
use cache_refresher_core::schedule::Schedule;
use cache_refresher_core::time::Timestamp;
use cache_refresher_core::view_state::{self, NextDue};
use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::prelude::*;

use crate::catalog::overview::{self, Overview, Tried};
use crate::error::Result;
use crate::guc::{self, FailurePolicy};
use crate::pg::rows::result_rows::ResultRows;
use crate::pg::{clock, identity, relation, shared};
use crate::refresh::freshness::{self, Known};
use crate::refresh::policy;

#[pg_extern(sql = false)]
fn status(call: pg_sys::FunctionCallInfo) -> std::result::Result<(), ErrorReport> {
    let rows = ResultRows::of(call);
    let asking = Asking::new();
    each_visible(|view| {
        rows.put(asking.row(view)?);
        Ok(())
    })?;
    Ok(())
}

/// Calls `body` with each registration that the caller may see.
pub(super) fn each_visible(mut body: impl FnMut(&Overview) -> Result<()>) -> Result<()> {
    let sees_all = identity::is_monitor();
    overview::each(|view| if sees_all || may_see(view) { body(view) } else { Ok(()) })
}

/// A view that is gone has no owner: those see it who could make it anew. Monitors see all.
fn may_see(overview: &Overview) -> bool {
    match &overview.view {
        Some(view) => identity::may_see(view.oid),
        None => identity::may_create_in(&overview.name.schema),
    }
}

/// How stale it is; of others than captured and invalidated views nothing is known.
pub(super) fn known(overview: &Overview) -> Result<Known> {
    match &overview.view {
        Some(view) if overview.on_change || view.invalidated => {
            freshness::of(view.oid, overview.on_change)
        }
        _ => Ok(Known::NOTHING),
    }
}

/// What all views are seen with.
pub(super) struct Asking {
    running: HashSet<Oid>,
    /// What has been tried with a view that is missing.
    never: Tried,
    intervals: IntervalSettings,
    pub(super) now: Timestamp,
}

/// Which interval holds, and by what; when the next refresh is due.
#[derive(Default)]
struct Plan {
    interval: Option<Interval>,
    source: Option<Cow<'static, str>>,
    next: Option<Timestamp>,
}

impl Asking {
    pub(super) fn new() -> Self {
        let running = shared::running(identity::current_database());
        Self {
            running: running.into_iter().map(|running| Oid::from(running.view)).collect(),
            never: Tried::default(),
            intervals: guc::intervals(),
            now: clock::now(),
        }
    }

    /// In the order of the columns that the function is declared with.
    fn row(&self, overview: &Overview) -> Result<[Option<Datum>; 29]> {
        let Known { staleness, stale_since, proved_until } = known(overview)?;
        let Plan { interval, source, next } = self.plan(overview);
        let time = |at: Option<Timestamp>| at.and_then(|at| clock::to_sql(at).into_datum());
        let policy = overview.registration.as_ref().ok().map(|registration| &registration.policy);
        let method = policy.map(|policy| policy.method.unwrap_or(Requested::Auto).as_str());
        let schedule = policy.and_then(|policy| policy.schedule.as_deref());
        let time_zone = policy.and_then(|policy| policy.time_zone.as_deref());
        let view = overview.view.as_ref();
        let oid = view.map(|view| view.oid);
        let content = view.and_then(|view| view.content);
        let tried = view.map_or(&self.never, |view| view.tried);
        let data_as_of = proved_until.max(content.and_then(|content| content.data_as_of));
        let age = data_as_of.map(|data_as_of| clock::to_interval(self.now.since(data_as_of)));
        // Messages can hold data.
        let is_owner = || view.is_some_and(|view| identity::acts_for(view.entry.owner));
        let last_error = tried.error_message.as_deref().filter(|_| is_owner());
        let failures = i32::try_from(tried.history.consecutive_failures).unwrap_or(i32::MAX);
        Ok([
            oid.into_datum(),
            overview.name.schema.as_str().into_datum(),
            overview.name.name.as_str().into_datum(),
            self.state(overview).into_datum(),
            method.into_datum(),
            interval.into_datum(),
            schedule.into_datum(),
            time_zone.into_datum(),
            source.as_deref().into_datum(),
            time(next),
            time(content.map(|content| content.refreshed_at)),
            time(data_as_of),
            age.into_datum(),
            staleness.as_str().into_datum(),
            time(stale_since),
            content.and_then(|content| content.rows_total).into_datum(),
            content.map(|content| content.duration_ms).into_datum(),
            tried.error_sqlstate.as_deref().into_datum(),
            last_error.into_datum(),
            failures.into_datum(),
            tried.refreshes.into_datum(),
            tried.failures.into_datum(),
            tried.cancellations.into_datum(),
            time(Some(overview.registered_at)),
            oid.map(relation::dead_rows).into_datum(),
            overview.on_change.into_datum(),
            tried.skips.into_datum(),
            time(tried.skipped_at),
            view.and_then(|view| view.bloat.cloned()).into_datum(),
        ])
    }

    /// The word for it.
    pub(super) fn state(&self, overview: &Overview) -> &'static str {
        let Some(view) = &overview.view else { return "missing" };
        let history = &view.tried.history;
        if self.running.contains(&view.oid) {
            "running"
        } else if overview.paused {
            "paused"
        } else if history.suspended {
            "suspended"
        } else if history.retry_at.is_some() {
            "retrying"
        } else {
            "scheduled"
        }
    }

    /// A row that an administrator has spoilt is not scheduled, and must not spoil the view of the rest.
    fn plan(&self, overview: &Overview) -> Plan {
        let Ok(registration) = overview.registration else { return Plan::default() };
        // When it is due does not depend on what would follow from failures to come.
        let Ok(policy) = policy::of(registration, &self.intervals, FailurePolicy::NONE) else {
            return Plan::default();
        };
        let history = overview.view.as_ref().map(|view| view.tried.history).unwrap_or_default();
        let interval = match *policy.slots(&history) {
            Schedule::Interval(every) | Schedule::After(every) => Some(clock::to_interval(every)),
            Schedule::Cron(_) => None,
        };
        let source = match (&policy.adapts, history.pace) {
            (Some(_), Some(pace)) => format!("adaptive: {}", pace.reason.as_str()).into(),
            (Some(_), None) => "adaptive".into(),
            (None, _) if interval.is_none() => IntervalSource::Registry.as_str().into(),
            (None, _) => policy::interval_source(registration, &self.intervals).as_str().into(),
        };
        let next = overview.view.as_ref().and_then(|view| {
            let (populated, since) = (view.entry.populated, registration.registered_at);
            match view_state::next_due(&policy, &history, populated, since, self.now) {
                NextDue::At(at, _) => Some(at),
                NextDue::Never => None,
            }
        });
        Plan { interval, source: Some(source), next }
    }
}
