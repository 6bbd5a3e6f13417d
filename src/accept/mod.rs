//! Where sessions come from: a TCP port for clients ([`tcp`]), their requests ([`web`]), links that the DMZ
//! gateway dials ([`forward`]), or links that are kept ready there ([`reverse`]).
//!
//! Each kind produces a [`SessionRequest`] and hands it to the function it was given; what happens then is up to
//! the gateway.

mod access;
pub mod forward;
pub mod idle;
mod refused_client;
mod request_auth;
mod request_routing;
pub mod reverse;
pub mod routes;
mod served_links;
pub mod tcp;
mod teardown;
mod upgrade;
mod upstream_session;
pub mod web;

use std::{io, net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{sync::oneshot, time::Instant};

use self::idle::IdleState;
use crate::{
    admission::arrivals::ClientArrival,
    admission::clients::ClientAdmission,
    link::{
        Peer, handshake, link_guard::LinkGuard, multiplex::handle::IncomingSession, session_side::SessionSide,
    },
    profile::{Half, ServiceName},
    proto::{
        Refusal,
        multiplex::open::{ClientOrigin, OpenRequest},
        socks5,
    },
    telemetry::end::SessionEnd,
};

/// A session that is to be served.
#[derive(Debug)]
pub struct SessionRequest {
    pub half: Half,
    pub downstream: SessionSide,
    pub service: ServiceName,
    /// The id that the other gateway has given it.
    pub id: Option<String>,
    /// The client's address where it is known; SOCKS5 CONNECT can not carry it.
    pub client: Option<SocketAddr>,
    pub origin: Box<ClientOrigin>,
    /// The gateway it came through, if any.
    pub peer: Option<Peer>,
    pub reply: SessionReply,
    /// What the client has said already.
    pub prefix: Vec<u8>,
    /// The place of a SOCKS5 link, held for as long as the session lives.
    pub link_guard: Option<LinkGuard>,
    /// No client but a check of the way.
    pub probe: bool,
    /// Gets the outcome, where somebody waits for it.
    pub outcome_sender: Option<oneshot::Sender<SessionOutcome>>,
    /// Its idle state, where it can become idle.
    pub idle_state: Option<Arc<IdleState>>,
    /// Whether its client gets in, where that is known.
    pub admission: ClientAdmission,
    /// When it ends, whatever goes on: what says who its client is holds no longer.
    pub expires: Option<Instant>,
    /// Of a client that a port has let in, until the session is in the books.
    pub arrival: Option<ClientArrival>,
}

/// How a session ended.
#[derive(Debug)]
pub struct SessionOutcome {
    pub end: SessionEnd,
    /// Why it was never connected.
    pub refusal: Option<Refusal>,
}

impl SessionRequest {
    /// A session that was opened on a link of our own.
    pub fn from_open(peer: &Peer, open: OpenRequest, session: IncomingSession) -> Self {
        Self {
            half: Half::Internal,
            peer: Some(peer.clone()),
            downstream: SessionSide::Incoming(Box::new(session)),
            service: open.service,
            id: Some(open.id),
            client: open.client,
            origin: Box::new(open.origin),
            reply: SessionReply::Framed,
            prefix: Vec::new(),
            link_guard: None,
            probe: open.is_probe,
            outcome_sender: None,
            idle_state: None,
            admission: ClientAdmission::default(),
            expires: None,
            arrival: None,
        }
    }
}

/// The reply that whoever asked for a session is waiting for; given once.
#[derive(Debug)]
#[must_use]
pub enum SessionReply {
    /// Nothing to say: a refusal is a reset.
    Silent,
    /// The reply to CONNECT.
    Socks,
    /// `opened` or `refused`.
    Framed,
}

impl SessionReply {
    /// From here on the leg carries the session's bytes. `opened` goes out with the first of them,
    /// or when the relay has none to send.
    pub async fn grant(self, side: &mut SessionSide) -> io::Result<()> {
        match (self, side) {
            (Self::Socks, SessionSide::Stream(stream)) => {
                socks5::send_reply(stream, socks5_proto::Reply::Succeeded).await.map_err(io::Error::other)
            }
            (Self::Silent | Self::Socks | Self::Framed, _) => Ok(()),
        }
    }

    pub async fn refuse(self, side: SessionSide, refusal: Refusal) {
        match (self, side) {
            (Self::Socks, SessionSide::Stream(stream)) => handshake::refuse(stream, refusal).await,
            (Self::Framed, SessionSide::Incoming(session)) => session.refuse(refusal).await,
            // Dropped with linger 0 armed, the socket is reset.
            (Self::Silent | Self::Socks | Self::Framed, side) => drop(side),
        }
    }
}

/// Serves one session from here to its end.
pub type ServeSession = Arc<dyn Fn(SessionRequest) -> BoxFuture<'static, ()> + Send + Sync>;
