//! Rows that come back sorted by a number, however many they are.

use pgrx::pg_sys::{self, Datum};
use pgrx::{FromDatum, IntoDatum};

use super::row::Values;
use super::slot::Slot;
use crate::pg::relation::Relation;

/// Columns in front of those of the row: a number to sort by, and one that says which row it is.
const PREFIX: usize = 2;

/// A row with two numbers in front.
#[derive(Clone, Copy)]
pub struct Tagged<'a> {
    pub sort_key: i64,
    pub tag: i64,
    pub row: Values<'a>,
}

/// The row type of tagged rows, and a place to put one together.
struct Form {
    descriptor: pg_sys::TupleDesc,
    datums: Vec<Datum>,
    nulls: Vec<bool>,
}

impl Form {
    /// The prefix and the columns of a relation.
    fn of(relation: &Relation) -> Self {
        let columns = relation.columns();
        let width = PREFIX + columns;
        let of = relation.descriptor();
        // SAFETY: every attribute of the template is filled in; 1600 columns leave room for two more.
        let descriptor = unsafe {
            let descriptor = pg_sys::CreateTemplateTupleDesc(width as i32);
            for (index, name) in [c"sort_key", c"tag"].into_iter().enumerate() {
                let number = index as i16 + 1;
                pg_sys::TupleDescInitEntry(
                    descriptor,
                    number,
                    name.as_ptr(),
                    pg_sys::INT8OID,
                    -1,
                    0,
                );
            }
            for index in 0..columns as i16 {
                let to = index + PREFIX as i16 + 1;
                pg_sys::TupleDescCopyEntry(descriptor, to, of, index + 1);
            }
            descriptor
        };
        Self { descriptor, datums: vec![Datum::null(); width], nulls: vec![false; width] }
    }

    fn fill(&mut self, tagged: Tagged) {
        for (place, number) in [tagged.sort_key, tagged.tag].into_iter().enumerate() {
            self.datums[place] = number.into_datum().unwrap_or_else(Datum::null);
        }
        self.datums[PREFIX..].copy_from_slice(tagged.row.datums);
        self.nulls[PREFIX..].copy_from_slice(tagged.row.nulls);
    }
}

/// The row in a slot of a form.
fn tagged(slot: &Slot) -> Tagged<'_> {
    let all = slot.values();
    let number = |place: usize| {
        // SAFETY: the prefix of every form is two numbers, never null.
        unsafe { i64::from_datum(all.datums[place], false) }.unwrap_or_default()
    };
    Tagged {
        sort_key: number(0),
        tag: number(1),
        row: Values { datums: &all.datums[PREFIX..], nulls: &all.nulls[PREFIX..] },
    }
}

/// Rows that come back sorted by their number, however many they are.
pub struct Sorter {
    sort: *mut pg_sys::Tuplesortstate,
    form: Form,
    row: Slot,
    slot: Slot,
    sorted: bool,
}

impl Sorter {
    /// For tagged rows of a table.
    pub fn new(relation: &Relation, memory_bytes: usize) -> Self {
        let form = Form::of(relation);
        let (mut column, mut nulls_first) = (1_i16, false);
        let mut operator = pg_sys::Oid::from(pg_sys::Int8LessOperator);
        let mut collation = pg_sys::InvalidOid;
        // SAFETY: one sort column, described by variables that the call copies.
        unsafe {
            let sort = pg_sys::tuplesort_begin_heap(
                form.descriptor,
                1,
                &mut column,
                &mut operator,
                &mut collation,
                &mut nulls_first,
                kilobytes(memory_bytes),
                std::ptr::null_mut(),
                Default::default(),
            );
            let (row, slot) = (Slot::borrowed(form.descriptor), Slot::minimal(form.descriptor));
            Self { sort, form, row, slot, sorted: false }
        }
    }

    /// Takes in a row; its values are copied.
    pub fn write(&mut self, tagged: Tagged) {
        self.form.fill(tagged);
        // SAFETY: the arrays have a place for each column of the form, and outlive the call.
        unsafe {
            self.row.show(Values { datums: &self.form.datums, nulls: &self.form.nulls });
            pg_sys::tuplesort_puttupleslot(self.sort, self.row.as_ptr());
        }
    }

    /// The next row in the order of the numbers. Once reading has begun, nothing is written any more.
    pub fn read(&mut self) -> Option<Tagged<'_>> {
        // SAFETY: sort and slot have the same row type.
        let found = unsafe {
            if !std::mem::replace(&mut self.sorted, true) {
                pg_sys::tuplesort_performsort(self.sort);
            }
            pg_sys::tuplesort_gettupleslot(
                self.sort,
                true,
                false,
                self.slot.as_ptr(),
                std::ptr::null_mut(),
            )
        };
        found.then(|| tagged(&self.slot))
    }
}

impl Drop for Sorter {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.slot.clear();
            // SAFETY: begun by `new`; after an ERROR the transaction removes its files.
            unsafe { pg_sys::tuplesort_end(self.sort) };
        }
    }
}

/// The smallest that the server's own sorts take is 64 kB.
fn kilobytes(bytes: usize) -> i32 {
    i32::try_from(bytes / 1024).unwrap_or(i32::MAX).max(64)
}
