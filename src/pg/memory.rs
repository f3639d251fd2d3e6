//! A memory context of our own, so that what is copied in passing has a known owner.

use pgrx::pg_sys;

/// Deleted when dropped, or with the transaction.
pub struct MemoryContext(pg_sys::MemoryContext);

impl MemoryContext {
    /// Below the current one.
    pub fn new() -> Self {
        // SAFETY: the name is a constant.
        unsafe {
            Self(pg_sys::AllocSetContextCreateInternal(
                pg_sys::CurrentMemoryContext,
                c"cache_refresher".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            ))
        }
    }

    /// Runs code whose allocations go here. After an ERROR the server chooses its context anew.
    pub fn run<R>(&self, body: impl FnOnce() -> R) -> R {
        // SAFETY: the context lives as long as this; what was current before is so again.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let value = body();
            pg_sys::MemoryContextSwitchTo(before);
            value
        }
    }

    /// Frees what is in it.
    ///
    /// # Safety
    /// Nobody uses it.
    pub unsafe fn reset(&mut self) {
        // SAFETY: the context lives as long as this.
        unsafe { pg_sys::MemoryContextReset(self.0) };
    }
}

impl Drop for MemoryContext {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: nothing in it is used any more: its users borrow from its owner.
            unsafe { pg_sys::MemoryContextDelete(self.0) };
        }
    }
}

/// The memory context that is current when this is made, for code that is called from elsewhere. It has to outlive
/// what this is kept in.
pub struct Caller(pg_sys::MemoryContext);

impl Caller {
    /// The present one.
    pub fn now() -> Self {
        // SAFETY: a variable of this process.
        Self(unsafe { pg_sys::CurrentMemoryContext })
    }

    /// Runs code whose allocations go there.
    pub fn run<R>(&self, body: impl FnOnce() -> R) -> R {
        // SAFETY: the context lives as long as this is used.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.0);
            let value = body();
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

/// What a hash table may take in a query, in bytes: work_mem times hash_mem_multiplier.
pub fn hash_memory() -> usize {
    // SAFETY: computes it from variables of this process.
    unsafe { pg_sys::get_hash_memory_limit() }
}

/// What this process has allocated in memory contexts, in bytes.
pub fn allocated() -> usize {
    // SAFETY: the context of which all others are children.
    unsafe { pg_sys::MemoryContextMemAllocated(pg_sys::TopMemoryContext, true) }
}
