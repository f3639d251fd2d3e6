//! The summary query: one row about a view's content, kept with each refresh.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use pgrx::{PgTryBuilder, Spi};

use super::settings;
use crate::catalog::view::View;
use crate::error::{Error, Result};
use crate::pg::identity::{Restriction, Scope};
use crate::pg::report::Caught;
use crate::pg::snapshot::{ActiveSnapshot, ReadOnly};
use crate::pg::statement;

/// A summary is kept with each refresh: no more than this.
const MOST_BYTES: usize = 64 * 1024;

/// Runs the query as the view's owner, read only, on what this transaction sees now; its one row as
/// the text of a JSON object, in which numbers keep all their digits. An error in it comes back as
/// [`Error::SummaryFails`]; a cancellation passes through.
pub fn run(view: &View, query: &str, lock_timeout: Duration) -> Result<String> {
    naming_the_summary(view, || one_row(view, query, lock_timeout))
}

fn one_row(view: &View, query: &str, lock_timeout: Duration) -> Result<String> {
    // A text that is one complete SELECT can stand between parentheses; the line breaks end a
    // comment that it may end with.
    let wrapped =
        format!("SELECT pg_catalog.to_jsonb(summary)::text FROM (\n{query}\n) AS summary");
    let _snapshot = ActiveSnapshot::take();
    let pinned = settings::pinned(lock_timeout)?;
    let _read_only = ReadOnly::begin();
    let _scope =
        Scope::enter(view.owner, Restriction::RestrictedOperation, &settings::refs(&pinned));
    if !statement::is_single_select(query) {
        return Err(Error::SummaryNotSelect);
    }
    Spi::connect(|client| {
        // Two rows are enough to know that there are several.
        let table = client.select(&wrapped, Some(2), &[])?;
        let wrong = |returned| Error::SummaryRows { name: view.name.to_string(), returned };
        match table.len() {
            0 => Err(wrong("none")),
            1 => {
                let row: String = table.first().get_one()?.ok_or_else(|| wrong("none"))?;
                match row.len() {
                    ..=MOST_BYTES => Ok(row),
                    bytes => Err(Error::SummarySize {
                        name: view.name.to_string(),
                        bytes,
                        most: MOST_BYTES,
                    }),
                }
            }
            _ => Err(wrong("several")),
        }
    })
}

/// Checks a query before it is kept, and returns it as it is kept: with every name qualified as the
/// caller's search_path finds it now, as the server keeps the queries of views. It is run once, so
/// that a mistake is found now; a view that was never populated cannot be read yet.
pub fn prepare(view: &View, query: &str, lock_timeout: Duration) -> Result<String> {
    let query = naming_the_summary(view, || {
        statement::qualified_select(query).ok_or(Error::SummaryNotSelect)
    })?;
    if view.populated {
        run(view, &query, lock_timeout)?;
    }
    Ok(query)
}

/// An error of the server's says nothing of where it comes from: this one says that it is the summary
/// that fails, and not the view. A cancellation stays what it is.
fn naming_the_summary<R>(view: &View, body: impl FnOnce() -> Result<R>) -> Result<R> {
    let name = view.name.to_string();
    PgTryBuilder::new(AssertUnwindSafe(body))
        .catch_others(move |error| {
            let caught = Caught::from(&error);
            if caught.is_cancel() {
                error.rethrow()
            }
            Err(Error::SummaryFails { name: name.clone(), caught })
        })
        .execute()
}
