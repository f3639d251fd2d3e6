//! The query of a view made flat: plain views, WITH clauses and subqueries in FROM are dissolved into joins. It
//! need not return what the query returns, but lead from what changes to the units concerned (see
//! `cache_refresher_core::delta`). A subquery that groups stands there as the rows that it groups, with what it
//! computes unknown.

use std::collections::BTreeMap;
use std::ffi::CStr;

use pgrx::PgList;
use pgrx::pg_sys;

use super::description::entry;
use super::dissolve::{dissolve, is_preserved};
use super::{places, tree_walk};
use crate::pg::relation::Relation;

/// What is known while a query is made flat.
#[derive(Default)]
pub(super) struct Scope {
    /// The WITH clauses in scope, innermost last: by name those that can take the place of a reference.
    clauses: Vec<BTreeMap<Vec<u8>, *mut pg_sys::Query>>,
    /// How many entries of range tables have taken the place of references to those, and to plain views.
    copies: usize,
    /// Some subquery stands for more rows than it returns.
    pub approximate: bool,
}

/// So many at most: what refers to what is before it twice doubles at each step.
const MOST_COPIES: usize = 1000;

impl Scope {
    /// Whether there were more of them: then not all have taken their places.
    pub const fn is_exceeded(&self) -> bool {
        self.copies > MOST_COPIES
    }
}

/// Adds the WITH clauses of a query to those in scope.
///
/// # Safety
/// A query of our own.
pub(super) unsafe fn with_clauses(query: *mut pg_sys::Query, scope: &mut Scope) {
    scope.clauses.push(BTreeMap::new());
    // SAFETY: the list holds WITH clauses, whose names are C strings.
    unsafe {
        for clause in PgList::<pg_sys::CommonTableExpr>::from_pg((*query).cteList).iter_ptr() {
            let body = (*clause).ctequery.cast::<pg_sys::Query>();
            // One that refers to what is around it means something else elsewhere.
            let mut levels = 1..=scope.clauses.len() as i32;
            let refers = |level| pg_sys::contain_vars_of_level(body.cast(), level);
            if (*clause).cterecursive
                || (*body).commandType != pg_sys::CmdType::CMD_SELECT
                || levels.any(refers)
            {
                continue;
            }
            // A clause refers to those before it.
            let body = flat(body, scope);
            let name = CStr::from_ptr((*clause).ctename).to_bytes().to_vec();
            if let Some(own) = scope.clauses.last_mut() {
                own.insert(name, body);
            }
        }
    }
}

/// A query made flat.
///
/// # Safety
/// A query of our own.
pub(super) unsafe fn flat(query: *mut pg_sys::Query, scope: &mut Scope) -> *mut pg_sys::Query {
    // SAFETY: the range table has an entry at each place; what is replaced is of our own.
    unsafe {
        let mut query = query;
        with_clauses(query, scope);
        if !(*query).setOperations.is_null() {
            for index in 1..=entries_of(query) {
                let entry = entry(query, index as i32);
                if (*entry).rtekind == pg_sys::RTEKind::RTE_SUBQUERY {
                    (*entry).subquery = flat((*entry).subquery, scope);
                }
            }
            scope.clauses.pop();
            (*query).cteList = std::ptr::null_mut();
            return query;
        }
        without_groups(query);
        without_aliases_of_joins(query);
        tree_walk::each_sublink(query, |sublink| {
            sublink.subselect = flat(sublink.subselect.cast(), scope).cast();
        });
        let entries = entries_of(query) as i32;
        let mut all = true;
        for index in 1..=entries {
            // What does not stand in FROM is the view itself, in the query of a view.
            let place = is_preserved((*query).jointree.cast(), index);
            let Some(preserved) = place else { continue };
            let Some(part) = query_of(query, index, scope) else {
                all &= (*entry(query, index)).rtekind != pg_sys::RTEKind::RTE_CTE;
                continue;
            };
            query = dissolve(query, (index, preserved), part, &mut scope.approximate);
        }
        scope.clauses.pop();
        if all {
            (*query).cteList = std::ptr::null_mut();
        }
        query
    }
}

/// Replaces the columns of GROUP BY by what they stand for.
///
/// # Safety
/// A query of our own.
unsafe fn without_groups(query: *mut pg_sys::Query) {
    #[cfg(feature = "pg18")]
    // SAFETY: the entry for the groups is not referred to any more once the expressions are flat.
    unsafe {
        if (*query).hasGroupRTE {
            let flatten = |query, node: *mut pg_sys::Node| match node.is_null() {
                true => node,
                false => pg_sys::flatten_group_exprs(std::ptr::null_mut(), query, node),
            };
            (*query).targetList = flatten(query, (*query).targetList.cast()).cast();
            (*query).havingQual = flatten(query, (*query).havingQual);
            (*query).hasGroupRTE = false;
            for entry in PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr() {
                if (*entry).rtekind == pg_sys::RTEKind::RTE_GROUP {
                    (*entry).rtekind = pg_sys::RTEKind::RTE_RESULT;
                    (*entry).groupexprs = std::ptr::null_mut();
                }
            }
        }
    }
    let _ = query;
}

/// Replaces columns of joins by what they stand for, and forgets them: the server wants each to be a column
/// of an entry before that of the join, which parts that are pulled up are not.
///
/// # Safety
/// A query of our own.
unsafe fn without_aliases_of_joins(query: *mut pg_sys::Query) {
    // SAFETY: lists of expressions are nodes; what comes back is of the same kind.
    unsafe {
        (*query).targetList = without_aliases(query, (*query).targetList.cast()).cast();
        (*query).jointree = without_aliases(query, (*query).jointree.cast()).cast();
        (*query).havingQual = without_aliases(query, (*query).havingQual);
        for entry in PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr() {
            if (*entry).lateral {
                let subquery = without_aliases(query, (*entry).subquery.cast()).cast();
                (*entry).subquery = subquery;
            }
        }
        for entry in PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr() {
            if (*entry).rtekind == pg_sys::RTEKind::RTE_JOIN {
                (*entry).joinaliasvars = std::ptr::null_mut();
            }
        }
    }
}

/// An expression with columns of joins replaced by what they stand for.
///
/// # Safety
/// An expression of the query, or null.
unsafe fn without_aliases(query: *mut pg_sys::Query, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    if node.is_null() {
        return node;
    }
    // SAFETY: the expression belongs to the query.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::flatten_join_alias_vars(query, node);
        #[cfg(not(feature = "pg15"))]
        pg_sys::flatten_join_alias_vars(std::ptr::null_mut(), query, node)
    }
}

/// How many entries the range table of a query has.
///
/// # Safety
/// A query.
pub(super) unsafe fn entries_of(query: *mut pg_sys::Query) -> usize {
    // SAFETY: the list holds entries.
    unsafe { PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).len() }
}

/// The flat query that an entry of a range table stands for, in a copy of its own.
///
/// # Safety
/// A query of our own, and an entry of its range table.
unsafe fn query_of(
    query: *mut pg_sys::Query,
    index: i32,
    scope: &mut Scope,
) -> Option<*mut pg_sys::Query> {
    // SAFETY: which fields of an entry are set follows from its kind.
    unsafe {
        let entry = &*entry(query, index);
        match entry.rtekind {
            pg_sys::RTEKind::RTE_SUBQUERY => Some(flat(entry.subquery, scope)),
            pg_sys::RTEKind::RTE_CTE if !entry.self_reference => {
                let level = scope.clauses.len().checked_sub(1 + entry.ctelevelsup as usize)?;
                let name = CStr::from_ptr(entry.ctename).to_bytes();
                let body = scope.clauses[level].get(name)?;
                scope.copies += entries_of(*body);
                if scope.is_exceeded() {
                    return None;
                }
                let body = pg_sys::copyObjectImpl(body.cast()).cast();
                places::name_within(body, entry);
                Some(body)
            }
            pg_sys::RTEKind::RTE_RELATION if entry.relkind as u8 == pg_sys::RELKIND_VIEW => {
                let view = Relation::open_shared(entry.relid);
                if view.is_special_view() {
                    return None;
                }
                let body = pg_sys::get_view_query(view.as_ptr());
                scope.copies += entries_of(body);
                if scope.is_exceeded() {
                    return None;
                }
                let body = pg_sys::copyObjectImpl(body.cast()).cast();
                places::name(body, &format!("{}/", places::of(entry)));
                let mut inner = Scope { copies: scope.copies, ..Scope::default() };
                let body = flat(body, &mut inner);
                scope.copies = inner.copies;
                scope.approximate |= inner.approximate;
                Some(body)
            }
            #[cfg(feature = "pg18")]
            pg_sys::RTEKind::RTE_RELATION => super::virtual_columns::computed(query, index),
            _ => None,
        }
    }
}
