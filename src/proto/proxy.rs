//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): a header in front of a client's bytes
//! that says who the client is. The fields of version 2 (TLVs) are checked and kept, since a backend may want
//! them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::{FromStr, Split},
};

use thiserror::Error;

use super::multiplex::open::{PROXY_TLVS_BYTES_MAX, ProvenUser};
use crate::profile::ProxyVersion;

/// The first bytes of version 2, and of version 1.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LINE: &[u8] = b"PROXY ";
/// Version 1 is a line of at most this many bytes.
const LINE_BYTES_MAX: usize = 107;
/// Version 2: signature, command, family, length.
const HEAD_BYTES: usize = SIGNATURE.len() + 4;

/// Why a header is invalid, and where. What was sent instead appears as a number at most.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProxyHeaderError {
    #[error(
        "it does not begin with a PROXY header: its byte {at} is {byte:#04x}; let the proxy send one, \
         or leave out `proxy`"
    )]
    Begin { at: usize, byte: u8 },
    #[error("its PROXY line has no end within {LINE_BYTES_MAX} bytes")]
    Long,
    #[error("its PROXY line ends in LF instead of CR LF")]
    End,
    #[error("byte {0} of its PROXY line is not ASCII")]
    Text(usize),
    #[error("field 2 of its PROXY line is neither TCP4, TCP6 nor UNKNOWN")]
    Family,
    #[error("field {0} of its PROXY line is not {1}")]
    Field(usize, &'static str),
    #[error("its PROXY line has more than 6 fields")]
    More,
    #[error("byte 12 of its PROXY header is {0:#04x}, neither 0x20 (LOCAL) nor 0x21 (PROXY) of version 2")]
    Command(u8),
    #[error("byte 13 of its PROXY header is {0:#04x}, which is not a known address family")]
    Kind(u8),
    #[error("bytes 14 and 15 of its PROXY header say that {announced} bytes follow, where {least} have to")]
    Short { announced: usize, least: usize },
    #[error("a field of its PROXY header, type {0:#04x}, does not end within it")]
    Unfinished(u8),
    #[error("the checksum of its PROXY header is not that of its bytes")]
    Checksum,
}

/// The contents of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyHeader {
    /// `None` if the proxy speaks for itself.
    pub client: Option<SocketAddr>,
    /// The address that the client connected to.
    pub destination: Option<SocketAddr>,
    /// Other fields of version 2, except those about this header itself: a checksum, and padding.
    pub tlvs: Vec<u8>,
    /// The length of the header in bytes.
    pub length: usize,
}

impl ProxyHeader {
    fn of(addresses: Option<(SocketAddr, SocketAddr)>, length: usize) -> Self {
        let (client, destination) = addresses.unzip();
        Self { client, destination, tlvs: Vec::new(), length }
    }
}

/// Types of version 2's further fields (2.2.3, 2.2.4) that are about one header only.
const CHECKSUM: u8 = 0x03;
const PADDING: u8 = 0x04;

/// Reads a header; `None` while it is incomplete.
pub fn parse(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let is_line = bytes.first() == LINE.first();
    let begins = if is_line { LINE } else { SIGNATURE };
    if let Some(at) = bytes.iter().zip(begins).position(|(byte, meant)| byte != meant) {
        return Err(ProxyHeaderError::Begin { at, byte: bytes[at] });
    }
    match is_line {
        _ if bytes.len() < begins.len() => Ok(None),
        true => parse_text(bytes),
        false => parse_binary(bytes),
    }
}

fn parse_text(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if within.len() < LINE_BYTES_MAX { Ok(None) } else { Err(ProxyHeaderError::Long) };
    };
    let text = within[..end].strip_suffix(b"\r").ok_or(ProxyHeaderError::End)?;
    let no_ascii = text.iter().position(|byte| !byte.is_ascii());
    let text = std::str::from_utf8(text).map_err(|_| ProxyHeaderError::Text(no_ascii.unwrap_or_default()))?;
    let mut fields = text.split(' ');
    let client = match fields.nth(1) {
        Some("TCP4") => Some(addresses::<Ipv4Addr>(fields, "an IPv4 address")?),
        Some("TCP6") => Some(addresses::<Ipv6Addr>(fields, "an IPv6 address")?),
        Some("UNKNOWN") => None,
        _ => return Err(ProxyHeaderError::Family),
    };
    Ok(Some(ProxyHeader::of(client, end + 1)))
}

fn addresses<T: FromStr + Into<IpAddr>>(
    mut fields: Split<'_, char>,
    what: &'static str,
) -> Result<(SocketAddr, SocketAddr), ProxyHeaderError> {
    let mut address = |at| -> Result<T, ProxyHeaderError> {
        fields.next().and_then(|field| field.parse().ok()).ok_or(ProxyHeaderError::Field(at, what))
    };
    let (client, destination) = (address(3)?, address(4)?);
    let mut port = |at| {
        let port = fields.next().and_then(|field| Some((field, field.parse::<u16>().ok()?)));
        // Refuses `+1` and `01`.
        let port = port.filter(|(field, port)| *field == port.to_string());
        port.map(|(_, port)| port).ok_or(ProxyHeaderError::Field(at, "a port"))
    };
    let ports = (port(5)?, port(6)?);
    if fields.next().is_some() {
        Err(ProxyHeaderError::More)
    } else {
        Ok((SocketAddr::new(client.into(), ports.0), SocketAddr::new(destination.into(), ports.1)))
    }
}

fn parse_binary(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
    let Some(&[command, kind, high, low]) = bytes[SIGNATURE.len()..].first_chunk() else {
        // The received part may already be wrong.
        return bytes.get(SIGNATURE.len()).map_or(Ok(None), |command| is_local(*command).map(|_| None));
    };
    let is_local = is_local(command)?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let least = match kind {
        _ if is_local => 0,
        0x11 => 12,
        0x21 => 36,
        // Unknown, UDP, or no Internet address: the proxy itself is the client.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => 0,
        kind => return Err(ProxyHeaderError::Kind(kind)),
    };
    if length < least {
        return Err(ProxyHeaderError::Short { announced: length, least });
    }
    let Some(body) = bytes[HEAD_BYTES..].get(..length) else { return Ok(None) };
    let mut header = ProxyHeader::of(binary_addresses(body, least), HEAD_BYTES + length);
    if least > 0 {
        header.tlvs = check_fields(&bytes[..header.length], HEAD_BYTES + least)?;
    }
    Ok(Some(header))
}

/// For a body of at least 12 bytes, or 36.
fn binary_addresses(body: &[u8], least: usize) -> Option<(SocketAddr, SocketAddr)> {
    let address = |at: usize, port_at: usize| {
        let port = u16::from_be_bytes([body[port_at], body[port_at + 1]]);
        let ip: IpAddr = match least {
            12 => <[u8; 4]>::try_from(&body[at..at + 4]).map(IpAddr::from).ok()?,
            _ => <[u8; 16]>::try_from(&body[at..at + 16]).map(IpAddr::from).ok()?,
        };
        Some(SocketAddr::new(ip, port))
    };
    match least {
        12 => Some((address(0, 8)?, address(4, 10)?)),
        36 => Some((address(0, 32)?, address(16, 34)?)),
        _ => None,
    }
}

/// The further fields of a header, checked; each has a type (1), a length (2) and a value.
fn check_fields(header: &[u8], begins_at: usize) -> Result<Vec<u8>, ProxyHeaderError> {
    let (mut kept, mut at) = (Vec::new(), begins_at);
    while let Some(&kind) = header.get(at) {
        let length =
            header.get(at + 1..at + 3).map(|bytes| usize::from(bytes[0]) << 8 | usize::from(bytes[1]));
        let field = length.and_then(|length| header.get(at..at + 3 + length));
        let field = field.ok_or(ProxyHeaderError::Unfinished(kind))?;
        match kind {
            PADDING => {}
            CHECKSUM => {
                let blank =
                    [&header[..at + 3], &vec![0; field.len() - 3], &header[at + field.len()..]].concat();
                if field[3..] != crc32c(&blank).to_be_bytes() {
                    return Err(ProxyHeaderError::Checksum);
                }
            }
            _ => kept.extend_from_slice(field),
        }
        at += field.len();
    }
    // More than goes over a link. Who the client is matters most.
    kept.truncate(if kept.len() > PROXY_TLVS_BYTES_MAX { 0 } else { kept.len() });
    Ok(kept)
}

/// CRC-32 with Castagnoli's polynomial (RFC 3720, section 12.1).
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc: u32, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

fn is_local(command: u8) -> Result<bool, ProxyHeaderError> {
    match command {
        0x20 => Ok(true),
        0x21 => Ok(false),
        command => Err(ProxyHeaderError::Command(command)),
    }
}

/// Types of version 2's further fields (2.2.6): what is known of the client's TLS, and within that, its version and the
/// name in the client's certificate.
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
/// From the range for private agreements (2.2.8): `METHOD:NAME`.
const USER: u8 = 0xE0;
/// The client used TLS, and has shown a valid certificate on this connection (a result of zero).
const CERTIFIED: [u8; 5] = [0x01 | 0x02 | 0x04, 0, 0, 0, 0];
/// The method of a user who has shown a certificate.
pub const CERTIFICATE_METHOD: &str = "certificate";

/// The further fields of version 2 for a backend: those of a proxy in front of us, and the user that the client
/// has proven to be. The proxy's own fields about the user are replaced.
pub fn fields_of(user: Option<&ProvenUser>, tlvs: &[u8]) -> Vec<u8> {
    let Some(ProvenUser { method, name }) = user else { return tlvs.to_vec() };
    if method != CERTIFICATE_METHOD {
        return replace_field(tlvs, USER, format!("{method}:{name}").as_bytes());
    }
    let name = field(SSL_CN, name.as_bytes());
    let version = find_field(tlvs, SSL).and_then(|tls| find_field(tls.get(CERTIFIED.len()..)?, SSL_VERSION));
    let version = version.map(|version| field(SSL_VERSION, version)).unwrap_or_default();
    replace_field(tlvs, SSL, &[&CERTIFIED[..], &version, &name].concat())
}

/// The further fields with the TLS version of a client that has shown a certificate, as the half that has spoken TLS
/// with it tells the other one.
pub fn with_tls_version(tlvs: Vec<u8>, version: &str) -> Vec<u8> {
    let reported =
        replace_field(&tlvs, SSL, &[&CERTIFIED[..], &field(SSL_VERSION, version.as_bytes())].concat());
    if reported.len() > PROXY_TLVS_BYTES_MAX { tlvs } else { reported }
}

fn field(kind: u8, value: &[u8]) -> Vec<u8> {
    // Bounded where they come from.
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// The kind and the value of each.
fn fields(mut tlvs: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, high, low], remainder) = tlvs.split_first_chunk()?;
        let (value, rest) = remainder.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        tlvs = rest;
        Some((kind, value))
    })
}

fn find_field(tlvs: &[u8], wanted: u8) -> Option<&[u8]> {
    fields(tlvs).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// With this one behind the others, in place of any of its kind.
fn replace_field(tlvs: &[u8], replaced: u8, value: &[u8]) -> Vec<u8> {
    let kept =
        fields(tlvs).filter(|(kind, _)| *kind != replaced).flat_map(|(kind, value)| field(kind, value));
    kept.chain(field(replaced, value)).collect()
}

/// The header for a backend: who the client is, if known, what it connected to, and what a proxy in front of us
/// said.
pub fn write_header(
    version: ProxyVersion,
    client: Option<SocketAddr>,
    destination: SocketAddr,
    tlvs: &[u8],
) -> Vec<u8> {
    let Some(client) = client else {
        return match version {
            ProxyVersion::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            ProxyVersion::V2 => [SIGNATURE, b"\x20\0\0\0"].concat(),
        };
    };
    let to = match (client.ip(), destination.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => destination.ip(),
        // Both addresses of a header are of one family; the client's matters more.
        (IpAddr::V4(_), IpAddr::V6(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (IpAddr::V6(_), IpAddr::V4(_)) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let (from, ports) = (client.ip(), (client.port(), destination.port()));
    match version {
        ProxyVersion::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
        }
        ProxyVersion::V2 => {
            let (kind, least): (&[u8], usize) =
                if from.is_ipv4() { (b"\x21\x11", 12) } else { (b"\x21\x21", 36) };
            // Limited where they come from.
            let length = u16::try_from(least + tlvs.len()).unwrap_or(u16::MAX).to_be_bytes();
            let octets = |ip| match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let ports = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
            [SIGNATURE, kind, &length, &octets(from), &octets(to), &ports, tlvs].concat()
        }
    }
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
                    let destination: SocketAddr = backend.parse().expect("an address");
                    let tlvs: &[u8] = if version == ProxyVersion::V2 { b"\x02\0\x03abc" } else { b"" };
                    let bytes = write_header(version, client, destination, tlvs);
                    for cut in 1..bytes.len() {
                        assert_eq!(parse(&bytes[..cut]), Ok(None), "{version:?} {client:?} {cut}");
                    }
                    let more = [&bytes[..], b"PROXY"].concat();
                    let is_alike = client.is_some_and(|client| client.is_ipv4() == destination.is_ipv4());
                    let received = parse(&more).expect("a header").expect("it is whole");
                    assert_eq!((received.client, received.length), (client, bytes.len()), "{version:?}");
                    assert_eq!(received.destination == Some(destination), is_alike, "{received:?}");
                    assert_eq!(received.tlvs, if client.is_some() { tlvs } else { b"" });
                }
            }
        }
    }

    #[test]
    fn written_headers_follow_the_specification() {
        let [client, _] = CLIENTS.map(|client| client.parse().expect("an address"));
        let backend = "10.0.0.1:25".parse().expect("an address");
        let line = write_header(ProxyVersion::V1, Some(client), backend, b"");
        assert_eq!(line, b"PROXY TCP4 192.0.2.7 10.0.0.1 50000 25\r\n");
        let bytes = write_header(ProxyVersion::V2, Some(client), backend, b"");
        let expected =
            [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 7, 10, 0, 0, 1, 195, 80, 0, 25]]
                .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_users_name_is_a_field_as_it_was_proven() {
        let user = |method: &str| ProvenUser { method: method.into(), name: "al\u{fc}".into() };
        let before = b"\x02\0\x01h\xe0\0\x04root\x20\0\x05\x07\0\0\0\0";
        let table: [(Option<ProvenUser>, &[u8]); 3] = [
            (None, before),
            (
                Some(user("certificate")),
                b"\x02\0\x01h\xe0\0\x04root\x20\0\x0c\x07\0\0\0\0\x22\0\x04al\xc3\xbc",
            ),
            (Some(user("basic")), b"\x02\0\x01h\x20\0\x05\x07\0\0\0\0\xe0\0\x0abasic:al\xc3\xbc"),
        ];
        for (user, reported) in table {
            assert_eq!(fields_of(user.as_ref(), before), reported, "{user:?}");
        }
    }

    #[test]
    fn the_header_carries_the_clients_tls_version_and_name() {
        let user = ProvenUser { method: CERTIFICATE_METHOD.into(), name: "al".into() };
        // What the proxy before us said of TLS is not about that of the client.
        let before = b"\x02\0\x01h\x20\0\x0f\x07\0\0\0\0\x21\0\x07TLSv1.0".to_vec();
        let reported = with_tls_version(before, "TLSv1.3");
        let ssl = b"\x07\0\0\0\0\x21\0\x07TLSv1.3";
        assert_eq!(reported, [&b"\x02\0\x01h\x20\0\x0f"[..], ssl].concat());
        let to_backend = [&b"\x02\0\x01h\x20\0\x14"[..], ssl, b"\x22\0\x02al"].concat();
        assert_eq!(fields_of(Some(&user), &reported), to_backend);
        let full = field(5, &[7; PROXY_TLVS_BYTES_MAX - 3]);
        assert_eq!(with_tls_version(full.clone(), "TLSv1.3"), full, "no more goes over a link");
    }

    #[test]
    fn further_fields_are_checked_and_those_about_the_header_alone_left_out() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283, "the example of the standard");
        let header = |fields: &[u8]| {
            let length = (12 + fields.len() as u16).to_be_bytes();
            [SIGNATURE, b"\x21\x11", &length, &[1; 12], fields].concat()
        };
        let unsealed = header(b"\x02\0\x01h\x04\0\x02xx\x03\0\x04\0\0\0\0\xe0\0\x01u");
        let seal = crc32c(&unsealed).to_be_bytes();
        let mut sealed = unsealed.clone();
        let at = sealed.len() - 8;
        sealed[at..at + 4].copy_from_slice(&seal);
        let received = parse(&sealed).expect("a header").expect("it is whole");
        assert_eq!(received.tlvs, b"\x02\0\x01h\xe0\0\x01u");
        assert_eq!(parse(&unsealed), Err(ProxyHeaderError::Checksum));
        for cut in [&b"\x02"[..], b"\x02\0", b"\x02\0\x02a"] {
            assert_eq!(parse(&header(cut)), Err(ProxyHeaderError::Unfinished(2)), "{cut:?}");
        }
        let long = [&b"\x05\x20\0"[..], &[7; 0x2000]].concat();
        let received = parse(&header(&long)).expect("a header").expect("it is whole");
        assert_eq!((received.client.is_some(), received.tlvs.len()), (true, 0), "more than a link takes");
    }

    #[test]
    fn what_names_no_client_is_the_proxys_own() {
        let udp = [SIGNATURE, b"\x21\x12\0\x0c", &[7; 12]].concat();
        let unix = [SIGNATURE, b"\x21\x31\0\xd8", &[7; 216]].concat();
        // What follows UNKNOWN or LOCAL is not read.
        let local = [SIGNATURE, b"\x20\x11\0\x02ab"].concat();
        for bytes in [&b"PROXY UNKNOWN ffff::1 x y\r\n"[..], &udp, &unix, &local] {
            assert_eq!(parse(bytes), Ok(Some(ProxyHeader::of(None, bytes.len()))), "{bytes:?}");
        }
    }

    #[test]
    fn an_invalid_header_is_refused_at_its_position_at_once() {
        let v2 = |rest: &[u8]| [SIGNATURE, rest].concat();
        let long = format!("PROXY UNKNOWN {}", "x".repeat(93));
        for (bytes, reported) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), "its byte 0 is 0x47; let the proxy send one"),
            (b"PROXX".to_vec(), "its byte 4 is 0x58;"),
            (b"\r\n\r\n\0\r\nQUIX".to_vec(), "its byte 10 is 0x58;"),
            (long.into_bytes(), "no end within 107 bytes"),
            (b"PROXY TCP4 1\n".to_vec(), "LF instead of CR LF"),
            (b"PROXY \xff\r\n".to_vec(), "byte 6 of its PROXY line is not ASCII"),
            (b"PROXY TCP9 1 2 3 4\r\n".to_vec(), "field 2"),
            (b"PROXY  TCP4 192.0.2.7 192.0.2.8 1 2\r\n".to_vec(), "field 2"),
            (b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(), "field 3 of its PROXY line is not an IPv4 address"),
            (
                b"PROXY TCP6 ::1 192.0.2.7 1 2\r\n".to_vec(),
                "field 4 of its PROXY line is not an IPv6 address",
            ),
            (b"PROXY TCP4 192.0.2.7 192.0.2.8 01 2\r\n".to_vec(), "field 5 of its PROXY line is not a port"),
            (b"PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n".to_vec(), "field 6 of its PROXY line is not a port"),
            (b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2 3\r\n".to_vec(), "more than 6 fields"),
            (v2(b"\x31"), "byte 12 of its PROXY header is 0x31"),
            (v2(b"\x21\x13\0\0"), "byte 13 of its PROXY header is 0x13"),
            (v2(b"\x21\x21\0\x0c"), "say that 12 bytes follow, where 36 have to"),
        ] {
            let fault = parse(&bytes).expect_err("it is invalid").to_string();
            assert!(fault.contains(reported), "{bytes:?}: {fault}");
        }
    }
}
