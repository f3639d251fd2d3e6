//! Triggers and logs on the sources of views: made, extended and removed.
//!
//! They are made as the owner of the extension: he owns the log, and nobody else may touch it. Whether
//! the view's owner may have a trigger on a table is asked before.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;

use pgrx::pg_sys::Oid;
use pgrx::spi::{quote_identifier, quote_qualified_identifier};

use super::unit;
use crate::catalog::capture::{self, KeptColumn, Leaf, LeafKind, UnusedSource};
use crate::catalog::proof;
use crate::catalog::view::View;
use crate::error::{Error, Result};
use crate::pg::changes::change_log::{self, Watch};
use crate::pg::changes::triggers;
use crate::pg::identity::{self, Restriction, Scope};
use crate::pg::lock::{self, RelationLock};
use crate::pg::process::background_worker;
use crate::pg::query::inspection;
use crate::pg::relation::{self, Relation};
use crate::pg::{dependency, statement, transaction};

/// What a view wants to be told of its sources.
pub struct Wanted {
    pub(super) whole_rows: bool,
    needs: HashMap<Oid, BTreeSet<i16>>,
}

impl Wanted {
    /// By the view's query.
    pub fn by(view: &Relation) -> Result<Self> {
        let needs = unit::of(view)?.map(|unit| unit.needs()).unwrap_or_default();
        Ok(Self { whole_rows: inspection::inspect(view).whole_rows, needs })
    }

    /// Of one source.
    pub fn of(&self, leaf: &Leaf) -> Result<Watch> {
        let mut kept = BTreeSet::new();
        for table in &leaf.family {
            if let Some(numbers) = self.needs.get(table) {
                let numbers = numbers.iter().copied().collect();
                kept.extend(capture::numbers_in(*table, numbers, leaf.oid)?);
            }
        }
        Ok(Watch {
            columns: (!self.whole_rows).then(|| leaf.columns.clone()),
            kept: kept.into_iter().collect(),
        })
    }
}

/// What is seen of a source.
pub fn present(leaf: &Leaf) -> Option<Watch> {
    leaf.trigger.as_deref().map(|columns| Watch::parse(columns, leaf.kept.clone()))
}

/// Sees to it that changes of a view's sources are captured, as far as they can be. Returns the names
/// of the sources where they cannot.
pub fn ensure(view: &View) -> Result<Vec<String>> {
    let wanted = Wanted::by(&Relation::open_shared(view.oid))?;
    let mut uncaptured = Vec::new();
    let mut captured = Vec::new();
    let mut missing = Vec::new();
    let mut begun = false;
    for leaf in capture::leaves(view.oid)? {
        let name = quote_qualified_identifier(&leaf.schema, &leaf.name);
        if !leaf.kind.is_captured() {
            uncaptured.push(name);
            continue;
        }
        if !leaf.allowed {
            return Err(Error::MayNotCapture { name });
        }
        let wanted = wanted.of(&leaf)?;
        captured.push(leaf.oid);
        match present(&leaf) {
            Some(present) if present.covers(&wanted) => {}
            Some(present) => missing.push((leaf, present.with(&wanted))),
            None => missing.push((leaf, wanted)),
        }
    }
    create(&missing)?;
    for source in &captured {
        begun |= capture::add_use(view.oid, *source)?;
    }
    capture::drop_uses(view.oid, captured)?;
    if begun {
        super::begin(view.oid)?;
    }
    Ok(uncaptured)
}

/// As the owner of the extension, with nobody's search_path, and no longer patient than others.
fn scope() -> Scope {
    Scope::internal_with(Restriction::LocalUserIdChange)
}

/// Makes what is missing. First come all locks against writers, under which nothing can be missed: a refresh
/// that holds one source must not wait for the log of another.
fn create(missing: &[(Leaf, Watch)]) -> Result<()> {
    let _scope = scope();
    for (place, (leaf, _)) in missing.iter().enumerate() {
        if place == 1 && background_worker::is_one() {
            // Who writes to this one may want to write to the first one, too: we give way before the server looks
            // for one of us to end, which it does after a second.
            identity::set_locally(c"lock_timeout", c"400");
        }
        lock::relation(leaf.oid, RelationLock::ShareRowExclusive);
        if !relation::exists(leaf.oid) {
            return Err(Error::NoSuchRelation { oid: leaf.oid.to_u32() });
        }
    }
    missing.iter().try_for_each(|(leaf, watch)| create_one(leaf, watch))
}

fn create_one(leaf: &Leaf, watch: &Watch) -> Result<()> {
    let log = format!("_cache_refresher.{}", quote_identifier(change_log::name_of(leaf.oid)));
    if change_log::find(leaf.oid).is_none() {
        statement::define(&format!(
            "CREATE TABLE {log} (xid xid8 NOT NULL, at timestamptz NOT NULL, kind \"char\" NOT NULL)
                 USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
             CREATE INDEX ON {log} (xid);
             CREATE TRIGGER ignore_replicated BEFORE INSERT OR UPDATE OR DELETE ON {log}
                    FOR EACH ROW EXECUTE FUNCTION _cache_refresher.ignore_replicated();
             ALTER TABLE {log} ENABLE REPLICA TRIGGER ignore_replicated;
             COMMENT ON TABLE {log} IS 'changes of a captured table that some view does not show yet';
             ALTER EXTENSION cache_refresher ADD TABLE {log}"
        ));
    }
    for column in capture::types_of(leaf.oid, watch.kept.clone())? {
        let KeptColumn { number, base_type, type_name } = column;
        // A column that is there with another type is of an earlier definition of the table. Statistics of
        // a type can be gathered by a function of whoever made the type, and would run as the log's owner.
        if !leaf.kept.contains(&number) {
            statement::define(&format!(
                "ALTER TABLE {log} DROP COLUMN IF EXISTS c{number};
                 ALTER TABLE {log} ADD COLUMN c{number} {type_name},
                                   ALTER COLUMN c{number} SET STATISTICS 0"
            ));
            if let Some(log) = change_log::find(leaf.oid) {
                let column = CString::new(format!("c{number}")).unwrap_or_default();
                dependency::column_goes_with_type(log, &column, base_type);
            }
        }
    }
    if leaf.kind == LeafKind::Materialized {
        // What refreshes it writes to the log as soon as that is there.
        return Ok(());
    }
    triggers::create(leaf.oid, watch);
    Ok(())
}

/// Ends the capture for a view, and removes what nobody needs any more of its role's sources.
pub fn end(view: Oid) -> Result<()> {
    capture::drop_uses(view, Vec::new())?;
    proof::distrust(view)?;
    tidy_own()
}

/// Removes what nobody needs any more at sources of the current role. What is left at others' is removed by the
/// scheduler: it locks out their readers, which is not for this role's transaction to do.
pub fn tidy_own() -> Result<()> {
    for unused in capture::unused()?.iter().filter(|unused| identity::owns_if_there(unused.oid)) {
        // What somebody holds just now is left to the scheduler.
        let _ = transaction::attempt(|| remove(unused));
    }
    Ok(())
}

/// Locks everybody out of all captured tables, to the end of the transaction.
pub fn lock_captured() -> Result<()> {
    for table in capture::tables()? {
        lock::relation(table, RelationLock::AccessExclusive);
    }
    Ok(())
}

/// What nobody needs any more.
pub fn leftovers() -> Result<Vec<UnusedSource>> {
    capture::drop_orphaned_uses()?;
    capture::unused()
}

/// Removes what is left at one source, if nobody holds a lock against it just now.
pub fn remove(source: &UnusedSource) -> Result<()> {
    let _scope = scope();
    // Others would have to wait behind us, readers too.
    identity::set_locally(c"lock_timeout", c"10");
    if source.is_table {
        lock::relation(source.oid, RelationLock::AccessExclusive);
    }
    // Under the lock nobody begins to need it.
    let Some(unused) = capture::unused()?.into_iter().find(|unused| unused.oid == source.oid)
    else {
        return Ok(());
    };
    let log = format!("_cache_refresher.{}", quote_identifier(change_log::name_of(unused.oid)));
    if unused.is_table {
        triggers::remove(unused.oid);
    }
    if change_log::find(unused.oid).is_some() {
        statement::define(&format!(
            "ALTER EXTENSION cache_refresher DROP TABLE {log}; DROP TABLE {log}"
        ));
    }
    Ok(())
}

/// Whether something of the capture that a view needs is missing and could be made.
pub fn is_incomplete(view: Oid) -> Result<bool> {
    let wanted = Wanted::by(&Relation::open_shared(view))?;
    let sources = capture::sources(view)?;
    for leaf in capture::leaves(view)? {
        if !leaf.kind.is_captured() || !leaf.allowed {
            continue;
        }
        let wanted = wanted.of(&leaf)?;
        let covered = present(&leaf).is_some_and(|present| present.covers(&wanted));
        if !covered || !sources.contains(&leaf.oid) {
            return Ok(true);
        }
    }
    Ok(false)
}
