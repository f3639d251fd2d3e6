//! The databases of the server, read by a process that is connected to none of them.

use std::ffi::CStr;

use pgrx::pg_sys;

/// A row of pg_database.
pub struct DatabaseRow {
    /// OID.
    pub oid: u32,
    /// Name.
    pub name: String,
    /// Neither a template, nor closed to connections, nor half dropped.
    pub is_connectable: bool,
}

/// All databases. Inside a transaction. A plain scan of the shared catalog, as the autovacuum
/// launcher does: SPI needs catalogs that exist only in a database.
pub fn list() -> Vec<DatabaseRow> {
    let mut rows = Vec::new();
    // SAFETY: the scan is opened, read and closed here under ACCESS SHARE; each tuple is valid until
    // the next call of heap_getnext, and what is kept of it is copied.
    unsafe {
        let relation = pg_sys::table_open(
            pg_sys::DatabaseRelationId,
            pg_sys::AccessShareLock as pg_sys::LOCKMODE,
        );
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            rows.push(DatabaseRow {
                oid: (*row).oid.to_u32(),
                name: CStr::from_ptr((*row).datname.data.as_ptr()).to_string_lossy().into_owned(),
                // A connection limit of -2 marks a database whose DROP was interrupted.
                is_connectable: (*row).datallowconn
                    && !(*row).datistemplate
                    && (*row).datconnlimit != -2,
            });
        }
        // heap_endscan through the table access method.
        pg_sys::table_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
    }
    rows
}
