//! What the tree of a view's query says about whether its result can change although no row does.

use std::ffi::{CStr, c_void};

use cache_refresher_core::obstacle::Obstacle;
use pgrx::pg_sys::{self, NodeTag, Oid, PgOid};
use pgrx::{PgList, pg_guard};

use super::{tree_walk, view_query};
use crate::pg::relation::Relation;

/// What is found in a query, as far as it matters to capture.
#[derive(Debug, Default)]
pub struct Findings {
    /// Why nothing can be proved about it, if so.
    pub restless: Option<Obstacle>,
    /// It uses rows as a whole: all columns matter.
    pub whole_rows: bool,
    /// An aggregate whose result depends on the order in which rows come, which the query leaves open.
    pub unordered: Option<String>,
}

/// How built-in aggregates begin that put values together in the order in which they come.
const COLLECTING: &[&[u8]] = &[
    b"array_agg",
    b"json_agg",
    b"json_object_agg",
    b"jsonb_agg",
    b"jsonb_object_agg",
    b"string_agg",
    b"xmlagg",
];

/// Those whose result does not depend on the order even where they compute with floating-point numbers.
const ORDERLESS: &[&CStr] = &[c"any_value", c"count", c"max", c"min"];

/// Built-in functions that are STABLE only because they depend on settings, which are the same in every
/// refresh.
const STEADY: &[&CStr] = &[
    c"date",
    c"date_part",
    c"date_trunc",
    c"extract",
    c"interval_pl_timestamptz",
    c"time",
    c"timestamp",
    c"timestamptz",
    c"timestamptz_mi_interval",
    c"timestamptz_pl_interval",
    c"timezone",
    c"to_char",
    c"to_date",
    c"to_timestamp",
];

/// The same for comparisons of dates and times of several types.
const STEADY_PREFIXES: &[&[u8]] = &[
    b"date_cmp_timestamptz",
    b"date_eq_",
    b"date_ge_",
    b"date_gt_",
    b"date_le_",
    b"date_lt_",
    b"date_ne_",
    b"timestamp_cmp_",
    b"timestamp_eq_",
    b"timestamp_ge_",
    b"timestamp_gt_",
    b"timestamp_le_",
    b"timestamp_lt_",
    b"timestamp_ne_",
    b"timestamptz_cmp_",
    b"timestamptz_eq_",
    b"timestamptz_ge_",
    b"timestamptz_gt_",
    b"timestamptz_le_",
    b"timestamptz_lt_",
    b"timestamptz_ne_",
];

/// Built-in functions that turn values of any type into text: steady for types whose text is.
const STEADY_FOR_PLAIN_TYPES: &[&CStr] = &[
    c"anytextcat",
    c"array_to_string",
    c"concat",
    c"concat_ws",
    c"format",
    c"json_agg",
    c"json_build_array",
    c"json_build_object",
    c"json_object_agg",
    c"jsonb_agg",
    c"jsonb_build_array",
    c"jsonb_build_object",
    c"jsonb_object_agg",
    c"textanycat",
    c"to_json",
    c"to_jsonb",
];

/// Types whose text depends on settings alone: the usual built-in ones. Not among them are types that
/// show names from the catalogs, and money.
const PLAIN_TYPES: &[pg_sys::BuiltinOid] = {
    use pg_sys::BuiltinOid as B;
    &[
        B::BOOLOID,
        B::BYTEAOID,
        B::CHAROID,
        B::NAMEOID,
        B::INT8OID,
        B::INT2OID,
        B::INT4OID,
        B::TEXTOID,
        B::OIDOID,
        B::JSONOID,
        B::JSONBOID,
        B::FLOAT4OID,
        B::FLOAT8OID,
        B::UNKNOWNOID,
        B::BPCHAROID,
        B::VARCHAROID,
        B::DATEOID,
        B::TIMEOID,
        B::TIMESTAMPOID,
        B::TIMESTAMPTZOID,
        B::INTERVALOID,
        B::TIMETZOID,
        B::NUMERICOID,
        B::UUIDOID,
        B::INETOID,
        B::CIDROID,
        B::MACADDROID,
    ]
};

/// Looks through the query of a view, plain views beneath included.
pub fn inspect(view: &Relation) -> Findings {
    let mut findings = Findings::default();
    // SAFETY: an open materialized view; what is rewritten is a copy of our own.
    unsafe {
        let query = view_query::rewritten(view, None);
        let flags = pg_sys::QTW_EXAMINE_RTES_BEFORE;
        tree_walk::each_node(query, flags, |node, _| findings.add(node));
    }
    findings
}

impl Findings {
    /// Adds what a node says by itself; whether those below it are to be looked at, too.
    ///
    /// # Safety
    /// A node of a query.
    unsafe fn add(&mut self, node: *mut pg_sys::Node) -> bool {
        let calls = |name: &str| Some(Obstacle::Restless(name.to_owned()));
        // SAFETY: each cast follows the node's tag.
        unsafe {
            match (*node).type_ {
                NodeTag::T_RangeTblEntry => {
                    self.add_entry(&*node.cast());
                    // The walk goes on with what is in it.
                    return false;
                }
                NodeTag::T_Var => match (*node.cast::<pg_sys::Var>()).varattno {
                    0 => self.whole_rows = true,
                    number if number < 0 => self.restless = Some(Obstacle::SystemColumn),
                    _ => {}
                },
                NodeTag::T_SQLValueFunction => {
                    self.restless = calls("current_timestamp and its kin");
                }
                NodeTag::T_NextValueExpr => self.restless = calls("nextval"),
                // They turn values of any type into text, or read them from it.
                NodeTag::T_XmlExpr | NodeTag::T_TableFunc => {
                    self.restless = calls("a constructor of XML");
                }
                #[cfg(not(feature = "pg15"))]
                NodeTag::T_JsonConstructorExpr => self.restless = calls("a constructor of JSON"),
                #[cfg(any(feature = "pg17", feature = "pg18"))]
                NodeTag::T_JsonExpr => self.restless = calls("a query of JSON"),
                tag => {
                    if tag == NodeTag::T_Aggref
                        && let Some(name) = unordered(&*node.cast::<pg_sys::Aggref>())
                    {
                        self.unordered = Some(name);
                    }
                    let mut call = Call { findings: self, node };
                    let call = (&raw mut call).cast();
                    pg_sys::check_functions_in_node(node, Some(look_at_function), call);
                }
            }
        }
        true
    }

    fn add_entry(&mut self, entry: &pg_sys::RangeTblEntry) {
        if !entry.tablesample.is_null() {
            self.restless = Some(Obstacle::Sample);
        }
        if entry.rtekind != pg_sys::RTEKind::RTE_RELATION {
            return;
        }
        if entry.relid.to_u32() < pg_sys::FirstNormalObjectId {
            self.restless = Some(Obstacle::Catalog);
        } else if !is_table_or_view(entry.relkind as u8) {
            self.restless = Some(Obstacle::NoTable(Relation::open_shared(entry.relid).name()));
        }
    }
}

/// What an aggregate is called that returns something else where rows come in another order.
///
/// # Safety
/// A node of a query.
unsafe fn unordered(aggregate: &pg_sys::Aggref) -> Option<String> {
    // SAFETY: a catalog look-up; the name is palloc'd, or null where the function is gone. Arguments are target
    // entries.
    unsafe {
        let name = pg_sys::get_func_name(aggregate.aggfnoid);
        let built_in = aggregate.aggfnoid.to_u32() < pg_sys::FirstUnpinnedObjectId;
        // For DISTINCT they are sorted as well.
        let sorted = !aggregate.aggorder.is_null() || !aggregate.aggdistinct.is_null();
        if name.is_null() || !built_in || sorted {
            return None;
        }
        let name = CStr::from_ptr(name);
        let arguments = PgList::<pg_sys::TargetEntry>::from_pg(aggregate.args);
        let computes_with_floats = arguments.iter_ptr().any(|entry| {
            matches!(pg_sys::exprType((*entry).expr.cast()), pg_sys::FLOAT4OID | pg_sys::FLOAT8OID)
        });
        let depends = COLLECTING.iter().any(|begin| name.to_bytes().starts_with(begin))
            || (computes_with_floats && !ORDERLESS.contains(&name));
        depends.then(|| name.to_string_lossy().into_owned())
    }
}

const fn is_table_or_view(kind: u8) -> bool {
    matches!(
        kind,
        pg_sys::RELKIND_RELATION
            | pg_sys::RELKIND_PARTITIONED_TABLE
            | pg_sys::RELKIND_VIEW
            | pg_sys::RELKIND_MATVIEW
            | pg_sys::RELKIND_FOREIGN_TABLE
    )
}

/// A node that calls functions.
struct Call<'a> {
    findings: &'a mut Findings,
    node: *mut pg_sys::Node,
}

/// # Safety
/// Called for each function of a node, with a `Call`.
#[pg_guard]
unsafe extern "C-unwind" fn look_at_function(function: Oid, context: *mut c_void) -> bool {
    // SAFETY: catalog look-ups; the name is palloc'd, or null where the function is gone.
    unsafe {
        let call = &mut *context.cast::<Call>();
        let volatility = pg_sys::func_volatile(function) as u8;
        let built_in = function.to_u32() < pg_sys::FirstUnpinnedObjectId;
        // Every aggregate says so, whatever it consists of.
        let aggregate = matches!((*call.node).type_, NodeTag::T_Aggref | NodeTag::T_WindowFunc);
        if volatility == pg_sys::PROVOLATILE_IMMUTABLE && (built_in || !aggregate) {
            return false;
        }
        let name = pg_sys::get_func_name(function);
        if name.is_null() {
            return false;
        }
        let name = CStr::from_ptr(name);
        let prefixed = || STEADY_PREFIXES.iter().any(|prefix| name.to_bytes().starts_with(prefix));
        let steady = volatility == pg_sys::PROVOLATILE_STABLE
            && built_in
            && (STEADY.contains(&name)
                || prefixed()
                || (STEADY_FOR_PLAIN_TYPES.contains(&name) && has_plain_arguments(call.node)));
        if !steady {
            call.findings.restless = Some(Obstacle::Restless(name.to_string_lossy().into_owned()));
        }
    }
    false
}

/// Whether the arguments of a call are of types whose text depends on settings alone.
///
/// # Safety
/// A node that calls a function.
unsafe fn has_plain_arguments(node: *mut pg_sys::Node) -> bool {
    // SAFETY: each cast follows the node's tag; arguments are expressions, those of aggregates in
    // target entries, of which exprType takes the expression.
    unsafe {
        let arguments = match (*node).type_ {
            NodeTag::T_FuncExpr => (*node.cast::<pg_sys::FuncExpr>()).args,
            NodeTag::T_OpExpr => (*node.cast::<pg_sys::OpExpr>()).args,
            NodeTag::T_Aggref => (*node.cast::<pg_sys::Aggref>()).args,
            _ => return false,
        };
        PgList::<pg_sys::Node>::from_pg(arguments).iter_ptr().all(|argument| {
            let expression = match (*argument).type_ {
                NodeTag::T_TargetEntry => (*argument.cast::<pg_sys::TargetEntry>()).expr.cast(),
                _ => argument,
            };
            let of = pg_sys::exprType(expression);
            let element = pg_sys::get_element_type(of);
            let of = if element == pg_sys::InvalidOid { of } else { element };
            PLAIN_TYPES.iter().any(|plain| plain.oid() == PgOid::from(of))
        })
    }
}
