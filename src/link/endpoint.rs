//! Where links come in on a port whose clients begin with a request: a request for a WebSocket at one path
//! leads to a half's links. The port may be for links alone, or also for services, whose requests are routed by
//! host and path.
//!
//! How a request is read, and how a connection becomes a WebSocket, is not here but where clients are accepted.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::{carrier::OuterTlsCell, listener::LinkReception};
use crate::{
    admission::handshakes::HandshakeLimiter,
    net::{
        framed::{FramedEnd, FramedSocket},
        prefixed::PrefixedStream,
        read_ahead::TlsTransport,
    },
    profile::{EdgeScheme, LinkCarrier, LinkWebSocket, OuterTls},
    tls::edge::TlsServer,
};

/// A path of a port that leads to a half's links.
#[derive(Debug, Clone)]
pub struct LinkEndpoint {
    pub path: Arc<str>,
    pub reception: LinkReception,
    /// The profile's settings for the TLS around the links' WebSockets, and that TLS itself; a reload replaces
    /// both.
    pub carrier: Arc<ArcSwap<LinkCarrier>>,
    pub outer: OuterTlsCell,
    /// Cancelled when no more links come in here.
    pub closed: CancellationToken,
}

impl LinkEndpoint {
    /// Receives a connection that has become the WebSocket of a link.
    pub fn receive(&self, upgraded: PrefixedStream, from: SocketAddr) {
        let framed = FramedSocket::new(upgraded, FramedEnd::Accepted);
        self.reception.receive(TlsTransport::Framed(Box::new(framed)), from);
    }

    /// The TLS to end here, if links have a certificate of their own to show.
    fn outer_server(&self) -> Option<TlsServer> {
        match &**self.carrier.load() {
            LinkCarrier::WebSocket(LinkWebSocket { outer: OuterTls::Shown(tls), .. }) => {
                self.outer.load().accept_server(tls, EdgeScheme::Wss)
            }
            LinkCarrier::WebSocket(_) | LinkCarrier::Tcp => None,
        }
    }
}

/// The endpoints of one port: usually one; during a switch there may be the old and the new one.
#[derive(Debug, Default)]
pub struct LinkEndpoints(ArcSwap<Vec<LinkEndpoint>>);

impl LinkEndpoints {
    /// Adds an endpoint, which takes precedence over older ones with the same path.
    pub fn open(&self, endpoint: LinkEndpoint) {
        self.keep_open_behind(Some(endpoint));
    }

    /// Removes endpoints that are closed.
    pub fn forget_closed(&self) {
        self.keep_open_behind(None);
    }

    fn keep_open_behind(&self, first: Option<LinkEndpoint>) {
        let others = self.0.load();
        let open = others.iter().filter(|other| !other.closed.is_cancelled()).cloned();
        self.0.store(Arc::new(first.into_iter().chain(open).collect()));
    }

    /// The endpoint that a request's path leads to, whatever its host.
    pub fn find(&self, path: &str) -> Option<LinkEndpoint> {
        self.first(|endpoint| (&*endpoint.path == path).then(|| endpoint.clone()))
    }

    /// The TLS to end here for clients that ask for a name which belongs to no service.
    pub fn outer_server(&self) -> Option<TlsServer> {
        self.first(LinkEndpoint::outer_server)
    }

    /// The limiter of link handshakes.
    pub fn handshakes(&self) -> Option<Arc<HandshakeLimiter>> {
        self.first(|endpoint| Some(endpoint.reception.handshakes().clone()))
    }

    fn first<T>(&self, found: impl FnMut(&LinkEndpoint) -> Option<T>) -> Option<T> {
        self.0.load().iter().filter(|endpoint| !endpoint.closed.is_cancelled()).find_map(found)
    }
}
