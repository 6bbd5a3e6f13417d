//! What a gateway has transferred, carried and refused in the last 24 hours, in a ring that does not grow.
//!
//! ```text
//! the last 10 minutes   by the second      600 samples
//! the last 2 hours      by ten seconds     720
//! the last 24 hours     by the minute     1440
//! ```
//!
//! Steps without a sample are gaps: the gateway did not run then, or stood still.

use std::{
    collections::VecDeque,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    history_rows::MinuteRows,
    snapshot::{PoolRow, TrafficSample, TrafficTotals},
};

/// The seconds of a step, and how many steps are kept.
const TIERS: [(u64, usize); 3] = [(1, 600), (10, 720), (60, 1440)];
const DAY_SECONDS: u64 = 86_400;
/// How much outlives a restart.
const KEPT_SECONDS: u64 = 3600;
/// How far the clock may be corrected while the gateway is not running.
const CLOCK_SLACK_SECONDS: u64 = 120;
/// The most steps in one answer, whatever was requested.
pub const HISTORY_STEPS_MAX: u64 = 600;

/// The measurements of one step. Zero fields are not sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistorySample {
    /// When the step begins, in seconds since 1970.
    pub at: u64,
    /// How many of its seconds were measured.
    #[serde(skip_serializing_if = "is_zero")]
    pub seconds: u64,
    /// Bytes a second: average and maximum.
    #[serde(skip_serializing_if = "is_zero")]
    pub up: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub down: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub up_max: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub down_max: u64,
    /// Maximum of open sessions and of waiting clients.
    #[serde(skip_serializing_if = "is_zero")]
    pub open: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub waiting: u64,
    /// Minimum of links that took sessions, and the number wanted.
    #[serde(skip_serializing_if = "is_zero")]
    pub links: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub links_wanted: u64,
    /// Clients that were refused.
    #[serde(skip_serializing_if = "is_zero")]
    pub refused: u64,
    /// How long 99 of a hundred clients had waited for a link at most; `None` if there were none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<f64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl HistorySample {
    /// What one second was like, by the rows of the links of one half. `refused` are the clients since the sample
    /// before.
    pub fn of_second<'a>(
        at: u64,
        rate: TrafficSample,
        refused: u64,
        totals: &TrafficTotals,
        pools: impl Iterator<Item = &'a PoolRow> + Clone,
    ) -> Self {
        let sum = |of: fn(&PoolRow) -> usize| {
            pools.clone().fold(0_u64, |sum, pool| sum.saturating_add(of(pool) as u64))
        };
        // Links that are dialled for one session each cannot be ready.
        let links =
            sum(|pool| if pool.target > 0 { pool.ready } else { pool.ready.saturating_add(pool.carrying) });
        Self {
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

    /// Merges two steps of the same gateway, one after the other.
    pub fn followed_by(self, later: &Self) -> Self {
        let seconds = self.seconds.saturating_add(later.seconds);
        let mean = |a: u64, b: u64| {
            // No gateway sends more seconds than a day has, and such a number must not overflow here.
            let [before, after] =
                [self.seconds, later.seconds].map(|seconds| u128::from(seconds.min(DAY_SECONDS)));
            let sum = u128::from(a) * before + u128::from(b) * after;
            let seconds = (before + after).max(1);
            u64::try_from((sum + seconds / 2) / seconds).unwrap_or(u64::MAX)
        };
        Self {
            at: self.at.min(later.at),
            seconds,
            up: mean(self.up, later.up),
            down: mean(self.down, later.down),
            up_max: self.up_max.max(later.up_max),
            down_max: self.down_max.max(later.down_max),
            open: self.open.max(later.open),
            waiting: self.waiting.max(later.waiting),
            links: self.links.min(later.links),
            links_wanted: self.links_wanted.max(later.links_wanted),
            refused: self.refused.saturating_add(later.refused),
            wait_ms: longest(self.wait_ms, later.wait_ms),
        }
    }

    /// Adds the same step of another gateway.
    pub fn beside(self, other: &Self) -> Self {
        Self {
            at: self.at,
            seconds: self.seconds.max(other.seconds),
            up: self.up.saturating_add(other.up),
            down: self.down.saturating_add(other.down),
            up_max: self.up_max.saturating_add(other.up_max),
            down_max: self.down_max.saturating_add(other.down_max),
            open: self.open.saturating_add(other.open),
            waiting: self.waiting.saturating_add(other.waiting),
            links: self.links.saturating_add(other.links),
            links_wanted: self.links_wanted.saturating_add(other.links_wanted),
            refused: self.refused.saturating_add(other.refused),
            wait_ms: longest(self.wait_ms, other.wait_ms),
        }
    }
}

/// Whole seconds since 1970, as the history counts them.
pub fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn longest(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    [a, b].into_iter().flatten().reduce(f64::max)
}

/// How far back an answer goes, and how finely: a number of steps, and the seconds of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryRequest {
    pub step_seconds: u64,
    pub steps: u64,
    /// The time of which the rows of services and links are wanted as well, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_at: Option<u64>,
}

/// The answer: the measured steps, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryReport {
    /// When it was made, in seconds since 1970.
    pub now: u64,
    /// As requested, or longer if nothing finer is kept for that long.
    pub step_seconds: u64,
    pub samples: Vec<HistorySample>,
    /// The rows that were asked for, if they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<MinuteRows>,
}

/// The last hours in three resolutions.
#[derive(Debug, Default)]
pub struct HistoryRing {
    tiers: [VecDeque<HistorySample>; TIERS.len()],
}

impl HistoryRing {
    /// Adds what was measured in one second.
    pub fn take_second(&mut self, sample: HistorySample) {
        for (tier, (step, most)) in self.tiers.iter_mut().zip(TIERS) {
            let sample = HistorySample { at: sample.at / step * step, seconds: 1, ..sample };
            add_step(tier, sample, most);
        }
    }

    /// What is to outlive a restart: the last hour of each grain.
    pub fn last_hour(&self, now: u64) -> Vec<Vec<HistorySample>> {
        let oldest = now.saturating_sub(KEPT_SECONDS);
        let kept = |tier: &VecDeque<HistorySample>| {
            tier.iter().filter(|sample| sample.at >= oldest).copied().collect()
        };
        self.tiers.iter().map(kept).collect()
    }

    /// What a process before this one has kept so.
    pub fn from_kept(tiers: Vec<Vec<HistorySample>>, now: u64) -> Result<Self, SavedHistoryError> {
        let latest = now.saturating_add(CLOCK_SLACK_SECONDS);
        if tiers.iter().flatten().any(|sample| sample.at > latest) {
            return Err(SavedHistoryError::Future);
        }
        let is_whole = |(tier, (step, most)): (&Vec<HistorySample>, (u64, usize))| {
            tier.len() <= most
                && tier.is_sorted_by(|a, b| a.at < b.at)
                // After the clock was set back, a step has more seconds than its length.
                && tier.iter().all(|sample| sample.at.is_multiple_of(step))
        };
        if !tiers.iter().zip(TIERS).all(is_whole) {
            return Err(SavedHistoryError::Damaged);
        }
        let tiers: Vec<_> = tiers.into_iter().map(VecDeque::from).collect();
        tiers.try_into().map(|tiers| Self { tiers }).map_err(|_| SavedHistoryError::Damaged)
    }

    pub fn report(&self, requested: HistoryRequest, now: u64) -> HistoryReport {
        let steps = requested.steps.clamp(1, HISTORY_STEPS_MAX);
        let longest = TIERS.map(|(step, most)| step * most as u64)[TIERS.len() - 1];
        let step_seconds = requested.step_seconds.clamp(1, longest);
        let span = step_seconds.saturating_mul(steps).min(longest);
        let keeps = |(_, (step, most)): &(usize, (u64, usize))| step * *most as u64 >= span;
        let (index, (finest, _)) =
            TIERS.into_iter().enumerate().find(keeps).unwrap_or((TIERS.len() - 1, TIERS[TIERS.len() - 1]));
        // Each step of the answer consists of this many kept steps.
        let step_seconds = step_seconds.div_ceil(finest) * finest;
        let oldest = now.saturating_sub(span) / step_seconds * step_seconds;
        let mut report = HistoryReport { now, step_seconds, ..HistoryReport::default() };
        for sample in self.tiers[index].iter().filter(|sample| (oldest..=now).contains(&sample.at)) {
            let at = sample.at / step_seconds * step_seconds;
            match report.samples.last_mut() {
                Some(last) if last.at == at => *last = last.followed_by(&HistorySample { at, ..*sample }),
                _ => report.samples.push(HistorySample { at, ..*sample }),
            }
        }
        report
    }
}

/// Why nothing is known of the time before a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SavedHistoryError {
    #[error("it is damaged")]
    Damaged,
    #[error("its newest sample is in the future; check this machine's clock")]
    Future,
}

/// Adds to the current step, or begins the next one.
fn add_step(tier: &mut VecDeque<HistorySample>, sample: HistorySample, most: usize) {
    // After the clock was set back, later samples belong to another time.
    while tier.back().is_some_and(|last| last.at > sample.at) {
        tier.pop_back();
    }
    match tier.back_mut() {
        Some(last) if last.at == sample.at => *last = last.followed_by(&sample),
        _ => tier.push_back(sample),
    }
    if tier.len() > most {
        tier.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_769_868_120;
    const DAY: u64 = 86_400;

    fn sample_at(at: u64, up: u64) -> HistorySample {
        HistorySample {
            at,
            up,
            up_max: up,
            open: up / 10,
            links: 8,
            links_wanted: 8,
            ..HistorySample::default()
        }
    }

    fn history_request(step_seconds: u64, steps: u64) -> HistoryRequest {
        HistoryRequest { step_seconds, steps, rows_at: None }
    }

    #[test]
    fn a_day_and_more_stays_within_its_bound() {
        let mut ring = HistoryRing::default();
        for at in NOW - DAY - 4000..=NOW {
            ring.take_second(sample_at(at, 7));
        }
        let kept: usize = ring.tiers.iter().map(VecDeque::len).sum();
        assert_eq!(kept, 600 + 720 + 1440);
        assert!(kept * size_of::<HistorySample>() <= 2 << 20);
        let day = ring.report(history_request(288, 300), NOW);
        assert!((288..=289).contains(&day.samples.len()), "{}", day.samples.len());
        assert!(day.samples.iter().all(|sample| (sample.up, sample.links) == (7, 8)));
        let bytes =
            serde_json::to_vec(&ring.report(history_request(1, u64::MAX), NOW)).map(|text| text.len());
        assert!(bytes.is_ok_and(|bytes| bytes < 128 << 10), "an answer is bounded");
    }

    #[test]
    fn a_step_has_the_mean_of_its_rates_and_the_worst_of_the_rest() {
        let mut ring = HistoryRing::default();
        for (back, up, links, refused, wait_ms) in
            [(4, 100, 8, 0, None), (3, 300, 2, 2, Some(40.0)), (2, 0, 8, 1, Some(7.0)), (1, 0, 8, 0, None)]
        {
            ring.take_second(HistorySample { links, refused, wait_ms, ..sample_at(NOW - back, up) });
        }
        let reported = ring.report(history_request(10, 60), NOW).samples;
        let [step] = reported.as_slice() else { panic!("{reported:?}") };
        assert_eq!((step.seconds, step.up, step.up_max, step.open), (4, 100, 300, 30));
        assert_eq!((step.links, step.links_wanted, step.refused, step.wait_ms), (2, 8, 3, Some(40.0)));
    }

    #[test]
    fn what_was_not_measured_is_a_gap() {
        let mut ring = HistoryRing::default();
        for at in [NOW - 50, NOW - 9, NOW] {
            ring.take_second(sample_at(at, 1));
        }
        let reported: Vec<_> =
            ring.report(history_request(1, 60), NOW).samples.iter().map(|sample| NOW - sample.at).collect();
        assert_eq!(reported, [50, 9, 0]);
    }

    #[test]
    fn older_samples_are_reported_in_coarser_steps() {
        let mut ring = HistoryRing::default();
        (NOW - 3600..=NOW).for_each(|at| ring.take_second(sample_at(at, 5)));
        let hour = ring.report(history_request(2, 600), NOW);
        assert_eq!(hour.step_seconds, 10, "twenty minutes are not kept by the second");
        assert!((120..=121).contains(&hour.samples.len()));
        assert_eq!(ring.report(history_request(2, 300), NOW).step_seconds, 2);
        assert_eq!(ring.report(history_request(0, 0), NOW).samples.len(), 2, "nonsense is answered too");
    }

    #[test]
    fn a_clock_set_back_reports_no_time_twice() {
        let mut ring = HistoryRing::default();
        (NOW - 30..=NOW).for_each(|at| ring.take_second(sample_at(at, 5)));
        (NOW - 10..=NOW - 5).for_each(|at| ring.take_second(sample_at(at, 9)));
        let reported = ring.report(history_request(1, 60), NOW).samples;
        assert!(reported.is_sorted_by(|a, b| a.at < b.at), "{reported:?}");
        assert_eq!(reported.last().map(|sample| (sample.at, sample.up)), Some((NOW - 5, 9)));
    }

    #[test]
    fn two_gateways_are_summed_and_the_longer_wait_counts() {
        let one = HistorySample { wait_ms: Some(3.0), ..sample_at(NOW, 40) };
        let sum = one.beside(&HistorySample { wait_ms: Some(9.0), up: u64::MAX, ..sample_at(NOW, 50) });
        assert_eq!((sum.up, sum.open, sum.links_wanted, sum.wait_ms), (u64::MAX, 9, 16, Some(9.0)));
    }

    #[test]
    fn an_hour_in_which_the_clock_was_set_back_is_kept() {
        let mut history = HistoryRing::default();
        for at in [NOW, NOW + 1, NOW + 2, NOW, NOW + 1, NOW + 2, NOW + 3] {
            history.take_second(sample_at(at, 1));
        }
        let kept = history.last_hour(NOW + 4);
        assert_eq!(HistoryRing::from_kept(kept, NOW + 4).map(|_| ()), Ok(()));
    }
}
