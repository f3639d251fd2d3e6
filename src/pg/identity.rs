//! Who code runs as, with which settings, and who may do what.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;

/// Under which restrictions code runs as another role.
#[derive(Clone, Copy)]
pub enum Restriction {
    /// The role cannot be changed from within.
    LocalUserIdChange = pg_sys::SECURITY_LOCAL_USERID_CHANGE as isize,
    /// In addition nothing can be left behind: no temporary objects, no cursors, no LISTEN.
    RestrictedOperation =
        (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as isize,
}

/// Runs as another role with pinned settings until dropped.
///
/// Dropping also happens when an ERROR unwinds; the server would put both back at the end of the
/// transaction anyway, but code that catches the error before that must run as the caller again.
pub struct Scope {
    role: pg_sys::Oid,
    context: i32,
    nest_level: i32,
}

impl Scope {
    /// As the bootstrap superuser, who owns nothing of the user's: for reading and writing our own
    /// tables with queries that nobody's search_path can bend.
    pub fn internal() -> Self {
        Self::ours(
            Restriction::RestrictedOperation,
            &[
                // Our queries look things up by OID, and any plan of theirs is as good as another: the
                // server would make one anew for each of the first five calls.
                (c"plan_cache_mode", c"force_generic_plan"),
                // By its estimates a query of the catalogs of many tables is worth compiling, which takes it half a
                // second instead of a millisecond.
                (c"jit", c"off"),
            ],
        )
    }

    /// The same where objects are made that stay.
    pub fn internal_with(restriction: Restriction) -> Self {
        Self::ours(
            restriction,
            &[
                (c"lock_timeout", c"2000"),
                (c"client_min_messages", c"warning"),
                (c"default_tablespace", c""),
                (c"default_toast_compression", c"pglz"),
            ],
        )
    }

    /// As the bootstrap superuser, with what all of our own statements need, and these settings.
    fn ours(restriction: Restriction, settings: &[(&CStr, &CStr)]) -> Self {
        let scope = Self::enter(
            bootstrap(),
            restriction,
            &[
                (c"search_path", c"pg_catalog, pg_temp"),
                (c"session_replication_role", c"origin"),
                (c"standard_conforming_strings", c"on"),
            ],
        );
        for (name, value) in settings {
            set_locally(name, value);
        }
        scope
    }

    /// As `role`, with `settings` in force.
    pub fn enter(role: pg_sys::Oid, restriction: Restriction, settings: &[(&CStr, &CStr)]) -> Self {
        let mut saved_role = pg_sys::InvalidOid;
        let mut context = 0;
        // SAFETY: out parameters are valid; what is changed here is put back by Drop.
        let nest_level = unsafe {
            pg_sys::GetUserIdAndSecContext(&mut saved_role, &mut context);
            let nest_level = pg_sys::NewGUCNestLevel();
            pg_sys::SetUserIdAndSecContext(role, context | restriction as i32);
            nest_level
        };
        let scope = Self { role: saved_role, context, nest_level };
        for (name, value) in settings {
            set_locally(name, value);
        }
        scope
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // SAFETY: scopes nest strictly, so the level and the identity are the ones that `enter` saw.
        unsafe {
            pg_sys::AtEOXact_GUC(false, self.nest_level);
            pg_sys::SetUserIdAndSecContext(self.role, self.context);
        }
    }
}

/// Makes `session_user` that role until the end of the transaction, in a background worker and outside of all
/// scopes; the present role stays what it is. Policies and functions of others ask for it: a view's query must
/// not be taken for the administrator's because a worker runs it.
pub fn act_for(role: pg_sys::Oid) {
    set_session_user(role, pg_sys::GucAction::GUC_ACTION_LOCAL);
}

/// Gives this background worker a `session_user` by name, to which the end of a transaction goes back.
/// Inside a transaction.
pub fn begin_session() {
    set_session_user(bootstrap(), pg_sys::GucAction::GUC_ACTION_SET);
}

fn set_session_user(role: pg_sys::Oid, action: pg_sys::GucAction::Type) {
    // SAFETY: the name is copied; the session has been authenticated as a superuser, who may be anybody. The
    // parameter sets the present role as well, which is put back.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role, false);
        pg_sys::set_config_option(
            c"session_authorization".as_ptr(),
            name,
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
        pg_sys::SetUserIdAndSecContext(bootstrap(), 0);
    }
}

fn bootstrap() -> pg_sys::Oid {
    pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID)
}

/// Sets a parameter until the innermost scope ends. One that has the value already is left alone: to set some costs
/// more than to compare, such as reading files of time zones.
pub fn set_locally(name: &CStr, value: &CStr) {
    if setting(name).as_deref() == Some(value) {
        return;
    }
    // SAFETY: both strings outlive the call, which copies them.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

/// Sets a parameter for the life of this process, over whatever role, database and server say.
pub fn override_setting(name: &CStr, value: &CStr) {
    // SAFETY: both strings outlive the call, which copies them.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_OVERRIDE,
        );
    }
}

/// The present value of a parameter, as the server stores it: numbers without a unit.
pub fn setting(name: &CStr) -> Option<CString> {
    // SAFETY: the returned string belongs to the server and is copied at once.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_owned())
    }
}

/// The current role.
pub fn current_role() -> pg_sys::Oid {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::GetUserId() }
}

/// The server, told from all others and from copies that pg_createsubscriber makes.
pub fn server() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetSystemIdentifier() }
}

/// Whether this process applies what is replicated logically.
pub fn applies_replication() -> bool {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::IsLogicalWorker() }
}

/// The database that this process is connected to.
pub fn current_database() -> u32 {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The name of that database. Inside a transaction.
pub fn current_database_name() -> String {
    // SAFETY: a palloc'd C string, or null where there is no such database.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        if name.is_null() {
            String::new()
        } else {
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

/// Whether the current role has the rights of another.
pub fn acts_for(role: pg_sys::Oid) -> bool {
    // SAFETY: looks up the catalog.
    unsafe { pg_sys::has_privs_of_role(current_role(), role) }
}

/// Whether the current role has the rights of the owner of `relation`.
pub fn owns(relation: pg_sys::Oid) -> bool {
    // SAFETY: looks up the catalog; raises an ERROR if the relation is gone.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_class_ownercheck(relation, current_role());
        #[cfg(not(feature = "pg15"))]
        pg_sys::object_ownercheck(pg_sys::RelationRelationId, relation, current_role())
    }
}

/// The same; false if the relation is gone.
pub fn owns_if_there(relation: pg_sys::Oid) -> bool {
    // SAFETY: looks up the catalog.
    let kind = unsafe { pg_sys::get_rel_relkind(relation) };
    kind != 0 && owns(relation)
}

/// Whether the current role has the rights of the owner of a database.
pub fn owns_database(database: u32) -> bool {
    let database = pg_sys::Oid::from(database);
    // SAFETY: looks up the catalog; raises an ERROR if the database is gone.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_database_ownercheck(database, current_role());
        #[cfg(not(feature = "pg15"))]
        pg_sys::object_ownercheck(pg_sys::DatabaseRelationId, database, current_role())
    }
}

/// Whether the current role has the rights of the owner of a schema.
pub fn owns_schema(schema: pg_sys::Oid) -> bool {
    // SAFETY: looks up the catalog; raises an ERROR if the schema is gone.
    unsafe {
        #[cfg(feature = "pg15")]
        return pg_sys::pg_namespace_ownercheck(schema, current_role());
        #[cfg(not(feature = "pg15"))]
        pg_sys::object_ownercheck(pg_sys::NamespaceRelationId, schema, current_role())
    }
}

/// Whether the current role holds MAINTAIN on `relation` (17 and later).
pub fn may_maintain(relation: pg_sys::Oid) -> bool {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    {
        let _ = relation;
        false
    }
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    // SAFETY: looks up the catalog; raises an ERROR if the relation is gone.
    unsafe {
        pg_sys::pg_class_aclcheck(relation, current_role(), pg_sys::ACL_MAINTAIN as pg_sys::AclMode)
            == pg_sys::AclResult::ACLCHECK_OK
    }
}

/// Whether the current role has the rights of pg_monitor.
pub fn is_monitor() -> bool {
    // SAFETY: looks up the catalogs.
    unsafe { pg_sys::has_privs_of_role(current_role(), pg_sys::Oid::from(pg_sys::ROLE_PG_MONITOR)) }
}

/// The same, or whether it may read `relation`; not of one that is gone.
pub fn may_see(relation: pg_sys::Oid) -> bool {
    let (select, mut is_missing) = (pg_sys::ACL_SELECT as pg_sys::AclMode, false);
    // SAFETY: looks up the catalogs.
    is_monitor()
        || unsafe {
            pg_sys::pg_class_aclcheck_ext(relation, current_role(), select, &mut is_missing)
                == pg_sys::AclResult::ACLCHECK_OK
        }
}

/// Whether the current role may create objects in a schema; false where there is no such schema and
/// the role is not a superuser.
pub fn may_create_in(schema: &str) -> bool {
    let Ok(schema) = CString::new(schema) else {
        return false;
    };
    // SAFETY: looks up the catalogs.
    unsafe {
        let namespace = pg_sys::get_namespace_oid(schema.as_ptr(), true);
        if namespace == pg_sys::InvalidOid {
            return pg_sys::superuser();
        }
        #[cfg(feature = "pg15")]
        let result = pg_sys::pg_namespace_aclcheck(
            namespace,
            current_role(),
            pg_sys::ACL_CREATE as pg_sys::AclMode,
        );
        #[cfg(not(feature = "pg15"))]
        let result = pg_sys::object_aclcheck(
            pg_sys::NamespaceRelationId,
            namespace,
            current_role(),
            pg_sys::ACL_CREATE as pg_sys::AclMode,
        );
        result == pg_sys::AclResult::ACLCHECK_OK
    }
}
