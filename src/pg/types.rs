//! Types by their OIDs.

use std::ffi::CStr;

use pgrx::pg_sys;

/// The type beneath a domain, else the type itself, and its name as SQL writes it under any search_path.
pub fn base(of: pg_sys::Oid) -> (pg_sys::Oid, String) {
    // SAFETY: looks up the catalogs; raises an ERROR if there is no such type.
    unsafe {
        let base = pg_sys::getBaseType(of);
        let name = CStr::from_ptr(pg_sys::format_type_be_qualified(base));
        (base, name.to_string_lossy().into_owned())
    }
}
