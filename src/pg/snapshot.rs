//! Snapshots: which state of the data a piece of code sees.

use std::ffi::CStr;

use cache_refresher_core::time::Timestamp;
use pgrx::pg_sys;

use crate::error::{Error, Result};

/// Whether this server is a standby, or recovering from a crash.
pub fn is_in_recovery() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// An active snapshot, popped when dropped. After an ERROR the abort of the transaction pops it.
pub struct ActiveSnapshot(());

impl ActiveSnapshot {
    /// Takes a snapshot of now, which sees what this transaction has done so far. To be taken after
    /// the locks that its user relies on: an older one would see a table that was truncated
    /// meanwhile as empty.
    pub fn take() -> Self {
        // SAFETY: a transaction is open; the pushed snapshot is popped by Drop.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        Self(())
    }

    /// The same without making what was done so far visible, for code that looks at nothing.
    pub(super) fn take_present() -> Self {
        // SAFETY: as above.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
        Self(())
    }
}

/// What the active snapshot shows, as the text of a pg_snapshot. Not by a query: once a transaction has written, SPI
/// takes a snapshot of its own for each.
pub fn active() -> String {
    // SAFETY: there is an active snapshot, or else an ERROR is raised; a value of the type is printed as one.
    unsafe {
        let snapshot =
            pg_sys::OidFunctionCall0Coll(pg_sys::F_PG_CURRENT_SNAPSHOT.into(), pg_sys::InvalidOid);
        let text = pg_sys::OidOutputFunctionCall(pg_sys::F_PG_SNAPSHOT_OUT.into(), snapshot);
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// A snapshot for several steps of one transaction: each sees what was committed when it was taken,
/// and in addition what the steps before have done.
pub struct SharedSnapshot(pg_sys::Snapshot);

impl SharedSnapshot {
    /// Takes a snapshot of now, after the locks that its users rely on.
    pub fn take() -> Self {
        // SAFETY: a transaction is open; Drop gives the registration back.
        unsafe {
            pg_sys::CommandCounterIncrement();
            Self(pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot()))
        }
    }

    /// Makes it the active one.
    pub fn activate(&self) -> ActiveSnapshot {
        // SAFETY: registered until dropped; the copy is popped by Drop of the active one.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushCopiedSnapshot(self.0);
            pg_sys::UpdateActiveSnapshotCommandId();
        }
        ActiveSnapshot(())
    }
}

impl Drop for SharedSnapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered by `take`; after an ERROR the transaction sees to it.
            unsafe { pg_sys::UnregisterSnapshot(self.0) };
        }
    }
}

impl Drop for ActiveSnapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: pops the snapshot that `take` pushed; users nest them strictly.
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}

/// Makes the transaction read only until dropped, as if it had been begun so.
pub struct ReadOnly(bool);

impl ReadOnly {
    /// Forbids writing. By the variable itself: the setting cannot be changed for a part of a
    /// transaction.
    pub fn begin() -> Self {
        // SAFETY: a variable of this process, put back by Drop; an abort resets it as well.
        unsafe {
            let before = pg_sys::XactReadOnly;
            pg_sys::XactReadOnly = true;
            Self(before)
        }
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { pg_sys::XactReadOnly = self.0 };
    }
}

/// True under READ COMMITTED (and READ UNCOMMITTED, which is the same).
pub fn is_read_committed() -> bool {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::XactIsoLevel < pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// A time after which the active snapshot was taken.
pub fn not_older_than() -> Timestamp {
    // SAFETY: variables of this process; the active portal is there as long as it runs.
    Timestamp::from_pg(unsafe {
        let statement = pg_sys::GetCurrentStatementStartTimestamp();
        if !is_read_committed() {
            pg_sys::GetCurrentTransactionStartTimestamp()
        } else if pg_sys::ActivePortal.is_null() {
            statement
        } else {
            // A cursor keeps the snapshot with which it was opened.
            statement.min((*pg_sys::ActivePortal).creation_time)
        }
    })
}

/// Whether the active snapshot shows all that is committed or replayed now.
pub fn is_current() -> bool {
    let shown = active();
    let _now = ActiveSnapshot::take();
    active() == shown
}

/// An error on a standby and in a read-only transaction; `what` completes "cannot …".
pub fn require_writable(what: &'static str) -> Result<()> {
    if is_in_recovery() {
        return Err(Error::Recovery { what });
    }
    // SAFETY: a variable of this process.
    if unsafe { pg_sys::XactReadOnly } {
        return Err(Error::ReadOnly { what });
    }
    Ok(())
}
