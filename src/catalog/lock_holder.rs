//! Who holds a lock, told from the lock table.

use pgrx::pg_sys::Oid;

use super::query;
use crate::error::Result;
use crate::pg::lock::RelationLock;

const ACTIVE: &str = "
SELECT l.pid, a.usesysid
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid AND a.state = 'active'
 WHERE l.locktype = 'object' AND l.classid = '_cache_refresher.registry'::regclass
   AND l.objid = $1 AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.pid <> pg_backend_pid()";

/// Processes that hold the view's refresh lock and are running a query, not necessarily a refresh; each with its
/// role.
pub fn active(view: Oid) -> Result<Vec<(i32, Oid)>> {
    query::select_current(ACTIVE, &[view.into()], |row| Ok((row.required(1)?, row.required(2)?)))
}

const CONFLICTING: &str = "
SELECT format('%I.%I', n.nspname, c.relname),
       (SELECT string_agg(DISTINCT coalesce('process ' || l.pid, 'a prepared transaction'), ', ')
          FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
         WHERE l.locktype = 'relation' AND l.relation = c.oid AND l.granted
           AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.mode = ANY ($2))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = $1";

/// A relation that is locked by others.
pub struct LockConflict {
    pub relation: String,
    /// In words. Nobody, where it is those who wait already that have to be waited for.
    pub by: Option<String>,
}

/// What stands in the way of a lock on a relation; nothing if there is no such relation.
pub fn conflicting(relation: Oid, lock: RelationLock) -> Result<Option<LockConflict>> {
    let modes: Vec<&str> = lock.conflicts_with().to_vec();
    let found = query::select_current(CONFLICTING, &[relation.into(), modes.into()], |row| {
        Ok(LockConflict { relation: row.required(1)?, by: row.optional(2)? })
    })?;
    Ok(found.into_iter().next())
}
