//! A client of requests that does not get in: its request is answered, and its session is refused in the books as any
//! other is.

use std::net::SocketAddr;

use hyper::StatusCode;

use super::{
    ServeSession, SessionRequest,
    routes::AdmittedClient,
    tcp::session_request,
    upstream_session::{RequestFailure, session_id},
};
use crate::{
    admission::clients::{ClientAdmission, ClientRefusal},
    http::error_response::ErrorResponse,
    link::session_side::SessionSide,
    net::{echo::EchoStream, stream::NetStream},
    profile::ServiceName,
};

/// Has the session refused, and says what the client is told.
pub async fn refuse_client(
    serve: &ServeSession,
    service: &ServiceName,
    client: SocketAddr,
    refused: ClientRefusal,
) -> RequestFailure {
    let id = session_id();
    let entered = AdmittedClient {
        client,
        service: service.clone(),
        // Nothing of it is ever read.
        stream: NetStream::Echo(EchoStream::default()),
        prefix: Vec::new(),
        origin: Box::default(),
        admission: ClientAdmission::Refused(refused),
    };
    let asked =
        SessionRequest { id: Some(id.clone()), downstream: SessionSide::Gone, ..session_request(entered) };
    serve(asked).await;
    let (status, told) = match refused {
        ClientRefusal::Filter(_) => (StatusCode::FORBIDDEN, "this service is not for you"),
        ClientRefusal::Sessions(_) | ClientRefusal::Rate { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "you have as much of this service as you may")
        }
    };
    let response = ErrorResponse::refused_client(status, told, refused.retry_after());
    RequestFailure { response, session: Some(id), end: None }
}
