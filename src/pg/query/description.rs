//! The query of a view as the core wants it: which tables it joins how, and what its conditions demand.

use std::collections::BTreeSet;

use cache_refresher_core::delta::{
    Column, Condition, From, JoinKind, Occurrence, Partition, Query, Term,
};
use cache_refresher_core::obstacle::Unsupported;
use pgrx::PgList;
use pgrx::pg_sys::{self, NodeTag, Oid};

use super::arms::{self, Flat};
use super::{places, tree_walk};
use crate::pg::relation::Relation;
use crate::pg::rows::row;
use crate::pg::types;

/// A table where it stands in a query. Occurrences are places in the query's range table, from 1.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    pub occurrence: Occurrence,
    pub oid: Oid,
    /// Partitions or children are read, too, if there are any.
    pub inherits: bool,
}

/// A query that was understood.
pub struct Description {
    pub(super) flat: Flat,
    pub query: Query,
    pub tables: Vec<Table>,
    /// What each column of the view shows, if that is computed from each row of the joins.
    pub outputs: Vec<Option<Term>>,
    /// The columns that each condition reads, by its number.
    pub columns_read: Vec<BTreeSet<Column>>,
}

impl Description {
    /// Whether it is this query that maps changes of that table: those before are mapped by another.
    pub const fn maps(&self, occurrence: Occurrence) -> bool {
        occurrence >= self.flat.first
    }

    /// The places of the tables whose changes it maps.
    fn places(&self) -> impl Iterator<Item = String> {
        let mapped = self.tables.iter().filter(|table| self.maps(table.occurrence));
        // SAFETY: each occurrence of a table is an entry of the query.
        mapped.map(|table| unsafe { places::of(&*entry(self.flat.query, table.occurrence as i32)) })
    }
}

/// Describes the queries by which the changes of a view's sources are mapped.
///
/// # Errors
/// What the view has that is not understood.
pub fn describe(view: &Relation) -> Result<Vec<Description>, Unsupported> {
    // SAFETY: an open materialized view; the trees are copies of our own.
    let descriptions: Vec<Description> = unsafe {
        let arms = arms::of(view).ok_or(Unsupported::Size)?;
        arms.into_iter().map(|flat| Reader::of(flat).describe(view)).collect::<Result<_, _>>()?
    };
    // Whatever was dissolved or put aside on the way: each place of a table has to be there.
    let mapped: BTreeSet<String> = descriptions.iter().flat_map(Description::places).collect();
    if places::all(view).is_subset(&mapped) { Ok(descriptions) } else { Err(Unsupported::Other) }
}

struct Reader {
    flat: Flat,
    query: *mut pg_sys::Query,
    tables: Vec<Table>,
    expressions: Vec<*mut pg_sys::Node>,
    columns_read: Vec<BTreeSet<Column>>,
    /// Something in FROM is left out: a subquery that has a query of its own, a function, constants.
    left_out: bool,
}

impl Reader {
    const fn of(flat: Flat) -> Self {
        Self {
            flat,
            query: flat.query,
            tables: Vec::new(),
            expressions: Vec::new(),
            columns_read: Vec::new(),
            left_out: false,
        }
    }

    /// # Safety
    /// A flat query of that view.
    unsafe fn describe(mut self, view: &Relation) -> Result<Description, Unsupported> {
        // SAFETY: fields of a query that the parser made; each cast follows a node's tag.
        unsafe {
            let query = &*self.query;
            let strange = [
                (!query.cteList.is_null(), Unsupported::With),
                (query.hasTargetSRFs, Unsupported::SetReturning),
                (!query.groupingSets.is_null(), Unsupported::GroupingSets),
                (!query.limitCount.is_null() || !query.limitOffset.is_null(), Unsupported::Limit),
                (!query.setOperations.is_null(), Unsupported::SetOperation),
                (has_own_equality(self.query), Unsupported::Equality),
            ];
            if let Some((_, what)) = strange.into_iter().find(|(found, _)| *found) {
                return Err(what);
            }
            self.add_tables(query.jointree.cast())?;
            let filter = self.conditions((*query.jointree).quals);
            let from = From::Product(self.parts((*query.jointree).fromlist)?);
            let targets = PgList::<pg_sys::TargetEntry>::from_pg(query.targetList);
            let shown = targets.iter_ptr().filter(|target| !(**target).resjunk);
            let outputs = (0..)
                .zip(shown)
                .map(|(place, target)| {
                    let expression = (*target).expr.cast();
                    let attribute = &*row::attribute(view.descriptor(), place);
                    let same = pg_sys::exprType(expression) == attribute.atttypid
                        && pg_sys::exprCollation(expression) == attribute.attcollation;
                    same.then(|| self.term(expression)).flatten()
                })
                .collect();
            let partitions = self.partitions();
            let query = Query {
                from,
                filter,
                partitions,
                approximate: self.flat.approximate || self.left_out,
                decides_matches: self.flat.decides_matches.then_some(self.flat.first),
            };
            Ok(Description {
                flat: self.flat,
                query,
                tables: self.tables,
                outputs,
                columns_read: self.columns_read,
            })
        }
    }

    /// # Safety
    /// A node of the join tree.
    unsafe fn add_tables(&mut self, node: *mut pg_sys::Node) -> Result<(), Unsupported> {
        // SAFETY: a join tree holds references, joins and lists of them.
        unsafe {
            match (*node).type_ {
                NodeTag::T_RangeTblRef => {
                    let index = (*node.cast::<pg_sys::RangeTblRef>()).rtindex;
                    let table = self.table(index)?;
                    self.left_out |= table.is_none();
                    self.tables.extend(table);
                }
                NodeTag::T_FromExpr => {
                    let list = (*node.cast::<pg_sys::FromExpr>()).fromlist;
                    for part in PgList::<pg_sys::Node>::from_pg(list).iter_ptr() {
                        self.add_tables(part)?;
                    }
                }
                NodeTag::T_JoinExpr => {
                    let join = &*node.cast::<pg_sys::JoinExpr>();
                    self.add_tables(join.larg)?;
                    self.add_tables(join.rarg)?;
                }
                _ => return Err(Unsupported::Other),
            }
            Ok(())
        }
    }

    /// # Safety
    /// Nodes of the join tree.
    unsafe fn parts(&mut self, list: *mut pg_sys::List) -> Result<Vec<From>, Unsupported> {
        // SAFETY: as in `from`.
        unsafe {
            let parts: Vec<*mut pg_sys::Node> = PgList::from_pg(list).iter_ptr().collect();
            parts.into_iter().map(|part| self.from(part)).collect()
        }
    }

    /// What stands in FROM. Conditions get their numbers in this order: WHERE, and then for each join those
    /// of its left side, of its right side and its own.
    ///
    /// # Safety
    /// A node of the join tree.
    unsafe fn from(&mut self, node: *mut pg_sys::Node) -> Result<From, Unsupported> {
        // SAFETY: a join tree holds references, joins and lists of them.
        unsafe {
            match (*node).type_ {
                NodeTag::T_RangeTblRef => {
                    let index = (*node.cast::<pg_sys::RangeTblRef>()).rtindex as Occurrence;
                    let table = self.tables.iter().any(|table| table.occurrence == index);
                    Ok(if table { From::Table(index) } else { From::Product(Vec::new()) })
                }
                NodeTag::T_FromExpr => {
                    let tree = &*node.cast::<pg_sys::FromExpr>();
                    let product = From::Product(self.parts(tree.fromlist)?);
                    let on = self.conditions_on(tree.quals, &product.tables());
                    if on.is_empty() {
                        return Ok(product);
                    }
                    // As good as a join with one row that has no columns.
                    let (left, right) = (Box::new(product), Box::new(From::Product(Vec::new())));
                    Ok(From::Join { kind: JoinKind::Inner, left, right, on })
                }
                NodeTag::T_JoinExpr => {
                    let join = &*node.cast::<pg_sys::JoinExpr>();
                    let (left, right) = (self.from(join.larg)?, self.from(join.rarg)?);
                    let on = self.conditions_on(join.quals, &(&left.tables() | &right.tables()));
                    let (kind, left, right) = match join.jointype {
                        pg_sys::JoinType::JOIN_INNER => (JoinKind::Inner, left, right),
                        pg_sys::JoinType::JOIN_LEFT => (JoinKind::Left, left, right),
                        pg_sys::JoinType::JOIN_RIGHT => (JoinKind::Left, right, left),
                        _ => (JoinKind::Full, left, right),
                    };
                    // Where one side is left out, the join is the other.
                    if right.tables().is_empty() && kind != JoinKind::Full {
                        return Ok(left);
                    }
                    if left.tables().is_empty() {
                        // Without a row on the right there would be one all the same.
                        return match kind {
                            JoinKind::Inner => Ok(right),
                            _ => Err(Unsupported::Subquery),
                        };
                    }
                    Ok(From::Join { kind, left: Box::new(left), right: Box::new(right), on })
                }
                _ => Err(Unsupported::Other),
            }
        }
    }

    /// The table at a place; nothing for a subquery or a function.
    ///
    /// # Safety
    /// A place in the range table.
    unsafe fn table(&self, index: i32) -> Result<Option<Table>, Unsupported> {
        // SAFETY: the range table has an entry at each place that the join tree names.
        unsafe {
            let entry = &*entry(self.query, index);
            match entry.rtekind {
                pg_sys::RTEKind::RTE_RELATION => {}
                pg_sys::RTEKind::RTE_SUBQUERY
                | pg_sys::RTEKind::RTE_FUNCTION
                | pg_sys::RTEKind::RTE_TABLEFUNC
                | pg_sys::RTEKind::RTE_VALUES
                | pg_sys::RTEKind::RTE_RESULT => return Ok(None),
                pg_sys::RTEKind::RTE_CTE => return Err(Unsupported::With),
                _ => return Err(Unsupported::Other),
            }
            match entry.relkind as u8 {
                b'r' | b'p' | b'm' => Ok(Some(Table {
                    occurrence: usize::try_from(index).unwrap_or_default(),
                    oid: entry.relid,
                    inherits: entry.inh && Relation::open_shared(entry.relid).may_have_children(),
                })),
                b'v' => Err(Unsupported::View),
                _ => Err(Unsupported::Other),
            }
        }
    }

    /// The parts of a condition, which get the next numbers.
    ///
    /// # Safety
    /// An expression of this query, or null.
    unsafe fn conditions(&mut self, node: *mut pg_sys::Node) -> Vec<Condition> {
        // SAFETY: as above.
        unsafe { conjuncts(node).into_iter().map(|part| self.condition(part)).collect() }
    }

    /// The same of a join of those tables. What refers to others, which are around a subquery that was
    /// dissolved, must not decide what the join finds, where they are not known yet.
    ///
    /// # Safety
    /// As for `conditions`.
    unsafe fn conditions_on(
        &mut self,
        node: *mut pg_sys::Node,
        joined: &BTreeSet<Occurrence>,
    ) -> Vec<Condition> {
        // SAFETY: passed on.
        let mut parts = unsafe { self.conditions(node) };
        for part in &mut parts {
            part.unknown |= !part.reads.is_subset(joined);
        }
        parts
    }

    /// # Safety
    /// An expression of this query.
    unsafe fn condition(&mut self, node: *mut pg_sys::Node) -> Condition {
        // SAFETY: an expression of this query.
        unsafe {
            let (columns, all) = self.columns(node);
            let reads: BTreeSet<Occurrence> = columns.iter().map(|column| column.of).collect();
            let rejected = members(pg_sys::find_nonnullable_rels(node));
            let number = self.columns_read.len();
            self.columns_read.push(columns);
            Condition {
                number,
                unknown: !all,
                rejects_nulls_of: &reads & &rejected,
                equal: if all { equality(node).into_iter().collect() } else { Vec::new() },
                reads,
            }
        }
    }

    /// The columns of tables that an expression reads; and whether it is made of nothing else.
    ///
    /// # Safety
    /// An expression of this query.
    unsafe fn columns(&self, node: *mut pg_sys::Node) -> (BTreeSet<Column>, bool) {
        // SAFETY: only variables of this query come back: what stands in subqueries is left out.
        unsafe {
            let flags = pg_sys::PVC_RECURSE_AGGREGATES
                | pg_sys::PVC_RECURSE_WINDOWFUNCS
                | pg_sys::PVC_RECURSE_PLACEHOLDERS;
            let variables = pg_sys::pull_var_clause(node, flags as i32);
            let variables = PgList::<pg_sys::Node>::from_pg(variables);
            let of_table =
                |column: &Column| self.tables.iter().any(|table| table.occurrence == column.of);
            let columns: Vec<Column> = variables
                .iter_ptr()
                .filter(|variable| types::is_kept(pg_sys::exprType(*variable)))
                .filter_map(|variable| plain_column(variable).filter(of_table))
                .collect();
            let all = columns.len() == variables.len()
                && !pg_sys::checkExprHasSubLink(node)
                && !tree_walk::has_parameter(node)
                && !pg_sys::contain_agg_clause(node)
                && !pg_sys::contain_windowfuncs(node);
            (columns.into_iter().collect(), all)
        }
    }

    /// What an expression is, if it is computed from each row of the joins.
    ///
    /// # Safety
    /// An expression of this query.
    unsafe fn term(&mut self, node: *mut pg_sys::Node) -> Option<Term> {
        // SAFETY: an expression of this query.
        unsafe {
            let (reads, all) = self.columns(node);
            if !all || reads.is_empty() {
                return None;
            }
            if let Some(column) = plain_column(node) {
                return Some(Term::Column(column));
            }
            let same = |other: &*mut pg_sys::Node| pg_sys::equal((*other).cast(), node.cast());
            let number = self.expressions.iter().position(same).unwrap_or_else(|| {
                self.expressions.push(node);
                self.expressions.len() - 1
            });
            Some(Term::Expression { reads, number })
        }
    }

    /// # Safety
    /// The query is there.
    unsafe fn partitions(&mut self) -> Vec<(Partition, BTreeSet<Term>)> {
        // SAFETY: clauses refer to entries of the target list.
        unsafe {
            let query = &*self.query;
            let mut terms_of = |clauses: *mut pg_sys::List| -> BTreeSet<Term> {
                PgList::<pg_sys::SortGroupClause>::from_pg(clauses)
                    .iter_ptr()
                    .filter_map(|clause| {
                        let target = pg_sys::get_sortgroupclause_tle(clause, query.targetList);
                        self.term((*target).expr.cast())
                    })
                    .collect()
            };
            let mut partitions = Vec::new();
            if query.hasAggs || !query.groupClause.is_null() || !query.havingQual.is_null() {
                partitions.push((Partition::Group, terms_of(query.groupClause)));
            }
            if query.hasDistinctOn {
                partitions.push((Partition::DistinctOn, terms_of(query.distinctClause)));
            }
            if query.hasWindowFuncs {
                let windows = PgList::<pg_sys::WindowClause>::from_pg(query.windowClause);
                for window in windows.iter_ptr() {
                    partitions.push((Partition::Window, terms_of((*window).partitionClause)));
                }
            }
            partitions
        }
    }
}

/// Whether a query groups, makes distinct or divides by windows by an equality that is not the type's own: rows that
/// belong together by it have different units.
///
/// # Safety
/// A query.
pub(super) unsafe fn has_own_equality(query: *mut pg_sys::Query) -> bool {
    // SAFETY: clauses refer to entries of the target list.
    unsafe {
        let windows = PgList::<pg_sys::WindowClause>::from_pg((*query).windowClause);
        let partitions = windows.iter_ptr().map(|window| (*window).partitionClause);
        [(*query).groupClause, (*query).distinctClause].into_iter().chain(partitions).any(
            |clauses| {
                PgList::<pg_sys::SortGroupClause>::from_pg(clauses).iter_ptr().any(|clause| {
                    let target = pg_sys::get_sortgroupclause_tle(clause, (*query).targetList);
                    let of = pg_sys::exprType((*target).expr.cast());
                    let own = pg_sys::lookup_type_cache(of, pg_sys::TYPECACHE_EQ_OPR as i32);
                    (*own).eq_opr != (*clause).eqop
                })
            },
        )
    }
}

/// The entry of a range table at that place.
///
/// # Safety
/// There is one.
pub(super) unsafe fn entry(query: *mut pg_sys::Query, index: i32) -> *mut pg_sys::RangeTblEntry {
    // SAFETY: the caller vouches for it.
    unsafe { (*(*(*query).rtable).elements.add(index as usize - 1)).ptr_value.cast() }
}

/// The parts of a conjunction.
///
/// # Safety
/// An expression or null.
pub(super) unsafe fn conjuncts(node: *mut pg_sys::Node) -> Vec<*mut pg_sys::Node> {
    // SAFETY: the server takes a conjunction apart; nothing is none.
    unsafe {
        PgList::<pg_sys::Node>::from_pg(pg_sys::make_ands_implicit(node.cast()))
            .iter_ptr()
            .collect()
    }
}

/// # Safety
/// An expression or null.
unsafe fn plain_column(node: *mut pg_sys::Node) -> Option<Column> {
    // SAFETY: casts follow the tag.
    unsafe {
        if node.is_null() || (*node).type_ != NodeTag::T_Var {
            return None;
        }
        let variable = &*node.cast::<pg_sys::Var>();
        (variable.varlevelsup == 0 && variable.varattno > 0)
            .then_some(Column { of: variable.varno as usize, number: variable.varattno })
    }
}

/// Two columns of one type that a condition equates by that type's own equality.
///
/// # Safety
/// A flat expression.
unsafe fn equality(node: *mut pg_sys::Node) -> Option<(Column, Column)> {
    // SAFETY: casts follow tags; an operator with two arguments has two.
    unsafe {
        if (*node).type_ != NodeTag::T_OpExpr {
            return None;
        }
        let operation = &*node.cast::<pg_sys::OpExpr>();
        let arguments = PgList::<pg_sys::Node>::from_pg(operation.args);
        let [left, right] = arguments.iter_ptr().collect::<Vec<_>>()[..] else { return None };
        let (left, right) = (unlabelled(left), unlabelled(right));
        let (left_column, right_column) = (plain_column(left)?, plain_column(right)?);
        let (left, right) = (&*left.cast::<pg_sys::Var>(), &*right.cast::<pg_sys::Var>());
        let alike = left.vartype == right.vartype
            && left.varcollid == right.varcollid
            && (operation.inputcollid == left.varcollid || left.varcollid == pg_sys::InvalidOid);
        let own = pg_sys::lookup_type_cache(left.vartype, pg_sys::TYPECACHE_EQ_OPR as i32);
        (alike && (*own).eq_opr == operation.opno).then_some((left_column, right_column))
    }
}

/// # Safety
/// An expression.
unsafe fn unlabelled(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the cast follows the tag.
    unsafe {
        match (*node).type_ {
            NodeTag::T_RelabelType => (*node.cast::<pg_sys::RelabelType>()).arg.cast(),
            _ => node,
        }
    }
}

/// # Safety
/// A set or null.
pub(super) unsafe fn members(set: *mut pg_sys::Bitmapset) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut member = -1;
    loop {
        // SAFETY: asks for the next member, from none on; −2 after the last.
        member = unsafe { pg_sys::bms_next_member(set, member) };
        match usize::try_from(member) {
            Ok(place) => found.insert(place),
            Err(_) => return found,
        };
    }
}
