//! Sessions over links that this half dials to a DMZ gateway and keeps ready.
//!
//! A link of our own waits for a session of any service, as [`LinkServer`] does. A SOCKS5 link is parked by BIND
//! for one service and carries one session. It is replaced when its session starts, not when that ends.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use socks5_proto::Address;
use tokio::sync::mpsc;

use super::{ServeSession, SessionRequest, served_links::serve_link};
use crate::{
    admission::clients::ClientAdmission,
    link::{
        Peer,
        dial_state::DialFailure,
        dialled_gateways::GatewayDialler,
        error::{IdleLinkError, LinkError},
        handshake::{self, DialledStream, EstablishedLink, HandshakeError},
        keeper::{KeeperContext, KeeperEvent, KeeperTarget, LinkKeeper, SocksLink},
        link_guard::LinkGuard,
        offered_services::OfferedServices,
        server::{IdleLossReason, LinkLost, LinkServer},
        session_side::Downstream,
    },
    net::{stream::NetStream, tcp},
    profile::{Half, LinkAddress, ServiceName},
    proto::{multiplex::state::LinkEnd, socks5::SocksError},
    tasks::Tasks,
};

/// The links to one DMZ gateway.
pub struct ReverseDialler {
    pub keeper: Arc<LinkKeeper>,
    server: Arc<LinkServer>,
}

/// State shared by the diallers of one half.
pub struct ReverseSessions {
    pub offered: Arc<ArcSwap<OfferedServices>>,
    pub serve: ServeSession,
}

impl ReverseDialler {
    /// Replaces the existing links, because what was said or shown on them no longer applies.
    pub fn retire_links(&self) {
        self.server.generation().advance();
    }

    /// Tells the gateway that the services or their states have changed, and adapts SOCKS5 links.
    pub fn send_offers(&self) {
        self.server.send_offers();
        self.keeper.notify_changed();
    }
}

impl GatewayDialler for ReverseDialler {
    type Shared = ReverseSessions;

    fn start(
        gateway: LinkAddress,
        wanted: KeeperTarget,
        keepers: &KeeperContext,
        shared: &ReverseSessions,
    ) -> Self {
        let ReverseSessions { offered, serve } = shared;
        let server = LinkServer::new(offered.clone());
        let (keeper, events) = LinkKeeper::start(gateway, wanted, keepers.clone(), server.terms());
        let links = DialledLinkHandler {
            keeper: keeper.clone(),
            server: server.clone(),
            offered: offered.clone(),
            serve: serve.clone(),
            tasks: keepers.tasks.clone(),
        };
        keepers.tasks.spawn("dialled links", links.take(events));
        Self { keeper, server }
    }

    fn keeper(&self) -> &Arc<LinkKeeper> {
        &self.keeper
    }

    /// The gateway learns another number only from new links.
    fn want(&self, wanted: KeeperTarget) {
        let is_other = self.keeper.wanted().prepared != wanted.prepared;
        self.keeper.update(wanted);
        if is_other {
            self.retire_links();
        }
    }

    /// Asks the gateway to open no more sessions, and ends.
    fn retire(&self) {
        self.server.drain();
        self.keeper.retire();
    }
}

/// Takes the links that a keeper has dialled.
#[derive(Clone)]
struct DialledLinkHandler {
    keeper: Arc<LinkKeeper>,
    server: Arc<LinkServer>,
    offered: Arc<ArcSwap<OfferedServices>>,
    serve: ServeSession,
    tasks: Tasks,
}

impl DialledLinkHandler {
    async fn take(self, mut events: mpsc::Receiver<KeeperEvent>) {
        while let Some(event) = events.recv().await {
            let links = self.clone();
            match event {
                KeeperEvent::Linked(linked) => self.tasks.spawn("link", links.serve(linked)),
                KeeperEvent::SocksDialled(link) => self.tasks.spawn("dialled link", links.keep_parked(link)),
                KeeperEvent::NothingGranted(..) => {}
            }
        }
    }

    async fn serve(self, linked: EstablishedLink) {
        let lost = serve_link(self.server.serve(linked.link), self.serve, self.tasks).await;
        self.keeper.note_lost(None, lost);
    }

    async fn keep_parked(self, dialled: SocksLink) {
        // Taken first: a change after the next line cancels it.
        let retired = self.keeper.retired_token(dialled.service.as_ref());
        let offered = self.offered.load_full();
        if dialled.service.as_ref().is_some_and(|service| !offered.parked_services().contains(service)) {
            return;
        }
        retired.run_until_cancelled(self.park(&offered, dialled)).await;
    }

    /// One SOCKS5 link, from its method to the start of its session, which goes on in a task of its own.
    ///
    /// A retirement drops it, which resets it. The other side may have taken it a moment ago, and its client would
    /// take a clean end for the end of its session.
    async fn park(&self, offered: &OfferedServices, dialled: SocksLink) {
        let keeper = &self.keeper;
        let SocksLink { mut reached, service, permit, under_way } = dialled;
        let Some(service) = service else {
            return keeper.note_failed(None, &LinkError::NothingOffered, DialFailure::Path);
        };
        let of_service = offered.services.iter().find(|of| of.name == service);
        if of_service.is_some_and(|of| !reached.peer.is_among(of.peers.as_deref())) {
            let why = LinkError::PeerNotAllowed(reached.peer.label());
            return keeper.note_failed(Some(&service), &why, DialFailure::Path);
        }
        if let Err(error) = handshake::park(&mut reached, &service).await {
            return keeper.note_failed(Some(&service), &error.into(), DialFailure::Path);
        }
        let DialledStream { mut stream, peer, .. } = reached;
        let link_guard = LinkGuard::ready(&keeper.counts(Some(&service)), Some(permit)).describe(
            &stream,
            &peer,
            LinkEnd::Server,
        );
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
                let parked = ParkedLink { stream, peer, service, guard: link_guard };
                // Runs in a task of its own, which a retirement does not cut.
                return self.tasks.spawn("session", (self.serve)(parked.into_session(client)));
            }
            Err(HandshakeError::Socks(SocksError::Closed)) => IdleLinkError::CLOSED,
            Err(HandshakeError::Revoked) => IdleLinkError::Revoked,
            Err(error) => IdleLinkError::Announcement(Arc::new(error)),
        };
        drop(link_guard);
        let lost = LinkLost { lifetime: since.elapsed(), why: IdleLossReason::Failed(why) };
        keeper.note_lost(Some(&service), lost);
    }
}

struct ParkedLink {
    stream: NetStream,
    peer: Peer,
    service: ServiceName,
    guard: LinkGuard,
}

impl ParkedLink {
    /// The session that has come over it.
    fn into_session(self, client: Address) -> SessionRequest {
        let Self { stream, peer, service, guard: mut link_guard } = self;
        link_guard.mark_busy();
        link_guard.counts().note_carried();
        if let Some(stream) = stream.tcp() {
            // This fails only on a socket that is already gone, as the session will find out.
            let _ = tcp::prepare_busy_link(stream);
        }
        SessionRequest {
            half: Half::Internal,
            downstream: Downstream::parked(stream, link_guard),
            service,
            id: None,
            client: client_address(client),
            origin: Box::default(),
            peer: Some(peer),
            prefix: Vec::new(),
            probe: false,
            outcome_sender: None,
            idle_state: None,
            admission: ClientAdmission::default(),
            expires: None,
            arrival: None,
        }
    }
}

/// The client's address in a second reply; other software may name the client in another way.
fn client_address(client: Address) -> Option<SocketAddr> {
    match client {
        Address::SocketAddress(address) => Some(SocketAddr::new(address.ip().to_canonical(), address.port())),
        Address::DomainAddress(..) => None,
    }
}
