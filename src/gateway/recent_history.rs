//! What each snapshot takes from those before it: the last minute, and the states that are held.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::service::{Service, ServiceTable};
use crate::{
    profile::{Half, ServiceName},
    telemetry::{
        snapshot::{PoolRow, PoolState},
        wait_histogram::{LastMinute, WaitCounts},
    },
};

/// The contribution of previous snapshots: failures of each pool row and waits of each service in the last minute,
/// and the states that are held.
#[derive(Debug, Default)]
pub struct RecentHistory {
    held: HashMap<PoolKey, HeldPoolState>,
    /// For each pool, the failure counts of the last minute, one per second.
    failures: HashMap<PoolKey, VecDeque<u64>>,
    waits: HashMap<(Half, ServiceName), LastMinute>,
}

/// The state shown for a pool, and when it was last as bad as that, in seconds since the gateway started.
#[derive(Debug, Clone, Copy)]
struct HeldPoolState {
    state: PoolState,
    at: f64,
}

/// Identifies a pool row. Two gateways with one name and address differ in the instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    half: Half,
    service: String,
    peer: Option<String>,
    address: Option<String>,
    instance: Option<String>,
}

impl PoolKey {
    fn of(row: &PoolRow) -> Self {
        Self {
            half: row.half,
            service: row.service.clone(),
            peer: row.peer.clone(),
            address: row.address.clone(),
            instance: row.instance.clone(),
        }
    }

    /// Whether it may be the same gateway after a restart.
    fn may_succeed(&self, other: &Self) -> bool {
        let unnamed = |key: &Self| Self { instance: None, ..key.clone() };
        unnamed(self) == unnamed(other)
    }
}

impl RecentHistory {
    /// Must be called once a second.
    pub(super) fn sample(&mut self, pools: &[PoolRow], services: &ServiceTable, now: f64) {
        let failures = pools.iter().map(|row| {
            // All failures of a new row happened within the minute.
            let mut counts = self.failures_before(row).cloned().unwrap_or_else(|| VecDeque::from([0]));
            counts.push_back(row.failures);
            if counts.len() > MINUTE_SECONDS {
                counts.pop_front();
            }
            (PoolKey::of(row), counts)
        });
        self.failures = failures.collect();
        self.waits.retain(|key, _| services.contains_key(key));
        for (key, service) in services {
            self.waits.entry(key.clone()).or_default().sample(&service.waits, now);
        }
    }

    /// The counts of a row, or of the row whose failures it took over: after a restart of its gateway, or since it
    /// became the first of several at one address, which has those of the address.
    fn failures_before(&self, row: &PoolRow) -> Option<&VecDeque<u64>> {
        let key = PoolKey::of(row);
        let last = |counts: &VecDeque<u64>| counts.back().copied().unwrap_or(0);
        let took_over = |(before, counts): &(&PoolKey, &VecDeque<u64>)| {
            key.may_succeed(before) && last(counts) <= row.failures
        };
        let others = || self.failures.iter().filter(took_over).map(|(_, counts)| counts);
        match self.failures.get(&key) {
            Some(counts) if last(counts) > 0 || row.failures == 0 => Some(counts),
            Some(counts) => others().find(|counts| last(counts) > 1).or(Some(counts)),
            None => others().max_by_key(|counts| last(counts)),
        }
    }

    /// Must be called with each snapshot. A pool close to its target would otherwise change its word several
    /// times a second. A worse state is shown at once, a better one after it has lasted.
    pub(super) fn hold_states(&mut self, pools: &[PoolRow], now: f64) {
        let held = pools.iter().map(|row| {
            let before = self.held.get(&PoolKey::of(row)).copied();
            let continues = before.filter(|held| row.state < held.state && now - held.at < HOLD_SECONDS);
            (PoolKey::of(row), continues.unwrap_or(HeldPoolState { state: row.state, at: now }))
        });
        self.held = held.collect();
    }

    pub(super) fn fill_rows(&self, rows: &mut [PoolRow], services: &ServiceTable) {
        let mut counted = HashSet::new();
        let is_first = |service: &(Half, ServiceName), row: &PoolRow, counted: &mut HashSet<_>| {
            service.0 == row.half && row.may_serve(service.1.as_str()) && counted.insert(service.clone())
        };
        for row in rows {
            let before = self.failures_before(row).and_then(|counts| counts.front());
            row.held =
                Some(self.held.get(&PoolKey::of(row)).map_or(row.state, |held| held.state.max(row.state)));
            row.failures_minute = row.failures.saturating_sub(before.copied().unwrap_or(0));
            let of_row = |(key, service): (&(Half, ServiceName), &Arc<Service>)| {
                let minute = self.waits.get(key).filter(|_| is_first(key, row, &mut counted))?;
                Some(minute.counts(&service.waits))
            };
            let seen =
                services.iter().filter_map(of_row).fold(WaitCounts::default(), |sum, seen| sum.with(&seen));
            let ms = |part| seen.percentile(part).map(|wait| wait.as_micros() as f64 / 1e3);
            (row.wait_p50_ms, row.wait_p99_ms) = (ms(50.0), ms(99.0));
        }
    }
}

/// How long a better state must last before it is shown.
const HOLD_SECONDS: f64 = 1.0;
/// Samples in a minute, one a second.
const MINUTE_SECONDS: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_better_state_is_shown_when_it_has_lasted_and_a_worse_one_at_once() {
        use PoolState::{Down, Filling, Healthy, Starved};
        let mut minute = RecentHistory::default();
        let mut shown = |now: f64, state| {
            let mut rows = vec![PoolRow { state, ..PoolRow::new(Half::Dmz, "orders".into()) }];
            minute.fill_rows(&mut rows, &ServiceTable::new());
            minute.hold_states(&rows, now);
            (rows[0].held, rows[0].state)
        };
        let counted = [
            (0.0, Filling, Filling),
            (0.25, Healthy, Filling),
            (0.5, Filling, Filling),
            (1.25, Healthy, Filling),
            (1.5, Healthy, Filling),
            (1.75, Healthy, Healthy),
            (2.0, Starved, Starved),
            (2.25, Filling, Starved),
            (2.5, Starved, Starved),
            (3.5, Filling, Starved),
            (3.75, Filling, Filling),
            (4.0, Down, Down),
        ];
        for (now, state, expected) in counted {
            assert_eq!(shown(now, state), (Some(expected), state), "at {now}");
        }
    }

    /// Failures of the last minute, after a second in which rows with one name had these totals.
    fn recent_failures(recent: &mut RecentHistory, rows: &[(&str, u64)]) -> Vec<u64> {
        let row = |&(instance, failures): &(&str, u64)| PoolRow {
            failures,
            instance: Some(instance.into()),
            ..PoolRow::new(Half::Dmz, "*".into())
        };
        let mut rows: Vec<_> = rows.iter().map(row).collect();
        recent.fill_rows(&mut rows, &ServiceTable::new());
        recent.sample(&rows, &ServiceTable::new(), 0.0);
        rows.iter().map(|row| row.failures_minute).collect()
    }

    #[test]
    fn failures_of_the_last_minute_survive_a_restart_of_the_gateway() {
        let recent = &mut RecentHistory::default();
        assert_eq!(recent_failures(recent, &[("a", 900)]), [900], "all of them are new");
        (0..MINUTE_SECONDS).for_each(|_| drop(recent_failures(recent, &[("a", 900)])));
        assert_eq!(recent_failures(recent, &[("a", 902)]), [2]);
        assert_eq!(recent_failures(recent, &[("b", 902)]), [2], "it was killed, and is back");
        assert_eq!(recent_failures(recent, &[("b", 904)]), [4]);
        assert_eq!(recent_failures(recent, &[("c", 904)]), [4]);
    }

    #[test]
    fn two_gateways_of_one_name_fail_each_for_itself() {
        let recent = &mut RecentHistory::default();
        let twins = [("a", 900), ("b", 0)];
        (0..MINUTE_SECONDS).for_each(|_| drop(recent_failures(recent, &twins)));
        assert_eq!(recent_failures(recent, &twins), [0, 0]);
        assert_eq!(recent_failures(recent, &[("a", 900), ("b", 1)]), [0, 1]);
    }

    #[test]
    fn failures_of_an_address_stay_those_of_long_ago_whichever_gateway_is_first() {
        let recent = &mut RecentHistory::default();
        let shared = [("b", 900), ("c", 0)];
        (0..MINUTE_SECONDS).for_each(|_| drop(recent_failures(recent, &shared)));
        assert_eq!(
            recent_failures(recent, &[("a", 900), ("b", 0), ("c", 0)]),
            [0, 0, 0],
            "one more is there"
        );
        assert_eq!(recent_failures(recent, &[("c", 901)]), [1], "two have gone");
    }
}
