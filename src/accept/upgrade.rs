//! A client connection that a request has turned into something else: a WebSocket, or a protocol that both ends
//! agreed on.

use std::{net::SocketAddr, sync::Arc};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{
    SessionRequest,
    idle_permit::{IdleReclaim, IdleState},
    request_auth::RequestClient,
    routes::{AdmittedClient, HttpRoute},
    tcp::session_request,
};
use crate::{
    admission::{
        arrivals::ClientArrival,
        clients::{ClientAdmission, ClientPermit},
    },
    http::{checked_stream::CheckedStream, interim::InterimStream, upstream::UpstreamConnection},
    link::endpoint::LinkEndpoint,
    net::{
        expiring::ExpiringStream,
        pipe::PipeEnd,
        prefixed::PrefixedStream,
        stream::NetStream,
        ws::{WebSocket, WebSocketLimits},
    },
    profile::WebOptions,
    proto::multiplex::open::ClientOrigin,
    telemetry::log::{AccessRecord, LogEvent},
};

/// The protocol that a request has upgraded the connection to.
pub enum UpgradedTo {
    /// A WebSocket whose frames are decoded here.
    Socket(Box<UpgradedSocket>),
    /// A connection that has become a link.
    Link(Box<LinkEndpoint>),
    /// Something that is passed on as it is, with the other end of its upstream session. A WebSocket may have to be
    /// closed at a certain time.
    Passed(OnUpgrade, Option<Instant>),
}

/// A WebSocket that becomes a session of its own.
pub struct UpgradedSocket {
    pub route: HttpRoute,
    pub client: RequestClient,
    /// The id of the future session.
    pub id: String,
    /// The client's permit.
    pub permit: ClientPermit,
    /// The record of the request for the access log; its line is written when the session ends.
    pub record: Option<AccessRecord>,
    pub arrival: Option<ClientArrival>,
}

pub type ClientServiceError = Box<dyn std::error::Error + Send + Sync>;

/// Takes the connection back from hyper.
pub async fn downgrade_client(left: Option<OnUpgrade>) -> Result<CheckedStream, ClientServiceError> {
    let left = left.ok_or("it has asked for no upgrade")?.await?;
    let parts =
        left.downcast::<TokioIo<InterimStream<CheckedStream>>>().map_err(|_| "its connection was lost")?;
    Ok(parts.io.into_inner().into_inner().with_prefix(&parts.read_buf))
}

/// The session of a client whose WebSocket ends here, if the client is still there. It carries the payload of
/// the frames.
pub async fn web_socket_session(
    socket: UpgradedSocket,
    left: Option<OnUpgrade>,
    connection: &ClientOrigin,
    reclaim: &Arc<IdleReclaim>,
) -> Option<SessionRequest> {
    let client = socket.client.address;
    let begun = begin_web_socket_session(socket, left, connection, reclaim).await;
    if let Err(error) = &begun {
        tracing::debug!(event = %LogEvent::ClientUpgradeLost, %client, "a WebSocket was lost: {error}");
    }
    begun.ok()
}

async fn begin_web_socket_session(
    socket: UpgradedSocket,
    left: Option<OnUpgrade>,
    connection: &ClientOrigin,
    reclaim: &Arc<IdleReclaim>,
) -> Result<SessionRequest, ClientServiceError> {
    let UpgradedSocket { route, mut client, id, permit, record, arrival } = socket;
    client.is_web_socket = true;
    let here = downgrade_client(left).await?;
    let (expires, cut_at) = (client.deadline(), client.cut_at());
    let WebOptions { message_limit, inactivity, frames, .. } = route.web;
    let limits = WebSocketLimits { message: message_limit, inactivity, frames, expires };
    let entered = AdmittedClient {
        client: client.address,
        service: route.service,
        stream: NetStream::Ws(Box::new(WebSocket::new(here.into_inner(), limits))),
        prefix: Vec::new(),
        origin: client.origin(connection),
        admission: ClientAdmission::Admitted(permit),
    };
    let work = IdleState::new_busy(reclaim);
    record.into_iter().for_each(|record| work.finish_with_session(record));
    Ok(SessionRequest {
        id: Some(id),
        idle_state: Some(work),
        expires: cut_at,
        arrival,
        ..session_request(entered)
    })
}

/// Runs the link handshake on a connection that has become a link.
pub async fn accept_link(endpoint: &LinkEndpoint, left: Option<OnUpgrade>, client: SocketAddr) {
    match downgrade_client(left).await {
        Ok(here) => endpoint.receive(here.into_inner(), client),
        Err(error) => {
            tracing::debug!(event = %LogEvent::ClientUpgradeLost, %client, "a client's connection was lost before it became a link: {error}");
        }
    }
}

/// Joins an upgraded connection to the other end of its upstream session.
pub async fn hand_over(
    left: Option<OnUpgrade>,
    (there, closed_at): (OnUpgrade, Option<Instant>),
    client: SocketAddr,
) {
    if let Err(error) = join_upgraded(left, there, closed_at).await {
        tracing::debug!(event = %LogEvent::ClientUpgradeLost, %client, "an upgraded connection was lost: {error}");
    }
}

async fn join_upgraded(
    left: Option<OnUpgrade>,
    there: OnUpgrade,
    closed_at: Option<Instant>,
) -> Result<(), ClientServiceError> {
    let (here, (there, read)) =
        (downgrade_client(left).await?, UpstreamConnection::into_upgraded::<PipeEnd>(there).await?);
    let PrefixedStream { prefix, stream } = here.into_inner();
    Ok(there.hand_over(ExpiringStream::new(stream, closed_at), prefix, read).await?)
}
