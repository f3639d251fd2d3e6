//! How the rows of a query may come in an order that they have in common with the view, so that a diff can read
//! both side by side.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;

use pgrx::pg_sys::Oid;

use super::settings::{self, Settings};
use crate::pg::identity::{Restriction, Scope};
use crate::pg::memory;
use crate::pg::query::view_query::ViewQuery;

/// From the cheapest on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As they come: today's order tends to be that of last time.
    AsTheyCome,
    /// As they come where no hash join divides its tables into batches, each of which returns rows from everywhere
    /// in the view. They lie otherwise where whoever made the view had more memory.
    InOneBatch,
    /// Sorted by the view's key.
    ByKey,
}

/// What a hash table of a diff may take where that keeps it in one piece and its rows in order.
const ONE_BATCH_BYTES: usize = 16 << 20;
/// The smallest setting of work_mem that the server takes.
const LEAST_WORK_MEM: usize = 64 << 10;
/// For how many diffs a way is believed to be the better one: plans seldom change.
const DIFFS_BELIEVED: u8 = 7;

thread_local! {
    /// For views whose rows came scattered when this process looked last, what served then, and for how many diffs
    /// that is believed.
    static BELIEVED: RefCell<HashMap<Oid, (Way, u8)>> = RefCell::default();
}

impl Way {
    /// What to begin with.
    pub fn believed(view: Oid) -> Self {
        BELIEVED.with_borrow_mut(|ways| match ways.get_mut(&view) {
            Some((way, diffs @ 1..)) => {
                *diffs -= 1;
                *way
            }
            _ => {
                ways.remove(&view);
                Self::AsTheyCome
            }
        })
    }

    /// What to begin with for a while.
    pub fn believe(self, view: Oid) {
        BELIEVED.with_borrow_mut(|ways| ways.insert(view, (self, DIFFS_BELIEVED)));
    }

    /// In the scope that this returns the query is to be planned and run.
    pub fn settings(self, owner: Oid) -> Option<Scope> {
        let text = |value: String| CString::new(value).unwrap_or_default();
        let hash_memory = |bytes: usize, work_mem: usize| {
            let multiplier = bytes as f64 / work_mem as f64;
            (c"hash_mem_multiplier", text(format!("{multiplier:.3}")))
        };
        let settings: Settings = match self {
            Self::InOneBatch if memory::hash_memory() < ONE_BATCH_BYTES => {
                vec![hash_memory(ONE_BATCH_BYTES, memory::work_mem())]
            }
            Self::AsTheyCome | Self::InOneBatch => return None,
            // To get all rows in an order by looking up the others of each in an index, and to remember what was
            // found, seems to the planner as cheap as to sort them; with a million rows it took twice as long.
            // And a sort takes all the memory that it may, beside what the query itself needs.
            Self::ByKey => {
                let for_sort = (memory::work_mem() / 4 * 3).max(LEAST_WORK_MEM);
                vec![
                    (c"enable_memoize", c"off".to_owned()),
                    (c"work_mem", text((for_sort / 1024).to_string())),
                    hash_memory(memory::hash_memory(), for_sort),
                ]
            }
        };
        Some(Scope::enter(owner, Restriction::RestrictedOperation, &settings::refs(&settings)))
    }

    /// What to try where the rows of this query, planned for this way, come in an order of their own.
    pub fn otherwise(self, query: &ViewQuery, has_order: bool) -> Option<Self> {
        let one_batch = query.memory_for_one_batch();
        let in_batches = one_batch > memory::hash_memory() as f64;
        match self {
            Self::AsTheyCome if in_batches && one_batch <= ONE_BATCH_BYTES as f64 => {
                Some(Self::InOneBatch)
            }
            Self::AsTheyCome | Self::InOneBatch => has_order.then_some(Self::ByKey),
            Self::ByKey => None,
        }
    }
}
