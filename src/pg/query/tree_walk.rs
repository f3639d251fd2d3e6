//! Walking through the tree of a query.

use std::ffi::{c_int, c_void};

use pgrx::pg_guard;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, NodeTag};

// The generated bindings of older servers leave these out, since their callback is declared without arguments.
// They raise errors: `Walk` calls them behind a guard.
type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

unsafe extern "C-unwind" {
    #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
    fn expression_tree_walker(
        node: *mut pg_sys::Node,
        walker: Walker,
        context: *mut c_void,
    ) -> bool;
    #[cfg_attr(not(feature = "pg15"), link_name = "query_tree_walker_impl")]
    fn query_tree_walker(
        query: *mut pg_sys::Query,
        walker: Walker,
        context: *mut c_void,
        flags: c_int,
    ) -> bool;
}

/// Where a walk is, and what it is for.
struct Walk<'a> {
    body: &'a mut dyn FnMut(*mut pg_sys::Node, u32) -> bool,
    flags: c_int,
    /// How many queries up the one lies that it began with.
    level: u32,
}

impl Walk<'_> {
    /// # Safety
    /// A query.
    unsafe fn through(&mut self, query: *mut pg_sys::Query) {
        let flags = self.flags;
        let context = (&raw mut *self).cast();
        // SAFETY: the walker gets the walk, which outlives it.
        unsafe { pg_guard_ffi_boundary(|| query_tree_walker(query, visit, context, flags)) };
    }
}

/// # Safety
/// Called by the server for each node, with the walk.
#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the walk is borrowed by nobody else while the server calls back; the cast follows the node's tag.
    unsafe {
        let walk = &mut *context.cast::<Walk>();
        if !(walk.body)(node, walk.level) {
            return false;
        }
        if (*node).type_ == NodeTag::T_Query {
            walk.level += 1;
            walk.through(node.cast());
            walk.level -= 1;
            return false;
        }
        pg_guard_ffi_boundary(|| expression_tree_walker(node, visit, context))
    }
}

/// Calls `body` with each node of a query, also of those in it, and with how many queries up that one lies; it says
/// whether to go on below the node. `flags` are those of the server's own walker.
///
/// # Safety
/// A query; the body may change nodes, if it is one of our own.
pub(super) unsafe fn each_node(
    query: *mut pg_sys::Query,
    flags: u32,
    mut body: impl FnMut(*mut pg_sys::Node, u32) -> bool,
) {
    let mut walk = Walk { body: &mut body, flags: flags as c_int, level: 0 };
    // SAFETY: the caller vouches for the query.
    unsafe { walk.through(query) };
}

/// The same of an expression of a query, or a list of those, or null.
///
/// # Safety
/// Nodes; the body may change them, if they are our own.
pub(super) unsafe fn each_node_in(
    expression: *mut pg_sys::Node,
    mut body: impl FnMut(*mut pg_sys::Node, u32) -> bool,
) {
    let mut walk = Walk { body: &mut body, flags: 0, level: 0 };
    // SAFETY: the caller vouches for the nodes; the walker gets the walk, which outlives it.
    unsafe { pg_guard_ffi_boundary(|| visit(expression, (&raw mut walk).cast())) };
}

/// A variable of the query itself, if a node is one.
///
/// # Safety
/// A node of our own, so many queries below.
unsafe fn variable<'a>(node: *mut pg_sys::Node, level: u32) -> Option<&'a mut pg_sys::Var> {
    // SAFETY: the cast follows the node's tag.
    unsafe {
        ((*node).type_ == NodeTag::T_Var)
            .then(|| &mut *node.cast::<pg_sys::Var>())
            .filter(|variable| variable.varlevelsup == level)
    }
}

/// Calls `body` with each variable of a query, wherever in it or in its subqueries it stands; it may change them.
///
/// # Safety
/// A query of our own.
pub(super) unsafe fn each_variable(
    query: *mut pg_sys::Query,
    mut body: impl FnMut(&mut pg_sys::Var),
) {
    // SAFETY: passed on.
    unsafe {
        each_node(query, 0, |node, level| {
            variable(node, level).into_iter().for_each(&mut body);
            true
        });
    }
}

/// The same of an expression of a query.
///
/// # Safety
/// An expression of our own.
#[cfg(not(feature = "pg15"))]
pub(super) unsafe fn each_variable_in(
    expression: *mut pg_sys::Node,
    mut body: impl FnMut(&mut pg_sys::Var),
) {
    // SAFETY: passed on.
    unsafe {
        each_node_in(expression, |node, level| {
            variable(node, level).into_iter().for_each(&mut body);
            true
        });
    }
}

/// Calls `body` with a subquery in an expression, if a node is one; whether to go on below the node, which is not
/// so within a query.
///
/// # Safety
/// A node of our own.
unsafe fn sublink(node: *mut pg_sys::Node, body: &mut impl FnMut(&mut pg_sys::SubLink)) -> bool {
    // SAFETY: the cast follows the node's tag.
    unsafe {
        if (*node).type_ == NodeTag::T_SubLink {
            body(&mut *node.cast::<pg_sys::SubLink>());
        }
        (*node).type_ != NodeTag::T_Query
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
    let flags = pg_sys::QTW_IGNORE_RT_SUBQUERIES | pg_sys::QTW_IGNORE_CTE_SUBQUERIES;
    // SAFETY: passed on.
    unsafe { each_node(query, flags, |node, _| sublink(node, &mut body)) };
}

/// The same of an expression or a list of those, or of null.
///
/// # Safety
/// Nodes of our own.
pub(super) unsafe fn each_sublink_in(
    expression: *mut pg_sys::Node,
    mut body: impl FnMut(&mut pg_sys::SubLink),
) {
    // SAFETY: passed on.
    unsafe { each_node_in(expression, |node, _| sublink(node, &mut body)) };
}

/// Whether an expression has a parameter, which stands for what a subquery returns.
///
/// # Safety
/// An expression or null.
pub(super) unsafe fn has_parameter(expression: *mut pg_sys::Node) -> bool {
    let mut found = false;
    // SAFETY: nodes have tags; subqueries are not looked into.
    unsafe {
        each_node_in(expression, |node, _| {
            found |= (*node).type_ == NodeTag::T_Param;
            (*node).type_ != NodeTag::T_Query
        });
    }
    found
}
