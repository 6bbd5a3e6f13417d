//! The PROXY protocol, versions 1 and 2: a proxy before us says who its client is, and we say it to
//! a backend.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proxy_header::{Error, ParseConfig, ProxiedAddress, ProxyHeader};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::profile::ProxyVersion;

/// A header of version 2 says its own length, in 16 bits after the first 16 bytes.
const HEADER_BYTES_MAX: usize = 16 + u16::MAX as usize;
/// One of version 1 is a line.
const LINE_BYTES_MAX: usize = 107;

const WITHOUT_EXTENSIONS: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };

/// Reads a header: the client, unless the proxy speaks for itself, and what was read behind it.
pub async fn read(stream: &mut TcpStream) -> Result<(Option<SocketAddr>, Vec<u8>), String> {
    let mut said = Vec::new();
    loop {
        match stream.read_buf(&mut said).await {
            Ok(0) => return Err("it left before its PROXY header was complete".into()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        if let Some((client, length)) = parse(&said)? {
            return Ok((client, said.split_off(length)));
        }
    }
}

/// The client that a header names and the header's length; `None` while it is not complete.
pub fn parse(said: &[u8]) -> Result<Option<(Option<SocketAddr>, usize)>, String> {
    match ProxyHeader::parse(said, WITHOUT_EXTENSIONS) {
        Ok((_, length)) if said[0] == b'P' && length > LINE_BYTES_MAX => {
            Err(format!("its PROXY header is a line of more than {LINE_BYTES_MAX} bytes"))
        }
        Ok((header, length)) => {
            let client = header.proxied_address().map(|address| address.source);
            Ok(Some((
                client.map(|client| SocketAddr::new(client.ip().to_canonical(), client.port())),
                length,
            )))
        }
        Err(Error::BufferTooShort) if said.len() < HEADER_BYTES_MAX => Ok(None),
        Err(_) => Err("what it says first is no PROXY header".into()),
    }
}

/// The header for a backend: who the client is, where that is known.
pub fn header(version: ProxyVersion, client: Option<SocketAddr>, backend: SocketAddr) -> Vec<u8> {
    let header = match client {
        None => ProxyHeader::with_local(),
        Some(client) => {
            // Both are of one family in a header; it is the client that matters.
            let any = match client.ip() {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            };
            let is_alike = client.is_ipv4() == backend.is_ipv4();
            let backend = if is_alike { backend } else { SocketAddr::new(any, backend.port()) };
            ProxyHeader::with_address(ProxiedAddress::stream(client, backend))
        }
    };
    let mut bytes = Vec::new();
    let encoded = match version {
        ProxyVersion::V1 => header.encode_v1(&mut bytes),
        ProxyVersion::V2 => header.encode_v2(&mut bytes),
    };
    encoded.expect("the addresses are of one family and nothing else is in it");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS: [&str; 2] = ["192.0.2.7:50000", "[2001:db8::7]:50000"];

    #[test]
    fn what_is_written_is_read_at_every_cut() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            for client in
                CLIENTS.map(|client| Some(client.parse().expect("an address"))).into_iter().chain([None])
            {
                for backend in CLIENTS {
                    let bytes = header(version, client, backend.parse().expect("an address"));
                    for cut in 1..bytes.len() {
                        assert_eq!(parse(&bytes[..cut]), Ok(None), "{version:?} {client:?} {cut}");
                    }
                    let more = [&bytes[..], b"PROXY"].concat();
                    assert_eq!(parse(&more), Ok(Some((client, bytes.len()))), "{version:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_written_is_what_the_manual_says() {
        let [client, _] = CLIENTS.map(|client| client.parse().expect("an address"));
        let backend = "10.0.0.1:25".parse().expect("an address");
        let line = header(ProxyVersion::V1, Some(client), backend);
        assert_eq!(line, b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 25\r\n");
        let bytes = header(ProxyVersion::V2, Some(client), backend);
        let expected =
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 7, 10, 0, 0, 1, 195, 80, 0, 25]]
                .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_is_none_is_told_at_once() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXY TCP4 a b c d\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
            long.as_bytes(),
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
