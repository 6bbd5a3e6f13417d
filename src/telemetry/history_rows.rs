//! What each service and the links of each peer were like in the last hours, a row a minute and within a bound: what
//! the tables of a screen showed at an earlier time. Sessions have no rows here, since there may be any number of
//! them; a recording keeps those.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::snapshot::{PoolRow, TrafficTotals};
use crate::profile::{Half, ServiceName};

/// One service, or the links of one peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MinuteRow {
    #[serde(rename = "role")]
    pub half: Half,
    pub subject: RowSubject,
    pub name: Arc<str>,
    /// Bytes a second since the row before.
    pub up: u64,
    pub down: u64,
    /// Sessions, and clients that waited.
    pub open: u64,
    pub waiting: u64,
    /// Clients since the row before.
    pub refused: u64,
    /// Links that took sessions, or carried some and took no more, and the number wanted.
    pub links: u64,
    pub links_wanted: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowSubject {
    Service,
    Peer,
}

/// All rows of one minute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MinuteRows {
    /// When they were taken, in seconds since 1970.
    pub at: u64,
    pub rows: Vec<MinuteRow>,
}

/// The minutes that are kept, oldest first.
#[derive(Debug, Default)]
pub struct RowHistory {
    minutes: VecDeque<MinuteRows>,
    /// The totals of services when rows were taken last.
    totals: HashMap<(Half, ServiceName), TrafficTotals>,
}

const MINUTE_SECONDS: u64 = 60;
/// A day of them, if there is room.
const MINUTES_MAX: usize = 24 * 60;
/// Of all minutes together: 2 MiB.
const ROWS_MAX: usize = 24 << 10;
/// The longest name of a row; a peer may have chosen it.
const NAME_CHARS_MAX: usize = 128;
/// As much of an instance as tells the gateways of one address apart.
const INSTANCE_CHARS: usize = 8;

impl RowHistory {
    /// Whether a new minute has begun.
    pub fn is_due(&self, at: u64) -> bool {
        self.minutes.back().is_none_or(|last| last.at / MINUTE_SECONDS != at / MINUTE_SECONDS)
    }

    /// Takes a row of each service and of each peer.
    pub fn take(&mut self, at: u64, totals: HashMap<(Half, ServiceName), TrafficTotals>, pools: &[PoolRow]) {
        // After the clock was set back, later rows belong to another time.
        while self.minutes.back().is_some_and(|last| last.at >= at) {
            self.minutes.pop_back();
        }
        let passed = self.minutes.back().map(|last| (at - last.at).max(1));
        let of_services = totals.iter().map(|((half, name), now)| {
            let before = self.totals.get(&(*half, name.clone())).copied().unwrap_or(*now);
            let rate = |now: u64, before: u64| passed.map_or(0, |passed| now.saturating_sub(before) / passed);
            MinuteRow {
                half: *half,
                subject: RowSubject::Service,
                name: name.as_str().into(),
                up: rate(now.bytes_up, before.bytes_up),
                down: rate(now.bytes_down, before.bytes_down),
                open: now.sessions_open,
                waiting: now.sessions_waiting,
                refused: now.refused.saturating_sub(before.refused),
                links: 0,
                links_wanted: 0,
            }
        });
        let of_peers = pools.iter().zip(pool_names(pools)).map(|(pool, name)| MinuteRow {
            half: pool.half,
            subject: RowSubject::Peer,
            name,
            up: 0,
            down: 0,
            open: pool.sessions as u64,
            waiting: pool.waiting as u64,
            refused: 0,
            links: pool.ready.saturating_add(pool.carrying) as u64,
            links_wanted: pool.target as u64,
        });
        let mut rows: Vec<_> = of_services.chain(of_peers).take(ROWS_MAX).collect();
        rows.sort_by(|one, other| {
            (one.half, one.subject as u8, &one.name).cmp(&(other.half, other.subject as u8, &other.name))
        });
        self.share_names(&mut rows);
        self.totals = totals;
        self.minutes.push_back(MinuteRows { at, rows });
        while self.minutes.len() > MINUTES_MAX || self.count() > ROWS_MAX {
            self.minutes.pop_front();
        }
    }

    /// Names seldom change, so a minute shares those of the one before.
    fn share_names(&self, rows: &mut [MinuteRow]) {
        let Some(before) = self.minutes.back() else { return };
        let known: HashMap<&str, &Arc<str>> = before.rows.iter().map(|row| (&*row.name, &row.name)).collect();
        for row in rows {
            if let Some(name) = known.get(&*row.name) {
                row.name = Arc::clone(name);
            }
        }
    }

    fn count(&self) -> usize {
        self.minutes.iter().map(|minute| minute.rows.len()).sum()
    }

    /// The rows that held at this time; `None` if nothing was kept then.
    pub fn at(&self, at: u64) -> Option<&MinuteRows> {
        let newest = self.minutes.iter().rev().find(|minute| minute.at <= at);
        newest.filter(|minute| at - minute.at < 2 * MINUTE_SECONDS)
    }
}

/// The names of pools, in their order. Several gateways may have the same name and the same address; only then a name
/// says which process it is.
fn pool_names(pools: &[PoolRow]) -> Vec<Arc<str>> {
    let names: Vec<_> = pools.iter().map(|pool| pool_name(pool, None)).collect();
    let mut counts = HashMap::new();
    for (pool, name) in pools.iter().zip(&names) {
        *counts.entry((pool.half, name.as_str())).or_insert(0) += 1;
    }
    let name = |(pool, name): (&PoolRow, &String)| match pool.instance.as_deref() {
        Some(instance) if counts[&(pool.half, name.as_str())] > 1 => pool_name(pool, Some(instance)).into(),
        Some(_) | None => name.as_str().into(),
    };
    pools.iter().zip(&names).map(name).collect()
}

/// `internal at 10.0.0.5`, with the service where links are for one alone; `internal (9f86d081) at 10.0.0.5` with the
/// beginning of an instance.
fn pool_name(pool: &PoolRow, instance: Option<&str>) -> String {
    let instance = instance.map(|instance| instance.chars().take(INSTANCE_CHARS).collect::<String>());
    let instance = instance.map_or_else(String::new, |instance| format!(" ({instance})"));
    let peer = match (&pool.peer, &pool.address) {
        (Some(peer), Some(address)) => format!("{peer}{instance} at {address}"),
        (Some(one), None) | (None, Some(one)) => format!("{one}{instance}"),
        (None, None) => String::from("any peer"),
    };
    let name = if pool.service == "*" { peer } else { format!("{peer}, {}", pool.service) };
    name.chars().take(NAME_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_769_868_120;

    fn totals(
        names: &[&str],
        bytes_up: u64,
        sessions_open: u64,
    ) -> HashMap<(Half, ServiceName), TrafficTotals> {
        let totals = TrafficTotals { bytes_up, sessions_open, ..TrafficTotals::default() };
        let key = |name: &&str| (Half::Dmz, ServiceName::parse(name).expect("a name"));
        names.iter().map(|name| (key(name), totals)).collect()
    }

    fn pool(ready: usize) -> PoolRow {
        PoolRow { peer: Some("inside".into()), ready, target: 8, ..PoolRow::new(Half::Dmz, "*".into()) }
    }

    #[test]
    fn a_minute_is_found_with_its_rates_and_its_links() {
        let mut history = RowHistory::default();
        for (minute, bytes_up, open, ready) in [(0, 0, 3, 8), (1, 6000, 5, 2), (2, 6000, 0, 8)] {
            let at = NOW + 60 * minute;
            assert!(history.is_due(at));
            history.take(at, totals(&["orders"], bytes_up, open), &[pool(ready)]);
            assert!(!history.is_due(at + 30));
        }
        let rows = &history.at(NOW + 100).expect("it was kept").rows;
        let seen: Vec<_> = rows.iter().map(|row| (&*row.name, row.up, row.open, row.links)).collect();
        assert_eq!(seen, [("orders", 100, 5, 0), ("inside", 0, 0, 2)]);
        assert!(history.at(NOW - 1).is_none() && history.at(NOW + 120 + 120).is_none(), "not measured");
    }

    #[test]
    fn gateways_of_one_name_and_address_have_different_rows() {
        let twin = |instance: &str| PoolRow {
            address: Some("10.0.0.5".into()),
            instance: Some(instance.repeat(16)),
            ..pool(8)
        };
        let names = |pools: &[PoolRow]| {
            let mut history = RowHistory::default();
            history.take(NOW, HashMap::new(), pools);
            let rows = &history.at(NOW).expect("it was kept").rows;
            rows.iter().map(|row| row.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[twin("0a")]), ["inside at 10.0.0.5"], "it is the only one");
        assert_eq!(
            names(&[twin("b1"), twin("0a")]),
            ["inside (0a0a0a0a) at 10.0.0.5", "inside (b1b1b1b1) at 10.0.0.5"]
        );
        let of_service = |service: &str| PoolRow { service: service.into(), ..twin("0a") };
        let seen = names(&[of_service("chat"), of_service("orders")]);
        assert_eq!(seen, ["inside at 10.0.0.5, chat", "inside at 10.0.0.5, orders"]);
        let inner = PoolRow { half: Half::Internal, ..twin("b1") };
        assert_eq!(names(&[twin("0a"), inner]), ["inside at 10.0.0.5"; 2], "each is of a half of its own");
    }

    #[test]
    fn all_rows_of_a_day_stay_within_their_bound() {
        let mut history = RowHistory::default();
        let names: Vec<_> = (0..40).map(|at| format!("service-{at}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        for minute in 0..MINUTES_MAX as u64 + 100 {
            history.take(NOW + 60 * minute, totals(&names, 0, 1), &[pool(8)]);
        }
        assert!(history.count() <= ROWS_MAX && history.count() > ROWS_MAX - 41, "{}", history.count());
        assert!(ROWS_MAX * size_of::<MinuteRow>() <= 2 << 20);
        let all = history.minutes.iter().flat_map(|minute| &minute.rows);
        let owned: std::collections::HashSet<_> = all.map(|row| row.name.as_ptr()).collect();
        assert_eq!(owned.len(), 41, "a name is kept once");
    }

    #[test]
    fn a_clock_set_back_keeps_no_time_twice() {
        let mut history = RowHistory::default();
        for minute in [0, 1, 2, 3, 1] {
            history.take(NOW + 60 * minute, totals(&["orders"], 0, minute), &[]);
        }
        let kept: Vec<_> = history.minutes.iter().map(|minute| minute.at - NOW).collect();
        assert_eq!(kept, [0, 60]);
    }
}
