//! A token bucket: a number at once, and a number more each second.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct TokenBucket {
    left: f64,
    at: Instant,
}

impl TokenBucket {
    pub fn new(left: f64, now: Instant) -> Self {
        Self { left, at: now }
    }

    /// Adds what the time since the last call is worth, up to `most` in all.
    pub fn earn(&mut self, now: Instant, per_second: f64, most: f64) {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * per_second;
        self.at = now;
        self.left = (self.left + earned).min(most);
    }

    /// How long until there is one, at this rate.
    pub fn until_one(&self, per_second: f64) -> Duration {
        Duration::try_from_secs_f64((1.0 - self.left).max(0.0) / per_second).unwrap_or(Duration::MAX)
    }

    /// Takes one, if there is one.
    pub fn take(&mut self) -> bool {
        let has_one = self.left >= 1.0;
        self.left -= f64::from(u8::from(has_one));
        has_one
    }
}
