//! Rows of our own tables as they lie there, for those who want all of them: the executor takes several times as
//! long to join a few tables.

use std::ffi::CString;

use pgrx::pg_sys::{self, Oid};
use pgrx::{FromDatum, IntoDatum};

use super::row::Values;
use crate::error::{Error, Result};
use crate::pg::relation::{self, Relation, Scan};

/// A table of ours, with some of its columns.
pub struct Stored {
    relation: Relation,
    columns: Vec<Column>,
}

struct Column {
    place: usize,
    of: Oid,
}

impl Stored {
    /// `columns` are names, separated by commas.
    pub fn open(table: &str, columns: &str) -> Result<Self> {
        let missing = || Error::Corrupt(format!("no table {table}"));
        let oid = relation::own_table(table).ok_or_else(missing)?;
        let relation = Relation::open_shared(oid);
        let column = |name: &str| {
            let text = CString::new(name).unwrap_or_default();
            // SAFETY: looks up the catalogs.
            let (number, of) = unsafe {
                let number = pg_sys::get_attnum(oid, text.as_ptr());
                (number, pg_sys::get_atttype(oid, number))
            };
            let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            let missing = || Error::Corrupt(format!("no column {name} in table {table}"));
            Ok(Column { place: place.ok_or_else(missing)?, of })
        };
        let columns =
            columns.split(',').map(|name| column(name.trim())).collect::<Result<Vec<Column>>>()?;
        Ok(Self { relation, columns })
    }

    /// Calls `body` with each row that the active snapshot sees.
    pub fn each(&self, mut body: impl FnMut(&StoredRow) -> Result<()>) -> Result<()> {
        let mut scan = Scan::begin(&self.relation);
        while scan.advance() {
            pgrx::check_for_interrupts!();
            body(&StoredRow { columns: &self.columns, values: scan.values() })?;
        }
        Ok(())
    }
}

/// A row, read by the position of the columns from 1.
pub struct StoredRow<'a> {
    columns: &'a [Column],
    values: Values<'a>,
}

impl StoredRow<'_> {
    /// A value, if it is not NULL; an error if it is of another type.
    pub fn get<T: FromDatum + IntoDatum>(&self, column: usize) -> Result<Option<T>> {
        let &Column { place, of } = &self.columns[column - 1];
        let (datum, is_null) = (self.values.datums[place], self.values.nulls[place]);
        // SAFETY: a value of that type, which it is compared with; it takes longer to look for a cast.
        unsafe {
            if of == T::type_oid() {
                return Ok(T::from_polymorphic_datum(datum, is_null, of));
            }
            Ok(T::try_from_datum(datum, is_null, of).map_err(pgrx::spi::Error::from)?)
        }
    }
}
