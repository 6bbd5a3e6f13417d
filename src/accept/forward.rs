//! Sessions over links that the DMZ gateway dials: links of our own that it keeps ready, or one for
//! each session from a SOCKS5 client that names a service. The gateways that have dialled are remembered for
//! `status` and alerts, since this half cannot know which ones there should be.

use std::{
    cmp::Reverse,
    fmt,
    future::ready,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::timeout;

use super::{ServeSession, served_links::serve_link, socks_session::session_request};
use crate::{
    admission::handshakes::HandshakePermit,
    link::{
        LINGERING_CLOSE_TIMEOUT, Peer,
        dial_state::AT_MAXIMUM,
        goodbye::GoodbyeState,
        handshake::{self, EstablishedLink, HandshakeOutcome, SocksRequest},
        link_guard::{LinkCounters, LinkGuard},
        listener::LinkIntake,
        peer_links::LOST_PEER_RETENTION_PERIOD,
        server::{IdleLossReason, LinkServer},
        shares::{GatewayShares, SharePermit},
        succession::{Succession, SuccessionEntry, forget_lost_peers},
    },
    profile::Half,
    proto::{
        Refusal,
        multiplex::{self, frame::FrameType, state::LinkEnd},
        socks5,
    },
    tasks::Tasks,
    telemetry::{
        link_cause::{LinkCause, LinkFault},
        notices::NoticeLog,
        snapshot::{PoolRow, PoolState},
    },
};

/// Our DMZ gateways check every 5 s; one that has missed three checks is gone.
const CHECK_IN_WINDOW: Duration = Duration::from_secs(15);
/// A gateway that dials for each session keeps no links, and is shown for this long.
const SEEN_RETENTION_PERIOD: Duration = Duration::from_secs(60);
/// How many peers are remembered at once.
const PEERS_MAX: usize = 256;

/// The DMZ gateways that have dialled in.
#[derive(Debug, Default)]
pub struct DialledInPeers {
    peers: Mutex<Vec<DialledInPeer>>,
    has_had_peer: AtomicBool,
}

#[derive(Debug)]
struct DialledInPeer {
    peer: Peer,
    at: Instant,
    counts: Arc<LinkCounters>,
    protocol: Option<&'static str>,
    /// How many links it means to keep, as it said on the newest one.
    target: usize,
    failures: u64,
    last_fault: Option<LinkFault>,
    goodbye: GoodbyeState,
    succession: Succession,
}

impl DialledInPeers {
    /// Whether any peer is here, or has left without saying goodbye.
    pub fn has_peer(&self) -> bool {
        !self.lock().is_empty()
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        let mut seen = self.lock();
        let before = seen.len();
        forget_lost_peers(&mut seen);
        if seen.len() < before {
            self.has_had_peer.store(true, Ordering::Relaxed);
        }
        if seen.is_empty() {
            let why = match self.has_had_peer.load(Ordering::Relaxed) {
                false => "no DMZ gateway has dialled in",
                true => "no DMZ gateway has a link; those that had one left in good order",
            };
            let fault = LinkFault::new(LinkCause::NoDmzGateway, why);
            return vec![PoolRow::new(Half::Internal, "*".into()).with_fault(Some(fault))];
        }
        seen.iter().map(DialledInPeer::row).collect()
    }

    /// Notes that a peer has connected.
    fn note_peer(&self, peer: &Peer, protocol: Option<&'static str>) -> Arc<LinkCounters> {
        let mut seen = self.lock();
        if let Some(peer_entry) = seen.iter_mut().find(|peer_entry| peer_entry.peer == *peer) {
            peer_entry.at = Instant::now();
            peer_entry.protocol = protocol.or(peer_entry.protocol);
            peer_entry.last_fault = None;
            peer_entry.goodbye.note_established();
            return peer_entry.counts.clone();
        }
        if seen.len() >= PEERS_MAX {
            // Takes the entry of the gateway that has connected from the most addresses.
            let of_same =
                |at: usize| seen.iter().filter(|it| it.peer.is_same_gateway(&seen[at].peer)).count();
            let first = (0..seen.len()).min_by_key(|&at| (Reverse(of_same(at)), seen[at].at));
            seen.remove(first.unwrap_or(0));
        }
        let counts = Arc::new(LinkCounters::default());
        let peer_entry = DialledInPeer {
            peer: peer.clone(),
            at: Instant::now(),
            counts: counts.clone(),
            protocol,
            target: 0,
            failures: 0,
            last_fault: None,
            goodbye: GoodbyeState::default(),
            succession: Succession::default(),
        };
        seen.push(peer_entry);
        counts
    }

    /// Notes that a peer has a link of our own, on which the two ends have agreed how many there should be.
    fn note_linked(&self, peer: &Peer, kept: u16, accepted: u16) -> Arc<LinkCounters> {
        let counts = self.note_peer(peer, Some(multiplex::PROTOCOL_NAME));
        if let Some(peer_entry) = self.lock().iter_mut().find(|peer_entry| peer_entry.peer == *peer) {
            // It cannot keep more than this half has room for.
            peer_entry.target = kept.min(accepted).into();
        }
        counts
    }

    /// Notes that a peer's ready link has ended.
    pub fn record_loss(&self, peer: &Peer, loss: &IdleLossReason) {
        let mut seen = self.lock();
        if let Some(peer_entry) = seen.iter_mut().find(|peer_entry| peer_entry.peer == *peer) {
            peer_entry.at = Instant::now();
            let is_last = !peer_entry.has_links();
            match loss {
                IdleLossReason::Retired if is_last => peer_entry.goodbye.note_last_retired(),
                IdleLossReason::Retired => {}
                IdleLossReason::Drained => peer_entry.goodbye.note_drain(),
                IdleLossReason::Failed(_) => {
                    peer_entry.failures += 1;
                    peer_entry.goodbye.note_failure();
                }
            }
            peer_entry.last_fault = match loss {
                IdleLossReason::Retired => None,
                IdleLossReason::Drained => Some(LinkFault::new(LinkCause::Other, "it drains")),
                IdleLossReason::Failed(why) => Some(why.fault()),
            };
        }
    }

    /// Forgets lost peers with this name or address; returns how many.
    pub fn dismiss(&self, name: &str) -> usize {
        let mut seen = self.lock();
        let before = seen.len();
        let is_meant = |peer: &Peer| *peer.label() == *name || *peer.address == *name;
        seen.retain(|peer_entry| peer_entry.has_links() || !is_meant(&peer_entry.peer));
        before - seen.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<DialledInPeer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SuccessionEntry for DialledInPeer {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    fn succession(&mut self) -> &mut Succession {
        &mut self.succession
    }

    fn counters(&self) -> &LinkCounters {
        &self.counts
    }

    fn failures(&mut self) -> &mut u64 {
        &mut self.failures
    }

    /// How long a peer has been lost that kept links and said no goodbye.
    fn lost_for(&self) -> Option<Duration> {
        let keeps_links = self.protocol == Some(multiplex::PROTOCOL_NAME) && !self.goodbye.was_received();
        self.counts.empty_for().filter(|_| keeps_links)
    }

    fn is_remembered(&self) -> bool {
        self.is_remembered_when(self.lost_for())
    }
}

impl DialledInPeer {
    fn is_remembered_when(&self, lost: Option<Duration>) -> bool {
        let has_left = self.goodbye.was_received() && self.counts.links() == 0;
        match lost {
            Some(lost) => lost < LOST_PEER_RETENTION_PERIOD,
            None => self.has_links() || !has_left && self.at.elapsed() < SEEN_RETENTION_PERIOD,
        }
    }

    fn row(&self) -> PoolRow {
        let is_own = self.protocol == Some(multiplex::PROTOCOL_NAME);
        let has_checked_in = !is_own && self.at.elapsed() < CHECK_IN_WINDOW;
        let fault = |words: &str| LinkFault::new(LinkCause::Other, words);
        let ready = self.counts.ready();
        let left = self.counts.drains() && ready == 0;
        let target = if is_own { self.target } else { 0 };
        let (state, last_fault) = match self.has_links() || has_checked_in {
            true if left => (PoolState::Filling, Some(fault("it drains, and opens no new sessions"))),
            true if ready < target => (PoolState::Filling, None),
            true => (PoolState::Healthy, None),
            false if is_own => (PoolState::Down, self.last_fault.clone().or_else(|| Some(fault("no link")))),
            false => (PoolState::Down, Some(fault("it has not connected for 15 s"))),
        };
        PoolRow {
            peer: Some(self.peer.label().to_string()),
            address: Some(self.peer.address.to_string()),
            state,
            ready,
            target,
            carrying: self.counts.carrying(),
            failures: self.failures,
            left,
            protocol: self.protocol.map(Into::into),
            instance: self.peer.instance.map(|instance| instance.to_string()),
            ..PoolRow::new(Half::Internal, "*".into())
        }
        .with_fault(last_fault)
        .with_links(&self.counts)
    }
}

/// Takes in the links that DMZ gateways dial.
#[derive(Clone)]
pub struct DialledInLinks {
    pub peers: Arc<DialledInPeers>,
    pub server: Arc<LinkServer>,
    /// Limits how many links there are.
    pub links: Arc<GatewayShares>,
    pub serve: ServeSession,
    pub tasks: Tasks,
    pub notices: Arc<NoticeLog>,
}

impl fmt::Debug for DialledInLinks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DialledInLinks").field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl LinkIntake for DialledInLinks {
    fn take_in(&self, handshake: HandshakeOutcome, permit: HandshakePermit) -> BoxFuture<'static, ()> {
        let intake = self.clone();
        match handshake {
            HandshakeOutcome::Seen(peer) => {
                drop(self.peers.note_peer(&peer, None));
                ready(()).boxed()
            }
            HandshakeOutcome::Linked(linked) => async move {
                intake.take_in_link(linked).await;
                drop(permit);
            }
            .boxed(),
            HandshakeOutcome::SocksRequested(requested) => intake.serve_requested(requested, permit).boxed(),
        }
    }
}

impl DialledInLinks {
    async fn take_in_link(self, linked: EstablishedLink) {
        let EstablishedLink { mut link, offer, grant, .. } = linked;
        let label = link.peer().label();
        if self.server.locks(link.peer()) {
            self.notices.warn_rejected_link(LinkCause::Other, format!("link from {label}: it is locked"));
            // It may take its time to leave, and does not have it.
            let _ = timeout(LINGERING_CLOSE_TIMEOUT, link.close_gracefully(FrameType::Drain)).await;
            return;
        }
        let counts = self.peers.note_linked(link.peer(), grant.links_kept, offer.links_max);
        let Some(share) = self.take_share(&label) else {
            return link.close_gracefully(FrameType::Retire).await;
        };
        link.set_guard(LinkGuard::ready(&counts, Some(share)));
        let (peer, served) = (link.peer().clone(), self.server.serve(link));
        let Self { peers, serve, tasks, .. } = self;
        tasks.clone().spawn("link", async move {
            let lost = serve_link(served, serve, tasks).await;
            peers.record_loss(&peer, &lost.why);
        });
    }

    /// Serves the one session of a SOCKS5 link.
    async fn serve_requested(self, requested: SocksRequest, permit: HandshakePermit) {
        let counts = self.peers.note_peer(&requested.peer, Some(socks5::PROTOCOL_NAME));
        let Some(share) = self.take_share(&requested.peer.label()) else {
            return handshake::refuse(requested.stream, Refusal::Full).await;
        };
        let link_guard = LinkGuard::carrying(&counts, Some(share)).describe(
            &requested.stream,
            &requested.peer,
            LinkEnd::Server,
        );
        drop(permit);
        (self.serve)(session_request(requested, link_guard)).await;
    }

    /// A share of the links, for one more of this peer.
    fn take_share(&self, label: &Arc<str>) -> Option<SharePermit> {
        let share = self.links.take(label);
        if share.is_none() {
            self.notices.warn_rejected_link(LinkCause::AtMaximum, format!("link from {label}: {AT_MAXIMUM}"));
        }
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{link::succession::LOST_MAX, proto::multiplex::hello::InstanceId};

    #[test]
    fn the_peer_lost_longest_is_forgotten_past_the_limit() {
        let mut seen = Vec::new();
        for number in 0..=LOST_MAX as u8 {
            let counts = Arc::new(LinkCounters::default());
            drop(LinkGuard::ready(&counts, None));
            seen.push(DialledInPeer {
                peer: Peer {
                    name: Some("dmz".into()),
                    address: "192.0.2.1".into(),
                    instance: Some(InstanceId([number; 16])),
                },
                at: Instant::now(),
                counts,
                protocol: Some(multiplex::PROTOCOL_NAME),
                target: 1,
                failures: 0,
                last_fault: None,
                goodbye: GoodbyeState::default(),
                succession: Succession::default(),
            });
        }
        assert!(seen.iter().all(|peer_entry| peer_entry.lost_for().is_some()));
        let first = seen.iter().min_by_key(|peer_entry| peer_entry.counts.empty_since_us());
        let longest = first.and_then(|peer_entry| peer_entry.peer.instance);
        forget_lost_peers(&mut seen);
        assert_eq!(seen.len(), LOST_MAX);
        assert!(seen.iter().all(|peer_entry| peer_entry.peer.instance != longest));
        assert!(seen[0].row().instance.is_some(), "which process it was is still reported");
        assert!(seen[0].is_remembered_when(Some(LOST_PEER_RETENTION_PERIOD - Duration::from_secs(1))));
        assert!(!seen[0].is_remembered_when(Some(LOST_PEER_RETENTION_PERIOD)));
    }

    #[test]
    fn a_gateway_is_healthy_with_the_links_that_it_keeps_and_with_any_if_it_does_not_say() {
        let peer = Peer { name: Some("dmz".into()), address: "192.0.2.1".into(), instance: None };
        let link = |seen: &DialledInPeers, kept| LinkGuard::ready(&seen.note_linked(&peer, kept, 64), None);
        let row = |seen: &DialledInPeers| seen.rows().remove(0);
        let seen = DialledInPeers::default();
        let one = link(&seen, 2);
        assert_eq!((row(&seen).target, row(&seen).ready, row(&seen).state), (2, 1, PoolState::Filling));
        let mut other = link(&seen, 2);
        assert_eq!(row(&seen).state, PoolState::Healthy);
        drop(one);
        other.counts().note_drain();
        other.mark_leaving();
        assert!(row(&seen).left && row(&seen).state == PoolState::Filling, "{:?}", row(&seen));
        let silent = DialledInPeers::default();
        let _link = link(&silent, 0);
        assert_eq!((row(&silent).target, row(&silent).state), (0, PoolState::Healthy));
        let _link = link(&silent, 1000);
        assert_eq!(row(&silent).target, 64, "there is no room for more");
    }
}
