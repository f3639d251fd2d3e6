//! The queries that map changed rows to units: the view's own joins, with the changed rows in the place
//! of one table.

use std::collections::BTreeSet;

use cache_refresher_core::delta::{Column, Occurrence};
use pgrx::PgList;
use pgrx::pg_sys::{self, Datum, NodeTag, Oid};

use super::flat_query;
use super::query_description::{conjuncts, entry};
use super::relation::Relation;
use super::row;
use super::statement::node;
use super::view_query::{self, ViewQuery};

/// Rows that a table had or has, reduced to some of its columns.
#[derive(Debug, Clone, Default)]
pub struct Images {
    /// Numbers of the columns.
    pub columns: Vec<i16>,
    /// Values of those columns; NULL as nothing.
    pub rows: Vec<Vec<Option<Datum>>>,
}

/// Plans the query that finds the units which rows in the place of `changed` can concern.
///
/// `arm` is the number among the queries that the view combines. `instead` are tables for which old rows stand as well; `filter` are the parts of WHERE that stay;
/// `read` are the columns that conditions read.
pub fn plan(
    view: &Relation,
    (arm, unit_place): (usize, usize),
    changed: (Occurrence, Oid, &Images),
    instead: &[(Occurrence, Oid, &Images)],
    filter: &[usize],
    read: &BTreeSet<Column>,
) -> ViewQuery {
    // SAFETY: a copy of the stored query, changed before anybody else sees it: what is left of it is
    // SELECT unit FROM … WHERE …
    unsafe {
        let query = flat_query::arms(view)[arm];
        let targets = PgList::<pg_sys::TargetEntry>::from_pg((*query).targetList);
        let unit = targets.iter_ptr().filter(|target| !(**target).resjunk).nth(unit_place);
        let unit = unit.map_or(std::ptr::null_mut(), |target| (*target).expr.cast());
        let unit = ungrouped(query, unit);
        let target =
            pg_sys::makeTargetEntry(unit.cast(), 1, pg_sys::pstrdup(c"unit".as_ptr()), false);
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

        let tree = (*query).jointree;
        let parts = conjuncts((*tree).quals);
        let mut kept = std::ptr::null_mut();
        for &place in filter {
            if let Some(&part) = parts.get(place) {
                kept = pg_sys::lappend(kept, part.cast());
            }
        }
        let (occurrence, table, images) = changed;
        let last = replace(query, occurrence, table, images, read, true);
        let marker =
            pg_sys::makeVar(occurrence as i32, last, pg_sys::BOOLOID, -1, pg_sys::InvalidOid, 0);
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        {
            (*marker).varnullingrels = nulling(tree.cast(), occurrence as i32);
        }
        let taken = node::<pg_sys::NullTest>(NodeTag::T_NullTest);
        (*taken).arg = marker.cast();
        (*taken).nulltesttype = pg_sys::NullTestType::IS_NOT_NULL;
        (*taken).location = -1;
        kept = pg_sys::lappend(kept, taken.cast());
        (*tree).quals = pg_sys::make_ands_explicit(kept).cast();
        for &(occurrence, table, images) in instead {
            replace(query, occurrence, table, images, read, false);
        }
        ViewQuery::planned(view_query::rewrite(query))
    }
}

/// An expression with the columns of GROUP BY replaced by what they stand for; the query is one without
/// groups from then on.
///
/// # Safety
/// The query and an expression of its own.
unsafe fn ungrouped(query: *mut pg_sys::Query, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    #[cfg(feature = "pg18")]
    // SAFETY: the entry for the groups is not referred to any more once the expression is flat.
    unsafe {
        if (*query).hasGroupRTE {
            let flat = pg_sys::flatten_group_exprs(std::ptr::null_mut(), query, node);
            (*query).hasGroupRTE = false;
            for entry in PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).iter_ptr() {
                if (*entry).rtekind == pg_sys::RTEKind::RTE_GROUP {
                    (*entry).rtekind = pg_sys::RTEKind::RTE_RESULT;
                    (*entry).groupexprs = std::ptr::null_mut();
                }
            }
            return flat;
        }
    }
    let _ = query;
    node
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
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
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
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
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
