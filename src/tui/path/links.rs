//! The links on the path: all links between two gateways are one part.

use std::collections::BTreeMap;

use super::{LinkSessions, PartKey, PartRows, PathBuilder, PathPart, PathStage};
use crate::{
    profile::Half,
    telemetry::{
        health::{Severity, severity},
        snapshot::PoolRow,
    },
    tui::{format, lists},
};

impl PathBuilder<'_> {
    pub(super) fn add_links(&mut self) {
        let mut by_ends: BTreeMap<(PartKey, PartKey), Vec<&PoolRow>> = BTreeMap::new();
        for pool in self.pools() {
            let own = self.gateway_of(pool.gateway.as_ref(), pool.half);
            let peer = self.peer_of(pool);
            let ends = if pool.half == Half::Dmz { (own, peer) } else { (peer, own) };
            by_ends.entry(ends).or_default().push(pool);
        }
        for ((dmz, internal), pools) in by_ends {
            let key = format!("{} {}", dmz.1, internal.1);
            // If both ends are shown, the one that still answers is used.
            let is_answering = |pool: &&PoolRow| self.is_answering(pool.gateway.as_ref());
            let answering: Vec<_> = pools.iter().copied().filter(is_answering).collect();
            let link = if answering.is_empty() {
                let rows = pools
                    .iter()
                    .max_by_key(|pool| severity(pool))
                    .map_or(PartRows::Nowhere, |pool| rows_of(pool));
                [&dmz, &internal].into_iter().for_each(|gateway| self.clear_unknown(gateway));
                self.add(unknown_part(PathPart { rows, ..PathPart::new(PathStage::Links, key, "links") }))
            } else {
                let part = link_part(&key, &answering);
                [&dmz, &internal].into_iter().for_each(|gateway| self.show_by_link(gateway, &part));
                self.add(part)
            };
            self.lead(&dmz, &link);
            self.lead(&link, &internal);
        }
    }
}

/// Both ends of a link may be in the snapshot: the DMZ half's is counted, and problems of either are shown.
fn link_part(key: &str, pools: &[&PoolRow]) -> PathPart {
    let outer = pools.iter().any(|pool| pool.half == Half::Dmz);
    let counted = || pools.iter().filter(move |pool| (pool.half == Half::Dmz) == outer);
    let sum = |of: fn(&PoolRow) -> u64| counted().fold(0_u64, |sum, pool| sum.saturating_add(of(pool)));
    let (ready, target) = (sum(|pool| pool.ready as u64), sum(|pool| pool.target as u64));
    let open_links = ready.saturating_add(sum(|pool| pool.carrying as u64));
    let worst = pools.iter().rev().max_by_key(|pool| severity(pool));
    let level = worst.map_or(Severity::Fine, |pool| severity(pool));
    let name = match level {
        Severity::Lost if open_links == 0 => "none".into(),
        _ if target > 0 => format!("{} of {} ready", format::amount(ready), format::amount(target)),
        Severity::Fine | Severity::Short | Severity::Starved | Severity::Lost => {
            format!("{} up", format::amount(open_links))
        }
    };
    let reported =
        |number: u64, what: &str| (number > 0).then(|| format!("{} {what}", format::amount(number)));
    let facts = [
        reported(sum(|pool| pool.waiting as u64), "clients wait"),
        Some(format::amount_of(sum(|pool| pool.sessions as u64), "session")),
        reported(sum(|pool| pool.failures_minute), "failed /min"),
        pools
            .iter()
            .find_map(|pool| pool.retry_seconds)
            .map(|left| format!("dial in {}", format::whole_span(left))),
        counted().find_map(|pool| pool.round_trip_ms).map(|ms| format!("rtt {}", format::wait(ms))),
        counted().find_map(|pool| pool.wait_p99_ms).map(|ms| format!("wait99 {}", format::wait(ms))),
        counted().find_map(|pool| pool.protocol.clone()),
    ];
    let first = worst.copied().or(pools.first().copied());
    PathPart {
        state: first.map_or("-".into(), |pool| link_word(pool).into()),
        severity: level,
        state_severity: level,
        facts: facts.into_iter().flatten().collect(),
        why: first.filter(|_| level > Severity::Fine).map(why),
        rows: counted().max_by_key(|pool| severity(pool)).map_or(PartRows::Nowhere, |pool| rows_of(pool)),
        ..PathPart::new(PathStage::Links, key, name)
    }
}

/// The last state of gateways that no longer answer.
pub(super) fn unknown_part(part: PathPart) -> PathPart {
    PathPart {
        state: "not known".into(),
        severity: Severity::Short,
        state_severity: Severity::Short,
        facts: Vec::new(),
        why: Some("no gateway that knows it is reachable".into()),
        ..part
    }
}

pub(super) fn rows_of(pool: &PoolRow) -> PartRows {
    let peer = pool.peer.clone().unwrap_or_default();
    let sessions = LinkSessions { gateway: pool.gateway.clone(), half: pool.half, peer };
    PartRows::Pools { worst: lists::pool_key(pool), sessions }
}

fn link_word(pool: &PoolRow) -> &'static str {
    match severity(pool) {
        Severity::Lost => "DOWN",
        Severity::Starved => "STARVED",
        Severity::Short => "filling",
        Severity::Fine => "healthy",
    }
}

fn why(pool: &PoolRow) -> String {
    let since = pool.gone_seconds.map(|away| format!("for {}", format::whole_span(away)));
    let cut = (pool.cut > 0).then(|| format!("{} were cut", format::count(pool.cut, "session")));
    let waits = (pool.waiting > 0).then(|| format!("{} wait", format::count(pool.waiting as u64, "client")));
    let error = pool.last_error.as_ref().map(|error| format!("the last error: {error}"));
    let reported: Vec<_> = [since, cut, waits, error].into_iter().flatten().collect();
    if reported.is_empty() { "fewer links are ready than wanted".into() } else { reported.join(", ") }
}
