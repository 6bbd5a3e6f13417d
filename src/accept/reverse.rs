//! Sessions over links that this half keeps dialled to a DMZ gateway.
//!
//! A link of our own waits for any session, as [`Server`] does; a SOCKS5 one is parked by BIND for
//! the service it names and carries one. Refilled when a session comes, not when it ends.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Instant,
};

use arc_swap::ArcSwap;
use futures_util::{FutureExt, future::BoxFuture};
use socks5_proto::Address;

use super::{Negotiated, Reply, Serve};
use crate::{
    link::{
        Peer,
        course::Failure,
        greet::{self, LinkError, Linked, Reached, Says, Terms},
        keeper::{Dialled, Keeper, Shared, Uses, Wanted},
        leg::Leg,
        seat::Seat,
        serving::{Loss, Server},
    },
    net::{stream::Stream, tcp},
    profile::{Carries, LinkAddress, Role, ServiceName},
    proto::{
        link::{hello::Offer, open::Open},
        socks5::SocksError,
    },
};

/// A service of an internal half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    pub name: ServiceName,
    /// Which gateways may use it; `None`: all of the link's peers.
    pub peers: Option<Vec<String>>,
    pub carries: Carries,
}

/// What an internal half offers over its links, as its profile says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offering {
    pub services: Vec<Offered>,
    /// Those that take no new sessions: nothing is parked for them, and `open` is refused.
    pub drained: Vec<ServiceName>,
    pub prepared: usize,
    pub maximum: usize,
}

impl Offering {
    /// The `hello` to a DMZ gateway: what it may use.
    pub fn to(&self, peer: &Peer) -> Offer {
        let allowed = self.services.iter().filter(|service| peer.is_among(service.peers.as_deref()));
        let services = allowed.map(|service| (service.name.clone(), service.carries)).collect();
        Offer { services, target: self.prepared, maximum: self.maximum }
    }

    /// The services that SOCKS5 links are parked for.
    fn parks(&self) -> Vec<ServiceName> {
        let names = self.services.iter().map(|service| &service.name);
        names.filter(|name| !self.drained.contains(name)).cloned().collect()
    }
}

/// The links to one DMZ gateway.
pub struct Parking {
    pub keeper: Arc<Keeper>,
    server: Arc<Server>,
}

struct Use {
    offering: Arc<ArcSwap<Offering>>,
    server: Arc<Server>,
    serve: Serve,
}

impl Parking {
    /// Starts to keep links there.
    pub fn start(
        gateway: LinkAddress,
        wanted: Wanted,
        offering: Arc<ArcSwap<Offering>>,
        shared: Shared,
        serve: Serve,
    ) -> Self {
        let tasks = shared.tasks.clone();
        let mut made = None;
        let keeper = Keeper::start(gateway, wanted, shared, |keeper| {
            let server = Server::new(tasks, opened(serve.clone()), lost(keeper));
            made = Some(server.clone());
            Arc::new(Use { offering, server, serve })
        });
        let server = made.expect("the closure above has run");
        Self { keeper, server }
    }

    /// Replaces the links that stand: what was told or shown on them does not hold any more.
    pub fn retire_links(&self) {
        self.server.epoch().end();
    }

    /// Asks the gateway for no more sessions, and ends.
    pub fn retire(&self) {
        self.server.drain();
        self.keeper.retire();
    }
}

fn opened(serve: Serve) -> crate::link::serving::Opened {
    Arc::new(move |link, open: Open| serve(Negotiated::opened(link, open)))
}

fn lost(keeper: Weak<Keeper>) -> crate::link::serving::Lost {
    Arc::new(move |_, stood, loss| {
        if let Some(keeper) = keeper.upgrade() {
            keeper.lost(None, stood, loss);
        }
    })
}

impl Uses for Use {
    fn terms(&self) -> Terms {
        let offering = self.offering.clone();
        let says = Says::Serves(Arc::new(move |peer| offering.load().to(peer)));
        Terms { says, epoch: self.server.epoch().clone() }
    }

    fn heard(&self, _: &Linked) {}

    fn linked(&self, _: &Keeper, linked: Linked) {
        self.server.stands(linked.link);
    }

    fn parks(&self) -> Vec<ServiceName> {
        self.offering.load().parks()
    }

    fn socks(&self, keeper: Arc<Keeper>, dialled: Dialled) -> BoxFuture<'static, ()> {
        let (offering, serve) = (self.offering.clone(), self.serve.clone());
        async move {
            // Asked for first: a change after the next line cancels it.
            let retired = keeper.retired(dialled.service.as_ref());
            let offering = offering.load_full();
            if dialled.service.as_ref().is_some_and(|service| !offering.parks().contains(service)) {
                return;
            }
            retired.run_until_cancelled(park(&keeper, &offering, dialled, serve)).await;
        }
        .boxed()
    }
}

/// One SOCKS5 link, from its method to its session's start, which goes on in a task of its own.
///
/// Dropped at a retirement, which resets it: the other side may have taken it a moment ago, and a
/// clean end would be its client's.
async fn park(keeper: &Arc<Keeper>, offering: &Offering, dialled: Dialled, serve: Serve) {
    let Dialled { mut reached, service, place, under_way } = dialled;
    let Some(service) = service else {
        return keeper.failed(None, "this half offers no service".into(), Failure::Way);
    };
    let offered = offering.services.iter().find(|offered| offered.name == service);
    if offered.is_some_and(|offered| !reached.peer.is_among(offered.peers.as_deref())) {
        let why = format!("{} is not among the service's `peers`", reached.peer.label());
        return keeper.failed(Some(&service), why, Failure::Way);
    }
    if let Err(error) = greet::park(&mut reached, &service).await {
        return keeper.failed(Some(&service), error.to_string(), Failure::Way);
    }
    let Reached { mut stream, peer, .. } = reached;
    let seat = Seat::ready(&keeper.counts(Some(&service)), Some(place)).of(&stream);
    keeper.stands(Some(&service), &peer.label());
    drop(under_way);
    let since = Instant::now();
    let why = match greet::announced(&mut stream).await {
        Ok(client) => return carry(keeper, Parked { stream, peer, service, seat }, client, &serve),
        Err(LinkError::Socks(SocksError::Closed)) => "the peer closed it".into(),
        Err(error) => error.to_string(),
    };
    drop(seat);
    keeper.lost(Some(&service), since.elapsed(), Loss::Failed(why));
}

struct Parked {
    stream: Stream,
    peer: Peer,
    service: ServiceName,
    seat: Seat,
}

fn carry(keeper: &Arc<Keeper>, parked: Parked, client: Address, serve: &Serve) {
    let Parked { stream, peer, service, mut seat } = parked;
    seat.carry();
    seat.counts().carried();
    if let Some(stream) = stream.tcp() {
        // Fails only on a socket that is already gone, as the session will find out.
        let _ = tcp::link_carries(stream);
    }
    // In a task of its own, which a retirement does not cut.
    keeper.spawn_session(serve(Negotiated {
        role: Role::Internal,
        leg: Leg::Stream(stream),
        service,
        id: None,
        client: address(client),
        peer: Some(peer),
        reply: Reply::Silent,
        said: Vec::new(),
        seat: Some(seat),
        probe: false,
        teller: None,
        rest: None,
    }));
}

/// The client's address in a second reply; another gateway's software may name it otherwise.
fn address(client: Address) -> Option<SocketAddr> {
    match client {
        Address::SocketAddress(address) => Some(SocketAddr::new(address.ip().to_canonical(), address.port())),
        Address::DomainAddress(..) => None,
    }
}
