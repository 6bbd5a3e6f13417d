//! Sessions over links that this half dials to a DMZ gateway and keeps ready.
//!
//! A link of our own waits for a session of any service, as [`LinkServer`] does. A SOCKS5 link is parked by BIND
//! for one service and carries one session. It is replaced when its session starts, not when that ends.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures_util::{FutureExt, future::BoxFuture};
use socks5_proto::Address;

use super::{ServeSession, SessionReply, SessionRequest};
use crate::{
    admission::clients::ClientAdmission,
    link::{
        Peer, agreement,
        dial_state::DialFailure,
        dialled_gateways::GatewayDialler,
        failure::{IdleLinkFailure, LinkFailure},
        handshake::{
            self, DialledStream, EstablishedLink, HandshakeError, HandshakeTerms, HelloRole, OfferDecision,
        },
        keeper::{KeeperContext, KeeperTarget, LinkKeeper, LinkUse, SocksLink},
        link_guard::LinkGuard,
        lockdown::Lockdown,
        server::{CurrentOffer, IdleLossReason, LinkServer},
        session_side::SessionSide,
    },
    net::{stream::NetStream, tcp},
    profile::{Carries, Half, LinkAddress, ServiceName},
    proto::{
        multiplex::hello::{OfferState, ServerHello, ServiceOffer},
        socks5::SocksError,
    },
};

/// A service of an internal half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedService {
    pub name: ServiceName,
    /// Which gateways may use it; `None`: all of the link's peers.
    pub peers: Option<Vec<String>>,
    pub carries: Carries,
}

/// What an internal half offers over its links, as its profile says now.
#[derive(Debug, Clone)]
pub struct OfferedServices {
    pub services: Vec<OfferedService>,
    /// The state of those that are not open.
    pub states: BTreeMap<ServiceName, OfferState>,
    /// Those that take no new sessions: nothing is parked for them, and `open` is refused.
    pub drained: Vec<ServiceName>,
    /// What is locked, for some gateways or for all.
    pub lockdown: Lockdown,
    pub prepared: usize,
    pub maximum: usize,
    pub sessions_per_link: usize,
    pub retire: Duration,
}

impl OfferedServices {
    /// What a DMZ gateway is told, and may use.
    pub fn offer_for(&self, peer: &Peer) -> OfferDecision {
        self.offer_of_links(peer, self.prepared)
    }

    /// The same by a half that keeps so many links there.
    fn offer_of_links(&self, peer: &Peer, prepared: usize) -> OfferDecision {
        let bounded = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        let hello = ServerHello {
            about: agreement::about(),
            links_kept: bounded(prepared),
            links_max: bounded(self.maximum),
            sessions_per_link: bounded(self.sessions_per_link),
            services: self.services_for(peer),
        };
        OfferDecision { hello, retire: self.retire }
    }

    /// Whether links that were opened under `before` can go on: what `hello` alone says is the same, and each service
    /// carries what it did.
    pub fn has_terms_of(&self, before: &Self) -> bool {
        let carries_the_same = |service: &OfferedService| {
            let was = before.services.iter().find(|was| was.name == service.name);
            was.is_none_or(|was| was.carries == service.carries)
        };
        (self.prepared, self.sessions_per_link) == (before.prepared, before.sessions_per_link)
            && self.services.iter().all(carries_the_same)
    }

    /// What a DMZ gateway may use, and whether it can be used now.
    pub fn services_for(&self, peer: &Peer) -> Vec<ServiceOffer> {
        let allowed = self.services.iter().filter(|service| peer.is_among(service.peers.as_deref()));
        let offer = |service: &OfferedService| ServiceOffer {
            name: service.name.clone(),
            carries: service.carries,
            state: match self.lockdown.locks_session(Some(&peer.label()), &service.name) {
                true => OfferState::Locked,
                false => self.state(&service.name),
            },
        };
        allowed.map(offer).collect()
    }

    fn state(&self, service: &ServiceName) -> OfferState {
        self.states.get(service).copied().unwrap_or(OfferState::Open)
    }

    /// The services that SOCKS5 links are parked for. A service whose backends are down keeps its links: it may be
    /// back in a moment, and over SOCKS5 a client hears of it as of any backend that does not answer.
    fn parked_services(&self) -> Vec<ServiceName> {
        let names = self.services.iter().map(|service| &service.name);
        let is_parked = |name: &&ServiceName| {
            matches!(self.state(name), OfferState::Open | OfferState::Down) && !self.drained.contains(name)
        };
        names.filter(is_parked).cloned().collect()
    }
}

/// The links to one DMZ gateway.
pub struct ReverseDialler {
    pub keeper: Arc<LinkKeeper>,
    server: Arc<LinkServer>,
}

struct ReverseUse {
    keeper: Weak<LinkKeeper>,
    offering: Arc<ArcSwap<OfferedServices>>,
    server: Arc<LinkServer>,
    serve: ServeSession,
}

impl ReverseDialler {
    /// Starts to keep links there.
    pub fn start(
        gateway: LinkAddress,
        wanted: KeeperTarget,
        offering: Arc<ArcSwap<OfferedServices>>,
        shared: KeeperContext,
        serve: ServeSession,
    ) -> Self {
        let (tasks, lockdown) = (shared.tasks.clone(), shared.lockdown.clone());
        let mut made = None;
        let keeper = LinkKeeper::start(gateway, wanted, shared, |keeper| {
            let opened = session_opened(serve.clone());
            let offer = current_offer(offering.clone());
            let lost = idle_link_lost(keeper.clone());
            let server = LinkServer::with_lockdown(lockdown, tasks, opened, offer, lost);
            made = Some(server.clone());
            Arc::new(ReverseUse { keeper, offering, server, serve })
        });
        let server = made.expect("the closure above has run");
        Self { keeper, server }
    }

    /// Replaces the links that stand: what was told or shown on them does not hold any more.
    pub fn retire_links(&self) {
        self.server.generation().advance();
    }

    /// The services or their states have changed: the gateway is told, and SOCKS5 links follow.
    pub fn send_offers(&self) {
        self.server.send_offers();
        self.keeper.notify_changed();
    }
}

impl GatewayDialler for ReverseDialler {
    fn keeper(&self) -> &Arc<LinkKeeper> {
        &self.keeper
    }

    /// The gateway hears of another number with new links alone.
    fn want(&self, wanted: KeeperTarget) {
        let is_other = self.keeper.wanted().prepared != wanted.prepared;
        self.keeper.update(wanted);
        if is_other {
            self.retire_links();
        }
    }

    /// Asks the gateway for no more sessions, and ends.
    fn retire(&self) {
        self.server.drain();
        self.keeper.retire();
    }
}

fn session_opened(serve: ServeSession) -> crate::link::server::SessionOpened {
    Arc::new(move |peer, open, session| serve(SessionRequest::from_open(peer, *open, session)))
}

/// What each peer is offered at the moment.
pub fn current_offer(offering: Arc<ArcSwap<OfferedServices>>) -> CurrentOffer {
    Arc::new(move |peer| offering.load().services_for(peer))
}

fn idle_link_lost(keeper: Weak<LinkKeeper>) -> crate::link::server::IdleLinkLost {
    Arc::new(move |_, lifetime, loss| {
        if let Some(keeper) = keeper.upgrade() {
            keeper.note_lost(None, lifetime, loss);
        }
    })
}

impl LinkUse for ReverseUse {
    fn terms(&self) -> HandshakeTerms {
        let (keeper, offering) = (self.keeper.clone(), self.offering.clone());
        // Of the targets of one name, each gets its share of what is prepared.
        let prepared = move || Some(keeper.upgrade()?.wanted().prepared);
        let hello_role = HelloRole::Serves(Arc::new(move |peer| match prepared() {
            Some(prepared) => offering.load().offer_of_links(peer, prepared),
            None => offering.load().offer_for(peer),
        }));
        HandshakeTerms { role: hello_role, generation: self.server.generation().clone() }
    }

    fn note_hello(&self, _: &EstablishedLink) {}

    fn take_link(&self, _: &LinkKeeper, linked: EstablishedLink) {
        self.server.serve_link(linked.link);
    }

    fn parked_services(&self) -> Vec<ServiceName> {
        self.offering.load().parked_services()
    }

    fn run_socks_link(&self, keeper: Arc<LinkKeeper>, dialled: SocksLink) -> BoxFuture<'static, ()> {
        let (offering, serve) = (self.offering.clone(), self.serve.clone());
        async move {
            // Asked for first: a change after the next line cancels it.
            let retired = keeper.retired_token(dialled.service.as_ref());
            let offering = offering.load_full();
            if dialled.service.as_ref().is_some_and(|service| !offering.parked_services().contains(service)) {
                return;
            }
            retired.run_until_cancelled(park_link(&keeper, &offering, dialled, serve)).await;
        }
        .boxed()
    }
}

/// One SOCKS5 link, from its method to its session's start, which goes on in a task of its own.
///
/// Dropped at a retirement, which resets it: the other side may have taken it a moment ago, and a
/// clean end would be its client's.
async fn park_link(
    keeper: &Arc<LinkKeeper>,
    offering: &OfferedServices,
    dialled: SocksLink,
    serve: ServeSession,
) {
    let SocksLink { mut reached, service, place, under_way } = dialled;
    let Some(service) = service else {
        return keeper.note_failed(None, &LinkFailure::NothingOffered, DialFailure::Way);
    };
    let offered = offering.services.iter().find(|offered| offered.name == service);
    if offered.is_some_and(|offered| !reached.peer.is_among(offered.peers.as_deref())) {
        let why = LinkFailure::PeerNotAllowed(reached.peer.label());
        return keeper.note_failed(Some(&service), &why, DialFailure::Way);
    }
    if let Err(error) = handshake::park(&mut reached, &service).await {
        return keeper.note_failed(Some(&service), &error.into(), DialFailure::Way);
    }
    let DialledStream { mut stream, peer, .. } = reached;
    let link_guard = LinkGuard::ready(&keeper.counts(Some(&service)), Some(place)).describe(&stream);
    keeper.note_established(Some(&service), &peer.label());
    drop(under_way);
    let since = Instant::now();
    let revocation = stream.revocation();
    let announced = tokio::select! {
        announced = handshake::read_announcement(&mut stream) => announced,
        () = revocation.given() => Err(HandshakeError::Revoked),
    };
    let why = match announced {
        Ok(client) => {
            return carry_session(
                keeper,
                ParkedLink { stream, peer, service, guard: link_guard },
                client,
                &serve,
            );
        }
        Err(HandshakeError::Socks(SocksError::Closed)) => IdleLinkFailure::CLOSED,
        Err(HandshakeError::Revoked) => IdleLinkFailure::Revoked,
        Err(error) => IdleLinkFailure::Announcement(Arc::new(error)),
    };
    drop(link_guard);
    keeper.note_lost(Some(&service), since.elapsed(), IdleLossReason::Failed(why));
}

struct ParkedLink {
    stream: NetStream,
    peer: Peer,
    service: ServiceName,
    guard: LinkGuard,
}

fn carry_session(keeper: &Arc<LinkKeeper>, parked: ParkedLink, client: Address, serve: &ServeSession) {
    let ParkedLink { stream, peer, service, guard: mut link_guard } = parked;
    link_guard.mark_busy();
    link_guard.counts().note_carried();
    if let Some(stream) = stream.tcp() {
        // Fails only on a socket that is already gone, as the session will find out.
        let _ = tcp::prepare_busy_link(stream);
    }
    // In a task of its own, which a retirement does not cut.
    keeper.spawn_session(serve(SessionRequest {
        half: Half::Internal,
        downstream: SessionSide::Stream(stream),
        service,
        id: None,
        client: client_address(client),
        origin: Box::default(),
        peer: Some(peer),
        reply: SessionReply::Silent,
        prefix: Vec::new(),
        link_guard: Some(link_guard),
        probe: false,
        outcome_sender: None,
        idle_state: None,
        admission: ClientAdmission::default(),
        expires: None,
        arrival: None,
    }));
}

/// The client's address in a second reply; another gateway's software may name it otherwise.
fn client_address(client: Address) -> Option<SocketAddr> {
    match client {
        Address::SocketAddress(address) => Some(SocketAddr::new(address.ip().to_canonical(), address.port())),
        Address::DomainAddress(..) => None,
    }
}
