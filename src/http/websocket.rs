//! Accepts a request to become a WebSocket (RFC 6455) that ends in the gateway.

use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Incoming},
    header::{self, HeaderMap, HeaderValue},
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    body::MessageBody,
    error_response::{ErrorResponse, bad_request},
    fields,
    request::{self, single_value},
};

/// Subprotocols with which clients talk to another gateway product; no backend speaks them.
const OF_A_GATEWAY: &[u8] = b"x-kaazing-";

/// The answer that turns a connection into a WebSocket. `protocols` are those that the backend speaks, if
/// known.
pub fn grant_upgrade(
    request: &Request<Incoming>,
    protocols: Option<&[String]>,
) -> Result<Response<MessageBody>, ErrorResponse> {
    let headers = request.headers();
    if request.version() != Version::HTTP_11 {
        return Err(bad_request("a WebSocket begins with HTTP/1.1"));
    }
    if !request::is_websocket(request::requested_upgrade(headers, request.version()).as_ref()) {
        return Err(ErrorResponse::new(StatusCode::UPGRADE_REQUIRED, "only WebSockets are served here"));
    }
    if *request.method() != Method::GET {
        return Err(bad_request("a WebSocket begins with GET"));
    }
    if !request.body().is_end_stream() {
        return Err(bad_request("a WebSocket begins without a body"));
    }
    if single_value(headers, header::SEC_WEBSOCKET_VERSION)? != Some(b"13") {
        return Err(ErrorResponse::new(
            StatusCode::UPGRADE_REQUIRED,
            "a WebSocket of version 13 is served here",
        ));
    }
    let key = single_value(headers, header::SEC_WEBSOCKET_KEY)?.filter(|key| is_key(key));
    let key = key.ok_or(bad_request("invalid Sec-WebSocket-Key"))?;
    let protocol = choose_protocol(headers, protocols)?;
    let accept = HeaderValue::from_str(&derive_accept_key(key))
        .map_err(|_| bad_request("invalid Sec-WebSocket-Key"))?;
    let mut response = Response::new(MessageBody::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(protocol) = protocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// Whether it is 16 bytes in base64 (RFC 6455, section 4.1).
fn is_key(key: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/".contains(byte);
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().all(is_allowed))
}

/// Chooses the subprotocol: the first that the client offers and the backend speaks, in the client's bytes.
fn choose_protocol(
    headers: &HeaderMap,
    subprotocols: Option<&[String]>,
) -> Result<Option<HeaderValue>, ErrorResponse> {
    let mut offered = fields::list_members(headers, header::SEC_WEBSOCKET_PROTOCOL).peekable();
    if subprotocols.is_none() && offered.peek().is_none() {
        return Ok(None);
    }
    let is_gateways = |name: &[u8]| {
        name.get(..OF_A_GATEWAY.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(OF_A_GATEWAY))
    };
    let is_known = |name: &[u8]| match subprotocols {
        Some(subprotocols) => subprotocols.iter().any(|known| known.as_bytes() == name),
        None => !is_gateways(name),
    };
    let agreed = offered.find(|name| fields::is_token(name) && is_known(name));
    match agreed.map(HeaderValue::from_bytes) {
        Some(Ok(agreed)) => Ok(Some(agreed)),
        Some(Err(_)) | None => Err(bad_request("it offers no subprotocol that is spoken here")),
    }
}
