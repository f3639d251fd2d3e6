//! On what the content of a view rests, and whether that is still so.

use cache_refresher_core::time::Timestamp;
use cache_refresher_core::visibility::Visibility;
use pgrx::pg_sys::Oid;

use super::capture::{Told, relations, row_security_applies};
use super::query;
use super::remembered::Remembered;
use crate::error::{Error, Result};
use crate::pg::hooks::invalidation;
use crate::pg::identity::Scope;
use crate::pg::{read_only, snapshot, transaction};

/// Stands for the definition of everything that the rows of a view depend on, and for our triggers: as long
/// as it is the same, rows change only where a trigger sees it.
///
/// Relations, plain views beneath, types and functions named there go into it, and who tells the view of changes (the
/// sources `$2`, with what is to be known of our triggers there in `$3`); of what can be changed and changed back
/// also where its row lies and who wrote it. A function of a user's may call others, by names that nobody can
/// follow: with one come all of them, and with those and with text search whatever a function can find by its name.
const FINGERPRINT: &str = concat!(
    relations!(),
    ", kind (oid) AS (
    SELECT a.atttypid FROM relation l JOIN pg_attribute a ON a.attrelid = l.oid WHERE a.attnum > 0 AND a.atttypid >= 16384
     UNION
    SELECT d.refobjid
      FROM source s
      JOIN pg_rewrite w ON w.ev_class = s.oid AND s.relkind = 'v'
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_type'::regclass
     UNION
    -- What a type is made of.
    SELECT p.oid
      FROM kind k
      JOIN pg_type t ON t.oid = k.oid
     CROSS JOIN LATERAL (
        SELECT unnest(ARRAY[t.typbasetype, t.typelem])
         UNION ALL
        SELECT r.rngsubtype FROM pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
         UNION ALL
        SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0) p (oid)
     WHERE p.oid >= 16384
), line (oid, text) AS (
    SELECT t.oid,
           concat_ws(' ', t.oid, (SELECT string_agg(concat_ws(',', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation), ';' ORDER BY a.attnum)
                                    FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped))
      FROM kind k JOIN pg_type t ON t.oid = k.oid
     WHERE t.typrelid <> 0
     UNION ALL
    SELECT k.oid, concat_ws(' ', k.oid, string_agg(concat_ws(',', e.oid, e.enumlabel), ';' ORDER BY e.enumsortorder))
      FROM kind k JOIN pg_enum e ON e.enumtypid = k.oid
     GROUP BY k.oid
     UNION ALL
    SELECT c.oid,
           concat_ws(' ', c.oid, CASE WHEN c.oid <> $1 THEN c.relfilenode END, c.relkind, c.relpersistence, ",
    row_security_applies!("c"),
    ", CASE WHEN c.oid = $1 THEN c.relowner END,
                     (SELECT string_agg(concat_ws(',', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.attgenerated,
                                         -- What is computed when it is read.
                                         CASE WHEN a.attgenerated = 'v' THEN
                                             (SELECT d.adbin FROM pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) END), ';'
                                        ORDER BY a.attnum)
                        FROM pg_attribute a
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
                     CASE WHEN c.oid = $1 THEN (SELECT string_agg(i.indexrelid::text, ',' ORDER BY i.indexrelid) FROM pg_index i
                                                 WHERE i.indrelid = c.oid AND i.indisvalid) END,
                     (SELECT string_agg(i.inhparent::text, ',' ORDER BY i.inhparent) FROM pg_inherits i
                       WHERE i.inhrelid = c.oid AND NOT i.inhdetachpending AND i.inhparent IN (SELECT p.oid FROM relation p)),
                     -- A partition that was attached and is being detached is not one that never was there.
                     (SELECT string_agg(i.inhrelid::text, ',' ORDER BY i.inhrelid) FROM pg_inherits i
                       WHERE i.inhparent = c.oid AND i.inhdetachpending),
                     c.oid = ANY ($2),
                     -- By it we learn of a REFRESH by hand.
                     CASE WHEN c.relkind = 'm' THEN
                         (SELECT string_agg(concat_ws(',', e.oid, e.xmin, e.ctid, e.evtenabled), ';' ORDER BY e.oid)
                            FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
                           WHERE p.pronamespace = '_cache_refresher'::regnamespace) END,
                     -- The index of a log does not have all rows: whatever copies the log by it loses the others.
                     CASE WHEN c.oid <> $1 THEN
                         (SELECT concat_ws(',', k.oid, k.relfilenode) FROM pg_class k
                           WHERE k.oid = to_regclass('_cache_refresher.changes_' || c.oid)) END,
                     nullif(($3::text[])[array_position($2, c.oid)], ''),
                     (SELECT md5(string_agg(w.ev_action::text, ';' ORDER BY w.oid)) FROM pg_rewrite w WHERE w.ev_class = c.oid AND l.relkind = 'v'))
      FROM relation l
     -- OFFSET has each looked up: for some thousand tables the planner would rather read all of pg_class.
     CROSS JOIN LATERAL (SELECT p.* FROM pg_class p WHERE p.oid = l.oid OFFSET 0) c
     UNION ALL
    SELECT p.oid, concat_ws(' ', p.oid, p.xmin, p.ctid)
      FROM source s
      JOIN pg_rewrite w ON w.ev_class = s.oid AND s.relkind = 'v'
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_proc'::regclass
      JOIN pg_proc p ON p.oid = d.refobjid
     UNION ALL
    SELECT 0::oid, concat_ws(' ',
           (SELECT md5(string_agg(concat_ws(',', p.oid, p.xmin, p.ctid), ';' ORDER BY p.oid)) FROM pg_proc p
             WHERE p.oid >= 16384 AND NOT pg_is_other_temp_schema(p.pronamespace) AND p.pronamespace <> pg_my_temp_schema()),
           -- What functions find by name.
           (SELECT md5(string_agg(concat_ws(',', o.oid, o.xmin, o.ctid), ';' ORDER BY o.oid)) FROM pg_operator o WHERE o.oid >= 16384),
           (SELECT md5(string_agg(concat_ws(',', c.oid, c.xmin, c.ctid), ';' ORDER BY c.oid)) FROM pg_cast c WHERE c.oid >= 16384),
           (SELECT md5(string_agg(concat_ws(',', o.oid, o.xmin, o.ctid), ';' ORDER BY o.oid)) FROM pg_opclass o WHERE o.oid >= 16384),
           (SELECT md5(string_agg(concat_ws(',', a.oid, a.xmin, a.ctid), ';' ORDER BY a.oid)) FROM pg_amproc a WHERE a.oid >= 16384),
           (SELECT md5(string_agg(concat_ws(',', c.oid, c.xmin, c.ctid), ';' ORDER BY c.oid)) FROM pg_collation c WHERE c.oid >= 16384),
           (SELECT md5(string_agg(concat_ws(',', e.oid, e.xmin, e.ctid), ';' ORDER BY e.oid)) FROM pg_enum e),
           -- Tables come and go, and with them types of their rows and arrays of those.
           (SELECT md5(string_agg(concat_ws(',', t.oid, t.xmin, t.ctid), ';' ORDER BY t.oid)) FROM pg_type t
             WHERE t.oid >= 16384 AND (t.typcategory <> 'A' OR t.typtype = 'd') AND NOT pg_is_other_temp_schema(t.typnamespace) AND t.typnamespace <> pg_my_temp_schema()
               AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))),
           (SELECT md5(string_agg(concat_ws(',', a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation), ';'
                                  ORDER BY a.attrelid, a.attnum))
              FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
             WHERE c.relkind = 'c' AND c.oid >= 16384 AND NOT a.attisdropped
               AND NOT pg_is_other_temp_schema(c.relnamespace) AND c.relnamespace <> pg_my_temp_schema()),
           (SELECT md5(string_agg(concat_ws(',', c.oid, c.xmin, c.ctid), ';' ORDER BY c.oid)) FROM pg_constraint c WHERE c.contypid >= 16384),
           (SELECT md5(string_agg(concat_ws(',', n.oid, n.nspname), ';' ORDER BY n.oid)) FROM pg_namespace n
             WHERE n.oid >= 16384 AND n.nspname !~ '^pg_(toast_)?temp_'),
           (SELECT md5(string_agg(concat_ws(',', t.oid, t.xmin, t.ctid), ';' ORDER BY t.oid)) FROM pg_ts_config t),
           (SELECT md5(string_agg(concat_ws(',', t.xmin, t.ctid), ';' ORDER BY t.mapcfg, t.maptokentype, t.mapseqno)) FROM pg_ts_config_map t),
           (SELECT md5(string_agg(concat_ws(',', t.oid, t.xmin, t.ctid), ';' ORDER BY t.oid)) FROM pg_ts_dict t))
     WHERE EXISTS (
            SELECT FROM source s
              JOIN pg_rewrite w ON w.ev_class = s.oid AND s.relkind = 'v'
              -- Values of the types regconfig and regdictionary name them, too.
             WHERE w.ev_action::text ~ ' (3734|3769) '
             UNION ALL
            SELECT FROM relation l
              JOIN pg_attribute a ON a.attrelid = l.oid AND a.attgenerated = 'v'
              JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
             WHERE e.adbin::text ~ ' (3734|3769) '
             UNION ALL
            -- Built-in functions call those of the operator class of what a range or an array consists of.
            SELECT FROM kind k JOIN pg_range r ON k.oid IN (r.rngtypid, r.rngmultitypid) WHERE r.rngsubopc >= 16384
             UNION ALL
            SELECT FROM kind k JOIN pg_opclass o ON o.opcintype = k.oid WHERE o.oid >= 16384 AND o.opcdefault
             UNION ALL
            -- So they do with what the server has no order or hash for by itself, but that of btree or hash is a user's.
            SELECT FROM pg_opclass o WHERE o.oid >= 16384 AND o.opcintype < 16384 AND o.opcdefault AND o.opcmethod IN (403, 405)
             UNION ALL
            SELECT FROM source s
              JOIN pg_rewrite w ON w.ev_class = s.oid AND s.relkind = 'v'
              JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                              AND (d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND d.refobjid >= 16384
                                   OR d.refclassid IN ('pg_ts_config'::regclass, 'pg_ts_dict'::regclass)))
)
-- And the relations on which all this rests; 0 where the server would not tell of a change: when a log comes that
-- is missing, or when a child leaves its parent and no column tells of it.
SELECT concat_ws(' ', coalesce(md5(string_agg(l.text, E'\\n' ORDER BY l.oid, l.text)), 'none'),
                 coalesce((SELECT v.relfilenode FROM pg_class v WHERE v.oid = $1), 0)),
       ARRAY(SELECT l.oid FROM relation l
              UNION
             SELECT coalesce(to_regclass('_cache_refresher.changes_' || l.oid)::oid, 0)
               FROM relation l WHERE l.relkind IN ('r', 'm') AND l.oid <> $1
              UNION
             SELECT t.typrelid FROM kind k JOIN pg_type t ON t.oid = k.oid WHERE t.typrelid <> 0
              UNION
             SELECT c.oid FROM pg_class c
              WHERE c.relkind = 'c' AND c.oid >= 16384 AND EXISTS (SELECT FROM line l WHERE l.oid = 0)
              UNION
             SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = $1
              UNION
             SELECT 0 FROM relation l
              WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = l.oid AND a.attnum > 0 AND NOT a.attisdropped)),
       coalesce(bool_or(l.oid = 0), false)
           OR EXISTS (SELECT FROM relation l JOIN pg_class c ON c.oid = l.oid WHERE c.relrowsecurity)
  FROM line l"
);

const FILE: &str = "SELECT relfilenode FROM pg_class WHERE oid = $1";

/// In which file the rows of a view are now: whoever writes new content into another one is not us.
pub fn file(view: Oid) -> Result<u32> {
    let rows = query::select_current(FILE, &[view.into()], |row| row.required::<Oid>(1))?;
    Ok(rows.into_iter().next().map_or(0, Oid::to_u32))
}

/// Stands for what the rows of a view depend on, and for those who tell of their changes.
#[derive(Debug, Clone)]
pub struct Fingerprint {
    pub told: Told,
    pub text: String,
    /// It rests on what belongs to no relation, and can change and change back while the view is refreshed:
    /// functions of which only the names are known by which others call them, or roles.
    pub is_loose: bool,
    /// How much of types had been heard of when it was read.
    types: u64,
}

impl Fingerprint {
    /// Without the file that the rows of the view are in, which a refresh may replace.
    pub fn definition(&self) -> Option<&str> {
        self.text.split(' ').next()
    }
}

thread_local! {
    static KNOWN: Remembered<Fingerprint> = Remembered::default();
}

/// The fingerprint of a view as it is now, and after it the file that its rows are in.
pub fn fingerprint(view: Oid, told: Told) -> Result<Fingerprint> {
    let read = || {
        let types = invalidation::types();
        let arguments = [view.into(), told.sources.clone().into(), told.triggers.clone().into()];
        let rows = query::select_current(FINGERPRINT, &arguments, |row| {
            let (text, is_loose) = (row.required(1)?, row.required(3)?);
            Ok((Fingerprint { told: told.clone(), text, is_loose, types }, row.required(2)?))
        })?;
        rows.into_iter().next().ok_or_else(|| bad("fingerprint"))
    };
    // Types change with each table that comes or goes: only where they are found by name does it matter.
    let fits = |known: &Fingerprint| {
        known.told == told && (!known.is_loose || known.types == invalidation::types())
    };
    KNOWN.with(|known| known.get_if(view, fits, read))
}

/// On what the content of a view rests: the snapshot of its last refresh, and the fingerprint then,
/// where there was a proof to be had.
#[derive(Debug, Clone)]
pub struct Basis {
    pub shown: Visibility,
    pub fingerprint: Option<String>,
}

const BASIS: &str = "
SELECT shown::text, fingerprint FROM _cache_refresher.content WHERE view = $1 AND shown IS NOT NULL";

/// On what the view's content rests, as the calling statement sees it: like the log of changes beside it.
pub fn basis(view: Oid) -> Result<Option<Basis>> {
    let row = if transaction::has_written() {
        let _scope = Scope::internal();
        let columns = read_only::rows(BASIS, view).into_iter().next();
        columns.and_then(|columns| <[_; 2]>::try_from(columns).ok())
    } else {
        query::select(BASIS, &[view.into()], |row| Ok([row.optional(1)?, row.optional(2)?]))?
            .into_iter()
            .next()
    };
    let Some([Some(shown), fingerprint]) = row else { return Ok(None) };
    Ok(Some(Basis { shown: visibility(shown)?, fingerprint }))
}

/// What the active snapshot shows, this transaction's own doings left out: there may be more of them.
pub fn visible_now() -> Result<Visibility> {
    let shown = visibility(snapshot::active())?;
    Ok(match transaction::own_id() {
        Some(own) => shown.without(own),
        None => shown,
    })
}

pub(super) fn visibility(text: String) -> Result<Visibility> {
    text.parse().map_err(|_| bad("snapshot"))
}

fn bad(what: &str) -> Error {
    Error::Corrupt(format!("bad {what} in the catalog of cache_refresher"))
}

const DISTRUST: &str = "
UPDATE _cache_refresher.content SET fingerprint = NULL WHERE view = $1 AND fingerprint IS NOT NULL";

/// Nothing is proved of a view's content any more.
pub fn distrust(view: Oid) -> Result<()> {
    query::execute(DISTRUST, &[view.into()]).map(drop)
}

const INVALIDATE: &str = "
INSERT INTO _cache_refresher.invalidation (view, xid, at)
VALUES ($1, pg_current_xact_id(), clock_timestamp())";

/// Notes that somebody said that a view does not show everything.
pub fn invalidate(view: Oid) -> Result<()> {
    query::execute(INVALIDATE, &[view.into()]).map(drop)
}

const INVALIDATED: &str = "
SELECT min(CASE WHEN current_setting('track_commit_timestamp')::boolean AND NOT pg_is_in_recovery()
                THEN greatest(pg_xact_commit_timestamp(xid::xid), at) ELSE at END)
  FROM _cache_refresher.invalidation
 WHERE view = $1 AND ($2 IS NULL OR NOT pg_visible_in_snapshot(xid, $2::text::pg_snapshot))";

/// Since when somebody has said so about what is not shown.
pub fn invalidated_since(view: Oid, shown: Option<&Visibility>) -> Result<Option<Timestamp>> {
    let arguments = [view.into(), shown.map(ToString::to_string).into()];
    let rows = query::select(INVALIDATED, &arguments, |row| row.optional_time(1))?;
    Ok(rows.into_iter().next().flatten())
}

const SETTLE: &str = "
DELETE FROM _cache_refresher.invalidation i
 WHERE i.ctid IN (SELECT k.ctid FROM _cache_refresher.invalidation k
                   WHERE k.view = $1 AND pg_visible_in_snapshot(k.xid, $2::text::pg_snapshot)
                     FOR UPDATE SKIP LOCKED)";

/// Removes what has been said about what is shown now.
pub fn settle(view: Oid, shown: &Visibility) -> Result<()> {
    query::execute(SETTLE, &[view.into(), shown.to_string().into()]).map(drop)
}

const DISTRUST_REFRESHED: &str = "
UPDATE _cache_refresher.content k SET fingerprint = NULL, rows_total = NULL
 WHERE k.view = ANY ($1)
   AND (k.fingerprint IS NOT NULL OR k.rows_total IS NOT NULL)";

/// Nothing is proved any more of the views whose content a REFRESH has just replaced: its snapshot may
/// be older than ours. How many rows they have now is not known, either.
pub fn distrust_refreshed(views: Vec<Oid>) -> Result<()> {
    query::execute(DISTRUST_REFRESHED, &[views.into()]).map(drop)
}
