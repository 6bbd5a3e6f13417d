//! Estimates how many links should be ready: as many as sessions arrive in the time that one more dial takes.

use std::time::{Duration, Instant};

/// Arrivals are counted over at least so long.
const WINDOW: Duration = Duration::from_millis(50);
/// A rate that is not reached any more halves in so long.
const HALVES_IN: Duration = Duration::from_secs(2);
/// Room above the mean: arrivals come in bursts.
const ROOM: f64 = 2.0;
/// What a dial takes before the first was measured.
const DIAL: f64 = 0.01;

/// Follows arrivals and dials; a rise shows at once, a fall slowly.
#[derive(Debug)]
pub struct DemandEstimate {
    at: Instant,
    opened: u64,
    /// Sessions a second.
    rate: f64,
    /// Seconds to get one more link.
    dial: f64,
}

impl DemandEstimate {
    pub fn new(now: Instant) -> Self {
        Self { at: now, opened: 0, rate: 0.0, dial: DIAL }
    }

    /// Sessions opened so far, as of now.
    pub fn note_arrivals(&mut self, opened: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        if passed < WINDOW {
            return;
        }
        let seen = opened.saturating_sub(self.opened) as f64 / passed.as_secs_f64();
        let kept = self.rate * 0.5_f64.powf(passed.as_secs_f64() / HALVES_IN.as_secs_f64());
        self.rate = seen.max(kept);
        (self.at, self.opened) = (now, opened);
    }

    pub fn note_dial(&mut self, took: Duration) {
        self.dial += (took.as_secs_f64() - self.dial) / 8.0;
    }

    /// Links that should be ready, at least `prepared`.
    pub fn ready_wanted(&self, prepared: usize) -> usize {
        prepared.max((self.rate * self.dial * ROOM).ceil() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_arrivals_up_at_once_and_down_slowly() {
        let start = Instant::now();
        let after = |seconds: f64| start + Duration::from_secs_f64(seconds);
        let mut demand = DemandEstimate::new(start);
        assert_eq!(demand.ready_wanted(8), 8);
        for _ in 0..100 {
            demand.note_dial(Duration::from_millis(20));
        }
        demand.note_arrivals(1000, after(1.0));
        assert_eq!(demand.ready_wanted(8), 40, "1,000 a second, 20 ms each, and room for bursts");
        demand.note_arrivals(1000, after(3.0));
        assert_eq!(demand.ready_wanted(8), 20);
        demand.note_arrivals(1000, after(60.0));
        assert_eq!(demand.ready_wanted(8), 8);
    }
}
