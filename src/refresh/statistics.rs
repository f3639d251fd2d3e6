//! Statistics for the planner after large changes, so that nobody plans by old ones until autovacuum
//! comes around.

use super::Done;
use crate::catalog::view::View;
use crate::pg::identity::{self, Restriction, Scope};
use crate::pg::{report, statement, transaction};

/// Analyzes a view whose refresh has committed, in a transaction of its own, if that has changed much.
pub fn renew(done: &Done) {
    // Before its first refresh a view had no rows to have statistics of.
    if !done.first && !done.rows.outdate_statistics() {
        return;
    }
    let analyzed = transaction::run(|| {
        identity::act_for(done.view.owner);
        analyze(&done.view);
    });
    if let Err(caught) = analyzed {
        let message =
            format!("cache_refresher: cannot analyze {}: {}", done.view.name, caught.message);
        report::log(&message, None, None);
    }
}

fn analyze(view: &View) {
    let _scope = Scope::enter(
        view.owner,
        Restriction::RestrictedOperation,
        &[(c"search_path", c"pg_catalog, pg_temp")],
    );
    // Whoever holds a lock against it, VACUUM above all, renews them himself or changes the view again.
    statement::analyze(view.oid);
}
