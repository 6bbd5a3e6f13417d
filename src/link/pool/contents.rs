//! The contents of a pool: the links of each peer, and the waiting clients. They are plain state behind the pool's
//! lock; nothing waits here.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    super::{
        Peer,
        agreement::AgreedLink,
        peer_links::{PeerLinks, ServedServices},
        session_side::LinkSlot,
    },
    AcquiredLink, ServiceClosed, TakeError,
    carries_mismatch::CarriesMismatches,
};
use crate::{
    profile::{PoolLimits, ServiceName},
    proto::multiplex::hello::OfferState,
};

/// The maximum number of entries: peers, times their addresses, times the services of those that speak SOCKS5.
/// One peer has at most half of what others leave.
pub const ENTRIES_MAX: usize = 2048;

pub struct PoolContents {
    pub limits: PoolLimits,
    pub peers: Vec<PeerLinks>,
    /// The number of takes so far, which gives peers their turns.
    pub takes: u64,
    pub waiters: VecDeque<WaitingClient>,
    pub next_waiter: u64,
    pub next_link: u64,
    pub services: HashMap<ServiceName, ServiceCounts>,
    pub mismatches: CarriesMismatches,
    pub closed: bool,
}

/// Counts for each service that was requested.
#[derive(Debug, Default)]
pub struct ServiceCounts {
    pub waiting: usize,
    pub misses: u64,
}

#[derive(Debug)]
pub struct WaitingClient {
    pub key: u64,
    pub service: ServiceName,
    pub not: Vec<Peer>,
    pub give: oneshot::Sender<Result<AcquiredLink, TakeError>>,
}

impl PoolContents {
    pub fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            peers: Vec::new(),
            takes: 0,
            waiters: VecDeque::new(),
            next_waiter: 0,
            next_link: 0,
            services: HashMap::new(),
            mismatches: CarriesMismatches::default(),
            closed: false,
        }
    }

    /// The entry for a peer's links of our own protocol.
    pub fn peer_links_of(&self, peer: &Peer) -> Option<usize> {
        self.peers
            .iter()
            .position(|group| group.peer == *peer && matches!(group.serves, ServedServices::Granted(_)))
    }

    /// The entries for links of our own with the process of a peer: its own one first, and then those of other addresses.
    pub fn links_of_process(&self, peer: &Peer) -> impl Iterator<Item = &PeerLinks> {
        let own = self.peer_links_of(peer).map(|at| &self.peers[at]);
        let is_own = |group: &&PeerLinks| matches!(group.serves, ServedServices::Granted(_));
        let others =
            self.peers.iter().filter(|group| group.peer != *peer && group.peer.is_same_process(peer));
        own.into_iter().chain(others.filter(is_own))
    }

    /// The group of a link of our own that was just established.
    pub fn peer_links_for(&mut self, link: &mut AgreedLink, target: usize) -> Option<usize> {
        // Its handshake ran under terms that are no longer valid.
        if link.has_expired() {
            return None;
        }
        let serves = ServedServices::Granted(link.serves().clone());
        let group = self.peer_links(link.peer(), serves.clone(), target)?;
        self.peers[group].serves = serves;
        link.set_peer_record(self.peers[group].record.clone());
        Some(group)
    }

    /// The entry of a peer, or `None` if there are too many already.
    pub fn peer_links(&mut self, peer: &Peer, serves: ServedServices, target: usize) -> Option<usize> {
        let same = |group: &PeerLinks| group.peer == *peer && group.serves.is_compatible(&serves);
        if let Some(at) = self.peers.iter().position(same) {
            self.peers[at].target = target;
            return Some(at);
        }
        if self.is_full_for(peer) {
            // Only peers with valid certificates get this far. Those without links give way.
            self.peers.retain(|group| group.counts.links() > 0);
        }
        if self.is_full_for(peer) {
            return None;
        }
        let of_name = self.peers.iter().find(|group| group.peer.is_same_gateway(peer));
        let is_its = |other: &Peer| match peer.instance {
            Some(_) => other.is_same_process(peer),
            None => other == peer,
        };
        let of_process = self.peers.iter().find(|group| is_its(&group.peer));
        let mut group = PeerLinks::new(peer.clone(), serves, target);
        let beside = of_name.map(|group| Arc::new(group.record.of_same_name()));
        group.record = of_process.map(|group| group.record.clone()).or(beside).unwrap_or_default();
        self.peers.push(group);
        Some(self.peers.len() - 1)
    }

    /// Whether one more link of a peer has an entry, or would get one.
    pub fn has_entry_for(&self, peer: &Peer) -> bool {
        self.peers.iter().any(|group| group.peer == *peer || group.counts.links() == 0)
            || !self.is_full_for(peer)
    }

    /// Whether a peer has as many entries as it may, wherever it dials from.
    fn is_full_for(&self, peer: &Peer) -> bool {
        let of_peer = self.peers.iter().filter(|group| group.peer.is_same_gateway(peer)).count();
        let left_by_others = ENTRIES_MAX.saturating_sub(self.peers.len() - of_peer);
        of_peer >= left_by_others.div_ceil(2)
    }

    /// The entry, of the peer whose turn it is, that has a ready link for a service.
    pub fn next_ready(&self, service: &ServiceName, not: &[Peer]) -> Option<usize> {
        let groups = self.peers.iter().enumerate().filter(|(_, group)| !group.peer.is_process_among(not));
        let ready = groups.filter(|(_, group)| group.can_take(service));
        ready.min_by_key(|(_, group)| group.rank()).map(|(at, _)| at)
    }

    /// Makes room in the queue for one more client of a service. Where the queue is full, the service of which most
    /// wait gives up the latest of its clients, unless this one's has as many: clients of a service that nobody serves
    /// now keep out none of the others'.
    pub fn make_room_for(&mut self, service: &ServiceName) -> Result<Option<WaitingClient>, TakeError> {
        if self.waiters.len() < self.limits.waiters {
            return Ok(None);
        }
        let waiting = |name: &ServiceName| self.services.get(name).map_or(0, |of| of.waiting);
        let longest = self.services.keys().max_by_key(|name| waiting(name));
        let longest = longest.filter(|name| waiting(name) > waiting(service) + 1);
        let at = longest.and_then(|name| self.waiters.iter().rposition(|waiter| waiter.service == *name));
        match at {
            Some(at) => Ok(self.remove_waiter(at)),
            None => Err(TakeError::Full(self.waiters.len())),
        }
    }

    /// Counts a client that got no link.
    pub fn count_miss(&mut self, service: &ServiceName) -> &ServiceCounts {
        let of_service = self.services.entry(service.clone()).or_default();
        of_service.misses += 1;
        of_service
    }

    /// Lets a client wait, behind all others.
    pub fn add_waiter(&mut self, waiter: WaitingClient) {
        self.services.entry(waiter.service.clone()).or_default().waiting += 1;
        self.waiters.push_back(waiter);
    }

    /// Takes a client out of the queue, wherever it is in it.
    pub fn remove_waiter(&mut self, at: usize) -> Option<WaitingClient> {
        let waiter = self.waiters.remove(at)?;
        if let Some(of_service) = self.services.get_mut(&waiter.service) {
            of_service.waiting -= 1;
        }
        Some(waiter)
    }

    /// Why a client got no link in its time.
    pub fn why_late(&self, service: &ServiceName, waited: Duration) -> TakeError {
        let is_linked = |group: &&PeerLinks| group.serves.serves(service) && group.counts.links() > 0;
        let mut serving = self.peers.iter().filter(is_linked).peekable();
        match serving.peek().is_some() && serving.all(PeerLinks::is_full) {
            true => TakeError::AtMaximum(waited),
            false => TakeError::Late(waited),
        }
    }

    /// Why nobody takes sessions for a service that somebody offers.
    pub fn unserved_reason(&self, service: &ServiceName) -> Option<TakeError> {
        if let Some(closed) = self.closed_at_all(service) {
            return Some(TakeError::ServiceClosed(closed));
        }
        let is_served = self.peers.iter().any(|group| group.serves.serves(service));
        let mismatch = self.mismatches.of_service(service).filter(|_| !is_served);
        mismatch.cloned().map(TakeError::CarriesMismatch)
    }

    /// The state of a service that every peer with links has closed; of several states, the one that ends
    /// first.
    pub fn closed_at_all(&self, service: &ServiceName) -> Option<ServiceClosed> {
        let states = self.peers.iter().filter_map(|group| Some((group.service_state(service)?, group)));
        let (state, group) = states.min_by_key(|(state, _)| *state)?;
        (state != OfferState::Open).then(|| ServiceClosed { state, peer: group.peer.label() })
    }

    /// Removes the clients for whose service nobody takes sessions any more, with the reason.
    pub fn take_refused_waiters(&mut self) -> Vec<(WaitingClient, TakeError)> {
        let (mut at, mut refused, mut reasons) = (0, Vec::new(), HashMap::new());
        while let Some(waiter) = self.waiters.get(at) {
            let service = waiter.service.clone();
            let reason = reasons.entry(service).or_insert_with_key(|service| self.unserved_reason(service));
            match reason {
                Some(reason) => {
                    let reason = reason.clone();
                    refused.extend(self.remove_waiter(at).map(|waiter| (waiter, reason)));
                }
                None => at += 1,
            }
        }
        refused
    }

    /// The first client in the queue that a link of this entry can serve.
    pub fn next_waiter_for(&mut self, group: usize, serves: &ServedServices) -> Option<WaitingClient> {
        let peer = &self.peers[group].peer;
        let can_serve =
            |waiter: &WaitingClient| serves.serves(&waiter.service) && !peer.is_process_among(&waiter.not);
        let at = self.waiters.iter().position(can_serve)?;
        self.remove_waiter(at)
    }

    /// The first client in the queue for whom there is a slot on this entry's shared links.
    pub fn next_waiter_with_slot(&mut self, group: usize) -> Option<(WaitingClient, LinkSlot)> {
        let of = &self.peers[group];
        let can_serve =
            |waiter: &WaitingClient| !of.peer.is_process_among(&waiter.not) && of.can_take(&waiter.service);
        let at = self.waiters.iter().position(can_serve)?;
        let slot = of.take_slot(&self.waiters[at].service, OfferState::Open)?;
        Some((self.remove_waiter(at)?, slot))
    }
}
