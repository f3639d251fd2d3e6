//! Which OID a registered name stands for, kept right when views are renamed, dropped or made anew.
//!
//! What has to be done is done one registration at a time. A session touches the rows of the view that it
//! is about, or of its own role's views: others would have to wait for the end of its transaction.

use pgrx::pg_sys::Oid;

use super::view::ViewName;
use super::{query, registry};
use crate::error::Result;
use crate::pg::identity::{self, Restriction, Scope};
use crate::pg::{report, transaction};

/// Bindings whose view is gone.
const GONE: &str = "
SELECT b.view FROM _cache_refresher.binding b
 WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = b.view AND c.relkind = 'm')";

/// Bound views that have another name or owner by now.
const CHANGED: &str = "
SELECT b.view
  FROM _cache_refresher.binding b
  JOIN pg_class c ON c.oid = b.view
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE (b.view_schema, b.view_name) <> (n.nspname::text, c.relname::text)
    OR (b.owner, b.owner_name) <> (c.relowner, pg_get_userbyid(c.relowner))";

/// Views that a registration may stand for again.
const UNBOUND: &str = "
SELECT c.oid
  FROM _cache_refresher.registry r
  JOIN pg_namespace n ON n.nspname = r.view_schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.view_name AND c.relkind = 'm'
 WHERE NOT EXISTS (SELECT FROM _cache_refresher.binding b
                    WHERE (b.view_schema, b.view_name) = (r.view_schema, r.view_name) OR b.view = c.oid)
   AND coalesce(r.last_owner, pg_get_userbyid(c.relowner)) = pg_get_userbyid(c.relowner)";

/// The view that a name was last seen to stand for, there or not, if it is another one.
const HOLDER: &str = "
SELECT b.view
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN _cache_refresher.binding b ON (b.view_schema, b.view_name) = (n.nspname::text, c.relname::text)
 WHERE c.oid = $1 AND b.view <> c.oid";

/// The registration remembers whose view it was.
const UNBIND: &str = "
WITH gone AS (
    DELETE FROM _cache_refresher.binding b
     WHERE b.view = $1 AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = b.view AND c.relkind = 'm')
    RETURNING b.view_schema, b.view_name, coalesce((SELECT a.rolname FROM pg_roles a WHERE a.oid = b.owner), b.owner_name) AS owner
)
UPDATE _cache_refresher.registry r SET last_owner = gone.owner
  FROM gone WHERE (gone.view_schema, gone.view_name) = (r.view_schema, r.view_name)
RETURNING r.view_schema, r.view_name";

/// The name that a bound view has by now, if it is another one; whether that is registered, and for which view.
const MOVED: &str = "
SELECT n.nspname::text, c.relname::text, r.view_name IS NOT NULL, holder.view
  FROM _cache_refresher.binding b
  JOIN pg_class c ON c.oid = b.view
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN _cache_refresher.registry r ON (r.view_schema, r.view_name) = (n.nspname::text, c.relname::text)
  LEFT JOIN _cache_refresher.binding holder ON (holder.view_schema, holder.view_name) = (r.view_schema, r.view_name)
 WHERE b.view = $1 AND (b.view_schema, b.view_name) <> (n.nspname::text, c.relname::text)";

const RENAME: &str = "
WITH granted AS (
    UPDATE _cache_refresher.refresh_grant g SET view_schema = $2, view_name = $3
      FROM _cache_refresher.binding b
     WHERE b.view = $1 AND (g.view_schema, g.view_name) = (b.view_schema, b.view_name)
)
UPDATE _cache_refresher.registry r SET view_schema = $2, view_name = $3
  FROM _cache_refresher.binding b
 WHERE b.view = $1 AND (r.view_schema, r.view_name) = (b.view_schema, b.view_name)";

/// Where it is the role that has another name, it has set the summary query under that before.
const FOLLOW_OWNER: &str = "
WITH renamed AS (
    UPDATE _cache_refresher.registry r SET summary_owner = pg_get_userbyid(b.owner)
      FROM _cache_refresher.binding b
      JOIN pg_class c ON c.oid = b.view AND c.relowner = b.owner
     WHERE b.view = $1 AND (r.view_schema, r.view_name) = (b.view_schema, b.view_name)
       AND r.summary_owner = b.owner_name AND b.owner_name <> pg_get_userbyid(b.owner)
)
UPDATE _cache_refresher.binding b SET owner = c.relowner, owner_name = pg_get_userbyid(c.relowner)
  FROM pg_class c
 WHERE b.view = $1 AND c.oid = b.view AND (b.owner, b.owner_name) <> (c.relowner, pg_get_userbyid(c.relowner))";

/// A registered name that stands for a view again: made anew, restored, or registered just now. Somebody
/// else's view of a name that was dropped has nothing to do with the registration.
const BIND: &str = "
INSERT INTO _cache_refresher.binding (view, view_schema, view_name, owner, owner_name)
SELECT c.oid, r.view_schema, r.view_name, c.relowner, pg_get_userbyid(c.relowner)
  FROM _cache_refresher.registry r
  JOIN pg_namespace n ON n.nspname = r.view_schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.view_name AND c.relkind = 'm'
 WHERE c.oid = $1
   AND NOT EXISTS (SELECT FROM _cache_refresher.binding b
                    WHERE (b.view_schema, b.view_name) = (r.view_schema, r.view_name) OR b.view = c.oid)
   AND coalesce(r.last_owner, pg_get_userbyid(c.relowner)) = pg_get_userbyid(c.relowner)
ON CONFLICT DO NOTHING";

/// Whose it was matters only while it is missing.
const FOUND_AGAIN: &str = "
UPDATE _cache_refresher.registry r SET last_owner = NULL
  FROM _cache_refresher.binding b
 WHERE b.view = $1 AND (b.view_schema, b.view_name) = (r.view_schema, r.view_name) AND r.last_owner IS NOT NULL";

/// What somebody else is removing is left to him.
const FORGET_CONTENT: &str = "
DELETE FROM _cache_refresher.content
 WHERE view IN (SELECT k.view FROM _cache_refresher.content k
                 WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = k.view AND c.relkind = 'm')
                   FOR UPDATE SKIP LOCKED)";

const FORGET_ATTEMPTS: &str = "
DELETE FROM _cache_refresher.attempts
 WHERE view IN (SELECT a.view FROM _cache_refresher.attempts a
                 WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = a.view AND c.relkind = 'm')
                   FOR UPDATE SKIP LOCKED)";

/// Forgets what is known of views that are gone, registered or not.
pub fn forget_dropped() -> Result<()> {
    query::execute(FORGET_CONTENT, &[])?;
    query::execute(FORGET_ATTEMPTS, &[]).map(drop)
}

/// Brings the binding of one view up to date, and that of another of which it has the name now.
pub fn reconcile_view(view: Oid) -> Result<()> {
    for holder in query::select_current(HOLDER, &[view.into()], |row| row.required::<Oid>(1))? {
        unbind(holder)?;
        follow(holder)?;
    }
    follow(view)?;
    bind(view)
}

/// Brings all bindings up to date. Returns the views that were found missing just now, and whether all could be
/// done.
pub fn reconcile() -> Result<(Vec<ViewName>, bool)> {
    let mut missing = Vec::new();
    let unbind_one = |view| {
        missing.extend(unbind(view)?);
        Ok(())
    };
    let mut done = each(GONE, |_| true, unbind_one)?;
    done &= each(CHANGED, |_| true, follow)?;
    done &= each(UNBOUND, |_| true, bind)?;
    // Not one that was made anew at once, or whose name another has taken.
    missing.retain(|name| registry::is_missing(name).unwrap_or(true));
    Ok((missing, done))
}

/// Brings the bindings of the current role's views up to date.
pub fn reconcile_own() -> Result<()> {
    each(CHANGED, identity::owns, follow)?;
    each(UNBOUND, identity::owns, bind).map(drop)
}

/// Does something for each view of a query, in a subtransaction of its own and without much patience: what
/// somebody else holds is left for the next time, and holds up no other view. False if something was left.
fn each(
    views: &'static str,
    concerned: impl Fn(Oid) -> bool,
    mut body: impl FnMut(Oid) -> Result<()>,
) -> Result<bool> {
    let mut all = true;
    let mut time = c"200";
    for view in query::select_current(views, &[], |row| row.required::<Oid>(1))? {
        let done = transaction::attempt(|| {
            let _patience = Scope::enter(
                identity::current_role(),
                Restriction::LocalUserIdChange,
                &[(c"lock_timeout", time)],
            );
            if concerned(view) { body(view) } else { Ok(()) }
        });
        if done.is_err() {
            (time, all) = (c"1", false);
        }
    }
    Ok(all)
}

fn unbind(view: Oid) -> Result<Vec<ViewName>> {
    query::returning(UNBIND, &[view.into()], |row| {
        Ok(ViewName { schema: row.required(1)?, name: row.required(2)? })
    })
}

/// A view that was renamed or moved keeps its registration under the new name. Another view that had that name has
/// to leave it first; if it is gone, so is its registration.
fn follow(view: Oid) -> Result<()> {
    let moved = query::select_current(MOVED, &[view.into()], |row| {
        let name = ViewName { schema: row.required(1)?, name: row.required(2)? };
        Ok((name, row.required::<bool>(3)?, row.optional::<Oid>(4)?))
    })?;
    for (name, registered, holder) in moved {
        if registered {
            // Views may have exchanged their names: meanwhile it has one that no view can have.
            rename(view, "", &view.to_u32().to_string())?;
            if let Some(holder) = holder {
                unbind(holder)?;
                follow(holder)?;
            }
            if registry::delete_unbound(&name)? {
                let detail = "A registered view that was renamed has that name now.";
                report::log(
                    &format!("cache_refresher: {name} is not registered any more"),
                    Some(detail),
                    None,
                );
            }
        }
        rename(view, &name.schema, &name.name)?;
    }
    query::execute(FOLLOW_OWNER, &[view.into()]).map(drop)
}

fn rename(view: Oid, schema: &str, name: &str) -> Result<()> {
    query::execute(RENAME, &[view.into(), schema.into(), name.into()]).map(drop)
}

fn bind(view: Oid) -> Result<()> {
    query::execute(BIND, &[view.into()])?;
    query::execute(FOUND_AGAIN, &[view.into()]).map(drop)
}
