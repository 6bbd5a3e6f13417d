//! Identifies who has sent a request, if its service asks for that, before anything of it goes further. A refused
//! request is recorded as a session that was refused, like any other client that is not let in.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use hyper::{
    StatusCode,
    header::{self, HeaderMap},
};
use tokio::time::Instant;

use super::{
    ServeSession,
    refused_client::refuse_client,
    routes::HttpRoute,
    tcp::RouteLifetime,
    upstream_session::{OUTCOME_GRACE_PERIOD, RequestFailure},
};
use crate::{
    admission::clients::{ClientRefusal, LoginRefusal},
    auth::{self, AuthHead},
    http::{error_response::ErrorResponse, request},
    proto::multiplex::open::{ClientOrigin, ProvenUser},
};

/// The client on whose behalf a request comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestClient {
    pub address: SocketAddr,
    pub user: Option<ProvenUser>,
    /// When its session ends, because the proof of its identity expires then.
    pub expires: Option<SystemTime>,
    /// It has asked for a WebSocket, which can be closed with a reason before its session is cut.
    pub is_web_socket: bool,
}

impl RequestClient {
    /// A client that was not asked, known only from its connection.
    pub fn of_connection(address: SocketAddr, user: Option<ProvenUser>) -> Self {
        Self { address, user, expires: None, is_web_socket: false }
    }

    /// When its session ends, on a clock that is not changed when other clocks are set.
    pub fn deadline(&self) -> Option<Instant> {
        // No token is valid for so long that this matters.
        const EXPIRY_MAX: Duration = Duration::from_secs(400 * 24 * 60 * 60);
        let left = self.expires?.duration_since(SystemTime::now()).unwrap_or_default();
        Some(Instant::now() + left.min(EXPIRY_MAX))
    }

    /// When its connection is closed by a frame, if it has become a WebSocket: the backend may have granted another
    /// upgrade, in an answer with these fields.
    pub fn closes(&self, granted: &HeaderMap) -> Option<Instant> {
        self.deadline().filter(|_| request::is_websocket(granted.get(header::UPGRADE)))
    }

    /// When its session is cut: a WebSocket may have to end a frame, and its client to read why it is closed.
    pub fn cut_at(&self) -> Option<Instant> {
        let more = if self.is_web_socket { OUTCOME_GRACE_PERIOD * 2 } else { Duration::ZERO };
        self.deadline().map(|at| at + more)
    }

    /// What is known of the connection, with the user of this request.
    pub fn origin(&self, connection: &ClientOrigin) -> Box<ClientOrigin> {
        Box::new(ClientOrigin { user: self.user.clone(), ..connection.clone() })
    }
}

/// Finds out who has sent a request. A client that may not come in gets an answer that says what it lacks.
pub async fn identify_client(
    client: &mut RequestClient,
    route: &HttpRoute,
    head: AuthHead<'_>,
    lifetime: &RouteLifetime,
    serve: &ServeSession,
) -> Result<(), RequestFailure> {
    let Some(required) = &route.web.auth else { return Ok(()) };
    // Whatever the connection's certificate says, the request decides here.
    client.user = None;
    let known = lifetime.logins.identify(required, head, client.address.ip()).await;
    let refused = match known {
        Ok(known) => {
            client.expires = known.as_ref().and_then(|known| known.expires);
            client.user = known.map(|known| known.user);
            match &client.user {
                Some(user) if !required.admits(&user.name) => LoginRefusal::NotListed,
                Some(_) | None => return Ok(()),
            }
        }
        // Only this gateway is at fault.
        Err(LoginRefusal::Unavailable) => {
            let reason = "who may use this service is not known at the moment";
            return Err(ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, reason).into());
        }
        Err(refused) => refused,
    };
    let mut failure = refuse_client(serve, &route.service, client, ClientRefusal::Login(refused)).await;
    if failure.response.status == StatusCode::UNAUTHORIZED {
        failure.response.challenge =
            Some(Box::new(auth::challenge(required, route.service.as_str(), refused)));
    }
    Err(failure)
}
