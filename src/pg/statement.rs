//! SQL statements that are run, or looked at, as trees instead of text.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// The server's own REFRESH MATERIALIZED VIEW, as a statement tree, so that no name has to be quoted
/// and hooks and event triggers see it as usual. Returns the number of rows in the new content.
///
/// The caller holds the lock that the statement takes, and has set a snapshot that is younger than
/// its locks: the new content is what that snapshot sees.
pub fn refresh_materialized_view(schema: &CStr, name: &CStr, concurrently: bool) -> u64 {
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
        let planned = node::<pg_sys::PlannedStmt>(pg_sys::NodeTag::T_PlannedStmt);
        (*planned).commandType = pg_sys::CmdType::CMD_UTILITY;
        (*planned).canSetTag = true;
        (*planned).utilityStmt = refresh.cast();
        let mut completion = pg_sys::QueryCompletion::default();
        pg_sys::ProcessUtility(
            planned,
            text.as_ptr(),
            false,
            pg_sys::ProcessUtilityContext::PROCESS_UTILITY_QUERY,
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
unsafe fn node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: palloc0 yields zeroed memory of that size, or raises an ERROR; every node starts with
    // its tag.
    unsafe {
        let node = pg_sys::palloc0(size_of::<T>()).cast::<T>();
        *node.cast::<pg_sys::NodeTag>() = tag;
        node
    }
}

/// The text of a query without its semicolon, if it is exactly one SELECT (or VALUES, TABLE, WITH)
/// without INTO. Text that does not parse raises the parser's own error.
///
/// Such a text can be put between parentheses: it is complete in itself.
pub fn single_select(query: &str) -> Option<String> {
    let text = CString::new(query).ok()?;
    // SAFETY: the parser reads the text and allocates its tree in the current memory context; the
    // list and nodes are only read here.
    let (location, length) = unsafe {
        let statements = pg_sys::raw_parser(text.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        if statements.is_null() || (*statements).length != 1 {
            return None;
        }
        let raw = (*(*statements).elements)
            .ptr_value
            .cast::<pg_sys::RawStmt>();
        let statement = (*raw).stmt;
        if (*statement).type_ != pg_sys::NodeTag::T_SelectStmt
            || has_into(statement.cast::<pg_sys::SelectStmt>())
        {
            return None;
        }
        ((*raw).stmt_location, (*raw).stmt_len)
    };
    let start = usize::try_from(location).unwrap_or(0);
    let rest = query.get(start..)?;
    let body = match usize::try_from(length) {
        Ok(length) if length > 0 => rest.get(..length)?,
        _ => rest,
    };
    Some(body.to_owned())
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
