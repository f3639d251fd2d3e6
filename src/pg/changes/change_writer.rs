//! Writing to the logs of changes, many rows at a time.
//!
//! What a subtransaction changes waits with it in memory, and is in the log before that commits, or vanishes
//! when it is rolled back. Rows that are written together share their WAL records.
//!
//! Only the subtransaction that made a change can write it, so that it is rolled back with it. What its
//! parents have waiting is not in the log yet; [`waiting_since`] tells those who read.

use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::rc::Rc;
use std::sync::Once;

use cache_refresher_core::time::Timestamp;
use pgrx::itemptr::item_pointer_get_block_number;
use pgrx::pg_sys::{self, Datum, Oid};
use pgrx::{PgMemoryContexts, pg_guard};

use super::change_log::{ChangeKind, HEAD, is_by_xid};
use crate::pg::hooks::announcements;
use crate::pg::relation::Relation;
use crate::pg::rows::row::{self, Values};
use crate::pg::snapshot::ActiveSnapshot;
use crate::pg::unguarded;

/// As many rows as are written at once, at most.
const MOST_ROWS: usize = 256;
/// Bytes of rows that may wait for each table.
const MOST_BYTES: usize = 64 * 1024;

/// Bytes of the longest row that a page has room for.
const MOST_LENGTH: u32 = pg_sys::BLCKSZ - 32;

/// A transaction, and the subtransaction of it that writes: rows of one can vanish alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    pub(super) transaction: u64,
    subtransaction: u32,
}

/// Who writes now. Inside a transaction that may write.
pub fn current() -> Writer {
    // SAFETY: as said.
    let assign = || unsafe { pg_sys::GetTopFullTransactionId() }.value;
    let transaction = unguarded::transaction().unwrap_or_else(assign);
    Writer { transaction, subtransaction: unguarded::subtransaction() }
}

/// Where the changes of one table go.
pub struct Outlet {
    log: Oid,
    /// Its indexes by transaction: one, or two while it is rebuilt.
    indexes: Vec<Oid>,
    /// Whether long values of it go out of line.
    has_long: bool,
    /// For each column of the log after the head the one of the source, counted from 0.
    kept: Vec<Option<usize>>,
    /// Block and writer of the last row that has an entry in the indexes: others of that writer in that block
    /// need none.
    indexed: Cell<Option<(u32, Writer)>>,
    /// The log's columns, copied into a context of their own: a transaction that changes a single row is not to
    /// do that each time.
    descriptor: pg_sys::TupleDesc,
    context: pg_sys::MemoryContext,
}

impl Outlet {
    /// To an open log, whose columns after the head take those columns of the source.
    pub(super) fn of(log: &Relation, kept: Vec<Option<usize>>) -> Self {
        let mut indexes = log.indexes();
        indexes.retain(|&index| is_by_xid(&Relation::open_index(index, pg_sys::RowExclusiveLock)));
        // SAFETY: the context lives as long as this; the descriptor is that of an open relation.
        let (descriptor, context, has_long) = unsafe {
            let context = new_context(pg_sys::CacheMemoryContext);
            let copy = PgMemoryContexts::For(context)
                .switch_to(|_| pg_sys::CreateTupleDescCopy(log.descriptor()));
            (copy, context, (*(*log.as_ptr()).rd_rel).reltoastrelid != pg_sys::InvalidOid)
        };
        let indexed = Cell::new(None);
        Self { log: log.oid(), indexes, has_long, kept, indexed, descriptor, context }
    }

    pub fn log(&self) -> Oid {
        self.log
    }

    /// Columns of the source that are kept, counted from 0.
    pub fn kept(&self) -> impl Iterator<Item = usize> {
        self.kept.iter().flatten().copied()
    }

    /// A row of the log, in the memory of rows that wait, and complete in itself.
    ///
    /// # Safety
    /// Inside a transaction that may write; the row has the columns that are kept.
    unsafe fn form_row(
        &self,
        since: pg_sys::TimestampTz,
        kind: ChangeKind,
        row: Option<Values>,
    ) -> pg_sys::HeapTuple {
        // SAFETY: the descriptor is that of the log; the caller vouches for the row.
        unsafe {
            let columns = usize::try_from((*self.descriptor).natts).unwrap_or_default();
            // Most logs have few columns: no need to allocate for those.
            let (mut few, mut none) = ([Datum::from(0); 16], [true; 16]);
            let (mut many, mut absent);
            let (datums, nulls): (&mut [Datum], &mut [bool]) = if columns <= few.len() {
                (&mut few[..columns], &mut none[..columns])
            } else {
                (many, absent) = (vec![Datum::from(0); columns], vec![true; columns]);
                (&mut many, &mut absent)
            };
            let head = [
                Datum::from(current().transaction),
                Datum::from(since),
                Datum::from(kind.letter()),
            ];
            for (place, value) in head.into_iter().enumerate() {
                (datums[place], nulls[place]) = (value, false);
            }
            if let Some(row) = row {
                for (place, column) in (HEAD..columns).zip(&self.kept) {
                    if let Some(column) = *column {
                        (datums[place], nulls[place]) = (row.datums[column], row.nulls[column]);
                    }
                }
            }
            let tuple = self.form(datums, nulls);
            if (*tuple).t_len > MOST_LENGTH && self.rigid_length(tuple, datums, nulls) > MOST_LENGTH
            {
                // The row of the source has just found room in a page, but ours has more columns.
                free(&[tuple]);
                return self.form_row(since, ChangeKind::Any, None);
            }
            if u32::from((*(*tuple).t_data).t_infomask) & pg_sys::HEAP_HASEXTERNAL == 0 {
                return tuple;
            }
            // What lies out of line may be gone when this is written.
            free(&[tuple]);
            for place in (HEAD..columns).filter(|&place| !nulls[place]) {
                let column = &*row::attribute(self.descriptor, place as i32);
                datums[place] = row::copy_value(column.attbyval, column.attlen, datums[place]);
            }
            self.form(datums, nulls)
        }
    }

    /// Bytes of a row of these values at least, with what can go out of line there.
    ///
    /// # Safety
    /// A row formed of values of the log's columns.
    unsafe fn rigid_length(&self, row: pg_sys::HeapTuple, datums: &[Datum], nulls: &[bool]) -> u32 {
        /// Of what lies out of line.
        const POINTER: usize = 18;
        // SAFETY: what has no fixed length begins with its own.
        unsafe {
            let long = (0..datums.len()).filter(|&place| !nulls[place]).filter_map(|place| {
                let column = &*row::attribute(self.descriptor, place as i32);
                let moves =
                    column.attlen == -1 && column.attstorage as u8 != pg_sys::TYPSTORAGE_PLAIN;
                moves.then(|| {
                    pgrx::varsize_any(datums[place].cast_mut_ptr()).saturating_sub(POINTER)
                })
            });
            let long: usize = if self.has_long { long.sum() } else { 0 };
            (*row).t_len.saturating_sub(u32::try_from(long).unwrap_or(u32::MAX))
        }
    }

    /// # Safety
    /// Values of the log's columns.
    unsafe fn form(&self, datums: &mut [Datum], nulls: &mut [bool]) -> pg_sys::HeapTuple {
        let (datums, nulls) = (datums.as_mut_ptr(), nulls.as_mut_ptr());
        let context = ROWS.get();
        // SAFETY: the caller vouches for the values; after an error the server chooses a context itself.
        unsafe {
            unguarded::guarded(|| {
                let before = pg_sys::CurrentMemoryContext;
                pg_sys::CurrentMemoryContext = context;
                let tuple = unguarded::heap_form_tuple(self.descriptor, datums, nulls);
                pg_sys::CurrentMemoryContext = before;
                tuple
            })
        }
    }

    /// Adds an entry to the indexes for a row that was just stored, unless its block has one already.
    ///
    /// # Safety
    /// Inside `guarded`; the place of such a row in the open log, and who runs.
    unsafe fn index(&self, place: pg_sys::ItemPointer, log: pg_sys::Relation, by: Writer) {
        // SAFETY: the caller vouches for all.
        unsafe {
            let here = Some((item_pointer_get_block_number(place), by));
            if self.indexed.replace(here) != here {
                for &index in &self.indexes {
                    index_row(index, by.transaction, place, log);
                }
            }
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // SAFETY: made by `of`, and nobody else's.
        unsafe { pg_sys::MemoryContextDelete(self.context) };
    }
}

/// # Safety
/// A context that outlives what is to lie in the new one.
unsafe fn new_context(parent: pg_sys::MemoryContext) -> pg_sys::MemoryContext {
    // SAFETY: the name is a constant, as it must be.
    unsafe {
        pg_sys::AllocSetContextCreateInternal(
            parent,
            c"cache_refresher changes".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        )
    }
}

/// Rows of one log that one subtransaction has not written yet.
struct Waiting {
    subtransaction: u32,
    outlet: Rc<Outlet>,
    since: pg_sys::TimestampTz,
    rows: Vec<pg_sys::HeapTuple>,
    bytes: usize,
}

thread_local! {
    /// The memory of rows that wait, emptied at the end of each transaction. Not that of the subtransaction: the
    /// server keeps eight kilobytes of each in which anything ever was.
    static ROWS: Cell<pg_sys::MemoryContext> = const { Cell::new(std::ptr::null_mut()) };
    /// That of what the server needs to write some, emptied each time.
    static SCRATCH: Cell<pg_sys::MemoryContext> = const { Cell::new(std::ptr::null_mut()) };
    /// Those of outer subtransactions come first.
    static WAITING: RefCell<Vec<Waiting>> = const { RefCell::new(Vec::new()) };
    /// What is noted after the transaction has begun to commit has no later moment to be written at.
    static COMMITTING: Cell<bool> = const { Cell::new(false) };
}

static WATCHING: Once = Once::new();

/// Has a row written to a log, and the scheduler told at commit that `source` has changed.
///
/// # Safety
/// Inside a transaction that may write and holds ROW EXCLUSIVE on the log; the row has the columns that the
/// outlet keeps.
pub(super) unsafe fn write(
    outlet: &Rc<Outlet>,
    source: Oid,
    kind: ChangeKind,
    row: Option<Values>,
) {
    WATCHING.call_once(|| {
        // SAFETY: functions that stay where they are.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_transaction), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_subtransaction), std::ptr::null_mut());
            ROWS.set(new_context(pg_sys::CacheMemoryContext));
            SCRATCH.set(new_context(pg_sys::CacheMemoryContext));
        }
    });
    let here = unguarded::subtransaction();
    let find = || {
        WAITING.with_borrow(|all| {
            let mut mine = all.iter().rev().take_while(|waiting| waiting.subtransaction == here);
            let from_end = mine.position(|waiting| Rc::ptr_eq(&waiting.outlet, outlet))?;
            let place = all.len() - 1 - from_end;
            Some((place, all[place].since))
        })
    };
    let (place, since) = find().unwrap_or_else(|| {
        announcements::source_changed(source);
        WAITING.with_borrow_mut(|all| {
            all.push(Waiting::new(outlet, here));
            (all.len() - 1, all[all.len() - 1].since)
        })
    });
    // The server may end this process while it fetches what lies out of line, and call us back for that: nothing
    // is borrowed meanwhile.
    // SAFETY: the caller vouches for the row.
    let tuple = unsafe { outlet.form_row(since, kind, row) };
    let is_full =
        WAITING.with_borrow_mut(|all| all.get_mut(place).is_some_and(|waiting| waiting.add(tuple)));
    if is_full || COMMITTING.get() {
        flush();
    }
}

/// Writes what the current subtransaction has waiting.
pub fn flush() {
    let here = unguarded::subtransaction();
    // While rows are written nothing is borrowed: the server may call us back.
    while let Some(waiting) = take_last(here) {
        // SAFETY: this subtransaction has noted it.
        unsafe { waiting.write() };
    }
}

/// Since when changes of a log are on their way to it: those that outer subtransactions have noted, and
/// what was not flushed.
pub(super) fn waiting_since(log: Oid) -> Option<Timestamp> {
    WAITING.with_borrow(|all| {
        let mut of_log = all.iter().filter(|waiting| waiting.outlet.log == log);
        of_log.next().map(|waiting| Timestamp::from_pg(waiting.since))
    })
}

/// Takes what was the last to wait, if this subtransaction has noted it, or one inside it.
fn take_last(subtransaction: u32) -> Option<Waiting> {
    WAITING.with_borrow_mut(|all| {
        let is_of = |last: &mut Waiting| last.subtransaction >= subtransaction;
        all.pop_if(is_of)
    })
}

/// Forgets what this subtransaction has waiting, and those inside it.
fn forget(subtransaction: u32) {
    while let Some(waiting) = take_last(subtransaction) {
        // SAFETY: formed by `form_row`, and not written.
        unsafe { free(&waiting.rows) };
    }
}

/// # Safety
/// Rows formed by `form_row`, which nobody uses any more.
unsafe fn free(rows: &[pg_sys::HeapTuple]) {
    // SAFETY: passed on.
    unsafe {
        unguarded::guarded(|| {
            for &row in rows {
                unguarded::heap_freetuple(row);
            }
        });
    }
}

impl Waiting {
    fn new(outlet: &Rc<Outlet>, subtransaction: u32) -> Self {
        let outlet = outlet.clone();
        Self { subtransaction, outlet, since: unguarded::now(), rows: Vec::new(), bytes: 0 }
    }

    /// Adds a row; true if it is time to write.
    fn add(&mut self, row: pg_sys::HeapTuple) -> bool {
        // SAFETY: formed by `form_row`.
        self.bytes += unsafe { (*row).t_len } as usize;
        self.rows.push(row);
        self.rows.len() >= MOST_ROWS || self.bytes >= MOST_BYTES
    }

    /// # Safety
    /// In the subtransaction that has noted the changes.
    unsafe fn write(self) {
        let by = current();
        // What is long goes out of line, for which the server wants a snapshot; at commit there is none.
        // SAFETY: reads a variable of this process.
        let _snapshot = (self.outlet.has_long && !unsafe { pg_sys::ActiveSnapshotSet() })
            .then(ActiveSnapshot::take_present);
        // SAFETY: whoever noted a change has locked the log, to the end of the transaction; it is gone only if
        // this transaction has dropped it. The rows were formed by `form_row`.
        unsafe {
            PgMemoryContexts::For(SCRATCH.get()).switch_to(|_| match self.rows[..] {
                [row] => self.write_one(row, by),
                _ => self.write_together(by),
            });
            unguarded::reset(SCRATCH.get());
        }
    }

    /// # Safety
    /// As for `write`, with such a row.
    unsafe fn write_one(&self, row: pg_sys::HeapTuple, by: Writer) {
        // SAFETY: the caller vouches for the row; all that is made inside are numbers and pointers.
        unsafe {
            unguarded::guarded(|| {
                let log = unguarded::try_table_open(self.outlet.log, pg_sys::NoLock as i32);
                if !log.is_null() {
                    unguarded::simple_heap_insert(log, row);
                    self.outlet.index(&raw mut (*row).t_self, log, by);
                    unguarded::table_close(log, pg_sys::NoLock as i32);
                }
                unguarded::heap_freetuple(row);
            });
        }
    }

    /// # Safety
    /// As for `write`.
    unsafe fn write_together(&self, by: Writer) {
        // SAFETY: what has been added to the log since the rows were formed is NULL in them. The slots lie in the
        // present context, which is emptied afterwards.
        unsafe {
            let log = pg_sys::try_table_open(self.outlet.log, pg_sys::NoLock as i32);
            if !log.is_null() {
                let slot = |&row: &pg_sys::HeapTuple| {
                    let slot = pg_sys::MakeSingleTupleTableSlot(
                        self.outlet.descriptor,
                        &raw const pg_sys::TTSOpsHeapTuple,
                    );
                    // As one that owns its row, or else it would be copied; nobody clears these slots.
                    pg_sys::ExecStoreHeapTuple(row, slot, true)
                };
                let mut slots: Vec<_> = self.rows.iter().map(slot).collect();
                pg_sys::heap_multi_insert(
                    log,
                    slots.as_mut_ptr(),
                    i32::try_from(slots.len()).unwrap_or_default(),
                    pg_sys::GetCurrentCommandId(true),
                    0,
                    std::ptr::null_mut(),
                );
                unguarded::guarded(|| {
                    for &slot in &slots {
                        self.outlet.index(&raw mut (*slot).tts_tid, log, by);
                    }
                });
                pg_sys::table_close(log, pg_sys::NoLock as i32);
            }
            free(&self.rows);
        }
    }
}

/// Adds an entry for a row of a log to its index by transaction, the first column.
///
/// # Safety
/// Inside `guarded`; such an index, and the place of a row that was just inserted.
unsafe fn index_row(
    index: Oid,
    transaction: u64,
    place: pg_sys::ItemPointer,
    log: pg_sys::Relation,
) {
    // A btree does not look at what the planner and other kinds of index want to know.
    let mut info = pg_sys::IndexInfo {
        type_: pg_sys::NodeTag::T_IndexInfo,
        ii_NumIndexAttrs: 1,
        ii_NumIndexKeyAttrs: 1,
        ..Default::default()
    };
    let (mut value, mut null) = (Datum::from(transaction), false);
    let unique = pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO;
    // SAFETY: the caller vouches for all of it.
    unsafe {
        let index = unguarded::index_open(index, pg_sys::RowExclusiveLock as i32);
        unguarded::index_insert(index, &mut value, &mut null, place, log, unique, false, &mut info);
        unguarded::index_close(index, pg_sys::NoLock as i32);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_transaction(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent as Event;
    match event {
        Event::XACT_EVENT_PRE_COMMIT | Event::XACT_EVENT_PRE_PREPARE => {
            flush();
            COMMITTING.set(true);
        }
        Event::XACT_EVENT_COMMIT | Event::XACT_EVENT_PREPARE | Event::XACT_EVENT_ABORT => {
            COMMITTING.set(false);
            forget(0);
            // SAFETY: nothing is left in it, but for rows that an error has kept from being written.
            unsafe { unguarded::reset(ROWS.get()) };
        }
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    subtransaction: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_PRE_COMMIT_SUB => flush(),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => forget(subtransaction),
        _ => {}
    }
}
