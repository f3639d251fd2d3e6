//! Who is refreshing a view, told from the lock table: for servers without our shared memory.

use pgrx::pg_sys::Oid;

use super::query;
use crate::error::Result;

const ACTIVE: &str = "
SELECT l.pid
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid AND a.state = 'active'
 WHERE l.locktype = 'object' AND l.classid = '_cache_refresher.registry'::regclass
   AND l.objid = $1 AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.pid <> pg_backend_pid()";

/// Processes that hold the view's refresh lock and are running a query.
pub fn active(view: Oid) -> Result<Vec<i32>> {
    query::select_current(ACTIVE, &[view.into()], |row| row.required(1))
}
