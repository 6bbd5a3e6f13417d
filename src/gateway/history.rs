//! What the engine keeps of its last 24 hours, a sample a second.

use std::time::UNIX_EPOCH;

use super::Engine;
use crate::telemetry::{
    history::{HistoryReport, HistoryRequest, HistoryRing, HistorySample},
    snapshot::{PoolRow, TrafficSample, TrafficTotals},
};

/// The ring, and what was counted when its last sample was taken.
#[derive(Debug, Default)]
pub(super) struct GatewayHistory {
    ring: HistoryRing,
    refused: u64,
}

impl Engine {
    /// To be called once a second.
    pub(super) fn sample_history(&mut self, totals: &TrafficTotals, pools: &[PoolRow]) {
        let (role, at) = (self.first_role(), self.unix_now());
        let rate = self.traffic.newest();
        let refused = totals.refused.saturating_sub(self.history.refused);
        self.history.refused = totals.refused;
        self.history.ring.take_second(sample(
            at,
            rate,
            refused,
            totals,
            pools.iter().filter(|pool| pool.role == role),
        ));
    }

    pub(super) fn history_report(&self, requested: HistoryRequest) -> HistoryReport {
        self.history.ring.report(requested, self.unix_now())
    }

    fn unix_now(&self) -> u64 {
        self.wall_clock.now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

fn sample<'a>(
    at: u64,
    rate: TrafficSample,
    refused: u64,
    totals: &TrafficTotals,
    pools: impl Iterator<Item = &'a PoolRow> + Clone,
) -> HistorySample {
    let sum = |of: fn(&PoolRow) -> usize| {
        pools.clone().fold(0_u64, |sum, pool| sum.saturating_add(of(pool) as u64))
    };
    // Links that are dialled for a session each are none that could be ready.
    let links =
        sum(|pool| if pool.target > 0 { pool.ready } else { pool.ready.saturating_add(pool.carrying) });
    HistorySample {
        at,
        seconds: 1,
        up: rate.up,
        down: rate.down,
        up_max: rate.up,
        down_max: rate.down,
        open: totals.sessions_open,
        waiting: totals.sessions_waiting,
        links,
        links_wanted: sum(|pool| pool.target),
        refused,
        wait_ms: pools.filter_map(|pool| pool.wait_p99_ms).reduce(f64::max),
    }
}
