//! Hop-by-hop header fields (RFC 9110, section 7.6.1), and fields by which a client could claim to be
//! somebody else. Both are removed before a message is forwarded.

use hyper::{
    StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    http::response,
};

/// Whose message head is being cleaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadOrigin {
    /// A client's request, whose claims about its identity count for nothing.
    Client,
    /// A request that the other half has already cleaned.
    Peer,
    Response,
}

/// Removes hop-by-hop fields.
pub fn clean_headers(headers: &mut HeaderMap, of: HeadOrigin) {
    let takes_trailers =
        list_members(headers, header::TE).any(|member| member.eq_ignore_ascii_case(b"trailers"));
    let named = connection_fields(headers);
    let dropped: Vec<HeaderName> = headers.keys().filter(|name| is_dropped(name, of)).cloned().collect();
    for name in dropped.iter().chain(&named) {
        headers.remove(name);
    }
    if takes_trailers && of != HeadOrigin::Response {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// The members of a list, over all lines of its field (RFC 9110, section 5.3). Empty members mean nothing
/// (section 5.6.1.2). Members are bytes, since not all of them are text.
pub fn list_members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    headers.get_all(name).iter().flat_map(|value| split_members(value.as_bytes()))
}

/// The members of a list in one line.
pub fn split_members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
}

/// Whether `Connection` says that nothing follows on this connection.
pub fn wants_close(headers: &HeaderMap) -> bool {
    list_members(headers, header::CONNECTION).any(|member| member.eq_ignore_ascii_case(b"close"))
}

/// Whether this is a token, as in names of methods, fields and protocols (RFC 9110, section 5.6.2).
pub fn is_token(member: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !member.is_empty() && member.iter().all(is_allowed)
}

/// The protocols that an answer names in `Upgrade`. The field is hop-by-hop (RFC 9110, section 7.8). The client
/// still needs it if it says what its connection becomes, or has to ask for.
pub struct UpgradeProtocols(Vec<HeaderValue>);

impl UpgradeProtocols {
    pub fn from_response(head: &response::Parts) -> Self {
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS | StatusCode::UPGRADE_REQUIRED => {
                Self(head.headers.get_all(header::UPGRADE).iter().cloned().collect())
            }
            _ => Self(Vec::new()),
        }
    }

    /// Writes them back into a head that was cleaned.
    pub fn write_to(self, headers: &mut HeaderMap) {
        if !self.0.is_empty() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        for protocol in self.0 {
            headers.append(header::UPGRADE, protocol);
        }
    }
}

/// The fields that `Connection` names, except those that a message needs.
fn connection_fields(headers: &HeaderMap) -> Vec<HeaderName> {
    let names =
        list_members(headers, header::CONNECTION).filter_map(|member| HeaderName::from_bytes(member).ok());
    names.filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH)).collect()
}

fn is_dropped(name: &HeaderName, of: HeadOrigin) -> bool {
    let name = name.as_str();
    // To a CGI program, `_` and `-` are the same.
    match name.contains('_') {
        false => is_of_the_hop(name) || (of == HeadOrigin::Client && is_claim(name)),
        true => is_dropped_spelt(&name.replace('_', "-"), of),
    }
}

fn is_dropped_spelt(name: &str, of: HeadOrigin) -> bool {
    of == HeadOrigin::Client && (is_of_the_hop(name) || is_claim(name))
}

fn is_of_the_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "expect"
            | "http2-settings"
            | "alt-svc"
    )
}

fn is_claim(name: &str) -> bool {
    matches!(name, "forwarded" | "via" | "x-real-ip" | "x-forwarded")
        || name.starts_with("x-forwarded-")
        || is_claimed_name(name)
}

/// Fields in which other gateways tell a backend a client's proven name, and how it was proven.
fn is_claimed_name(name: &str) -> bool {
    const NAMES: [&str; 5] =
        ["remote-user", "x-remote-user", "x-client-cn", "x-client-dn", "x-client-verify"];
    const FAMILIES: [&str; 3] = ["x-ssl-", "ssl-client-", "x-client-cert"];
    NAMES.contains(&name) || FAMILIES.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"));
        }
        map
    }

    fn names(of: HeadOrigin, fields: &[(&str, &str)]) -> Vec<String> {
        let mut map = map(fields);
        clean_headers(&mut map, of);
        let mut names: Vec<_> = map.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn fields_of_the_hop_go_with_those_that_connection_names() {
        let fields = [
            ("connection", "keep-alive, X-One"),
            ("connection", "x-two , host, content-length, , b@d"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("host", "h"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("http2-settings", "x"),
            ("te", "deflate"),
            ("trailer", "x-sum"),
        ];
        for of in [HeadOrigin::Client, HeadOrigin::Peer, HeadOrigin::Response] {
            assert_eq!(names(of, &fields), ["content-length", "host", "trailer", "x-three"], "{of:?}");
        }
    }

    #[test]
    fn claims_of_a_client_go_in_every_spelling() {
        let claims = [
            ("forwarded", "for=1.2.3.4"),
            ("via", "1.1 me"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-anything", "x"),
            ("x-forwarded", "x"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x-forwarded_host", "h"),
            ("x-real-ip", "1.2.3.4"),
            ("x_real_ip", "1.2.3.4"),
            ("x-forwarded-user", "root"),
            ("X_Forwarded-User", "root"),
            ("x-remote-user", "root"),
            ("Remote_User", "root"),
            ("X-SSL-Client-CN", "root"),
            ("x_ssl-anything", "root"),
            ("SSL_CLIENT_S_DN", "root"),
            ("x-client-cert", "root"),
            ("X-Client_Cert-Chain", "root"),
            ("x-client-cn", "root"),
            ("x_client_dn", "root"),
            ("X-Client-Verify", "SUCCESS"),
            ("x-forwardedness", "kept"),
            ("x-client-id", "kept"),
            ("x-sslness", "kept"),
            ("remote-users", "kept"),
            ("a_b", "kept"),
        ];
        let kept = ["a_b", "remote-users", "x-client-id", "x-forwardedness", "x-sslness"];
        assert_eq!(names(HeadOrigin::Client, &claims), kept);
        assert_eq!(names(HeadOrigin::Peer, &claims).len(), claims.len());
    }

    #[test]
    fn a_client_that_takes_trailers_goes_on_to_take_them() {
        let mut takes = map(&[("te", "gzip, Trailers"), ("connection", "te")]);
        clean_headers(&mut takes, HeadOrigin::Client);
        assert_eq!(
            (&takes[header::TE], &takes[header::CONNECTION]),
            (&"trailers".parse().expect("a value"), &"te".parse().expect("a value"))
        );
        assert!(names(HeadOrigin::Client, &[("te", "gzip"), ("connection", "te")]).is_empty());
    }
}
