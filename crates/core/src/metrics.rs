//! Metrics in Prometheus' text exposition format, version 0.0.4.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Only grows, as long as the view is there.
    Counter,
    /// Goes up and down.
    Gauge,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// One sample.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Metric {
    /// Name of the metric; taken as it is.
    pub name: String,
    /// How it behaves.
    pub kind: Kind,
    /// What it means.
    pub help: String,
    /// Names and values of its labels; names are taken as they are.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// Writes samples in the text format. Samples of one name are put together, as the format demands,
/// under the HELP and TYPE of the first; names keep the order in which they appear.
pub fn exposition(metrics: &[Metric]) -> String {
    let mut names = Vec::new();
    let mut samples: HashMap<&str, Vec<&Metric>> = HashMap::new();
    for metric in metrics {
        let group = samples.entry(&metric.name).or_default();
        if group.is_empty() {
            names.push(metric);
        }
        group.push(metric);
    }

    let mut text = String::new();
    for Metric { name, kind, help, .. } in names {
        text.push_str(&format!("# HELP {name} {}\n", escape_help(help)));
        text.push_str(&format!("# TYPE {name} {}\n", kind.as_str()));
        for sample in samples.get(name.as_str()).into_iter().flatten() {
            text.push_str(&format!("{name}{} {}\n", labels(sample), value(sample.value)));
        }
    }
    text
}

fn labels(metric: &Metric) -> String {
    if metric.labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = metric
        .labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escape_help(value).replace('"', "\\\"")))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

fn value(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        value.to_string()
    }
}

/// What the format escapes in help; in label values double quotes come on top.
fn escape_help(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_name_stand_together_under_one_heading() {
        let metrics: Vec<Metric> = serde_json::from_str(
            r#"[
                {"name": "a_total", "kind": "counter", "help": "As.", "labels": {"v": "x"}, "value": 2},
                {"name": "b", "kind": "gauge", "help": "B.", "labels": {}, "value": 0.5},
                {"name": "a_total", "kind": "counter", "help": "As.",
                 "labels": {"w": "1", "v": "y"}, "value": 3}
            ]"#,
        )
        .unwrap();
        assert_eq!(
            exposition(&metrics),
            "# HELP a_total As.\n# TYPE a_total counter\na_total{v=\"x\"} 2\n\
             a_total{v=\"y\",w=\"1\"} 3\n\
             # HELP b B.\n# TYPE b gauge\nb 0.5\n"
        );
    }

    #[test]
    fn help_and_labels_are_escaped_and_odd_values_are_written_as_prometheus_reads_them() {
        let metric = |value| Metric {
            name: "m".to_owned(),
            kind: Kind::Gauge,
            help: "a\\b\n\"c\"".to_owned(),
            labels: BTreeMap::from([("view".to_owned(), "\"odd\"\\\n".to_owned())]),
            value,
        };
        assert_eq!(
            exposition(&[metric(f64::INFINITY), metric(f64::NEG_INFINITY), metric(f64::NAN)]),
            "# HELP m a\\\\b\\n\"c\"\n# TYPE m gauge\n\
             m{view=\"\\\"odd\\\"\\\\\\n\"} +Inf\n\
             m{view=\"\\\"odd\\\"\\\\\\n\"} -Inf\n\
             m{view=\"\\\"odd\\\"\\\\\\n\"} NaN\n"
        );
    }

    #[test]
    fn nothing_to_tell_is_an_empty_text() {
        assert_eq!(exposition(&[]), "");
    }
}
