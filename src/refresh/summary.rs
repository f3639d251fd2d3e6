//! The summary query: one row about a view's content, kept with each refresh.

use std::time::Duration;

use pgrx::Spi;
use pgrx::datum::JsonB;

use super::settings;
use crate::catalog::view::View;
use crate::error::{Error, Result};
use crate::pg::identity::{Restriction, Scope};
use crate::pg::snapshot::ActiveSnapshot;
use crate::pg::statement;

/// Runs the query as the view's owner, read only, on what this transaction sees now; its one row as
/// JSON. An error of the query itself passes through.
pub fn run(view: &View, query: &str, lock_timeout: Duration) -> Result<serde_json::Value> {
    let query = statement::single_select(query).ok_or(Error::SummaryNotSelect)?;
    // A text that is one complete SELECT can stand between parentheses; the line breaks end a
    // comment that it may end with.
    let wrapped = format!("SELECT pg_catalog.to_jsonb(summary) FROM (\n{query}\n) AS summary");
    let _snapshot = ActiveSnapshot::take();
    let mut pinned = settings::pinned(lock_timeout)?;
    pinned.push((c"transaction_read_only", c"on".to_owned()));
    let _scope = Scope::enter(
        view.owner,
        Restriction::RestrictedOperation,
        &settings::refs(&pinned),
    );
    Spi::connect_mut(|client| {
        // Two rows are enough to know that there are several.
        let table = client.update(&wrapped, Some(2), &[])?;
        let wrong = |returned| Error::SummaryRows {
            name: view.name.to_string(),
            returned,
        };
        match table.len() {
            0 => Err(wrong("none")),
            1 => {
                let row: Option<JsonB> = table.first().get_one()?;
                row.map(|JsonB(row)| row).ok_or_else(|| wrong("none"))
            }
            _ => Err(wrong("several")),
        }
    })
}

/// Whether the text can be a summary query at all, without running it.
pub fn check(query: &str) -> Result<()> {
    statement::single_select(query)
        .map(drop)
        .ok_or(Error::SummaryNotSelect)
}
