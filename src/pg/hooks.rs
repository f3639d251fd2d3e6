//! What statements of users mean for us: the utility hook.
//!
//! It costs a look at the statement's kind, and never fails a statement that does not concern us.
//! Some statements need a database to themselves, and the server asks only autovacuum to leave: for
//! them a hold keeps our processes out until the transaction ends. Others change what is scheduled:
//! schedulers are told when they commit.

use std::ffi::{CStr, c_char};
use std::sync::OnceLock;
use std::time::Duration;

use cache_refresher_core::time::Timestamp;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{PgList, pg_guard, pg_sys};

use super::announcements::after_commit;
use super::capture_trigger::{ROW_TRIGGER, TRUNCATE_TRIGGER};
use super::{clock, identity, latch, shared, signals, transaction};

/// How long a statement waits for our processes to leave; then it runs into the server's own error.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

static mut PREVIOUS_HOOK: pg_sys::ProcessUtility_hook_type = None;

/// What is to be done beside a statement, in its transaction.
#[derive(Clone, Copy)]
pub struct Callbacks {
    /// Before the extension is dropped.
    pub before_drop: fn(),
    /// After a REFRESH of a view that our event trigger has not seen.
    pub after_refresh: fn(pg_sys::Oid),
}

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();

// The server's own function, not pgrx's guarded one: see `process_utility`.
unsafe extern "C-unwind" {
    fn standard_ProcessUtility(
        planned: *mut pg_sys::PlannedStmt,
        query: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

// The generated bindings leave it out; it raises errors.
unsafe extern "C-unwind" {
    fn has_superclass(relation: pg_sys::Oid) -> bool;
}

/// Puts our hook in front of whatever is there. Once, while the library is loaded.
pub fn install(callbacks: Callbacks) {
    CALLBACKS.get_or_init(|| callbacks);
    // SAFETY: the server is still single-threaded and this runs once.
    unsafe {
        PREVIOUS_HOOK = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// What a statement asks of us.
#[derive(Clone, Copy)]
#[repr(C)]
enum Concern {
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
    /// When it has committed, the list of databases must be read again.
    Databases,
    /// When it has committed, this database has other settings.
    Settings(u32),
    /// It makes a trigger of ours, as a dump does.
    OwnTrigger,
}

/// The hook. Deliberately without pgrx's guard: that would catch every error of every statement and
/// raise it anew, without its context and with XX000 in place of a SQLSTATE of the user's own. An
/// error of the statement passes over this frame, in which nothing has a destructor.
unsafe extern "C-unwind" fn process_utility(
    planned: *mut pg_sys::PlannedStmt,
    query: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the server passes a planned utility statement, valid for the duration of the call; the
    // arguments are passed on as they came.
    unsafe {
        let concern = before((*planned).utilityStmt);
        // Not looked at afterwards: what ends a transaction can free its own tree.
        let refreshed = refreshes_unseen((*planned).utilityStmt);
        let planned = match concern {
            Concern::OwnTrigger => replacing(planned),
            _ => planned,
        };
        PREVIOUS_HOOK.unwrap_or(standard_ProcessUtility)(
            planned,
            query,
            read_only_tree,
            context,
            parameters,
            environment,
            destination,
            completion,
        );
        after(concern, refreshed);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn before(statement: *mut pg_sys::Node) -> Concern {
    if !shared::is_available() {
        return Concern::Nothing;
    }
    // SAFETY: passed on to the caller.
    let concern = unsafe { concern(statement) }.unwrap_or(Concern::Nothing);
    match concern {
        Concern::Hold(database) => empty_database(database),
        Concern::Drop(database) => {
            empty_database(database);
            CALLBACKS.get().into_iter().for_each(|callbacks| (callbacks.before_drop)());
        }
        // Some statements commit on their way, and may fail after that.
        Concern::Views => after_commit(|pending| pending.views = true),
        _ => {}
    }
    concern
}

#[pg_guard]
unsafe extern "C-unwind" fn after(concern: Concern, refreshed: pg_sys::Oid) {
    let callbacks = CALLBACKS.get().filter(|_| refreshed != pg_sys::InvalidOid);
    callbacks.into_iter().for_each(|callbacks| (callbacks.after_refresh)(refreshed));
    match concern {
        Concern::Views => after_commit(|pending| pending.views = true),
        Concern::Extension => after_commit(|pending| pending.extension = true),
        Concern::Databases => after_commit(|pending| pending.databases = true),
        Concern::Settings(database) => after_commit(|pending| pending.settings.push(database)),
        Concern::Hold(_) | Concern::Drop(_) | Concern::OwnTrigger | Concern::Nothing => {}
    }
}

/// The view that a statement is about to refresh where no event trigger fires, or none.
///
/// # Safety
/// `statement` must be a utility statement's tree.
#[pg_guard]
unsafe extern "C-unwind" fn refreshes_unseen(statement: *mut pg_sys::Node) -> pg_sys::Oid {
    // SAFETY: variables of this process; the cast follows the node's tag.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
        let is_seen = pg_sys::IsUnderPostmaster;
        #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
        let is_seen = pg_sys::IsUnderPostmaster && pg_sys::event_triggers;
        if is_seen || (*statement).type_ != pg_sys::NodeTag::T_RefreshMatViewStmt {
            return pg_sys::InvalidOid;
        }
        named((*statement.cast::<pg_sys::RefreshMatViewStmt>()).relation)
    }
}

/// # Safety
/// `statement` must be a utility statement's tree.
unsafe fn concern(statement: *mut pg_sys::Node) -> Option<Concern> {
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
                        if names_us((*drop).objects) && identity::owns_extension() =>
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
            NodeTag::T_DropOwnedStmt | NodeTag::T_ReassignOwnedStmt => Some(Concern::Views),
            // By hand: nothing is proved of the view then. What a worker does it tells by itself.
            NodeTag::T_RefreshMatViewStmt => {
                (!super::background_worker::is_one()).then_some(Concern::Views)
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
                    .then_some(Concern::Views)
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

/// The statement with OR REPLACE: a refresh may have made the trigger before the dump does.
///
/// # Safety
/// A planned CREATE TRIGGER.
#[pg_guard]
unsafe extern "C-unwind" fn replacing(
    planned: *mut pg_sys::PlannedStmt,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: a copy, since the statement may be kept to be run again.
    unsafe {
        let copy = pg_sys::copyObjectImpl(planned.cast()).cast::<pg_sys::PlannedStmt>();
        (*(*copy).utilityStmt.cast::<pg_sys::CreateTrigStmt>()).replace = true;
        copy
    }
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
unsafe fn named(name: *const pg_sys::RangeVar) -> pg_sys::Oid {
    let lock = pg_sys::NoLock as i32;
    let options = pg_sys::RVROption::RVR_MISSING_OK;
    // SAFETY: passed on.
    unsafe { pg_sys::RangeVarGetRelidExtended(name, lock, options, None, std::ptr::null_mut()) }
}

/// # Safety
/// `node` must be a String node.
unsafe fn string_value(node: *mut pg_sys::Node) -> *const c_char {
    // SAFETY: passed on to the caller; the node's type was renamed in 15.
    unsafe {
        #[cfg(feature = "pg14")]
        return (*node.cast::<pg_sys::Value>()).val.str_;
        #[cfg(not(feature = "pg14"))]
        (*node.cast::<pg_sys::String>()).sval
    }
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

/// Keeps our processes out of a database until this transaction ends, and waits until those that are
/// there have left.
fn empty_database(oid: u32) {
    let pid = super::background_worker::my_pid();
    shared::forget_session_at_end();
    transaction::at_end(|| shared::release_holds(super::background_worker::my_pid()));
    let (mut pids, _) = shared::hold(oid, pid);
    let give_up = clock::now().plus(LEAVE_TIMEOUT);
    for &pid in &pids {
        signals::send(pid, signals::Signal::Terminate);
    }
    loop {
        for newcomer in shared::processes_in(oid) {
            if !pids.contains(&newcomer) {
                signals::send(newcomer, signals::Signal::Terminate);
                pids.push(newcomer);
            }
        }
        pids.retain(|&pid| latch::is_alive(pid));
        if pids.is_empty() || has_passed(give_up) {
            return;
        }
        latch::wait_interruptibly(Duration::from_millis(5));
    }
}

fn has_passed(at: Timestamp) -> bool {
    clock::now() >= at
}
