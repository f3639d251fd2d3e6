//! What the tree of a view's query says about whether its result can change although no row does.

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};

use pgrx::PgList;
use pgrx::pg_sys::{self, NodeTag, Oid, PgOid};

use super::relation::Relation;
use super::view_query;

// Walkers, which the generated bindings leave out: their callback is declared without arguments.
type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

unsafe extern "C-unwind" {
    #[cfg_attr(
        not(any(feature = "pg14", feature = "pg15")),
        link_name = "expression_tree_walker_impl"
    )]
    fn expression_tree_walker(
        node: *mut pg_sys::Node,
        walker: Walker,
        context: *mut c_void,
    ) -> bool;
    #[cfg_attr(not(any(feature = "pg14", feature = "pg15")), link_name = "query_tree_walker_impl")]
    fn query_tree_walker(
        query: *mut pg_sys::Query,
        walker: Walker,
        context: *mut c_void,
        flags: c_int,
    ) -> bool;
}

/// Why the result of a query can change by itself, or in a way that no trigger sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restless {
    /// It calls a function that may return another value each time.
    Function(String),
    /// It takes a sample.
    Sample,
    /// It reads system columns, such as ctid.
    SystemColumn,
    /// It reads a table of the server itself: such have no triggers, and are not even named by what
    /// the server notes of dependencies.
    Catalog,
    /// It reads something that is neither a table nor a view, such as a sequence.
    NoTable(String),
}

/// What is found in a query, as far as it matters to capture.
#[derive(Debug, Default)]
pub struct Findings {
    /// Why nothing can be proved about it, if so.
    pub restless: Option<Restless>,
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
    // SAFETY: an open materialized view; the walker gets the findings that the calls are given.
    unsafe {
        let query = view_query::rewritten(view, None);
        walk(query.cast(), (&raw mut findings).cast());
    }
    findings
}

/// # Safety
/// A node or null, and the findings.
unsafe extern "C-unwind" fn walk(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: each cast follows the node's tag; the findings are those of `inspect`.
    unsafe {
        let findings = &mut *context.cast::<Findings>();
        match (*node).type_ {
            NodeTag::T_Query => {
                let flags = pg_sys::QTW_EXAMINE_RTES_BEFORE as c_int;
                return query_tree_walker(node.cast(), walk, context, flags);
            }
            NodeTag::T_RangeTblEntry => {
                let entry = &*node.cast::<pg_sys::RangeTblEntry>();
                if !entry.tablesample.is_null() {
                    findings.restless = Some(Restless::Sample);
                }
                let relation = entry.rtekind == pg_sys::RTEKind::RTE_RELATION;
                if relation && entry.relid.to_u32() < pg_sys::FirstNormalObjectId {
                    findings.restless = Some(Restless::Catalog);
                } else if relation && !is_table_or_view(entry.relkind as u8) {
                    let name = Relation::open_shared(entry.relid).name();
                    findings.restless = Some(Restless::NoTable(name));
                }
                // What is in it is where the caller goes.
                return false;
            }
            NodeTag::T_Var => match (*node.cast::<pg_sys::Var>()).varattno {
                0 => findings.whole_rows = true,
                number if number < 0 => findings.restless = Some(Restless::SystemColumn),
                _ => {}
            },
            NodeTag::T_SQLValueFunction => {
                findings.restless =
                    Some(Restless::Function("current_timestamp and its kin".to_owned()));
            }
            NodeTag::T_NextValueExpr => {
                findings.restless = Some(Restless::Function("nextval".to_owned()));
            }
            // They turn values of any type into text, or read them from it.
            NodeTag::T_XmlExpr | NodeTag::T_TableFunc => {
                findings.restless = Some(Restless::Function("a constructor of XML".to_owned()));
            }
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            NodeTag::T_JsonConstructorExpr => {
                findings.restless = Some(Restless::Function("a constructor of JSON".to_owned()));
            }
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            NodeTag::T_JsonExpr => {
                findings.restless = Some(Restless::Function("a query of JSON".to_owned()));
            }
            _ => {
                if (*node).type_ == NodeTag::T_Aggref
                    && let Some(name) = unordered(&*node.cast::<pg_sys::Aggref>())
                {
                    findings.unordered = Some(name);
                }
                let mut call = Call { findings, node };
                let call = (&raw mut call).cast();
                pg_sys::check_functions_in_node(node, Some(look_at_function), call);
            }
        }
        expression_tree_walker(node, walk, context)
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

/// Calls `body` with each variable of a query, wherever in it or in its subqueries it stands; it may change them.
///
/// # Safety
/// A query of our own.
pub(super) unsafe fn each_variable(
    query: *mut pg_sys::Query,
    mut body: impl FnMut(&mut pg_sys::Var),
) {
    let mut visit = Visit { body: &mut body, level: 0 };
    // SAFETY: the closure outlives the walk, which knows its type.
    unsafe { query_tree_walker(query, visit_variable, (&raw mut visit).cast(), 0) };
}

/// The same of an expression of a query itself.
///
/// # Safety
/// An expression of our own.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
pub(super) unsafe fn each_variable_in(
    expression: *mut pg_sys::Node,
    mut body: impl FnMut(&mut pg_sys::Var),
) {
    let mut visit = Visit { body: &mut body, level: 0 };
    // SAFETY: as above.
    unsafe { visit_variable(expression, (&raw mut visit).cast()) };
}

/// Where a walk is.
struct Visit<'a> {
    body: &'a mut dyn FnMut(&mut pg_sys::Var),
    /// How many queries up the one lies that it began with.
    level: u32,
}

/// # Safety
/// Called by the server for each node, with a `Visit`.
unsafe extern "C-unwind" fn visit_variable(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: each cast follows the node's tag.
    unsafe {
        match (*node).type_ {
            NodeTag::T_Query => {
                (*context.cast::<Visit>()).level += 1;
                query_tree_walker(node.cast(), visit_variable, context, 0);
                (*context.cast::<Visit>()).level -= 1;
                return false;
            }
            NodeTag::T_Var => {
                let variable = &mut *node.cast::<pg_sys::Var>();
                let visit = &mut *context.cast::<Visit>();
                if variable.varlevelsup == visit.level {
                    (visit.body)(variable);
                }
            }
            _ => {}
        }
        expression_tree_walker(node, visit_variable, context)
    }
}

/// Calls `body` with each subquery in an expression of a query itself; it may change them.
///
/// # Safety
/// A query of our own.
pub(super) unsafe fn each_sublink(
    query: *mut pg_sys::Query,
    mut body: impl FnMut(&mut pg_sys::SubLink),
) {
    let mut body: &mut dyn FnMut(&mut pg_sys::SubLink) = &mut body;
    let flags = pg_sys::QTW_IGNORE_RT_SUBQUERIES | pg_sys::QTW_IGNORE_CTE_SUBQUERIES;
    // SAFETY: the closure outlives the walk, which knows its type.
    unsafe {
        query_tree_walker(query, visit_sublink, (&raw mut body).cast(), flags as c_int);
    }
}

/// The same of an expression or a list of those, or of null.
///
/// # Safety
/// Nodes of our own.
pub(super) unsafe fn each_sublink_in(
    node: *mut pg_sys::Node,
    mut body: impl FnMut(&mut pg_sys::SubLink),
) {
    let mut body: &mut dyn FnMut(&mut pg_sys::SubLink) = &mut body;
    // SAFETY: as above.
    unsafe { visit_sublink(node, (&raw mut body).cast()) };
}

/// Whether an expression has a parameter, which stands for what a subquery returns.
///
/// # Safety
/// An expression or null.
pub(super) unsafe fn has_parameter(node: *mut pg_sys::Node) -> bool {
    // SAFETY: the walker takes no context.
    unsafe { is_parameter(node, std::ptr::null_mut()) }
}

/// # Safety
/// A node or null.
unsafe extern "C-unwind" fn is_parameter(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the cast follows the node's tag; subqueries are not looked into.
    unsafe {
        match (*node).type_ {
            NodeTag::T_Param => true,
            NodeTag::T_Query => false,
            _ => expression_tree_walker(node, is_parameter, context),
        }
    }
}

/// # Safety
/// Called by the server for each node, with the context of `each_sublink`.
unsafe extern "C-unwind" fn visit_sublink(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: each cast follows the node's tag.
    unsafe {
        match (*node).type_ {
            NodeTag::T_Query => return false,
            NodeTag::T_SubLink => {
                (*context.cast::<&mut dyn FnMut(&mut pg_sys::SubLink)>())(&mut *node.cast());
            }
            _ => {}
        }
        expression_tree_walker(node, visit_sublink, context)
    }
}

/// The tables that the query of a view reads, plain views beneath included, and in how many places.
pub fn tables(view: &Relation) -> HashMap<Oid, usize> {
    let mut tables = HashMap::new();
    // SAFETY: an open materialized view; the walker gets the set that it is given.
    unsafe {
        let query = view_query::rewritten(view, None);
        visit_table(query.cast(), (&raw mut tables).cast());
    }
    // Up to version 15 the query of a view names the view itself, without reading it.
    tables.remove(&view.oid());
    tables
}

/// # Safety
/// A node or null, and counts by OID.
unsafe extern "C-unwind" fn visit_table(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: each cast follows the node's tag.
    unsafe {
        match (*node).type_ {
            NodeTag::T_Query => {
                let flags = pg_sys::QTW_EXAMINE_RTES_BEFORE as c_int;
                return query_tree_walker(node.cast(), visit_table, context, flags);
            }
            // One that nobody refers to is not run.
            NodeTag::T_CommonTableExpr
                if (*node.cast::<pg_sys::CommonTableExpr>()).cterefcount == 0 =>
            {
                return false;
            }
            NodeTag::T_RangeTblEntry => {
                let entry = &*node.cast::<pg_sys::RangeTblEntry>();
                let is_table = entry.rtekind == pg_sys::RTEKind::RTE_RELATION
                    && entry.relkind as u8 != pg_sys::RELKIND_VIEW;
                if is_table {
                    *(*context.cast::<HashMap<Oid, usize>>()).entry(entry.relid).or_default() += 1;
                }
                return false;
            }
            _ => {}
        }
        expression_tree_walker(node, visit_table, context)
    }
}

/// A node that calls functions.
struct Call<'a> {
    findings: &'a mut Findings,
    node: *mut pg_sys::Node,
}

/// # Safety
/// Called for each function of a node, with a `Call`.
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
            call.findings.restless = Some(Restless::Function(name.to_string_lossy().into_owned()));
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
