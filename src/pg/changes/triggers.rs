//! The triggers on captured tables, made and removed.
//!
//! By the table's OID: between a look-up of its name and a statement that names it, the name can pass to another
//! table, and what runs as the owner of the extension would be done to that.

use std::ffi::{CStr, CString};

use pgrx::pg_sys::{self, Oid};

use super::capture_trigger::{ROW_TRIGGER, TRUNCATE_TRIGGER};
use super::change_log::Watch;
use crate::pg::{dependency, transaction};

/// Makes them, or has those that are there watch what they are to watch now. The caller holds a lock against writers.
pub fn create(table: Oid, watch: &Watch) {
    for (name, event) in [
        (ROW_TRIGGER, "INSERT OR UPDATE OR DELETE ON captured FOR EACH ROW"),
        (TRUNCATE_TRIGGER, "TRUNCATE ON captured FOR EACH STATEMENT"),
    ] {
        let definition = format!(
            "CREATE OR REPLACE TRIGGER {} AFTER {event}
                 EXECUTE FUNCTION _cache_refresher.capture_change('{}')",
            name.to_string_lossy(),
            watch.to_argument()
        );
        define(table, &CString::new(definition).unwrap_or_default());
        dependency::trigger_goes_with_extension(table, name);
    }
}

/// Makes a trigger on that table, whatever table its definition names. It fires in replicas, too.
fn define(table: Oid, definition: &CStr) {
    let none = pg_sys::InvalidOid;
    // SAFETY: what the server does with such a statement after looking up the table; the text is one CREATE TRIGGER.
    unsafe {
        let parsed =
            pg_sys::raw_parser(definition.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT);
        let raw = (*(*parsed).elements).ptr_value.cast::<pg_sys::RawStmt>();
        pg_sys::CreateTriggerFiringOn(
            (*raw).stmt.cast::<pg_sys::CreateTrigStmt>(),
            definition.as_ptr(),
            table,
            none,
            none,
            none,
            none,
            none,
            std::ptr::null_mut(),
            false,
            false,
            pg_sys::TRIGGER_FIRES_ALWAYS as std::ffi::c_char,
        );
    }
    transaction::next_command();
}

/// Removes them, where they are.
pub fn remove(table: Oid) {
    for name in [ROW_TRIGGER, TRUNCATE_TRIGGER] {
        // SAFETY: looks up a catalog, and removes what was found there as DROP TRIGGER does.
        unsafe {
            let trigger = pg_sys::ObjectAddress {
                classId: pg_sys::TriggerRelationId,
                objectId: pg_sys::get_trigger_oid(table, name.as_ptr(), true),
                objectSubId: 0,
            };
            if trigger.objectId != pg_sys::InvalidOid {
                pg_sys::performDeletion(&raw const trigger, pg_sys::DropBehavior::DROP_RESTRICT, 0);
            }
        }
    }
}
