//! Durations in the buckets that monitors read; adding takes no lock, and they are read as a whole. How long clients
//! have waited in the last minute is not here but in `wait_histogram`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The upper limits, in microseconds: from the time a ready link takes to the time when every client has given
/// up.
const BOUNDS_US: [u64; 13] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000,
];

/// What was measured since the start.
#[derive(Debug, Default)]
pub struct DurationHistogram {
    /// The last one counts what exceeds every limit.
    counts: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DurationCounts {
    counts: [u64; BOUNDS_US.len() + 1],
    sum_us: u64,
}

impl DurationHistogram {
    pub fn add(&self, measured: Duration) {
        let us = u64::try_from(measured.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub fn now(&self) -> DurationCounts {
        DurationCounts {
            counts: std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed)),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

impl DurationCounts {
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn sum_seconds(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// Each upper limit in seconds, with the number of durations between the previous limit and this one.
    pub fn by_bound(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_within_its_bound_and_adds_up() {
        let buckets = DurationHistogram::default();
        let measured = [0, 500, 501, 300_000, 5_000_000, 5_000_001].map(Duration::from_micros);
        measured.iter().for_each(|one| buckets.add(*one));
        let now = buckets.now();
        let filled: Vec<_> = now.by_bound().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.0005, 2), (0.001, 1), (0.5, 1), (5.0, 1), (f64::INFINITY, 1)]);
        assert_eq!((now.count(), now.sum_seconds()), (6, 10.301_002));
    }
}
