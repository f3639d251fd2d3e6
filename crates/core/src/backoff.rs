//! How long to wait before a failed refresh is tried again.

use std::time::Duration;

use crate::mix;

/// How failures are retried within one round. When the retries of a round are used up, the view
/// waits for its next slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Retries after the first failure of a round.
    pub max_retries: u32,
    /// The longest wait before the first retry; it doubles with each one.
    pub base_delay: Duration,
    /// What it doubles up to.
    pub max_delay: Duration,
}

impl RetryPolicy {
    /// The wait before retry number `attempt` (from 1): exponential with full jitter, which is
    /// uniform between zero and [`ceiling`](Self::ceiling). Views that failed together for one
    /// reason so come back apart (Marc Brooker: Exponential backoff and jitter).
    ///
    /// `entropy` is any number; the same one gives the same wait.
    pub fn delay(&self, attempt: u32, entropy: u64) -> Duration {
        let ceiling = u64::try_from(self.ceiling(attempt).as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(mix::scale(mix::splitmix64(entropy), ceiling.saturating_add(1)))
    }

    /// The longest wait before retry number `attempt` (from 1): base * 2^(attempt - 1), but not
    /// above the maximum.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.base_delay.saturating_mul(factor).min(self.max_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        max_retries: 5,
        base_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(300),
    };

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let ceilings: Vec<u64> =
            (1..=10).map(|attempt| POLICY.ceiling(attempt).as_secs()).collect();
        assert_eq!(ceilings, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert_eq!(POLICY.ceiling(u32::MAX), POLICY.max_delay);
    }

    #[test]
    fn waits_fill_the_whole_range_evenly() {
        let waits: Vec<f64> =
            (0..10_000).map(|entropy| POLICY.delay(4, entropy).as_secs_f64()).collect();
        let mean = waits.iter().sum::<f64>() / 10_000.0;
        assert!((3.9..4.1).contains(&mean), "{mean}");
        assert!(waits.iter().any(|wait| *wait < 0.01));
        assert!(waits.iter().any(|wait| *wait > 7.99));
    }

    #[test]
    fn a_zero_base_means_at_once() {
        let policy = RetryPolicy { base_delay: Duration::ZERO, ..POLICY };
        assert_eq!(policy.delay(3, 42), Duration::ZERO);
    }
}
