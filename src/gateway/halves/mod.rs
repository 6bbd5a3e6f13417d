//! The running parts of each half in one mode: what listens, dials and keeps links.
//!
//! A half is prepared (its ports are bound), started, asked whether it is ready, and later retired. `switch`
//! decides when; a half does not know which one runs before or after it.

mod dmz;
mod internal;

use std::{
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

pub use self::{dmz::DmzSide, internal::InternalSide};
use super::{descriptors::DescriptorShares, session::SessionContext};
use crate::{
    accept::{ServeSession, routes::BorrowedRoutes},
    admission::{arrivals::ClientArrivals, handshakes::HandshakeLimiter, quota::DescriptorQuota},
    link::{
        carrier::OuterTlsCell,
        endpoint::{LinkEndpoint, LinkEndpoints},
        handshake::HandshakeTerms,
        listener::{self, HandshakeContext, LinkReception},
    },
    net::{
        dns::DnsResolver,
        listen::{self, BindError, Listener, ListenerAddresses, ListenerGuard},
        own_ports::OwnPorts,
        resolved_names::ResolvedNames,
    },
    profile::{BindPolicy, LinkAddress, LinkCarrier, RetryPolicy},
    tasks::Tasks,
    telemetry::{
        audit::AuditTrail, log::AccessLog, notices::NoticeLog, requests::RequestCounters, snapshot::PoolRow,
    },
    tls::{edge::EdgeTls, link::LinkIdentity},
};

/// How often a lost gateway is retried, unless the profile has a `retry`.
const RETRY: RetryPolicy = RetryPolicy { first: Duration::from_millis(500), maximum: Duration::from_secs(2) };
/// During a switch, a lost gateway is redialled at least this often.
const SWITCH_RETRY: RetryPolicy =
    RetryPolicy { first: Duration::from_millis(250), maximum: Duration::from_millis(500) };

/// How many link handshakes of one address may run at once at an endpoint: anybody may send requests to such a
/// port.
const ENDPOINT_HANDSHAKES_EACH: usize = 64;

/// State that the halves share with the rest of the engine.
#[derive(Clone)]
pub struct SharedContext {
    pub sessions: Arc<SessionContext>,
    pub serve: ServeSession,
    pub tasks: Tasks,
    pub notices: Arc<NoticeLog>,
    /// How many descriptors each use may have, under the current profile.
    pub shares: Arc<ArcSwap<DescriptorShares>>,
    /// Clients of all ports, those of them that are still in their handshake, and those without a session.
    pub clients: Arc<DescriptorQuota>,
    pub handshakes: Arc<HandshakeLimiter>,
    pub arrivals: Arc<ClientArrivals>,
    pub requests: Arc<RequestCounters>,
    pub access: Arc<AccessLog>,
    pub audit: Arc<AuditTrail>,
    /// Set while the gateway drains, so that clients that keep sending requests are sent elsewhere.
    pub leaving: Arc<AtomicBool>,
    /// Queries the name servers of the profile.
    pub dns: DnsResolver,
    /// Where clients of each service come in.
    pub own_ports: OwnPorts,
}

/// The TLS identity of a half's links, `None` without TLS; a reload replaces it.
type IdentityCell = Arc<ArcSwap<Option<LinkIdentity>>>;

/// The port or endpoint where links come in to a half.
#[derive(Debug)]
enum LinkIngress {
    /// A port of their own, which listens or waits until it can.
    Port {
        address: LinkAddress,
        /// Until it is started.
        listener: Option<Arc<Listener>>,
        closer: ListenerGuard,
    },
    /// A port whose clients begin with a request; services may use it as well.
    Endpoint(Box<EndpointIngress>),
}

/// The links' part of such a port.
#[derive(Debug)]
pub struct EndpointIngress {
    pub address: LinkAddress,
    closed: CancellationToken,
    /// Set once it is started.
    endpoint: Option<LinkEndpoint>,
    /// Set once it is open in its port.
    location: OnceLock<OpenEndpoint>,
}

#[derive(Debug)]
struct OpenEndpoint {
    at: ListenerAddresses,
    /// Routes that the port has for links alone, until it has routes for services as well.
    _borrowed: Option<BorrowedRoutes>,
}

impl LinkIngress {
    /// Binds a port; an endpoint waits for its port.
    fn prepare(address: &LinkAddress, bind: BindPolicy, found: &ResolvedNames) -> Result<Self, BindError> {
        let address = address.clone();
        if address.web_socket().is_some() {
            let (closed, location) = (CancellationToken::new(), OnceLock::new());
            return Ok(Self::Endpoint(Box::new(EndpointIngress {
                address,
                closed,
                endpoint: None,
                location,
            })));
        }
        let listener = listen::bind(&address.at, found.addresses(&address.at), bind)?;
        Ok(Self::Port { address, closer: listener.closer(), listener: Some(listener) })
    }

    /// Whether it can keep running under another address.
    fn fits(&self, listen: &LinkAddress) -> bool {
        self.address().is_same_port(listen)
    }

    /// Accepts links; at an endpoint, as soon as its port is open.
    fn start(&mut self, reception: LinkReception, security: &LinkSecurity, tasks: &Tasks) {
        match self {
            Self::Port { listener, .. } => {
                if let Some(listener) = listener.take() {
                    tasks.spawn("link port", listener::run(listener, reception));
                }
            }
            Self::Endpoint(to) => {
                let EndpointIngress { address, closed, endpoint, .. } = &mut **to;
                let path = address.web_socket().map_or("/", |socket| &socket.path).into();
                let (carrier, outer) = (security.carrier.clone(), security.outer.clone());
                *endpoint = Some(LinkEndpoint { path, reception, carrier, outer, closed: closed.clone() });
            }
        }
    }

    fn endpoint(&self) -> Option<&EndpointIngress> {
        match self {
            Self::Port { .. } => None,
            Self::Endpoint(endpoint) => Some(endpoint),
        }
    }

    /// Accepts no more links.
    fn close(&self) {
        match self {
            Self::Port { closer, .. } => closer.close(),
            Self::Endpoint(endpoint) => endpoint.closed.cancel(),
        }
    }

    fn address(&self) -> &LinkAddress {
        match self {
            Self::Port { address, .. } => address,
            Self::Endpoint(endpoint) => &endpoint.address,
        }
    }

    /// Where it listens, with the real port.
    fn listening(&self) -> Vec<String> {
        let addresses = match self {
            Self::Port { closer, .. } => Some(&**closer),
            Self::Endpoint(endpoint) => {
                endpoint.location.get().filter(|_| !endpoint.closed.is_cancelled()).map(|open| &open.at)
            }
        };
        let real = |at| LinkAddress { at, ..self.address().clone() }.to_string();
        addresses.map(ListenerAddresses::describe).unwrap_or_default().into_iter().map(real).collect()
    }

    /// Where it listens, in words.
    fn describe(&self) -> String {
        match &self.listening()[..] {
            [] => format!("{}, which is not there yet", self.address()),
            bound => bound.join(" and "),
        }
    }
}

impl EndpointIngress {
    /// Opens the endpoint in its port.
    pub fn open_in(
        &self,
        endpoints: &LinkEndpoints,
        at: ListenerAddresses,
        borrowed: Option<BorrowedRoutes>,
    ) {
        if let Some(endpoint) = &self.endpoint
            && self.location.set(OpenEndpoint { at, _borrowed: borrowed }).is_ok()
        {
            endpoints.open(endpoint.clone());
        }
    }
}

/// The result of asking a half to keep a number of links ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeOutcome {
    Done,
    /// It dials none.
    DialsNone,
    /// Zero links would serve nobody.
    None,
    /// This many links would exceed a `maximum`, this half's or the other half's.
    Beyond {
        links: usize,
        maximum: usize,
    },
}

/// Whether links made with one identity are as good as links made with the other.
fn same_identity(one: &Option<LinkIdentity>, other: &Option<LinkIdentity>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_same_as(other),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// An identity that keeps track of the links of the previous half.
fn succeed_identity(identity: Option<LinkIdentity>, before: Option<&IdentityCell>) -> IdentityCell {
    let before = before.map(|cell| cell.load_full());
    let before = before.as_deref().and_then(Option::as_ref);
    Arc::new(ArcSwap::from_pointee(identity.map(|identity| identity.succeeding(before))))
}

/// Applies an identity to links that are made from now on. Returns whether existing links are as good.
fn replace_identity(cell: &IdentityCell, identity: Option<LinkIdentity>) -> bool {
    let before = cell.load_full();
    let identity = identity.map(|identity| identity.succeeding(before.as_ref().as_ref()));
    let is_unchanged = same_identity(&before, &identity);
    cell.store(Arc::new(identity));
    is_unchanged
}

/// How the links of a half are secured.
#[derive(Clone)]
pub struct LinkSecurity {
    identity: IdentityCell,
    outer: OuterTlsCell,
    /// The carrier of the port that links come in at.
    carrier: Arc<ArcSwap<LinkCarrier>>,
}

impl LinkSecurity {
    fn new(identity: IdentityCell, outer: &EdgeTls, listen: Option<&LinkAddress>) -> Self {
        let carrier = listen.map_or(LinkCarrier::Tcp, |listen| listen.carrier.clone());
        Self {
            identity,
            outer: Arc::new(ArcSwap::from_pointee(outer.clone())),
            carrier: Arc::new(ArcSwap::from_pointee(carrier)),
        }
    }

    /// Applies another profile's settings to the same port.
    fn follow_listener(&self, listen: Option<&LinkAddress>) {
        if let Some(listen) = listen {
            self.carrier.store(Arc::new(listen.carrier.clone()));
        }
    }

    fn set_outer(&self, outer: &EdgeTls) {
        self.outer.store(Arc::new(outer.clone()));
    }
}

/// Limits how many of the links that come in may still be in their handshake.
fn handshake_limiter(ingress: &LinkIngress, handshakes: usize) -> Arc<HandshakeLimiter> {
    let of_one_address = match ingress {
        LinkIngress::Port { .. } => usize::MAX,
        LinkIngress::Endpoint(_) => ENDPOINT_HANDSHAKES_EACH,
    };
    Arc::new(HandshakeLimiter::with_each(handshakes, of_one_address))
}

fn handshake_context(
    security: &LinkSecurity,
    terms: HandshakeTerms,
    handshakes: &Arc<HandshakeLimiter>,
    common: &SharedContext,
) -> HandshakeContext {
    HandshakeContext {
        identity: security.identity.clone(),
        terms,
        handshakes: handshakes.clone(),
        tasks: common.tasks.clone(),
        notices: common.notices.clone(),
        versions: Arc::default(),
    }
}

/// The first row that is not healthy, in words.
fn down_reason(rows: &[PoolRow]) -> String {
    use crate::telemetry::snapshot::PoolState;
    let Some(row) = rows.iter().find(|row| row.state != PoolState::Healthy && !row.standby) else {
        return "not ready yet".into();
    };
    let address = row.address.as_deref().unwrap_or("the other gateway");
    let why = row.last_error.as_deref().unwrap_or("no answer yet");
    format!("link to {address}: {why}")
}
