//! Figures for monitoring: what there is to tell of each view, and its text for Prometheus.

use std::time::Duration;

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric as Sample, MetricFamily, MetricType};

use crate::staleness::Staleness;
use crate::time::Timestamp;

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, as long as the view is there.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    /// The word for results.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// What is known of a view.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Its schema.
    pub schema: String,
    /// Its name there.
    pub name: String,
    /// Refreshes that succeeded.
    pub refreshes: i64,
    /// Refreshes that were not needed.
    pub skips: i64,
    /// Refreshes that failed.
    pub failures: i64,
    /// Refreshes that were cancelled.
    pub cancellations: i64,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// End of the last successful refresh.
    pub refreshed_at: Option<Timestamp>,
    /// How long that took, in milliseconds.
    pub duration_ms: Option<f64>,
    /// Time since the snapshot that it shows.
    pub age: Option<Duration>,
    /// What is known of changes that it does not show.
    pub staleness: Option<Staleness>,
    /// Time since the oldest of them.
    pub stale_for: Option<Duration>,
    /// Rows after the last refresh.
    pub rows: Option<i64>,
    /// Nothing is scheduled until somebody resumes it.
    pub suspended: bool,
    /// Nothing is scheduled since somebody paused it.
    pub paused: bool,
    /// There is no such view.
    pub missing: bool,
}

/// A figure that there is of each view, or of those of which it is known.
pub struct Metric {
    /// Its name, complete.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What it means.
    pub help: &'static str,
    /// Its value.
    pub of: fn(&View) -> Option<f64>,
}

/// What is told of views, by name.
pub const OF_VIEWS: [Metric; 14] = [
    Metric {
        name: "cache_refresher_age_seconds",
        kind: Kind::Gauge,
        help: "Now minus the time of the snapshot that the view shows.",
        of: |view| view.age.map(|age| age.as_secs_f64()),
    },
    Metric {
        name: "cache_refresher_cancellations_total",
        kind: Kind::Counter,
        help: "Refreshes that were cancelled.",
        of: |view| count(view.cancellations),
    },
    Metric {
        name: "cache_refresher_consecutive_failures",
        kind: Kind::Gauge,
        help: "Failures since the last success.",
        of: |view| Some(view.consecutive_failures.into()),
    },
    Metric {
        name: "cache_refresher_failures_total",
        kind: Kind::Counter,
        help: "Refreshes that failed.",
        of: |view| count(view.failures),
    },
    Metric {
        name: "cache_refresher_last_refresh_duration_seconds",
        kind: Kind::Gauge,
        help: "Duration of the last successful refresh.",
        of: |view| view.duration_ms.map(|ms| ms / 1000.0),
    },
    Metric {
        name: "cache_refresher_last_refresh_timestamp_seconds",
        kind: Kind::Gauge,
        help: "Unix time of the end of the last successful refresh.",
        of: |view| view.refreshed_at.map(Timestamp::as_unix_seconds),
    },
    Metric {
        name: "cache_refresher_missing",
        kind: Kind::Gauge,
        help: "1 if there is no such view.",
        of: |view| flag(view.missing),
    },
    Metric {
        name: "cache_refresher_paused",
        kind: Kind::Gauge,
        help: "1 if no refresh is scheduled since somebody paused the view.",
        of: |view| flag(view.paused),
    },
    Metric {
        name: "cache_refresher_refreshes_total",
        kind: Kind::Counter,
        help: "Refreshes that succeeded.",
        of: |view| count(view.refreshes),
    },
    Metric {
        name: "cache_refresher_rows",
        kind: Kind::Gauge,
        help: "Rows in the view after the last refresh.",
        of: |view| view.rows.and_then(count),
    },
    Metric {
        name: "cache_refresher_skips_total",
        kind: Kind::Counter,
        help: "Refreshes that were not needed, since nothing had changed.",
        of: |view| count(view.skips),
    },
    Metric {
        name: "cache_refresher_stale",
        kind: Kind::Gauge,
        help: "1 if a change is known that the view does not show, 0 if it is proved that there is none; not there if neither.",
        of: |view| match view.staleness? {
            Staleness::Stale => Some(1.0),
            Staleness::Fresh => Some(0.0),
            Staleness::Unknown => None,
        },
    },
    Metric {
        name: "cache_refresher_stale_seconds",
        kind: Kind::Gauge,
        help: "Time since the oldest change that the view is known not to show.",
        of: |view| match view.staleness? {
            Staleness::Stale => view.stale_for.map(|time| time.as_secs_f64()),
            Staleness::Fresh => Some(0.0),
            Staleness::Unknown => None,
        },
    },
    Metric {
        name: "cache_refresher_suspended",
        kind: Kind::Gauge,
        help: "1 if no refresh is scheduled until somebody resumes the view.",
        of: |view| flag(view.suspended),
    },
];

/// Of the database; its name comes after those of the views.
pub const UP: (&str, Kind, &str) =
    ("cache_refresher_up", Kind::Gauge, "1 if refreshing works at all.");

#[allow(clippy::cast_precision_loss)]
fn count(count: i64) -> Option<f64> {
    Some(count as f64)
}

fn flag(flag: bool) -> Option<f64> {
    Some(u8::from(flag).into())
}

/// Everything in the text format that Prometheus scrapes, version 0.0.4. An error is that of its library, which
/// knows of none that these figures can bring about.
pub fn exposition(database: &str, views: &[View], up: bool) -> Result<String, String> {
    let labels = |view: &View| {
        vec![label("database", database), label("schema", &view.schema), label("view", &view.name)]
    };
    let mut families: Vec<MetricFamily> = OF_VIEWS
        .iter()
        .map(|metric| {
            let samples = views
                .iter()
                .filter_map(|view| Some(sample(metric.kind, labels(view), (metric.of)(view)?)));
            family((metric.name, metric.kind, metric.help), samples.collect())
        })
        // The library refuses a name that nothing is told by.
        .filter(|family| !family.get_metric().is_empty())
        .collect();
    let is_up = sample(UP.1, vec![label("database", database)], u8::from(up).into());
    families.push(family(UP, vec![is_up]));
    TextEncoder::new().encode_to_string(&families).map_err(|error| error.to_string())
}

fn family((name, kind, help): (&str, Kind, &str), samples: Vec<Sample>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(match kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
    });
    family.set_metric(samples);
    family
}

fn sample(kind: Kind, labels: Vec<LabelPair>, value: f64) -> Sample {
    let mut sample = Sample::from_label(labels);
    match kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            sample.set_counter(counter);
        }
        Kind::Gauge => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            sample.set_gauge(gauge);
        }
    }
    sample
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(view: &View) -> Vec<(&'static str, f64)> {
        let short = |name: &'static str| name.strip_prefix("cache_refresher_").unwrap();
        OF_VIEWS
            .iter()
            .filter_map(|metric| Some((short(metric.name), (metric.of)(view)?)))
            .collect()
    }

    #[test]
    fn of_a_view_that_was_never_refreshed_there_are_counts_and_its_state() {
        let view = View { paused: true, failures: 3, consecutive_failures: 2, ..View::default() };
        assert_eq!(
            figures(&view),
            [
                ("cancellations_total", 0.0),
                ("consecutive_failures", 2.0),
                ("failures_total", 3.0),
                ("missing", 0.0),
                ("paused", 1.0),
                ("refreshes_total", 0.0),
                ("skips_total", 0.0),
                ("suspended", 0.0),
            ]
        );
    }

    #[test]
    fn times_are_seconds() {
        let view = View {
            refreshed_at: Some(Timestamp::from_pg(1_500_000)),
            duration_ms: Some(250.0),
            age: Some(Duration::from_millis(1_250)),
            rows: Some(7),
            ..View::default()
        };
        let figures = figures(&view);
        for figure in [
            ("age_seconds", 1.25),
            ("last_refresh_duration_seconds", 0.25),
            ("last_refresh_timestamp_seconds", 946_684_801.5),
            ("rows", 7.0),
        ] {
            assert!(figures.contains(&figure), "{figure:?} in {figures:?}");
        }
    }

    #[test]
    fn what_is_known_of_changes_is_told_and_nothing_else() {
        let stale_for = Some(Duration::from_secs(9));
        let told = |staleness| {
            let view = View { staleness, stale_for, ..View::default() };
            let figures = figures(&view).into_iter();
            figures.filter(|(name, _)| name.starts_with("stale")).collect::<Vec<_>>()
        };
        assert_eq!(told(Some(Staleness::Stale)), [("stale", 1.0), ("stale_seconds", 9.0)]);
        assert_eq!(told(Some(Staleness::Fresh)), [("stale", 0.0), ("stale_seconds", 0.0)]);
        assert_eq!(told(Some(Staleness::Unknown)), []);
        assert_eq!(told(None), []);
    }

    #[test]
    fn they_come_by_name_and_counters_are_called_total() {
        let names: Vec<&str> = OF_VIEWS.iter().map(|metric| metric.name).chain([UP.0]).collect();
        assert!(names.is_sorted(), "{names:?}");
        for Metric { name, kind, .. } in OF_VIEWS {
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        }
    }

    #[test]
    fn the_text_has_the_samples_of_one_name_together_and_odd_names_escaped() {
        let view =
            |name: &str| View { schema: "s".to_owned(), name: name.to_owned(), ..View::default() };
        let text = exposition("d", &[view("a"), view("\"odd\"\\\n")], true).unwrap();
        assert!(text.starts_with(
            "# HELP cache_refresher_cancellations_total Refreshes that were cancelled.\n\
             # TYPE cache_refresher_cancellations_total counter\n\
             cache_refresher_cancellations_total{database=\"d\",schema=\"s\",view=\"a\"} 0\n\
             cache_refresher_cancellations_total{database=\"d\",schema=\"s\",view=\"\\\"odd\\\"\\\\\\n\"} 0\n\
             # HELP cache_refresher_consecutive_failures "
        ), "{text}");
        assert!(!text.contains("age_seconds"), "{text}");
    }

    #[test]
    fn without_views_there_is_one_figure() {
        assert_eq!(
            exposition("d", &[], false).unwrap(),
            "# HELP cache_refresher_up 1 if refreshing works at all.\n\
             # TYPE cache_refresher_up gauge\ncache_refresher_up{database=\"d\"} 0\n"
        );
    }
}
