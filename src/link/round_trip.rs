//! The round-trip time of a peer's links, as measured by their pings.

use std::time::Duration;

/// The round-trip time of a peer's links and its variation, smoothed as in RFC 6298, section 2.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RoundTrip {
    /// In seconds; `None` before the first answer.
    pub smoothed: Option<f64>,
    pub spread: f64,
}

impl RoundTrip {
    /// Adds one measurement.
    pub(super) fn sample(&mut self, round_trip: Duration) {
        let seconds = round_trip.as_secs_f64();
        match self.smoothed {
            None => *self = Self { smoothed: Some(seconds), spread: seconds / 2.0 },
            Some(before) => {
                self.spread += ((before - seconds).abs() - self.spread) / 4.0;
                self.smoothed = Some(before + (seconds - before) / 8.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_trip_is_smoothed() {
        let mut seen = RoundTrip::default();
        seen.sample(Duration::from_millis(8));
        assert_eq!((seen.smoothed, seen.spread), (Some(0.008), 0.004));
        seen.sample(Duration::from_millis(16));
        let us = |seconds: f64| (seconds * 1e6).round();
        assert_eq!((seen.smoothed.map(us), us(seen.spread)), (Some(9_000.0), 5_000.0));
    }
}
