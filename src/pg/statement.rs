//! SQL statements that are run, or looked at, as trees instead of text.

use std::ffi::{CStr, CString};

use pgrx::{PgList, pg_sys};

use super::identity::{self, Restriction, Scope};
use super::snapshot::ActiveSnapshot;

/// The server's own REFRESH MATERIALIZED VIEW, as a statement tree, so that no name has to be quoted
/// and hooks and event triggers see it as usual. Returns the number of rows in the new content, or
/// nothing, and does nothing, if the name stands for another relation by now.
///
/// The caller holds the lock that the statement takes, and has set a snapshot that is younger than
/// its locks: the new content is what that snapshot sees.
pub fn refresh_materialized_view(
    view: pg_sys::Oid,
    schema: &CStr,
    name: &CStr,
    concurrently: bool,
) -> Option<u64> {
    let mut text = c"REFRESH MATERIALIZED VIEW ".to_owned().into_bytes();
    if concurrently {
        text.extend_from_slice(b"CONCURRENTLY ");
    }
    let qualified = pgrx::spi::quote_qualified_identifier(
        schema.to_string_lossy().as_ref(),
        name.to_string_lossy().as_ref(),
    );
    text.extend_from_slice(qualified.as_bytes());
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: nodes are allocated zeroed in the current memory context, which outlives the
    // statement, and are given the tags and fields that the server's own parser would give them.
    unsafe {
        let refresh = node::<pg_sys::RefreshMatViewStmt>(pg_sys::NodeTag::T_RefreshMatViewStmt);
        (*refresh).concurrent = concurrently;
        (*refresh).relation = pg_sys::makeRangeVar(
            pg_sys::pstrdup(schema.as_ptr()),
            pg_sys::pstrdup(name.as_ptr()),
            -1,
        );
        let namespace = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        if pg_sys::get_relname_relid(name.as_ptr(), namespace) != view {
            return None;
        }
        Some(run_utility(refresh.cast(), &text, Audience::All))
    }
}

/// ANALYZE of a table, unless somebody holds a lock against it.
pub fn analyze(table: pg_sys::Oid) {
    // SAFETY: as above; the table goes by its OID.
    unsafe {
        let statement = node::<pg_sys::VacuumStmt>(pg_sys::NodeTag::T_VacuumStmt);
        let option =
            pg_sys::makeDefElem(pg_sys::pstrdup(c"skip_locked".as_ptr()), std::ptr::null_mut(), -1);
        let none = std::ptr::null_mut();
        let target = pg_sys::makeVacuumRelation(none, table, std::ptr::null_mut());
        (*statement).options = pg_sys::lappend(std::ptr::null_mut(), option.cast());
        (*statement).rels = pg_sys::lappend(std::ptr::null_mut(), target.cast());
        run_utility(statement.cast(), c"ANALYZE of a materialized view", Audience::All);
    }
}

/// Runs definitions of what is ours alone. Event triggers are not told of them: theirs would run with nobody's
/// search_path, and what they do to every new table is not for ours.
pub fn define(definitions: &str) {
    let text = CString::new(definitions).unwrap_or_default();
    // SAFETY: what the parser has made is used once.
    unsafe {
        let parsed = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        for raw in PgList::<pg_sys::RawStmt>::from_pg(parsed).iter_ptr() {
            let _snapshot = ActiveSnapshot::take();
            run_utility((*raw).stmt, &text, Audience::Hooks);
        }
    }
}

/// Who hears of a statement.
#[derive(Clone, Copy)]
enum Audience {
    /// Hooks and event triggers.
    All,
    /// Hooks, as of a part of another statement.
    Hooks,
}

/// Runs a utility statement inside the present transaction; the rows that it processed.
///
/// # Safety
/// A statement as the parser would have made it.
unsafe fn run_utility(statement: *mut pg_sys::Node, text: &CStr, audience: Audience) -> u64 {
    let context = match audience {
        Audience::All => pg_sys::ProcessUtilityContext::PROCESS_UTILITY_QUERY,
        Audience::Hooks => pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND,
    };
    // SAFETY: the caller vouches for the statement; the rest is what the server's own callers give.
    unsafe {
        let planned = node::<pg_sys::PlannedStmt>(pg_sys::NodeTag::T_PlannedStmt);
        (*planned).commandType = pg_sys::CmdType::CMD_UTILITY;
        (*planned).canSetTag = true;
        (*planned).utilityStmt = statement;
        let mut completion = pg_sys::QueryCompletion::default();
        pg_sys::ProcessUtility(
            planned,
            text.as_ptr(),
            false,
            context,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            pg_sys::None_Receiver,
            &mut completion,
        );
        pg_sys::CommandCounterIncrement();
        completion.nprocessed
    }
}

/// # Safety
/// `T` must be the node type of `tag`.
pub(super) unsafe fn node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: palloc0 yields zeroed memory of that size, or raises an ERROR; every node starts with
    // its tag.
    unsafe {
        let node = pg_sys::palloc0(size_of::<T>()).cast::<T>();
        *node.cast::<pg_sys::NodeTag>() = tag;
        node
    }
}

/// Calls a function without arguments by its OID, which no search_path can bend.
pub fn call(function: pg_sys::Oid) {
    // SAFETY: the function manager looks the function up, and raises an ERROR if it is not there.
    unsafe { pg_sys::OidFunctionCall0Coll(function, pg_sys::InvalidOid) };
}

/// The text of a query, if it is exactly one SELECT (or VALUES, TABLE, WITH) without INTO, with all
/// names qualified as the present search_path finds them. What does not parse, or names what is not
/// there, raises the server's own error.
pub fn qualified_select(query: &str) -> Option<String> {
    let text = CString::new(query).ok()?;
    // SAFETY: parser and analyzer allocate their trees in the current memory context; the raw tree
    // is used once, as the analyzer asks.
    unsafe {
        let raw = raw_select(&text)?;
        let analyzed = pg_sys::parse_analyze_fixedparams(
            raw,
            text.as_ptr(),
            std::ptr::null(),
            0,
            std::ptr::null_mut(),
        );
        let _scope = Scope::enter(
            identity::current_role(),
            Restriction::LocalUserIdChange,
            // As it is read when it runs, whatever dates and numbers look like to the caller.
            &[
                (c"search_path", c"pg_catalog, pg_temp"),
                (c"DateStyle", c"ISO"),
                (c"IntervalStyle", c"postgres"),
                (c"extra_float_digits", c"1"),
                (c"standard_conforming_strings", c"on"),
            ],
        );
        let deparsed = pg_sys::pg_get_querydef(analyzed, false);
        let qualified = CStr::from_ptr(deparsed).to_string_lossy().into_owned();
        Some(qualified.trim_end_matches(';').to_owned())
    }
}

/// Whether a text is exactly one SELECT: then it is complete in itself, and can be put between
/// parentheses.
pub fn is_single_select(query: &str) -> bool {
    // SAFETY: only asks whether there is such a tree.
    CString::new(query).is_ok_and(|text| unsafe { raw_select(&text) }.is_some())
}

/// # Safety
/// To be called inside a transaction; the tree lives in the current memory context.
unsafe fn raw_select(text: &CStr) -> Option<*mut pg_sys::RawStmt> {
    // SAFETY: the list and its nodes are only read; each cast follows the node's tag.
    unsafe {
        let statements = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if statements.is_null() || (*statements).length != 1 {
            return None;
        }
        let raw = (*(*statements).elements).ptr_value.cast::<pg_sys::RawStmt>();
        let statement = (*raw).stmt;
        let plain = (*statement).type_ == pg_sys::NodeTag::T_SelectStmt
            && !has_into(statement.cast::<pg_sys::SelectStmt>());
        plain.then_some(raw)
    }
}

/// # Safety
/// `select` must point to a SelectStmt of a raw parse tree.
unsafe fn has_into(mut select: *mut pg_sys::SelectStmt) -> bool {
    // SAFETY: larg of a set operation is a SelectStmt again; INTO can stand in the leftmost only.
    unsafe {
        while !select.is_null() {
            if !(*select).intoClause.is_null() {
                return true;
            }
            select = (*select).larg;
        }
    }
    false
}
