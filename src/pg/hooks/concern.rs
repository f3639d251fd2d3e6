//! What a statement of a user asks of us, by its tree.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{PgList, pg_sys};

use crate::pg::changes::capture_trigger::{ROW_TRIGGER, TRUNCATE_TRIGGER};
use crate::pg::extension::Extension;
use crate::pg::identity;
use crate::pg::process::background_worker;

// The generated bindings leave it out; it raises errors.
unsafe extern "C-unwind" {
    fn has_superclass(relation: pg_sys::Oid) -> bool;
}

/// What a statement asks of us.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) enum Concern {
    /// Nothing.
    Nothing,
    /// Our processes have to leave this database first.
    Hold(u32),
    /// The same of this one, from which the extension is dropped.
    Drop(u32),
    /// When it has committed, the registered views of this database must be looked at again.
    Views,
    /// When it has committed, the extension may be in this database.
    Extension,
    /// It commits what another session has prepared, of which nobody has told.
    Prepared,
    /// When it has committed, the list of databases must be read again.
    Databases,
    /// When it has committed, this database has other settings.
    Settings(u32),
    /// It makes a trigger of ours, as a dump does.
    OwnTrigger,
}

/// # Safety
/// `statement` must be a utility statement's tree.
pub(super) unsafe fn of(statement: *mut pg_sys::Node) -> Option<Concern> {
    use pg_sys::{NodeTag, ObjectType};
    // SAFETY: each cast follows the node's tag.
    unsafe {
        match (*statement).type_ {
            NodeTag::T_DropdbStmt => {
                own_database((*statement.cast::<pg_sys::DropdbStmt>()).dbname).map(Concern::Hold)
            }
            NodeTag::T_CreatedbStmt => {
                let options = (*statement.cast::<pg_sys::CreatedbStmt>()).options;
                let template = option(options, c"template")
                    // TEMPLATE DEFAULT
                    .filter(|&element| !(*element).arg.is_null())
                    .map(|element| pg_sys::defGetString(element))
                    .and_then(|name| own_database(name));
                Some(template.map_or(Concern::Databases, Concern::Hold))
            }
            NodeTag::T_AlterDatabaseStmt => {
                let alter = statement.cast::<pg_sys::AlterDatabaseStmt>();
                match option((*alter).options, c"tablespace") {
                    Some(_) => own_database((*alter).dbname).map(Concern::Hold),
                    None => Some(Concern::Databases),
                }
            }
            NodeTag::T_AlterDatabaseSetStmt => {
                database((*statement.cast::<pg_sys::AlterDatabaseSetStmt>()).dbname)
                    .map(Concern::Settings)
            }
            NodeTag::T_AlterRoleSetStmt => {
                // ALTER ROLE ALL IN DATABASE … SET is ALTER DATABASE … SET by another name. What a role sets
                // for itself does not concern our processes.
                let alter = &*statement.cast::<pg_sys::AlterRoleSetStmt>();
                let all = alter.role.is_null().then(|| database(alter.database));
                all.flatten().map(Concern::Settings)
            }
            NodeTag::T_RenameStmt => {
                let rename = statement.cast::<pg_sys::RenameStmt>();
                match (*rename).renameType {
                    ObjectType::OBJECT_DATABASE => {
                        own_database((*rename).subname).map(Concern::Hold)
                    }
                    // Of what a view is, of what it reads or computes with, or of its owner.
                    _ => Some(Concern::Views),
                }
            }
            NodeTag::T_AlterObjectSchemaStmt => Some(Concern::Views),
            // Partitions come and go, and columns change: what is proved of a view rests on them.
            NodeTag::T_AlterTableStmt => {
                let alter = &*statement.cast::<pg_sys::AlterTableStmt>();
                let of_no_concern = names_temporary(alter.relation) && !changes_parents(alter.cmds);
                (!of_no_concern).then_some(Concern::Views)
            }
            NodeTag::T_CreateStmt | NodeTag::T_CreateForeignTableStmt => {
                // That of a foreign table begins with the other.
                let create = statement.cast::<pg_sys::CreateStmt>();
                (!(*create).inhRelations.is_null()).then_some(Concern::Views)
            }
            NodeTag::T_DropStmt => {
                let drop = statement.cast::<pg_sys::DropStmt>();
                match (*drop).removeType {
                    ObjectType::OBJECT_EXTENSION
                        if names_us((*drop).objects) && ours(Extension::is_owned) =>
                    {
                        Some(Concern::Drop(identity::current_database()))
                    }
                    ObjectType::OBJECT_SCHEMA
                        if (*drop).behavior == pg_sys::DropBehavior::DROP_CASCADE
                            && ours(|ours| names_schema((*drop).objects, ours.schema)) =>
                    {
                        Some(Concern::Drop(identity::current_database()))
                    }
                    ObjectType::OBJECT_TABLE
                        if (*drop).behavior != pg_sys::DropBehavior::DROP_CASCADE
                            && !names_child((*drop).objects) =>
                    {
                        None
                    }
                    _ => Some(Concern::Views),
                }
            }
            NodeTag::T_DropOwnedStmt => {
                let roles = (*statement.cast::<pg_sys::DropOwnedStmt>()).roles;
                let takes_us = ours(|ours| ours.is_owned() && names_role(roles, ours.owner));
                let here = identity::current_database();
                Some(if takes_us { Concern::Drop(here) } else { Concern::Views })
            }
            NodeTag::T_ReassignOwnedStmt => Some(Concern::Views),
            // By hand: nothing is proved of the view then. What a worker does it tells by itself.
            NodeTag::T_RefreshMatViewStmt => {
                (!background_worker::is_one()).then_some(Concern::Views)
            }
            // What views read, or compute with, may be another thing from now on.
            NodeTag::T_ViewStmt
            | NodeTag::T_RuleStmt
            | NodeTag::T_CreateFunctionStmt
            | NodeTag::T_AlterFunctionStmt
            | NodeTag::T_CreateCastStmt
            | NodeTag::T_CreateOpClassStmt
            | NodeTag::T_AlterOpFamilyStmt
            | NodeTag::T_DefineStmt
            | NodeTag::T_AlterOperatorStmt
            | NodeTag::T_AlterTypeStmt
            | NodeTag::T_CompositeTypeStmt
            | NodeTag::T_CreateEnumStmt
            | NodeTag::T_AlterEnumStmt
            | NodeTag::T_CreateDomainStmt
            | NodeTag::T_CreateRangeStmt
            | NodeTag::T_AlterDomainStmt
            | NodeTag::T_AlterCollationStmt
            | NodeTag::T_AlterTSConfigurationStmt
            | NodeTag::T_AlterTSDictionaryStmt
            | NodeTag::T_AlterOwnerStmt
            | NodeTag::T_AlterRoleStmt
            | NodeTag::T_GrantRoleStmt
            | NodeTag::T_CreateSchemaStmt
            | NodeTag::T_ReindexStmt => Some(Concern::Views),
            NodeTag::T_GrantStmt => {
                let object = (*statement.cast::<pg_sys::GrantStmt>()).objtype;
                let functions = [
                    ObjectType::OBJECT_FUNCTION,
                    ObjectType::OBJECT_PROCEDURE,
                    ObjectType::OBJECT_ROUTINE,
                ];
                functions.contains(&object).then_some(Concern::Views)
            }
            NodeTag::T_IndexStmt => {
                let table = named((*statement.cast::<pg_sys::IndexStmt>()).relation);
                let kind = pg_sys::get_rel_relkind(table) as u8;
                (kind == pg_sys::RELKIND_MATVIEW).then_some(Concern::Views)
            }
            NodeTag::T_ClusterStmt | NodeTag::T_AlterEventTrigStmt => Some(Concern::Views),
            NodeTag::T_VacuumStmt => {
                let options = (*statement.cast::<pg_sys::VacuumStmt>()).options;
                option(options, c"full").map(|_| Concern::Views)
            }
            NodeTag::T_CreateTrigStmt => {
                let create = &*statement.cast::<pg_sys::CreateTrigStmt>();
                (is_ours(create.trigname) && names_capture(create.funcname))
                    .then_some(Concern::OwnTrigger)
            }
            NodeTag::T_CreateTableAsStmt => {
                let create = statement.cast::<pg_sys::CreateTableAsStmt>();
                ((*create).objtype == ObjectType::OBJECT_MATVIEW).then_some(Concern::Views)
            }
            NodeTag::T_CreateExtensionStmt => {
                let name = (*statement.cast::<pg_sys::CreateExtensionStmt>()).extname;
                is_us(name).then_some(Concern::Extension)
            }
            NodeTag::T_AlterExtensionStmt => {
                let name = (*statement.cast::<pg_sys::AlterExtensionStmt>()).extname;
                is_us(name).then_some(Concern::Extension)
            }
            // Callbacks of the preparing session do not run here.
            NodeTag::T_TransactionStmt => {
                let kind = (*statement.cast::<pg_sys::TransactionStmt>()).kind;
                (kind == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED)
                    .then_some(Concern::Prepared)
            }
            _ => None,
        }
    }
}

/// # Safety
/// `name` must be null or a C string.
unsafe fn is_us(name: *const c_char) -> bool {
    // SAFETY: checked for null; a C string otherwise.
    unsafe { !name.is_null() && CStr::from_ptr(name) == c"cache_refresher" }
}

/// # Safety
/// `name` must be null or a C string.
unsafe fn is_ours(name: *const c_char) -> bool {
    // SAFETY: checked for null; a C string otherwise.
    unsafe { !name.is_null() && [ROW_TRIGGER, TRUNCATE_TRIGGER].contains(&CStr::from_ptr(name)) }
}

/// Whether a qualified name is that of the trigger function.
///
/// # Safety
/// `names` must be a list of String nodes.
unsafe fn names_capture(names: *mut pg_sys::List) -> bool {
    // SAFETY: as said.
    unsafe {
        let names = PgList::<pg_sys::Node>::from_pg(names);
        let names: Vec<&CStr> =
            names.iter_ptr().map(|name| CStr::from_ptr(string_value(name))).collect();
        names == [c"_cache_refresher", c"capture_change"]
    }
}

/// # Safety
/// `names` must be a list of String nodes.
unsafe fn names_us(names: *mut pg_sys::List) -> bool {
    // SAFETY: DROP EXTENSION has a list of String nodes, whose text strVal reads.
    unsafe {
        let names = PgList::<pg_sys::Node>::from_pg(names);
        names.iter_ptr().any(|name| is_us(string_value(name)))
    }
}

/// Whether that is so of this extension, if it is here.
fn ours(is_so: impl FnOnce(&Extension) -> bool) -> bool {
    Extension::find().is_some_and(|ours| is_so(&ours))
}

/// Whether a schema is among those to be dropped by somebody who may drop it.
///
/// # Safety
/// `names` must be a list of String nodes.
unsafe fn names_schema(names: *mut pg_sys::List, schema: pg_sys::Oid) -> bool {
    // SAFETY: DROP SCHEMA has a list of String nodes; what does not exist is none.
    let is_named = unsafe {
        let names = PgList::<pg_sys::Node>::from_pg(names);
        names.iter_ptr().any(|name| pg_sys::get_namespace_oid(string_value(name), true) == schema)
    };
    is_named && identity::owns_schema(schema)
}

/// # Safety
/// `roles` must be a list of RoleSpec nodes.
unsafe fn names_role(roles: *mut pg_sys::List, role: pg_sys::Oid) -> bool {
    // SAFETY: as said; a role that does not exist is none.
    unsafe {
        let roles = PgList::<pg_sys::RoleSpec>::from_pg(roles);
        roles.iter_ptr().any(|named| pg_sys::get_rolespec_oid(named, true) == role)
    }
}

/// Whether a table to be dropped is a partition or another child: who reads its parent reads it.
///
/// # Safety
/// `names` must be what DROP TABLE names.
unsafe fn names_child(names: *mut pg_sys::List) -> bool {
    // SAFETY: each of them is a list of the parts of a name; what does not exist is none.
    unsafe {
        PgList::<pg_sys::List>::from_pg(names).iter_ptr().any(|name| {
            let table = named(pg_sys::makeRangeVarFromNameList(name));
            table != pg_sys::InvalidOid && pg_guard_ffi_boundary(|| has_superclass(table))
        })
    }
}

/// Whether a relation is one of this session's own, which no view names. Each REFRESH … CONCURRENTLY alters
/// one.
///
/// # Safety
/// `name` must be the name of a relation.
unsafe fn names_temporary(name: *const pg_sys::RangeVar) -> bool {
    // SAFETY: passed on; what does not exist is in no schema.
    unsafe { pg_sys::isTempOrTempToastNamespace(pg_sys::get_rel_namespace(named(name))) }
}

/// # Safety
/// The commands of an ALTER TABLE.
unsafe fn changes_parents(commands: *mut pg_sys::List) -> bool {
    use pg_sys::AlterTableType as Type;
    let of_parents = [Type::AT_AddInherit, Type::AT_DropInherit];
    // SAFETY: as said.
    unsafe {
        let commands = PgList::<pg_sys::AlterTableCmd>::from_pg(commands);
        commands.iter_ptr().any(|command| of_parents.contains(&(*command).subtype))
    }
}

/// The relation of that name, or `InvalidOid`.
///
/// # Safety
/// `name` must be the name of a relation.
pub(super) unsafe fn named(name: *const pg_sys::RangeVar) -> pg_sys::Oid {
    let lock = pg_sys::NoLock as i32;
    let options = pg_sys::RVROption::RVR_MISSING_OK;
    // SAFETY: passed on.
    unsafe { pg_sys::RangeVarGetRelidExtended(name, lock, options, None, std::ptr::null_mut()) }
}

/// # Safety
/// `node` must be a String node.
unsafe fn string_value(node: *mut pg_sys::Node) -> *const c_char {
    // SAFETY: passed on to the caller.
    unsafe { (*node.cast::<pg_sys::String>()).sval }
}

/// The database, if the current role may do with it what needs it empty: others get their error from
/// the server, and must not disturb anybody by trying.
///
/// # Safety
/// `name` must be null or a C string.
unsafe fn own_database(name: *const c_char) -> Option<u32> {
    // SAFETY: passed on to the caller.
    unsafe { database(name) }.filter(|&oid| identity::owns_database(oid))
}

/// # Safety
/// `name` must be null or a C string.
unsafe fn database(name: *const c_char) -> Option<u32> {
    if name.is_null() {
        return None;
    }
    // SAFETY: looks the name up in pg_database, inside the statement's transaction.
    let oid = unsafe { pg_sys::get_database_oid(name, true) };
    (oid != pg_sys::InvalidOid).then(|| oid.to_u32())
}

/// # Safety
/// `options` must be a list of DefElem nodes.
unsafe fn option(options: *mut pg_sys::List, name: &CStr) -> Option<*mut pg_sys::DefElem> {
    // SAFETY: each element of such a list is a DefElem with a name.
    unsafe {
        let options = PgList::<pg_sys::DefElem>::from_pg(options);
        options.iter_ptr().find(|element| CStr::from_ptr((**element).defname) == name)
    }
}
