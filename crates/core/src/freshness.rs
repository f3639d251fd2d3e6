//! The document that `cache_refresher.freshness` returns.

use serde::Serialize;

use crate::staleness::{Staleness, is_stale};
use crate::time::Timestamp;

/// How fresh a view is, for a program to pass on with its answer. `data_source` and the names with
/// `cache_` are a promise to callers that existed before this extension.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Freshness {
    view: String,
    data_source: &'static str,
    cache_refreshed_at: Option<String>,
    cache_refresh_duration_ms: Option<i64>,
    data_as_of: Option<String>,
    age_seconds: Option<f64>,
    staleness: Staleness,
    stale_since: Option<String>,
    is_stale: Option<bool>,
}

impl Freshness {
    /// What is known about a view at `now`: when its last refresh ended (`refreshed_at`) and how
    /// long it took (milliseconds), and of what time its content is (`data_as_of`). `stale_since`
    /// counts only for a stale view.
    pub fn new(
        view: String,
        refreshed_at: Option<Timestamp>,
        duration_ms: Option<f64>,
        data_as_of: Option<Timestamp>,
        staleness: Staleness,
        stale_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let age = data_as_of.map(|time| now.since(time));
        let stale_since = stale_since.filter(|_| staleness == Staleness::Stale);
        Self {
            view,
            data_source: "cached",
            cache_refreshed_at: refreshed_at.map(Timestamp::to_rfc3339_millis),
            // A cast saturates, and makes zero of what is not a number.
            cache_refresh_duration_ms: duration_ms.map(|duration| duration.round() as i64),
            data_as_of: data_as_of.map(Timestamp::to_rfc3339_millis),
            age_seconds: age.map(|age| age.as_millis() as f64 / 1000.0),
            staleness,
            stale_since: stale_since.map(Timestamp::to_rfc3339_millis),
            is_stale: is_stale(staleness, age, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_document_has_the_promised_names_in_the_promised_order() {
        let refreshed_at = Timestamp::from_pg(815_998_470_123_456);
        let freshness = Freshness::new(
            "public.v".to_owned(),
            Some(refreshed_at),
            Some(919.6),
            Some(refreshed_at.minus(Duration::from_secs(1))),
            Staleness::Stale,
            Some(refreshed_at.plus(Duration::from_secs(2))),
            refreshed_at.plus(Duration::from_micros(4_250_999)),
        );
        assert_eq!(
            serde_json::to_string(&freshness).unwrap(),
            "{\"view\":\"public.v\",\"data_source\":\"cached\",\
             \"cache_refreshed_at\":\"2025-11-09T10:14:30.123Z\",\
             \"cache_refresh_duration_ms\":920,\
             \"data_as_of\":\"2025-11-09T10:14:29.123Z\",\"age_seconds\":5.25,\
             \"staleness\":\"stale\",\"stale_since\":\"2025-11-09T10:14:32.123Z\",\
             \"is_stale\":true}"
        );
    }

    #[test]
    fn what_is_not_known_is_null() {
        let now = Timestamp::from_pg(0);
        let freshness =
            Freshness::new("v".to_owned(), None, None, None, Staleness::Unknown, Some(now), now);
        assert_eq!(
            serde_json::to_string(&freshness).unwrap(),
            "{\"view\":\"v\",\"data_source\":\"cached\",\"cache_refreshed_at\":null,\
             \"cache_refresh_duration_ms\":null,\"data_as_of\":null,\"age_seconds\":null,\
             \"staleness\":\"unknown\",\"stale_since\":null,\"is_stale\":null}"
        );
    }
}
