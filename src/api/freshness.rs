//! How fresh a view is: `freshness`, `age`, `stale_since`, `is_stale`, `assert_fresh`.
//!
//! Nothing is claimed that is not proved: where not all changes are captured, staleness is `unknown`.

use std::time::Duration;

use cache_refresher_core::duration;
use cache_refresher_core::freshness::Freshness;
use cache_refresher_core::staleness::{self, Staleness};
use cache_refresher_core::time::Timestamp;
use pgrx::datum::{Interval, JsonB, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::content::{self, Content};
use crate::catalog::view::View;
use crate::error::{Error, Result};
use crate::pg::clock;
use crate::refresh::freshness::{self as known, Known};
use crate::refresh::privilege;
use crate::{capture, catalog};

/// A view that the caller may see, and what it shows.
struct Seen {
    view: View,
    content: Option<Content>,
    staleness: Staleness,
    stale_since: Option<Timestamp>,
    data_as_of: Option<Timestamp>,
    age: Option<Duration>,
}

fn see(view: Option<Oid>) -> Result<Seen> {
    let view = super::view(view)?;
    privilege::require_see(&view)?;
    // Somebody has emptied it since: what is known of its content does not hold any more.
    let content = if view.populated { content::find(view.oid)? } else { None };
    let Known { staleness, stale_since, proved_until } = match content {
        Some(_) => known::of_view(view.oid)?,
        None => Known::NOTHING,
    };
    let data_as_of = proved_until.max(content.and_then(|content| content.data_as_of));
    let age = data_as_of.map(|data_as_of| clock::now().since(data_as_of));
    Ok(Seen { view, content, staleness, stale_since, data_as_of, age })
}

#[pg_extern(sql = false)]
fn freshness(view: Option<Oid>) -> std::result::Result<JsonB, ErrorReport> {
    let Seen { view, content, staleness, stale_since, data_as_of, .. } = see(view)?;
    let document = Freshness::new(
        view.name.to_string(),
        content.map(|content| content.refreshed_at),
        content.map(|content| content.duration_ms),
        data_as_of,
        staleness,
        stale_since,
        clock::now(),
    );
    let json =
        serde_json::to_value(&document).map_err(|error| Error::Corrupt(error.to_string()))?;
    Ok(JsonB(json))
}

#[pg_extern(sql = false)]
fn age(view: Option<Oid>) -> std::result::Result<Option<Interval>, ErrorReport> {
    Ok(see(view)?.age.map(clock::to_interval))
}

#[pg_extern(sql = false)]
fn stale_since(
    view: Option<Oid>,
) -> std::result::Result<Option<TimestampWithTimeZone>, ErrorReport> {
    Ok(see(view)?.stale_since.map(clock::to_sql))
}

#[pg_extern(sql = false)]
fn is_stale(
    view: Option<Oid>,
    max_age: Option<Interval>,
) -> std::result::Result<Option<bool>, ErrorReport> {
    let max_age = max_age.map(|age| clock::from_interval("max_age", &age)).transpose()?;
    let seen = see(view)?;
    Ok(staleness::is_stale(seen.staleness, seen.age, max_age))
}

#[pg_extern(sql = false)]
fn assert_fresh(
    view: Option<Oid>,
    max_age: Option<Interval>,
) -> std::result::Result<(), ErrorReport> {
    let max_age = max_age.map(|age| clock::from_interval("max_age", &age)).transpose()?;
    let seen = see(view)?;
    let name = seen.view.name.to_string();
    match staleness::is_stale(seen.staleness, seen.age, max_age) {
        Some(false) => Ok(()),
        None => Err(Error::FreshnessUnknown { name }.into()),
        Some(true) => {
            let age = match seen.age {
                Some(age) => format!("Its content is {} old", rounded(age)),
                None if seen.content.is_some() => "The time of its data is not known".to_owned(),
                None => "No refresh of it is known".to_owned(),
            };
            let why = match (max_age, seen.stale_since) {
                (Some(age), _) => format!(", max_age is {}", duration::format(age)),
                (None, Some(since)) => {
                    let since = rounded(clock::now().since(since));
                    format!("; the oldest change that it does not show was made {since} ago")
                }
                (None, None) => String::new(),
            };
            let detail = format!("{age}{why}.");
            Err(Error::Stale { name, detail }.into())
        }
    }
}

/// To the millisecond: what a person wants to read.
fn rounded(age: Duration) -> String {
    duration::format(Duration::from_millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
}

/// An event trigger: somebody, or our own refresh, which puts it right, has run REFRESH.
#[pg_extern(sql = false)]
fn content_replaced() -> std::result::Result<(), ErrorReport> {
    capture::content_replaced(catalog::capture::refreshed()?)?;
    Ok(())
}
