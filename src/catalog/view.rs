//! What the server's catalogs say about a view and about what it reads.

use pgrx::pg_sys::Oid;

use super::query;
use super::remembered::Remembered;
use crate::error::{Error, Result};
use crate::pg::statement;
pub use crate::pg::view_name::ViewName;

/// A materialized view as it is now.
#[derive(Debug, Clone)]
pub struct View {
    pub oid: Oid,
    pub name: ViewName,
    pub owner: Oid,
    pub owner_name: String,
    pub populated: bool,
    /// Its table is an ordinary heap.
    pub heap: bool,
    /// Column numbers of a unique index that identifies rows, what CONCURRENTLY needs too: valid,
    /// immediate, on columns alone, without WHERE. The one with the fewest; empty if there is none.
    pub key: Vec<i16>,
    /// That index.
    pub key_index: Option<Oid>,
}

const FIND: &str = "
SELECT c.relkind::text, n.nspname::text, c.relname::text, c.relowner,
       pg_get_userbyid(c.relowner)::text, c.relispopulated,
       c.relam = (SELECT a.oid FROM pg_am a WHERE a.amname = 'heap'),
       coalesce(k.columns, '{}'), k.index
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN LATERAL (SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1], i.indexrelid
                       FROM pg_index i
                      WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
                        AND i.indpred IS NULL AND i.indexprs IS NULL
                      ORDER BY i.indnkeyatts, i.indexrelid LIMIT 1) AS k (columns, index) ON true
 WHERE c.oid = $1";

thread_local! {
    static FOUND: Remembered<View> = Remembered::default();
}

impl View {
    /// The materialized view with this OID, as it is now; an error if it is none.
    pub fn find(oid: Oid) -> Result<Self> {
        let read = || {
            let view = Self::read(oid)?;
            let relations = view.key_index.into_iter().chain([oid]).collect();
            Ok((view, relations))
        };
        FOUND.with(|found| found.get(oid, read))
    }

    fn read(oid: Oid) -> Result<Self> {
        let rows = query::select_current(FIND, &[oid.into()], |row| {
            let kind: String = row.required(1)?;
            let name = ViewName { schema: row.required(2)?, name: row.required(3)? };
            Ok((
                kind,
                Self {
                    oid,
                    name,
                    owner: row.required(4)?,
                    owner_name: row.required(5)?,
                    populated: row.required(6)?,
                    heap: row.required(7)?,
                    key: row.required(8)?,
                    key_index: row.optional(9)?,
                },
            ))
        })?;
        match rows.into_iter().next() {
            None => Err(Error::NoSuchRelation { oid: oid.to_u32() }),
            Some((kind, view)) if kind != "m" => {
                Err(Error::NotMaterializedView { name: view.name })
            }
            Some((_, view)) => Ok(view),
        }
    }
}

/// What of a view's past and present can make rebuilding it the cheaper way.
#[derive(Debug, Clone, Copy, Default)]
pub struct TableCondition {
    /// The last refresh that counted changes has changed half of the rows or more, and a thousand at least: with
    /// fewer, to write a new table took as long.
    pub mostly_changed: bool,
    /// The table takes four times the pages that its rows need, by the planner's statistics.
    pub bloated: bool,
}

/// Only the last refreshes count, so that diff is tried again now and then. 28 bytes: header and line
/// pointer of a row; 8152: what a page has to offer.
const CONDITION: &str = "
SELECT coalesce((SELECT h.rows_inserted + h.rows_updated + h.rows_deleted >= greatest(h.rows_total / 2.0, 1000)
                   FROM (SELECT * FROM _cache_refresher.history
                          WHERE view = c.oid AND outcome = 'refreshed' ORDER BY id DESC LIMIT 10) h
                  WHERE h.method = 'diff' ORDER BY h.id DESC LIMIT 1), false),
       (SELECT b.bloat > 4 FROM _cache_refresher.bloat b WHERE b.view = c.oid) IS TRUE
  FROM pg_class c WHERE c.oid = $1";

/// The condition of a view.
pub fn condition(view: Oid) -> Result<TableCondition> {
    let rows = query::select_current(CONDITION, &[view.into()], |row| {
        Ok(TableCondition { mostly_changed: row.required(1)?, bloated: row.required(2)? })
    })?;
    Ok(rows.into_iter().next().unwrap_or_default())
}

const UNIQUE_COLUMNS: &str = "
SELECT DISTINCT a.attnum
  FROM pg_index i
  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
  JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum > 0
                     AND (a.attnum = d.refobjsubid OR d.refobjsubid = 0)
 WHERE i.indrelid = $1 AND i.indisunique";

/// Numbers of the columns on which unique indexes of the view depend, their expressions and
/// conditions included: those whose change can bring two rows into conflict.
pub fn unique_columns(view: Oid) -> Result<Vec<i16>> {
    query::select_current(UNIQUE_COLUMNS, &[view.into()], |row| row.required(1))
}

/// A relation that a view's query reads, directly or through plain views, or a plain view between them.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    pub oid: Oid,
    /// Its rows come from another server.
    pub foreign: bool,
    /// It is a materialized view itself.
    pub materialized: bool,
}

/// Relations in the rewrite rules of the view and of the plain views beneath, and their partitions
/// and inheritance children. In the order of their OIDs, so that everybody locks them alike.
const SOURCES: &str = "
WITH RECURSIVE source (oid, relkind) AS (
    SELECT $1, 'v'::\"char\"
     UNION
    SELECT c.oid, c.relkind
      FROM source s
      JOIN pg_rewrite w ON w.ev_class = s.oid
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> s.oid
      JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
     WHERE s.relkind = 'v'
), leaf (oid, relkind) AS (
    SELECT oid, relkind FROM source WHERE oid <> $1
     UNION
    SELECT c.oid, c.relkind
      FROM leaf l JOIN pg_inherits i ON i.inhparent = l.oid JOIN pg_class c ON c.oid = i.inhrelid
)
SELECT oid, relkind = 'f', relkind = 'm' FROM leaf ORDER BY oid";

thread_local! {
    static READ: Remembered<Vec<Source>> = Remembered::default();
}

/// What the view reads.
pub fn sources(view: Oid) -> Result<Vec<Source>> {
    let read = || {
        let sources = query::select_current(SOURCES, &[view.into()], |row| {
            Ok(Source {
                oid: row.required(1)?,
                foreign: row.required(2)?,
                materialized: row.required(3)?,
            })
        })?;
        let relations = sources.iter().map(|source| source.oid).chain([view]).collect();
        Ok((sources, relations))
    };
    READ.with(|remembered| remembered.get(view, read))
}

const READS: &str = "
WITH RECURSIVE reads (view, source, relkind) AS (
    SELECT v, v, 'v'::\"char\" FROM unnest($1) v
     UNION
    SELECT s.view, c.oid, c.relkind
      FROM reads s
      JOIN pg_rewrite w ON w.ev_class = s.source
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> s.source
      JOIN pg_class c ON c.oid = d.refobjid AND c.relkind IN ('v', 'm')
     WHERE s.relkind = 'v'
)
SELECT view, source FROM reads WHERE relkind = 'm'";

const REGISTERED: &str = "SELECT view FROM _cache_refresher.binding";

/// Which registered view reads which materialized view, through plain views too.
pub fn reads() -> Result<Vec<(u32, u32)>> {
    let registered = query::select_current(REGISTERED, &[], |row| row.required::<Oid>(1))?;
    reads_of(&registered.into_iter().map(Oid::to_u32).collect::<Vec<u32>>())
}

/// Which of these views reads which materialized view, through plain views too.
pub fn reads_of(views: &[u32]) -> Result<Vec<(u32, u32)>> {
    let views: Vec<Oid> = views.iter().copied().map(Oid::from).collect();
    query::select_current(READS, &[views.into()], |row| {
        Ok((row.required::<Oid>(1)?.to_u32(), row.required::<Oid>(2)?.to_u32()))
    })
}

const DATABASE_SETTINGS: &str = "
SELECT setting
  FROM pg_db_role_setting s, unnest(s.setconfig) AS setting
 WHERE s.setrole = 0
   AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// What ALTER DATABASE … SET says about this database, as name and value.
pub fn database_settings() -> Result<Vec<(String, String)>> {
    let settings = query::select(DATABASE_SETTINGS, &[], |row| row.required::<String>(1))?;
    let pairs = settings.iter().filter_map(|setting| setting.split_once('='));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

const DISCONNECT: &str = "
SELECT p.oid
  FROM pg_extension e
  JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
  JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid AND p.proname = 'postgres_fdw_disconnect_all'
 WHERE e.extname = 'postgres_fdw'";

/// Closes this process's connections to other servers. postgres_fdw keeps them open, and an open one
/// blocks DROP DATABASE on the other side.
pub fn disconnect_foreign_servers() -> Result<()> {
    let functions = query::select(DISCONNECT, &[], |row| row.required::<Oid>(1))?;
    functions.into_iter().for_each(statement::call);
    Ok(())
}
