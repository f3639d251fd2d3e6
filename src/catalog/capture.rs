//! What is captured of the sources of views, and for whom.

use cache_refresher_core::visibility::Visibility;
use pgrx::pg_sys::Oid;

use super::remembered::Remembered;
use super::{proof, query};
use crate::error::Result;
use crate::pg::{transaction, types};

/// A relation whose rows a view shows: a table, a partition, a foreign table, a materialized view.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
    pub kind: LeafKind,
    /// Numbers of the columns that the view's query names.
    pub columns: Vec<i16>,
    /// Columns whose changes our trigger there sees, as it was told; nothing without a working trigger. Of a
    /// materialized view, all, if it has a log.
    pub trigger: Option<String>,
    /// The view's owner may have triggers there.
    pub allowed: bool,
    /// Numbers of the columns whose values its log keeps.
    pub kept: Vec<i16>,
    /// Itself and what it is a partition or child of.
    pub family: Vec<Oid>,
}

/// Whether changes of a relation can be captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafKind {
    Table,
    Foreign,
    Materialized,
    /// A crash empties it unseen.
    Unlogged,
    /// Policies apply to whoever refreshes the view: what they let through can change without any row changing.
    RowSecurity,
    /// Of the server itself.
    Catalog,
}

impl LeafKind {
    /// Changes of it are noted: by triggers, or by those who refresh it.
    pub const fn is_captured(self) -> bool {
        matches!(self, Self::Table | Self::Materialized)
    }
}

/// What a view reads, directly or through plain views, and the partitions and children of that.
macro_rules! relations {
    () => {
        "
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
), relation (oid, relkind) AS (
    SELECT oid, relkind FROM source
     UNION
    SELECT c.oid, c.relkind
      FROM relation l JOIN pg_inherits i ON i.inhparent = l.oid AND NOT i.inhdetachpending
      JOIN pg_class c ON c.oid = i.inhrelid
)"
    };
}
pub(super) use relations;

/// Whether row security of a relation applies to one of those whose rights the query is run with: the owner of the
/// view and those of the plain views beneath. To be used after `relations!()`.
macro_rules! row_security_applies {
    ($relation:literal) => {
        concat!(
            "(", $relation, ".relrowsecurity AND EXISTS (
        SELECT FROM source s JOIN pg_class v ON v.oid = s.oid AND s.relkind = 'v' JOIN pg_roles r ON r.oid = v.relowner
         WHERE NOT (r.rolsuper OR r.rolbypassrls
                    OR NOT ", $relation, ".relforcerowsecurity AND pg_has_role(r.oid, ", $relation, ".relowner, 'USAGE'))))"
        )
    };
}
pub(super) use row_security_applies;

const LEAVES: &str = concat!(
    relations!(),
    ", named (oid, attname) AS (
    SELECT d.refobjid, a.attname
      FROM source s
      JOIN pg_rewrite w ON w.ev_class = s.oid AND s.relkind = 'v'
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid <> 0
     CROSS JOIN LATERAL (
        SELECT d.refobjsubid AS attnum
         UNION ALL
        -- In place of a virtual column, what it is computed from.
        SELECT g.refobjsubid
          FROM pg_attribute v
          JOIN pg_attrdef e ON e.adrelid = v.attrelid AND e.adnum = v.attnum
          JOIN pg_depend g ON g.classid = 'pg_attrdef'::regclass AND g.objid = e.oid
                          AND g.refclassid = 'pg_class'::regclass AND g.refobjid = v.attrelid
         WHERE v.attrelid = d.refobjid AND v.attnum = d.refobjsubid AND v.attgenerated = 'v') n
      JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = n.attnum AND a.attgenerated <> 'v'
     UNION
    SELECT i.inhrelid, n.attname FROM named n JOIN pg_inherits i ON i.inhparent = n.oid AND NOT i.inhdetachpending
)
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text,
       f.row_security,
       ARRAY(SELECT DISTINCT a.attnum FROM named m JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = m.attname
              WHERE m.oid = c.oid ORDER BY 1),
       -- A materialized view has no triggers: whoever refreshes it writes to its log, if there is one.
       CASE WHEN c.relkind = 'm' AND to_regclass('_cache_refresher.changes_' || c.oid) IS NOT NULL THEN '*' ELSE
       (SELECT split_part(encode(t.tgargs, 'escape'), '\\000', 1)
          FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
         WHERE t.tgrelid = c.oid AND t.tgname = 'cache_refresher_capture' AND t.tgenabled = 'A'
           AND p.pronamespace = '_cache_refresher'::regnamespace
           AND to_regclass('_cache_refresher.changes_' || c.oid) IS NOT NULL) END,
       has_table_privilege((SELECT v.relowner FROM pg_class v WHERE v.oid = $1), c.oid, 'TRIGGER'),
       ARRAY(SELECT substr(k.attname, 2)::int2 FROM pg_attribute k
              WHERE k.attrelid = to_regclass('_cache_refresher.changes_' || c.oid) AND k.attname ~ '^c[0-9]+$' AND NOT k.attisdropped
              ORDER BY k.attnum),
       f.oids,
       ARRAY(SELECT k.atttypid FROM pg_attribute k
              WHERE k.attrelid = to_regclass('_cache_refresher.changes_' || c.oid) AND k.attname ~ '^c[0-9]+$' AND NOT k.attisdropped
              ORDER BY k.attnum)
  FROM (SELECT DISTINCT l.oid FROM relation l WHERE l.relkind IN ('r', 'f', 'm') AND l.oid <> $1) r
  JOIN pg_class c ON c.oid = r.oid
  JOIN pg_namespace n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (
    WITH RECURSIVE up (oid) AS (
        SELECT c.oid UNION SELECT i.inhparent FROM up u JOIN pg_inherits i ON i.inhrelid = u.oid)
    SELECT array_agg(u.oid) AS oids, bool_or(",
    row_security_applies!("u"),
    ") AS row_security
      FROM up JOIN pg_class u ON u.oid = up.oid) f
 ORDER BY c.oid"
);

/// OIDs from here on are those of users' objects.
const FIRST_USER_OID: u32 = 16384;

/// The relations whose rows a view shows, as they are now.
pub fn leaves(view: Oid) -> Result<Vec<Leaf>> {
    query::select_current(LEAVES, &[view.into()], |row| {
        let oid: Oid = row.required(1)?;
        let (relkind, persistence): (String, String) = (row.required(4)?, row.required(5)?);
        let kind = match (relkind.as_str(), persistence.as_str()) {
            ("f", _) => LeafKind::Foreign,
            ("m", _) => LeafKind::Materialized,
            _ if oid.to_u32() < FIRST_USER_OID => LeafKind::Catalog,
            (_, "p") if row.required(6)? => LeafKind::RowSecurity,
            (_, "p") => LeafKind::Table,
            _ => LeafKind::Unlogged,
        };
        Ok(Leaf {
            oid,
            schema: row.required(2)?,
            name: row.required(3)?,
            kind,
            columns: row.required(7)?,
            trigger: row.optional(8)?,
            allowed: row.required(9)?,
            kept: kept(oid, row.required(10)?, row.required(12)?)?,
            family: row.required(11)?,
        })
    })
}

const USE: &str = "
INSERT INTO _cache_refresher.capture (view, source) VALUES ($1, $2) ON CONFLICT DO NOTHING";

/// Notes that a view needs the changes of a source. False if that was known.
pub fn add_use(view: Oid, source: Oid) -> Result<bool> {
    Ok(query::execute(USE, &[view.into(), source.into()])? > 0)
}

const USES_SINCE: &str = "SELECT xmin::text::int8 FROM _cache_refresher.capture WHERE view = $1";

/// Whether it has begun in this transaction that the view is told of changes: as long as that is not committed, nobody
/// else keeps any for it.
pub fn begins_here(view: Oid) -> Result<bool> {
    let ids: Vec<i64> = query::select_current(USES_SINCE, &[view.into()], |row| row.required(1))?;
    Ok(ids.into_iter().filter_map(|id| u32::try_from(id).ok()).any(transaction::is_own))
}

const DROP_USES: &str = "
DELETE FROM _cache_refresher.capture c
 WHERE c.view = $1 AND c.source <> ALL ($2)";

/// Forgets the needs of a view, but for those.
pub fn drop_uses(view: Oid, keep: Vec<Oid>) -> Result<()> {
    query::execute(DROP_USES, &[view.into(), keep.into()]).map(drop)
}

/// Forgets what is known of views that need nothing any more: nobody keeps their changes for them from then on,
/// and what was proved does not hold any more.
const DROP_ORPHANED_USES: &str = "
WITH gone AS (
    DELETE FROM _cache_refresher.capture c
     WHERE NOT EXISTS (SELECT FROM _cache_refresher.binding b JOIN _cache_refresher.registry r
                           ON (r.view_schema, r.view_name) = (b.view_schema, b.view_name)
                        WHERE b.view = c.view AND r.on_change)
    RETURNING c.view
)
UPDATE _cache_refresher.content k SET fingerprint = NULL
 WHERE k.view IN (SELECT view FROM gone) AND k.fingerprint IS NOT NULL";

/// In the order of their OIDs, so that everybody locks them alike.
const TABLES: &str = "
SELECT DISTINCT t.tgrelid FROM pg_trigger t
 WHERE t.tgfoid = to_regprocedure('_cache_refresher.capture_change()') ORDER BY 1";

/// All tables that have a trigger of ours.
pub fn tables() -> Result<Vec<Oid>> {
    query::select_current(TABLES, &[], |row| row.required(1))
}

/// By their logs: a trigger without one comes of a dump that is being restored, and is to be left alone.
const UNUSED: &str = "
SELECT s.oid, c.relkind IS NOT DISTINCT FROM 'r'
  FROM (SELECT substr(l.relname, 9)::oid AS oid
          FROM pg_class l
         WHERE l.relnamespace = '_cache_refresher'::regnamespace AND l.relkind = 'r' AND l.relname ~ '^changes_[0-9]+$') s
  LEFT JOIN pg_class c ON c.oid = s.oid AND c.relkind IN ('r', 'm')
 WHERE c.oid IS NULL OR NOT EXISTS (SELECT FROM _cache_refresher.capture k WHERE k.source = s.oid)";

/// A source that has a log, and may be gone.
pub struct UnusedSource {
    pub oid: Oid,
    /// It can have triggers.
    pub is_table: bool,
}

/// Forgets the needs of views that are gone or not registered any more.
pub fn drop_orphaned_uses() -> Result<()> {
    query::execute(DROP_ORPHANED_USES, &[]).map(drop)
}

/// What is left that nobody needs any more.
pub fn unused() -> Result<Vec<UnusedSource>> {
    query::select_current(UNUSED, &[], |row| {
        Ok(UnusedSource { oid: row.required(1)?, is_table: row.required(2)? })
    })
}

const SOURCES: &str = "SELECT source FROM _cache_refresher.capture WHERE view = $1";

/// The sources whose changes are captured for a view.
pub fn sources(view: Oid) -> Result<Vec<Oid>> {
    query::select_current(SOURCES, &[view.into()], |row| row.required(1))
}

const TOLD: &str = "
SELECT c.source,
       coalesce((SELECT string_agg(concat_ws(',', t.oid, t.xmin, t.ctid, t.tgenabled), ';' ORDER BY t.oid)
                   FROM pg_trigger t
                  WHERE t.tgrelid = c.source AND t.tgname IN ('cache_refresher_capture', 'cache_refresher_truncate')), '')
  FROM _cache_refresher.capture c WHERE c.view = $1 ORDER BY c.source";

/// Who tells of changes for a view, of which the server tells nobody: sources, and for each what our triggers there
/// are, where an administrator writes to the catalog itself, too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    pub sources: Vec<Oid>,
    pub(super) triggers: Vec<String>,
}

/// Who tells of changes for a view now.
pub fn told(view: Oid) -> Result<Told> {
    let rows = query::select_current(TOLD, &[view.into()], |row| {
        Ok((row.required::<Oid>(1)?, row.required::<String>(2)?))
    })?;
    let (sources, triggers) = rows.into_iter().unzip();
    Ok(Told { sources, triggers })
}

const TOLD_BY: &str = "
SELECT CASE WHEN k.relkind = 'm' THEN to_regclass('_cache_refresher.changes_' || c.source)::oid ELSE c.source END
  FROM _cache_refresher.capture c LEFT JOIN pg_class k ON k.oid = c.source WHERE c.view = $1";

/// By which OIDs the scheduler is told of changes of those: their own, or that of the log of a view.
pub fn told_by(view: Oid) -> Result<Vec<Oid>> {
    let told = query::select_current(TOLD_BY, &[view.into()], |row| row.optional(1))?;
    Ok(told.into_iter().flatten().collect())
}

const VIEWS_READ: &str = "
SELECT c.source FROM _cache_refresher.capture c JOIN pg_class k ON k.oid = c.source AND k.relkind = 'm'
 WHERE c.view = $1";

/// The materialized views among them.
pub fn views_read_by(view: Oid) -> Result<Vec<Oid>> {
    query::select_current(VIEWS_READ, &[view.into()], |row| row.required(1))
}

const CONSUMERS: &str = "
SELECT c.view, CASE WHEN k.fingerprint IS NOT NULL THEN k.shown::text END
  FROM _cache_refresher.capture c LEFT JOIN _cache_refresher.content k ON k.view = c.view
 WHERE c.source = $1 AND c.view <> $2";

/// A view that is told of the changes of a source.
pub struct Consumer {
    pub view: Oid,
    /// It needs those changes that this does not show; nothing if it needs none.
    pub needs_after: Option<Visibility>,
}

/// Other views that are told of the changes of a source.
pub fn other_consumers(source: Oid, view: Oid) -> Result<Vec<Consumer>> {
    query::select_current(CONSUMERS, &[source.into(), view.into()], |row| {
        Ok(Consumer {
            view: row.required(1)?,
            needs_after: row.optional(2)?.map(proof::visibility).transpose()?,
        })
    })
}

const NOTICES_REFRESH: &str = "
SELECT EXISTS (SELECT FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
                WHERE p.pronamespace = '_cache_refresher'::regnamespace AND e.evtenabled = 'A')";

/// Whether somebody who replaces the content of a view by hand is noticed, whatever his settings are.
pub fn notices_refresh() -> Result<bool> {
    let rows: Vec<bool> = query::select_current(NOTICES_REFRESH, &[], |row| row.required(1))?;
    Ok(rows == [true])
}

const REFRESHED: &str = "SELECT DISTINCT d.objid FROM pg_event_trigger_ddl_commands() d";

/// The views whose content a REFRESH has just replaced.
pub fn refreshed() -> Result<Vec<Oid>> {
    query::select_current(REFRESHED, &[], |row| row.required(1))
}

const NUMBERS_OF: &str = "
SELECT c.attnum FROM pg_attribute p JOIN pg_attribute c ON c.attrelid = $3 AND c.attname = p.attname AND NOT c.attisdropped
 WHERE p.attrelid = $1 AND p.attnum = ANY ($2) ORDER BY p.attnum";

/// The numbers that columns of a table have in one of its partitions or children.
pub fn numbers_in(table: Oid, numbers: Vec<i16>, leaf: Oid) -> Result<Vec<i16>> {
    if table == leaf {
        return Ok(numbers);
    }
    query::select_current(NUMBERS_OF, &[table.into(), numbers.into(), leaf.into()], |row| {
        row.required(1)
    })
}

const INDEXES: &str = "
SELECT DISTINCT (SELECT array_agg(k.number ORDER BY k.place)
                   FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (number, place)
                  WHERE k.place <= coalesce((SELECT min(e.place) - 1
                                               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS e (number, place)
                                              WHERE e.number = 0), 32))
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'
 WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] > 0 ORDER BY 1";

/// Numbers of the columns by which rows of a view are found through each of its indexes.
pub fn indexes(view: Oid) -> Result<Vec<Vec<i16>>> {
    let read = || query::select_current(INDEXES, &[view.into()], |row| row.required(1));
    INDEXED.with(|indexed| indexed.get(view, || Ok((read()?, vec![view]))))
}

thread_local! {
    static INDEXED: Remembered<Vec<Vec<i16>>> = Remembered::default();
}

/// The columns of a log, by number and type, that are still of the type that the source has there.
fn kept(source: Oid, numbers: Vec<i16>, types: Vec<Oid>) -> Result<Vec<i16>> {
    let now = types_of(source, numbers.clone())?;
    let is_same = |&(number, of): &(i16, Oid)| {
        now.iter().any(|column| column.number == number && column.base_type == of)
    };
    Ok(numbers.into_iter().zip(types).filter(is_same).map(|(number, _)| number).collect())
}

const TYPES_OF: &str = "
SELECT a.attnum, a.atttypid
  FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum = ANY ($2) AND NOT a.attisdropped ORDER BY a.attnum";

/// A column of a source as its log keeps it: of a domain the type beneath, whose constraints nobody has
/// to run here.
pub struct KeptColumn {
    pub number: i16,
    pub base_type: Oid,
    /// As SQL writes it.
    pub type_name: String,
}

/// Columns of a table.
pub fn types_of(table: Oid, numbers: Vec<i16>) -> Result<Vec<KeptColumn>> {
    query::select_current(TYPES_OF, &[table.into(), numbers.into()], |row| {
        let (base_type, type_name) = types::base(row.required(2)?);
        Ok(KeptColumn { number: row.required(1)?, base_type, type_name })
    })
}

const LARGE: &str = "
SELECT c.oid, n.nspname::text, c.relname::text
  FROM (SELECT DISTINCT source FROM _cache_refresher.capture) k
  JOIN pg_class c ON c.oid = k.source
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE pg_relation_size(to_regclass('_cache_refresher.changes_' || c.oid)) > $1
       -- A log that was emptied keeps its size until VACUUM has been there.
   AND pg_stat_get_live_tuples(to_regclass('_cache_refresher.changes_' || c.oid)) > $1 / 1000";

/// A source with a log that has become large.
pub struct LargeSource {
    pub oid: Oid,
    pub schema: String,
    pub name: String,
}

/// Sources with a log of more bytes than that.
pub fn logs_larger_than(bytes: i64) -> Result<Vec<LargeSource>> {
    query::select_current(LARGE, &[bytes.into()], |row| {
        Ok(LargeSource { oid: row.required(1)?, schema: row.required(2)?, name: row.required(3)? })
    })
}

const RELEASE: &str = "
WITH released AS (
    UPDATE _cache_refresher.content k SET fingerprint = NULL
     WHERE k.view IN (SELECT c.view FROM _cache_refresher.capture c WHERE c.source = $1)
       AND k.fingerprint IS NOT NULL
)
SELECT c.view FROM _cache_refresher.capture c WHERE c.source = $1";

/// Takes the ground from the views that need a source's log; all who may, also those that are being refreshed
/// just now.
pub fn release(source: Oid) -> Result<Vec<Oid>> {
    query::returning(RELEASE, &[source.into()], |row| row.required(1))
}
