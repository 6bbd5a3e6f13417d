//! The traffic of the gateway and of each service, second by second, calculated from the totals in the
//! snapshots.
//!
//! Seconds without a snapshot stay unknown: they are gaps, not zeros.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    profile::Half,
    telemetry::snapshot::{ServiceRow, Snapshot, TrafficSample},
};

/// The last minutes, for as long as the screen has watched.
#[derive(Debug, Default)]
pub struct RateHistory {
    /// Of the whole gateway.
    all: RateSeries,
    services: HashMap<ServiceKey, RateSeries>,
    received_at: f64,
}

/// A service of one half and, in a fleet, of one gateway.
type ServiceKey = (Option<Arc<str>>, Half, String);

fn key(row: &ServiceRow) -> ServiceKey {
    (row.gateway.clone(), row.half, row.name.clone())
}

#[derive(Debug, Default)]
struct RateSeries {
    /// By the second of the gateway's uptime.
    samples: Vec<(u64, TrafficSample)>,
    last: Option<(f64, TrafficSample)>,
}

impl RateHistory {
    pub fn receive_snapshot(&mut self, snapshot: &Snapshot) {
        let now = snapshot.uptime_seconds;
        if now < self.received_at {
            // Another gateway, or a recording that was rewound.
            self.services.clear();
            self.all = RateSeries::default();
        }
        self.received_at = now;
        self.take_totals(snapshot);
        for service in &snapshot.services {
            let totals = TrafficSample { up: service.totals.bytes_up, down: service.totals.bytes_down };
            self.services.entry(key(service)).or_default().take_sample(now, totals);
        }
        let there: HashSet<_> = snapshot.services.iter().map(key).collect();
        self.services.retain(|key, _| there.contains(key));
    }

    /// Calculated from the totals, as for services. What this screen has not watched comes from the gateway's
    /// own samples of the last two minutes.
    fn take_totals(&mut self, snapshot: &Snapshot) {
        let now = snapshot.uptime_seconds;
        let is_watched = self.all.last.is_some_and(|(at, _)| now - at <= LONGEST_SECONDS);
        if !is_watched {
            let known = self.all.samples.last().map(|(second, _)| *second);
            let back = (0..).map_while(|back| (now as u64).checked_sub(back));
            let samples = back.zip(snapshot.traffic.iter().rev().copied());
            let is_new = |(second, _): &(u64, TrafficSample)| known.is_none_or(|known| *second > known);
            let mut fresh: Vec<_> = samples.take_while(is_new).collect();
            fresh.reverse();
            self.all.samples.extend(fresh);
        }
        self.all.take_sample(
            now,
            TrafficSample { up: snapshot.totals.bytes_up, down: snapshot.totals.bytes_down },
        );
    }

    /// Bytes a second of the gateway, by the second of its uptime, oldest first.
    pub fn all(&self) -> &[(u64, TrafficSample)] {
        &self.all.samples
    }

    /// Bytes a second of a service, by the second of the gateway's uptime, oldest first.
    pub fn of(&self, row: &ServiceRow) -> &[(u64, TrafficSample)] {
        self.services.get(&key(row)).map_or(&[], |series| &series.samples)
    }
}

impl RateSeries {
    fn take_sample(&mut self, now: f64, totals: TrafficSample) {
        let Some((at, before)) = self.last else {
            self.last = Some((now, totals));
            return;
        };
        let seconds = now - at;
        if seconds < 1.0 {
            return;
        }
        self.last = Some((now, totals));
        if totals.up < before.up || totals.down < before.down {
            // It may be another gateway of the same age, whose traffic must not be shown for this one.
            self.samples.clear();
            return;
        }
        if seconds > LONGEST_SECONDS {
            return;
        }
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        let sample = TrafficSample { up: rate(totals.up, before.up), down: rate(totals.down, before.down) };
        self.samples.push((now as u64, sample));
        keep_recent(&mut self.samples, now as u64);
    }
}

fn keep_recent(samples: &mut Vec<(u64, TrafficSample)>, now: u64) {
    let oldest = now.saturating_sub(ChartWindow::LONGEST.seconds());
    samples.retain(|(second, _)| *second > oldest);
}

/// How far back the curves go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChartWindow(usize);

impl Default for ChartWindow {
    fn default() -> Self {
        Self(2)
    }
}

impl ChartWindow {
    const ALL: [(u64, &'static str); 5] =
        [(30, "last 30 s"), (60, "last min"), (120, "last 2 min"), (300, "last 5 min"), (600, "last 10 min")];
    pub const LONGEST: Self = Self(Self::ALL.len() - 1);

    pub fn seconds(self) -> u64 {
        Self::ALL[self.0].0
    }

    pub fn words(self) -> &'static str {
        Self::ALL[self.0].1
    }

    pub fn longer(self) -> Self {
        Self((self.0 + 1).min(Self::LONGEST.0))
    }

    pub fn shorter(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// An average over a longer time would hide that nothing is known about it.
const LONGEST_SECONDS: f64 = 3.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{profile::Mode, telemetry::snapshot::TrafficTotals};

    fn orders() -> ServiceRow {
        ServiceRow::new(Half::Dmz, "orders")
    }

    fn snapshot(uptime_seconds: f64, bytes_up: u64) -> Snapshot {
        let totals = TrafficTotals { bytes_up, ..TrafficTotals::default() };
        let service = ServiceRow { totals, ..ServiceRow::new(Half::Dmz, "orders") };
        Snapshot { uptime_seconds, services: vec![service], ..Snapshot::new("demo", Mode::Reverse) }
    }

    #[test]
    fn rates_come_from_totals_and_silence_is_a_gap() {
        let mut history = RateHistory::default();
        for (at, bytes) in [(1.0, 0), (1.5, 50), (2.0, 100), (9.0, 900), (10.0, 1000)] {
            history.receive_snapshot(&snapshot(at, bytes));
        }
        let seen: Vec<_> =
            history.of(&orders()).iter().map(|(second, sample)| (*second, sample.up)).collect();
        assert_eq!(seen, [(2, 100), (10, 100)], "the seven silent seconds are in no sample");
        history.receive_snapshot(&snapshot(3.0, 0));
        assert!(history.of(&orders()).is_empty(), "another life");
    }

    #[test]
    fn totals_that_go_back_are_those_of_another_gateway() {
        let mut history = RateHistory::default();
        for (at, bytes) in [(1.0, 0), (2.0, 900), (3.0, 0), (4.0, 7)] {
            history.receive_snapshot(&snapshot(at, bytes));
        }
        let seen: Vec<_> = history.of(&orders()).iter().map(|(_, sample)| sample.up).collect();
        assert_eq!(seen, [7]);
    }

    #[test]
    fn ten_minutes_are_kept() {
        let mut history = RateHistory::default();
        (0..900).for_each(|second| history.receive_snapshot(&snapshot(f64::from(second), 0)));
        assert_eq!((history.of(&orders()).len(), history.all().len()), (600, 600));
    }

    #[test]
    fn the_gateways_own_history_fills_the_unwatched_time() {
        let mut history = RateHistory::default();
        let add_sample = |history: &mut RateHistory, at, traffic: &[u64], bytes_up| {
            let traffic = traffic.iter().map(|&up| TrafficSample { up, down: 0 }).collect();
            let totals = TrafficTotals { bytes_up, ..TrafficTotals::default() };
            history.receive_snapshot(&Snapshot { traffic, totals, ..snapshot(at, 0) });
        };
        add_sample(&mut history, 100.0, &[1, 2, 3], 6);
        add_sample(&mut history, 101.0, &[1, 2, 3], 11);
        add_sample(&mut history, 107.0, &[7, 8, 9], 200);
        let seen: Vec<_> = history.all().iter().map(|(second, sample)| (*second, sample.up)).collect();
        assert_eq!(seen, [(98, 1), (99, 2), (100, 3), (101, 5), (105, 7), (106, 8), (107, 9)]);
    }
}
