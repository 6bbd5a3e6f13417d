//! Checks a client's request, and cleans it before it is forwarded. What could be read in two ways is refused.

use std::{borrow::Cow, net::IpAddr};

use hyper::{
    Method, Request, StatusCode, Uri, Version,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    http::{request::Parts, uri::PathAndQuery},
};

use super::{
    error_response::{ErrorResponse, bad_request},
    fields::{self, HeadOrigin},
    forwarded_chain::ForwardedChain,
    request_path,
};

pub const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_USER: HeaderName = HeaderName::from_static("x-forwarded-user");
/// The longest user name that is passed on.
const USER_BYTES_MAX: usize = 255;

/// The parts of a request that decide which service it is for.
#[derive(Debug)]
pub struct RequestTarget<'a> {
    /// As returned by [`check_request`]; empty if the request names none.
    pub host: &'a str,
    pub path: &'a str,
    pub origin: Option<&'a [u8]>,
}

/// The forwarding headers that tell a backend who its client is.
#[derive(Debug, Clone)]
pub struct ForwardedHeaders {
    /// The client, followed by the proxies on the way.
    list: HeaderValue,
    scheme: HeaderValue,
    /// The name that the client has proven.
    user: Option<HeaderValue>,
    /// What a trusted proxy says about the address that the client used.
    trusted: HeaderMap,
}

impl ForwardedHeaders {
    pub fn new(client: IpAddr, is_tls: bool) -> Self {
        let list = HeaderValue::from_str(&client.to_string());
        Self {
            list: list.unwrap_or(HeaderValue::from_static("unknown")),
            scheme: HeaderValue::from_static(if is_tls { "https" } else { "http" }),
            user: None,
            trusted: HeaderMap::new(),
        }
    }

    /// Adds the name that the client has proven.
    pub fn with_user(self, name: Option<&str>) -> Self {
        Self { user: name.and_then(user_value), ..self }
    }

    /// Adds what a trusted proxy says of a request that it has forwarded.
    pub fn via_proxies(self, through: &ForwardedChain, headers: &HeaderMap) -> Self {
        let mut forwarded = HeaderMap::new();
        for name in [FORWARDED_PROTO, FORWARDED_HOST] {
            for value in headers.get_all(&name) {
                forwarded.append(name.clone(), value.clone());
            }
        }
        Self { list: HeaderValue::from_bytes(&through.list).unwrap_or(self.list), trusted: forwarded, ..self }
    }
}

/// A name as a field value. Bytes that are not visible ASCII are percent-encoded (RFC 3986, section 2.1), and
/// so is `%`, so that no two names look alike. A name that is too long is cut between two characters.
fn user_value(name: &str) -> Option<HeaderValue> {
    let mut value = String::new();
    for ch in name.chars() {
        let mut bytes = [0; 4];
        let written: String = match ch {
            '!'..='~' if ch != '%' => ch.into(),
            _ => ch.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect(),
        };
        if value.len() + written.len() > USER_BYTES_MAX {
            break;
        }
        value += &written;
    }
    HeaderValue::try_from(value).ok()
}

/// Checks everything on which all parsers of the request have to agree. Returns its host: in lower case,
/// without the port and the dot of the root, and empty if a client of HTTP/1.0 names none.
pub fn check_request<B>(request: &Request<B>) -> Result<String, ErrorResponse> {
    match *request.method() {
        Method::CONNECT => {
            return Err(ErrorResponse::new(StatusCode::NOT_IMPLEMENTED, "CONNECT is not served here"));
        }
        Method::TRACE => {
            return Err(ErrorResponse::new(StatusCode::METHOD_NOT_ALLOWED, "TRACE is not served here"));
        }
        _ => {}
    }
    let host = match single_value(request.headers(), header::HOST)? {
        Some(host) => Some(RequestHost::read(host).ok_or(bad_request("invalid Host"))?),
        None if request.version() == Version::HTTP_10 => None,
        None => return Err(bad_request("there is no Host")),
    };
    let target = target_host(request.uri())?;
    let host = match (host, target) {
        (Some(host), Some((target, port))) if !host.is_same_as(&target, port) => {
            return Err(bad_request("its target and its Host do not agree"));
        }
        (Some(host), _) | (None, Some((host, _))) => host.name,
        (None, None) => String::new(),
    };
    let path = request.uri().path();
    let is_path = path.starts_with('/') || (path == "*" && *request.method() == Method::OPTIONS);
    if !is_path || leaves_folder(path) {
        return Err(bad_request("invalid path"));
    }
    Ok(host)
}

/// The host of a target in absolute form, and its port or that of the scheme.
fn target_host(uri: &Uri) -> Result<Option<(RequestHost, u16)>, ErrorResponse> {
    let Some(authority) = uri.authority() else { return Ok(None) };
    let port = match uri.scheme_str() {
        Some("http") => 80,
        Some("https") => 443,
        _ => return Err(bad_request("its target's scheme is neither http nor https")),
    };
    let host =
        RequestHost::read(authority.as_str().as_bytes()).ok_or(bad_request("its target has no host"))?;
    Ok(Some((host, port)))
}

/// A host as a request names it.
struct RequestHost {
    name: String,
    port: Option<u16>,
}

impl RequestHost {
    /// `None` if it is not a host, or could be read in two ways.
    fn read(text: &[u8]) -> Option<Self> {
        let is_allowed = |byte: u8| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']' | b'!' | b'$' | b'&' | b'\'')
                || matches!(byte, b'(' | b')' | b'*' | b'+' | b';' | b'=' | b'%')
        };
        let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(is_allowed))?;
        let is_digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
        let (name, port) = match text.rsplit_once(':') {
            Some((name, "")) => (name, None),
            Some((name, port)) if is_digits(port) => (name, Some(port.parse().ok()?)),
            _ => (text, None),
        };
        Some(Self { name: host_name(name), port })
    }

    fn is_same_as(&self, other: &Self, default_port: u16) -> bool {
        let port = |host: &Self| host.port.unwrap_or(default_port);
        self.name == other.name && port(self) == port(other)
    }
}

/// A host in the spelling used for comparison: a name in lower case without the dot of the root, an address in
/// its shortest form, without brackets.
pub fn host_name(text: &str) -> String {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        // An IPv4 address is read in one spelling only.
        Ok(IpAddr::V4(_)) => return bare.to_owned(),
        Ok(address @ IpAddr::V6(_)) => return address.to_canonical().to_string(),
        Err(_) => {}
    }
    text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()
}

/// The origin that a page's request names.
pub fn origin(headers: &HeaderMap) -> Result<Option<&[u8]>, ErrorResponse> {
    single_value(headers, header::ORIGIN)
}

/// The value of a field that may appear only once.
pub(super) fn single_value(headers: &HeaderMap, name: HeaderName) -> Result<Option<&[u8]>, ErrorResponse> {
    let mut values = headers.get_all(&name).iter();
    let value = values.next().map(HeaderValue::as_bytes);
    match values.next() {
        Some(_) => Err(ErrorResponse::new(StatusCode::BAD_REQUEST, format!("{name} may appear only once"))),
        None => Ok(value),
    }
}

/// Whether a path leaves its folder, in any spelling that a backend might accept.
fn leaves_folder(path: &str) -> bool {
    if !path.contains("..") && !path.contains('%') {
        return false;
    }
    let mut plain = path.to_ascii_lowercase();
    for (encoded, ch) in [("%2e", "."), ("%2f", "/"), ("%5c", "\\"), ("%3b", ";")] {
        plain = plain.replace(encoded, ch);
    }
    let folder = |segment: &str| segment.split(';').next() == Some("..");
    plain.split(['/', '\\']).any(folder)
}

/// What a request wants its connection to become: the protocols it names that could be passed on, in its order.
/// `None` if there are none, or it does not ask for an upgrade.
///
/// Another version of HTTP is not passed on, because its requests could not be checked.
pub fn requested_upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let mut options = fields::list_members(headers, header::CONNECTION);
    let wants_upgrade = options.any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    let is_plain = |protocol: &&[u8]| protocol.split(|byte| *byte == b'/').all(fields::is_token);
    let protocols = fields::list_members(headers, header::UPGRADE);
    let protocols: Vec<_> =
        protocols.filter(|protocol| is_passable_upgrade(protocol)).filter(is_plain).collect();
    if !wants_upgrade || protocols.is_empty() || version != Version::HTTP_11 {
        return None;
    }
    HeaderValue::from_bytes(&protocols.join(&b", "[..])).ok()
}

/// Whether a protocol that a client offers could be passed on.
pub(super) fn is_passable_upgrade(protocol: &[u8]) -> bool {
    let begins =
        |other: &[u8]| protocol.get(..other.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(other));
    ![&b"h2"[..], b"http", b"tls"].into_iter().any(begins)
}

/// Whether a request asks for a WebSocket, perhaps among others.
pub fn is_websocket(upgrade: Option<&HeaderValue>) -> bool {
    let protocols = upgrade.into_iter().flat_map(|upgrade| fields::split_members(upgrade.as_bytes()));
    protocols.into_iter().any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

/// Turns a client's request into one of our own, for a service with this path and these hosts.
pub fn clean_request(
    parts: &mut Parts,
    upgrade: Option<HeaderValue>,
    by: &ForwardedHeaders,
    path: &str,
    hosts: &[String],
) {
    let target = parts.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
    pass_headers(parts, upgrade, HeadOrigin::Client);
    let headers = &mut parts.headers;
    headers.insert(FORWARDED_FOR, by.list.clone());
    headers.insert(FORWARDED_PROTO, by.scheme.clone());
    if let Some(user) = &by.user {
        headers.insert(FORWARDED_USER, user.clone());
    }
    if headers.get(header::HOST).is_none_or(HeaderValue::is_empty) {
        // HTTP/1.1 needs it. If it stays empty, the half that knows the backend fills it in.
        let known = hosts.iter().find(|host| !host.starts_with("*."));
        let known = || HeaderValue::from_str(known?).ok();
        headers.insert(header::HOST, target.or_else(known).unwrap_or(HeaderValue::from_static("")));
    }
    if let Some(host) = headers.get(header::HOST).filter(|host| !host.is_empty()).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
    for name in by.trusted.keys() {
        headers.remove(name);
        for value in by.trusted.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    if path != "/"
        && let Ok(prefix) = HeaderValue::from_str(path)
    {
        headers.insert(FORWARDED_PREFIX, prefix);
        spell_folder(&mut parts.uri, path);
    }
}

/// Writes the folder of a target as the profile does, so that the other half and the backend find it.
fn spell_folder(uri: &mut Uri, folder: &str) {
    let Some(target) = uri.path_and_query() else { return };
    if let Cow::Owned(spelled) = request_path::spelled_below(target.as_str(), folder)
        && let Ok(spelled) = spelled.parse::<PathAndQuery>()
    {
        *uri = Uri::from(spelled);
    }
}

/// Turns a request that the other half has cleaned into one of our own. A path in the backend's address
/// replaces the accept's, and the backend's host is used if the client named none.
pub fn clean_peer_request(parts: &mut Parts, upgrade: Option<HeaderValue>) {
    pass_headers(parts, upgrade, HeadOrigin::Peer);
}

/// The target of a request, whichever backend it goes to.
#[derive(Debug, Clone)]
pub struct RequestedTarget {
    uri: Uri,
    /// It names a host.
    has_host: bool,
}

impl RequestedTarget {
    pub fn of(parts: &Parts) -> Self {
        let has_host = parts.headers.get(header::HOST).is_some_and(|host| !host.is_empty());
        Self { uri: parts.uri.clone(), has_host }
    }

    /// Writes it into a request for a backend with this path and name.
    pub fn write_to<B>(&self, request: &mut hyper::Request<B>, path: &str, host: &str) {
        if !(self.has_host && request.headers().contains_key(header::HOST))
            && let Ok(host) = HeaderValue::from_str(host)
        {
            request.headers_mut().insert(header::HOST, host);
        }
        let requested = self.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if path == "/" || !requested.starts_with('/') {
            *request.uri_mut() = self.uri.clone();
            return;
        }
        let prefix = request.headers().get(FORWARDED_PREFIX);
        let below = prefix.and_then(|prefix| strip_folder(requested.as_bytes(), prefix.as_bytes()));
        // Only whole characters were removed from the path, so the rest is still text.
        let below = below.and_then(|below| std::str::from_utf8(below).ok()).unwrap_or(requested);
        let slash = if below.starts_with('/') { "" } else { "/" };
        let full = if below.is_empty() { path.to_owned() } else { format!("{path}{slash}{below}") };
        if let Ok(uri) = full.parse::<PathAndQuery>() {
            *request.uri_mut() = Uri::from(uri);
        }
    }
}

/// Sets the session's id, by which the logs of both halves and the backend can be matched. A client that names
/// its request keeps that name.
pub fn set_request_id(headers: &mut HeaderMap, name: RequestName, id: &str) {
    if name == RequestName::OfSession
        && let Ok(id) = HeaderValue::from_str(id)
    {
        headers.insert(REQUEST_ID, id);
    }
}

/// Where the name of a request comes from. It is kept if the request has to be sent a second time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestName {
    OfClient,
    OfSession,
}

impl RequestName {
    pub fn of(headers: &HeaderMap) -> Self {
        if headers.contains_key(REQUEST_ID) { Self::OfClient } else { Self::OfSession }
    }
}

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The part of a target below a folder.
pub(super) fn strip_folder<'a>(target: &'a [u8], folder: &[u8]) -> Option<&'a [u8]> {
    let rest = target.strip_prefix(folder.strip_suffix(b"/").unwrap_or(folder))?;
    matches!(rest, [] | [b'/' | b'?' | b'#', ..]).then_some(rest)
}

fn pass_headers(parts: &mut Parts, upgrade: Option<HeaderValue>, of: HeadOrigin) {
    fields::clean_headers(&mut parts.headers, of);
    if let Some(protocol) = upgrade {
        parts.headers.insert(header::UPGRADE, protocol);
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    parts.version = Version::HTTP_11;
    if parts.uri.authority().is_some() {
        let target = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(target.unwrap_or(PathAndQuery::from_static("/")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().method(method).uri(target);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a request").into_parts().0
    }

    fn status(parts: &Parts) -> Result<String, u16> {
        check_request(&Request::from_parts(parts.clone(), ())).map_err(|error| error.status.as_u16())
    }

    #[test]
    fn a_user_name_is_forwarded_encoded_and_cut_to_a_limit() {
        for (name, reported) in [
            ("alice@example.com", "alice@example.com"),
            ("CN=a b,O=\u{fc}", "CN=a%20b,O=%C3%BC"),
            ("100%20", "100%2520"),
        ] {
            assert_eq!(user_value(name), Some(HeaderValue::from_static(reported)), "{name}");
        }
        let long = user_value(&"\u{fc}".repeat(100)).expect("a value");
        assert_eq!((long.len(), long.as_bytes().ends_with(b"%C3%BC")), (252, true));
    }

    #[test]
    fn a_request_means_one_host_and_a_path_that_does_not_climb() {
        let h: &[(&str, &str)] = &[("host", "Shop.example:8080")];
        let good = Ok("shop.example".to_owned());
        type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Result<String, u16>);
        let table: &[Row<'_>] = &[
            ("GET", "/a?b=../c", h, good.clone()),
            ("OPTIONS", "*", h, good.clone()),
            ("GET", "http://SHOP.example:8080/a", h, good.clone()),
            ("GET", "/a%20b/..c/%2e", h, good.clone()),
            ("GET", "http://other/a", h, Err(400)),
            ("GET", "http://shop.example/a", h, Err(400)),
            ("GET", "http://shop.example:80/a", &[("host", "shop.example")], good.clone()),
            ("GET", "https://shop.example./a", &[("host", "shop.example:443")], good.clone()),
            ("GET", "https://shop.example:80/a", &[("host", "shop.example")], Err(400)),
            ("GET", "http://me@shop.example:8080/a", h, Err(400)),
            ("GET", "/", &[("host", "SHOP.example.:80")], good.clone()),
            ("GET", "/", &[("host", "shop.example:")], good.clone()),
            ("GET", "/", &[("host", "shop.example:99999")], Err(400)),
            ("GET", "/", &[("host", "[0:0::1]:8")], Ok("::1".into())),
            ("GET", "/", &[("host", "[::1]")], Ok("::1".into())),
            ("GET", "/", &[("host", "gr\u{fc}n.example")], Err(400)),
            ("GET", "ftp://shop.example:8080/a", h, Err(400)),
            ("GET", "*", h, Err(400)),
            ("GET", "/a/../b", h, Err(400)),
            ("GET", "/a/%2E./b", h, Err(400)),
            ("GET", "/a/..%2fb", h, Err(400)),
            ("GET", "/a/..;x=1/b", h, Err(400)),
            ("GET", "/a/..%3Bx/b", h, Err(400)),
            ("GET", "/a/%2e%2e%5cb", h, Err(400)),
            ("GET", "/", &[], Err(400)),
            ("GET", "/", &[("host", "a"), ("host", "a")], Err(400)),
            ("GET", "/", &[("host", "me@a")], Err(400)),
            ("GET", "/", &[("host", "a/b")], Err(400)),
            ("GET", "/", &[("host", "a,b")], Err(400)),
            ("GET", "/", &[("host", "")], Ok(String::new())),
            ("TRACE", "/", h, Err(405)),
            ("CONNECT", "shop.example:8080", h, Err(501)),
        ];
        for (method, target, fields, expected) in table {
            assert_eq!(&status(&parts(method, target, fields)), expected, "{method} {target} {fields:?}");
        }
        let mut old = parts("GET", "/", &[]);
        old.version = Version::HTTP_10;
        assert_eq!(status(&old), Ok(String::new()));
        let mut old = parts("GET", "http://Shop.example:8080/", &[]);
        old.version = Version::HTTP_10;
        assert_eq!(status(&old), good);
    }

    #[test]
    fn an_upgrade_is_one_that_is_asked_for_and_no_other_http() {
        let table = [
            ("websocket", "Upgrade", Some("websocket")),
            ("tcp", "keep-alive, upgrade", Some("tcp")),
            ("own/1", ", Upgrade,", Some("own/1")),
            ("websocket", "keep-alive", None),
            ("h2c", "upgrade", None),
            ("HTTP/2.0", "upgrade", None),
            ("TLS/1.0", "upgrade", None),
            (", websocket, h2c, WebSocket/13", "upgrade", Some("websocket, WebSocket/13")),
            ("a b, c/", "upgrade", None),
            ("gr\u{fc}n, b", "upgrade", Some("b")),
            (" , ", "upgrade", None),
            ("", "upgrade", None),
        ];
        for (protocol, connection, expected) in table {
            let requested = parts("GET", "/", &[("upgrade", protocol), ("connection", connection)]);
            let wanted = requested_upgrade(&requested.headers, Version::HTTP_11);
            let expected = expected.map(HeaderValue::from_static);
            assert_eq!(wanted, expected, "{protocol} {connection}");
            assert_eq!(requested_upgrade(&requested.headers, Version::HTTP_10), None);
        }
        let lines = [("upgrade", "a"), ("upgrade", "b"), ("connection", "x"), ("connection", "upgrade")];
        let wanted = requested_upgrade(&parts("GET", "/", &lines).headers, Version::HTTP_11);
        assert_eq!(wanted, Some(HeaderValue::from_static("a, b")));
    }

    #[test]
    fn a_forwarded_request_names_its_client_only_in_our_headers() {
        let by = ForwardedHeaders::new("192.0.2.7".parse().expect("an address"), true);
        let mut requested = parts(
            "GET",
            "http://h/shop/x?y",
            &[
                ("host", "h"),
                ("x-forwarded-for", "me"),
                ("x-real-ip", "me"),
                ("cookie", "a=b"),
                ("connection", "cookies"),
            ],
        );
        clean_request(&mut requested, None, &by, "/shop", &[]);
        let reported = |name: &str| requested.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(requested.uri.to_string(), "/shop/x?y");
        assert_eq!(reported("x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(reported("x-forwarded-proto"), Some("https"));
        assert_eq!(reported("x-forwarded-host"), Some("h"));
        assert_eq!(reported("x-forwarded-prefix"), Some("/shop"));
        assert_eq!((reported("host"), reported("cookie")), (Some("h"), Some("a=b")));
        assert_eq!((reported("x-real-ip"), reported("connection")), (None, None));
        // Without an accept's path there is no prefix, and a requested upgrade is kept.
        let mut socket = parts(
            "GET",
            "/",
            &[("upgrade", "websocket"), ("connection", "upgrade"), ("x-forwarded-prefix", "/x")],
        );
        let wanted = requested_upgrade(&socket.headers, socket.version);
        clean_request(&mut socket, wanted, &by, "/", &[]);
        assert_eq!(socket.headers[header::UPGRADE], "websocket");
        assert_eq!(
            (socket.headers.get(FORWARDED_PREFIX), socket.headers.get(header::HOST).map(HeaderValue::len)),
            (None, Some(0))
        );
    }

    #[test]
    fn a_host_that_no_client_names_is_the_services_or_the_backends() {
        let by = ForwardedHeaders::new("192.0.2.7".parse().expect("an address"), false);
        let hosts = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        // Target, fields, `hosts`, the host found, and what the backend receives.
        type Row<'a> =
            (&'a str, &'a [(&'a str, &'a str)], Vec<String>, [Option<&'static str>; 2], &'static str);
        let table: &[Row<'_>] = &[
            ("/", &[], hosts(&[]), [Some(""), None], "app:9000"),
            ("/", &[("host", "")], hosts(&[]), [Some(""), None], "app:9000"),
            ("/", &[], hosts(&["*.b", "b", "a"]), [Some("b"), Some("b")], "b"),
            ("http://c:1/", &[], hosts(&["b"]), [Some("c:1"), Some("c:1")], "c:1"),
            ("/", &[("host", "d")], hosts(&["b"]), [Some("d"), Some("d")], "d"),
        ];
        for (target, fields, hosts, [host, forwarded], backends) in table {
            let mut requested = parts("GET", target, fields);
            let reported = |requested: &Parts, name: &HeaderName| requested.headers.get(name).cloned();
            clean_request(&mut requested, None, &by, "/", hosts);
            let value = |text: &Option<&'static str>| text.map(HeaderValue::from_static);
            assert_eq!(reported(&requested, &header::HOST), value(host), "{target} {fields:?}");
            assert_eq!(reported(&requested, &FORWARDED_HOST), value(forwarded), "{target} {fields:?}");
            let requested = addressed(requested, "/");
            assert_eq!(reported(&requested, &header::HOST), Some(HeaderValue::from_static(backends)));
        }
    }

    /// What one backend is sent after another could not be reached.
    fn addressed(mut requested: Parts, path: &str) -> Parts {
        clean_peer_request(&mut requested, None);
        let target = RequestedTarget::of(&requested);
        let mut request = hyper::Request::from_parts(requested, ());
        target.write_to(&mut request, "/other", "other:1");
        target.write_to(&mut request, path, "app:9000");
        request.into_parts().0
    }

    #[test]
    fn the_path_of_a_backend_replaces_that_of_its_accept() {
        let table = [
            ("/shop/a?b", Some("/shop"), "/app", "/app/a?b"),
            ("/shop", Some("/shop"), "/app", "/app"),
            ("/shop?b", Some("/shop"), "/app", "/app/?b"),
            ("/shops", Some("/shop"), "/app", "/app/shops"),
            ("/a", None, "/app", "/app/a"),
            ("/", None, "/app", "/app/"),
            ("/shop/a", Some("/shop"), "/", "/shop/a"),
        ];
        for (target, prefix, path, expected) in table {
            let mut requested = parts("GET", target, &[]);
            if let Some(prefix) = prefix {
                requested.headers.insert(FORWARDED_PREFIX, prefix.parse().expect("a value"));
            }
            let requested = addressed(requested, path);
            assert_eq!(requested.uri.to_string(), expected, "{target} {prefix:?} {path}");
        }
    }
}
