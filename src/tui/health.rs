//! Numbers for the first line: linked gateways and ready links. The gateway itself has worked out what they
//! mean for clients.

use std::collections::BTreeMap;

use crate::{
    profile::Half,
    telemetry::snapshot::{PoolRow, PoolState, Snapshot},
};

/// The known other gateways, and how many of them are linked.
#[derive(Debug, Default, PartialEq)]
pub struct PeerCounts {
    pub linked: usize,
    pub known: usize,
    /// Seconds since the last of them was lost.
    pub gone_seconds: Option<f64>,
}

/// Counts for one half, like links. A gateway is identified by its name, address and instance, since several
/// may share a name. One that dials a link for each session keeps none ready, and counts as linked while its
/// pool is healthy.
pub fn count_peers(snapshot: &Snapshot) -> PeerCounts {
    let counted = snapshot.halves.first().copied().unwrap_or(Half::Dmz);
    count_peers_of(snapshot.pools.iter().filter(|pool| pool.half == counted))
}

/// The gateways behind these pools.
pub fn count_peers_of<'a>(pools: impl Iterator<Item = &'a PoolRow>) -> PeerCounts {
    let (mut peers, mut gone_seconds) = (BTreeMap::new(), None);
    for pool in pools.filter(|pool| !pool.standby && (pool.peer.is_some() || pool.address.is_some())) {
        let carries = pool.carrying > 0 && !pool.left;
        let linked = pool.ready > 0 || carries || pool.state == PoolState::Healthy;
        *peers.entry((&pool.peer, &pool.address, &pool.instance)).or_insert(false) |= linked;
        gone_seconds = [gone_seconds, pool.gone_seconds].into_iter().flatten().reduce(f64::min);
    }
    let linked = peers.values().filter(|&&linked| linked).count();
    PeerCounts { linked, known: peers.len(), gone_seconds }
}

/// Ready links and wanted links: a surplus in one pool does not help another. Only one half is counted, since a
/// pair's snapshot has both ends of a link.
pub fn links_ready(snapshot: &Snapshot) -> (usize, usize) {
    let counted = snapshot.halves.first().copied().unwrap_or(Half::Dmz);
    let pools = snapshot.pools.iter().filter(|pool| pool.half == counted);
    pools.fold((0_usize, 0_usize), |(ready, target), pool| {
        (ready.saturating_add(pool.ready.min(pool.target)), target.saturating_add(pool.target))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(state: PoolState, ready: usize) -> PoolRow {
        PoolRow {
            peer: Some("internal".into()),
            state,
            ready,
            target: 8,
            ..PoolRow::new(Half::Dmz, "orders".into())
        }
    }

    #[test]
    fn peers_of_one_name_are_two_and_a_pair_has_one() {
        let at = |address: &str, ready| PoolRow {
            address: Some(address.into()),
            ..pool(PoolState::Healthy, ready)
        };
        let away = PoolRow { gone_seconds: Some(34.0), state: PoolState::Down, ..at("10.0.0.6", 0) };
        let inner = PoolRow { half: Half::Internal, peer: Some("dmz".into()), ..at("10.0.0.1", 8) };
        let seen = Snapshot {
            halves: vec![Half::Dmz, Half::Internal],
            pools: vec![at("10.0.0.5", 8), away, inner],
            ..Snapshot::new("edge", crate::profile::Mode::Reverse)
        };
        assert_eq!(count_peers(&seen), PeerCounts { linked: 1, known: 2, gone_seconds: Some(34.0) });
        let carries = PoolRow { carrying: 3, ..at("10.0.0.7", 0) };
        let carries = PoolRow { state: PoolState::Filling, ..carries };
        let leaves = PoolRow { left: true, address: Some("10.0.0.8".into()), ..carries.clone() };
        let counts = count_peers_of([carries, leaves].iter());
        assert_eq!((counts.linked, counts.known), (1, 2), "one that drains takes no more clients");
    }

    #[test]
    fn links_that_one_pool_has_too_many_hide_no_shortage() {
        let short = PoolRow { target: 2, ..pool(PoolState::Starved, 0) };
        let pools = vec![pool(PoolState::Healthy, 9), short];
        let snapshot = Snapshot { pools, ..Snapshot::new("edge", crate::profile::Mode::Reverse) };
        assert_eq!(links_ready(&snapshot), (8, 10));
    }
}
