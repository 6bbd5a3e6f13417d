//! A token bucket: a number at once, and a number more each second.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct TokenBucket {
    tokens: f64,
    refilled_at: Instant,
}

impl TokenBucket {
    pub fn new(tokens: f64, now: Instant) -> Self {
        Self { tokens, refilled_at: now }
    }

    /// Adds what the time since the last call is worth, up to `most` in all.
    pub fn refill(&mut self, now: Instant, per_second: f64, burst: f64) {
        let refilled = now.saturating_duration_since(self.refilled_at).as_secs_f64() * per_second;
        self.refilled_at = now;
        self.tokens = (self.tokens + refilled).min(burst);
    }

    /// How long until there is one, at this rate.
    pub fn time_until_token(&self, per_second: f64) -> Duration {
        Duration::try_from_secs_f64((1.0 - self.tokens).max(0.0) / per_second).unwrap_or(Duration::MAX)
    }

    /// Takes one, if there is one.
    pub fn take(&mut self) -> bool {
        let has_one = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(has_one));
        has_one
    }
}
