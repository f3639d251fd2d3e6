//! The server's clock, and its time types as the core's.

use std::time::Duration;

use cache_refresher_core::time::Timestamp;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys;

use super::unguarded;
use crate::error::{Error, Result};

/// The wall clock now, not the start of the transaction.
pub fn now() -> Timestamp {
    Timestamp::from_pg(unguarded::now())
}

/// The core's timestamp as an SQL value.
pub fn to_sql(at: Timestamp) -> TimestampWithTimeZone {
    // An out-of-range value comes of arithmetic with enormous durations: it reads as infinity.
    TimestampWithTimeZone::try_from(at.as_pg()).unwrap_or_else(|_| match at.as_pg() {
        ..0 => TimestampWithTimeZone::negative_infinity(),
        _ => TimestampWithTimeZone::positive_infinity(),
    })
}

/// An SQL timestamp as the core's.
pub fn from_sql(at: TimestampWithTimeZone) -> Timestamp {
    Timestamp::from_pg(at.into_inner())
}

const MICROSECONDS_PER_DAY: u128 = 86_400_000_000;

/// A duration as an SQL interval of days and microseconds.
pub fn to_interval(duration: Duration) -> Interval {
    let micros = duration.as_micros();
    let days = i32::try_from(micros / MICROSECONDS_PER_DAY).unwrap_or(i32::MAX);
    // Less than a day always fits.
    let rest = i64::try_from(micros % MICROSECONDS_PER_DAY).unwrap_or_default();
    Interval::new(0, days, rest).unwrap_or_else(|_| Interval::from_days(days))
}

/// An SQL interval as a duration; a day has 24 hours and a month 30 days. `name` is for the error.
pub fn from_interval(name: &'static str, interval: &Interval) -> Result<Duration> {
    match u64::try_from(interval.as_micros()) {
        Ok(micros) => Ok(Duration::from_micros(micros)),
        Err(_) if interval.as_micros() < 0 => Err(Error::NegativeInterval { name }),
        Err(_) => Err(Error::HugeInterval { name }),
    }
}

/// When the last transaction was committed that a standby has replayed; nothing before the first.
pub fn replayed_until() -> Option<Timestamp> {
    // SAFETY: reads shared memory.
    let at = unsafe { pg_sys::GetLatestXTime() };
    (at != 0).then(|| Timestamp::from_pg(at))
}

/// When a transaction committed, if the server keeps track of that and still knows.
pub fn committed_at(transaction: u64) -> Option<Timestamp> {
    let mut at = 0;
    // SAFETY: a setting of the whole server; such transactions as have written are asked about.
    let known = unsafe {
        // On a standby it is the primary's setting that counts.
        pg_sys::track_commit_timestamp
            && !pg_sys::RecoveryInProgress()
            && pg_sys::TransactionIdGetCommitTsData(
                (transaction as u32).into(),
                &mut at,
                std::ptr::null_mut(),
            )
    };
    known.then(|| Timestamp::from_pg(at))
}
