//! Transactions of background workers, subtransactions of functions, and what is to happen at commit.

use std::cell::Cell;
use std::ffi::c_void;
use std::panic::AssertUnwindSafe;
use std::sync::Once;

use pgrx::{PgTryBuilder, PgXactCallbackEvent, pg_guard, pg_sys, register_xact_callback};

use super::report::Caught;
use super::unguarded;

/// Runs `body` in a transaction of its own and commits. An error, ours or the server's, aborts the
/// transaction and comes back as a value, so that it never ends the process.
pub fn run<R>(body: impl FnOnce() -> R) -> Result<R, Caught> {
    // SAFETY: a variable of this process. The server leaves its longest-lived context behind.
    let context = unsafe { pg_sys::CurrentMemoryContext };
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: called outside a transaction, by a process with a database connection.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let value = body();
        // SAFETY: pops what was pushed above and ends what was started above.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(value)
    }))
    .catch_others(|error| Err(Caught::from(&error)))
    .execute();
    if outcome.is_err() {
        // SAFETY: after an error the transaction is still open, or being started or committed;
        // this is how the server's own loops end it.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    // Waiting for a lock uses up wake-ups that were meant for our own loop: have it look again.
    // SAFETY: this process's own latch; the context outlives what the caller runs.
    unsafe {
        pg_sys::SetLatch(pg_sys::MyLatch);
        pg_sys::MemoryContextSwitchTo(context);
    }
    outcome
}

/// Runs `body` in a subtransaction. An error rolls back what it did and comes back as a value.
pub fn run_nested<R>(body: impl FnOnce() -> R) -> Result<R, Caught> {
    // SAFETY: memory context and resource owner are put back below on both paths, as PL/pgSQL does.
    let (context, owner) = unsafe {
        let saved = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(saved.0);
        saved
    };
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
        let value = body();
        // SAFETY: releases the subtransaction begun above; `body` nests strictly.
        unsafe { pg_sys::ReleaseCurrentSubTransaction() };
        Ok(value)
    }))
    .catch_others(|error| Err(Caught::from(&error)))
    .execute();
    // SAFETY: as above; after an error the subtransaction begun above is the current one.
    unsafe {
        if outcome.is_err() {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    outcome
}

/// Calls `body` and, if it fails, shows the error to `on_error` before passing it on.
pub fn inspect_error<R>(body: impl FnOnce() -> R, on_error: impl Fn(&Caught)) -> R {
    let on_error = AssertUnwindSafe(on_error);
    PgTryBuilder::new(AssertUnwindSafe(body))
        .catch_others(move |error| {
            let on_error = &on_error;
            (on_error.0)(&Caught::from(&error));
            error.rethrow()
        })
        .execute()
}

/// Tries something in a subtransaction, which is undone if it fails; who cancels it means all around it, too.
pub fn attempt<R>(body: impl FnOnce() -> crate::error::Result<R>) -> Result<R, Caught> {
    match run_nested(|| body().unwrap_or_else(|error| error.raise())) {
        Err(caught) if caught.is_cancel() => caught.rethrow(),
        done => done,
    }
}

/// What is to be called at the end of a transaction: if it has committed, or else.
type AtEnd = (fn(), fn());

thread_local! {
    static AT_END: Cell<Option<AtEnd>> = const { Cell::new(None) };
    static COMMITTED: Cell<Option<fn()>> = const { Cell::new(None) };
}

static WATCHING: Once = Once::new();

/// Calls `at_commit` after the current transaction has become visible to others, or `otherwise` when
/// it ends without that; once, however often it is asked for. There is one user of this at a time.
///
/// By one callback for the life of the process: a transaction that changes a single row asks for this.
pub fn once_at_commit(at_commit: fn(), otherwise: fn()) {
    WATCHING.call_once(|| {
        // SAFETY: a function that stays where it is.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_end_of_transaction), std::ptr::null_mut());
            pg_sys::RegisterResourceReleaseCallback(Some(on_release), std::ptr::null_mut());
        }
    });
    AT_END.set(Some((at_commit, otherwise)));
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end_of_transaction(
    event: pg_sys::XactEvent::Type,
    _argument: *mut c_void,
) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    if !matches!(event, XACT_EVENT_COMMIT | XACT_EVENT_PREPARE | XACT_EVENT_ABORT) {
        return;
    }
    if let Some((at_commit, otherwise)) = AT_END.take() {
        if event == XACT_EVENT_COMMIT { COMMITTED.set(Some(at_commit)) } else { otherwise() }
    }
}

/// The last thing of a commit: whoever is told of it now finds no lock of ours any more, and hears of what we have
/// changed in the catalogs. When the server calls back for the commit itself he does not yet.
unsafe extern "C-unwind" fn on_release(
    phase: pg_sys::ResourceReleasePhase::Type,
    _is_commit: bool,
    is_top_level: bool,
    _argument: *mut c_void,
) {
    if is_top_level
        && phase == pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS
        && COMMITTED.get().is_some()
    {
        // SAFETY: as for this.
        unsafe { after_commit() };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn after_commit() {
    if let Some(at_commit) = COMMITTED.take() {
        at_commit();
    }
}

/// Calls `at_end` when the current transaction ends, either way.
pub fn at_end(at_end: fn()) {
    register_xact_callback(PgXactCallbackEvent::Commit, at_end);
    register_xact_callback(PgXactCallbackEvent::Prepare, at_end);
    register_xact_callback(PgXactCallbackEvent::Abort, at_end);
}

/// True inside a transaction that can still run queries.
pub fn is_usable() -> bool {
    unguarded::is_in_transaction()
}

/// Whether the current transaction has written anything.
pub fn has_written() -> bool {
    own_id().is_some()
}

/// The id of the current transaction, if it has one: it has written, or is about to.
pub fn own_id() -> Option<u64> {
    unguarded::transaction()
}

/// Whether a transaction, by its short id, is the current one or a part of it.
pub fn is_own(id: u32) -> bool {
    // SAFETY: looks at variables of this process.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(id.into()) }
}

/// Lets what follows see what this transaction has written so far.
pub fn next_command() {
    // SAFETY: inside a transaction.
    unsafe { pg_sys::CommandCounterIncrement() };
}
