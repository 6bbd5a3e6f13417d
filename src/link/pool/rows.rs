//! The snapshot rows of a pool. They are made for a snapshot under the pool's short lock, and keep nothing of it.

use super::{
    super::{
        Peer,
        peer_links::{self, PeerLinks},
        succession::forget_lost_peers,
    },
    Pool,
    contents::PoolContents,
};
use crate::{
    profile::ServiceName,
    telemetry::{
        link_cause::{LinkCause, LinkFault},
        snapshot::{PoolRow, PoolState},
    },
};

/// Why nobody serves a service, although there are links.
const NOT_OFFERED: &str =
    "no internal gateway that is linked offers this service, or its `peers` names none of those that do";

impl Pool {
    /// A row for each peer's links, and one for each of `services` that no peer offers.
    pub fn rows<'a>(&self, services: impl Iterator<Item = &'a ServiceName>) -> Vec<PoolRow> {
        let mut contents = self.lock();
        forget_lost_peers(&mut contents.peers);
        let PoolContents { peers: groups, mismatches, .. } = &mut *contents;
        mismatches.forget(|peer| groups.iter().any(|group| group.peer == *peer && group.counts.links() > 0));
        let row = |group: &PeerLinks| {
            let row = group.row();
            let mismatch = || mismatches.of_peer(&group.peer).map(ToString::to_string);
            PoolRow { last_error: row.last_error.or_else(mismatch), ..row }
        };
        let mut rows: Vec<_> = groups.iter().map(row).collect();
        let has_links = groups.iter().any(|group| group.counts.links() > 0);
        let why = match (has_links, self.was_offered()) {
            (true, _) => NOT_OFFERED,
            (false, false) => "no internal gateway has dialled in for this service",
            (false, true) => "no internal gateway has a link; those that had one left in good order",
        };
        add_services(&contents, services, why, &mut rows);
        rows.sort_unstable_by(|a, b| {
            (&a.service, &a.peer, &a.address).cmp(&(&b.service, &b.peer, &b.address))
        });
        add_clients(&contents, &mut rows);
        rows
    }

    /// Completes the rows of links that this half dials, whose keepers have a row each.
    pub fn rows_of_dialled<'a>(
        &self,
        services: impl Iterator<Item = &'a ServiceName>,
        mut rows: Vec<PoolRow>,
    ) -> Vec<PoolRow> {
        let contents = self.lock();
        tell_silence(&contents, &mut rows);
        add_services(&contents, services, NOT_OFFERED, &mut rows);
        add_clients(&contents, &mut rows);
        rows
    }

    /// Forgets lost peers with this name or address; returns how many.
    pub fn dismiss(&self, name: &str) -> usize {
        let mut contents = self.lock();
        let before = contents.peers.len();
        let is_meant = |peer: &Peer| *peer.label() == *name || *peer.address == *name;
        contents.peers.retain(|group| group.counts.links() > 0 || !is_meant(&group.peer));
        before - contents.peers.len()
    }

    /// Links that still have to be closed.
    pub fn links(&self) -> usize {
        let contents = self.lock();
        contents.peers.iter().map(|group| group.counts.links()).sum()
    }
}

/// Tells which rows of dialled gateways are of a process that leaves sessions unanswered.
fn tell_silence(contents: &PoolContents, rows: &mut [PoolRow]) {
    let silent = contents.peers.iter().filter(|group| group.counts.links() > 0 && group.record.is_doubtful());
    for instance in silent.filter_map(|group| group.peer.instance) {
        let instance = Some(instance.to_string());
        for row in rows.iter_mut().filter(|row| row.instance == instance) {
            *row = std::mem::replace(row, PoolRow::new(row.half, String::new())).with_silence(true);
        }
    }
}

/// A row for each service that no other row may serve.
fn add_services<'a>(
    contents: &PoolContents,
    services: impl Iterator<Item = &'a ServiceName>,
    why: &str,
    rows: &mut Vec<PoolRow>,
) {
    let mut missing: Vec<_> =
        services.filter(|service| !rows.iter().any(|row| row.may_serve(service.as_str()))).collect();
    missing.sort_unstable();
    rows.extend(missing.into_iter().map(|service| {
        let mismatch = contents.mismatches.of_service(service);
        let mismatch = mismatch.map(|mismatch| LinkFault::new(LinkCause::Other, mismatch.to_string()));
        let why = mismatch.unwrap_or_else(|| LinkFault::new(LinkCause::NoInternalGateway, why));
        peer_links::row_without_peer(service, contents.limits.prepared, why)
    }));
}

/// Every row that could serve waiting clients is short of links; the clients are counted in the first such row
/// only.
fn add_clients(contents: &PoolContents, rows: &mut [PoolRow]) {
    let mut services: Vec<_> = contents.services.iter().collect();
    services.sort_unstable_by_key(|(service, _)| *service);
    for (service, of) in services {
        let mut serving = rows.iter_mut().filter(|row| row.may_serve(service.as_str())).peekable();
        if let Some(first) = serving.peek_mut() {
            first.waiting += of.waiting;
            first.misses += of.misses;
        }
        if of.waiting > 0 {
            serving.for_each(|row| {
                row.state = PoolState::Starved;
                row.waited_for.push(service.to_string());
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        link::{
            Peer,
            peer_links::ServedServices,
            pool::contents::ServiceCounts,
            shares::{GatewayShares, ShareRule},
        },
        profile::PoolLimits,
        tasks::Tasks,
    };
    use std::{sync::Arc, time::Duration};

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).expect("a name")
    }

    /// A peer that is granted these services, and keeps two links.
    fn group(peer: &str, services: &[&str]) -> PeerLinks {
        let granted = services.iter().map(|service| name(service)).collect();
        let peer = Peer { name: Some(peer.into()), address: "192.0.2.1".into(), instance: None };
        PeerLinks::new(peer, ServedServices::Granted(Arc::new(granted)), 2)
    }

    fn pool(groups: Vec<PeerLinks>) -> Arc<Pool> {
        let limits = PoolLimits {
            prepared: 2,
            wait: Duration::from_secs(3),
            waiters: 8,
            retire: Duration::from_secs(3600),
            links_per_peer: None,
        };
        let pool = Pool::new(limits, GatewayShares::new(8, ShareRule::Divided(1)), Tasks::default());
        pool.lock().peers = groups;
        pool
    }

    /// Peer, state, waiting clients, misses, and the services waited for.
    type ShownRow<'a> = (Option<&'a str>, PoolState, usize, u64, &'a [String]);

    fn shown(rows: &[PoolRow]) -> Vec<ShownRow<'_>> {
        let row = |row: &PoolRow| (row.state, row.waiting, row.misses);
        rows.iter()
            .map(|of| {
                let (state, waiting, misses) = row(of);
                (of.peer.as_deref(), state, waiting, misses, of.waited_for.as_slice())
            })
            .collect()
    }

    #[test]
    fn clients_are_charged_to_the_peer_that_may_serve_them() {
        let pool = pool(vec![group("inside", &["web", "db"]), group("mailhost", &["mail"])]);
        pool.lock().services.insert(name("mail"), ServiceCounts { waiting: 3, misses: 117 });
        let rows = pool.rows([name("web"), name("db"), name("mail")].iter());
        let waited_for = ["mail".to_owned()];
        assert_eq!(
            shown(&rows),
            [
                (Some("inside"), PoolState::Down, 0, 0, &[][..]),
                (Some("mailhost"), PoolState::Starved, 3, 117, &waited_for[..]),
            ]
        );
        assert_eq!(rows[0].serves, ["db", "web"]);
    }
}
