//! Which transactions a snapshot shows, as the server writes it in type `pg_snapshot`.
//!
//! A view remembers the snapshot of its last refresh. What a transaction has changed is unshown while
//! that snapshot does not show the transaction: right whatever the order of commits, and for prepared
//! transactions too.

use std::fmt;
use std::str::FromStr;

/// The transactions that had ended when a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visibility {
    /// All before this one had ended.
    earliest: u64,
    /// None from this one on had ended.
    next: u64,
    /// Those in between that were still running, in order.
    running: Vec<u64>,
}

/// A text that is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a snapshot")]
pub struct NotASnapshot {
    /// What was given.
    pub text: String,
}

impl FromStr for Visibility {
    type Err = NotASnapshot;

    /// `xmin:xmax:xip,xip,…`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || NotASnapshot { text: text.to_owned() };
        let number = |text: &str| text.parse::<u64>().map_err(|_| bad());
        let mut parts = text.split(':');
        let (Some(earliest), Some(next), Some(running), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        let running: Vec<u64> = running
            .split(',')
            .filter(|part| !part.is_empty())
            .map(number)
            .collect::<Result<_, _>>()?;
        let read = Self { earliest: number(earliest)?, next: number(next)?, running };
        let bounds = read.earliest..read.next;
        let ordered = read.running.is_sorted_by(|left, right| left < right);
        if read.earliest <= read.next
            && ordered
            && read.running.iter().all(|xid| bounds.contains(xid))
        {
            Ok(read)
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for Visibility {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:", self.earliest, self.next)?;
        for (place, xid) in self.running.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(formatter, "{comma}{xid}")?;
        }
        Ok(())
    }
}

impl Visibility {
    /// Whether what that top-level transaction has done is shown, if it has committed.
    #[must_use]
    pub fn shows(&self, xid: u64) -> bool {
        xid < self.earliest || (xid < self.next && self.running.binary_search(&xid).is_err())
    }

    /// The first transaction that may not be shown: all before it had ended.
    #[must_use]
    pub const fn earliest(&self) -> u64 {
        self.earliest
    }

    /// The same without that transaction. For the transaction that refreshes: a snapshot does not count
    /// its own as running, but what it writes after the refresh is not shown.
    #[must_use]
    pub fn without(mut self, xid: u64) -> Self {
        if self.shows(xid) {
            self.earliest = self.earliest.min(xid);
            let place = self.running.partition_point(|&running| running < xid);
            self.running.insert(place, xid);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Visibility {
        text.parse().unwrap()
    }

    #[test]
    fn what_had_ended_is_shown() {
        let snapshot = read("10:20:10,14,15");
        for (xid, shown) in
            [(9, true), (10, false), (11, true), (14, false), (19, true), (20, false)]
        {
            assert_eq!(snapshot.shows(xid), shown, "{xid}");
        }
        assert!(!read("10:10:").shows(10));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "1:2", "1:2:3:4", "2:1:", "1:5:7", "1:5:3,2", "1:5:3,3", "a:2:", "1:2:x", "-1:2:"]
        {
            assert!(text.parse::<Visibility>().is_err(), "{text}");
        }
    }

    fn any() -> impl Strategy<Value = Visibility> {
        (0..50_u64, prop::collection::btree_set(0..40_u64, 0..8), 0..40_u64).prop_map(
            |(first, offsets, rest)| {
                let running: Vec<u64> = offsets.iter().map(|offset| first + offset).collect();
                let next = running.last().map_or(first, |last| last + 1) + rest;
                Visibility { earliest: running.first().copied().unwrap_or(next), next, running }
            },
        )
    }

    proptest! {
        #[test]
        fn every_snapshot_reads_back(snapshot in any()) {
            prop_assert_eq!(read(&snapshot.to_string()), snapshot);
        }

        #[test]
        fn without_takes_away_exactly_that_one(snapshot in any(), taken in 0..120_u64) {
            let less = snapshot.clone().without(taken);
            prop_assert!(less.to_string().parse::<Visibility>().is_ok());
            for xid in 0..120 {
                prop_assert_eq!(less.shows(xid), snapshot.shows(xid) && xid != taken);
            }
        }
    }
}
