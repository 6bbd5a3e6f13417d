//! Decides whether a session may be served, and holds its permits meanwhile.
//!
//! [`SessionPermits`] can be made only here, and nothing is relayed without them.

use std::{net::SocketAddr, sync::Arc};

use super::{
    service::{Service, ServiceSettings, SessionPermit},
    session::SessionContext,
};
#[cfg(test)]
use {
    crate::connect::{Connector, backend_group::BackendGroup},
    crate::profile::{Backend, ServiceName},
    crate::tls::edge::EdgeTls,
    tokio_util::sync::CancellationToken,
};

use crate::{
    accept::{SessionRequest, idle_permit::IdleState},
    admission::{
        clients::{ClientAdmission, ClientPermit, ClientRefusal, LoginRefusal},
        usage_table::{LimitReached, UsagePermit},
    },
    connect::ConnectFailure,
    link::{
        Peer,
        multiplex::handle::HeldPermits,
        shares::{GatewayShares, SharePermit},
    },
    profile::{Half, SessionLimits},
    proto::Refusal,
    telemetry::{
        end::EndedBy,
        format,
        registry::SessionCounters,
        snapshot::{ServicePhase, SessionPhase},
    },
};

/// The permits that a session holds until it ends. The relay does not run without them, and no link carries a session
/// of the other gateway without them ([`IncomingSession`](crate::link::multiplex::handle::IncomingSession)):
///
/// ```
/// use portcullis::{
///     gateway::{relay::*, session_permits::SessionPermits},
///     net::stream::NetStream,
///     telemetry::registry::SessionCounters,
/// };
///
/// async fn carry(permits: &SessionPermits, client: &mut NetStream, backend: &mut NetStream) -> RelayOutcome {
///     relay(permits, client, backend, Vec::new(), None, &SessionCounters::default(), None).await
/// }
/// ```
///
/// Without it there is no relay:
///
/// ```compile_fail,E0061
/// use portcullis::{gateway::relay::*, net::stream::NetStream, telemetry::registry::SessionCounters};
///
/// async fn carry(client: &mut NetStream, backend: &mut NetStream) -> RelayOutcome {
///     relay(client, backend, Vec::new(), None, &SessionCounters::default(), None).await
/// }
/// ```
///
/// Nobody makes one without asking, and each belongs to its own session:
///
/// ```compile_fail,E0599
/// use portcullis::gateway::session_permits::SessionPermits;
///
/// let permits = SessionPermits::default();
/// ```
///
/// ```compile_fail,E0277
/// use portcullis::gateway::session_permits::SessionPermits;
///
/// fn is_shared<T: Clone>() {}
/// is_shared::<SessionPermits>();
/// ```
#[derive(Debug)]
pub struct SessionPermits {
    _client: ClientPermit,
    _peer: Option<Box<UsagePermit<Arc<str>>>>,
    _service: SessionPermit,
    _backend: Option<Box<SharePermit>>,
}

impl HeldPermits for SessionPermits {}

#[cfg(test)]
impl SessionPermits {
    /// The permits of the only session of a service.
    pub(crate) fn of_test() -> Self {
        let name = ServiceName::parse("test").expect("a name");
        let group = BackendGroup::new(&name, &Backend::Echo.into(), &EdgeTls::default());
        let settings = ServiceSettings { sessions: 1, ..ServiceSettings::default() };
        let connector = Connector::Direct(Arc::new(group));
        let service = Service::new(name, settings, connector, CancellationToken::new());
        let permit = service.admit(None).expect("its first session");
        Self { _client: ClientPermit::default(), _peer: None, _service: permit, _backend: None }
    }
}

/// Decides whether a session may be served.
pub(super) fn admit_session(
    request: &mut SessionRequest,
    service: &Arc<Service>,
    settings: &ServiceSettings,
    sessions: &SessionContext,
    counters: &SessionCounters,
) -> Result<SessionPermits, ConnectFailure> {
    let half = request.half;
    let from = request.peer.as_ref().map(Peer::label);
    if half == Half::Internal && sessions.lockdown.locks_session(from.as_deref(), &service.name) {
        return Err(ConnectFailure::here(EndedBy::Operator, Refusal::Unavailable, "it is locked".into()));
    }
    let (admission, client) =
        (std::mem::take(&mut request.admission), request.client.filter(|_| !request.probe));
    let client = check_client(admission, half, client, service, sessions).map_err(client_failure)?;
    if service.is_closed() && !request.probe {
        let reason = "it is outside of its hours".into();
        return Err(ConnectFailure::here(EndedBy::Policy, Refusal::NotAllowed, reason));
    }
    if let Some(why) = service.down_reason() {
        counters.enter(SessionPhase::Connecting);
        let reason = format!("the service is down: {why}");
        return Err(ConnectFailure::here(EndedBy::Backend, Refusal::ServiceDown, reason));
    }
    let peer = admit_peer(service, request.peer.as_ref(), settings.per_peer.as_ref())?;
    let permit = admit(service, request.peer.as_ref(), settings.peers.as_deref(), request.idle_state.take())?;
    let backend = take_backend(request.peer.as_ref().filter(|_| half == Half::Internal), &sessions.backends)?;
    Ok(SessionPermits { _client: client, _peer: peer, _service: permit, _backend: backend })
}

/// Whether a client may come in, if nobody has checked before it had a session.
fn check_client(
    admission: ClientAdmission,
    half: Half,
    client: Option<SocketAddr>,
    service: &Service,
    sessions: &SessionContext,
) -> Result<ClientPermit, ClientRefusal> {
    match (admission, half, client) {
        (ClientAdmission::Admitted(permit), ..) => Ok(permit),
        (ClientAdmission::Refused(refused), ..) => Err(refused),
        (ClientAdmission::Unchecked, Half::Dmz, Some(client)) => {
            sessions.gates.enter(&service.name, client.ip())
        }
        (ClientAdmission::Unchecked, ..) => Ok(ClientPermit::default()),
    }
}

fn client_failure(refused: ClientRefusal) -> ConnectFailure {
    let (ended_by, refusal) = match refused {
        ClientRefusal::Filter(_)
        | ClientRefusal::Login(
            LoginRefusal::NoCredential
            | LoginRefusal::Unreadable
            | LoginRefusal::WrongPassword
            | LoginRefusal::WrongToken
            | LoginRefusal::WrongClaims
            | LoginRefusal::NotListed,
        ) => (EndedBy::Policy, Refusal::NotAllowed),
        ClientRefusal::Sessions(_)
        | ClientRefusal::Rate { .. }
        | ClientRefusal::Login(LoginRefusal::TooMany | LoginRefusal::TooManyTokens) => {
            (EndedBy::ClientLimit, Refusal::Full)
        }
        ClientRefusal::Login(LoginRefusal::Busy) => (EndedBy::Limit, Refusal::Full),
        ClientRefusal::Login(LoginRefusal::Unavailable) => (EndedBy::Policy, Refusal::Unavailable),
    };
    ConnectFailure::here(ended_by, refusal, refused.to_string())
}

/// Decides whether a session may be served, and takes a permit of the service's limit.
fn admit(
    service: &Arc<Service>,
    peer: Option<&Peer>,
    peers: Option<&[String]>,
    idle_state: Option<Arc<IdleState>>,
) -> Result<SessionPermit, ConnectFailure> {
    if let Some(peer) = peer.filter(|peer| !peer.is_among(peers)) {
        let reason = format!("{} is not among the service's `peers`", peer.label());
        return Err(ConnectFailure::here(EndedBy::Policy, Refusal::NotAllowed, reason));
    }
    if service.phase() == ServicePhase::Draining {
        return Err(ConnectFailure::here(
            EndedBy::Operator,
            Refusal::Draining,
            "the service is draining".into(),
        ));
    }
    service.admit(idle_state).map_err(|limit| {
        let reason =
            format!("the limit of {} (`sessions`) is reached", format::count(limit as u64, "open session"));
        ConnectFailure::here(EndedBy::Limit, Refusal::Full, reason)
    })
}

/// A permit for one more session of a DMZ gateway, if each has a limit.
fn admit_peer(
    service: &Service,
    peer: Option<&Peer>,
    limits: Option<&SessionLimits>,
) -> Result<Option<Box<UsagePermit<Arc<str>>>>, ConnectFailure> {
    let Some((peer, limits)) = peer.zip(limits) else { return Ok(None) };
    let taken = service.peer_usage.take(peer.label(), limits, std::time::Instant::now());
    taken.map(|permit| Some(Box::new(permit))).map_err(|reached| {
        let most = match reached {
            LimitReached::Sessions(most) => format!("{} at once", format::count(most as u64, "session")),
            LimitReached::Rate { rate, .. } => format!("{rate} new sessions"),
        };
        let reason = format!("`per_peer` allows {} {most}", peer.label());
        ConnectFailure::here(EndedBy::Limit, Refusal::Full, reason)
    })
}

/// A permit for a connection to a backend, in the share of the gateway that sent the session.
fn take_backend(
    gateway: Option<&Peer>,
    backends: &Arc<GatewayShares>,
) -> Result<Option<Box<SharePermit>>, ConnectFailure> {
    let Some(gateway) = gateway.map(Peer::label) else { return Ok(None) };
    let Some(permit) = backends.take(&gateway) else {
        let (open, most) = (backends.permits_taken(), backends.max());
        let reason = match open >= most {
            true => format!("{open} backend connections are open, all that the limit of open files allows"),
            false => format!(
                "{gateway}'s part of the backend connections is used up: {open} are open of the {most} that the limit \
                 of open files allows, and the rest is kept for other gateways"
            ),
        };
        return Err(ConnectFailure::here(EndedBy::Limit, Refusal::Full, reason));
    };
    permit.note_used();
    Ok(Some(Box::new(permit)))
}
