//! Heavyweight locks: a view's own refresh lock, and locks on relations.

use pgrx::pg_sys;

/// The lock that makes refreshes of one view take turns.
///
/// A lock on an object of our own (class = the registry table, object = the view), so that no role
/// can take it from SQL as it could an advisory lock, and nothing else in the server conflicts with
/// it. It is held to the end of the transaction unless released before.
pub struct RefreshLock {
    tag: pg_sys::LOCKTAG,
}

const EXCLUSIVE: i32 = pg_sys::ExclusiveLock as i32;

impl RefreshLock {
    fn tag(registry: pg_sys::Oid, view: pg_sys::Oid) -> pg_sys::LOCKTAG {
        pg_sys::LOCKTAG {
            // SAFETY: a variable of this process.
            locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
            locktag_field2: registry.to_u32(),
            locktag_field3: view.to_u32(),
            locktag_field4: 0,
            locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
        }
    }

    /// Waits until no other transaction refreshes the view.
    pub fn acquire(registry: pg_sys::Oid, view: pg_sys::Oid) -> Self {
        let tag = Self::tag(registry, view);
        // SAFETY: the tag is complete; the lock manager copies it.
        unsafe { pg_sys::LockAcquire(&tag, EXCLUSIVE, false, false) };
        Self { tag }
    }

    /// Takes the lock if that needs no waiting.
    pub fn try_acquire(registry: pg_sys::Oid, view: pg_sys::Oid) -> Option<Self> {
        let tag = Self::tag(registry, view);
        // SAFETY: as in `acquire`.
        let result = unsafe { pg_sys::LockAcquire(&tag, EXCLUSIVE, false, true) };
        (result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL).then_some(Self { tag })
    }

    /// Gives the lock back before the end of the transaction. Only right when nothing that it guards
    /// has been written.
    pub fn release(self) {
        // SAFETY: this transaction holds the lock once per RefreshLock.
        unsafe { pg_sys::LockRelease(&self.tag, EXCLUSIVE, false) };
    }
}

/// Gives back all advisory locks of this process. Outside a transaction.
pub fn release_advisory() {
    // SAFETY: what pg_advisory_unlock_all does.
    unsafe { pg_sys::LockReleaseAll(pg_sys::USER_LOCKMETHOD as _, true) };
}

/// Strength of a lock on a relation.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum RelationLock {
    /// Others may read and write; nobody may drop, truncate or rewrite.
    AccessShare = pg_sys::AccessShareLock as i32,
    /// Others may read and write, vacuum and analyze; nobody may change the table itself.
    RowExclusive = pg_sys::RowExclusiveLock as i32,
    /// The same, and nobody may write.
    ShareRowExclusive = pg_sys::ShareRowExclusiveLock as i32,
    /// Others may read.
    Exclusive = pg_sys::ExclusiveLock as i32,
    /// Nobody else.
    AccessExclusive = pg_sys::AccessExclusiveLock as i32,
}

impl RelationLock {
    /// The locks of others that it has to wait for, by the names that pg_locks has for them.
    pub const fn conflicts_with(self) -> &'static [&'static str] {
        const BY_STRENGTH: [&str; 8] = [
            "AccessExclusiveLock",
            "ExclusiveLock",
            "ShareRowExclusiveLock",
            "ShareLock",
            "ShareUpdateExclusiveLock",
            "RowExclusiveLock",
            "RowShareLock",
            "AccessShareLock",
        ];
        let count = match self {
            Self::AccessShare => 1,
            Self::RowExclusive => 4,
            Self::ShareRowExclusive => 6,
            Self::Exclusive => 7,
            Self::AccessExclusive => 8,
        };
        BY_STRENGTH.split_at(count).0
    }
}

/// Locks a relation to the end of the transaction, if that needs no waiting.
pub fn try_relation(relation: pg_sys::Oid, lock: RelationLock) -> bool {
    // SAFETY: as in `self::relation`.
    unsafe { pg_sys::ConditionalLockRelationOid(relation, lock as i32) }
}

/// Locks a relation to the end of the transaction.
pub fn relation(relation: pg_sys::Oid, lock: RelationLock) {
    // SAFETY: locking an OID that names nothing is harmless; callers look the relation up afterwards.
    unsafe { pg_sys::LockRelationOid(relation, lock as i32) }
}
