//! `register`, `alter`, `unregister`, `pause`, `resume`.

use cache_refresher_core::method::{Refusal, Requested};
use cache_refresher_core::schedule::CronSchedule;
use cache_refresher_core::{identifiers, interval};
use pgrx::datum::Interval;
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::health::PRELOAD;
use super::view;
use crate::capture::{self, install};
use crate::catalog::registry::{self, Policy, Registration, Summary};
use crate::catalog::view::{View, ViewName};
use crate::catalog::{attempts, binding};
use crate::error::{Error, RefusalText, Result};
use crate::guc;
use crate::pg::lock::RefreshLock;
use crate::pg::{clock, identity, report, shared, snapshot};
use crate::refresh::{policy, privilege, summary};

/// The arguments that `register` and `alter` share.
struct Arguments {
    refresh_interval: Option<Interval>,
    schedule: Option<String>,
    time_zone: Option<String>,
    min_interval: Option<Interval>,
    max_interval: Option<Interval>,
    method: Option<String>,
    on_change: Option<bool>,
    debounce: Option<Interval>,
    max_staleness: Option<Interval>,
    timeout: Option<Interval>,
    summary_query: Option<String>,
}

impl Arguments {
    /// Whether a value is given for this name.
    fn sets(&self, name: &str) -> bool {
        match name {
            "refresh_interval" => self.refresh_interval.is_some(),
            "schedule" => self.schedule.is_some(),
            "time_zone" => self.time_zone.is_some(),
            "min_interval" => self.min_interval.is_some(),
            "max_interval" => self.max_interval.is_some(),
            "method" => self.method.is_some(),
            "on_change" => self.on_change.is_some(),
            "debounce" => self.debounce.is_some(),
            "max_staleness" => self.max_staleness.is_some(),
            "timeout" => self.timeout.is_some(),
            "summary_query" => self.summary_query.is_some(),
            _ => false,
        }
    }
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn register(
    view: Option<Oid>,
    refresh_interval: Option<Interval>,
    schedule: Option<String>,
    time_zone: Option<String>,
    min_interval: Option<Interval>,
    max_interval: Option<Interval>,
    method: Option<String>,
    on_change: Option<bool>,
    debounce: Option<Interval>,
    max_staleness: Option<Interval>,
    timeout: Option<Interval>,
    summary_query: Option<String>,
) -> std::result::Result<(), ErrorReport> {
    let arguments = Arguments {
        refresh_interval,
        schedule,
        time_zone,
        min_interval,
        max_interval,
        method,
        on_change,
        debounce,
        max_staleness,
        timeout,
        summary_query,
    };
    require_writable()?;
    let view = super::view(view)?;
    privilege::require_owner(&view)?;
    binding::reconcile_view(view.oid)?;
    if Registration::find(view.oid)?.is_some() {
        return Err(Error::AlreadyRegistered { name: view.name.to_string() }.into());
    }
    let policy = changed(&view, Policy::default(), arguments)?;
    // Of another's view, which is gone: neither what it says nor who was allowed to refresh it is of any
    // concern to this one.
    registry::delete_unbound(&view.name)?;
    registry::insert(view.oid, &view.name, &policy)?;
    warn_of_method(&view, &policy);
    warn_of_scheduling(&view);
    ensure_capture(&view, &policy).map_err(Into::into)
}

#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn alter(
    view: Option<Oid>,
    refresh_interval: Option<Interval>,
    schedule: Option<String>,
    time_zone: Option<String>,
    min_interval: Option<Interval>,
    max_interval: Option<Interval>,
    method: Option<String>,
    on_change: Option<bool>,
    debounce: Option<Interval>,
    max_staleness: Option<Interval>,
    timeout: Option<Interval>,
    summary_query: Option<String>,
    reset: Option<Vec<Option<String>>>,
) -> std::result::Result<(), ErrorReport> {
    let mut arguments = Arguments {
        refresh_interval,
        schedule,
        time_zone,
        min_interval,
        max_interval,
        method,
        on_change,
        debounce,
        max_staleness,
        timeout,
        summary_query,
    };
    let (view, registration) = registered(view)?;
    let mut policy = registration.policy;
    let mut reset_change = false;
    for name in reset.unwrap_or_default() {
        let name = name.ok_or(Error::NullArgument { argument: "reset" })?;
        if arguments.sets(&name) {
            return Err(Error::SetAndReset { name }.into());
        }
        reset_one(&mut policy, &name)?;
        reset_change |= name == "on_change";
    }
    if reset_change {
        arguments.on_change = Some(false);
    }
    let new_summary = arguments.summary_query.is_some();
    let policy = changed(&view, policy, arguments)?;
    registry::update(&registration.name, &policy)?;
    warn_of_method(&view, &policy);
    ensure_capture(&view, &policy)?;
    if new_summary && policy.on_change {
        // A refresh runs it; without changes there would be none.
        capture::invalidate(view.oid)?;
    }
    Ok(())
}

#[pg_extern(sql = false)]
fn unregister(view: Option<String>) -> std::result::Result<(), ErrorReport> {
    let text = view.ok_or(Error::NullArgument { argument: "view" })?;
    require_writable()?;
    let (schema, name) = parse_name(&text)?;
    let Some(oid) = resolve(schema.as_deref(), &name)? else {
        registry::delete(&missing(schema, name)?)?;
        return Ok(());
    };
    match registered(Some(oid)) {
        Ok((view, registration)) => {
            registry::delete(&registration.name)?;
            install::end(view.oid)?;
        }
        // The name of a view that is gone may have been taken by somebody else's, or by something else.
        Err(error) => {
            let schema = match View::find(oid) {
                Ok(other) => other.name.schema,
                Err(Error::NotMaterializedView { name: other }) => other.schema,
                Err(error) => return Err(error.into()),
            };
            registry::delete(&missing(Some(schema), name).map_err(|_| error)?)?;
        }
    }
    Ok(())
}

#[pg_extern(sql = false)]
fn pause(view: Option<Oid>) -> std::result::Result<(), ErrorReport> {
    let (_, registration) = registered(view)?;
    registry::set_paused(&registration.name, true)?;
    Ok(())
}

#[pg_extern(sql = false)]
fn resume(view: Option<Oid>) -> std::result::Result<(), ErrorReport> {
    let (view, registration) = registered(view)?;
    registry::set_paused(&registration.name, false)?;
    if attempts::find(view.oid)?.has_failed() {
        // No worker is to wait for the end of this transaction.
        RefreshLock::acquire(registry::oid()?, view.oid);
        attempts::resume(view.oid)?;
    }
    Ok(())
}

fn require_writable() -> Result<()> {
    snapshot::require_writable("change a registration")
}

/// A registered view of the caller's.
pub(super) fn registered(oid: Option<Oid>) -> Result<(View, Registration)> {
    require_writable()?;
    let view = view(oid)?;
    privilege::require_owner(&view)?;
    let registration = Registration::get(view.oid, &view.name)?;
    Ok((view, registration))
}

/// A name as SQL writes it, with or without a schema.
fn parse_name(text: &str) -> Result<(Option<String>, String)> {
    let bad = || Error::BadName { text: text.to_owned() };
    let (first, rest) = identifiers::leading(text.trim()).map_err(|_| bad())?;
    match rest.strip_prefix('.') {
        Some(rest) => Ok((Some(first), identifiers::whole(rest.trim()).map_err(|_| bad())?)),
        None if rest.is_empty() => Ok((None, first)),
        None => Err(bad()),
    }
}

/// The OID that a name stands for, by the caller's search_path; nothing if there is no such relation.
fn resolve(schema: Option<&str>, name: &str) -> Result<Option<Oid>> {
    let name = match schema {
        Some(schema) => pgrx::spi::quote_qualified_identifier(schema, name),
        None => pgrx::spi::quote_identifier(name),
    };
    super::relation_named(&name)
}

/// A registration whose view is gone: by schema-qualified name, or by a bare one that is not
/// ambiguous. Nobody owns it, so whoever could make the view anew may remove it.
fn missing(schema: Option<String>, name: String) -> Result<ViewName> {
    let mut names = registry::missing_named(&name)?;
    // To others it says nothing of what is registered.
    names.retain(|missing| {
        schema.as_ref().is_none_or(|schema| *schema == missing.schema)
            && identity::may_create_in(&missing.schema)
    });
    match (names.len(), schema) {
        (1, _) => Ok(names.remove(0)),
        (0, Some(schema)) => {
            Err(Error::NotRegistered { name: ViewName { schema, name }.to_string() })
        }
        (0, None) => Err(Error::NotRegistered { name }),
        _ => Err(Error::AmbiguousName { name }),
    }
}

fn reset_one(policy: &mut Policy, name: &str) -> Result<()> {
    match name {
        "refresh_interval" => policy.refresh_interval = None,
        "schedule" => (policy.schedule, policy.time_zone) = (None, None),
        "time_zone" => policy.time_zone = None,
        "min_interval" | "max_interval" => policy.adapts = None,
        "method" => policy.method = None,
        "on_change" => {
            policy.on_change = false;
            (policy.debounce, policy.max_staleness) = (None, None);
        }
        "debounce" => policy.debounce = None,
        "max_staleness" => policy.max_staleness = None,
        "timeout" => policy.timeout = None,
        "summary_query" => policy.summary = None,
        _ => {
            return Err(Error::NotResettable { name: name.to_owned() });
        }
    }
    Ok(())
}

/// The policy with the given arguments in place of what it says, checked as a whole.
fn changed(view: &View, mut policy: Policy, arguments: Arguments) -> Result<Policy> {
    if let Some(interval) = arguments.refresh_interval {
        let every = clock::from_interval("refresh_interval", &interval)?;
        policy.refresh_interval = Some(interval::check(every)?);
    }
    let limit = |name, given: Option<Interval>, present| match given {
        Some(given) => Ok(Some(interval::check(clock::from_interval(name, &given)?)?)),
        None => Result::Ok(present),
    };
    let (min, max) = policy.adapts.unzip();
    let min = limit("min_interval", arguments.min_interval, min)?;
    let max = limit("max_interval", arguments.max_interval, max)?;
    policy.adapts = match (min, max) {
        (Some(min), Some(max)) if min <= max => Some((min, max)),
        (Some(_), Some(_)) => return Err(Error::LimitsReversed),
        (None, None) => None,
        _ => return Err(Error::HalfOfLimits),
    };
    if let Some(schedule) = arguments.schedule {
        policy.schedule = Some(schedule);
    }
    if let Some(time_zone) = arguments.time_zone {
        policy.time_zone = Some(time_zone);
    }
    if let Some(on_change) = arguments.on_change {
        policy.on_change = on_change;
    }
    if let Some(method) = arguments.method {
        policy.method = Some(method.parse()?);
    }
    // Without captured changes there is nothing to go by.
    if policy.method == Some(Requested::Delta) {
        if arguments.on_change == Some(false) {
            return Err(Error::DeltaWithoutChange);
        }
        policy.on_change = true;
    }
    if let Some(debounce) = arguments.debounce {
        policy.debounce = Some(clock::from_interval("debounce", &debounce)?);
    }
    if let Some(max_staleness) = arguments.max_staleness {
        policy.max_staleness = Some(clock::from_interval("max_staleness", &max_staleness)?);
    }
    if !policy.on_change && (policy.debounce.is_some() || policy.max_staleness.is_some()) {
        return Err(Error::ReactionWithoutChange);
    }
    if let (Some(debounce), Some(max_staleness)) = (policy.debounce, policy.max_staleness)
        && max_staleness < debounce
    {
        return Err(Error::ImpatientReaction);
    }
    if let Some(timeout) = arguments.timeout {
        policy.timeout = Some(clock::from_interval("timeout", &timeout)?);
    }
    match (&policy.refresh_interval, &policy.schedule) {
        (Some(_), Some(_)) => return Err(Error::IntervalAndSchedule),
        (_, Some(_)) if policy.adapts.is_some() => return Err(Error::LimitsAndSchedule),
        (_, Some(expression)) => {
            let zone = policy.time_zone.as_deref().unwrap_or(policy::DEFAULT_TIME_ZONE);
            CronSchedule::parse(expression, zone)?;
        }
        (_, None) if policy.time_zone.is_some() => return Err(Error::TimeZoneWithoutSchedule),
        (_, None) => {}
    }
    if let Some(query) = arguments.summary_query {
        let query = summary::prepare(view, &query, guc::refresh_settings().lock_timeout)?;
        policy.summary = Some(Summary { query, owner: view.owner_name.clone() });
    }
    Ok(policy)
}

/// Says so where nothing is scheduled although nobody has switched it off.
fn warn_of_scheduling(view: &View) {
    if !shared::is_available() {
        let message = format!(
            "{} is not refreshed by itself: the library of cache_refresher is not preloaded",
            view.name
        );
        report::warn(&message, Some(PRELOAD));
    }
}

/// Says so where a view cannot be refreshed as it is registered to be.
fn warn_of_method(view: &View, policy: &Policy) {
    if policy.method == Some(Requested::Concurrent) && view.key.is_empty() {
        let refusal = RefusalText(Refusal::NoUniqueIndex);
        let name = view.name.to_string();
        let message = format!("{name} cannot be refreshed with concurrent: {refusal}");
        report::warn(&message, Some(&refusal.remedy(&name)));
    }
}

/// Sees to capture as the policy has it. What cannot be captured is told: the view is refreshed by its
/// interval, and when the application says that something has changed.
fn ensure_capture(view: &View, policy: &Policy) -> Result<()> {
    if !policy.on_change {
        return install::end(view.oid);
    }
    let uncaptured = install::ensure(view)?;
    install::tidy_own()?;
    if !uncaptured.is_empty() {
        report::warn(
            &format!(
                "changes of what {} reads cannot all be captured: {}",
                view.name,
                uncaptured.join(", ")
            ),
            Some(
                "It is refreshed by its interval as well; call cache_refresher.invalidate when \
                 something there has changed.",
            ),
        );
    }
    Ok(())
}
