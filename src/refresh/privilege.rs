//! Who may do what with a view.

use crate::catalog::grant;
use crate::catalog::view::View;
use crate::error::{Error, Result};
use crate::pg::identity;

/// Register, alter, pause, grant: the owner.
pub fn require_owner(view: &View) -> Result<()> {
    if identity::owns(view.oid) {
        Ok(())
    } else {
        Err(Error::NotOwner { name: view.name.to_string() })
    }
}

/// Refresh, invalidate and cancel: the owner, MAINTAIN, or a role with a grant of ours.
pub fn require_refresh(view: &View) -> Result<()> {
    if may_refresh(view)? {
        Ok(())
    } else {
        let role = grant::role_name(identity::current_role())?;
        Err(Error::MayNotRefresh { name: view.name.to_string(), role })
    }
}

/// Whether the current role may refresh a view.
pub fn may_refresh(view: &View) -> Result<bool> {
    Ok(identity::owns(view.oid)
        || identity::may_maintain(view.oid)
        || grant::is_held(view.oid, identity::current_role())?)
}

/// Freshness: whoever may read the view, and pg_monitor.
pub fn require_see(view: &View) -> Result<()> {
    if identity::may_see(view.oid) {
        Ok(())
    } else {
        Err(Error::MayNotSee { name: view.name.to_string() })
    }
}
