//! Where sessions come from: a TCP port for clients ([`tcp`]), their requests ([`web`]), links that the DMZ
//! gateway dials ([`forward`]), or links that are kept ready there ([`reverse`]).
//!
//! Each kind produces a [`SessionRequest`] and has it served by [`ServeSession`]; what happens then is up to the
//! gateway.
//!
//! The files here use each other: a client connection is made of the steps of a request, and these share its types.

pub mod expected_probes;
pub mod forward;
pub mod idle_permit;
mod refused_client;
mod request_auth;
mod request_routing;
mod request_trail;
pub mod reverse;
pub mod routes;
mod served_links;
mod socks_session;
pub mod tcp;
mod teardown;
mod upgrade;
mod upstream_session;
pub mod web;

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::{sync::oneshot, time::Instant};

use self::idle_permit::IdleState;
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

/// A session to be served.
#[derive(Debug)]
pub struct SessionRequest {
    pub half: Half,
    pub downstream: Downstream,
    pub service: ServiceName,
    /// The id that the other gateway has given it.
    pub id: Option<String>,
    /// The client's address, if it is known; SOCKS5's CONNECT cannot carry it.
    pub client: Option<SocketAddr>,
    pub origin: Box<ClientOrigin>,
    /// The gateway it came through, if any.
    pub peer: Option<Peer>,
    /// Bytes that the client has already sent.
    pub prefix: Vec<u8>,
    /// Whether it is a probe instead of a client.
    pub probe: bool,
    /// Receives the outcome, if somebody waits for it.
    pub outcome_sender: Option<oneshot::Sender<SessionOutcome>>,
    /// Its idle state, if it can become idle.
    pub idle_state: Option<Arc<IdleState>>,
    /// Whether its client may come in, if that is known.
    pub admission: ClientAdmission,
    /// When it must end in any case, because what proves its client's identity expires.
    pub expires: Option<Instant>,
    /// For a client that a port has accepted, until the session is in the registry.
    pub arrival: Option<ClientArrival>,
}

/// How a session ended.
#[derive(Debug)]
pub struct SessionOutcome {
    pub end: SessionEnd,
    /// Why it was never connected, if so.
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

/// Serves one session from here to its end: the gateway's part, which no kind of accept knows.
///
/// A function whose future the caller runs, and no queue of requests. A client's permit, a connection's requests and a
/// probe's deadline all last as long as this future, and dropping it ends the session with them. Behind a queue each of
/// those would need a task, a way back, and a rule for a queue that is full.
pub type ServeSession = Arc<dyn Fn(SessionRequest) -> BoxFuture<'static, ()> + Send + Sync>;
