//! What a view is called.

use std::ffi::CString;

/// A schema-qualified name, unquoted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewName {
    pub schema: String,
    pub name: String,
}

impl ViewName {
    /// Schema and name as C strings. Names from the catalog hold no NUL.
    pub fn to_c(&self) -> (CString, CString) {
        let c = |text: &str| CString::new(text).unwrap_or_default();
        (c(&self.schema), c(&self.name))
    }
}

impl std::fmt::Display for ViewName {
    /// Quoted where SQL needs it.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&pgrx::spi::quote_qualified_identifier(&self.schema, &self.name))
    }
}
