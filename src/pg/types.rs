//! Types by their OIDs.

use std::ffi::CStr;

use pgrx::pg_sys;

/// The type beneath a domain, else the type itself, and its name as SQL writes it under any search_path.
pub fn base(of: pg_sys::Oid) -> (pg_sys::Oid, String) {
    // SAFETY: looks up the catalogs; raises an ERROR if there is no such type.
    unsafe {
        let base = pg_sys::getBaseType(of);
        // That the length is not given matters: character means character(1).
        let flags = pg_sys::FORMAT_TYPE_TYPEMOD_GIVEN | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
        let name = CStr::from_ptr(pg_sys::format_type_extended(base, -1, flags as _));
        (base, name.to_string_lossy().into_owned())
    }
}

/// The name of a type, as messages write it.
pub fn name(of: pg_sys::Oid) -> String {
    // SAFETY: looks up the catalogs; a palloc'd C string.
    unsafe { CStr::from_ptr(pg_sys::format_type_be(of)) }.to_string_lossy().into_owned()
}

/// Types whose values look the same if they are equal: unlike 1.0 and 1.00, or 0 and -0.
const EXACT: &[pg_sys::Oid] = &[
    pg_sys::BOOLOID,
    pg_sys::BYTEAOID,
    pg_sys::CHAROID,
    pg_sys::INT8OID,
    pg_sys::INT2OID,
    pg_sys::INT4OID,
    pg_sys::OIDOID,
    pg_sys::DATEOID,
    pg_sys::TIMEOID,
    pg_sys::TIMESTAMPOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::UUIDOID,
];

/// Whether values of a type look the same if they are equal.
pub fn equal_looks_same(of: pg_sys::Oid, collation: pg_sys::Oid) -> bool {
    // SAFETY: looks up the catalogs.
    unsafe {
        let of = pg_sys::getBaseType(of);
        let is_text = [pg_sys::TEXTOID, pg_sys::VARCHAROID].contains(&of);
        EXACT.contains(&of)
            || pg_sys::type_is_enum(of)
            || is_text
                && collation != pg_sys::InvalidOid
                && pg_sys::get_collation_isdeterministic(collation)
    }
}

/// Whether a log keeps values of a type: not of one that is made of columns, nor of domains within others. Who wants to
/// change such a type is refused as long as any table has a column of it.
pub fn is_kept(of: pg_sys::Oid) -> bool {
    // SAFETY: looks up the catalogs.
    unsafe {
        let of = pg_sys::getBaseType(of);
        let within = match pg_sys::get_typtype(of) as u8 {
            pg_sys::TYPTYPE_COMPOSITE | pg_sys::TYPTYPE_PSEUDO => return false,
            pg_sys::TYPTYPE_RANGE => pg_sys::get_range_subtype(of),
            pg_sys::TYPTYPE_MULTIRANGE => {
                pg_sys::get_range_subtype(pg_sys::get_multirange_range(of))
            }
            _ => pg_sys::get_element_type(of),
        };
        within == pg_sys::InvalidOid
            || pg_sys::get_typtype(within) as u8 != pg_sys::TYPTYPE_DOMAIN && is_kept(within)
    }
}
