//! The queries by which changes are mapped: the view's own, made flat, and
//!
//! - each of those that UNION and its kin combine for itself, and each that a UNION ALL in FROM combines,
//! - a subquery in an expression, or one in FROM that cannot be dissolved, in a query of its own, where it is
//!   joined to the query around it by what it refers to of that. Changes of its tables are mapped there, those
//!   of all others where it is left out.

use pgrx::PgList;
use pgrx::pg_sys::{self, NodeTag, Oid};

use super::description::{conjuncts, entry};
use super::dissolve::{add_entries, dissolve, is_known, is_preserved, list_of, offset};
use super::flat_query::{Scope, entries_of, flat, with_clauses};
use super::{places, tree_walk, view_query};
use crate::pg::relation::Relation;

/// A query whose FROM and WHERE are those of a mapping.
#[derive(Clone, Copy)]
pub(super) struct Flat {
    pub query: *mut pg_sys::Query,
    /// Changes of tables from this place of the range table on are mapped by it.
    pub first: usize,
    /// Some subquery stands for more rows than it returns.
    pub approximate: bool,
    /// It maps changes within a subquery that decides which rows an outer join finds.
    pub decides_matches: bool,
}

/// How many queries there are at most to map the changes of a view's sources: each is a copy of the whole tree.
const MOST_ARMS: usize = 64;

/// The queries by which the changes of a view's sources are mapped; nothing if they are too many.
///
/// # Safety
/// An open materialized view. The queries are copies, in the present memory context.
pub(super) unsafe fn of(view: &Relation) -> Option<Vec<Flat>> {
    // SAFETY: trees that the parser made; each cast follows a node's tag.
    unsafe {
        let query = view_query::stored(view);
        places::name(query, "");
        let mut scope = Scope::default();
        let mut arms = Vec::new();
        let mut add = |query, approximate| {
            for arm in variants(Flat { query, first: 1, approximate, decides_matches: false }) {
                arms.push(arm);
                add_subqueries(arm, arm.query, &mut arms);
            }
        };
        // What is left out of the whole cannot be told arm by arm.
        let limited = !(*query).limitCount.is_null() || !(*query).limitOffset.is_null();
        if (*query).setOperations.is_null() || limited {
            let query = flat(query, &mut scope);
            add(query, scope.approximate);
        } else {
            with_clauses(query, &mut scope);
            for part in combined(query) {
                let part = flat(part, &mut scope);
                add(part, scope.approximate);
            }
        }
        (arms.len() <= MOST_ARMS && !scope.is_exceeded()).then_some(arms)
    }
}

/// The queries that a query combines by UNION and its kin.
///
/// # Safety
/// A query that combines others.
unsafe fn combined(query: *mut pg_sys::Query) -> Vec<*mut pg_sys::Query> {
    let mut leaves = Vec::new();
    // SAFETY: each leaf is an entry that stands for a query.
    unsafe {
        leaves_of((*query).setOperations, &mut leaves);
        leaves.into_iter().map(|index| (*entry(query, index)).subquery).collect()
    }
}

/// # Safety
/// What combines the parts of a query, or one of them.
unsafe fn leaves_of(node: *mut pg_sys::Node, leaves: &mut Vec<i32>) {
    // SAFETY: a tree of operations over references.
    unsafe {
        if (*node).type_ == NodeTag::T_SetOperationStmt {
            let operation = &*node.cast::<pg_sys::SetOperationStmt>();
            leaves_of(operation.larg, leaves);
            leaves_of(operation.rarg, leaves);
        } else {
            leaves.push((*node.cast::<pg_sys::RangeTblRef>()).rtindex);
        }
    }
}

/// Adds a query for each subquery that the mapping of `around` leaves out and that stands in `place`: in FROM, or in
/// an expression. `place` has the numbers of `around`.
///
/// # Safety
/// Queries of our own.
unsafe fn add_subqueries(around: Flat, place: *mut pg_sys::Query, arms: &mut Vec<Flat>) {
    pgrx::check_for_interrupts!();
    if arms.len() > MOST_ARMS {
        return;
    }
    // SAFETY: each subquery is one level below the query; what is combined in it, two.
    unsafe {
        let mut found: Vec<(*mut pg_sys::Query, *mut pg_sys::Node, bool)> = Vec::new();
        let tree = (*place).jointree;
        let entries = entries_of(around.query);
        for index in around.first..=entries {
            let index = index as i32;
            let entry = entry(around.query, index);
            if (*entry).rtekind == pg_sys::RTEKind::RTE_SUBQUERY {
                let below = is_preserved((*around.query).jointree.cast(), index) != Some(true);
                found.push(((*entry).subquery, std::ptr::null_mut(), below));
            }
        }
        // Anywhere else they stand in FROM: in the condition of a join, or in what a function is given.
        let mut above = Vec::new();
        for node in [(*place).targetList.cast(), (*tree).quals, (*place).havingQual] {
            tree_walk::each_sublink_in(node, |sublink| above.push(&raw mut *sublink));
        }
        let parts = conjuncts((*tree).quals);
        tree_walk::each_sublink(place, |sublink| {
            let this = &raw mut *sublink;
            let must_hold = sublink.subLinkType == pg_sys::SubLinkType::ANY_SUBLINK
                && parts.contains(&this.cast());
            let test = if must_hold { sublink.testexpr } else { std::ptr::null_mut() };
            found.push((sublink.subselect.cast(), test, !above.contains(&this)));
        });
        for (subquery, test, below) in found {
            let around = Flat { decides_matches: around.decides_matches || below, ..around };
            if (*subquery).setOperations.is_null() {
                add_subquery(around, subquery, 1, test, arms);
            } else {
                let limits = [(*subquery).limitCount, (*subquery).limitOffset];
                if limits
                    .into_iter()
                    .any(|limit| !limit.is_null() && pg_sys::checkExprHasSubLink(limit))
                {
                    // None of the parts: whoever describes it will refuse it.
                    arms.push(Flat { query: subquery, ..around });
                }
                for part in combined(subquery) {
                    add_subquery(around, part, 2, std::ptr::null_mut(), arms);
                }
            }
        }
    }
}

/// Adds the query in which a subquery is joined to the query around it, `levels` above; `test` is what an IN
/// compares.
///
/// # Safety
/// Queries of our own.
unsafe fn add_subquery(
    around: Flat,
    subquery: *mut pg_sys::Query,
    levels: i32,
    test: *mut pg_sys::Node,
    arms: &mut Vec<Flat>,
) {
    if arms.len() > MOST_ARMS {
        return;
    }
    // SAFETY: both are copied; entries of the subquery get places behind those of the query.
    unsafe {
        let query = pg_sys::copyObjectImpl(around.query.cast()).cast::<pg_sys::Query>();
        let subquery = pg_sys::copyObjectImpl(subquery.cast()).cast::<pg_sys::Query>();
        let first = entries_of(query) + 1;
        offset(query, subquery, levels);
        let mut parts = conjuncts((*(*query).jointree).quals);
        parts.extend(conjuncts((*(*subquery).jointree).quals));
        if !test.is_null() {
            let test = pg_sys::copyObjectImpl(test.cast()).cast::<pg_sys::Node>();
            parts.extend(conjuncts(test).into_iter().filter(|part| compare(*part, subquery)));
        }
        add_entries(query, subquery);
        let tree = (*query).jointree;
        (*tree).fromlist = pg_sys::list_concat((*tree).fromlist, (*(*subquery).jointree).fromlist);
        (*tree).quals = pg_sys::make_ands_explicit(list_of(parts)).cast();
        // Where the subquery has a WITH clause that is left, it is seen here.
        (*query).cteList = pg_sys::list_concat((*query).cteList, (*subquery).cteList);
        for arm in variants(Flat { query, first, ..around }) {
            arms.push(arm);
            add_subqueries(arm, subquery, arms);
        }
    }
}

/// Makes a comparison of IN one with what the subquery returns; false if that is not known.
///
/// # Safety
/// A comparison of our own, and the subquery that it compares with.
unsafe fn compare(part: *mut pg_sys::Node, subquery: *mut pg_sys::Query) -> bool {
    // SAFETY: casts follow tags; an operator has a list of arguments.
    unsafe {
        if (*part).type_ != NodeTag::T_OpExpr {
            return false;
        }
        put_results((*part.cast::<pg_sys::OpExpr>()).args, subquery);
        !tree_walk::has_parameter(part)
    }
}

/// Puts what a subquery returns, as far as it is known, in the place of the parameters that stand for it, also
/// below casts.
///
/// # Safety
/// Arguments of our own.
unsafe fn put_results(arguments: *mut pg_sys::List, subquery: *mut pg_sys::Query) {
    // SAFETY: casts follow tags; a relabelled expression is a list of one argument.
    unsafe {
        for place in 0..PgList::<pg_sys::Node>::from_pg(arguments).len() {
            let mut cell = (&raw mut (*(*arguments).elements.add(place)).ptr_value)
                .cast::<*mut pg_sys::Node>();
            if (**cell).type_ == NodeTag::T_RelabelType {
                cell = (&raw mut (*(*cell).cast::<pg_sys::RelabelType>()).arg).cast();
            }
            if (**cell).type_ == NodeTag::T_FuncExpr {
                put_results((*(*cell).cast::<pg_sys::FuncExpr>()).args, subquery);
            }
            if (**cell).type_ == NodeTag::T_Param {
                let number = (*(*cell).cast::<pg_sys::Param>()).paramid;
                let targets = PgList::<pg_sys::TargetEntry>::from_pg((*subquery).targetList);
                let target =
                    targets.iter_ptr().find(|target| i32::from((**target).resno) == number);
                if let Some(known) = target.filter(|target| is_known(subquery, *target)) {
                    *cell = pg_sys::copyObjectImpl((*known).expr.cast()).cast();
                }
            }
        }
    }
}

/// How many queries there are at most with each UNION ALL in FROM replaced by one of its parts.
const MOST_VARIANTS: usize = 16;

/// The queries that have one part each in the place of a UNION ALL in FROM: each row of the query is one of
/// theirs.
///
/// # Safety
/// A flat query of our own.
unsafe fn variants(flat: Flat) -> Vec<Flat> {
    let (mut open, mut done) = (vec![flat], Vec::new());
    while let Some(flat) = open.pop() {
        // SAFETY: each part is copied, and one level nearer to the query than it was.
        unsafe {
            match union_in(flat) {
                Some((place, parts)) if open.len() + done.len() + parts.len() <= MOST_VARIANTS => {
                    for part in parts {
                        let query = pg_sys::copyObjectImpl(flat.query.cast()).cast();
                        let part = pg_sys::copyObjectImpl(part.cast()).cast::<pg_sys::Query>();
                        pg_sys::IncrementVarSublevelsUp(part.cast(), -1, 1);
                        let mut approximate = flat.approximate;
                        let query = dissolve(query, place, part, &mut approximate);
                        open.push(Flat { query, approximate, ..flat });
                    }
                }
                _ => done.push(flat),
            }
        }
    }
    done
}

/// A place and its parts.
type Union = ((i32, bool), Vec<*mut pg_sys::Query>);

/// The first entry in FROM that is a UNION ALL whose parts have its very columns.
///
/// # Safety
/// A flat query of our own.
unsafe fn union_in(flat: Flat) -> Option<Union> {
    let query = flat.query;
    // SAFETY: which fields of an entry are set follows from its kind; the lists of columns are as long as each
    // other.
    unsafe {
        let entries = entries_of(query) as i32;
        (1..=entries).find_map(|index| {
            let preserved = is_preserved((*query).jointree.cast(), index)?;
            let entry = entry(query, index);
            let union = (*entry).subquery;
            if (*entry).rtekind != pg_sys::RTEKind::RTE_SUBQUERY
                || (*union).setOperations.is_null()
                || !(*union).limitCount.is_null()
                || !(*union).limitOffset.is_null()
                || !keeps_all((*union).setOperations)
            {
                return None;
            }
            let parts = combined(union);
            // Within a subquery that has a query of its own, nobody would look for subqueries of the parts.
            let same = |part: &*mut pg_sys::Query| {
                columns_of(*part) == columns_of(union)
                    && (flat.first == 1 || !pg_sys::checkExprHasSubLink((*part).cast()))
            };
            parts.iter().all(same).then_some(((index, preserved), parts))
        })
    }
}

/// The types and collations of the columns of a query.
///
/// # Safety
/// A query.
unsafe fn columns_of(query: *mut pg_sys::Query) -> Vec<(Oid, Oid)> {
    // SAFETY: the list holds columns.
    unsafe {
        PgList::<pg_sys::TargetEntry>::from_pg((*query).targetList)
            .iter_ptr()
            .filter(|target| !(**target).resjunk)
            .map(|target| {
                let shown = (*target).expr.cast();
                (pg_sys::exprType(shown), pg_sys::exprCollation(shown))
            })
            .collect()
    }
}

/// Whether what combines queries is UNION ALL throughout.
///
/// # Safety
/// What combines the parts of a query, or one of them.
unsafe fn keeps_all(node: *mut pg_sys::Node) -> bool {
    // SAFETY: a tree of operations over references.
    unsafe {
        if (*node).type_ != NodeTag::T_SetOperationStmt {
            return true;
        }
        let operation = &*node.cast::<pg_sys::SetOperationStmt>();
        operation.op == pg_sys::SetOperation::SETOP_UNION
            && operation.all
            && keeps_all(operation.larg)
            && keeps_all(operation.rarg)
    }
}
