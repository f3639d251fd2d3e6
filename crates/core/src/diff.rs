//! The difference between the rows that a query returns now and those that a view holds.
//!
//! Both are bags of rows, each read once. The algorithm rests on an observation: a query that has not
//! changed tends to return its rows in the order in which it returned them last time, and that is
//! the order in which they lie in the view. So the two streams are read side by side, and as long as
//! their heads are equal nothing has to be hashed, copied or sorted.
//!
//! ```text
//!   query   a  b  x  c  d  e           heads differ: both rows are set aside, by the hash of their key,
//!   view    a  b  c  d  e  f           and whichever turns up later on the other side is taken from there
//! ```
//!
//! Where heads differ, each is looked up among the rows of the other side that were set aside. A
//! stream whose head is found there is behind, and is read alone until the heads are equal again: an
//! insertion or a deletion costs a few look-ups and then the streams are in step once more. Rows that
//! moved a little (updates, parallel plans) are bridged the same way.
//!
//! When more has been set aside than fits into memory, all of it is spilled, to be sorted by hash; in
//! the end each group of equal hashes is compared in memory. If that was most of what came, the
//! streams are scattered: the query's plan has changed, and its order with it. Then it is cheaper to
//! start again with both streams in the order of the key ([`Diff::ordered`]), where nothing is set
//! aside but rows without a key. Where there is no such order, both sides are spilled as a whole. So
//! the best case costs one comparison a row, and the worst one a sort.
//!
//! Rows are identified by their key, as the storage defines it: the columns of a unique index, or the
//! whole row where there is none or where the key holds a NULL. That two rows have the same key
//! decides only whether a change is written as an update or as a deletion and an insertion: the
//! resulting bag is the same. So a key that is not unique, or an equality finer than the index's own,
//! costs work and never rightness: a key that the query returns twice is found out when it is written.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as TableEntry;

/// What two rows have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// Everything: stored, they are the same bytes.
    Same,
    /// The key only.
    SameKey,
    /// Not even the key.
    Different,
}

/// Where a row comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The query.
    New,
    /// The view.
    Old,
}

/// The two streams, and what is done with what is found. The head of the new stream is given by the
/// caller; the head of the old one is loaded by [`next_old`](Self::next_old).
pub trait Rows {
    /// A row that outlives the step of its stream.
    type Kept;

    /// Loads the next old row as the head; false after the last one.
    fn next_old(&mut self) -> bool;
    /// The two heads.
    fn compare_heads(&mut self) -> Likeness;
    /// How the key of the new head sorts beside that of the old one; both have one. Asked for only
    /// where the streams are in that order.
    fn order_heads(&mut self) -> Ordering;
    /// A head with a row of the other side that was set aside.
    fn compare(&mut self, head: Side, kept: &Self::Kept) -> Likeness;
    /// Two rows that were set aside, or an old one with another.
    fn compare_kept(&mut self, new: &Self::Kept, old: &Self::Kept) -> Likeness;
    /// Whether a head has a key.
    fn has_key(&mut self, head: Side) -> bool;
    /// Hash of a head's key, or of the whole row without one. Rows of the same key have the same.
    fn hash(&mut self, head: Side) -> u64;
    /// Copies a head.
    fn keep(&mut self, head: Side) -> Self::Kept;
    /// Memory that a copy occupies.
    fn size(&self, kept: &Self::Kept) -> usize;

    /// The copy is not needed: its equal is stored already.
    fn discard(&mut self, kept: Self::Kept);
    /// What is in an old row is not needed, since another that is the same is kept: only to delete it.
    fn forget_content(&mut self, kept: &mut Self::Kept);
    /// Both heads: the old row is to become the new one.
    fn update_heads(&mut self);
    /// No old row has become the new head.
    fn insert_head(&mut self);
    /// No new row has come of the old head.
    fn delete_head(&mut self);
    /// The same, of a head and a row that was set aside.
    fn update(&mut self, head: Side, kept: Self::Kept);
    /// The same, of two rows that were set aside.
    fn update_kept(&mut self, new: Self::Kept, old: Self::Kept);
    /// No old row has become this new one.
    fn insert(&mut self, new: Self::Kept);
    /// No new row has come of this old one.
    fn delete(&mut self, old: Self::Kept);

    /// Puts a row where memory is no limit.
    fn spill(&mut self, side: Side, hash: u64, kept: Self::Kept);
    /// Gives spilled rows back one by one, rows of the same hash in succession, the old ones first.
    fn next_spilled(&mut self) -> Option<(Side, u64, Self::Kept)>;
}

struct Entry<K> {
    hash: u64,
    row: K,
}

/// Streams are scattered when for each so many new rows one of either side had to be set aside: from
/// there on a sort of all rows is cheaper than one of those rows, each of which is copied and hashed
/// besides. Old rows are, where the query runs in batches, of which the first passes them over.
const SCATTERED: u64 = 4;
/// After this part of the rows expected it is too late to start again. Before, it pays: with half of the rows
/// set aside, to read all once more, sorted by key, took two thirds of the time that sorting by hash did.
const LATEST: u64 = 4;
/// After this part of the rows expected, and each time that they have doubled, it is asked whether memory will do
/// for what has to be set aside, and not only when it has not. Not earlier, for the first rows can all be new ones;
/// nor before so many rows.
const FORESEEN: u64 = 16;
const LEAST_FORESEEN: u64 = 1 << 14;

/// Rows of one side that wait for their counterpart.
struct Aside<K> {
    /// One of each hash: many of the same in one place would make each look-up pass all of them.
    first: HashTable<Entry<K>>,
    /// The others of those hashes: without a key, rows can be the same.
    others: HashMap<u64, Vec<K>>,
    rows: usize,
}

impl<K> Aside<K> {
    fn new() -> Self {
        Self { first: HashTable::new(), others: HashMap::new(), rows: 0 }
    }

    fn put(&mut self, entry: Entry<K>) {
        let hash = entry.hash;
        self.rows += 1;
        match self.first.entry(hash, |other| other.hash == hash, |other| other.hash) {
            TableEntry::Vacant(place) => drop(place.insert(entry)),
            TableEntry::Occupied(_) => self.others.entry(hash).or_default().push(entry.row),
        }
    }

    /// Takes out the counterpart of a row.
    fn take(
        &mut self,
        hash: u64,
        mut compare: impl FnMut(&K) -> Likeness,
    ) -> Option<(K, Likeness)> {
        let mut first = self.first.find_entry(hash, |entry| entry.hash == hash).ok()?;
        let mut likeness = compare(&first.get().row);
        let mut others = match self.others.is_empty() {
            true => None,
            false => match self.others.entry(hash) {
                MapEntry::Occupied(others) => Some(others),
                MapEntry::Vacant(_) => None,
            },
        };
        let row = if likeness != Likeness::Different {
            match others.as_mut().and_then(|others| others.get_mut().pop()) {
                Some(other) => std::mem::replace(&mut first.get_mut().row, other),
                None => first.remove().0.row,
            }
        } else {
            let others = others.as_mut()?.get_mut();
            let place = others.iter().position(|row| {
                likeness = compare(row);
                likeness != Likeness::Different
            })?;
            others.swap_remove(place)
        };
        if let Some(others) = others.filter(|others| others.get().is_empty()) {
            others.remove();
        }
        self.rows -= 1;
        Some((row, likeness))
    }

    fn drain(&mut self) -> impl Iterator<Item = Entry<K>> {
        self.rows = 0;
        let others = self.others.drain();
        let others = others.flat_map(|(hash, rows)| rows.into_iter().map(move |row| (hash, row)));
        self.first.drain().chain(others.map(|(hash, row)| Entry { hash, row }))
    }
}

/// The head of the old stream.
#[derive(Clone, Copy)]
enum Head {
    /// Not loaded.
    Unread,
    /// Loaded.
    Loaded,
    /// There are no more.
    End,
}

/// In which order the streams come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As they come; by hope in the same.
    Natural,
    /// In none that they have in common.
    None,
    /// By key.
    Key,
}

/// Whether it makes sense to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Feed it with the next row.
    Next,
    /// The streams are scattered: drop everything and start again, with both in the order of the key.
    StartAgain,
}

/// One run of the algorithm: feed it with [`new_row`](Self::new_row), then [`finish`](Self::finish).
pub struct Diff<R: Rows> {
    rows: R,
    head: Head,
    new: Aside<R::Kept>,
    old: Aside<R::Kept>,
    aside_bytes: usize,
    budget_bytes: usize,
    order: Order,
    /// New rows so far.
    steps: u64,
    /// How many new rows are expected; 0 where it makes no sense to start again.
    expected: u64,
    /// At how many new rows to look ahead.
    look_ahead_at: u64,
    /// New rows when something was spilled last.
    spilled_at: u64,
    spilled: bool,
}

impl<R: Rows> Diff<R> {
    /// Bytes of the table's own for each row that is set aside, its empty places counted in.
    const OVERHEAD: usize = 2 * size_of::<Entry<R::Kept>>() + 2;

    /// For streams in the order in which they come. `budget_bytes` is what may be set aside in
    /// memory. In the first quarter of the rows that are `expected` it may ask to [start
    /// again](Step::StartAgain); 0 where the rows cannot be had in another order.
    pub fn natural(rows: R, budget_bytes: usize, expected: u64) -> Self {
        Self {
            rows,
            head: Head::Unread,
            new: Aside::new(),
            old: Aside::new(),
            aside_bytes: 0,
            budget_bytes,
            order: Order::Natural,
            steps: 0,
            expected,
            look_ahead_at: (expected / FORESEEN).max(LEAST_FORESEEN),
            spilled_at: 0,
            spilled: false,
        }
    }

    /// For streams in the order of the key, as [`Rows::order_heads`] sees it. Rows without a key may
    /// stand anywhere.
    pub fn ordered(rows: R, budget_bytes: usize) -> Self {
        let mut diff = Self::natural(rows, budget_bytes, 0);
        diff.order = Order::Key;
        diff
    }

    /// The storage, for the caller to set the head of the new stream.
    pub const fn rows(&mut self) -> &mut R {
        &mut self.rows
    }

    /// Whether memory was too small for what had to be set aside.
    pub const fn has_spilled(&self) -> bool {
        self.spilled
    }

    /// Takes in the next new row: the head that the storage shows.
    pub fn new_row(&mut self) -> Step {
        self.steps += 1;
        match self.order {
            Order::Natural => return self.next_to_each_other(),
            Order::None => self.spill_head(Side::New),
            Order::Key => self.merge(),
        }
        Step::Next
    }

    /// Reads what is left of the old rows, and settles everything that is not.
    pub fn finish(mut self) -> R {
        while self.load_old() {
            self.head = Head::Unread;
            match self.order {
                Order::None => self.spill_head(Side::Old),
                Order::Key if self.rows.has_key(Side::Old) => self.rows.delete_head(),
                Order::Natural | Order::Key => {
                    let hash = self.rows.hash(Side::Old);
                    if !self.found(Side::Old, hash) {
                        self.set_aside(Side::Old, hash);
                        self.spill_if_needed();
                    }
                }
            }
        }
        if self.spilled {
            self.spill();
            self.settle_spilled();
        } else {
            for entry in self.old.drain() {
                self.rows.delete(entry.row);
            }
            for entry in self.new.drain() {
                self.rows.insert(entry.row);
            }
        }
        self.rows
    }

    /// Makes sure that an old head is loaded; false where there are no more.
    fn load_old(&mut self) -> bool {
        if matches!(self.head, Head::Unread) {
            self.head = if self.rows.next_old() { Head::Loaded } else { Head::End };
        }
        matches!(self.head, Head::Loaded)
    }

    fn next_to_each_other(&mut self) -> Step {
        let mut new_hash = None;
        loop {
            let old_loaded = self.load_old();
            if old_loaded {
                let likeness = self.rows.compare_heads();
                if likeness != Likeness::Different {
                    if likeness == Likeness::SameKey {
                        self.rows.update_heads();
                    }
                    self.head = Head::Unread;
                    return Step::Next;
                }
            }
            let hash = *new_hash.get_or_insert_with(|| self.rows.hash(Side::New));
            // The old head stays: if the new row is found, the new stream is the one behind.
            if self.found(Side::New, hash) {
                return Step::Next;
            }
            if old_loaded {
                self.head = Head::Unread;
                let old_hash = self.rows.hash(Side::Old);
                if self.found(Side::Old, old_hash) {
                    continue;
                }
                self.set_aside(Side::Old, old_hash);
            }
            self.set_aside(Side::New, hash);
            return self.make_room();
        }
    }

    /// After rows were set aside.
    fn make_room(&mut self) -> Step {
        let full = self.aside_bytes > self.budget_bytes;
        let full_soon = self.steps >= self.look_ahead_at && {
            self.look_ahead_at = self.steps * 2;
            let in_the_end = self.aside_bytes as f64 / self.steps as f64 * self.expected as f64;
            in_the_end > self.budget_bytes as f64
        };
        if !full && !full_soon {
            return Step::Next;
        }
        let many = (self.steps - self.spilled_at) / SCATTERED;
        let (new, old) = (self.new.rows as u64, self.old.rows as u64);
        if new.max(old) > many && self.steps < self.expected / LATEST {
            return Step::StartAgain;
        }
        if full {
            // Many of the view alone may just be gone.
            if new > many {
                self.order = Order::None;
            }
            self.spill();
        }
        Step::Next
    }

    fn merge(&mut self) {
        if !self.rows.has_key(Side::New) {
            let hash = self.rows.hash(Side::New);
            if !self.found(Side::New, hash) {
                self.set_aside(Side::New, hash);
                self.spill_if_needed();
            }
            return;
        }
        while self.load_old() {
            if !self.rows.has_key(Side::Old) {
                self.head = Head::Unread;
                let hash = self.rows.hash(Side::Old);
                if !self.found(Side::Old, hash) {
                    self.set_aside(Side::Old, hash);
                    self.spill_if_needed();
                }
                continue;
            }
            let order = match self.rows.compare_heads() {
                Likeness::Same => {
                    self.head = Head::Unread;
                    return;
                }
                Likeness::SameKey => Ordering::Equal,
                Likeness::Different => self.rows.order_heads(),
            };
            match order {
                Ordering::Less => break,
                Ordering::Equal => {
                    self.head = Head::Unread;
                    return self.rows.update_heads();
                }
                Ordering::Greater => {
                    self.head = Head::Unread;
                    self.rows.delete_head();
                }
            }
        }
        self.rows.insert_head();
    }

    fn spill_head(&mut self, head: Side) {
        let hash = self.rows.hash(head);
        let kept = self.rows.keep(head);
        self.rows.spill(head, hash, kept);
    }

    /// Looks for the counterpart of a head among what was set aside, and settles the pair.
    fn found(&mut self, head: Side, hash: u64) -> bool {
        let (rows, others) = match head {
            Side::New => (&mut self.rows, &mut self.old),
            Side::Old => (&mut self.rows, &mut self.new),
        };
        let Some((kept, likeness)) = others.take(hash, |kept| rows.compare(head, kept)) else {
            return false;
        };
        self.aside_bytes = self.aside_bytes.saturating_sub(self.rows.size(&kept) + Self::OVERHEAD);
        match likeness {
            Likeness::Same => self.rows.discard(kept),
            _ => self.rows.update(head, kept),
        }
        true
    }

    fn set_aside(&mut self, head: Side, hash: u64) {
        let row = self.rows.keep(head);
        self.aside_bytes += self.rows.size(&row) + Self::OVERHEAD;
        match head {
            Side::New => self.new.put(Entry { hash, row }),
            Side::Old => self.old.put(Entry { hash, row }),
        }
    }

    fn spill_if_needed(&mut self) {
        if self.aside_bytes > self.budget_bytes {
            self.spill();
        }
    }

    /// Makes room. What comes later may match what is spilled: that is found in the end.
    fn spill(&mut self) {
        self.spilled = true;
        self.spilled_at = self.steps;
        self.aside_bytes = 0;
        for (side, aside) in [(Side::Old, &mut self.old), (Side::New, &mut self.new)] {
            for entry in aside.drain() {
                self.rows.spill(side, entry.hash, entry.row);
            }
        }
    }

    fn settle_spilled(&mut self) {
        let mut group = Group { hash: 0, old: Vec::new(), new: Vec::new() };
        while let Some((side, hash, row)) = self.rows.next_spilled() {
            if hash != group.hash {
                group.settle(&mut self.rows);
                group.hash = hash;
            }
            match side {
                Side::Old => group.add_old(row, &mut self.rows),
                Side::New => group.add_new(row, &mut self.rows),
            }
        }
        group.settle(&mut self.rows);
    }
}

/// Spilled rows of one hash that have no equal on the other side so far.
struct Group<K> {
    hash: u64,
    old: Vec<Copies<K>>,
    new: Vec<K>,
}

/// Old rows that are the same: however many they are, one content is kept.
struct Copies<K> {
    row: K,
    others: Vec<K>,
}

impl<K> Group<K> {
    fn add_old<R: Rows<Kept = K>>(&mut self, mut row: K, rows: &mut R) {
        let same = |copies: &&mut Copies<K>| rows.compare_kept(&row, &copies.row) == Likeness::Same;
        match self.old.iter_mut().find(same) {
            Some(copies) => {
                rows.forget_content(&mut row);
                copies.others.push(row);
            }
            None => self.old.push(Copies { row, others: Vec::new() }),
        }
    }

    /// All old ones have come.
    fn add_new<R: Rows<Kept = K>>(&mut self, row: K, rows: &mut R) {
        let same = |copies: &Copies<K>| rows.compare_kept(&row, &copies.row) == Likeness::Same;
        match self.old.iter().position(same) {
            Some(place) => {
                let equal = match self.old[place].others.pop() {
                    Some(other) => other,
                    None => self.old.swap_remove(place).row,
                };
                rows.discard(equal);
                rows.discard(row);
            }
            // Nothing that it could be a change of.
            None if self.old.is_empty() => rows.insert(row),
            None => self.new.push(row),
        }
    }

    fn settle<R: Rows<Kept = K>>(&mut self, rows: &mut R) {
        for new in self.new.drain(..) {
            let same_key =
                |copies: &Copies<K>| rows.compare_kept(&new, &copies.row) == Likeness::SameKey;
            match self.old.iter().position(same_key) {
                Some(place) => {
                    let Copies { row, others } = self.old.swap_remove(place);
                    rows.update_kept(new, row);
                    others.into_iter().for_each(|other| rows.delete(other));
                }
                None => rows.insert(new),
            }
        }
        for Copies { row, others } in self.old.drain(..) {
            rows.delete(row);
            others.into_iter().for_each(|other| rows.delete(other));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;

    use super::*;

    /// A key, or none for a row that is identified as a whole, and a value.
    type Row = (Option<u8>, u8);

    /// Streams in memory, and what was found about them.
    #[derive(Default)]
    struct Memory {
        old: Vec<Row>,
        next: usize,
        head: Row,
        /// Few hashes, so that they collide.
        hashes: u64,
        spilled: Vec<(Side, u64, Row)>,
        sorted: bool,
        inserted: Vec<Row>,
        updated: Vec<(Row, Row)>,
        deleted: Vec<Row>,
    }

    impl Memory {
        fn head(&self, side: Side) -> Row {
            match side {
                Side::New => self.head,
                Side::Old => self.old[self.next - 1],
            }
        }
    }

    fn likeness(new: Row, old: Row) -> Likeness {
        if new == old {
            Likeness::Same
        } else if new.0.is_some() && new.0 == old.0 {
            Likeness::SameKey
        } else {
            Likeness::Different
        }
    }

    impl Rows for Memory {
        type Kept = Row;

        fn next_old(&mut self) -> bool {
            self.next += 1;
            self.next <= self.old.len()
        }
        fn compare_heads(&mut self) -> Likeness {
            likeness(self.head(Side::New), self.head(Side::Old))
        }
        fn compare(&mut self, head: Side, kept: &Row) -> Likeness {
            likeness(self.head(head), *kept)
        }
        fn compare_kept(&mut self, new: &Row, old: &Row) -> Likeness {
            likeness(*new, *old)
        }
        fn order_heads(&mut self) -> Ordering {
            let (new, old) = (self.head(Side::New), self.head(Side::Old));
            assert!(new.0.is_some() && old.0.is_some(), "only keys have an order");
            // Coarser than the likeness: keys in pairs are equal to the index.
            (new.0.map(|key| key / 2)).cmp(&old.0.map(|key| key / 2))
        }
        fn has_key(&mut self, head: Side) -> bool {
            self.head(head).0.is_some()
        }
        fn hash(&mut self, head: Side) -> u64 {
            let row = self.head(head);
            u64::from(row.0.unwrap_or(row.1)) % self.hashes
        }
        fn keep(&mut self, head: Side) -> Row {
            self.head(head)
        }
        fn size(&self, _: &Row) -> usize {
            10
        }
        fn discard(&mut self, _: Row) {}
        fn forget_content(&mut self, _: &mut Row) {}
        fn update_heads(&mut self) {
            self.updated.push((self.head(Side::New), self.head(Side::Old)));
        }
        fn insert_head(&mut self) {
            self.inserted.push(self.head(Side::New));
        }
        fn delete_head(&mut self) {
            self.deleted.push(self.head(Side::Old));
        }
        fn update(&mut self, head: Side, kept: Row) {
            let head_row = self.head(head);
            self.updated.push(match head {
                Side::New => (head_row, kept),
                Side::Old => (kept, head_row),
            });
        }
        fn update_kept(&mut self, new: Row, old: Row) {
            self.updated.push((new, old));
        }
        fn insert(&mut self, new: Row) {
            self.inserted.push(new);
        }
        fn delete(&mut self, old: Row) {
            self.deleted.push(old);
        }
        fn spill(&mut self, side: Side, hash: u64, kept: Row) {
            self.spilled.push((side, hash, kept));
        }
        fn next_spilled(&mut self) -> Option<(Side, u64, Row)> {
            // From the end.
            if !std::mem::replace(&mut self.sorted, true) {
                self.spilled.sort_by_key(|(side, hash, _)| (*hash, *side == Side::Old));
            }
            self.spilled.pop()
        }
    }

    fn diff(new: &[Row], old: &[Row], budget: usize, hashes: u64) -> Memory {
        let memory = Memory { old: old.to_vec(), hashes, ..Memory::default() };
        run(Diff::natural(memory, budget, 0), new)
    }

    /// With both sides sorted by what the index takes for equal; rows without a key come anywhere.
    fn ordered(new: &[Row], old: &[Row], budget: usize, hashes: u64) -> Memory {
        let sorted = |rows: &[Row]| {
            let mut rows = rows.to_vec();
            rows.sort_by_key(|row| row.0.map_or(row.1 * 10, |key| key / 2));
            rows
        };
        let memory = Memory { old: sorted(old), hashes, ..Memory::default() };
        run(Diff::ordered(memory, budget), &sorted(new))
    }

    fn run(mut diff: Diff<Memory>, new: &[Row]) -> Memory {
        for row in new {
            diff.rows().head = *row;
            assert_eq!(diff.new_row(), Step::Next);
        }
        diff.finish()
    }

    fn counts(rows: impl IntoIterator<Item = Row>) -> BTreeMap<Row, i64> {
        let mut counts = BTreeMap::new();
        for row in rows {
            *counts.entry(row).or_insert(0) += 1;
        }
        counts
    }

    /// What is in one bag and not in the other.
    fn beyond(bag: &[Row], other: &[Row]) -> BTreeMap<Row, i64> {
        let mut rest = counts(bag.iter().copied());
        for (row, count) in counts(other.iter().copied()) {
            if let Some(have) = rest.get_mut(&row) {
                *have -= count;
            }
        }
        rest.retain(|_, count| *count > 0);
        rest
    }

    /// What an executor would make of the findings.
    fn apply(found: &Memory, old: &[Row]) -> BTreeMap<Row, i64> {
        let mut bag = counts(old.iter().copied());
        let replaced = found.updated.iter().map(|(_, old)| *old);
        for row in found.deleted.iter().copied().chain(replaced) {
            *bag.get_mut(&row).expect("only what is there goes") -= 1;
        }
        let replacing = found.updated.iter().map(|(new, _)| *new);
        for row in found.inserted.iter().copied().chain(replacing) {
            *bag.entry(row).or_insert(0) += 1;
        }
        bag.retain(|_, count| *count != 0);
        bag
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        prop::collection::vec((prop::option::weighted(0.8, 0_u8..40), 0_u8..4), 0..60)
    }

    /// One row for each key, as in a view with a unique index; those without a key may repeat.
    fn unique(rows: Vec<Row>) -> Vec<Row> {
        let mut seen = std::collections::HashSet::new();
        rows.into_iter().filter(|(key, _)| key.is_none_or(|key| seen.insert(key))).collect()
    }

    proptest! {
        /// Whatever the order, the memory and the hashes: the bag comes out right, keys unique or not.
        #[test]
        fn the_view_becomes_what_the_query_returns(
            new in rows(), old in rows(), budget in 0_usize..3000, hashes in 1_u64..64,
        ) {
            for found in [diff(&new, &old, budget, hashes), ordered(&new, &old, budget, hashes)] {
                prop_assert_eq!(apply(&found, &old), counts(new.iter().copied()));
            }
        }

        /// Without keys, rows may repeat as they like.
        #[test]
        fn bags_without_keys_come_out_right(
            new in prop::collection::vec(0_u8..6, 0..60),
            old in prop::collection::vec(0_u8..6, 0..60),
            budget in 0_usize..3000,
            hashes in 1_u64..64,
        ) {
            let rows = |values: Vec<u8>| -> Vec<Row> { values.into_iter().map(|v| (None, v)).collect() };
            let (new, old) = (rows(new), rows(old));
            let found = diff(&new, &old, budget, hashes);
            prop_assert_eq!(counts(found.inserted.iter().copied()), beyond(&new, &old));
            prop_assert_eq!(counts(found.deleted.iter().copied()), beyond(&old, &new));
        }

        /// Only what differs is written, and a change of a row is written as an update.
        #[test]
        fn nothing_is_written_that_is_there_already(
            new in rows().prop_map(unique),
            old in rows().prop_map(unique),
            budget in 0_usize..3000,
            hashes in 1_u64..64,
        ) {
            let found = diff(&new, &old, budget, hashes);
            let (added, removed) = (beyond(&new, &old), beyond(&old, &new));
            let inserted = found.inserted.iter().chain(found.updated.iter().map(|(new, _)| new));
            prop_assert_eq!(counts(inserted.copied()), added.clone());
            let deleted = found.deleted.iter().chain(found.updated.iter().map(|(_, old)| old));
            prop_assert_eq!(counts(deleted.copied()), removed.clone());
            let keys: HashMap<u8, ()> = removed.keys().filter_map(|row| Some((row.0?, ()))).collect();
            let changed = added.keys().filter(|row| row.0.is_some_and(|key| keys.contains_key(&key)));
            prop_assert_eq!(found.updated.len(), changed.count());
        }

        /// Edits of a few rows leave the streams in step: next to nothing is ever set aside.
        #[test]
        fn few_changes_need_little_memory(at in 0_u8..200, kind in 0_u8..3) {
            let old: Vec<Row> = (0..200).map(|key| (Some(key), 0)).collect();
            let mut new = old.clone();
            match kind {
                0 => drop(new.remove(usize::from(at))),
                1 => new.insert(usize::from(at), (Some(250), 0)),
                _ => new[usize::from(at)].1 = 1,
            }
            let budget = 4 * (10 + Diff::<Memory>::OVERHEAD);
            let memory = Memory { old, hashes: 1 << 32, ..Memory::default() };
            let mut diff = Diff::natural(memory, budget, 4000);
            for row in &new {
                diff.rows().head = *row;
                prop_assert_eq!(diff.new_row(), Step::Next);
            }
            prop_assert!(!diff.has_spilled());
            let found = diff.finish();
            prop_assert_eq!(found.inserted.len() + found.updated.len() + found.deleted.len(), 1);
        }
    }

    #[test]
    fn empty_streams_differ_by_the_other_one() {
        let some = [(Some(1), 1), (None, 2)];
        assert_eq!(diff(&some, &[], 0, 8).inserted.len(), 2);
        assert_eq!(diff(&[], &some, 0, 8).deleted.len(), 2);
        let nothing = diff(&[], &[], 0, 8);
        assert!(nothing.inserted.is_empty() && nothing.deleted.is_empty());
    }

    #[test]
    fn scattered_streams_ask_for_order_while_it_is_worth_it() {
        let old: Vec<Row> = (0..200).map(|key| (Some(key), 0)).collect();
        let first_steps = |expected| {
            let memory = Memory { old: old.clone(), hashes: 1 << 32, ..Memory::default() };
            let mut diff = Diff::natural(memory, 2000, expected);
            old.iter().rev().take(50).all(|row| {
                diff.rows().head = *row;
                diff.new_row() == Step::Next
            })
        };
        assert!(!first_steps(400), "in time");
        assert!(first_steps(40), "too late");
        assert!(first_steps(0), "there is no order");
    }

    #[test]
    fn a_query_in_batches_asks_for_order_in_its_first() {
        let old: Vec<Row> = (0..200).map(|key| (Some(key), 0)).collect();
        let memory = Memory { old: old.clone(), hashes: 1 << 32, ..Memory::default() };
        let mut diff = Diff::natural(memory, 20 * (10 + Diff::<Memory>::OVERHEAD), 400);
        let first_batch = old.iter().step_by(2);
        let steps = first_batch.take_while(|row| {
            diff.rows().head = **row;
            diff.new_row() == Step::Next
        });
        assert!(steps.count() < 30);
    }

    #[test]
    fn that_memory_will_not_do_is_foreseen() {
        let new: Vec<Row> = (0..200).map(|key| (Some(key), 0)).collect();
        let mut old = new.clone();
        // As a query returned them that joined in two batches.
        old.sort_by_key(|row| row.0.map(|key| key % 2));
        let steps = |rows_in_memory: usize| {
            let memory = Memory { old: old.clone(), hashes: 1 << 32, ..Memory::default() };
            let budget = rows_in_memory * (10 + Diff::<Memory>::OVERHEAD);
            let mut diff = Diff::natural(memory, budget, 200);
            diff.look_ahead_at = 20;
            let steps = new.iter().take_while(|row| {
                diff.rows().head = **row;
                diff.new_row() == Step::Next
            });
            steps.count()
        };
        assert!(steps(50) < 30, "when memory is full it is too late");
        assert_eq!(steps(200), 200, "there is enough for all");
    }

    #[test]
    fn many_rows_that_are_the_same_are_found_at_once() {
        const ROWS: usize = 100_000;
        let (one, two) = (vec![(None, 1); ROWS], vec![(None, 2); ROWS]);
        let both: Vec<Row> = one.iter().chain(&two).copied().collect();
        for budget in [0, usize::MAX] {
            // Were each compared with all before it, none of these would end.
            assert_eq!(diff(&one, &[], budget, 8).inserted.len(), ROWS);
            assert_eq!(diff(&one, &both, budget, 8).deleted.len(), ROWS);
            let found = diff(&two, &one, budget, 8);
            assert_eq!((found.inserted.len(), found.deleted.len()), (ROWS, ROWS));
        }
    }

    #[test]
    fn nothing_is_left_of_rows_that_have_found_each_other() {
        let mut aside = Aside::new();
        for hash in 0..100 {
            for row in 0..3 {
                aside.put(Entry { hash, row });
            }
            for _ in 0..3 {
                assert!(aside.take(hash, |_| Likeness::Same).is_some());
            }
            assert!(aside.take(hash, |_| Likeness::Same).is_none());
        }
        assert_eq!((aside.rows, aside.first.len(), aside.others.len()), (0, 0, 0));
    }

    #[test]
    fn reversed_order_still_finds_every_pair() {
        let old: Vec<Row> = (0..100).map(|key| (Some(key), 0)).collect();
        let new: Vec<Row> = old.iter().rev().copied().collect();
        for budget in [0, 500, usize::MAX] {
            let found = diff(&new, &old, budget, 1 << 32);
            assert!(
                found.inserted.is_empty() && found.updated.is_empty() && found.deleted.is_empty()
            );
        }
    }
}
