//! The rows of a view and of its query, as the diff of the core wants them: two streams to compare,
//! and spools for what is found.

use std::cmp::Ordering;

use cache_refresher_core::diff::{Diff, Likeness, Rows, Side, Step};
use pgrx::pg_sys;

use super::key_order::KeyOrder;
use super::row::{RowType, Values};
use super::slot::{self, ExecutorRow, Kept, RowId, Slot, Tuple, with_tuple};
use super::sorter::{Sorter, Tagged};
use super::spool::Spool;
use crate::pg::memory::{Caller, MemoryContext};
use crate::pg::query::view_query::ViewQuery;
use crate::pg::relation::{Relation, Scan};

/// What tells rows from each other; columns are counted from 0.
#[derive(Clone)]
pub struct RowIdentity {
    /// The columns of a unique index, in its order; empty where there is none.
    pub key: Vec<usize>,
    /// Columns whose change could trip a unique index while others are still to be written.
    pub unique: Vec<usize>,
}

struct Comparison {
    row_type: RowType,
    identity: RowIdentity,
}

impl Comparison {
    /// A row with a NULL in its key is identified as a whole: a unique index lets several such in.
    fn has_key(&self, row: Values) -> bool {
        let key = &self.identity.key;
        !key.is_empty() && key.iter().all(|&column| !row.nulls[column])
    }

    fn likeness(&self, new: Values, old: Values) -> Likeness {
        if self.row_type.same(new, old) {
            Likeness::Same
        } else if self.has_key(new) && self.row_type.same_in(&self.identity.key, new, old) {
            Likeness::SameKey
        } else {
            Likeness::Different
        }
    }

    fn hash(&self, row: Values) -> u64 {
        if self.has_key(row) {
            self.row_type.hash_in(&self.identity.key, row)
        } else {
            self.row_type.hash(row)
        }
    }
}

/// What has to be written, to be applied in this order: deletions, updates, insertions. So no unique
/// index sees a value twice that is only passed from one row to another.
pub struct PendingWrites {
    /// Tags are row ids.
    pub deletions: Spool,
    /// Tags are row ids.
    pub updates: Spool,
    pub insertions: Spool,
    /// Changed rows that are written as a deletion and an insertion.
    pub replaced: u64,
}

impl PendingWrites {
    fn update(
        &mut self,
        comparison: &Comparison,
        (row, new): (Tuple, Values),
        (old, id): (Values, RowId),
    ) {
        if comparison.row_type.same_in(&comparison.identity.unique, new, old) {
            self.updates.write(id.to_number(), Some(row));
        } else {
            self.replaced += 1;
            self.delete(id);
            self.insert(row);
        }
    }

    fn insert(&mut self, row: Tuple) {
        self.insertions.write(0, Some(row));
    }

    fn delete(&mut self, id: RowId) {
        self.deletions.write(id.to_number(), None);
    }
}

/// The rows of the view.
enum Old<'a> {
    /// All of them.
    Scan(Scan<'a>),
    /// Some of them.
    Held { rows: std::vec::IntoIter<Kept>, present: Option<Kept>, slot: Slot },
}

impl Old<'_> {
    fn advance(&mut self) -> bool {
        match self {
            Self::Scan(scan) => scan.advance(),
            Self::Held { rows, present, slot } => {
                let before = std::mem::replace(present, rows.next());
                if let Some(row) = present {
                    slot.show_kept(row);
                }
                if let Some(before) = before {
                    before.free();
                }
                present.is_some()
            }
        }
    }

    fn values(&self) -> Values<'_> {
        self.slot().values()
    }

    fn id(&self) -> RowId {
        match self {
            Self::Scan(scan) => scan.id(),
            Self::Held { present, .. } => {
                present.as_ref().map_or(RowId::from_number(0), |row| row.id)
            }
        }
    }

    const fn slot(&self) -> &Slot {
        match self {
            Self::Scan(scan) => scan.slot(),
            Self::Held { slot, .. } => slot,
        }
    }
}

/// The two streams.
pub struct RowStreams<'a> {
    view: &'a Relation,
    memory: &'a MemoryContext,
    scan: Old<'a>,
    /// The head of the new stream, set anew for each row.
    new: *mut pg_sys::TupleTableSlot,
    comparison: Comparison,
    /// Rows that were set aside are looked at in these, the first for a row of the query.
    kept: [Slot; 2],
    row: Slot,
    order: Option<&'a KeyOrder>,
    /// Rows for which memory was too small.
    spilled: Option<Sorter>,
    sorter_bytes: usize,
    changes: PendingWrites,
}

impl<'a> RowStreams<'a> {
    /// Begins to read the view under the active snapshot, in an order if one is given. What does not fit into `memory_bytes` goes
    /// to temporary files; half of it is for whoever sets rows aside.
    pub fn begin(
        view: &'a Relation,
        memory: &'a MemoryContext,
        identity: RowIdentity,
        order: Option<&'a KeyOrder>,
        memory_bytes: usize,
    ) -> Self {
        let scan = memory.run(|| match order {
            Some(order) => Scan::ordered(view, order),
            None => Scan::begin(view),
        });
        Self::new(view, memory, identity, order, Old::Scan(scan), memory_bytes)
    }

    /// Reads rows of the view that a query returns, which has the view's columns and then the place of
    /// the row, into the present memory context.
    pub fn hold(view: &Relation, query: ViewQuery) -> Vec<Kept> {
        let context = Caller::now();
        let columns = view.columns();
        let mut rows = Vec::new();
        // SAFETY: the relation is open meanwhile; the last column is of type tid, and never NULL.
        unsafe {
            let mut slot = Slot::borrowed(view.descriptor());
            query.run(&mut |row| {
                let Values { datums, nulls } = row.values();
                slot.show(Values { datums: &datums[..columns], nulls: &nulls[..columns] });
                let id = RowId::of_value(datums[columns]);
                rows.push(context.run(|| Kept::copy(slot.as_ptr(), id)));
                slot.clear();
                true
            });
        }
        rows
    }

    /// Begins with rows of the view that are held already.
    pub fn begin_with(
        view: &'a Relation,
        memory: &'a MemoryContext,
        identity: RowIdentity,
        rows: Vec<Kept>,
        memory_bytes: usize,
    ) -> Self {
        // SAFETY: the relation is open as long as this lives.
        let slot = memory.run(|| unsafe { Slot::minimal(view.descriptor()) });
        let old = Old::Held { rows: rows.into_iter(), present: None, slot };
        Self::new(view, memory, identity, None, old, memory_bytes)
    }

    fn new(
        view: &'a Relation,
        memory: &'a MemoryContext,
        identity: RowIdentity,
        order: Option<&'a KeyOrder>,
        scan: Old<'a>,
        memory_bytes: usize,
    ) -> Self {
        memory.run(|| {
            // SAFETY: the relation is open as long as this lives.
            let (kept, row) = unsafe {
                let minimal = || Slot::minimal(view.descriptor());
                ([minimal(), minimal()], Slot::borrowed(view.descriptor()))
            };
            let spool_bytes = memory_bytes / 32;
            Self {
                view,
                memory,
                scan,
                new: std::ptr::null_mut(),
                comparison: Comparison { row_type: RowType::of(view), identity },
                kept,
                row,
                order,
                spilled: None,
                sorter_bytes: memory_bytes / 4,
                changes: PendingWrites {
                    deletions: Spool::new(spool_bytes),
                    updates: Spool::new(spool_bytes),
                    insertions: Spool::new(spool_bytes),
                    replaced: 0,
                },
            }
        })
    }

    /// What was found, once both streams are read.
    pub fn into_changes(self) -> PendingWrites {
        self.changes
    }

    fn new_values(&self) -> Values<'_> {
        // SAFETY: set by `compare`, and used only within it.
        unsafe { slot::values(self.new) }
    }
}

/// Goes on with the next row that the query returns.
pub fn compare(diff: &mut Diff<RowStreams>, row: &ExecutorRow) -> Step {
    diff.rows().new = row.as_ptr();
    let step = diff.new_row();
    diff.rows().new = std::ptr::null_mut();
    step
}

impl Rows for RowStreams<'_> {
    type Kept = Kept;

    /// The scan may allocate as it goes, and it outlives the executor in whose context the caller is.
    fn next_old(&mut self) -> bool {
        self.memory.run(|| self.scan.advance())
    }

    fn compare_heads(&mut self) -> Likeness {
        self.comparison.likeness(self.new_values(), self.scan.values())
    }

    fn order_heads(&mut self) -> Ordering {
        // Both in the order in which they come is all that is known without one.
        self.order
            .map_or(Ordering::Equal, |order| order.compare(self.new_values(), self.scan.values()))
    }

    fn compare(&mut self, head: Side, kept: &Kept) -> Likeness {
        self.kept[0].show_kept(kept);
        match head {
            Side::New => self.comparison.likeness(self.new_values(), self.kept[0].values()),
            Side::Old => self.comparison.likeness(self.kept[0].values(), self.scan.values()),
        }
    }

    fn compare_kept(&mut self, new: &Kept, old: &Kept) -> Likeness {
        self.kept[0].show_kept(new);
        self.kept[1].show_kept(old);
        self.comparison.likeness(self.kept[0].values(), self.kept[1].values())
    }

    fn has_key(&mut self, head: Side) -> bool {
        match head {
            Side::New => self.comparison.has_key(self.new_values()),
            Side::Old => self.comparison.has_key(self.scan.values()),
        }
    }

    fn hash(&mut self, head: Side) -> u64 {
        match head {
            Side::New => self.comparison.hash(self.new_values()),
            Side::Old => self.comparison.hash(self.scan.values()),
        }
    }

    fn keep(&mut self, head: Side) -> Kept {
        // SAFETY: both heads hold a row.
        self.memory.run(|| unsafe {
            match head {
                Side::New => Kept::copy(self.new, RowId::from_number(0)),
                Side::Old => Kept::copy(self.scan.slot().as_ptr(), self.scan.id()),
            }
        })
    }

    fn size(&self, kept: &Kept) -> usize {
        kept.size()
    }

    fn discard(&mut self, kept: Kept) {
        kept.free();
    }

    fn forget_content(&mut self, kept: &mut Kept) {
        kept.forget_content();
    }

    fn update_heads(&mut self) {
        let Self { new, changes, comparison, scan, .. } = self;
        // SAFETY: set by `compare`, and used only within it.
        unsafe {
            with_tuple(*new, |row, values| {
                changes.update(comparison, (row, values), (scan.values(), scan.id()));
            });
        }
    }

    fn insert_head(&mut self) {
        // SAFETY: as in `update_heads`.
        unsafe { with_tuple(self.new, |row, _| self.changes.insert(row)) };
    }

    fn delete_head(&mut self) {
        self.changes.delete(self.scan.id());
    }

    fn update(&mut self, head: Side, kept: Kept) {
        let Self { new, changes, comparison, scan, kept: [slot, _], .. } = self;
        slot.show_kept(&kept);
        match head {
            // SAFETY: as in `update_heads`.
            Side::New => unsafe {
                with_tuple(*new, |row, values| {
                    changes.update(comparison, (row, values), (slot.values(), kept.id));
                });
            },
            Side::Old => {
                let new = (kept.tuple(), slot.values());
                changes.update(comparison, new, (scan.values(), scan.id()));
            }
        }
        kept.free();
    }

    fn update_kept(&mut self, new: Kept, old: Kept) {
        self.kept[0].show_kept(&new);
        self.kept[1].show_kept(&old);
        let row = (new.tuple(), self.kept[0].values());
        self.changes.update(&self.comparison, row, (self.kept[1].values(), old.id));
        new.free();
        old.free();
    }

    fn insert(&mut self, new: Kept) {
        self.changes.insert(new.tuple());
        new.free();
    }

    fn delete(&mut self, old: Kept) {
        self.changes.delete(old.id);
        old.free();
    }

    fn spill(&mut self, side: Side, hash: u64, kept: Kept) {
        let sorter = self
            .spilled
            .get_or_insert_with(|| self.memory.run(|| Sorter::new(self.view, self.sorter_bytes)));
        self.kept[0].show_kept(&kept);
        sorter.write(Tagged {
            sort_key: (hash & !NEW | if side == Side::New { NEW } else { 0 }).cast_signed(),
            tag: kept.id.to_number(),
            row: self.kept[0].values(),
        });
        kept.free();
    }

    fn next_spilled(&mut self) -> Option<(Side, u64, Kept)> {
        let Tagged { sort_key, tag, row } = self.spilled.as_mut()?.read()?;
        let (hash, id) = (sort_key.cast_unsigned(), RowId::from_number(tag));
        let side = if hash & NEW == NEW { Side::New } else { Side::Old };
        // SAFETY: the row has the columns of the view, and is there until the next is read.
        let kept = self.memory.run(|| unsafe {
            self.row.show(row);
            Kept::copy(self.row.as_ptr(), id)
        });
        Some((side, hash & !NEW, kept))
    }
}

/// In the place of the last bit of a hash it sorts rows of the query behind those of the view.
const NEW: u64 = 1;
