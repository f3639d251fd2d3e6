//! Columns that are computed when they are read: no trigger sees their values, but those that they are computed
//! from.

use pgrx::pg_sys::{self, NodeTag};

use super::description::entry;
use super::tree_walk;
use crate::pg::relation::Relation;
use crate::pg::rows::row;
use crate::pg::statement::node;

/// `SELECT columns FROM table` with what virtual columns are computed from in their place, for an entry of a range
/// table; nothing if the query refers to none of them there.
///
/// # Safety
/// A query of our own, and the place of a table in its range table.
pub(super) unsafe fn computed(query: *mut pg_sys::Query, index: i32) -> Option<*mut pg_sys::Query> {
    // SAFETY: an open table, whose descriptor says which of its columns are virtual; the nodes are given what the
    // parser would give them for that text.
    unsafe {
        let table = Relation::open_shared((*entry(query, index)).relid);
        let constraints = (*table.descriptor()).constr;
        if constraints.is_null() || !(*constraints).has_generated_virtual {
            return None;
        }
        let is_virtual = |number: i16| {
            let attribute = row::attribute(table.descriptor(), i32::from(number) - 1);
            (*attribute).attgenerated as u8 == pg_sys::ATTRIBUTE_GENERATED_VIRTUAL
        };
        let (mut refers, mut known) = (false, true);
        tree_walk::each_variable(query, |variable| {
            if variable.varno == index {
                refers |= variable.varattno == 0
                    || variable.varattno > 0 && is_virtual(variable.varattno);
                known &= variable.varattno >= 0;
            }
        });
        if !refers || !known {
            return None;
        }

        let computed = node::<pg_sys::Query>(NodeTag::T_Query);
        (*computed).commandType = pg_sys::CmdType::CMD_SELECT;
        let source =
            pg_sys::copyObjectImpl(entry(query, index).cast()).cast::<pg_sys::RangeTblEntry>();
        let permissions = pg_sys::getRTEPermissionInfo((*query).rteperminfos, source);
        let permissions = pg_sys::copyObjectImpl(permissions.cast());
        (*source).perminfoindex = 1;
        (*computed).rtable = pg_sys::lappend(std::ptr::null_mut(), source.cast());
        (*computed).rteperminfos = pg_sys::lappend(std::ptr::null_mut(), permissions);
        let reference = node::<pg_sys::RangeTblRef>(NodeTag::T_RangeTblRef);
        (*reference).rtindex = 1;
        let from = pg_sys::lappend(std::ptr::null_mut(), reference.cast());
        (*computed).jointree = pg_sys::makeFromExpr(from, std::ptr::null_mut());
        for number in 1..=table.columns() as i16 {
            let attribute = &*row::attribute(table.descriptor(), i32::from(number) - 1);
            let shown: *mut pg_sys::Node = if attribute.attisdropped {
                pg_sys::makeNullConst(pg_sys::INT4OID, -1, pg_sys::InvalidOid).cast()
            } else if is_virtual(number) {
                pg_sys::build_generation_expression(table.as_ptr(), i32::from(number))
            } else {
                let (of, modifier) = (attribute.atttypid, attribute.atttypmod);
                pg_sys::makeVar(1, number, of, modifier, attribute.attcollation, 0).cast()
            };
            let name = pg_sys::pstrdup(attribute.attname.data.as_ptr());
            let target = pg_sys::makeTargetEntry(shown.cast(), number, name, false);
            (*computed).targetList = pg_sys::lappend((*computed).targetList, target.cast());
        }
        Some(computed)
    }
}
