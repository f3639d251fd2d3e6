//! Which refresh interval holds for a view, and where it comes from.

use std::time::Duration;

use crate::duration;
use crate::interval_list::IntervalList;

/// The shortest refresh interval. Below it a refresh is mostly overhead.
pub const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// The longest refresh interval, about ten years. What is longer is a slip of the pen.
pub const MAX_INTERVAL: Duration = Duration::from_secs(3660 * 24 * 60 * 60);

/// Bare name of the view that has a setting of its own for its interval.
const STREAMS_VIEW: &str = "streams_with_users_cache";
/// Bare name of the other one.
const VIDEOS_VIEW: &str = "videos_with_users_cache";

/// Why a duration is not a refresh interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntervalError {
    /// Below [`MIN_INTERVAL`].
    #[error(
        "interval {} is shorter than {}",
        duration::format(*.interval),
        duration::format(MIN_INTERVAL)
    )]
    TooShort {
        /// What was given.
        interval: Duration,
    },
    /// Above [`MAX_INTERVAL`].
    #[error(
        "interval {} is longer than {}",
        duration::format(*.interval),
        duration::format(MAX_INTERVAL)
    )]
    TooLong {
        /// What was given.
        interval: Duration,
    },
}

/// Lets a duration through that can be a refresh interval.
pub fn check(interval: Duration) -> Result<Duration, IntervalError> {
    if interval < MIN_INTERVAL {
        Err(IntervalError::TooShort { interval })
    } else if interval > MAX_INTERVAL {
        Err(IntervalError::TooLong { interval })
    } else {
        Ok(interval)
    }
}

/// Where a view's interval comes from; the first that is set holds, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntervalSource {
    /// The setting `cache_refresher.intervals`, so that postgresql.conf has the last word.
    IntervalsSetting,
    /// What the view was registered with.
    Registry,
    /// The setting for `streams_with_users_cache`.
    StreamsSetting,
    /// The setting for `videos_with_users_cache`.
    VideosSetting,
    /// The setting for everything else.
    DefaultSetting,
}

impl IntervalSource {
    /// The name that `cache_refresher.status` shows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IntervalsSetting => "cache_refresher.intervals",
            Self::Registry => "registry",
            Self::StreamsSetting => "cache_refresher.streams_refresh_interval",
            Self::VideosSetting => "cache_refresher.videos_refresh_interval",
            Self::DefaultSetting => "cache_refresher.default_interval",
        }
    }
}

/// All settings that decide about intervals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntervalSettings {
    /// `cache_refresher.intervals`.
    pub intervals: IntervalList,
    /// `cache_refresher.streams_refresh_interval`.
    pub streams: Duration,
    /// `cache_refresher.videos_refresh_interval`.
    pub videos: Duration,
    /// `cache_refresher.default_interval`.
    pub default: Duration,
}

/// The interval that holds for the view `schema.name`, registered with `registered` or without an
/// interval of its own. The two views with settings of their own have them in any schema.
pub fn effective(
    settings: &IntervalSettings,
    schema: &str,
    name: &str,
    registered: Option<Duration>,
) -> (Duration, IntervalSource) {
    if let Some(interval) = settings.intervals.get(schema, name) {
        return (interval, IntervalSource::IntervalsSetting);
    }
    if let Some(interval) = registered {
        return (interval, IntervalSource::Registry);
    }
    match name {
        STREAMS_VIEW => (settings.streams, IntervalSource::StreamsSetting),
        VIDEOS_VIEW => (settings.videos, IntervalSource::VideosSetting),
        _ => (settings.default, IntervalSource::DefaultSetting),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn settings(intervals: &str) -> IntervalSettings {
        IntervalSettings {
            intervals: intervals.parse().unwrap(),
            streams: MINUTE * 5,
            videos: MINUTE * 10,
            default: MINUTE * 3,
        }
    }

    #[test]
    fn the_setting_beats_the_registry_which_beats_the_named_settings_and_the_default() {
        let plain = settings("");
        let listed = settings("streams_with_users_cache = 1s");
        let streams = "streams_with_users_cache";
        for (settings, name, registered, expected) in [
            (
                &listed,
                streams,
                Some(MINUTE),
                (Duration::from_secs(1), IntervalSource::IntervalsSetting),
            ),
            (&plain, streams, Some(MINUTE), (MINUTE, IntervalSource::Registry)),
            (&plain, streams, None, (MINUTE * 5, IntervalSource::StreamsSetting)),
            (&plain, "videos_with_users_cache", None, (MINUTE * 10, IntervalSource::VideosSetting)),
            (&plain, "other", None, (MINUTE * 3, IntervalSource::DefaultSetting)),
        ] {
            assert_eq!(effective(settings, "public", name, registered), expected);
        }
    }

    #[test]
    fn intervals_outside_the_limits_are_refused() {
        assert_eq!(check(MIN_INTERVAL), Ok(MIN_INTERVAL));
        assert_eq!(check(MAX_INTERVAL), Ok(MAX_INTERVAL));
        assert_eq!(
            check(Duration::from_millis(99)).unwrap_err().to_string(),
            "interval 99ms is shorter than 100ms"
        );
        assert_eq!(
            check(MAX_INTERVAL + MINUTE).unwrap_err().to_string(),
            "interval 3660d1m is longer than 3660d"
        );
    }
}
