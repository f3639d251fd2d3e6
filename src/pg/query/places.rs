//! Where tables stand in the query of a view. Each place has a name that every copy of the query keeps, so that
//! whoever takes the query apart can be asked afterwards whether all of them are still there.
//!
//! A name says by which way a table is read: by which reference to a plain view or a WITH clause, and in it by
//! which of the next. It lies where the alias of the entry was.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};

use pgrx::PgList;
use pgrx::pg_sys::{self, NodeTag};

use super::dissolve::is_preserved;
use super::{tree_walk, view_query};
use crate::pg::relation::Relation;

/// Calls `body` with each entry that stands for a table, a plain view or a reference to a WITH clause.
///
/// # Safety
/// A query of our own.
unsafe fn each_entry(query: *mut pg_sys::Query, mut body: impl FnMut(&mut pg_sys::RangeTblEntry)) {
    // SAFETY: the cast follows the node's tag.
    unsafe {
        tree_walk::each_node(query, pg_sys::QTW_EXAMINE_RTES_BEFORE, |node, _| {
            if (*node).type_ != NodeTag::T_RangeTblEntry {
                return true;
            }
            let entry = &mut *node.cast::<pg_sys::RangeTblEntry>();
            let kinds = [pg_sys::RTEKind::RTE_RELATION, pg_sys::RTEKind::RTE_CTE];
            if kinds.contains(&entry.rtekind) {
                body(entry);
            }
            // The walk goes on with what is in it.
            false
        });
    }
}

/// # Safety
/// An entry of our own, which has an alias.
unsafe fn rename(entry: &mut pg_sys::RangeTblEntry, name: &str) {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: the server copies the text.
    unsafe { (*entry.eref).aliasname = pg_sys::pstrdup(name.as_ptr()) };
}

/// Names the places of all tables, plain views and references to WITH clauses in a query, by their order.
///
/// # Safety
/// A query of our own, as it is stored.
pub(super) unsafe fn name(query: *mut pg_sys::Query, prefix: &str) {
    let mut number = 0;
    // SAFETY: entries of our own.
    unsafe {
        each_entry(query, |entry| {
            number += 1;
            rename(entry, &format!("{prefix}{number}"));
        });
    }
}

/// Names the places in what takes the place of a reference after that.
///
/// # Safety
/// Queries of our own with names.
pub(super) unsafe fn name_within(query: *mut pg_sys::Query, reference: &pg_sys::RangeTblEntry) {
    // SAFETY: entries of our own.
    unsafe {
        let reference = of(reference);
        each_entry(query, |entry| rename(entry, &format!("{reference}/{}", of(entry))));
    }
}

/// The name of a place.
///
/// # Safety
/// An entry that was given one.
pub(super) unsafe fn of(entry: &pg_sys::RangeTblEntry) -> String {
    // SAFETY: each entry has an alias.
    unsafe { CStr::from_ptr((*entry.eref).aliasname).to_string_lossy().into_owned() }
}

/// The places of all tables that the query of a view reads, through plain views and WITH clauses.
pub(super) fn all(view: &Relation) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // SAFETY: an open materialized view, whose query is a copy of our own.
    unsafe {
        let query = view_query::stored(view);
        name(query, "");
        add_places(query, "", &mut Vec::new(), &mut found);
    }
    found
}

/// The WITH clauses of a query, by name.
type Clauses = BTreeMap<CString, *mut pg_sys::Query>;

/// # Safety
/// A query of our own with names; `scope` holds the WITH clauses around it.
unsafe fn add_places(
    query: *mut pg_sys::Query,
    prefix: &str,
    scope: &mut Vec<Clauses>,
    found: &mut BTreeSet<String>,
) {
    // SAFETY: which fields of an entry are set follows from its kind; the lists hold what they are named for.
    unsafe {
        let clauses = PgList::<pg_sys::CommonTableExpr>::from_pg((*query).cteList);
        let named = clauses.iter_ptr().map(|clause| {
            (CStr::from_ptr((*clause).ctename).to_owned(), (*clause).ctequery.cast())
        });
        scope.push(named.collect());
        let entries = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable);
        for (index, entry) in (1..).zip(entries.iter_ptr()) {
            let entry = &*entry;
            // Parts of a UNION do not stand in FROM, nor does the view itself, which its query names up to version 15.
            let is_joined = is_preserved((*query).jointree.cast(), index).is_some();
            if !is_joined && entry.rtekind != pg_sys::RTEKind::RTE_SUBQUERY {
                continue;
            }
            match entry.rtekind {
                pg_sys::RTEKind::RTE_SUBQUERY => add_places(entry.subquery, prefix, scope, found),
                pg_sys::RTEKind::RTE_RELATION if entry.relkind as u8 == pg_sys::RELKIND_VIEW => {
                    let view = Relation::open_shared(entry.relid);
                    let body = pg_sys::copyObjectImpl(pg_sys::get_view_query(view.as_ptr()).cast());
                    name(body.cast(), &format!("{}/", of(entry)));
                    add_places(body.cast(), prefix, &mut Vec::new(), found);
                }
                pg_sys::RTEKind::RTE_RELATION => {
                    found.insert(format!("{prefix}{}", of(entry)));
                }
                pg_sys::RTEKind::RTE_CTE if !entry.self_reference => {
                    let level = scope.len().checked_sub(1 + entry.ctelevelsup as usize);
                    let clause = CStr::from_ptr(entry.ctename);
                    let body = level.and_then(|level| scope[level].get(clause)).copied();
                    if let (Some(level), Some(body)) = (level, body) {
                        let inner = scope.split_off(level + 1);
                        add_places(body, &format!("{prefix}{}/", of(entry)), scope, found);
                        scope.extend(inner);
                    }
                }
                _ => {}
            }
        }
        let mut subqueries: Vec<*mut pg_sys::Query> = Vec::new();
        tree_walk::each_sublink(query, |sublink| subqueries.push(sublink.subselect.cast()));
        for subquery in subqueries {
            add_places(subquery, prefix, scope, found);
        }
        scope.pop();
    }
}
