//! Running a constant query with parameters: as ourselves, with a plan that is kept.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use cache_refresher_core::time::Timestamp;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::PgOid;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiTupleTable};
use pgrx::{FromDatum, IntoDatum, Spi};

use crate::error::{Error, Result};
use crate::pg::clock;
use crate::pg::identity::Scope;
use crate::pg::rows::stored::{Stored, StoredRow};
use crate::pg::snapshot::ActiveSnapshot;

/// What a query needs. Only `Write` takes a transaction id, so that reading works on a standby and
/// a transaction that has merely looked can be told from one that has written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// Under the statement's own snapshot; in a transaction that has written, one of now.
    Read,
    /// Under a snapshot of now.
    Current,
    /// Changes rows, under a snapshot of now.
    Write,
}

/// Plans live as long as the process: the memory they point to is gone when it ends.
type Plan = Rc<ManuallyDrop<OwnedPreparedStatement>>;

thread_local! {
    static PLANS: RefCell<HashMap<(&'static str, Kind), Plan>> = RefCell::default();
}

/// One row, read by position from 1.
pub enum Row<'a, 'conn> {
    /// Of a result.
    Found(&'a SpiTupleTable<'conn>),
    /// Of a table.
    Stored(&'a StoredRow<'a>),
}

impl Row<'_, '_> {
    /// A column that may be NULL.
    pub fn optional<T: FromDatum + IntoDatum>(&self, column: usize) -> Result<Option<T>> {
        match self {
            Self::Found(table) => Ok(table.get(column)?),
            Self::Stored(row) => row.get(column),
        }
    }

    /// A column that is never NULL.
    pub fn required<T: FromDatum + IntoDatum>(&self, column: usize) -> Result<T> {
        self.optional(column)?
            .ok_or_else(|| Error::Corrupt(format!("column {column} of a catalog row is null")))
    }

    /// A time that may be NULL.
    pub fn optional_time(&self, column: usize) -> Result<Option<Timestamp>> {
        Ok(self.optional(column)?.map(clock::from_sql))
    }

    /// A time that is never NULL.
    pub fn required_time(&self, column: usize) -> Result<Timestamp> {
        self.required(column).map(clock::from_sql)
    }
}

/// All rows of a table of ours that the active snapshot sees, without a query: `columns` are names, separated by
/// commas.
pub fn each(
    table: &'static str,
    columns: &'static str,
    mut row: impl FnMut(Row) -> Result<()>,
) -> Result<()> {
    Stored::open(table, columns)?.each(|stored| row(Row::Stored(stored)))
}

/// The rows that the calling statement's snapshot sees, if its transaction has not written anything.
pub fn select<T>(
    sql: &'static str,
    arguments: &[DatumWithOid],
    row: impl FnMut(Row) -> Result<T>,
) -> Result<Vec<T>> {
    run(Kind::Read, sql, arguments, row)
}

/// The rows that are there now, for decisions under a lock.
pub fn select_current<T>(
    sql: &'static str,
    arguments: &[DatumWithOid],
    row: impl FnMut(Row) -> Result<T>,
) -> Result<Vec<T>> {
    run(Kind::Current, sql, arguments, row)
}

/// Runs a statement that writes; the rows of its RETURNING clause.
pub fn returning<T>(
    sql: &'static str,
    arguments: &[DatumWithOid],
    row: impl FnMut(Row) -> Result<T>,
) -> Result<Vec<T>> {
    run(Kind::Write, sql, arguments, row)
}

/// Runs a statement that writes; how many rows it touched.
pub fn execute(sql: &'static str, arguments: &[DatumWithOid]) -> Result<usize> {
    let _scope = Scope::internal();
    Spi::connect_mut(|client| {
        let plan = plan(client, Kind::Write, sql, arguments)?;
        Ok(client.update(&**plan, None, arguments)?.len())
    })
}

fn run<T>(
    kind: Kind,
    sql: &'static str,
    arguments: &[DatumWithOid],
    mut row: impl FnMut(Row) -> Result<T>,
) -> Result<Vec<T>> {
    let _scope = Scope::internal();
    Spi::connect_mut(|client| {
        let plan = plan(client, kind, sql, arguments)?;
        let mut table = match kind {
            Kind::Read => client.select(&**plan, None, arguments)?,
            Kind::Current => {
                let _snapshot = ActiveSnapshot::take();
                client.select(&**plan, None, arguments)?
            }
            Kind::Write => client.update(&**plan, None, arguments)?,
        };
        let mut rows = Vec::with_capacity(table.len());
        while table.next().is_some() {
            rows.push(row(Row::Found(&table))?);
        }
        Ok(rows)
    })
}

fn plan(
    client: &SpiClient,
    kind: Kind,
    sql: &'static str,
    arguments: &[DatumWithOid],
) -> Result<Plan> {
    if let Some(plan) = PLANS.with_borrow(|plans| plans.get(&(sql, kind)).cloned()) {
        return Ok(plan);
    }
    let types: Vec<PgOid> = arguments.iter().map(|argument| argument.oid().into()).collect();
    let statement = match kind {
        Kind::Read | Kind::Current => client.prepare(sql, &types)?,
        Kind::Write => client.prepare_mut(sql, &types)?,
    };
    let plan: Plan = Rc::new(ManuallyDrop::new(statement.keep()));
    PLANS.with_borrow_mut(|plans| plans.insert((sql, kind), plan.clone()));
    Ok(plan)
}
