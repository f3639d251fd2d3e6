//! Rows by the images of their values: compared, hashed, copied.
//!
//! An image is what a value looks like in a table, apart from compression and from being stored out
//! of line. It is finer than `=` (1.0 and 1.00 are equal, and not the same) and exists for types that
//! have no `=` at all.

use std::hash::{BuildHasher, Hasher, RandomState};

use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::pg_sys::{self, Datum};
use pgrx::varlena;

use crate::pg::relation::Relation;

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
    pub(in crate::pg) unsafe fn described_by(descriptor: pg_sys::TupleDesc) -> Self {
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
pub(in crate::pg) unsafe fn attribute(
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
pub(in crate::pg) unsafe fn copy_value(by_value: bool, length: i16, value: Datum) -> Datum {
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
