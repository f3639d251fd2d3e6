//! What goes when something else goes.

use std::ffi::CStr;

use pgrx::pg_sys;

/// Lets DROP EXTENSION take a trigger with it, as ALTER TRIGGER … DEPENDS ON EXTENSION does, but
/// without its lock against readers of the table.
pub fn trigger_goes_with_extension(table: pg_sys::Oid, trigger: &CStr) {
    // SAFETY: looks up catalogs, and records a dependency between what was found there.
    unsafe {
        let trigger = pg_sys::ObjectAddress {
            classId: pg_sys::TriggerRelationId,
            objectId: pg_sys::get_trigger_oid(table, trigger.as_ptr(), false),
            objectSubId: 0,
        };
        let extension = pg_sys::ObjectAddress {
            classId: pg_sys::ExtensionRelationId,
            objectId: pg_sys::get_extension_oid(c"cache_refresher".as_ptr(), false),
            objectSubId: 0,
        };
        // Replaced triggers keep what was recorded.
        pg_sys::deleteDependencyRecordsForSpecific(
            trigger.classId,
            trigger.objectId,
            pg_sys::DependencyType::DEPENDENCY_AUTO_EXTENSION as i8,
            extension.classId,
            extension.objectId,
        );
        let auto = pg_sys::DependencyType::DEPENDENCY_AUTO_EXTENSION;
        pg_sys::recordDependencyOn(&trigger, &extension, auto);
    }
}
