//! The query of a view as the core wants it: which tables it joins how, and what its conditions demand.

use std::collections::BTreeSet;

use cache_refresher_core::delta::{
    Column, Condition, From, JoinKind, Occurrence, Partition, Query,
};
use cache_refresher_core::obstacle::Strange;
use pgrx::PgList;
use pgrx::pg_sys::{self, NodeTag, Oid};

use super::flat_query;
use super::relation::Relation;

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
    pub query: Query,
    pub tables: Vec<Table>,
    /// For each column of the view the column of a table that it shows, if it is one.
    pub outputs: Vec<Option<Column>>,
    /// Columns that conditions read.
    pub read_by_conditions: BTreeSet<Column>,
}

/// Describes the query of a view, or each of those that it combines by UNION and its kin.
///
/// # Errors
/// What it has that is not understood.
pub fn describe(view: &Relation) -> Result<Vec<Description>, Strange> {
    // SAFETY: an open materialized view; the trees are copies of our own.
    unsafe {
        let arms = flat_query::arms(view).into_iter();
        arms.map(|query| Reader { query, tables: Vec::new() }.describe()).collect()
    }
}

struct Reader {
    query: *mut pg_sys::Query,
    tables: Vec<Table>,
}

impl Reader {
    /// # Safety
    /// A query of a materialized view.
    unsafe fn describe(mut self) -> Result<Description, Strange> {
        // SAFETY: fields of a query that the parser made; each cast follows a node's tag.
        unsafe {
            let query = &*self.query;
            let strange = [
                (!query.cteList.is_null(), Strange::With),
                (query.hasSubLinks, Strange::Sublink),
                (query.hasTargetSRFs, Strange::SetReturning),
                (!query.groupingSets.is_null(), Strange::GroupingSets),
                (!query.limitCount.is_null() || !query.limitOffset.is_null(), Strange::Limit),
                (!query.setOperations.is_null(), Strange::SetOperation),
            ];
            if let Some((_, what)) = strange.into_iter().find(|(found, _)| *found) {
                return Err(what);
            }
            let from = From::Product(self.parts((*query.jointree).fromlist)?);
            let mut read = BTreeSet::new();
            let filter = conjuncts(self.ungrouped((*query.jointree).quals))
                .into_iter()
                .map(|part| self.condition(part, &mut read))
                .collect();
            self.read_in_joins(query.jointree.cast(), &mut read);
            let targets = PgList::<pg_sys::TargetEntry>::from_pg(query.targetList);
            let outputs = targets
                .iter_ptr()
                .filter(|target| !(**target).resjunk)
                .map(|target| self.column((*target).expr.cast()))
                .collect();
            let description = Query { from, filter, partitions: self.partitions() };
            Ok(Description {
                query: description,
                tables: self.tables,
                outputs,
                read_by_conditions: read,
            })
        }
    }

    /// # Safety
    /// Nodes of the join tree.
    unsafe fn parts(&mut self, list: *mut pg_sys::List) -> Result<Vec<From>, Strange> {
        // SAFETY: as in `from`.
        unsafe {
            let parts: Vec<*mut pg_sys::Node> = PgList::from_pg(list).iter_ptr().collect();
            parts.into_iter().map(|part| self.from(part)).collect()
        }
    }

    /// # Safety
    /// A node of the join tree.
    unsafe fn from(&mut self, node: *mut pg_sys::Node) -> Result<From, Strange> {
        // SAFETY: a join tree holds references, joins and lists of them.
        unsafe {
            match (*node).type_ {
                NodeTag::T_RangeTblRef => {
                    let index = (*node.cast::<pg_sys::RangeTblRef>()).rtindex;
                    let table = self.table(index)?;
                    self.tables.push(table);
                    Ok(From::Table(table.occurrence))
                }
                NodeTag::T_FromExpr => {
                    let tree = &*node.cast::<pg_sys::FromExpr>();
                    let product = From::Product(self.parts(tree.fromlist)?);
                    if tree.quals.is_null() {
                        return Ok(product);
                    }
                    // As good as a join with one row that has no columns.
                    let on = self.condition(self.ungrouped(tree.quals), &mut BTreeSet::new());
                    let (left, right) = (Box::new(product), Box::new(From::Product(Vec::new())));
                    Ok(From::Join { kind: JoinKind::Inner, left, right, on })
                }
                NodeTag::T_JoinExpr => {
                    let join = &*node.cast::<pg_sys::JoinExpr>();
                    let (left, right) = (self.from(join.larg)?, self.from(join.rarg)?);
                    let (kind, left, right) = match join.jointype {
                        pg_sys::JoinType::JOIN_INNER => (JoinKind::Inner, left, right),
                        pg_sys::JoinType::JOIN_LEFT => (JoinKind::Left, left, right),
                        pg_sys::JoinType::JOIN_RIGHT => (JoinKind::Left, right, left),
                        _ => (JoinKind::Full, left, right),
                    };
                    let on = self.condition(self.ungrouped(join.quals), &mut BTreeSet::new());
                    Ok(From::Join { kind, left: Box::new(left), right: Box::new(right), on })
                }
                _ => Err(Strange::Other),
            }
        }
    }

    /// # Safety
    /// A place in the range table.
    unsafe fn table(&self, index: i32) -> Result<Table, Strange> {
        // SAFETY: the range table has an entry at each place that the join tree names.
        unsafe {
            let entry = &*entry(self.query, index);
            if entry.rtekind == pg_sys::RTEKind::RTE_CTE {
                return Err(Strange::With);
            }
            if entry.rtekind != pg_sys::RTEKind::RTE_RELATION {
                return Err(Strange::Subquery);
            }
            match entry.relkind as u8 {
                b'r' | b'p' => Ok(Table {
                    occurrence: usize::try_from(index).unwrap_or_default(),
                    oid: entry.relid,
                    inherits: entry.inh && Relation::open_shared(entry.relid).may_have_children(),
                }),
                b'v' => Err(Strange::View),
                _ => Err(Strange::Other),
            }
        }
    }

    /// An expression with columns of groups replaced by what they stand for.
    ///
    /// # Safety
    /// An expression of this query, or null.
    unsafe fn ungrouped(&self, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
        #[cfg(feature = "pg18")]
        // SAFETY: the expression belongs to the query.
        unsafe {
            if (*self.query).hasGroupRTE && !node.is_null() {
                return pg_sys::flatten_group_exprs(std::ptr::null_mut(), self.query, node);
            }
        }
        node
    }

    /// # Safety
    /// A flat condition, or null.
    unsafe fn condition(&self, node: *mut pg_sys::Node, read: &mut BTreeSet<Column>) -> Condition {
        // SAFETY: an expression of this query.
        unsafe {
            let columns = columns(node);
            read.extend(&columns);
            let reads: BTreeSet<Occurrence> = columns.iter().map(|column| column.of).collect();
            let rejected = members(pg_sys::find_nonnullable_rels(node));
            Condition {
                rejects_nulls_of: &reads & &rejected,
                reads,
                equal: conjuncts(node).into_iter().filter_map(|part| equality(part)).collect(),
            }
        }
    }

    /// # Safety
    /// A node of the join tree.
    unsafe fn read_in_joins(&self, node: *mut pg_sys::Node, read: &mut BTreeSet<Column>) {
        // SAFETY: as in `from`.
        unsafe {
            match (*node).type_ {
                NodeTag::T_FromExpr => {
                    let tree = &*node.cast::<pg_sys::FromExpr>();
                    read.extend(columns(self.ungrouped(tree.quals)));
                    PgList::<pg_sys::Node>::from_pg(tree.fromlist)
                        .iter_ptr()
                        .for_each(|part| self.read_in_joins(part, read));
                }
                NodeTag::T_JoinExpr => {
                    let join = &*node.cast::<pg_sys::JoinExpr>();
                    read.extend(columns(self.ungrouped(join.quals)));
                    self.read_in_joins(join.larg, read);
                    self.read_in_joins(join.rarg, read);
                }
                _ => {}
            }
        }
    }

    /// # Safety
    /// An expression of this query.
    unsafe fn column(&self, node: *mut pg_sys::Node) -> Option<Column> {
        // SAFETY: a flat expression.
        unsafe { plain_column(self.ungrouped(node)) }
    }

    /// # Safety
    /// The query is there.
    unsafe fn partitions(&self) -> Vec<(Partition, BTreeSet<Column>)> {
        // SAFETY: clauses refer to entries of the target list.
        unsafe {
            let query = &*self.query;
            let columns_of = |clauses: *mut pg_sys::List| -> BTreeSet<Column> {
                PgList::<pg_sys::SortGroupClause>::from_pg(clauses)
                    .iter_ptr()
                    .filter_map(|clause| {
                        let target = pg_sys::get_sortgroupclause_tle(clause, query.targetList);
                        self.column((*target).expr.cast())
                    })
                    .collect()
            };
            let mut partitions = Vec::new();
            if query.hasAggs || !query.groupClause.is_null() || !query.havingQual.is_null() {
                partitions.push((Partition::Group, columns_of(query.groupClause)));
            }
            if query.hasDistinctOn {
                partitions.push((Partition::DistinctOn, columns_of(query.distinctClause)));
            }
            if query.hasWindowFuncs {
                let windows = PgList::<pg_sys::WindowClause>::from_pg(query.windowClause);
                for window in windows.iter_ptr() {
                    partitions.push((Partition::Window, columns_of((*window).partitionClause)));
                }
            }
            partitions
        }
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
unsafe fn columns(node: *mut pg_sys::Node) -> BTreeSet<Column> {
    // SAFETY: only variables of this query come back: there are no subqueries in it.
    unsafe {
        let flags = pg_sys::PVC_RECURSE_AGGREGATES
            | pg_sys::PVC_RECURSE_WINDOWFUNCS
            | pg_sys::PVC_RECURSE_PLACEHOLDERS;
        let variables = pg_sys::pull_var_clause(node, flags as i32);
        PgList::<pg_sys::Node>::from_pg(variables)
            .iter_ptr()
            .filter_map(|variable| plain_column(variable))
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
