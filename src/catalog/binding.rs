//! Which OID a registered name stands for, kept right when views are renamed, dropped or made anew.

use super::query;
use super::view::ViewName;
use crate::error::Result;

/// A binding whose view is gone.
const UNBIND_DROPPED: &str = "
DELETE FROM _cache_refresher.binding b
 WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = b.view AND c.relkind = 'm')
RETURNING b.view_schema, b.view_name";

/// A view that was renamed or moved keeps its registration under the new name, unless that name is
/// registered already: then the registration stays with the name that it was given to.
const FOLLOW_RENAMED: &str = "
UPDATE _cache_refresher.registry r
   SET view_schema = n.nspname, view_name = c.relname
  FROM _cache_refresher.binding b
  JOIN pg_class c ON c.oid = b.view
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE (b.view_schema, b.view_name) = (r.view_schema, r.view_name)
   AND (r.view_schema, r.view_name) <> (n.nspname::text, c.relname::text)
   AND NOT EXISTS (SELECT FROM _cache_refresher.registry other
                    WHERE (other.view_schema, other.view_name) = (n.nspname::text, c.relname::text))";

/// A registered name that stands for a view again: made anew, restored, or registered just now.
const BIND: &str = "
INSERT INTO _cache_refresher.binding (view, view_schema, view_name)
SELECT c.oid, r.view_schema, r.view_name
  FROM _cache_refresher.registry r
  JOIN pg_namespace n ON n.nspname = r.view_schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.view_name AND c.relkind = 'm'
 WHERE NOT EXISTS (SELECT FROM _cache_refresher.binding b
                    WHERE (b.view_schema, b.view_name) = (r.view_schema, r.view_name) OR b.view = c.oid)
ON CONFLICT DO NOTHING";

const FORGET_CONTENT: &str = "
DELETE FROM _cache_refresher.content k
 WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = k.view AND c.relkind = 'm')";

const FORGET_ATTEMPTS: &str = "
DELETE FROM _cache_refresher.attempts a
 WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = a.view AND c.relkind = 'm')";

/// Forgets what is known of views that are gone, registered or not.
pub fn forget_dropped() -> Result<()> {
    query::execute(FORGET_CONTENT, &[])?;
    query::execute(FORGET_ATTEMPTS, &[]).map(drop)
}

/// Brings the bindings up to date. Returns the views that were found missing just now.
pub fn reconcile() -> Result<Vec<ViewName>> {
    let missing = query::returning(UNBIND_DROPPED, &[], |row| {
        Ok(ViewName { schema: row.required(1)?, name: row.required(2)? })
    })?;
    query::execute(FOLLOW_RENAMED, &[])?;
    query::execute(BIND, &[])?;
    Ok(missing)
}
