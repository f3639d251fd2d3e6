//! What statements of users mean for us: the utility hook.
//!
//! It costs a look at the statement's kind, and never fails a statement that does not concern us.
//! Some statements need a database to themselves, and the server asks only autovacuum to leave: for
//! them a hold keeps our processes out until the transaction ends. Others change what is scheduled:
//! schedulers are told when they commit.

use std::ffi::c_char;
use std::sync::OnceLock;
use std::time::Duration;

use cache_refresher_core::time::Timestamp;
use pgrx::{pg_guard, pg_sys};

use super::announcements::after_commit;
use super::concern::{self, Concern};
use crate::pg::extension::Extension;
use crate::pg::process::{background_worker, latch, signals};
use crate::pg::{clock, shared, transaction};

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

/// Puts our hook in front of whatever is there. Once, while the library is loaded.
pub fn install(callbacks: Callbacks) {
    CALLBACKS.get_or_init(|| callbacks);
    // SAFETY: the server is still single-threaded and this runs once.
    unsafe {
        PREVIOUS_HOOK = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
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
    let concern = unsafe { concern::of(statement) }.unwrap_or(Concern::Nothing);
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
        // The extension itself may have come with it.
        Concern::Prepared if Extension::is_here() => {
            after_commit(|pending| pending.extension = true)
        }
        Concern::Extension => after_commit(|pending| pending.extension = true),
        Concern::Databases => after_commit(|pending| pending.databases = true),
        Concern::Settings(database) => after_commit(|pending| pending.settings.push(database)),
        Concern::Hold(_)
        | Concern::Drop(_)
        | Concern::Prepared
        | Concern::OwnTrigger
        | Concern::Nothing => {}
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
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let is_seen = pg_sys::IsUnderPostmaster;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let is_seen = pg_sys::IsUnderPostmaster && pg_sys::event_triggers;
        if is_seen || (*statement).type_ != pg_sys::NodeTag::T_RefreshMatViewStmt {
            return pg_sys::InvalidOid;
        }
        concern::named((*statement.cast::<pg_sys::RefreshMatViewStmt>()).relation)
    }
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

/// Keeps our processes out of a database until this transaction ends, and waits until those that are
/// there have left.
fn empty_database(oid: u32) {
    let pid = background_worker::my_pid();
    shared::forget_session_at_end();
    transaction::at_end(|| shared::release_holds(background_worker::my_pid()));
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
