//! The queries that map changed rows to units: the view's own joins, with the changed rows in the place
//! of one table.

use std::collections::BTreeSet;

use cache_refresher_core::delta::{Column, Occurrence};
use pgrx::PgList;
use pgrx::pg_sys::{self, Datum, NodeTag, Oid};

use super::description::{Description, conjuncts, entry};
#[cfg(not(feature = "pg15"))]
use super::tree_walk;
use super::view_query::{self, ViewQuery};
use crate::pg::relation::Relation;
use crate::pg::rows::row;
use crate::pg::statement::node;

/// Rows that a table had or has, reduced to some of its columns.
#[derive(Debug, Clone, Default)]
pub struct Images {
    /// Numbers of the columns.
    pub columns: Vec<i16>,
    /// Values of those columns; NULL as nothing.
    pub rows: Vec<Vec<Option<Datum>>>,
}

/// What a mapping query is made of.
pub struct Parts<'a> {
    /// The query, of which there may be several.
    pub description: &'a Description,
    /// The place of the unit in the view.
    pub unit: usize,
    /// The tables that are joined.
    pub tables: &'a BTreeSet<Occurrence>,
    /// The conditions that hold, by number.
    pub conditions: &'a BTreeSet<usize>,
    /// The columns that those and the unit read.
    pub read: &'a BTreeSet<Column>,
}

/// Plans the query that finds the units which rows in the place of `changed` can concern; `instead` are
/// tables for which old rows stand as well.
pub fn plan(
    parts: &Parts,
    changed: (Occurrence, Oid, &Images),
    instead: &[(Occurrence, Oid, &Images)],
) -> ViewQuery {
    // SAFETY: a copy of the stored query, changed before anybody else sees it: what is left of it is
    // SELECT unit FROM … WHERE …
    unsafe {
        let query =
            pg_sys::copyObjectImpl(parts.description.flat.query.cast()).cast::<pg_sys::Query>();
        let targets = PgList::<pg_sys::TargetEntry>::from_pg((*query).targetList);
        let unit = targets.iter_ptr().filter(|target| !(**target).resjunk).nth(parts.unit);
        let unit = unit.map_or(std::ptr::null_mut(), |target| (*target).expr);
        let target = pg_sys::makeTargetEntry(unit, 1, pg_sys::pstrdup(c"unit".as_ptr()), false);
        (*query).targetList = pg_sys::lappend(std::ptr::null_mut(), target.cast());
        let nothing = std::ptr::null_mut();
        (*query).groupClause = nothing;
        (*query).havingQual = std::ptr::null_mut();
        (*query).distinctClause = nothing;
        (*query).sortClause = nothing;
        (*query).windowClause = nothing;
        (*query).hasAggs = false;
        (*query).hasWindowFuncs = false;
        (*query).hasDistinctOn = false;
        (*query).hasSubLinks = false;

        let mut left = Left { parts, next: 0, joins: std::ptr::null_mut() };
        let tree = (*query).jointree;
        let kept = left.conditions((*tree).quals);
        (*tree).fromlist = left.list((*tree).fromlist);
        let joins = left.joins;
        // The server looks at each entry, wherever it stands.
        for (index, entry) in
            (1..).zip(PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr())
        {
            if (*entry).rtekind != pg_sys::RTEKind::RTE_RELATION
                && !pg_sys::bms_is_member(index, joins)
            {
                // A view stays behind without being read, for the rights to it.
                let is_view = (*entry).relid != pg_sys::InvalidOid;
                (*entry).rtekind = match is_view {
                    true => pg_sys::RTEKind::RTE_RELATION,
                    false => pg_sys::RTEKind::RTE_RESULT,
                };
                (*entry).subquery = std::ptr::null_mut();
                (*entry).lateral = false;
                (*entry).functions = std::ptr::null_mut();
                (*entry).tablefunc = std::ptr::null_mut();
                (*entry).values_lists = std::ptr::null_mut();
            }
        }
        #[cfg(not(feature = "pg15"))]
        tree_walk::each_variable(query, |variable| {
            variable.varnullingrels = pg_sys::bms_int_members(variable.varnullingrels, joins);
        });
        // Conditions may come from below joins that stay here.
        #[cfg(not(feature = "pg15"))]
        for part in PgList::<pg_sys::Node>::from_pg(kept).iter_ptr() {
            tree_walk::each_variable_in(part, |variable| {
                variable.varnullingrels = nulling(tree.cast(), variable.varno);
            });
        }
        let (occurrence, table, images) = changed;
        let last = replace(query, occurrence, table, images, parts.read, true);
        let marker =
            pg_sys::makeVar(occurrence as i32, last, pg_sys::BOOLOID, -1, pg_sys::InvalidOid, 0);
        #[cfg(not(feature = "pg15"))]
        {
            (*marker).varnullingrels = nulling(tree.cast(), occurrence as i32);
        }
        let taken = node::<pg_sys::NullTest>(NodeTag::T_NullTest);
        (*taken).arg = marker.cast();
        (*taken).nulltesttype = pg_sys::NullTestType::IS_NOT_NULL;
        (*taken).location = -1;
        let kept = pg_sys::lappend(kept, taken.cast());
        (*tree).quals = pg_sys::make_ands_explicit(kept).cast();
        for &(occurrence, table, images) in instead {
            replace(query, occurrence, table, images, parts.read, false);
        }
        ViewQuery::planned(view_query::rewrite(query))
    }
}

/// What is left of a join tree.
struct Left<'a> {
    parts: &'a Parts<'a>,
    /// The number of the next condition.
    next: usize,
    /// The entries of the joins that are left.
    joins: *mut pg_sys::Bitmapset,
}

impl Left<'_> {
    /// # Safety
    /// A condition or null; the conditions of a query are taken in the order of their numbers.
    unsafe fn conditions(&mut self, node: *mut pg_sys::Node) -> *mut pg_sys::List {
        let mut kept = std::ptr::null_mut();
        // SAFETY: an expression of the query.
        unsafe {
            for part in conjuncts(node) {
                if self.parts.conditions.contains(&self.next) {
                    kept = pg_sys::lappend(kept, part.cast());
                }
                self.next += 1;
            }
        }
        kept
    }

    /// # Safety
    /// Nodes of a join tree.
    unsafe fn list(&mut self, nodes: *mut pg_sys::List) -> *mut pg_sys::List {
        let mut kept = std::ptr::null_mut();
        // SAFETY: as in `of`.
        unsafe {
            for part in PgList::<pg_sys::Node>::from_pg(nodes).iter_ptr() {
                let part = self.of(part);
                if !part.is_null() {
                    kept = pg_sys::lappend(kept, part.cast());
                }
            }
        }
        kept
    }

    /// What is left of a part of the tree; null if nothing is.
    ///
    /// # Safety
    /// A node of a join tree of our own.
    unsafe fn of(&mut self, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
        let explicit = |kept: *mut pg_sys::List| -> *mut pg_sys::Node {
            match kept.is_null() {
                true => std::ptr::null_mut(),
                // SAFETY: a list of conditions.
                false => unsafe { pg_sys::make_ands_explicit(kept).cast() },
            }
        };
        // SAFETY: a join tree holds references, joins and lists of them.
        unsafe {
            match (*node).type_ {
                NodeTag::T_RangeTblRef => {
                    let index = (*node.cast::<pg_sys::RangeTblRef>()).rtindex as Occurrence;
                    if self.parts.tables.contains(&index) { node } else { std::ptr::null_mut() }
                }
                NodeTag::T_FromExpr => {
                    let tree = node.cast::<pg_sys::FromExpr>();
                    (*tree).fromlist = self.list((*tree).fromlist);
                    (*tree).quals = explicit(self.conditions((*tree).quals));
                    if (*tree).fromlist.is_null() { std::ptr::null_mut() } else { node }
                }
                NodeTag::T_JoinExpr => {
                    let join = node.cast::<pg_sys::JoinExpr>();
                    let (left, right) = (self.of((*join).larg), self.of((*join).rarg));
                    let quals = explicit(self.conditions((*join).quals));
                    if left.is_null() && right.is_null() {
                        return std::ptr::null_mut();
                    }
                    if left.is_null() || right.is_null() {
                        let one = if left.is_null() { right } else { left };
                        let list = pg_sys::lappend(std::ptr::null_mut(), one.cast());
                        return pg_sys::makeFromExpr(list, quals).cast();
                    }
                    (*join).larg = left;
                    (*join).rarg = right;
                    (*join).quals = quals;
                    self.joins = pg_sys::bms_add_member(self.joins, (*join).rtindex);
                    node
                }
                _ => std::ptr::null_mut(),
            }
        }
    }
}

/// Puts rows in the place of a table. With a marker there is one more column, which is never NULL; the
/// number of the last column is returned.
///
/// # Safety
/// A query of our own, and an occurrence of that table in it.
unsafe fn replace(
    query: *mut pg_sys::Query,
    occurrence: Occurrence,
    table: Oid,
    images: &Images,
    read: &BTreeSet<Column>,
    marker: bool,
) -> i16 {
    let table = Relation::open(table);
    let of_table = read.iter().filter(|column| column.of == occurrence);
    let numbers = of_table.map(|column| column.number).chain(images.columns.iter().copied());
    let last = numbers.max().unwrap_or(0);
    // SAFETY: constants of the types of the table's columns, as the parser makes them for VALUES.
    unsafe {
        let mut types = std::ptr::null_mut();
        let mut modifiers = std::ptr::null_mut();
        let mut collations = std::ptr::null_mut();
        let mut names = std::ptr::null_mut();
        let mut nulls = Vec::new();
        let mut column = |of, modifier, collation, name: *const _| {
            types = pg_sys::lappend_oid(types, of);
            modifiers = pg_sys::lappend_int(modifiers, modifier);
            collations = pg_sys::lappend_oid(collations, collation);
            names = pg_sys::lappend(names, pg_sys::makeString(pg_sys::pstrdup(name)).cast());
        };
        let mut attributes = Vec::new();
        for number in 1..=last {
            let attribute = &*row::attribute(table.descriptor(), i32::from(number) - 1);
            if attribute.attisdropped {
                column(pg_sys::INT4OID, -1, pg_sys::InvalidOid, c"dropped".as_ptr());
                nulls.push(pg_sys::makeNullConst(pg_sys::INT4OID, -1, pg_sys::InvalidOid));
            } else {
                let (of, modifier) = (attribute.atttypid, attribute.atttypmod);
                column(of, modifier, attribute.attcollation, attribute.attname.data.as_ptr());
                nulls.push(pg_sys::makeNullConst(of, modifier, attribute.attcollation));
            }
            attributes.push(attribute);
        }
        if marker {
            column(pg_sys::BOOLOID, -1, pg_sys::InvalidOid, c"changed".as_ptr());
        }
        let mut lists = std::ptr::null_mut();
        for values in &images.rows {
            let mut list = std::ptr::null_mut();
            for number in 1..=last {
                let place = number as usize - 1;
                let value = images.columns.iter().position(|&column| column == number);
                let constant = match value.and_then(|value| values[value]) {
                    Some(value) => pg_sys::makeConst(
                        attributes[place].atttypid,
                        attributes[place].atttypmod,
                        attributes[place].attcollation,
                        i32::from(attributes[place].attlen),
                        value,
                        false,
                        attributes[place].attbyval,
                    ),
                    None => nulls[place],
                };
                list = pg_sys::lappend(list, constant.cast());
            }
            if marker {
                list = pg_sys::lappend(list, pg_sys::makeBoolConst(true, false).cast());
            }
            lists = pg_sys::lappend(lists, list.cast());
        }
        let old = entry(query, occurrence as i32);
        let new = node::<pg_sys::RangeTblEntry>(NodeTag::T_RangeTblEntry);
        (*new).rtekind = pg_sys::RTEKind::RTE_VALUES;
        (*new).values_lists = lists;
        (*new).coltypes = types;
        (*new).coltypmods = modifiers;
        (*new).colcollations = collations;
        (*new).eref = pg_sys::makeAlias(c"changed".as_ptr(), names);
        (*new).inFromCl = true;
        *old = *new;
    }
    last + i16::from(marker)
}

/// The joins that extend a table by NULLs.
///
/// # Safety
/// A node of a join tree.
#[cfg(not(feature = "pg15"))]
unsafe fn nulling(node: *mut pg_sys::Node, table: i32) -> *mut pg_sys::Bitmapset {
    // SAFETY: a join tree holds references, joins and lists of them.
    unsafe {
        match (*node).type_ {
            NodeTag::T_FromExpr => {
                let list = (*node.cast::<pg_sys::FromExpr>()).fromlist;
                PgList::<pg_sys::Node>::from_pg(list)
                    .iter_ptr()
                    .fold(std::ptr::null_mut(), |found, part| {
                        pg_sys::bms_join(found, nulling(part, table))
                    })
            }
            NodeTag::T_JoinExpr => {
                let join = &*node.cast::<pg_sys::JoinExpr>();
                let below = pg_sys::bms_join(nulling(join.larg, table), nulling(join.rarg, table));
                let extended = match join.jointype {
                    pg_sys::JoinType::JOIN_LEFT => join.rarg,
                    pg_sys::JoinType::JOIN_RIGHT => join.larg,
                    _ => return below,
                };
                if contains(extended, table) {
                    pg_sys::bms_add_member(below, join.rtindex)
                } else {
                    below
                }
            }
            _ => std::ptr::null_mut(),
        }
    }
}

/// Whether a table stands in that part of a join tree.
///
/// # Safety
/// A node of a join tree.
#[cfg(not(feature = "pg15"))]
unsafe fn contains(node: *mut pg_sys::Node, table: i32) -> bool {
    // SAFETY: a join tree holds references, joins and lists of them.
    unsafe {
        match (*node).type_ {
            NodeTag::T_RangeTblRef => (*node.cast::<pg_sys::RangeTblRef>()).rtindex == table,
            NodeTag::T_FromExpr => {
                let list = (*node.cast::<pg_sys::FromExpr>()).fromlist;
                PgList::<pg_sys::Node>::from_pg(list).iter_ptr().any(|part| contains(part, table))
            }
            NodeTag::T_JoinExpr => {
                let join = &*node.cast::<pg_sys::JoinExpr>();
                contains(join.larg, table) || contains(join.rarg, table)
            }
            _ => false,
        }
    }
}
