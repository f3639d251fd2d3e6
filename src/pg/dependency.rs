//! What goes when something else goes.

use std::ffi::CStr;

use pgrx::pg_sys;

/// Lets DROP TYPE take a column of the log with it, instead of being refused: the table itself can be of another type
/// by then.
pub fn column_goes_with_type(log: pg_sys::Oid, column: &CStr, of: pg_sys::Oid) {
    let address = |class, object, part| pg_sys::ObjectAddress {
        classId: class,
        objectId: object,
        objectSubId: part,
    };
    // SAFETY: records a dependency in place of another between a column, which was just made, and its type.
    unsafe {
        pg_sys::deleteDependencyRecordsForSpecific(
            pg_sys::RelationRelationId,
            log,
            pg_sys::DependencyType::DEPENDENCY_NORMAL as i8,
            pg_sys::TypeRelationId,
            of,
        );
        pg_sys::recordDependencyOn(
            &address(
                pg_sys::RelationRelationId,
                log,
                i32::from(pg_sys::get_attnum(log, column.as_ptr())),
            ),
            &address(pg_sys::TypeRelationId, of, 0),
            pg_sys::DependencyType::DEPENDENCY_AUTO,
        );
    }
}

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
