//! Pauses between failed dials: they double up to a maximum, with full jitter.
//!
//! Full jitter (a pause anywhere between nothing and the maximum) keeps a hundred gateways from dialling a
//! restarted one at the same moments.

use std::time::Duration;

use crate::profile::RetryPolicy;

/// Counts failures in a row and says how long to pause.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts one more failure and returns the pause before the next try. `unit` is a random number in 0..=1.
    pub fn fail(&mut self, retry: RetryPolicy, unit: f64) -> Duration {
        let bound = bound(retry, self.failures);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(unit.clamp(0.0, 1.0))
    }

    /// Notes a success: the next failure starts over.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

fn bound(retry: RetryPolicy, failures: u32) -> Duration {
    let doubled = 2u32.checked_pow(failures).and_then(|factor| retry.first.checked_mul(factor));
    doubled.unwrap_or(retry.maximum).min(retry.maximum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RETRY: RetryPolicy =
        RetryPolicy { first: Duration::from_millis(500), maximum: Duration::from_secs(2) };

    #[test]
    fn doubles_from_first_to_maximum_and_starts_over() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..4).map(|_| backoff.fail(RETRY, 1.0).as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 2000]);
        backoff.reset();
        assert_eq!(backoff.fail(RETRY, 1.0).as_millis(), 500);
    }

    proptest! {
        #[test]
        fn never_passes_the_bound(failures in 0..200u32, unit in -1.0..2.0f64) {
            let mut backoff = Backoff { failures };
            prop_assert!(backoff.fail(RETRY, unit) <= RETRY.maximum);
        }
    }
}
