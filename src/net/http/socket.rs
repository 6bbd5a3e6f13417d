//! Grants a request that wants to become a WebSocket (RFC 6455) where we are its other end.

use hyper::{
    Request, Response, StatusCode, Version,
    body::Incoming,
    header::{self, HeaderMap, HeaderValue},
};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::{
    answer::{Objection, bad},
    payload::Payload,
    request::one,
};

/// The answer that makes a connection a WebSocket.
pub fn grant(request: &Request<Incoming>) -> Result<Response<Payload>, Objection> {
    let headers = request.headers();
    if headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(bad("a WebSocket begins without a body"));
    }
    if request.uri().authority().is_some() || request.version() != Version::HTTP_11 {
        return Err(bad("a WebSocket begins with a path and HTTP/1.1"));
    }
    let version = one(headers, header::SEC_WEBSOCKET_VERSION)?;
    if version != Some("13") {
        return Err(Objection::new(StatusCode::UPGRADE_REQUIRED, "a WebSocket of version 13 is served here"));
    }
    let key = one(headers, header::SEC_WEBSOCKET_KEY)?;
    if key.is_none_or(|key| key.len() != 24) {
        return Err(bad("Sec-WebSocket-Key is none"));
    }
    let protocol = protocol(headers)?;
    let mut response = create_response_with_body(request, Payload::empty)
        .map_err(|_| bad("the request is none for a WebSocket"))?;
    if let Some(protocol) = protocol {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// The first subprotocol that the client offers: the backend's bytes are of whatever it speaks.
fn protocol(headers: &HeaderMap) -> Result<Option<HeaderValue>, Objection> {
    let Some(offered) = headers.get(header::SEC_WEBSOCKET_PROTOCOL) else { return Ok(None) };
    let offered = offered.to_str().map_err(|_| bad("a header is no text"))?;
    let first = offered.split(',').next().unwrap_or_default().trim();
    let is_token = !first.is_empty()
        && first.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    match HeaderValue::from_str(first) {
        Ok(first) if is_token => Ok(Some(first)),
        _ => Err(bad("Sec-WebSocket-Protocol is no list of names")),
    }
}
