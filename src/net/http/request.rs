//! A request as the gateway takes it, and as it sends it on.

use std::net::IpAddr;

use hyper::{
    Method, Request, StatusCode, Uri, Version,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    http::{request::Parts, uri::PathAndQuery},
};

use super::{
    answer::{Objection, bad},
    fields::{self, Of},
};

pub const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What a request says of whom it means.
#[derive(Debug)]
pub struct Asked<'a> {
    /// In lower case, without its port.
    pub host: &'a str,
    pub path: &'a str,
    pub origin: Option<&'a str>,
}

/// Who a backend is told that its client is.
#[derive(Debug)]
pub struct By {
    client: HeaderValue,
    scheme: HeaderValue,
}

impl By {
    pub fn new(client: IpAddr, is_tls: bool) -> Self {
        let client = HeaderValue::from_str(&client.to_string());
        Self {
            client: client.unwrap_or(HeaderValue::from_static("unknown")),
            scheme: HeaderValue::from_static(if is_tls { "https" } else { "http" }),
        }
    }
}

/// Checks what every reader of the request has to agree on; the host that it means, in lower case and
/// without its port.
pub fn check<B>(request: &Request<B>) -> Result<String, Objection> {
    match *request.method() {
        Method::CONNECT => {
            return Err(Objection::new(StatusCode::NOT_IMPLEMENTED, "CONNECT is not served here"));
        }
        Method::TRACE => {
            return Err(Objection::new(StatusCode::METHOD_NOT_ALLOWED, "TRACE is not served here"));
        }
        _ => {}
    }
    let host = match one(request.headers(), header::HOST)? {
        Some(host) => host,
        None if request.version() == Version::HTTP_10 => "",
        None => return Err(bad("there is no Host")),
    };
    let is_host = |sign: u8| sign.is_ascii_alphanumeric() || b"-._~:[]!$&'()*+;=%".contains(&sign);
    if !host.bytes().all(is_host) {
        return Err(bad("Host is none"));
    }
    if let Some(authority) = request.uri().authority() {
        let is_web = matches!(request.uri().scheme_str(), Some("http" | "https"));
        if !is_web || !authority.as_str().eq_ignore_ascii_case(host) {
            return Err(bad("its target and its Host do not agree"));
        }
    }
    let path = request.uri().path();
    let is_path = path.starts_with('/') || (path == "*" && *request.method() == Method::OPTIONS);
    if !is_path || climbs(path) {
        return Err(bad("its path is none"));
    }
    Ok(without_port(host).to_ascii_lowercase())
}

/// The origin that a page's request names.
pub fn origin(headers: &HeaderMap) -> Result<Option<&str>, Objection> {
    one(headers, header::ORIGIN)
}

/// The only value of a field that may stand once.
pub(super) fn one(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Objection> {
    let mut values = headers.get_all(name).iter();
    let value =
        values.next().map(|value| value.to_str().map_err(|_| bad("a header is no text"))).transpose()?;
    if values.next().is_some() { Err(bad("a header stands there twice")) } else { Ok(value) }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a path leaves its folder, in any spelling that a backend may read so.
fn climbs(path: &str) -> bool {
    if !path.contains("..") && !path.contains('%') {
        return false;
    }
    let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\");
    let folder = |segment: &str| segment.split(';').next() == Some("..");
    plain.split(['/', '\\']).any(folder)
}

/// What a request wants its connection to become; `None` where nothing that is served here.
///
/// Another version of HTTP is not passed on: what it asks could not be looked at.
pub fn upgrade(parts: &Parts, has_body: bool) -> Option<HeaderValue> {
    let mut wanted = parts.headers.get_all(header::UPGRADE).iter();
    let (Some(only), None) = (wanted.next(), wanted.next()) else { return None };
    let protocol = only.to_str().ok()?.to_ascii_lowercase();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
    let asks =
        fields::tokens(&parts.headers, header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let is_plain = !protocol.is_empty() && protocol.bytes().all(is_token) && is_passed(&protocol);
    (asks && is_plain && !has_body && parts.version == Version::HTTP_11).then(|| only.clone())
}

/// Whether a protocol that a client offers is one that could be passed on.
pub(super) fn is_passed(protocol: &str) -> bool {
    let begins =
        |other: &str| protocol.get(..other.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(other));
    !["h2", "http", "tls"].into_iter().any(begins)
}

/// Whether a request may make its connection something else.
pub fn may_upgrade(headers: &HeaderMap) -> bool {
    headers.get_all(header::UPGRADE).iter().any(|value| value.to_str().is_ok_and(is_passed))
}

/// Whether a request wants to become a WebSocket.
pub fn is_socket(upgrade: Option<&HeaderValue>) -> bool {
    upgrade.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Makes a client's request one of our own. `path` is the accept's.
pub fn clean(parts: &mut Parts, upgrade: Option<HeaderValue>, by: &By, path: &str) {
    pass(parts, upgrade, Of::Client);
    let headers = &mut parts.headers;
    headers.insert(FORWARDED_FOR, by.client.clone());
    headers.insert(FORWARDED_PROTO, by.scheme.clone());
    match headers.get(header::HOST).cloned() {
        Some(host) => drop(headers.insert(FORWARDED_HOST, host)),
        // HTTP/1.1 can not do without.
        None => drop(headers.insert(header::HOST, HeaderValue::from_static(""))),
    }
    if path != "/"
        && let Ok(prefix) = HeaderValue::from_str(path)
    {
        headers.insert(FORWARDED_PREFIX, prefix);
    }
}

/// Makes a request that the other half has cleaned one of our own. A path that the backend's address has
/// stands in for the accept's.
pub fn clean_again(parts: &mut Parts, upgrade: Option<HeaderValue>, path: &str) {
    pass(parts, upgrade, Of::Peer);
    let asked = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let prefix = parts.headers.get(FORWARDED_PREFIX).and_then(|prefix| prefix.to_str().ok());
    if path != "/" && asked.starts_with('/') {
        let below = prefix.and_then(|prefix| below(asked, prefix)).unwrap_or(asked);
        let slash = if below.starts_with('/') { "" } else { "/" };
        let full = if below.is_empty() { path.to_owned() } else { format!("{path}{slash}{below}") };
        if let Ok(uri) = full.parse::<PathAndQuery>() {
            parts.uri = Uri::from(uri);
        }
    }
}

/// What of a target stands below a folder.
pub(super) fn below<'a>(target: &'a str, folder: &str) -> Option<&'a str> {
    let rest = target.strip_prefix(folder.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with(['/', '?', '#'])).then_some(rest)
}

fn pass(parts: &mut Parts, upgrade: Option<HeaderValue>, of: Of) {
    fields::clean(&mut parts.headers, of);
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
        check(&Request::from_parts(parts.clone(), ())).map_err(|objection| objection.status.as_u16())
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
            ("GET", "ftp://shop.example:8080/a", h, Err(400)),
            ("GET", "*", h, Err(400)),
            ("GET", "/a/../b", h, Err(400)),
            ("GET", "/a/%2E./b", h, Err(400)),
            ("GET", "/a/..%2fb", h, Err(400)),
            ("GET", "/a/..;x=1/b", h, Err(400)),
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
    }

    #[test]
    fn an_upgrade_is_one_that_is_asked_for_and_no_other_http() {
        let table = [
            ("websocket", "Upgrade", false, true),
            ("tcp", "keep-alive, upgrade", false, true),
            ("websocket", "keep-alive", false, false),
            ("websocket", "upgrade", true, false),
            ("h2c", "upgrade", false, false),
            ("HTTP/2.0", "upgrade", false, false),
            ("TLS/1.0", "upgrade", false, false),
            ("websocket, h2c", "upgrade", false, false),
            ("", "upgrade", false, false),
        ];
        for (protocol, connection, has_body, expected) in table {
            let asked = parts("GET", "/", &[("upgrade", protocol), ("connection", connection)]);
            assert_eq!(upgrade(&asked, has_body).is_some(), expected, "{protocol} {connection} {has_body}");
        }
        let twice = parts("GET", "/", &[("upgrade", "a"), ("upgrade", "b"), ("connection", "upgrade")]);
        assert_eq!(upgrade(&twice, false), None);
        let mut old = parts("GET", "/", &[("upgrade", "websocket"), ("connection", "upgrade")]);
        old.version = Version::HTTP_10;
        assert_eq!(upgrade(&old, false), None);
    }

    #[test]
    fn what_goes_on_says_who_asks_in_our_words() {
        let by = By::new("192.0.2.7".parse().expect("an address"), true);
        let mut asked = parts(
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
        clean(&mut asked, None, &by, "/shop");
        let told = |name: &str| asked.headers.get(name).and_then(|value| value.to_str().ok());
        assert_eq!(asked.uri.to_string(), "/shop/x?y");
        assert_eq!(told("x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(told("x-forwarded-proto"), Some("https"));
        assert_eq!(told("x-forwarded-host"), Some("h"));
        assert_eq!(told("x-forwarded-prefix"), Some("/shop"));
        assert_eq!((told("host"), told("cookie")), (Some("h"), Some("a=b")));
        assert_eq!((told("x-real-ip"), told("connection")), (None, None));
        // Without an accept's path there is no prefix, and an upgrade that is wanted stands.
        let mut socket = parts(
            "GET",
            "/",
            &[("upgrade", "websocket"), ("connection", "upgrade"), ("x-forwarded-prefix", "/x")],
        );
        let wanted = upgrade(&socket, false);
        clean(&mut socket, wanted, &by, "/");
        assert_eq!(socket.headers[header::UPGRADE], "websocket");
        assert_eq!(
            (socket.headers.get(FORWARDED_PREFIX), socket.headers.get(header::HOST).map(HeaderValue::len)),
            (None, Some(0))
        );
    }

    #[test]
    fn a_path_of_the_backends_stands_in_for_the_accepts() {
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
            let mut asked = parts("GET", target, &[]);
            if let Some(prefix) = prefix {
                asked.headers.insert(FORWARDED_PREFIX, prefix.parse().expect("a value"));
            }
            clean_again(&mut asked, None, path);
            assert_eq!(asked.uri.to_string(), expected, "{target} {prefix:?} {path}");
        }
    }
}
