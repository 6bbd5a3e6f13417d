//! Where links come in by a port whose clients begin with a request: by those that ask for a WebSocket at one path. The
//! port may be for links alone, or for services as well, whose requests go by host and path.
//!
//! What a request is, and when a connection has become a WebSocket, is known where clients are accepted.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use super::{carrier::OuterTlsCell, listener::LinkReception};
use crate::{
    admission::handshakes::HandshakeLimiter,
    net::{
        framed::{FramedEnd, FramedSocket},
        prefixed::PrefixedStream,
        read_ahead::BelowTls,
    },
    profile::{EdgeScheme, LinkCarrier, LinkWebSocket, OuterTls},
    tls::edge::TlsServer,
};

/// One path of a port that leads to a half's links.
#[derive(Debug, Clone)]
pub struct LinkEndpoint {
    pub path: Arc<str>,
    pub reception: LinkReception,
    /// What the profile says of the TLS around the links' WebSockets, and that TLS; a reload replaces both.
    pub carrier: Arc<ArcSwap<LinkCarrier>>,
    pub outer: OuterTlsCell,
    /// Nobody comes in any more.
    pub closed: CancellationToken,
}

impl LinkEndpoint {
    /// A connection has become the WebSocket of a link.
    pub fn receive(&self, upgraded: PrefixedStream, from: SocketAddr) {
        let framed = FramedSocket::new(upgraded, FramedEnd::Accepted);
        self.reception.receive(BelowTls::Framed(Box::new(framed)), from);
    }

    /// How TLS ends here, where links have a certificate of their own to show.
    fn outer_server(&self) -> Option<TlsServer> {
        match &**self.carrier.load() {
            LinkCarrier::WebSocket(LinkWebSocket { outer: OuterTls::Shown(tls), .. }) => {
                self.outer.load().accept_server(tls, EdgeScheme::Wss)
            }
            LinkCarrier::WebSocket(_) | LinkCarrier::Tcp => None,
        }
    }
}

/// The endpoints of one port: one, or during a switch perhaps that of before and the new one.
#[derive(Debug, Default)]
pub struct LinkEndpoints(ArcSwap<Vec<LinkEndpoint>>);

impl LinkEndpoints {
    /// Opens one more, which comes before others of its path.
    pub fn open(&self, endpoint: LinkEndpoint) {
        self.keep_open_behind(Some(endpoint));
    }

    /// Lets go of those that nobody comes in by any more.
    pub fn forget_closed(&self) {
        self.keep_open_behind(None);
    }

    fn keep_open_behind(&self, first: Option<LinkEndpoint>) {
        let others = self.0.load();
        let open = others.iter().filter(|other| !other.closed.is_cancelled()).cloned();
        self.0.store(Arc::new(first.into_iter().chain(open).collect()));
    }

    /// The one that a request means, whatever its host.
    pub fn find(&self, path: &str) -> Option<LinkEndpoint> {
        self.first(|endpoint| (&*endpoint.path == path).then(|| endpoint.clone()))
    }

    /// How TLS ends here for those who ask for a name that means no service.
    pub fn outer_server(&self) -> Option<TlsServer> {
        self.first(LinkEndpoint::outer_server)
    }

    /// The bound on links that are greeted.
    pub fn handshakes(&self) -> Option<Arc<HandshakeLimiter>> {
        self.first(|endpoint| Some(endpoint.reception.handshakes().clone()))
    }

    fn first<T>(&self, found: impl FnMut(&LinkEndpoint) -> Option<T>) -> Option<T> {
        self.0.load().iter().filter(|endpoint| !endpoint.closed.is_cancelled()).find_map(found)
    }
}
