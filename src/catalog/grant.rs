//! Roles that may refresh a view although they neither own nor maintain it.

use pgrx::pg_sys::Oid;

use super::query;
use super::view::ViewName;
use crate::error::{Error, Result};

const INSERT: &str = "
INSERT INTO _cache_refresher.refresh_grant (view_schema, view_name, role_name)
SELECT $1, $2, rolname FROM pg_roles WHERE oid = $3 ON CONFLICT DO NOTHING";

const DELETE: &str = "
DELETE FROM _cache_refresher.refresh_grant
 WHERE (view_schema, view_name) = ($1, $2) AND role_name = pg_get_userbyid($3)";

const HELD: &str = "
SELECT true
  FROM _cache_refresher.binding b
  JOIN _cache_refresher.refresh_grant g ON (g.view_schema, g.view_name) = (b.view_schema, b.view_name)
  JOIN pg_roles r ON r.rolname = g.role_name
 WHERE b.view = $1 AND pg_has_role($2, r.oid, 'USAGE')
 LIMIT 1";

const ROLE_NAME: &str = "SELECT rolname::text FROM pg_roles WHERE oid = $1";

/// Gives a grant; giving it twice is no error.
pub fn insert(name: &ViewName, role: Oid) -> Result<()> {
    role_name(role)?;
    let arguments = [name.schema.as_str().into(), name.name.as_str().into(), role.into()];
    query::execute(INSERT, &arguments).map(drop)
}

/// Takes a grant back; false if there was none.
pub fn delete(name: &ViewName, role: Oid) -> Result<bool> {
    role_name(role)?;
    let arguments = [name.schema.as_str().into(), name.name.as_str().into(), role.into()];
    Ok(query::execute(DELETE, &arguments)? > 0)
}

/// Whether a role holds a grant, itself or through a role that it is a member of.
pub fn is_held(view: Oid, role: Oid) -> Result<bool> {
    let rows = query::select(HELD, &[view.into(), role.into()], |row| row.required::<bool>(1))?;
    Ok(!rows.is_empty())
}

/// A role's name.
pub fn role_name(role: Oid) -> Result<String> {
    let rows = query::select(ROLE_NAME, &[role.into()], |row| row.required(1))?;
    rows.into_iter().next().ok_or(Error::NoSuchRole { role: role.to_u32() })
}
