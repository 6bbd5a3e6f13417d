//! Where sessions go: straight to a backend ([`direct`]), over a link that this half dials ([`forward`]), or
//! over one that the other half keeps ready ([`reverse`]). What comes in, and the relay between both, is not
//! here.
//!
//! The files here use each other: all kinds share [`ConnectRequest`], and backends, their groups and their checks
//! name each other.

mod backend_check;
mod backend_choice;
mod backend_connection;
mod backend_entry;
pub mod backend_group;
mod backend_member;
mod backend_state;
mod balance;
pub mod direct;
pub mod forward;
mod idle_connections;
pub mod reverse;
mod web;

use std::{net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use self::{backend_group::BackendGroup, backend_member::BackendUse};
use crate::{
    link::{
        Peer,
        pool::{Pool, ServiceClosed},
        session_side::Upstream,
    },
    net::{dns::DnsResolver, own_ports::OwnPorts},
    profile::ServiceName,
    proto::{Refusal, multiplex::open::ClientOrigin},
    telemetry::{
        end::EndedBy,
        link_cause::LinkCause,
        notices::{NoticeLog, ReportOnce},
        rate_limited::RateLimitedLog,
        registry::SessionCounters,
        snapshot::SessionPhase,
    },
};

/// A kind of connect side.
#[derive(Debug)]
pub enum Connector {
    Direct(Arc<BackendGroup>),
    Forward(Arc<forward::ForwardDialler>),
    Reverse(Arc<Pool>),
}

/// A request to connect one session.
#[derive(Debug)]
pub struct ConnectRequest<'a> {
    pub service: &'a ServiceName,
    /// The peers that may offer the service; `None` means all.
    pub peers: Option<&'a [String]>,
    /// The session's id, the same on both gateways.
    pub id: &'a str,
    pub client: Option<SocketAddr>,
    pub origin: Box<ClientOrigin>,
    pub probe: bool,
    pub counters: &'a Arc<SessionCounters>,
    /// Peers that have refused the session.
    pub refused_by: Vec<Peer>,
    /// Bytes of its client that were sent to them, to be sent again.
    pub resend: Vec<u8>,
    /// Bytes of its client that were never sent.
    pub unsent: Vec<u8>,
    pub log: &'a Arc<RateLimitedLog>,
    /// Cancelled at a stop: what is under way ends, and nothing follows it.
    pub leave: &'a CancellationToken,
    pub notices: &'a Arc<NoticeLog>,
    /// Response fields that were already reported.
    pub reported: &'a Arc<ReportOnce>,
    /// Its use of a backend, held for as long as the session lives.
    pub backend: Option<BackendUse>,
    /// The peer whose link it was last opened on.
    pub tried: Option<Peer>,
}

impl ConnectRequest<'_> {
    /// All bytes that its client has sent so far, for a peer that cannot be sent them again.
    fn take_unsent(&mut self) -> Vec<u8> {
        [std::mem::take(&mut self.resend), std::mem::take(&mut self.unsent)].concat()
    }
}

/// The upstream side of a session: connected, or opened and not answered yet.
#[derive(Debug)]
pub struct ConnectedUpstream {
    pub side: Upstream,
    pub peer: Option<Peer>,
    /// Bytes of the client that have to go before all others.
    pub first: Vec<u8>,
}

/// The error when nothing was connected, and no byte of the client was sent anywhere.
#[derive(Debug)]
pub struct ConnectFailure {
    pub ended_by: EndedBy,
    pub refusal: Refusal,
    pub at: RefusedAt,
    pub reason: String,
}

/// The place where a session was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedAt {
    /// In this gateway, or by the backend that it tried.
    Here,
    /// By the other gateway.
    Peer,
    /// No link was available.
    Link(LinkCause),
}

/// How and where a session was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRefusal {
    pub refusal: Refusal,
    pub at: RefusedAt,
}

impl ConnectFailure {
    pub fn here(ended_by: EndedBy, refusal: Refusal, reason: String) -> Self {
        Self { ended_by, refusal, at: RefusedAt::Here, reason }
    }
}

impl Connector {
    /// Whether sessions take exactly the same path.
    pub fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Direct(one), Self::Direct(other)) => one.is_same_as(other),
            (Self::Forward(one), Self::Forward(other)) => Arc::ptr_eq(one, other),
            (Self::Reverse(one), Self::Reverse(other)) => Arc::ptr_eq(one, other),
            (Self::Direct(_) | Self::Forward(_) | Self::Reverse(_), _) => false,
        }
    }

    /// Starts its use: backends are checked if the profile says so, names are followed, and changes are
    /// reported.
    pub fn watch(&self, notices: &Arc<NoticeLog>, dns: &DnsResolver, own_ports: &OwnPorts) {
        match self {
            Self::Direct(group) => group.watch(notices, dns, own_ports),
            Self::Forward(_) | Self::Reverse(_) => {}
        }
    }

    /// Takes over what an older connector knows about the backends that both have.
    pub fn inherit(&mut self, older: &Self) {
        if let (Self::Direct(group), Self::Direct(older)) = (self, older)
            && let Some(group) = Arc::get_mut(group)
        {
            group.inherit(older);
        }
    }

    /// Why its service can serve nobody, if its backends tell.
    pub fn down_reason(&self) -> Option<String> {
        match self {
            Self::Direct(group) => group.down_reason(),
            Self::Forward(_) | Self::Reverse(_) => None,
        }
    }

    /// The state of a service that no other gateway takes sessions for, if all have said so.
    pub fn service_closed(&self, service: &ServiceName) -> Option<ServiceClosed> {
        match self {
            Self::Direct(_) => None,
            Self::Forward(dialler) => dialler.service_closed(service),
            Self::Reverse(pool) => pool.service_closed(service),
        }
    }

    /// Whether a SOCKS5 peer can refuse a session only after the grant, since BIND has no reply for it.
    pub fn may_refuse_after_grant(&self) -> bool {
        matches!(self, Self::Reverse(_))
    }

    /// Whether there is anybody left to try who has not refused the session.
    pub fn has_other(&self, connect_request: &ConnectRequest<'_>) -> bool {
        match self {
            Self::Direct(_) => false,
            Self::Forward(dialler) => dialler.has_other(connect_request),
            Self::Reverse(pool) => {
                pool.has_other_peer_for(connect_request.service, &connect_request.refused_by)
            }
        }
    }

    pub async fn connect(
        &self,
        connect_request: &mut ConnectRequest<'_>,
    ) -> Result<ConnectedUpstream, ConnectFailure> {
        match self {
            Self::Direct(group) => {
                connect_request.counters.enter(SessionPhase::Connecting);
                let connected = direct::connect(group, connect_request).await?;
                Ok(ConnectedUpstream { first: connect_request.take_unsent(), ..connected })
            }
            Self::Forward(dialler) => dialler.connect(connect_request).await,
            Self::Reverse(pool) => reverse::connect(pool, connect_request).await,
        }
    }
}

/// Everything that a connect request borrows from a session, for tests.
#[cfg(test)]
#[derive(Debug)]
pub struct TestSession {
    service: ServiceName,
    counters: Arc<SessionCounters>,
    log: Arc<RateLimitedLog>,
    leave: CancellationToken,
    notices: Arc<NoticeLog>,
    reported: Arc<ReportOnce>,
}

#[cfg(test)]
impl TestSession {
    pub fn of(service: &str) -> Self {
        Self {
            service: ServiceName::parse(service).expect("a name"),
            counters: Arc::default(),
            log: Arc::default(),
            leave: CancellationToken::new(),
            notices: Arc::default(),
            reported: Arc::default(),
        }
    }

    pub fn connect_request(&self) -> ConnectRequest<'_> {
        ConnectRequest {
            service: &self.service,
            peers: None,
            id: "s-1",
            client: None,
            origin: Box::default(),
            probe: false,
            counters: &self.counters,
            refused_by: Vec::new(),
            resend: Vec::new(),
            unsent: Vec::new(),
            log: &self.log,
            leave: &self.leave,
            notices: &self.notices,
            reported: &self.reported,
            backend: None,
            tried: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt, net::TcpListener};

    use super::*;
    use crate::{
        profile::{Backend, HostPort, ProxyVersion, RemoteServer, ServerAddress},
        tls::edge::EdgeTls,
    };

    fn direct_to(backend: Backend) -> Connector {
        let service = ServiceName::parse("orders").expect("a name");
        Connector::Direct(BackendGroup::new(&service, &backend.into(), &EdgeTls::default()).into())
    }

    fn backend(at: SocketAddr) -> Connector {
        let at = HostPort { host: "127.0.0.1".into(), port: at.port() };
        let backend = Backend::Socket(RemoteServer {
            at: ServerAddress::Network(at),
            tls: None,
            proxy: None,
            source: None,
            ip: None,
        });
        direct_to(backend)
    }

    /// As during a switch: the first connector has refused the session, the next one fails, and the one after
    /// that is sent everything that the client has sent.
    #[tokio::test]
    async fn a_backend_that_does_not_answer_costs_no_byte_of_the_clients() {
        let session = TestSession::of("orders");
        let mut connect_request = ConnectRequest {
            resend: b"only".to_vec(),
            unsent: b" once".to_vec(),
            ..session.connect_request()
        };
        let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = port.local_addr().expect("it is bound");
        let direct = backend(at);
        // Bound but not listening: nobody else gets it, and nobody answers.
        let closed =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        closed.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        let at = closed.local_addr().expect("it is bound").as_socket().expect("of IPv4");
        let refused = backend(at);
        let failure = refused.connect(&mut connect_request).await.expect_err("nobody listens there");
        assert_eq!((failure.refusal, failure.ended_by), (Refusal::BackendRefused, EndedBy::Backend));
        assert_eq!(
            (connect_request.resend.as_slice(), connect_request.unsent.as_slice()),
            (&b"only"[..], &b" once"[..])
        );
        let connected = direct.connect(&mut connect_request).await.expect("it listens");
        assert_eq!(connected.first, b"only once");
        assert!(connect_request.resend.is_empty() && connect_request.unsent.is_empty());
        drop(connected);
        let mut received = Vec::new();
        let mut served = port.accept().await.expect("it has come").0;
        // It sends not one byte by itself: that is up to the relay.
        assert!(matches!(served.read_to_end(&mut received).await, Ok(0) | Err(_)));
    }

    /// For the backend, a probe is a connection of the gateway's own.
    #[tokio::test]
    async fn a_probe_is_no_clients_to_a_backend_that_asks_who_it_is() {
        let session = TestSession::of("orders");
        for (version, header) in [
            (ProxyVersion::V1, &b"PROXY UNKNOWN\r\n"[..]),
            (ProxyVersion::V2, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        ] {
            let port = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let at = port.local_addr().expect("it is bound");
            let client = Some(([127, 0, 0, 1], 50_000).into());
            let mut connect_request = ConnectRequest { client, probe: true, ..session.connect_request() };
            let at = HostPort { host: "127.0.0.1".into(), port: at.port() };
            let at = ServerAddress::Network(at);
            let proxy = Some(version);
            let backend = Backend::Socket(RemoteServer { at, tls: None, proxy, source: None, ip: None });
            let connected = direct_to(backend).connect(&mut connect_request).await.expect("it listens");
            let mut served = port.accept().await.expect("it has come").0;
            let mut received = vec![0; header.len()];
            served.read_exact(&mut received).await.expect("a header");
            assert_eq!(received, header);
            drop(connected);
        }
    }
}
