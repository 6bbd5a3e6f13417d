//! Answers the request of an HTTP client that is not admitted, and records its session as refused like any
//! other.

use hyper::StatusCode;

use super::{
    ServeSession, SessionRequest,
    request_auth::RequestClient,
    routes::AdmittedClient,
    tcp::session_request,
    upstream_session::{RequestFailure, session_id},
};
use crate::{
    admission::clients::{ClientAdmission, ClientRefusal, LoginRefusal},
    http::error_response::ErrorResponse,
    net::stream::NetStream,
    profile::ServiceName,
    proto::multiplex::open::ClientOrigin,
};

/// Records the refused session and returns the response for the client.
pub async fn refuse_client(
    serve: &ServeSession,
    service: &ServiceName,
    client: &RequestClient,
    refused: ClientRefusal,
) -> RequestFailure {
    let id = session_id();
    let entered = AdmittedClient {
        client: client.address,
        service: service.clone(),
        // Nothing is ever read from it.
        stream: NetStream::Echo(Box::default()),
        prefix: Vec::new(),
        origin: client.origin(&ClientOrigin::default()),
        admission: ClientAdmission::Refused(refused),
    };
    serve(SessionRequest { id: Some(id.clone()), ..session_request(entered) }).await;
    let (status, reason) = match refused {
        ClientRefusal::Filter(_)
        | ClientRefusal::Login(LoginRefusal::NotListed | LoginRefusal::WrongClaims) => {
            (StatusCode::FORBIDDEN, "this service is not for you")
        }
        ClientRefusal::Login(
            LoginRefusal::NoCredential
            | LoginRefusal::Unreadable
            | LoginRefusal::WrongPassword
            | LoginRefusal::WrongToken,
        ) => (StatusCode::UNAUTHORIZED, "this service wants to know who you are"),
        ClientRefusal::Login(LoginRefusal::TooMany) => {
            (StatusCode::TOO_MANY_REQUESTS, "too many of your passwords are waiting to be checked")
        }
        ClientRefusal::Login(LoginRefusal::TooManyTokens) => {
            (StatusCode::TOO_MANY_REQUESTS, "you have sent too many invalid tokens")
        }
        ClientRefusal::Login(LoginRefusal::Busy | LoginRefusal::Unavailable) => {
            (StatusCode::SERVICE_UNAVAILABLE, "passwords cannot be checked at the moment")
        }
        ClientRefusal::Sessions(_) | ClientRefusal::Rate { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "you have as much of this service as you may")
        }
    };
    let response = ErrorResponse::refused_client(status, reason, refused.retry_after());
    RequestFailure { response, session: Some(id), end: None, backend: None }
}
