//! An open relation, and reading all of its rows.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::ops::Range;

use pgrx::itemptr::item_pointer_get_block_number;
use pgrx::{IntoDatum, PgList, pg_sys};

use super::rows::key_order::KeyOrder;
use super::rows::row::Values;
use super::rows::slot::{RowId, Slot};
use super::{transaction, unguarded};

/// A table of ours by its name, if it is there.
pub(super) fn own_table(name: &str) -> Option<pg_sys::Oid> {
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: looks up the catalogs.
    let table = unsafe {
        let schema = pg_sys::get_namespace_oid(c"_cache_refresher".as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    (table != pg_sys::InvalidOid).then_some(table)
}

/// A relation that is open in this transaction; the caller holds a lock on it.
pub struct Relation(pg_sys::Relation);

impl Relation {
    /// Opens a relation that the caller has locked.
    pub fn open(oid: pg_sys::Oid) -> Self {
        // SAFETY: raises an ERROR if there is no such relation.
        unsafe { Self(pg_sys::relation_open(oid, pg_sys::NoLock as i32)) }
    }

    /// Opens a relation with a lock against changes of its definition.
    pub fn open_shared(oid: pg_sys::Oid) -> Self {
        // SAFETY: raises an ERROR if there is no such relation.
        unsafe { Self(pg_sys::relation_open(oid, pg_sys::AccessShareLock as i32)) }
    }

    /// Opens a table with a lock that stays to the end of the transaction; nothing if it is gone.
    pub(super) fn open_locked(oid: pg_sys::Oid, lock: u32) -> Option<Self> {
        // SAFETY: waits for the lock; null if there is no such relation.
        let relation = unsafe { pg_sys::try_table_open(oid, lock as i32) };
        (!relation.is_null()).then(|| Self(relation))
    }

    /// Opens an index of a relation with a lock that stays to the end of the transaction.
    pub(super) fn open_index(oid: pg_sys::Oid, lock: u32) -> Self {
        // SAFETY: waits for the lock; raises an ERROR if there is no such index.
        unsafe { Self(pg_sys::index_open(oid, lock as i32)) }
    }

    /// Its indexes.
    pub(super) fn indexes(&self) -> Vec<pg_sys::Oid> {
        // SAFETY: the list is a copy of our own, in the present memory context.
        unsafe {
            PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(self.0))
                .iter_oid()
                .collect()
        }
    }

    pub(super) const fn as_ptr(&self) -> pg_sys::Relation {
        self.0
    }

    /// Its row type; lives as long as the relation is open.
    pub(super) fn descriptor(&self) -> pg_sys::TupleDesc {
        // SAFETY: open until dropped.
        unsafe { (*self.0).rd_att }
    }

    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: open until dropped.
        unsafe { (*self.0).rd_id }
    }

    /// Whether it can have partitions, or has or had children.
    pub fn may_have_children(&self) -> bool {
        // SAFETY: open until dropped.
        let form = unsafe { &*(*self.0).rd_rel };
        form.relkind as u8 == pg_sys::RELKIND_PARTITIONED_TABLE || form.relhassubclass
    }

    /// Whether a plain view has options that make it more than a name for its query.
    pub fn is_special_view(&self) -> bool {
        // SAFETY: the options of an open view, if it has any.
        unsafe {
            let options = (*self.0).rd_options.cast::<pg_sys::ViewOptions>();
            let is_view = (*(*self.0).rd_rel).relkind as u8 == pg_sys::RELKIND_VIEW;
            if !is_view || options.is_null() {
                return false;
            }
            (*options).security_barrier || (*options).security_invoker
        }
    }

    /// Its name with that of its schema, as SQL writes them.
    pub fn name(&self) -> String {
        // SAFETY: an open relation; names are C strings, that of the schema a copy.
        unsafe {
            let text = |name| CStr::from_ptr(name).to_string_lossy().into_owned();
            let form = &*(*self.0).rd_rel;
            let schema = pg_sys::get_namespace_name(form.relnamespace);
            pgrx::spi::quote_qualified_identifier(text(schema), text(form.relname.data.as_ptr()))
        }
    }

    /// The name of a column, counted from 0, as SQL writes it.
    pub fn column_name(&self, place: usize) -> String {
        // SAFETY: an open relation with such a column; names of columns are C strings.
        let name = unsafe {
            let attribute = super::rows::row::attribute(self.descriptor(), place as i32);
            CStr::from_ptr((*attribute).attname.data.as_ptr()).to_string_lossy().into_owned()
        };
        pgrx::spi::quote_identifier(name)
    }

    /// How many columns it has.
    pub fn columns(&self) -> usize {
        // SAFETY: open until dropped.
        usize::try_from(unsafe { (*self.descriptor()).natts }).unwrap_or_default()
    }

    /// Rows, as far as the server knows without counting.
    pub fn estimated_rows(&self) -> u64 {
        let (mut pages, mut rows, mut all_visible) = (0, 0.0, 0.0);
        // SAFETY: an open relation with storage; the results go to variables.
        unsafe {
            pg_sys::estimate_rel_size(
                self.0,
                std::ptr::null_mut(),
                &mut pages,
                &mut rows,
                &mut all_visible,
            );
        }
        rows as u64
    }
}

impl Drop for Relation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by one of the constructors; the lock stays to the end of the transaction. After an ERROR
            // the transaction closes it.
            unsafe { pg_sys::relation_close(self.0, pg_sys::NoLock as i32) };
        }
    }
}

/// What the server's cache of pg_class says of a materialized view.
#[derive(Debug, Clone, Copy)]
pub struct ViewEntry {
    pub owner: pg_sys::Oid,
    pub populated: bool,
    /// Size of its table, as of the last VACUUM or ANALYZE.
    pub pages: i32,
}

impl ViewEntry {
    /// Nothing if there is no such view.
    pub fn find(oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: what is found is read before it is released.
        unsafe {
            let tuple = pg_sys::SearchSysCache1(
                pg_sys::SysCacheIdentifier::RELOID as i32,
                pg_sys::Datum::from(oid),
            );
            if tuple.is_null() {
                return None;
            }
            let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
            let is_view = form.relkind as u8 == pg_sys::RELKIND_MATVIEW;
            let entry =
                Self { owner: form.relowner, populated: form.relispopulated, pages: form.relpages };
            pg_sys::ReleaseSysCache(tuple);
            is_view.then_some(entry)
        }
    }
}

/// Old versions of rows that VACUUM has not removed yet, by the statistics.
pub fn dead_rows(table: pg_sys::Oid) -> i64 {
    // SAFETY: the function takes an OID, whatever it names.
    let rows = unsafe {
        pgrx::direct_function_call(pg_sys::pg_stat_get_dead_tuples, &[table.into_datum()])
    };
    rows.unwrap_or_default()
}

/// Whether there is such a relation; the caller holds a lock on what would be it.
pub fn exists(relation: pg_sys::Oid) -> bool {
    // SAFETY: looks up the catalogs.
    unsafe { pg_sys::get_rel_relkind(relation) != 0 }
}

/// Whether a view has been dropped meanwhile; outside of transactions.
pub fn is_gone(view: pg_sys::Oid) -> bool {
    transaction::run(|| ViewEntry::find(view).is_none()).unwrap_or(false)
}

/// All rows of a table that the active snapshot sees.
pub struct Scan<'a> {
    kind: Kind,
    slot: Slot,
    _relation: &'a Relation,
}

enum Kind {
    Table(pg_sys::TableScanDesc),
    Index(pg_sys::IndexScanDesc),
}

impl<'a> Scan<'a> {
    /// In the order in which they lie. Begins at the first block: not where another scan happens to
    /// be, since the order matters.
    pub fn begin(relation: &'a Relation) -> Self {
        // SAFETY: an open relation; the active snapshot outlives the scan, as its user sees to.
        let scan = unsafe {
            let snapshot = pg_sys::GetActiveSnapshot();
            let none = std::ptr::null_mut();
            pg_sys::table_beginscan_strat(relation.0, snapshot, 0, none, true, false)
        };
        Self { kind: Kind::Table(scan), slot: Slot::of_table(relation), _relation: relation }
    }

    /// In the order of an index.
    pub fn ordered(relation: &'a Relation, order: &KeyOrder) -> Self {
        let scan = order.begin_scan(relation);
        Self { kind: Kind::Index(scan), slot: Slot::of_table(relation), _relation: relation }
    }

    /// Those in some of its blocks, of a heap.
    pub fn of_blocks(relation: &'a Relation, blocks: Range<u32>) -> Self {
        let scan = Self::begin(relation);
        if let Kind::Table(scan) = scan.kind {
            // SAFETY: a scan of a heap that has not read anything; the blocks exist, as the caller knows.
            unsafe {
                pg_sys::heap_setscanlimits(scan, blocks.start, blocks.end - blocks.start);
            }
        }
        scan
    }

    /// Goes on to the next row, and finds its values; false after the last.
    pub fn advance(&mut self) -> bool {
        let (forward, slot) = (pg_sys::ScanDirection::ForwardScanDirection, self.slot.as_ptr());
        // SAFETY: scan and slot belong to the same relation.
        unsafe {
            match self.kind {
                Kind::Table(scan) => unguarded::guarded(|| {
                    let found = unguarded::table_scan_getnextslot(scan, forward, slot);
                    if found {
                        let columns = (*(*slot).tts_tupleDescriptor).natts;
                        unguarded::slot_getsomeattrs_int(slot, columns);
                    }
                    found
                }),
                Kind::Index(scan) => pg_sys::index_getnext_slot(scan, forward, slot),
            }
        }
    }

    /// The present row.
    pub fn values(&self) -> Values<'_> {
        self.slot.values()
    }

    /// Where it lies.
    pub fn id(&self) -> RowId {
        // SAFETY: a valid slot.
        unsafe { RowId::of(self.slot.as_ptr()) }
    }

    /// The slot that holds it.
    pub(super) const fn slot(&self) -> &Slot {
        &self.slot
    }
}

/// The blocks in which rows lie whose first column of a btree index is not less than a value; `at_least` is
/// the function that says so.
pub(super) fn blocks_at_least(
    relation: &Relation,
    index: &Relation,
    at_least: u32,
    value: pg_sys::Datum,
) -> BTreeSet<u32> {
    let mut key = pg_sys::ScanKeyData::default();
    let mut blocks = BTreeSet::new();
    // SAFETY: relation and index are open; the key is copied by the scan, which ends before they close.
    unsafe {
        pg_sys::ScanKeyInit(
            &mut key,
            1,
            pg_sys::BTGreaterEqualStrategyNumber as u16,
            pg_sys::Oid::from(at_least),
            value,
        );
        let scan = pg_sys::index_beginscan(
            relation.0,
            index.0,
            pg_sys::GetActiveSnapshot(),
            #[cfg(feature = "pg18")]
            std::ptr::null_mut(),
            1,
            0,
        );
        pg_sys::index_rescan(scan, &mut key, 1, std::ptr::null_mut(), 0);
        loop {
            let place =
                pg_sys::index_getnext_tid(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if place.is_null() {
                break;
            }
            blocks.insert(item_pointer_get_block_number(place));
        }
        pg_sys::index_endscan(scan);
    }
    blocks
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.slot.clear();
            // SAFETY: begun by one of the constructors; after an ERROR the transaction takes care.
            unsafe {
                match self.kind {
                    Kind::Table(scan) => pg_sys::table_endscan(scan),
                    Kind::Index(scan) => pg_sys::index_endscan(scan),
                }
            }
        }
    }
}
