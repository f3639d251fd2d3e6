//! From what a view is registered with, and the settings, to what the core schedules by.

use std::time::Duration;

use cache_refresher_core::interval::{self, IntervalSettings, IntervalSource};
use cache_refresher_core::pace::Limits;
use cache_refresher_core::schedule::{CronSchedule, GridOffset, Schedule};
use cache_refresher_core::view_state::{Policy, Reaction};

use crate::catalog::registry::Registration;
use crate::error::Result;
use crate::guc::FailurePolicy;
use crate::pg::identity;

/// Time zone of cron expressions registered without one.
pub const DEFAULT_TIME_ZONE: &str = "UTC";

/// How a view is scheduled.
pub fn of(
    registration: &Registration,
    intervals: &IntervalSettings,
    failures: FailurePolicy,
) -> Result<Policy> {
    let name = &registration.name;
    let policy = &registration.policy;
    let schedule = match &policy.schedule {
        Some(expression) => {
            let zone = policy.time_zone.as_deref().unwrap_or(DEFAULT_TIME_ZONE);
            Schedule::Cron(CronSchedule::parse(expression, zone)?)
        }
        None => {
            let (every, _) =
                interval::effective(intervals, &name.schema, &name.name, policy.refresh_interval);
            Schedule::Interval(every)
        }
    };
    let adapts = match schedule {
        Schedule::Interval(every) => limits(policy.adapts, every),
        _ => None,
    };
    Ok(Policy {
        schedule,
        adapts,
        grid_offset: GridOffset::of(identity::current_database(), &name.schema, &name.name),
        retry: failures.retry,
        suspend_after: failures.suspend_after,
        paused: registration.paused,
    })
}

/// Between what the interval of a view adapts, if it does; it begins with the one that it would have.
fn limits(adapts: Option<(Duration, Duration)>, every: Duration) -> Option<Limits> {
    adapts.map(|(min, max)| Limits { min, max, start: every.max(min).min(max) })
}

/// How long a view waits for quiet where nobody said.
const DEFAULT_DEBOUNCE: Duration = Duration::from_secs(1);
/// How stale it may become meanwhile, where nobody said.
const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(10);

/// How a view reacts to changes, if it does.
pub fn reaction(registration: &Registration) -> Option<Reaction> {
    let policy = &registration.policy;
    let given = policy.max_staleness;
    let debounce = policy
        .debounce
        .unwrap_or_else(|| given.map_or(DEFAULT_DEBOUNCE, |most| most.min(DEFAULT_DEBOUNCE)));
    let max_staleness = given.unwrap_or_else(|| DEFAULT_MAX_STALENESS.max(debounce));
    policy.on_change.then_some(Reaction { debounce, max_staleness })
}

/// Where the interval of a view comes from.
pub fn interval_source(
    registration: &Registration,
    intervals: &IntervalSettings,
) -> IntervalSource {
    let (name, given) = (&registration.name, registration.policy.refresh_interval);
    interval::effective(intervals, &name.schema, &name.name, given).1
}

/// Whether a view has no pace of its own: neither registered nor set for it by name.
pub fn is_inherited(registration: &Registration, intervals: &IntervalSettings) -> bool {
    let policy = &registration.policy;
    policy.schedule.is_none()
        && policy.adapts.is_none()
        && interval_source(registration, intervals) == IntervalSource::DefaultSetting
}
