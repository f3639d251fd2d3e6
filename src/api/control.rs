//! `cancel`, `grant_refresh`, `revoke_refresh`.

use pgrx::pg_sys::Oid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::registration::registered;
use super::view;
use crate::catalog::{grant, lock_holder};
use crate::error::Error;
use crate::pg::process::latch;
use crate::pg::process::signals::{self, Signal};
use crate::pg::{identity, shared};
use crate::refresh::privilege;

/// By the marks in shared memory. Without preload, by who holds the view's refresh lock and is running a query:
/// since that may be another one, the caller needs the rights of whoever runs it.
#[pg_extern(sql = false)]
fn cancel(view: Option<Oid>) -> Result<bool, ErrorReport> {
    let view = self::view(view)?;
    privilege::require_refresh(&view)?;
    let running = shared::running(identity::current_database());
    let of_view = running
        .iter()
        .filter(|running| running.view == view.oid.to_u32() && latch::is_alive(running.pid));
    let mut pids: Vec<i32> = of_view.map(|running| running.pid).collect();
    if pids.is_empty() {
        // One of a group that has its turn later holds the lock already; so does one that is done, of a call that
        // goes on with others.
        let is_of_group = |running: &shared::Running| running.is_of_several();
        let is_marked = |pid| running.iter().any(|one| one.pid == pid && is_of_group(one));
        let holders = lock_holder::active(view.oid)?.into_iter();
        let refreshing = holders.filter(|&(pid, role)| match shared::is_available() {
            true => is_marked(pid),
            false => identity::acts_for(role),
        });
        pids = refreshing.map(|(pid, _)| pid).collect();
    }
    for &pid in &pids {
        shared::note_cancel(pid, view.oid.to_u32());
        signals::send(pid, Signal::Cancel);
    }
    Ok(!pids.is_empty())
}

#[pg_extern(sql = false)]
fn grant_refresh(view: Option<Oid>, role: Option<Oid>) -> Result<(), ErrorReport> {
    let role = role.ok_or(Error::NullArgument { argument: "role" })?;
    let (_, registration) = registered(view)?;
    grant::insert(&registration.name, role)?;
    Ok(())
}

#[pg_extern(sql = false)]
fn revoke_refresh(view: Option<Oid>, role: Option<Oid>) -> Result<(), ErrorReport> {
    let role = role.ok_or(Error::NullArgument { argument: "role" })?;
    let (_, registration) = registered(view)?;
    if !grant::delete(&registration.name, role)? {
        let role = grant::role_name(role)?;
        return Err(Error::NotGranted { name: registration.name.to_string(), role }.into());
    }
    Ok(())
}
