//! Each method for a view: whether it can be taken, why not, and which one the next refresh takes.

use cache_refresher_core::method::{self, Method};
use cache_refresher_core::obstacle::{NotNow, Obstacle};

use super::{facts, settings};
use crate::capture::unit::{self, Unit};
use crate::capture::{self, Changes, Definition, obstacle};
use crate::catalog::registry::Registration;
use crate::catalog::view::View;
use crate::error::{RefusalText, Result};
use crate::guc::RefreshSettings;
use crate::pg::query::inspection;
use crate::pg::relation::Relation;

/// A method, and what can be said of it.
pub struct Row {
    pub method: &'static str,
    pub possible: bool,
    /// The next refresh takes it, as things are now.
    pub chosen: bool,
    pub reason: String,
    pub remedy: Option<String>,
}

/// All methods, the most thorough first.
pub fn rows(view: &View, settings: &RefreshSettings) -> Result<Vec<Row>> {
    let registration = Registration::find(view.oid)?;
    let policy = registration.map(|registration| registration.policy).unwrap_or_default();
    let requested = policy.method.unwrap_or_default();
    let facts = facts(view, settings.auto_full)?;
    let relation = Relation::open_shared(view.oid);
    let mut rows: Vec<Row> = method::explain(requested, facts)
        .into_iter()
        .map(|option| of_option(view, option))
        .collect();
    if let Some(aggregate) = inspection::inspect(&relation).unordered {
        let diff = rows.iter_mut().find(|row| row.possible && row.method == Method::Diff.as_str());
        diff.into_iter().for_each(|row| depends_on_order(row, &aggregate));
    }

    let by_changes = by_changes(view, policy.on_change, &relation, settings)?;
    let open = method::choose(requested, facts).is_ok_and(|choice| choice.open);
    let (delta, skip, next) = match by_changes {
        Ok((unit, next)) => {
            (delta_row(unit, &relation), Ok("nothing is done where nothing has changed"), next)
        }
        Err(obstacle) => (Err(obstacle.clone()), Err(obstacle), Next::Everything(None)),
    };
    let next = match next {
        Next::ByChanges(method) => {
            Some(method).filter(|next| open && (*next == Method::Skip || delta.is_ok()))
        }
        Next::Everything(why) => {
            let chosen = rows.iter_mut().find(|row| row.chosen && open && delta.is_ok());
            if let Some((row, why)) = chosen.zip(why) {
                row.reason = why.beside(&row.reason);
            }
            None
        }
    };
    if next.is_some() {
        rows.iter_mut().for_each(|row| row.chosen = false);
    }
    rows.push(row(Method::Delta, next, delta));
    rows.push(row(Method::Skip, next, skip.map(str::to_owned)));
    Ok(rows)
}

fn of_option(view: &View, option: method::MethodOption) -> Row {
    let (reason, remedy) = match option.verdict {
        Ok(reason) => (reason.to_owned(), None),
        Err(refusal) => {
            let refusal = RefusalText(refusal);
            (refusal.to_string(), Some(refusal.remedy(&view.name.to_string())))
        }
    };
    Row {
        method: option.method.as_str(),
        possible: option.verdict.is_ok(),
        chosen: option.chosen,
        reason,
        remedy,
    }
}

/// Rows are written though nothing has changed, which should surprise nobody.
fn depends_on_order(row: &mut Row, aggregate: &str) {
    row.reason += &format!(
        "; what {aggregate} returns depends on the order of rows, and may differ where nothing has changed"
    );
    row.remedy = Some(
        "Give the aggregate an ORDER BY; or sum floating-point numbers as numeric.".to_owned(),
    );
}

fn row(
    method: Method,
    next: Option<Method>,
    verdict: std::result::Result<String, Obstacle>,
) -> Row {
    let (possible, reason, remedy) = match verdict {
        Ok(reason) => (true, reason, None),
        Err(obstacle) => (false, obstacle.reason(), Some(obstacle.remedy())),
    };
    Row { method: method.as_str(), possible, chosen: next == Some(method), reason, remedy }
}

/// What the next refresh does.
enum Next {
    /// It goes by what has changed.
    ByChanges(Method),
    /// It computes everything, since it is not known what has changed.
    Everything(Option<NotNow>),
}

type Outlook = (std::result::Result<Unit, Obstacle>, Next);

/// The unit of the view, and which of the methods that go by changes comes next; or why there is no
/// proof to go by.
fn by_changes(
    view: &View,
    captured: bool,
    relation: &Relation,
    settings: &RefreshSettings,
) -> Result<std::result::Result<Outlook, Obstacle>> {
    if !captured {
        return Ok(Err(Obstacle::NotCaptured));
    }
    if let Some(obstacle) = obstacle::of(view.oid)? {
        return Ok(Err(obstacle));
    }
    let pinned = settings::pinned(settings.lock_timeout)?;
    let definition = Some(&Definition::of(view.oid)?);
    let next = match capture::examine(view.oid, definition, &settings::text(&pinned))?.changes {
        Changes::Unknown(why) => Next::Everything(why),
        Changes::None => Next::ByChanges(Method::Skip),
        Changes::Some(_) => Next::ByChanges(Method::Delta),
    };
    Ok(Ok((unit::of(relation)?, next)))
}

fn delta_row(
    unit: std::result::Result<Unit, Obstacle>,
    relation: &Relation,
) -> std::result::Result<String, Obstacle> {
    let names: Vec<String> =
        unit?.columns.iter().map(|column| relation.column_name(column.place)).collect();
    let columns = names.join(" and ");
    Ok(format!(
        "rows are replaced by {columns} where that is estimated to cost less than computing all"
    ))
}
