//! Who has sent a request, where its service asks for that: before anything of it goes further.

use std::net::SocketAddr;

use hyper::{StatusCode, header::HeaderMap, http::Method};

use super::{
    ServeSession, refused_client::refuse_client, routes::HttpRoute, tcp::RouteLifetime,
    upstream_session::RequestFailure,
};
use crate::{
    admission::clients::{ClientRefusal, LoginRefusal},
    auth,
    http::error_response::ErrorResponse,
    proto::multiplex::open::{ClientOrigin, ProvenUser},
};

/// On whose behalf a request comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestClient {
    pub address: SocketAddr,
    pub user: Option<ProvenUser>,
}

impl RequestClient {
    /// What is known of it, on a connection of which this is known.
    pub fn origin(&self, connection: &ClientOrigin) -> Box<ClientOrigin> {
        Box::new(ClientOrigin { user: self.user.clone(), ..connection.clone() })
    }
}

/// Finds out whose a request is; a client that does not get in is answered with what it lacks.
pub async fn identify_client(
    client: &mut RequestClient,
    door: &HttpRoute,
    (method, headers): (&Method, &HeaderMap),
    lifetime: &RouteLifetime,
    serve: &ServeSession,
) -> Result<(), RequestFailure> {
    let Some(asked) = &door.web.auth else { return Ok(()) };
    // Whatever the connection's certificate says, it is the request that counts here.
    client.user = None;
    let known = lifetime.logins.identify(asked, method, headers, client.address.ip()).await;
    let refused = match known {
        Ok(user) => {
            client.user = user;
            match &client.user {
                Some(user) if !asked.admits(&user.name) => LoginRefusal::NotListed,
                Some(_) | None => return Ok(()),
            }
        }
        // There is nobody to blame for it but us.
        Err(LoginRefusal::Unavailable) => {
            let told = "who may use this service is not known at the moment";
            return Err(ErrorResponse::new(StatusCode::SERVICE_UNAVAILABLE, told).into());
        }
        Err(refused) => refused,
    };
    let mut failure = refuse_client(serve, &door.service, client, ClientRefusal::Login(refused)).await;
    if failure.response.status == StatusCode::UNAUTHORIZED {
        failure.response.challenge = Some(Box::new(auth::challenge(asked, door.service.as_str())));
    }
    Err(failure)
}
