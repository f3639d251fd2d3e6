//! Figures for monitoring, as rows and as text.

use cache_refresher_core::metrics::{self, View};
use pgrx::JsonB;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;

use super::status::Asking;
use super::{health, status};
use crate::catalog::overview::{Bound, Overview};
use crate::error::{Error, Result};
use crate::pg::identity;
use crate::pg::rows::result_rows::ResultRows;
use crate::refresh::freshness::Known;

#[pg_extern(sql = false)]
fn metrics(call: pg_sys::FunctionCallInfo) -> std::result::Result<(), ErrorReport> {
    let rows = ResultRows::of(call);
    let (database, views) = (identity::current_database_name(), views()?);
    let labels: Vec<Option<Datum>> = views
        .iter()
        .map(|view| {
            let View { schema, name, .. } = view;
            JsonB(serde_json::json!({"database": database, "schema": schema, "view": name}))
                .into_datum()
        })
        .collect();
    for metric in metrics::OF_VIEWS {
        let [name, kind, help] = head((metric.name, metric.kind, metric.help));
        for (view, labels) in views.iter().zip(&labels) {
            if let Some(value) = (metric.of)(view) {
                rows.put([name, kind, help, *labels, value.into_datum()]);
            }
        }
    }
    let [name, kind, help] = head(metrics::UP);
    let labels = JsonB(serde_json::json!({"database": database})).into_datum();
    rows.put([name, kind, help, labels, f64::from(u8::from(health::is_healthy()?)).into_datum()]);
    Ok(())
}

fn head((name, kind, help): (&str, metrics::Kind, &str)) -> [Option<Datum>; 3] {
    [name.into_datum(), kind.as_str().into_datum(), help.into_datum()]
}

#[pg_extern(sql = false)]
fn metrics_text() -> std::result::Result<String, ErrorReport> {
    let database = identity::current_database_name();
    let text = metrics::exposition(&database, &views()?, health::is_healthy()?);
    Ok(text.map_err(|error| Error::Corrupt(format!("metrics: {error}")))?)
}

/// What the caller may know of each view, by name.
fn views() -> Result<Vec<View>> {
    let asking = Asking::new();
    let mut views = Vec::new();
    status::each_visible(|overview| {
        views.push(view(&asking, overview)?);
        Ok(())
    })?;
    views
        .sort_unstable_by(|one, other| (&one.schema, &one.name).cmp(&(&other.schema, &other.name)));
    Ok(views)
}

fn view(asking: &Asking, overview: &Overview) -> Result<View> {
    let state = asking.state(overview);
    let Known { staleness, stale_since, proved_until } = status::known(overview)?;
    let Overview { name, on_change, view: bound, .. } = overview;
    let mut view = View {
        schema: name.schema.clone(),
        name: name.name.clone(),
        suspended: state == "suspended",
        paused: state == "paused",
        missing: state == "missing",
        ..View::default()
    };
    if let Some(Bound { content, invalidated, tried, .. }) = bound {
        view.refreshes = tried.refreshes;
        view.skips = tried.skips;
        view.failures = tried.failures;
        view.cancellations = tried.cancellations;
        view.consecutive_failures = tried.history.consecutive_failures;
        if let Some(content) = content {
            view.refreshed_at = Some(content.refreshed_at);
            view.duration_ms = Some(content.duration_ms);
            view.rows = content.rows_total;
        }
        let data_as_of = content.and_then(|content| content.data_as_of);
        view.staleness = (*on_change || *invalidated).then_some(staleness);
        view.stale_for = stale_since.map(|since| asking.now.since(since));
        view.age = data_as_of.max(proved_until).map(|as_of| asking.now.since(as_of));
    }
    Ok(view)
}
