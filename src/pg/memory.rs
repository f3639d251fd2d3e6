//! A memory context of our own, so that what is copied in passing has a known owner.

use pgrx::pg_sys;

/// Deleted when dropped, or with the transaction or subtransaction that it was made in.
pub struct MemoryContext {
    context: pg_sys::MemoryContext,
    /// What goes with that, too, may belong to it: temporary files.
    owner: pg_sys::ResourceOwner,
}

impl MemoryContext {
    /// Below the current one.
    pub fn new() -> Self {
        // SAFETY: the name is a constant.
        unsafe {
            let context = pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"cache_refresher".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            Self { context, owner: pg_sys::CurrentResourceOwner }
        }
    }

    /// Runs code whose allocations go here. After an ERROR the server chooses its context anew.
    pub fn run<R>(&self, body: impl FnOnce() -> R) -> R {
        // SAFETY: the context lives as long as this; what was current before is so again.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.context);
            let value = body();
            pg_sys::MemoryContextSwitchTo(before);
            value
        }
    }

    /// The same for code that runs later, in a subtransaction perhaps.
    pub const fn caller(&self) -> Caller {
        Caller { context: self.context, owner: self.owner }
    }

    /// Frees what is in it.
    ///
    /// # Safety
    /// Nobody uses it.
    pub unsafe fn reset(&mut self) {
        // SAFETY: the context lives as long as this.
        unsafe { pg_sys::MemoryContextReset(self.context) };
    }
}

impl Drop for MemoryContext {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: nothing in it is used any more: its users borrow from its owner.
            unsafe { pg_sys::MemoryContextDelete(self.context) };
        }
    }
}

/// The memory context and the owner of resources that are current when this is made, for code that is called from
/// elsewhere. They have to outlive what this is kept in.
pub struct Caller {
    context: pg_sys::MemoryContext,
    owner: pg_sys::ResourceOwner,
}

impl Caller {
    /// The present one.
    pub fn now() -> Self {
        // SAFETY: variables of this process.
        unsafe {
            Self { context: pg_sys::CurrentMemoryContext, owner: pg_sys::CurrentResourceOwner }
        }
    }

    /// Runs code whose allocations go there, and what it opens belongs to there. An ERROR sets both anew.
    pub fn run<R>(&self, body: impl FnOnce() -> R) -> R {
        // SAFETY: both live as long as this is used.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.context);
            let owner = pg_sys::CurrentResourceOwner;
            pg_sys::CurrentResourceOwner = self.owner;
            let value = body();
            pg_sys::CurrentResourceOwner = owner;
            pg_sys::MemoryContextSwitchTo(before);
            value
        }
    }
}

/// The setting work_mem, in bytes.
pub fn work_mem() -> usize {
    // SAFETY: a variable of this process.
    usize::try_from(unsafe { pg_sys::work_mem }).unwrap_or(64) * 1024
}

/// What this process has allocated in memory contexts, in bytes.
pub fn allocated() -> usize {
    // SAFETY: the context of which all others are children.
    unsafe { pg_sys::MemoryContextMemAllocated(pg_sys::TopMemoryContext, true) }
}
