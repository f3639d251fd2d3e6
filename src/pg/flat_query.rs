//! The queries by which changes are mapped: the view's own, with plain views, WITH clauses and subqueries in
//! FROM dissolved into joins. They need not return what the query returns, but lead from what changes to the
//! units concerned (see `cache_refresher_core::delta`); what they do to that end besides:
//!
//! - each of those that UNION and its kin combine for itself, and each that a UNION ALL in FROM combines,
//! - a subquery that groups as the rows that it groups, with what it computes unknown,
//! - a subquery in an expression, or one in FROM that is none of those, in a query of its own, where it is
//!   joined to the query around it by what it refers to of that. Changes of its tables are mapped there, those
//!   of all others where it is left out.

use std::collections::BTreeMap;
use std::ffi::CStr;

use pgrx::PgList;
use pgrx::pg_sys::{self, NodeTag, Oid};

use super::query_description::{conjuncts, entry};
use super::relation::Relation;
use super::{node_tree, types, view_query};

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

/// The queries by which the changes of a view's sources are mapped.
///
/// # Safety
/// An open materialized view. The queries are copies, in the present memory context.
pub(super) unsafe fn arms(view: &Relation) -> Vec<Flat> {
    // SAFETY: trees that the parser made; each cast follows a node's tag.
    unsafe {
        let query = view_query::stored(view);
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
        arms
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
    // SAFETY: each subquery is one level below the query; what is combined in it, two.
    unsafe {
        let mut found: Vec<(*mut pg_sys::Query, *mut pg_sys::Node, bool)> = Vec::new();
        let tree = (*place).jointree;
        let entries = PgList::<pg_sys::RangeTblEntry>::from_pg((*around.query).rtable).len();
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
            node_tree::each_sublink_in(node, |sublink| above.push(&raw mut *sublink));
        }
        let parts = conjuncts((*tree).quals);
        node_tree::each_sublink(place, |sublink| {
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
                let limits = [(*subquery).limitCount, (*subquery).limitOffset].into_iter();
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
    // SAFETY: both are copied; entries of the subquery get places behind those of the query.
    unsafe {
        let query = pg_sys::copyObjectImpl(around.query.cast()).cast::<pg_sys::Query>();
        let subquery = pg_sys::copyObjectImpl(subquery.cast()).cast::<pg_sys::Query>();
        let first = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).len() + 1;
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
        !node_tree::has_parameter(part)
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

/// What is known while a query is made flat.
#[derive(Default)]
struct Scope {
    /// The WITH clauses in scope, innermost last: by name those that can take the place of a reference.
    clauses: Vec<BTreeMap<Vec<u8>, *mut pg_sys::Query>>,
    approximate: bool,
}

/// Adds the WITH clauses of a query to those in scope.
///
/// # Safety
/// A query of our own.
unsafe fn with_clauses(query: *mut pg_sys::Query, scope: &mut Scope) {
    scope.clauses.push(BTreeMap::new());
    // SAFETY: the list holds WITH clauses, whose names are C strings.
    unsafe {
        for clause in PgList::<pg_sys::CommonTableExpr>::from_pg((*query).cteList).iter_ptr() {
            let body = (*clause).ctequery.cast::<pg_sys::Query>();
            // One that refers to what is around it means something else elsewhere.
            let levels = 1..=scope.clauses.len() as i32;
            let refers = |level| pg_sys::contain_vars_of_level(body.cast(), level);
            if (*clause).cterecursive
                || (*body).commandType != pg_sys::CmdType::CMD_SELECT
                || levels.into_iter().any(refers)
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

/// # Safety
/// A query of our own.
unsafe fn flat(query: *mut pg_sys::Query, scope: &mut Scope) -> *mut pg_sys::Query {
    // SAFETY: the range table has an entry at each place; what is replaced is of our own.
    unsafe {
        let mut query = query;
        with_clauses(query, scope);
        if !(*query).setOperations.is_null() {
            for index in 1..=PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).len() {
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
        node_tree::each_sublink(query, |sublink| {
            sublink.subselect = flat(sublink.subselect.cast(), scope).cast();
        });
        let entries = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).len() as i32;
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

/// Puts a part into the joins of a query, or leaves it as a subquery if that cannot be.
///
/// # Safety
/// Queries of our own; the part stands at that place of the range table, which outer joins extend by NULLs if it
/// is not preserved.
unsafe fn dissolve(
    query: *mut pg_sys::Query,
    (index, preserved): (i32, bool),
    part: *mut pg_sys::Query,
    approximate: &mut bool,
) -> *mut pg_sys::Query {
    // SAFETY: the caller vouches for the queries.
    unsafe {
        let lateral = (*entry(query, index)).lateral;
        if !has_rows_of_its_joins(part)
            || !preserved && (lateral || !is_of_columns(query, index, part))
        {
            let entry = entry(query, index);
            (*entry).rtekind = pg_sys::RTEKind::RTE_SUBQUERY;
            (*entry).subquery = part;
            *approximate = true;
            return query;
        }
        *approximate |= !(*part).havingQual.is_null();
        if preserved {
            return pull_up(query, index, part);
        }
        pull_up_extended(query, index, part);
        query
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
        let entries = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).len() as i32;
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
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        return pg_sys::flatten_join_alias_vars(query, node);
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        pg_sys::flatten_join_alias_vars(std::ptr::null_mut(), query, node)
    }
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
                Some(pg_sys::copyObjectImpl(body.cast()).cast())
            }
            pg_sys::RTEKind::RTE_RELATION if entry.relkind as u8 == pg_sys::RELKIND_VIEW => {
                let view = Relation::open_shared(entry.relid);
                if view.is_special_view() {
                    return None;
                }
                let body = pg_sys::copyObjectImpl(pg_sys::get_view_query(view.as_ptr()).cast());
                let mut inner = Scope::default();
                let body = flat(body.cast(), &mut inner);
                scope.approximate |= inner.approximate;
                Some(body)
            }
            _ => None,
        }
    }
}

/// Whether an entry stands in that part of a join tree and no outer join extends it by NULLs; nothing if it
/// does not stand there.
///
/// # Safety
/// A node of a join tree.
unsafe fn is_preserved(node: *mut pg_sys::Node, index: i32) -> Option<bool> {
    // SAFETY: a join tree holds references, joins and lists of them.
    unsafe {
        match (*node).type_ {
            NodeTag::T_RangeTblRef => {
                ((*node.cast::<pg_sys::RangeTblRef>()).rtindex == index).then_some(true)
            }
            NodeTag::T_FromExpr => {
                let list = (*node.cast::<pg_sys::FromExpr>()).fromlist;
                PgList::<pg_sys::Node>::from_pg(list)
                    .iter_ptr()
                    .find_map(|part| is_preserved(part, index))
            }
            NodeTag::T_JoinExpr => {
                let join = &*node.cast::<pg_sys::JoinExpr>();
                let (left, right) = match join.jointype {
                    pg_sys::JoinType::JOIN_INNER => (true, true),
                    pg_sys::JoinType::JOIN_LEFT => (true, false),
                    pg_sys::JoinType::JOIN_RIGHT => (false, true),
                    _ => (false, false),
                };
                is_preserved(join.larg, index)
                    .map(|preserved| preserved && left)
                    .or_else(|| is_preserved(join.rarg, index).map(|preserved| preserved && right))
            }
            _ => None,
        }
    }
}

/// Whether there is a row of a query exactly if there is one of its joins and conditions that shows the same in
/// what is known, HAVING aside.
///
/// # Safety
/// A query.
unsafe fn has_rows_of_its_joins(query: *mut pg_sys::Query) -> bool {
    // SAFETY: fields of a query.
    unsafe {
        let shown = &*query;
        // Without GROUP BY an aggregate returns a row for none.
        let all_in_one =
            (shown.hasAggs || !shown.havingQual.is_null()) && shown.groupClause.is_null();
        let has_subquery =
            |node: *mut pg_sys::Node| !node.is_null() && pg_sys::checkExprHasSubLink(node);
        let plain =
            shown.groupClause.is_null() && shown.distinctClause.is_null() && !shown.hasWindowFuncs;
        shown.commandType == pg_sys::CmdType::CMD_SELECT
            && !all_in_one
            && !shown.hasTargetSRFs
            && !shown.hasForUpdate
            && shown.setOperations.is_null()
            && shown.cteList.is_null()
            && shown.groupingSets.is_null()
            && shown.limitCount.is_null()
            && shown.limitOffset.is_null()
            && shown.rowMarks.is_null()
            && !(*shown.jointree).fromlist.is_null()
            // What is computed is forgotten, and the tables of its subqueries would be with it.
            && (plain
                || ![shown.targetList.cast(), shown.havingQual, shown.windowClause.cast()]
                    .into_iter()
                    .any(has_subquery))
    }
}

/// Whether a column of a query is computed from nothing but each row of its joins: what groups, is distinct or
/// divided by windows shows it of all rows that belong together.
///
/// # Safety
/// A query, and an entry of its target list.
unsafe fn is_known(query: *mut pg_sys::Query, target: *mut pg_sys::TargetEntry) -> bool {
    // SAFETY: clauses refer to entries of the target list.
    unsafe {
        let (shown, expression) = (&*query, (*target).expr.cast::<pg_sys::Node>());
        let contains = |clauses: *mut pg_sys::List| {
            PgList::<pg_sys::SortGroupClause>::from_pg(clauses).iter_ptr().any(|clause| {
                let other = pg_sys::get_sortgroupclause_tle(clause, shown.targetList);
                pg_sys::equal((*other).expr.cast(), expression.cast())
            })
        };
        let grouped = shown.hasAggs || !shown.groupClause.is_null();
        let windows = PgList::<pg_sys::WindowClause>::from_pg(shown.windowClause);
        let divided = grouped || shown.hasWindowFuncs || !shown.distinctClause.is_null();
        shown.limitCount.is_null()
            && shown.limitOffset.is_null()
            && shown.groupingSets.is_null()
            && !shown.hasTargetSRFs
            && !pg_sys::checkExprHasSubLink(expression)
            && (!grouped || contains(shown.groupClause))
            && (!shown.hasDistinctOn || contains(shown.distinctClause))
            && (!shown.hasWindowFuncs
                || windows.iter_ptr().all(|window| contains((*window).partitionClause)))
            && (!divided
                || types::equal_looks_same(
                    pg_sys::exprType(expression),
                    pg_sys::exprCollation(expression),
                ))
    }
}

/// Puts the joins and conditions of a query in the place of the entry that stands for it. What is not known
/// of its columns stays a column of that entry, which does not stand in FROM any more.
///
/// # Safety
/// Queries of our own; the entry is extended by no outer join.
unsafe fn pull_up(
    query: *mut pg_sys::Query,
    index: i32,
    part: *mut pg_sys::Query,
) -> *mut pg_sys::Query {
    // SAFETY: entries of the part get places behind those of the query, wherever they are referred to; its
    // columns are put wherever the query refers to them. No outer join extends them, so that conditions of
    // the part can be conditions of the whole.
    unsafe {
        offset(query, part, 1);
        let targets = known_columns(index, part);
        let query = pg_sys::ReplaceVarsFromTargetList(
            query.cast(),
            index,
            0,
            entry(query, index),
            targets,
            #[cfg(feature = "pg18")]
            0,
            pg_sys::ReplaceVarsNoMatchOption::REPLACEVARS_REPORT_ERROR,
            0,
            &raw mut (*query).hasSubLinks,
        )
        .cast::<pg_sys::Query>();
        let inner = &*(*part).jointree;
        take_in(query, index, part, pg_sys::makeFromExpr(inner.fromlist, std::ptr::null_mut()));
        let tree = (*query).jointree;
        let quals =
            pg_sys::list_concat(list_of(conjuncts((*tree).quals)), list_of(conjuncts(inner.quals)));
        (*tree).quals = pg_sys::make_ands_explicit(quals).cast();
        query
    }
}

/// The columns of a part, in place of those that are not known columns of the entry that stands for it.
///
/// # Safety
/// A part of our own.
unsafe fn known_columns(index: i32, part: *mut pg_sys::Query) -> *mut pg_sys::List {
    let mut columns = std::ptr::null_mut();
    // SAFETY: the list holds columns.
    unsafe {
        for target in PgList::<pg_sys::TargetEntry>::from_pg((*part).targetList).iter_ptr() {
            let mut column = target;
            if !is_plain(part) && !is_known(part, target) {
                let expression = (*target).expr.cast();
                let variable = pg_sys::makeVar(
                    index,
                    (*target).resno,
                    pg_sys::exprType(expression),
                    pg_sys::exprTypmod(expression),
                    pg_sys::exprCollation(expression),
                    0,
                );
                column = pg_sys::makeTargetEntry(
                    variable.cast(),
                    (*target).resno,
                    (*target).resname,
                    (*target).resjunk,
                );
            }
            columns = pg_sys::lappend(columns, column.cast());
        }
    }
    columns
}

/// Whether a query groups nothing.
///
/// # Safety
/// A query.
unsafe fn is_plain(query: *mut pg_sys::Query) -> bool {
    // SAFETY: fields of a query.
    unsafe {
        (*query).groupClause.is_null()
            && (*query).distinctClause.is_null()
            && !(*query).hasWindowFuncs
            && !(*query).hasAggs
    }
}

/// Whether the query refers to nothing but plain columns of a part, and unknown ones: what an outer join
/// extends by NULLs is as good as a column of a table then.
///
/// # Safety
/// Queries of our own, and the entry that stands for the part.
unsafe fn is_of_columns(query: *mut pg_sys::Query, index: i32, part: *mut pg_sys::Query) -> bool {
    let mut all = true;
    // SAFETY: the columns of the entry are those of the part.
    unsafe {
        node_tree::each_variable(query, |variable| {
            all &= variable.varno != index
                || !matches!(column_of(part, variable.varattno), Referred::Computed);
        });
    }
    all
}

/// What a column of a part is.
enum Referred {
    Plain(*mut pg_sys::Var),
    Unknown,
    Computed,
}

/// # Safety
/// A query.
unsafe fn column_of(part: *mut pg_sys::Query, number: i16) -> Referred {
    // SAFETY: the list holds columns; the cast follows the tag.
    unsafe {
        let targets = PgList::<pg_sys::TargetEntry>::from_pg((*part).targetList);
        let Some(target) = targets.iter_ptr().find(|target| (**target).resno == number) else {
            return Referred::Computed;
        };
        if !is_plain(part) && !is_known(part, target) {
            return Referred::Unknown;
        }
        let variable = (*target).expr.cast::<pg_sys::Var>();
        let plain = (*variable.cast::<pg_sys::Node>()).type_ == NodeTag::T_Var
            && (*variable).varattno > 0
            && (*variable).varlevelsup == 0;
        if plain { Referred::Plain(variable) } else { Referred::Computed }
    }
}

/// The same as `pull_up` where outer joins extend the entry by NULLs: columns take the place of columns, and
/// the conditions stay below the joins.
///
/// # Safety
/// Queries of our own; of the part, plain columns only are referred to.
unsafe fn pull_up_extended(query: *mut pg_sys::Query, index: i32, part: *mut pg_sys::Query) {
    // SAFETY: as in `pull_up`; what extends the column of the entry extends the column of the part.
    unsafe {
        offset(query, part, 1);
        node_tree::each_variable(query, |variable| {
            if variable.varno != index {
                return;
            }
            let Referred::Plain(column) = column_of(part, variable.varattno) else { return };
            variable.varno = (*column).varno;
            variable.varattno = (*column).varattno;
            variable.varnosyn = 0;
            variable.varattnosyn = 0;
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            {
                variable.varnullingrels =
                    pg_sys::bms_union(variable.varnullingrels, (*column).varnullingrels);
            }
        });
        take_in(query, index, part, (*part).jointree);
    }
}

/// Gives the entries of a part, `levels` below the query, the places that they will have behind those of the
/// query.
///
/// # Safety
/// Queries of our own.
unsafe fn offset(query: *mut pg_sys::Query, part: *mut pg_sys::Query, levels: i32) {
    // SAFETY: changes references in the whole part.
    unsafe {
        let before = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).len() as i32;
        pg_sys::OffsetVarNodes(part.cast(), before, 0);
        pg_sys::IncrementVarSublevelsUp(part.cast(), -levels, levels);
    }
}

/// Adds the entries of a part, which have their places already.
///
/// # Safety
/// Queries of our own.
unsafe fn add_entries(query: *mut pg_sys::Query, part: *mut pg_sys::Query) {
    // SAFETY: lists of our own.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        {
            (*query).rtable = pg_sys::list_concat((*query).rtable, (*part).rtable);
        }
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        pg_sys::CombineRangeTables(
            &raw mut (*query).rtable,
            &raw mut (*query).rteperminfos,
            (*part).rtable,
            (*part).rteperminfos,
        );
    }
}

/// Adds the entries of a part, and puts its joins where it stood.
///
/// # Safety
/// Queries of our own.
unsafe fn take_in(
    query: *mut pg_sys::Query,
    index: i32,
    part: *mut pg_sys::Query,
    joins: *mut pg_sys::FromExpr,
) {
    // SAFETY: the range table has an entry at that place.
    unsafe {
        add_entries(query, part);
        // A view stays behind without being read: whoever runs the query needs its permission.
        let left = entry(query, index);
        if (*left).rtekind != pg_sys::RTEKind::RTE_RELATION {
            (*left).rtekind = pg_sys::RTEKind::RTE_RESULT;
            (*left).subquery = std::ptr::null_mut();
            (*left).lateral = false;
        }
        replace((*query).jointree.cast(), index, joins.cast());
    }
}

/// # Safety
/// Nodes.
unsafe fn list_of(nodes: Vec<*mut pg_sys::Node>) -> *mut pg_sys::List {
    nodes.into_iter().fold(std::ptr::null_mut(), |list, node| {
        // SAFETY: makes a list, or adds to one.
        unsafe { pg_sys::lappend(list, node.cast()) }
    })
}

/// Puts a node in the place of the reference to an entry.
///
/// # Safety
/// A join tree of our own.
unsafe fn replace(node: *mut pg_sys::Node, index: i32, new: *mut pg_sys::Node) {
    // SAFETY: a join tree holds references, joins and lists of them.
    unsafe {
        let put = |place: *mut *mut pg_sys::Node| {
            let old = *place;
            if (*old).type_ == NodeTag::T_RangeTblRef {
                if (*old.cast::<pg_sys::RangeTblRef>()).rtindex == index {
                    *place = new;
                }
            } else {
                replace(old, index, new);
            }
        };
        match (*node).type_ {
            NodeTag::T_FromExpr => {
                let list = (*node.cast::<pg_sys::FromExpr>()).fromlist;
                for cell in 0..PgList::<pg_sys::Node>::from_pg(list).len() {
                    put((&raw mut (*(*list).elements.add(cell)).ptr_value).cast());
                }
            }
            NodeTag::T_JoinExpr => {
                let join = node.cast::<pg_sys::JoinExpr>();
                put(&raw mut (*join).larg);
                put(&raw mut (*join).rarg);
            }
            _ => {}
        }
    }
}
