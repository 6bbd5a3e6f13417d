//! How long clients wait for a link: a histogram to which sessions add without a lock, and its last minute,
//! which is sampled from time to time.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Four buckets for each doubling, starting at a microsecond: a percentile is at most a quarter too high.
const BUCKETS: usize = 4 * 32;

/// The number of waits by length, since the start.
#[derive(Debug)]
pub struct WaitHistogram([AtomicU64; BUCKETS]);

/// The number of waits by length, over some time.
#[derive(Debug, Clone)]
pub struct WaitCounts(Box<[u64; BUCKETS]>);

impl Default for WaitHistogram {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Default for WaitCounts {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl WaitHistogram {
    pub fn add(&self, wait: Duration) {
        self.0[bucket(wait)].fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> WaitCounts {
        WaitCounts(Box::new(std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed))))
    }
}

impl WaitCounts {
    pub fn with(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(count, more)| *count += more);
        self
    }

    fn since(mut self, before: &Self) -> Self {
        self.0.iter_mut().zip(before.0.iter()).for_each(|(count, less)| *count = count.saturating_sub(*less));
        self
    }

    /// The wait that this percentage did not exceed; `None` if there was none.
    pub fn percentile(&self, part: f64) -> Option<Duration> {
        let all: u64 = self.0.iter().sum();
        let wanted = ((all as f64 * part / 100.0).ceil() as u64).max(1);
        let mut below = 0;
        let at = self.0.iter().position(|count| {
            below += count;
            below >= wanted
        })?;
        Some(Duration::from_micros(upper_bound(at)))
    }
}

/// The waits of the last minute, give or take a few seconds.
#[derive(Debug, Default)]
pub struct LastMinute {
    /// Counts by the time they were read; the minute begins with the first.
    read: VecDeque<(f64, WaitCounts)>,
    /// A minute has passed since the first reading.
    is_full: bool,
}

impl LastMinute {
    /// Must be called from time to time; `now` in seconds.
    pub fn sample(&mut self, waits: &WaitHistogram, now: f64) {
        if self.read.back().is_none_or(|(at, _)| now - at >= STEP_SECONDS) {
            self.read.push_back((now, waits.counts()));
        }
        while self.read.get(1).is_some_and(|(at, _)| now - at >= MINUTE_SECONDS) {
            self.read.pop_front();
            self.is_full = true;
        }
    }

    pub fn counts(&self, waits: &WaitHistogram) -> WaitCounts {
        match self.read.front().filter(|_| self.is_full) {
            Some((_, before)) => waits.counts().since(before),
            // Less than a minute old: count everything.
            None => waits.counts(),
        }
    }
}

fn bucket(wait: Duration) -> usize {
    let us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
    if us < 4 {
        return us as usize;
    }
    let doublings = u64::BITS - 1 - us.leading_zeros();
    let quarter = (us >> (doublings - 2)) & 3;
    ((doublings as usize - 1) * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The longest wait in a bucket, in microseconds.
fn upper_bound(at: usize) -> u64 {
    if at < 4 {
        return at as u64;
    }
    let (doublings, quarter) = (at / 4 + 1, at as u64 % 4);
    ((4 + quarter + 1) << (doublings - 2)) - 1
}

const STEP_SECONDS: f64 = 5.0;
const MINUTE_SECONDS: f64 = 60.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_longest_wait_and_not_the_next() {
        for at in 0..BUCKETS - 1 {
            let longest = upper_bound(at);
            assert_eq!(bucket(Duration::from_micros(longest)), at, "{longest} us");
            assert_eq!(bucket(Duration::from_micros(longest + 1)), at + 1, "{longest} us and one more");
        }
        assert_eq!(bucket(Duration::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_at_most_a_quarter_too_high() {
        let waits = WaitHistogram::default();
        let minute = LastMinute::default();
        assert_eq!(minute.counts(&waits).percentile(50.0), None);
        (0..98).for_each(|_| waits.add(Duration::from_micros(400)));
        (0..2).for_each(|_| waits.add(Duration::from_millis(200)));
        let seen = minute.counts(&waits);
        let us = |part| seen.percentile(part).map_or(0, |wait| wait.as_micros());
        assert!((400..500).contains(&us(50.0)), "{}", us(50.0));
        assert!((200_000..250_000).contains(&us(99.0)), "{}", us(99.0));
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten() {
        let (waits, mut minute) = (WaitHistogram::default(), LastMinute::default());
        waits.add(Duration::from_secs(3));
        for second in 0..90 {
            minute.sample(&waits, f64::from(second));
        }
        assert_eq!(minute.counts(&waits).percentile(99.0), None);
        waits.add(Duration::from_millis(1));
        assert!(minute.counts(&waits).percentile(99.0).is_some_and(|wait| wait < Duration::from_millis(2)));
    }
}
