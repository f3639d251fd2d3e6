//! Putting the joins and conditions of a subquery into the place where it stands in FROM.
//!
//! What it computes from several rows is not known afterwards: columns of that kind stay columns of the entry
//! that stood for it, which is not in FROM any more.

use pgrx::pg_sys::{self, NodeTag};
use pgrx::{PgList, pg_guard};

use super::description::{conjuncts, entry, has_own_equality};
use super::tree_walk;
use crate::pg::statement::node;
use crate::pg::types;

/// Puts a part into the joins of a query, or leaves it as a subquery if that cannot be.
///
/// # Safety
/// Queries of our own; the part stands at that place of the range table, which outer joins extend by NULLs if it
/// is not preserved.
pub(super) unsafe fn dissolve(
    query: *mut pg_sys::Query,
    (index, preserved): (i32, bool),
    part: *mut pg_sys::Query,
    approximate: &mut bool,
) -> *mut pg_sys::Query {
    // SAFETY: the caller vouches for the queries.
    unsafe {
        let place = entry(query, index);
        // Until it is put somewhere the part is no longer in the query: what it refers to is about to be another
        // number of queries up, and must not be taken for something of that query.
        let whole = node::<pg_sys::RangeTblEntry>(NodeTag::T_RangeTblEntry);
        *whole = *place;
        if (*place).rtekind == pg_sys::RTEKind::RTE_SUBQUERY {
            (*place).rtekind = pg_sys::RTEKind::RTE_RESULT;
            (*place).subquery = std::ptr::null_mut();
        }
        let stays = !has_rows_of_its_joins(part)
            || has_own_equality(part)
            || !preserved
                && ((*place).lateral || is_whole(query, index) || computes_subqueries(part));
        if stays {
            (*place).rtekind = pg_sys::RTEKind::RTE_SUBQUERY;
            (*place).subquery = part;
            *approximate = true;
            return query;
        }
        *approximate |= !(*part).havingQual.is_null();
        if preserved {
            pull_up(query, (index, whole), part)
        } else {
            pull_up_extended(query, index, part)
        }
    }
}

/// Whether an entry stands in that part of a join tree and no outer join extends it by NULLs; nothing if it
/// does not stand there.
///
/// # Safety
/// A node of a join tree.
pub(super) unsafe fn is_preserved(node: *mut pg_sys::Node, index: i32) -> Option<bool> {
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
            && (is_plain(query)
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
pub(super) unsafe fn is_known(query: *mut pg_sys::Query, target: *mut pg_sys::TargetEntry) -> bool {
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
/// Queries of our own; the entry, given as it was with the part in it, is extended by no outer join.
unsafe fn pull_up(
    query: *mut pg_sys::Query,
    (index, whole): (i32, *mut pg_sys::RangeTblEntry),
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
            whole,
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

/// Whether a query returns what a subquery computes: of a part that an outer join extends that would be forgotten,
/// and the tables of the subquery with it.
///
/// # Safety
/// A query.
unsafe fn computes_subqueries(query: *mut pg_sys::Query) -> bool {
    // SAFETY: the target list is a node, if there is one.
    unsafe {
        let targets: *mut pg_sys::Node = (*query).targetList.cast();
        !targets.is_null() && pg_sys::checkExprHasSubLink(targets)
    }
}

/// Whether a query refers to an entry as a whole.
///
/// # Safety
/// A query of our own.
unsafe fn is_whole(query: *mut pg_sys::Query, index: i32) -> bool {
    let mut whole = false;
    // SAFETY: the caller vouches for it.
    unsafe {
        tree_walk::each_variable(query, |variable| {
            whole |= variable.varno == index && variable.varattno <= 0;
        });
    }
    whole
}

/// What a part computes for a reference to it that outer joins extend by NULLs: a column, what is NULL where its
/// columns are, and below those joins anything.
///
/// # Safety
/// A reference, and the part that it refers to.
unsafe fn known_extended(
    variable: &pg_sys::Var,
    part: *mut pg_sys::Query,
) -> Option<*mut pg_sys::Node> {
    // SAFETY: the list holds columns.
    unsafe {
        let targets = PgList::<pg_sys::TargetEntry>::from_pg((*part).targetList);
        let target = targets.iter_ptr().find(|target| (**target).resno == variable.varattno)?;
        let shown: *mut pg_sys::Node = (*target).expr.cast();
        #[cfg(feature = "pg15")]
        let extended = true;
        #[cfg(not(feature = "pg15"))]
        let extended = !variable.varnullingrels.is_null();
        let null_with_its_columns = || {
            pg_sys::contain_vars_of_level(shown.cast(), 0)
                && !pg_sys::contain_nonstrict_functions(shown.cast())
        };
        ((is_plain(part) || is_known(part, target)) && (!extended || null_with_its_columns()))
            .then_some(shown)
    }
}

/// The same as `pull_up` where outer joins extend the entry by NULLs: its conditions stay below the joins.
///
/// # Safety
/// Queries of our own; the query does not refer to the entry as a whole.
unsafe fn pull_up_extended(
    query: *mut pg_sys::Query,
    index: i32,
    part: *mut pg_sys::Query,
) -> *mut pg_sys::Query {
    // SAFETY: as in `pull_up`; the callback gets the part.
    unsafe {
        offset(query, part, 1);
        let query = pg_sys::replace_rte_variables(
            query.cast(),
            index,
            0,
            Some(put_extended),
            part.cast(),
            &raw mut (*query).hasSubLinks,
        )
        .cast::<pg_sys::Query>();
        take_in(query, index, part, (*part).jointree);
        query
    }
}

/// What takes the place of a reference to a part that outer joins extend; it is extended by the same joins.
///
/// # Safety
/// Called by the server for each, with the part.
#[pg_guard]
unsafe extern "C-unwind" fn put_extended(
    variable: *mut pg_sys::Var,
    context: *mut pg_sys::replace_rte_variables_context,
) -> *mut pg_sys::Node {
    // SAFETY: a reference of our own query, and a copy of what is put there.
    unsafe {
        let part = (*context).callback_arg.cast::<pg_sys::Query>();
        let Some(shown) = known_extended(&*variable, part) else {
            return pg_sys::copyObjectImpl(variable.cast()).cast();
        };
        let shown = pg_sys::copyObjectImpl(shown.cast()).cast::<pg_sys::Node>();
        #[cfg(not(feature = "pg15"))]
        tree_walk::each_variable_in(shown, |column| {
            column.varnullingrels =
                pg_sys::bms_union(column.varnullingrels, (*variable).varnullingrels);
        });
        if (*variable).varlevelsup > 0 {
            pg_sys::IncrementVarSublevelsUp(shown, (*variable).varlevelsup as i32, 0);
        }
        shown
    }
}

/// Gives the entries of a part, `levels` below the query, the places that they will have behind those of the
/// query.
///
/// # Safety
/// Queries of our own.
pub(super) unsafe fn offset(query: *mut pg_sys::Query, part: *mut pg_sys::Query, levels: i32) {
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
pub(super) unsafe fn add_entries(query: *mut pg_sys::Query, part: *mut pg_sys::Query) {
    // SAFETY: lists of our own.
    unsafe {
        #[cfg(feature = "pg15")]
        {
            (*query).rtable = pg_sys::list_concat((*query).rtable, (*part).rtable);
        }
        #[cfg(not(feature = "pg15"))]
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
pub(super) unsafe fn list_of(nodes: Vec<*mut pg_sys::Node>) -> *mut pg_sys::List {
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
