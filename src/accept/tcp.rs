//! Clients on a TCP port. Each connection gets a permit, a task of its own, and its service by [`super::routes`].
//! Requests are read in [`super::web`], and what carries a session is not here.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{
    ServeSession, SessionRequest,
    expected_probes::{ExpectedProbe, ExpectedProbes},
    routes::{self, AdmittedClient, PortRoutes, RouteError, RouteTable, RoutedClient},
    web,
};
use crate::{
    admission::{
        arrivals::{ClientArrival, ClientArrivals},
        clients::{ClientAdmission, ClientGates},
        handshakes::{HandshakeLimiter, HandshakePermit},
        quota::{DescriptorQuota, QuotaPermit},
    },
    auth::ClientLogins,
    link::{endpoint::LinkEndpoints, session_side::Downstream},
    net::{
        listen::{ListenEvent, Listener},
        own_ports::OwnPorts,
        stream::NetStream,
    },
    profile::Half,
    tasks::Tasks,
    telemetry::{
        log::AccessLog, log::LogEvent, notices::NoticeLog, rate_limited::RateLimitedLog,
        requests::RequestCounters,
    },
};

/// State shared by the client ports.
#[derive(Clone)]
pub struct ClientPortContext {
    pub serve: ServeSession,
    pub tasks: Tasks,
    pub notices: Arc<NoticeLog>,
    /// Probes of our own, which come in like clients.
    pub probes: Arc<ExpectedProbes>,
    /// Recognises dials of our own, which are no clients.
    pub own_ports: OwnPorts,
    /// Which clients of each service may come in.
    pub gates: Arc<ClientGates>,
    /// And who they are, if requests say so.
    pub logins: Arc<ClientLogins>,
    /// Limits clients of all ports.
    pub quota: Arc<DescriptorQuota>,
    /// Limits the clients among them that have not said yet what they want.
    pub handshakes: Arc<HandshakeLimiter>,
    /// Clients that have no session yet.
    pub arrivals: Arc<ClientArrivals>,
    pub requests: Arc<RequestCounters>,
    pub access: Arc<AccessLog>,
    /// Set while the gateway drains.
    pub leaving: Arc<AtomicBool>,
}

/// Accepts clients until the port is closed. The routes may change while it runs.
pub async fn run(
    listener: Arc<Listener>,
    port_routes: Arc<ArcSwap<PortRoutes>>,
    endpoints: Arc<LinkEndpoints>,
    shared: ClientPortContext,
) {
    let ClientPortContext { serve, tasks, notices, probes, quota, .. } = shared.clone();
    let unbounded = DescriptorQuota::new(usize::MAX);
    // On a port that is only for links, no client takes their permits.
    let is_for_links = || !port_routes.load().has_services();
    let leave = CancellationToken::new();
    let _closed = leave.clone().drop_guard();
    let _accepting = shared.arrivals.begin();
    let accepted = |stream, client: SocketAddr, quota_permit: QuotaPermit| {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        if shared.own_ports.is_own_dial(client) {
            return;
        }
        if let Some(probe) = probes.lookup(client) {
            let probing = serve_probe(stream, client, probe, port_routes.load_full(), serve.clone());
            return tasks.spawn("probe", serve_within_quota(quota_permit, probing));
        }
        let arrival = shared.arrivals.begin();
        match &**port_routes.load() {
            PortRoutes { proxy: None, table: RouteTable::One(service) } => {
                let (service, origin) = (service.clone(), routes::origin_with_destination(&stream));
                let stream = NetStream::Tcp(stream);
                let admission = ClientAdmission::from(shared.gates.enter(&service, client.ip()));
                let is_refused = matches!(admission, ClientAdmission::Refused(_));
                let entered =
                    AdmittedClient { client, service, stream, prefix: Vec::new(), origin, admission };
                let requested = SessionRequest { arrival: Some(arrival), ..session_request(entered) };
                let serving = serve_within_quota(quota_permit, serve(requested));
                match is_refused {
                    true => tasks.run_or_spawn("refusal", serving),
                    false => tasks.spawn("session", serving),
                }
            }
            PortRoutes { proxy: Some(_), .. }
            | PortRoutes { table: RouteTable::Named(_) | RouteTable::Http(_), .. } => {
                let lifetime = RouteLifetime {
                    leave: leave.clone(),
                    entered_by: port_routes.load_full(),
                    current: port_routes.clone(),
                    endpoints: endpoints.clone(),
                    log: notices.limited().clone(),
                    gates: shared.gates.clone(),
                    logins: shared.logins.clone(),
                    requests: shared.requests.clone(),
                    access: shared.access.clone(),
                    leaving: shared.leaving.clone(),
                };
                let of_links = is_for_links().then(|| endpoints.handshakes()).flatten();
                let handshakes = of_links.unwrap_or_else(|| shared.handshakes.clone());
                let handshake = HandshakePermit::begin(handshakes, client.ip());
                tasks.spawn(
                    "session",
                    serve_within_quota(
                        quota_permit,
                        serve_client(stream, client, serve.clone(), lifetime, (handshake, arrival)),
                    ),
                );
            }
        }
    };
    let on_event = |event: ListenEvent<'_>| report_port(&notices, &event);
    let quota = || if is_for_links() { unbounded.clone() } else { quota.clone() };
    listener.accept_within(quota, accepted, on_event).await;
}

/// Reports the state of a client port.
fn report_port(notices: &NoticeLog, event: &ListenEvent<'_>) {
    match event {
        ListenEvent::Pauses(error) => {
            let line = format!("client port: accept: {error}; accepting pauses until descriptors are free");
            notices.error(LogEvent::PortPaused.line(line));
        }
        ListenEvent::Waits { at, why } => {
            let line = format!("client port {at}: {why}; it is tried again every second");
            notices.warn(LogEvent::PortWaits.line(line));
        }
        ListenEvent::Listens(at) => {
            notices.info(LogEvent::PortListens.line(format!("client port {at} listens now")));
        }
    }
}

/// Serves a client while holding its descriptor permit.
fn serve_within_quota(
    quota_permit: QuotaPermit,
    serving: impl Future<Output = ()>,
) -> impl Future<Output = ()> {
    serving.map(move |()| drop(quota_permit))
}

/// Serves a probe. If it fails before it has a session, it learns that from its TLS.
pub async fn serve_probe(
    stream: TcpStream,
    client: SocketAddr,
    probe: ExpectedProbe,
    port_routes: Arc<PortRoutes>,
    serve: ServeSession,
) {
    let ExpectedProbe { service, by_tls } = probe;
    let entered = match by_tls {
        false => {
            let (stream, prefix) = (NetStream::Tcp(stream), Vec::new());
            let (origin, admission) = (Box::default(), ClientAdmission::Unchecked);
            Ok(AdmittedClient { client, service, stream, prefix, origin, admission })
        }
        true => Box::pin(routes::route_probe(stream, client, service, &port_routes)).await,
    };
    match entered {
        Ok(entered) => serve(session_request(entered)).await,
        Err(error) => {
            tracing::debug!(event = %LogEvent::ProbeRejected, %client, "probe rejected: {error}")
        }
    }
}

/// Serves a client that has come in at one of the routes.
async fn serve_client(
    stream: TcpStream,
    client: SocketAddr,
    serve: ServeSession,
    lifetime: RouteLifetime,
    (handshake, arrival): (HandshakePermit, ClientArrival),
) {
    // Boxed, so that an open session holds no memory for how it came in.
    let entered =
        routes::route_client(stream, client, &lifetime.entered_by, &lifetime.endpoints, &lifetime.gates);
    let entered = Box::pin(handshake.evicted.run_until_cancelled(entered)).await;
    let entered = entered.unwrap_or_else(|| Err(RouteError::Evicted));
    let session = match entered {
        Ok(RoutedClient::Session(entered)) => {
            drop((lifetime, handshake));
            Some(SessionRequest { arrival: Some(arrival), ..session_request(entered) })
        }
        Ok(RoutedClient::Web(arrived)) => {
            Box::pin(web::serve(arrived, serve.clone(), lifetime, (handshake, arrival))).await
        }
        Err(error) => {
            lifetime.log.reject_client(client, &error.to_string());
            None
        }
    };
    if let Some(session) = session {
        serve(session).await;
    }
}

/// How long the routes apply under which a client's connection was accepted.
pub struct RouteLifetime {
    /// Cancelled when the port is closed.
    pub leave: CancellationToken,
    current: Arc<ArcSwap<PortRoutes>>,
    entered_by: Arc<PortRoutes>,
    /// The endpoints for links on this port.
    pub endpoints: Arc<LinkEndpoints>,
    pub log: Arc<RateLimitedLog>,
    pub gates: Arc<ClientGates>,
    pub logins: Arc<ClientLogins>,
    pub requests: Arc<RequestCounters>,
    pub access: Arc<AccessLog>,
    leaving: Arc<AtomicBool>,
}

impl RouteLifetime {
    /// Whether the port is closed or has other routes now, or the gateway drains.
    pub fn is_over(&self) -> bool {
        self.leave.is_cancelled()
            || self.leaving.load(Ordering::Relaxed)
            || !Arc::ptr_eq(&self.current.load(), &self.entered_by)
    }
}

pub(super) fn session_request(entered: AdmittedClient) -> SessionRequest {
    let AdmittedClient { client, service, stream, prefix, origin, admission } = entered;
    SessionRequest {
        half: Half::Dmz,
        downstream: Downstream::Client(stream),
        service,
        id: None,
        client: Some(client),
        origin,
        peer: None,
        prefix,
        probe: false,
        outcome_sender: None,
        idle_state: None,
        admission,
        expires: None,
        arrival: None,
    }
}
