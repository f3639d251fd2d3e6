//! How fresh a view is: `freshness`, `age`, `stale_since`, `is_stale`, `assert_fresh`.
//!
//! Until changes are captured, nothing is proved: staleness is `unknown`, and no function claims more.

use std::time::Duration;

use cache_refresher_core::duration;
use cache_refresher_core::freshness::Freshness;
use cache_refresher_core::staleness::{self, Staleness};
use pgrx::datum::{Interval, JsonB, TimestampWithTimeZone};
use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::catalog::content::{self, Content};
use crate::catalog::view::View;
use crate::error::{Error, Result};
use crate::pg::clock;
use crate::refresh::privilege;

/// A view that the caller may see, and what it shows.
struct Seen {
    view: View,
    content: Option<Content>,
    age: Option<Duration>,
}

fn see(view: Option<Oid>) -> Result<Seen> {
    let view = super::view(view)?;
    privilege::require_see(&view)?;
    // Somebody has emptied it since: what is known of its content does not hold any more.
    let content = if view.populated { content::find(view.oid)? } else { None };
    let age = content
        .and_then(|content| content.data_as_of)
        .map(|data_as_of| clock::now().since(data_as_of));
    Ok(Seen { view, content, age })
}

#[pg_extern(sql = false)]
fn freshness(view: Option<Oid>) -> std::result::Result<JsonB, ErrorReport> {
    let Seen { view, content, .. } = see(view)?;
    let document = Freshness::new(
        view.name.to_string(),
        content.map(|content| content.refreshed_at),
        content.map(|content| content.duration_ms),
        content.and_then(|content| content.data_as_of),
        Staleness::Unknown,
        None,
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
    see(view)?;
    Ok(None)
}

#[pg_extern(sql = false)]
fn is_stale(
    view: Option<Oid>,
    max_age: Option<Interval>,
) -> std::result::Result<Option<bool>, ErrorReport> {
    let max_age = max_age.map(|age| clock::from_interval("max_age", &age)).transpose()?;
    Ok(staleness::is_stale(Staleness::Unknown, see(view)?.age, max_age))
}

#[pg_extern(sql = false)]
fn assert_fresh(
    view: Option<Oid>,
    max_age: Option<Interval>,
) -> std::result::Result<(), ErrorReport> {
    let max_age = max_age.map(|age| clock::from_interval("max_age", &age)).transpose()?;
    let seen = see(view)?;
    let name = seen.view.name.to_string();
    match staleness::is_stale(Staleness::Unknown, seen.age, max_age) {
        Some(false) => Ok(()),
        None => Err(Error::FreshnessUnknown { name }.into()),
        Some(true) => {
            let age = match seen.age {
                Some(age) => format!("Its content is {} old", rounded(age)),
                None if seen.content.is_some() => "The time of its data is not known".to_owned(),
                None => "No refresh of it is known".to_owned(),
            };
            let allowed = max_age.map(|age| format!(", max_age is {}", duration::format(age)));
            let detail = format!("{age}{}.", allowed.unwrap_or_default());
            Err(Error::Stale { name, detail }.into())
        }
    }
}

/// To the millisecond: what a person wants to read.
fn rounded(age: Duration) -> String {
    duration::format(Duration::from_millis(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)))
}
