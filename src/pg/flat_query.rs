//! Queries with plain views, simple subqueries and WITH clauses in FROM dissolved, so that what is left is
//! joins of tables. The planner does the same; here it is done for the mapping of changes.
//!
//! What returns the same rows for any content of the tables is all that is done; what cannot be dissolved
//! stays as it is.

use std::collections::BTreeMap;
use std::ffi::CStr;

use pgrx::PgList;
use pgrx::pg_sys::{self, NodeTag};

use super::node_tree;
use super::query_description::{conjuncts, entry};
use super::relation::Relation;
use super::view_query;

/// The queries that a view's query combines by UNION and its kin, or the one that it is; flat.
///
/// # Safety
/// An open materialized view. The queries are copies, in the present memory context.
pub(super) unsafe fn arms(view: &Relation) -> Vec<*mut pg_sys::Query> {
    // SAFETY: trees that the parser made; each cast follows a node's tag.
    unsafe {
        let query = view_query::stored(view);
        // What is left out of the whole cannot be told arm by arm.
        let limited = !(*query).limitCount.is_null() || !(*query).limitOffset.is_null();
        if (*query).setOperations.is_null() || limited {
            return vec![flat(query, &mut Vec::new())];
        }
        let mut clauses = Vec::new();
        with_clauses(query, &mut clauses);
        let mut leaves = Vec::new();
        leaves_of((*query).setOperations, &mut leaves);
        let arm = |index| flat((*entry(query, index)).subquery, &mut clauses);
        leaves.into_iter().map(arm).collect()
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

/// The WITH clauses in scope, innermost last: by name those that can take the place of a reference.
type Clauses = Vec<BTreeMap<Vec<u8>, *mut pg_sys::Query>>;

/// Adds the WITH clauses of a query to those in scope.
///
/// # Safety
/// A query of our own.
unsafe fn with_clauses(query: *mut pg_sys::Query, clauses: &mut Clauses) {
    clauses.push(BTreeMap::new());
    // SAFETY: the list holds WITH clauses, whose names are C strings.
    unsafe {
        for clause in PgList::<pg_sys::CommonTableExpr>::from_pg((*query).cteList).iter_ptr() {
            let body = (*clause).ctequery.cast::<pg_sys::Query>();
            if (*clause).cterecursive || (*body).commandType != pg_sys::CmdType::CMD_SELECT {
                continue;
            }
            // A clause refers to those before it.
            let body = flat(body, clauses);
            let name = CStr::from_ptr((*clause).ctename).to_bytes().to_vec();
            if let Some(own) = clauses.last_mut() {
                own.insert(name, body);
            }
        }
    }
}

/// # Safety
/// A query of our own.
unsafe fn flat(query: *mut pg_sys::Query, clauses: &mut Clauses) -> *mut pg_sys::Query {
    // SAFETY: the range table has an entry at each place; what is replaced is of our own.
    unsafe {
        let mut query = query;
        without_aliases_of_joins(query);
        with_clauses(query, clauses);
        let entries = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).len() as i32;
        let mut all = true;
        for index in 1..=entries {
            // What does not stand in FROM is the view itself, in the query of a view.
            let place = is_preserved((*query).jointree.cast(), index);
            let Some(preserved) = place else { continue };
            match query_of(query, index, clauses) {
                Some(part) if is_simple(part) && preserved => query = pull_up(query, index, part),
                Some(part) if is_simple(part) && is_of_columns(query, index, part) => {
                    pull_up_extended(query, index, part);
                }
                _ => all &= (*entry(query, index)).rtekind != pg_sys::RTEKind::RTE_CTE,
            }
        }
        clauses.pop();
        if all && !(*query).hasSubLinks {
            (*query).cteList = std::ptr::null_mut();
        }
        query
    }
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
            #[cfg(feature = "pg18")]
            if (*entry).rtekind == pg_sys::RTEKind::RTE_GROUP {
                (*entry).groupexprs = without_aliases(query, (*entry).groupexprs.cast()).cast();
            }
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
pub(super) unsafe fn without_aliases(
    query: *mut pg_sys::Query,
    node: *mut pg_sys::Node,
) -> *mut pg_sys::Node {
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
    clauses: &mut Clauses,
) -> Option<*mut pg_sys::Query> {
    // SAFETY: which fields of an entry are set follows from its kind.
    unsafe {
        let entry = &*entry(query, index);
        match entry.rtekind {
            pg_sys::RTEKind::RTE_SUBQUERY if !entry.lateral => Some(flat(entry.subquery, clauses)),
            pg_sys::RTEKind::RTE_CTE if !entry.self_reference => {
                let level = clauses.len().checked_sub(1 + entry.ctelevelsup as usize)?;
                let name = CStr::from_ptr(entry.ctename).to_bytes();
                let body = clauses[level].get(name)?;
                Some(pg_sys::copyObjectImpl(body.cast()).cast())
            }
            pg_sys::RTEKind::RTE_RELATION if entry.relkind as u8 == pg_sys::RELKIND_VIEW => {
                let view = Relation::open_shared(entry.relid);
                if view.is_special_view() {
                    return None;
                }
                let body = pg_sys::copyObjectImpl(pg_sys::get_view_query(view.as_ptr()).cast());
                Some(flat(body.cast(), &mut Vec::new()))
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

/// Whether a query is nothing but columns, joins and conditions.
///
/// # Safety
/// A query.
unsafe fn is_simple(query: *mut pg_sys::Query) -> bool {
    // SAFETY: fields of a query.
    unsafe {
        let query = &*query;
        query.commandType == pg_sys::CmdType::CMD_SELECT
            && !(query.hasAggs
                || query.hasWindowFuncs
                || query.hasTargetSRFs
                || query.hasSubLinks
                || query.hasDistinctOn
                || query.hasForUpdate)
            && query.setOperations.is_null()
            && query.cteList.is_null()
            && query.groupClause.is_null()
            && query.groupingSets.is_null()
            && query.havingQual.is_null()
            && query.distinctClause.is_null()
            && query.limitCount.is_null()
            && query.limitOffset.is_null()
            && query.rowMarks.is_null()
            && !(*query.jointree).fromlist.is_null()
    }
}

/// Puts the joins and conditions of a simple query in the place of the entry that stands for it.
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
        offset(query, part);
        let query = pg_sys::ReplaceVarsFromTargetList(
            query.cast(),
            index,
            0,
            entry(query, index),
            (*part).targetList,
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

/// Whether the query refers to plain columns of a part only: what an outer join extends by NULLs is as good
/// as a column of a table then.
///
/// # Safety
/// Queries of our own, and the entry that stands for the part.
unsafe fn is_of_columns(query: *mut pg_sys::Query, index: i32, part: *mut pg_sys::Query) -> bool {
    let mut all = true;
    // SAFETY: the columns of the entry are those of the part.
    unsafe {
        node_tree::each_variable(query, |variable| {
            all &= variable.varno != index || column_of(part, variable.varattno).is_some();
        });
    }
    all
}

/// What a column of a query is, if it is a plain column itself.
///
/// # Safety
/// A query.
unsafe fn column_of(part: *mut pg_sys::Query, number: i16) -> Option<*mut pg_sys::Var> {
    // SAFETY: the list holds columns; the cast follows the tag.
    unsafe {
        let targets = PgList::<pg_sys::TargetEntry>::from_pg((*part).targetList);
        let target = targets.iter_ptr().find(|target| (**target).resno == number)?;
        let variable = (*target).expr.cast::<pg_sys::Var>();
        let plain = (*variable.cast::<pg_sys::Node>()).type_ == NodeTag::T_Var
            && (*variable).varattno > 0
            && (*variable).varlevelsup == 0;
        plain.then_some(variable)
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
        offset(query, part);
        node_tree::each_variable(query, |variable| {
            if variable.varno != index {
                return;
            }
            let Some(column) = column_of(part, variable.varattno) else { return };
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

/// Gives the entries of a part the places that they will have behind those of the query.
///
/// # Safety
/// Queries of our own.
unsafe fn offset(query: *mut pg_sys::Query, part: *mut pg_sys::Query) {
    // SAFETY: changes references in the whole part.
    unsafe {
        let before = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).len() as i32;
        pg_sys::OffsetVarNodes(part.cast(), before, 0);
    }
}

/// Adds the entries of a part, which have their places already, and puts its joins where it stood.
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
        // A view stays behind without being read: whoever runs the query needs its permission.
        let left = entry(query, index);
        if (*left).rtekind != pg_sys::RTEKind::RTE_RELATION {
            (*left).rtekind = pg_sys::RTEKind::RTE_RESULT;
            (*left).subquery = std::ptr::null_mut();
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
