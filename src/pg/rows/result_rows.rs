//! The rows that a set-returning function returns, handed over all at once: one by one costs as much as most rows.

use pgrx::pg_sys::{self, Datum};

/// Where a function called like that puts its rows.
pub struct ResultRows {
    store: *mut pg_sys::Tuplestorestate,
    descriptor: pg_sys::TupleDesc,
}

impl ResultRows {
    /// Of a call by the server of a function that returns a table; an ERROR where no rows are wanted.
    pub fn of(call: pg_sys::FunctionCallInfo) -> Self {
        // SAFETY: makes a store that lives as long as the statement, and checks what is needed for that.
        unsafe {
            pg_sys::InitMaterializedSRF(call, 0);
            let result = &*(*call).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            Self { store: result.setResult, descriptor: result.setDesc }
        }
    }

    /// Adds a row: values of the types that the function is declared with.
    pub fn put<const COLUMNS: usize>(&self, values: [Option<Datum>; COLUMNS]) {
        // SAFETY: the descriptor of the store; its number of columns is compared, and values are copied.
        unsafe {
            assert_eq!(
                (*self.descriptor).natts as usize,
                COLUMNS,
                "columns of a function's result"
            );
            let nulls = values.map(|value| value.is_none());
            let datums = values.map(|value| value.unwrap_or(Datum::from(0)));
            let (datums, nulls) = (datums.as_ptr().cast_mut(), nulls.as_ptr().cast_mut());
            pg_sys::tuplestore_putvalues(self.store, self.descriptor, datums, nulls);
        }
    }
}
