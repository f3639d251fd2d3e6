//! Rows as the executor holds them: their stored images compared and hashed, and copies of them.
//!
//! An image is what a value looks like in a table, apart from compression and from being stored out
//! of line. It is finer than `=` (1.0 and 1.00 are equal, and not the same) and exists for types that
//! have no `=` at all.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::marker::PhantomData;

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum};
use pgrx::varlena;

use super::relation::Relation;
use super::unguarded;

/// How the values of a column are stored.
#[derive(Clone, Copy)]
struct Column {
    by_value: bool,
    /// Bytes; −1 for a varlena, −2 for a C string.
    length: i16,
}

/// The columns of a relation, as far as comparing goes.
pub struct RowType {
    columns: Vec<Column>,
    hasher: RandomState,
}

/// The values of a row, borrowed from wherever they lie.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    pub datums: &'a [Datum],
    pub nulls: &'a [bool],
}

impl RowType {
    /// Of the rows of a table.
    pub fn of(relation: &Relation) -> Self {
        // SAFETY: the descriptor of an open relation.
        unsafe { Self::described_by(relation.descriptor()) }
    }

    /// Of rows with that description.
    ///
    /// # Safety
    /// A valid descriptor.
    pub(super) unsafe fn described_by(descriptor: pg_sys::TupleDesc) -> Self {
        // SAFETY: a descriptor has as many attributes as it says.
        let columns = unsafe {
            (0..(*descriptor).natts)
                .map(|index| {
                    let attribute = attribute(descriptor, index);
                    Column { by_value: (*attribute).attbyval, length: (*attribute).attlen }
                })
                .collect()
        };
        Self { columns, hasher: RandomState::new() }
    }

    /// Of rows with one column, of a type that is stored like that.
    pub fn of_value(by_value: bool, length: i16) -> Self {
        Self { columns: vec![Column { by_value, length }], hasher: RandomState::new() }
    }

    /// Whether two rows look the same in all columns.
    pub fn same(&self, left: Values, right: Values) -> bool {
        (0..self.columns.len()).all(|index| self.same_at(index, left, right))
    }

    /// Whether two rows look the same in these columns, counted from 0.
    pub fn same_in(&self, columns: &[usize], left: Values, right: Values) -> bool {
        columns.iter().all(|&index| self.same_at(index, left, right))
    }

    /// A hash of the images in all columns.
    pub fn hash(&self, row: Values) -> u64 {
        self.hash_of(0..self.columns.len(), row)
    }

    /// A hash of the images in these columns, counted from 0.
    pub fn hash_in(&self, columns: &[usize], row: Values) -> u64 {
        self.hash_of(columns.iter().copied(), row)
    }

    fn same_at(&self, index: usize, left: Values, right: Values) -> bool {
        match (left.nulls[index], right.nulls[index]) {
            (true, true) => true,
            // SAFETY: neither is null, and both are values of this column.
            (false, false) => unsafe {
                same_image(self.columns[index], left.datums[index], right.datums[index])
            },
            _ => false,
        }
    }

    fn hash_of(&self, columns: impl Iterator<Item = usize>, row: Values) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        for index in columns {
            hasher.write_u8(u8::from(row.nulls[index]));
            if !row.nulls[index] {
                // SAFETY: not null, and a value of this column.
                unsafe { hash_image(self.columns[index], row.datums[index], &mut hasher) };
            }
        }
        hasher.finish()
    }
}

/// # Safety
/// The descriptor must be valid and have an attribute of that index.
pub(super) unsafe fn attribute(
    descriptor: pg_sys::TupleDesc,
    index: i32,
) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the caller vouches for both.
    unsafe {
        #[cfg(feature = "pg18")]
        return pg_sys::TupleDescAttr(descriptor, index);
        #[cfg(not(feature = "pg18"))]
        (*descriptor).attrs.as_ptr().offset(index as isize)
    }
}

// Left out by the generated bindings. Out of memory it raises an error.
unsafe extern "C-unwind" {
    fn datumCopy(value: Datum, by_value: bool, length: i32) -> Datum;
}

/// A copy of a value in the present memory context, complete in itself.
///
/// # Safety
/// A value of a type that is stored like that.
pub(super) unsafe fn copy_value(by_value: bool, length: i16, value: Datum) -> Datum {
    // SAFETY: the caller vouches for the value; a varlena is fetched and decompressed first.
    unsafe {
        if by_value {
            return value;
        }
        if length == -1 {
            return Datum::from(pg_sys::pg_detoast_datum_copy(value.cast_mut_ptr()));
        }
        pg_guard_ffi_boundary(|| datumCopy(value, by_value, i32::from(length)))
    }
}

/// The stored part of a value that is passed by value: what is above it in the datum depends on where
/// the value comes from (an oid read from a table is sign-extended, one that was computed is not).
fn significant(column: Column, datum: Datum) -> u64 {
    let value = datum.value() as u64;
    match column.length {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// # Safety
/// Both must be values of the column and not null.
unsafe fn same_image(column: Column, left: Datum, right: Datum) -> bool {
    if column.by_value {
        return significant(column, left) == significant(column, right);
    }
    // SAFETY: values of this column point to as many bytes as its length says; plain varlenas to as
    // many as their header says.
    unsafe {
        match column.length {
            -1 => {
                let (left, right) = (left.cast_mut_ptr(), right.cast_mut_ptr());
                if is_plain(left) && is_plain(right) {
                    bytes_of_plain(left) == bytes_of_plain(right)
                } else {
                    same_packed(left, right)
                }
            }
            -2 => c_string(left) == c_string(right),
            length => fixed(left, length) == fixed(right, length),
        }
    }
}

/// # Safety
/// As for [`same_image`], of one value.
unsafe fn hash_image(column: Column, datum: Datum, hasher: &mut impl Hasher) {
    if column.by_value {
        return hasher.write_u64(significant(column, datum));
    }
    // SAFETY: as in `same_image`.
    unsafe {
        match column.length {
            -1 => {
                let unpacked = Unpacked::new(datum.cast_mut_ptr());
                hasher.write_usize(unpacked.bytes().len());
                hasher.write(unpacked.bytes());
            }
            -2 => hasher.write(c_string(datum)),
            length => hasher.write(fixed(datum, length)),
        }
    }
}

/// # Safety
/// A pointer to a varlena.
unsafe fn is_plain(value: *mut pg_sys::varlena) -> bool {
    // SAFETY: looks at the header only.
    unsafe {
        (varlena::varatt_is_1b(value) && !varlena::varatt_is_1b_e(value))
            || varlena::varatt_is_4b_u(value)
    }
}

/// # Safety
/// A pointer to a varlena that is neither compressed nor stored elsewhere.
unsafe fn bytes_of_plain<'a>(value: *mut pg_sys::varlena) -> &'a [u8] {
    // SAFETY: the header says how many bytes follow.
    unsafe {
        std::slice::from_raw_parts(
            varlena::vardata_any(value).cast::<u8>(),
            varlena::varsize_any_exhdr(value),
        )
    }
}

/// # Safety
/// A pointer to a C string.
unsafe fn c_string<'a>(datum: Datum) -> &'a [u8] {
    // SAFETY: the string is terminated.
    unsafe { std::ffi::CStr::from_ptr(datum.cast_mut_ptr()) }.to_bytes()
}

/// # Safety
/// A pointer to that many bytes.
unsafe fn fixed<'a>(datum: Datum, length: i16) -> &'a [u8] {
    // SAFETY: the caller vouches for it.
    unsafe {
        std::slice::from_raw_parts(
            datum.cast_mut_ptr::<u8>(),
            usize::try_from(length).unwrap_or_default(),
        )
    }
}

/// # Safety
/// Pointers to varlenas.
#[cold]
unsafe fn same_packed(left: *mut pg_sys::varlena, right: *mut pg_sys::varlena) -> bool {
    // SAFETY: looks at headers first: most that differ do so in length, and need not be fetched.
    unsafe {
        pg_sys::toast_raw_datum_size(Datum::from(left))
            == pg_sys::toast_raw_datum_size(Datum::from(right))
            && Unpacked::new(left).bytes() == Unpacked::new(right).bytes()
    }
}

/// A varlena as plain bytes, fetched and decompressed where needed.
struct Unpacked {
    value: *mut pg_sys::varlena,
    owned: bool,
}

impl Unpacked {
    /// # Safety
    /// A pointer to a varlena that outlives this.
    unsafe fn new(value: *mut pg_sys::varlena) -> Self {
        // SAFETY: the server returns the pointer itself, or a copy of our own.
        unsafe {
            if is_plain(value) {
                return Self { value, owned: false };
            }
            let plain = pg_sys::pg_detoast_datum_packed(value);
            Self { value: plain, owned: plain != value }
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: plain since `new`.
        unsafe { bytes_of_plain(self.value) }
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if self.owned && !std::thread::panicking() {
            // SAFETY: allocated for us by `new`.
            unsafe { pg_sys::pfree(self.value.cast()) };
        }
    }
}

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

    pub(super) const fn as_ptr(&self) -> *mut pg_sys::TupleTableSlot {
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
pub(super) unsafe fn first_values<'a>(
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
    pub(super) const unsafe fn new(slot: *mut pg_sys::TupleTableSlot) -> Self {
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
    pub(super) unsafe fn of(slot: *mut pg_sys::TupleTableSlot) -> Self {
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

    pub(super) const fn as_mut_ptr(&mut self) -> *mut pg_sys::ItemPointerData {
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

    pub fn free(self) {
        // SAFETY: allocated by `copy`, and nobody else has it.
        unsafe { pg_sys::pfree(self.tuple.cast()) };
    }
}
