//! What came of a refresh.

use crate::pace::Found;

/// What came of a refresh, or of a call that asked for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The view was brought up to date.
    Refreshed,
    /// Nothing had changed, so nothing was done.
    Skipped,
    /// An error ended it.
    Failed,
    /// Somebody, or the end of the server, ended it.
    Cancelled,
    /// The caller took part in somebody else's refresh that began after the call.
    Shared,
    /// The view was fresh enough for the caller.
    Fresh,
}

impl Outcome {
    /// The word for log and results.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refreshed => "refreshed",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Shared => "shared",
            Self::Fresh => "fresh",
        }
    }
}

/// What a refresh has done to the rows of its view.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowCounts {
    /// Rows in the view.
    pub total: i64,
    /// Rows that were written, where the method tells.
    pub changes: Option<RowChanges>,
}

/// Rows that a refresh has written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowChanges {
    /// New rows.
    pub inserted: i64,
    /// New versions of rows.
    pub updated: i64,
    /// Rows that are gone.
    pub deleted: i64,
}

impl RowCounts {
    /// Fewer changes than this leave statistics as good as they were.
    const FEW: i64 = 1000;

    /// Whether the view shows something new; true where the method does not tell.
    pub fn brings_new(&self) -> bool {
        self.changes.is_none_or(|changes| changes.total() > 0)
    }

    /// What the refresh has found, for an interval that adapts.
    pub fn found(&self) -> Found {
        match self.changes {
            None => Found::Unknown,
            Some(changes) if changes.total() > 0 => Found::Changes,
            Some(_) => Found::Nothing,
        }
    }

    /// Whether a tenth of the rows or more have changed: more than the planner should plan by old
    /// statistics until autovacuum comes around.
    pub fn outdate_statistics(&self) -> bool {
        self.changes.is_some_and(|changes| {
            changes.total() >= Self::FEW && changes.total() >= self.total / 10
        })
    }
}

impl RowChanges {
    /// All of them.
    pub const fn total(self) -> i64 {
        self.inserted + self.updated + self.deleted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_go_stale_with_a_tenth_of_the_rows() {
        let counts = |total, updated| RowCounts {
            total,
            changes: Some(RowChanges { updated, ..RowChanges::default() }),
        };
        assert!(counts(10_000, 1000).outdate_statistics());
        assert!(!counts(10_001, 999).outdate_statistics());
        assert!(!counts(100, 100).outdate_statistics(), "few rows");
        assert!(!RowCounts { total: 10_000, changes: None }.outdate_statistics());
    }
}
