//! What schedulers and the launcher are told of when a transaction commits.

use std::cell::RefCell;

use pgrx::pg_sys;

use crate::pg::{identity, shared, transaction};

/// What is to be told when the current transaction has committed.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) refreshed: bool,
    pub(super) views: bool,
    pub(super) extension: bool,
    pub(super) databases: bool,
    pub(super) settings: Vec<u32>,
    sources: Vec<u32>,
}

thread_local! {
    static PENDING: RefCell<Pending> = RefCell::new(Pending::default());
}

/// Notes something that is to be told.
pub(super) fn after_commit(note: impl FnOnce(&mut Pending)) {
    // A statement that ends its own transaction (COMMIT PREPARED, CREATE DATABASE) is told of at
    // once or at the end of the transaction that the server opens for it.
    PENDING.with_borrow_mut(note);
    if transaction::is_usable() {
        transaction::once_at_commit(tell, || drop(PENDING.take()));
    } else {
        tell();
    }
}

/// Has the scheduler of this database look at the registry again once this transaction commits.
pub fn registry_changed() {
    if shared::is_available() {
        after_commit(|pending| pending.extension = true);
    }
}

/// Has the scheduler of this database learn of a refresh once this transaction commits.
pub fn view_refreshed() {
    if shared::is_available() {
        after_commit(|pending| pending.refreshed = true);
    }
}

/// Has the scheduler of this database learn of a change once this transaction commits: of a table, or
/// by its own OID of a view about which somebody said so.
pub fn source_changed(source: pg_sys::Oid) {
    let source = source.to_u32();
    let known = PENDING.with_borrow(|pending| pending.sources.contains(&source));
    if shared::is_available() && !known {
        after_commit(|pending| pending.sources.push(source));
    }
}

fn tell() {
    let pending = PENDING.take();
    let here = identity::current_database();
    shared::sources_changed(here, &pending.sources);
    if pending.extension {
        shared::poke(here);
    } else if pending.views {
        shared::nudge(here);
    } else if pending.refreshed {
        shared::poke_running(here);
    }
    if pending.databases {
        shared::request_rescan();
    }
    for database in pending.settings {
        shared::replace_processes(database);
    }
}
