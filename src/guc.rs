//! Every setting, with a typed getter. Read by lib, api and worker, which pass values down.

use std::ffi::{CStr, CString};
use std::time::Duration;

use cache_refresher_core::backoff::RetryPolicy;
use cache_refresher_core::databases::DatabaseList;
use cache_refresher_core::duration;
use cache_refresher_core::interval::IntervalSettings;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg::hooks::settings::{self, SettingKind};
use crate::pg::shared;

static ENABLED: GucSetting<bool> = GucSetting::<bool>::new(true);
static DATABASES: Text = Text::new(Some(c"*"));
static DEFAULT_INTERVAL: Text = Text::new(Some(c"5m"));
static STREAMS_REFRESH_INTERVAL: Text = Text::new(Some(c"5m"));
static VIDEOS_REFRESH_INTERVAL: Text = Text::new(Some(c"10m"));
static INTERVALS: Text = Text::new(Some(c""));
static MAX_WORKERS: GucSetting<i32> = GucSetting::<i32>::new(2);
static WORKER_LINGER: Text = Text::new(Some(c"10s"));
static LOCK_TIMEOUT: Text = Text::new(Some(c"2s"));
static TIMEOUT: Text = Text::new(Some(c"0"));
static MAX_RETRIES: GucSetting<i32> = GucSetting::<i32>::new(5);
static RETRY_BASE_DELAY: Text = Text::new(Some(c"1s"));
static RETRY_MAX_DELAY: Text = Text::new(Some(c"5m"));
static SUSPEND_AFTER: Text = Text::new(Some(c"1d"));
static LOG_RETENTION: Text = Text::new(Some(c"7d"));
static LOG_MAX_ROWS: GucSetting<i32> = GucSetting::<i32>::new(10_000);
static LOG_MIN_DURATION: Text = Text::new(Some(c"0"));
static NOTIFY: GucSetting<bool> = GucSetting::<bool>::new(true);
static AUTO_FULL: GucSetting<bool> = GucSetting::<bool>::new(false);

type Text = GucSetting<Option<CString>>;

/// A text setting: name, description, details, variable, context, kind.
type TextSetting =
    (&'static CStr, &'static CStr, &'static CStr, &'static Text, GucContext, SettingKind);

fn text_settings() -> [TextSetting; 13] {
    [
        (
            c"cache_refresher.databases",
            c"Databases whose registered views are refreshed on schedule.",
            c"* for every database with the extension, or a list of names.",
            &DATABASES,
            GucContext::Sighup,
            SettingKind::DatabaseList,
        ),
        (
            c"cache_refresher.default_interval",
            c"Interval of views registered without one.",
            c"A duration such as 5min, 30s or 1h30m.",
            &DEFAULT_INTERVAL,
            GucContext::Suset,
            SettingKind::Interval,
        ),
        (
            c"cache_refresher.streams_refresh_interval",
            c"Interval of streams_with_users_cache, unless it is registered with one.",
            c"A duration such as 5min, 30s or 1h30m.",
            &STREAMS_REFRESH_INTERVAL,
            GucContext::Suset,
            SettingKind::Interval,
        ),
        (
            c"cache_refresher.videos_refresh_interval",
            c"Interval of videos_with_users_cache, unless it is registered with one.",
            c"A duration such as 5min, 30s or 1h30m.",
            &VIDEOS_REFRESH_INTERVAL,
            GucContext::Suset,
            SettingKind::Interval,
        ),
        (
            c"cache_refresher.intervals",
            c"Intervals by view, before those that views are registered with.",
            c"A list such as my_view=5m, reports.daily=1h30m.",
            &INTERVALS,
            GucContext::Suset,
            SettingKind::IntervalList,
        ),
        (
            c"cache_refresher.worker_linger",
            c"How long an idle worker or scheduler stays.",
            c"A duration such as 10s.",
            &WORKER_LINGER,
            GucContext::Suset,
            SettingKind::Duration,
        ),
        (
            c"cache_refresher.lock_timeout",
            c"How long a refresh waits for a table lock before it gives way and is tried later.",
            c"A duration such as 2s; 0 is no limit. Not for waiting on a refresh of the same view.",
            &LOCK_TIMEOUT,
            GucContext::Suset,
            SettingKind::Duration,
        ),
        (
            c"cache_refresher.timeout",
            c"Longest refresh of a view registered without a timeout of its own.",
            c"A duration such as 10min; 0 is no limit.",
            &TIMEOUT,
            GucContext::Suset,
            SettingKind::Duration,
        ),
        (
            c"cache_refresher.retry_base_delay",
            c"Upper bound of the delay before the first retry; doubled for each further one.",
            c"A duration such as 1s.",
            &RETRY_BASE_DELAY,
            GucContext::Suset,
            SettingKind::Duration,
        ),
        (
            c"cache_refresher.retry_max_delay",
            c"Upper bound of the delay before any retry.",
            c"A duration such as 5min.",
            &RETRY_MAX_DELAY,
            GucContext::Suset,
            SettingKind::Duration,
        ),
        (
            c"cache_refresher.suspend_after",
            c"How long the refreshes of a view may fail before it is suspended.",
            c"A duration such as 1d; at least three rounds of retries are made. 0 never suspends.",
            &SUSPEND_AFTER,
            GucContext::Suset,
            SettingKind::Duration,
        ),
        (
            c"cache_refresher.log_retention",
            c"How long rows of cache_refresher.refresh_log are kept.",
            c"A duration such as 7d; 0 keeps them however old they are.",
            &LOG_RETENTION,
            GucContext::Suset,
            SettingKind::Duration,
        ),
        (
            c"cache_refresher.log_min_duration",
            c"Writes a line to the server log for refreshes at least this slow.",
            c"A duration such as 1s; 0 logs all, -1 none. Failures are always logged.",
            &LOG_MIN_DURATION,
            GucContext::Suset,
            SettingKind::DurationOrNever,
        ),
    ]
}

/// Defines all settings.
pub fn define() {
    for (name, description, details, variable, context, kind) in text_settings() {
        settings::define(name, description, details, variable, context, kind);
    }
    GucRegistry::define_bool_guc(
        c"cache_refresher.enabled",
        c"Refreshes registered views on schedule.",
        c"Off stops scheduled refreshes; the functions go on working.",
        &ENABLED,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"cache_refresher.max_workers",
        c"Refreshes at once, in the whole server.",
        c"Each takes one of max_worker_processes.",
        &MAX_WORKERS,
        1,
        shared::MAX_WORKERS as i32,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"cache_refresher.max_retries",
        c"Retries of a failed refresh before the view waits for its next due time.",
        c"0 does not retry.",
        &MAX_RETRIES,
        0,
        1000,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"cache_refresher.log_max_rows",
        c"Rows of cache_refresher.refresh_log that are kept for each view.",
        c"0 keeps as many as log_retention allows.",
        &LOG_MAX_ROWS,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"cache_refresher.notify",
        c"Sends NOTIFY cache_refresher with each refresh.",
        c"A NOTIFY locks the whole server for the end of its commit; no PREPARE TRANSACTION then.",
        &NOTIFY,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"cache_refresher.auto_full",
        c"Lets method auto take full for a populated view where that is much cheaper.",
        c"After a refresh that changed most rows, or of a bloated view; readers wait meanwhile.",
        &AUTO_FULL,
        GucContext::Suset,
        GucFlags::default(),
    );
    settings::reserve_prefix();
}

fn text(setting: &Text) -> String {
    setting.get().map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The check hook lets nothing else in; zero is what an unset value would mean.
fn duration_of(setting: &Text) -> Duration {
    duration::parse(&text(setting)).unwrap_or_default()
}

/// Whether scheduled refreshes take place at all.
pub fn enabled() -> bool {
    ENABLED.get()
}

/// Where they take place.
pub fn databases() -> DatabaseList {
    text(&DATABASES).parse().unwrap_or_default()
}

/// Everything that decides about intervals.
pub fn intervals() -> IntervalSettings {
    IntervalSettings {
        intervals: text(&INTERVALS).parse().unwrap_or_default(),
        streams: duration_of(&STREAMS_REFRESH_INTERVAL),
        videos: duration_of(&VIDEOS_REFRESH_INTERVAL),
        default: duration_of(&DEFAULT_INTERVAL),
    }
}

/// Refreshes at once in the whole server.
pub fn max_workers() -> usize {
    MAX_WORKERS.get() as usize
}

/// How long an idle process stays.
pub fn worker_linger() -> Duration {
    duration_of(&WORKER_LINGER)
}

/// What follows from failures.
#[derive(Debug, Clone, Copy)]
pub struct FailurePolicy {
    /// How failed refreshes are retried.
    pub retry: RetryPolicy,
    /// How long a view may fail before it is suspended; zero is for ever.
    pub suspend_after: Duration,
}

impl FailurePolicy {
    /// Nothing follows.
    pub const NONE: Self = Self {
        retry: RetryPolicy {
            max_retries: 0,
            base_delay: Duration::ZERO,
            max_delay: Duration::ZERO,
        },
        suspend_after: Duration::ZERO,
    };
}

/// What follows from failures.
pub fn failure_policy() -> FailurePolicy {
    FailurePolicy {
        retry: RetryPolicy {
            max_retries: MAX_RETRIES.get() as u32,
            base_delay: duration_of(&RETRY_BASE_DELAY),
            max_delay: duration_of(&RETRY_MAX_DELAY),
        },
        suspend_after: duration_of(&SUSPEND_AFTER),
    }
}

/// What one refresh needs of the settings.
#[derive(Debug, Clone)]
pub struct RefreshSettings {
    /// Longest wait for a table lock; zero is without limit.
    pub lock_timeout: Duration,
    /// Longest refresh of views without a timeout of their own; zero is without limit.
    pub timeout: Duration,
    /// What follows from failures.
    pub failures: FailurePolicy,
    /// What decides about intervals.
    pub intervals: IntervalSettings,
    /// Bounds of the history.
    pub retention: Retention,
    /// Server-log lines for refreshes at least this slow; none if `None`.
    pub log_min_duration: Option<Duration>,
    /// Whether to send NOTIFY.
    pub notify: bool,
    /// Whether `auto` may shut readers out where that is much cheaper.
    pub auto_full: bool,
}

/// How much history is kept. Zero is without bound.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// How long.
    pub age: Duration,
    /// How many rows for each view.
    pub rows: i64,
}

/// What one refresh needs of the settings.
pub fn refresh_settings() -> RefreshSettings {
    RefreshSettings {
        lock_timeout: duration_of(&LOCK_TIMEOUT),
        timeout: duration_of(&TIMEOUT),
        failures: failure_policy(),
        intervals: intervals(),
        retention: retention(),
        log_min_duration: duration::parse(&text(&LOG_MIN_DURATION)).ok(),
        notify: NOTIFY.get(),
        auto_full: AUTO_FULL.get(),
    }
}

/// How much history is kept.
pub fn retention() -> Retention {
    Retention { age: duration_of(&LOG_RETENTION), rows: i64::from(LOG_MAX_ROWS.get()) }
}
