//! Where rows are: in slots of the executor, in their tables, or in one piece.

use std::marker::PhantomData;

use pgrx::pg_sys::{self, Datum};

use super::row::Values;
use crate::pg::relation::Relation;
use crate::pg::unguarded;

/// A place for one row, of a kind that decides what can be put there.
pub struct Slot(*mut pg_sys::TupleTableSlot);

impl Slot {
    /// For copies of rows, and for rows from a spool.
    ///
    /// # Safety
    /// The descriptor must be valid; a counted reference keeps it, if it is counted.
    pub(super) unsafe fn minimal(descriptor: pg_sys::TupleDesc) -> Self {
        // SAFETY: a valid descriptor.
        unsafe {
            Self(pg_sys::MakeSingleTupleTableSlot(
                descriptor,
                &raw const pg_sys::TTSOpsMinimalTuple,
            ))
        }
    }

    /// For rows that are to be stored in a heap.
    ///
    /// # Safety
    /// As for `minimal`.
    pub(super) unsafe fn whole(descriptor: pg_sys::TupleDesc) -> Self {
        // SAFETY: a valid descriptor.
        unsafe {
            Self(pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsHeapTuple))
        }
    }

    /// For values that lie elsewhere.
    ///
    /// # Safety
    /// As for `minimal`.
    pub(super) unsafe fn borrowed(descriptor: pg_sys::TupleDesc) -> Self {
        // SAFETY: a valid descriptor.
        unsafe {
            Self(pg_sys::MakeSingleTupleTableSlot(descriptor, &raw const pg_sys::TTSOpsVirtual))
        }
    }

    /// For rows that lie in a table.
    pub fn of_table(relation: &Relation) -> Self {
        // SAFETY: an open relation.
        unsafe { Self(pg_sys::table_slot_create(relation.as_ptr(), std::ptr::null_mut())) }
    }

    pub(in crate::pg) const fn as_ptr(&self) -> *mut pg_sys::TupleTableSlot {
        self.0
    }

    /// The values of the row in it.
    pub fn values(&self) -> Values<'_> {
        // SAFETY: a valid slot; the borrow keeps it from being filled anew.
        unsafe { values(self.0) }
    }

    /// Shows these values until it is filled anew.
    ///
    /// # Safety
    /// A slot made by `borrowed` with as many columns; the values must be there as long as the
    /// slot is used with them.
    pub(super) unsafe fn show(&mut self, row: Values) {
        // SAFETY: the arrays of the slot have a place for each column.
        unsafe {
            let slot = self.0;
            self.clear();
            std::ptr::copy_nonoverlapping(
                row.datums.as_ptr(),
                (*slot).tts_values,
                row.datums.len(),
            );
            std::ptr::copy_nonoverlapping(row.nulls.as_ptr(), (*slot).tts_isnull, row.nulls.len());
            pg_sys::ExecStoreVirtualTuple(slot);
        }
    }

    /// Holds a copy of a row until it is filled anew, in the present memory context.
    ///
    /// # Safety
    /// A slot made by `whole`, for such rows.
    pub(super) unsafe fn keep(&mut self, row: Tuple) {
        // SAFETY: the copy becomes the property of the slot.
        unsafe {
            let copy = pg_sys::heap_tuple_from_minimal_tuple(row.as_ptr());
            pg_sys::ExecStoreHeapTuple(copy, self.0, true);
        }
    }

    /// Shows a row until it is filled anew.
    ///
    /// # Safety
    /// A slot made by `minimal`, for such rows; the row must be there as long as the slot is used with it.
    pub(super) unsafe fn show_tuple(&mut self, row: Tuple) {
        // SAFETY: the row does not become the property of the slot.
        unsafe { pg_sys::ExecStoreMinimalTuple(row.as_ptr(), self.0, false) };
    }

    /// Shows a copy until it is filled anew.
    pub fn show_kept(&mut self, kept: &Kept) {
        // SAFETY: a minimal slot; the copy stays the property of `kept`.
        unsafe { self.show_tuple(kept.tuple()) };
    }

    /// Forgets what is in it.
    pub fn clear(&mut self) {
        // SAFETY: a valid slot.
        unsafe { pg_sys::ExecClearTuple(self.0) };
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by one of the constructors. After an ERROR the transaction takes care.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.0) };
        }
    }
}

/// The values in a slot of the executor.
///
/// # Safety
/// A slot with a row in it, which stays as it is while the values are used.
pub(super) unsafe fn values<'a>(slot: *mut pg_sys::TupleTableSlot) -> Values<'a> {
    // SAFETY: passed on, with the number of columns that the slot has.
    unsafe { first_values(slot, (*(*slot).tts_tupleDescriptor).natts) }
}

/// The values of the first columns in a slot of the executor: finding those after them takes time.
///
/// # Safety
/// A slot with a row of at least so many columns in it, which stays as it is while the values are used.
pub(in crate::pg) unsafe fn first_values<'a>(
    slot: *mut pg_sys::TupleTableSlot,
    columns: i32,
) -> Values<'a> {
    // SAFETY: the arrays have a place for each attribute of the descriptor, filled by this call.
    unsafe {
        if i32::from((*slot).tts_nvalid) < columns {
            unguarded::guarded(|| unguarded::slot_getsomeattrs_int(slot, columns));
        }
        let columns = usize::try_from(columns).unwrap_or_default();
        if columns == 0 {
            return Values { datums: &[], nulls: &[] };
        }
        Values {
            datums: std::slice::from_raw_parts((*slot).tts_values, columns),
            nulls: std::slice::from_raw_parts((*slot).tts_isnull, columns),
        }
    }
}

/// A row that the executor shows for a moment.
pub struct ExecutorRow<'a>(*mut pg_sys::TupleTableSlot, PhantomData<&'a ()>);

impl ExecutorRow<'_> {
    /// # Safety
    /// A slot that holds a row as long as this exists.
    pub(in crate::pg) const unsafe fn new(slot: *mut pg_sys::TupleTableSlot) -> Self {
        Self(slot, PhantomData)
    }

    pub(super) const fn as_ptr(&self) -> *mut pg_sys::TupleTableSlot {
        self.0
    }

    /// Its values.
    pub fn values(&self) -> Values<'_> {
        // SAFETY: holds a row as long as this exists.
        unsafe { values(self.0) }
    }
}

/// Where a row lies in its table.
#[derive(Clone, Copy)]
pub struct RowId(pg_sys::ItemPointerData);

impl RowId {
    /// Of the row in a slot of its table.
    ///
    /// # Safety
    /// A valid slot.
    pub(in crate::pg) unsafe fn of(slot: *mut pg_sys::TupleTableSlot) -> Self {
        // SAFETY: a valid slot.
        unsafe { Self((*slot).tts_tid) }
    }

    /// What a value of type tid says.
    ///
    /// # Safety
    /// Such a value.
    pub(super) unsafe fn of_value(value: Datum) -> Self {
        // SAFETY: points to an item pointer.
        unsafe { Self(*value.cast_mut_ptr::<pg_sys::ItemPointerData>()) }
    }

    /// As one number, for a spool.
    pub fn to_number(self) -> i64 {
        let block = i64::from(self.0.ip_blkid.bi_hi) << 16 | i64::from(self.0.ip_blkid.bi_lo);
        block << 16 | i64::from(self.0.ip_posid)
    }

    /// What `to_number` was given.
    pub const fn from_number(number: i64) -> Self {
        Self(pg_sys::ItemPointerData {
            ip_blkid: pg_sys::BlockIdData {
                bi_hi: (number >> 32) as u16,
                bi_lo: (number >> 16) as u16,
            },
            ip_posid: number as u16,
        })
    }

    pub(in crate::pg) const fn as_mut_ptr(&mut self) -> *mut pg_sys::ItemPointerData {
        &raw mut self.0
    }
}

/// A row in one piece, without what it has only in a table; borrowed from wherever it lies.
#[derive(Clone, Copy)]
pub struct Tuple<'a>(pg_sys::MinimalTuple, PhantomData<&'a ()>);

impl<'a> Tuple<'a> {
    /// The one that begins with these words; none if its length is 0.
    ///
    /// # Safety
    /// Such a tuple lies there, as `bytes` had it.
    pub(super) unsafe fn at(words: &'a [u64]) -> Option<Self> {
        let tuple = words.as_ptr().cast_mut().cast::<pg_sys::MinimalTupleData>();
        // SAFETY: the caller vouches for it.
        unsafe { ((*tuple).t_len != 0).then_some(Self(tuple, PhantomData)) }
    }

    /// What it consists of, of which the first are its length.
    pub(super) const fn bytes(&self) -> &'a [u8] {
        // SAFETY: a tuple is as long as it says.
        unsafe { std::slice::from_raw_parts(self.0.cast::<u8>(), (*self.0).t_len as usize) }
    }

    const fn as_ptr(self) -> pg_sys::MinimalTuple {
        self.0
    }
}

/// Calls `body` with the row in a slot of the executor, in one piece and as values.
///
/// # Safety
/// A slot with a row in it.
pub(super) unsafe fn with_tuple<R>(
    slot: *mut pg_sys::TupleTableSlot,
    body: impl FnOnce(Tuple, Values) -> R,
) -> R {
    // SAFETY: the values are asked for after the row was made one piece, by which they may have moved; what was
    // copied for us is ours.
    unsafe {
        let mut is_copy = false;
        let tuple = pg_sys::ExecFetchSlotMinimalTuple(slot, &mut is_copy);
        let value = body(Tuple(tuple, PhantomData), values(slot));
        if is_copy {
            pg_sys::pfree(tuple.cast());
        }
        value
    }
}

/// A copy of a row, in the memory context that was current; given back by `free` or with the context.
pub struct Kept {
    tuple: pg_sys::MinimalTuple,
    /// Where the original lies; meaningless for a row of a query.
    pub id: RowId,
}

impl Kept {
    /// Copies the row in a slot.
    ///
    /// # Safety
    /// A slot with a row in it.
    pub(super) unsafe fn copy(slot: *mut pg_sys::TupleTableSlot, id: RowId) -> Self {
        // SAFETY: a slot with a row in it.
        unsafe { Self { tuple: pg_sys::ExecCopySlotMinimalTuple(slot), id } }
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        // SAFETY: the tuple is ours; its length is in its header. The allocator rounds up.
        let length = unsafe { (*self.tuple).t_len } as usize;
        length.next_power_of_two() + size_of::<usize>()
    }

    pub(super) fn tuple(&self) -> Tuple<'_> {
        Tuple(self.tuple, PhantomData)
    }

    /// Keeps no more than where the original lies.
    pub(super) fn forget_content(&mut self) {
        if !self.tuple.is_null() {
            // SAFETY: allocated by `copy`, and nobody else has it.
            unsafe { pg_sys::pfree(self.tuple.cast()) };
            self.tuple = std::ptr::null_mut();
        }
    }

    pub fn free(mut self) {
        self.forget_content();
    }
}
