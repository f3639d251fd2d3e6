//! Queries that see what the calling statement sees. SPI takes a snapshot of its own for each query of a transaction
//! that has written, unless it is told that it only reads; through pgrx there is no telling it.

use std::ffi::{CStr, CString};

use pgrx::pg_sys::{self, Datum, Oid};

/// The rows that a query of one OID returns under the active snapshot; the values as texts.
pub fn rows(sql: &'static str, argument: Oid) -> Vec<Vec<Option<String>>> {
    let sql = CString::new(sql).unwrap_or_default();
    // SAFETY: the query has one parameter of that type; what SPI returns is copied before it is freed. An ERROR ends
    // the connection with the (sub)transaction.
    unsafe {
        pg_sys::SPI_connect();
        let (mut types, mut values) = ([pg_sys::OIDOID], [Datum::from(argument)]);
        let outcome = pg_sys::SPI_execute_with_args(
            sql.as_ptr(),
            1,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            std::ptr::null(),
            true,
            0,
        );
        let mut rows = Vec::new();
        if outcome == pg_sys::SPI_OK_SELECT as i32 {
            let table = &*pg_sys::SPI_tuptable;
            for number in 0..pg_sys::SPI_processed as usize {
                let row = *table.vals.add(number);
                let value = |column| {
                    let text = pg_sys::SPI_getvalue(row, table.tupdesc, column);
                    (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
                };
                rows.push((1..=(*table.tupdesc).natts).map(value).collect());
            }
        }
        pg_sys::SPI_finish();
        rows
    }
}
