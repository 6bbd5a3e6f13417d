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

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{sync::oneshot, time::Instant};

use self::idle::IdleState;
use crate::{
    admission::arrivals::ClientArrival,
    admission::clients::ClientAdmission,
    link::{Peer, multiplex::handle::IncomingSession, session_side::Downstream},
    profile::{Half, ServiceName},
    proto::{
        Refusal,
        multiplex::open::{ClientOrigin, OpenRequest},
    },
    telemetry::end::SessionEnd,
};

/// A session that is to be served.
#[derive(Debug)]
pub struct SessionRequest {
    pub half: Half,
    pub downstream: Downstream,
    pub service: ServiceName,
    /// The id that the other gateway has given it.
    pub id: Option<String>,
    /// The client's address where it is known; SOCKS5 CONNECT can not carry it.
    pub client: Option<SocketAddr>,
    pub origin: Box<ClientOrigin>,
    /// The gateway it came through, if any.
    pub peer: Option<Peer>,
    /// What the client has said already.
    pub prefix: Vec<u8>,
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
            downstream: Downstream::Opened(Box::new(session)),
            service: open.service,
            id: Some(open.id),
            client: open.client,
            origin: Box::new(open.origin),
            prefix: Vec::new(),
            probe: open.is_probe,
            outcome_sender: None,
            idle_state: None,
            admission: ClientAdmission::default(),
            expires: None,
            arrival: None,
        }
    }
}

/// Serves one session from here to its end.
pub type ServeSession = Arc<dyn Fn(SessionRequest) -> BoxFuture<'static, ()> + Send + Sync>;
