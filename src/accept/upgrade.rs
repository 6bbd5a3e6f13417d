//! A client connection whose request has turned it into something else: a WebSocket, or what two ends agreed on.

use std::net::SocketAddr;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::{
    request_auth::RequestClient,
    routes::{AdmittedClient, HttpRoute},
};
use crate::{
    admission::clients::{ClientAdmission, ClientPermit},
    http::{checked_stream::CheckedStream, interim::InterimStream, upstream::UpstreamConnection},
    net::{
        pipe::PipeEnd,
        prefixed::PrefixedStream,
        stream::NetStream,
        ws::{WebSocket, WebSocketLimits},
    },
    profile::WebOptions,
    telemetry::log::AccessRecord,
};

/// What a request has upgraded the connection to.
pub enum UpgradedTo {
    /// A WebSocket, whose frames are taken off here.
    Socket(Box<UpgradedSocket>),
    /// Something that is passed on as it is, with the other end of its channel.
    Passed(OnUpgrade),
}

/// A WebSocket that becomes a session of its own.
pub struct UpgradedSocket {
    pub route: HttpRoute,
    pub client: RequestClient,
    /// What the session will be called.
    pub id: String,
    /// Its client's place.
    pub permit: ClientPermit,
    /// Of the request, for the access log; its line is written when the session ends.
    pub record: Option<AccessRecord>,
}

pub type ClientServiceError = Box<dyn std::error::Error + Send + Sync>;

/// Takes the connection back from hyper.
pub async fn downgrade_client(left: Option<OnUpgrade>) -> Result<CheckedStream, ClientServiceError> {
    let left = left.ok_or("it has asked for no upgrade")?.await?;
    let parts =
        left.downcast::<TokioIo<InterimStream<CheckedStream>>>().map_err(|_| "its connection was lost")?;
    Ok(parts.io.into_inner().into_inner().with_prefix(&parts.read_buf))
}

/// A client whose WebSocket ends here: its session carries what is within the frames.
pub fn web_socket_client(
    here: CheckedStream,
    route: HttpRoute,
    client: SocketAddr,
    permit: ClientPermit,
) -> AdmittedClient {
    let WebOptions { message_limit, inactivity, frames, .. } = route.web;
    let limits = WebSocketLimits { message: message_limit, inactivity, frames };
    let stream = NetStream::Ws(Box::new(WebSocket::new(here.into_inner(), limits)));
    let admission = ClientAdmission::Admitted(permit);
    AdmittedClient {
        client,
        service: route.service,
        stream,
        prefix: Vec::new(),
        origin: Box::default(),
        admission,
    }
}

/// Joins a connection that was upgraded to the other end of its upstream session.
pub async fn hand_over(left: Option<OnUpgrade>, there: OnUpgrade) -> Result<(), ClientServiceError> {
    let (here, (there, read)) =
        (downgrade_client(left).await?, UpstreamConnection::into_upgraded::<PipeEnd>(there).await?);
    let PrefixedStream { prefix: said, stream } = here.into_inner();
    Ok(there.hand_over(stream, said, read).await?)
}
