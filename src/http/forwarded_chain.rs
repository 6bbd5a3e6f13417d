//! Finds the real client behind proxies that name it in their requests (`X-Forwarded-For`, or `Forwarded` of
//! RFC 7239). Only what a trusted proxy has written counts, so the list is read from its end.
//! What a backend learns about the client is written in `request`.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{self, HeaderMap, HeaderName};

use super::fields;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The addresses that a request has come through.
#[derive(Debug, PartialEq, Eq)]
pub struct ForwardedChain {
    pub client: IpAddr,
    /// In the order of the header; the one that sent us the request comes last.
    pub list: Vec<u8>,
}

/// Reads the list of a request from a trusted proxy at `peer`. The client is the first address from the end
/// that is not trusted or, if all are, the farthest one.
pub fn read_chain(headers: &HeaderMap, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> ForwardedChain {
    let mut nodes: Vec<_> = fields::list_members(headers, FORWARDED_FOR).map(<[u8]>::to_vec).collect();
    if nodes.is_empty() {
        let lines = headers.get_all(header::FORWARDED).iter();
        nodes = lines
            .flat_map(|line| split_unquoted(line.as_bytes(), b',').into_iter().filter_map(forwarded_node))
            .collect();
    }
    let mut client = peer;
    for node in nodes.iter().rev() {
        // Before a hidden or invalid address, nobody is known.
        let Some(address) = node_address(node) else { break };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    nodes.push(peer.to_string().into_bytes());
    ForwardedChain { client, list: nodes.join(&b", "[..]) }
}

/// `for="[2001:db8::7]:4711";proto=https`
fn forwarded_node(element: &[u8]) -> Option<Vec<u8>> {
    let value = split_unquoted(element, b';').into_iter().find_map(|pair| {
        let (name, value) = pair.trim_ascii().split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"for=").then_some(value)
    })?;
    let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    let node = quoted.unwrap_or(value);
    let is_node = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-:[]".contains(byte);
    node.iter().all(is_node).then(|| node.to_vec())
}

/// Splits at a character that is outside quotes.
fn split_unquoted(text: &[u8], at: u8) -> Vec<&[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let is_end = |byte: &u8| {
        match (*byte, is_escaped) {
            (_, true) => is_escaped = false,
            (b'\\', _) => is_escaped = is_quoted,
            (b'"', _) => is_quoted = !is_quoted,
            _ => {}
        }
        *byte == at && !is_quoted
    };
    text.split(is_end).collect()
}

/// `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:80`
fn node_address(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn the_list_is_read_from_its_end_past_those_that_are_trusted() {
        let peer = "10.0.0.1".parse().expect("an address");
        let is_trusted = |address: IpAddr| address.to_string().starts_with("10.");
        for (fields, client, list) in [
            (&[][..], "10.0.0.1", "10.0.0.1"),
            (&[("x-forwarded-for", "192.0.2.7")][..], "192.0.2.7", "192.0.2.7, 10.0.0.1"),
            (
                &[("x-forwarded-for", "6.6.6.6, 192.0.2.7:5,10.0.0.2")],
                "192.0.2.7",
                "6.6.6.6, 192.0.2.7:5, 10.0.0.2, 10.0.0.1",
            ),
            (
                &[("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", ", 10.0.0.2,")],
                "192.0.2.7",
                "192.0.2.7, 10.0.0.2, 10.0.0.1",
            ),
            (&[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3", "10.0.0.3, 10.0.0.2, 10.0.0.1"),
            (
                &[("x-forwarded-for", "192.0.2.7, gr\u{fc}n, 10.0.0.2")],
                "10.0.0.2",
                "192.0.2.7, gr\u{fc}n, 10.0.0.2, 10.0.0.1",
            ),
            (&[("x-forwarded-for", "::ffff:192.0.2.7")], "192.0.2.7", "::ffff:192.0.2.7, 10.0.0.1"),
            (&[("x-forwarded-for", "[2001:db8::7]:80")], "2001:db8::7", "[2001:db8::7]:80, 10.0.0.1"),
            (
                &[("forwarded", "for=192.0.2.7;proto=http, For=\"[2001:db8::7]\"")],
                "2001:db8::7",
                "192.0.2.7, [2001:db8::7], 10.0.0.1",
            ),
            (
                &[("forwarded", "by=a;for=192.0.2.7;host=\"a,b;for=c\\\",\"")],
                "192.0.2.7",
                "192.0.2.7, 10.0.0.1",
            ),
            (&[("forwarded", "for=192.0.2.7, for=_hidden")], "10.0.0.1", "192.0.2.7, _hidden, 10.0.0.1"),
            (
                &[("forwarded", "for=192.0.2.7"), ("x-forwarded-for", "192.0.2.8")],
                "192.0.2.8",
                "192.0.2.8, 10.0.0.1",
            ),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                let value: Vec<u8> = value.chars().map(|byte| byte as u8).collect();
                headers.append(*name, HeaderValue::from_bytes(&value).expect("a value"));
            }
            let through = read_chain(&headers, peer, is_trusted);
            let reported: String = through.list.iter().copied().map(char::from).collect();
            assert_eq!(
                (through.client.to_string().as_str(), reported.as_str()),
                (client, list),
                "{fields:?}"
            );
        }
    }
}
