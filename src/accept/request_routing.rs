//! Which service a request is for, and who its client is if it came through proxies. A path that two parsers could read
//! differently is refused, since the backend's may be the other one. Who the user is, `request_auth` finds out; the head
//! itself is checked in `http::request`.

use std::net::SocketAddr;

use hyper::{
    Request, StatusCode,
    header::{self, HeaderMap, HeaderValue},
    http::request::Parts,
};

use super::routes::{HttpRoute, WebKind};
use crate::http::{
    error_response::{self, ErrorResponse, bad_request},
    forwarded_chain,
    request::{self, ForwardedHeaders, RequestTarget},
    request_path,
};

/// The route of a request.
pub fn find_route<'a, B>(
    routes: &'a [HttpRoute],
    request: &Request<B>,
    host: &str,
) -> Result<&'a HttpRoute, ErrorResponse> {
    let origin = request::origin(request.headers())?;
    let requested = RequestTarget { host, path: request.uri().path(), origin };
    let route =
        find_http_route(routes, &requested, |path| request_path::rest_below(requested.path, path).is_some());
    if !request_path::is_plain(requested.path) {
        let read_leniently = request_path::LenientPath::of(requested.path);
        let lenient = find_http_route(routes, &requested, |path| read_leniently.is_below(path));
        if lenient.map(std::ptr::from_ref) != route.map(std::ptr::from_ref) {
            return Err(bad_request("its path could mean another service"));
        }
    }
    let route = route.ok_or_else(error_response::no_such_service)?;
    let is_socket = route.web_kind != WebKind::Requests || request.headers().contains_key(header::UPGRADE);
    let allowed = &route.web.origins;
    let is_allowed = |origin: &[u8]| allowed.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(origin));
    if is_socket && !allowed.is_empty() && !requested.origin.is_some_and(is_allowed) {
        return Err(ErrorResponse::new(StatusCode::FORBIDDEN, "this page may not open a WebSocket here"));
    }
    Ok(route)
}

/// An exact host is preferred to `*.` with its parent, and that to no host at all; then the longest path wins.
/// A request without a host may reach a service with `hosts` if there is no other.
fn find_http_route<'a>(
    routes: &'a [HttpRoute],
    requested: &RequestTarget<'_>,
    is_below: impl Fn(&str) -> bool,
) -> Option<&'a HttpRoute> {
    let is_only = routes.iter().all(|route| route.service == routes[0].service);
    let parent = requested.host.split_once('.').map(|(_, parent)| parent);
    let is_parent = |host: &String| parent.is_some() && host.strip_prefix("*.") == parent;
    let nearness = |route: &HttpRoute| match &route.web.hosts {
        hosts if hosts.iter().any(|host| host == requested.host) => Some(2),
        hosts if hosts.iter().any(is_parent) => Some(1),
        hosts => (hosts.is_empty() || (requested.host.is_empty() && is_only)).then_some(0),
    };
    let meant = routes.iter().filter(|route| is_below(&route.path));
    let ranked = meant.filter_map(|route| Some((route.path.len(), nearness(route)?, route)));
    ranked.max_by_key(|(path, nearness, _)| (*nearness, *path)).map(|(.., route)| route)
}

/// What a request wants its connection to become, among the things that its service is for.
pub fn wanted_upgrade(
    route: &HttpRoute,
    parts: &Parts,
    has_body: bool,
) -> Result<Option<HeaderValue>, ErrorResponse> {
    let wanted = request::requested_upgrade(&parts.headers, parts.version);
    match route.web_kind {
        WebKind::Frames | WebKind::Requests => Ok(wanted.filter(|_| !has_body)),
        WebKind::Sockets if !request::is_websocket(wanted.as_ref()) => {
            Err(ErrorResponse::new(StatusCode::UPGRADE_REQUIRED, "only WebSockets are served here"))
        }
        WebKind::Sockets if has_body => Err(bad_request("a WebSocket begins without a body")),
        WebKind::Sockets => Ok(Some(HeaderValue::from_static("websocket"))),
    }
}

/// The sender of a request: the client of the connection or, if that is a trusted proxy, the client it names.
pub fn client_of(
    connected: SocketAddr,
    by: ForwardedHeaders,
    route: &HttpRoute,
    headers: &HeaderMap,
) -> (SocketAddr, ForwardedHeaders) {
    let peer = connected.ip();
    let networks = route.web.forwarded.as_deref().unwrap_or_default();
    let is_trusted = |address| networks.iter().any(|network| network.contains(address));
    if !is_trusted(peer) {
        return (connected, by);
    }
    let through = forwarded_chain::read_chain(headers, peer, is_trusted);
    let client = if through.client == peer { connected } else { SocketAddr::new(through.client, 0) };
    (client, by.via_proxies(&through, headers))
}
