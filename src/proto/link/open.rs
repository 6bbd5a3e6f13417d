//! `open`: a client has come.
//!
//! ```text
//! flags (1: bit 0 a probe), id: length (1) and text, client: 0, or 4 or 6 with address and port (2),
//! service: length (1) and text
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ProtocolViolation, frame::FrameKind, hello::push_name};
use crate::profile::ServiceName;

const PROBE: u8 = 1;
/// A session's id is a few hexadecimal digits and a dash.
pub const ID_MAX: usize = 32;
pub const BODY_MIN: usize = 1 + 2 + 1 + 2;
pub const BODY_MAX: usize = 1 + 1 + ID_MAX + 19 + 1 + 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenFrame {
    pub service: ServiceName,
    /// The session's id, the same on both gateways.
    pub id: String,
    pub client: Option<SocketAddr>,
    /// No client but a check of the way.
    pub probe: bool,
}

impl OpenFrame {
    pub fn body(&self) -> Vec<u8> {
        let mut body = vec![if self.probe { PROBE } else { 0 }];
        let id = &self.id.as_bytes()[..self.id.len().min(ID_MAX)];
        body.push(id.len() as u8);
        body.extend_from_slice(id);
        match self.client.map(|client| (client.ip(), client.port())) {
            None => body.push(0),
            Some((IpAddr::V4(ip), port)) => {
                body.push(4);
                body.extend_from_slice(&ip.octets());
                body.extend_from_slice(&port.to_be_bytes());
            }
            Some((IpAddr::V6(ip), port)) => {
                body.push(6);
                body.extend_from_slice(&ip.octets());
                body.extend_from_slice(&port.to_be_bytes());
            }
        }
        push_name(&mut body, &self.service);
        body
    }

    pub fn parse(body: &[u8]) -> Result<Self, ProtocolViolation> {
        let bad = |what| ProtocolViolation::Body(FrameKind::Open, what);
        let (flags, rest) = body.split_first().ok_or(bad("it is empty"))?;
        if flags & !PROBE != 0 {
            return Err(bad("unknown flags"));
        }
        let (id, rest) = counted(rest)?;
        let is_of_an_id = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        if id.is_empty() || id.len() > ID_MAX || !id.iter().all(is_of_an_id) {
            return Err(bad("no session's id"));
        }
        let (client, rest) = client(rest)?;
        let (name, rest) = counted(rest)?;
        let service = std::str::from_utf8(name).ok().and_then(ServiceName::parse);
        let service = service.ok_or(bad("a service's name that no profile could hold"))?;
        if !rest.is_empty() {
            return Err(bad("it goes on behind its service"));
        }
        let id = id.iter().map(|byte| char::from(*byte)).collect();
        Ok(Self { service, id, client, probe: flags & PROBE != 0 })
    }
}

fn early() -> ProtocolViolation {
    ProtocolViolation::Body(FrameKind::Open, "it ends too early")
}

fn counted(bytes: &[u8]) -> Result<(&[u8], &[u8]), ProtocolViolation> {
    let (length, rest) = bytes.split_first().ok_or_else(early)?;
    rest.split_at_checked(usize::from(*length)).ok_or_else(early)
}

fn client(bytes: &[u8]) -> Result<(Option<SocketAddr>, &[u8]), ProtocolViolation> {
    let (family, rest) = bytes.split_first().ok_or_else(early)?;
    let (ip, rest): (IpAddr, _) = match family {
        0 => return Ok((None, rest)),
        4 => {
            let (ip, rest) = rest.split_first_chunk::<4>().ok_or_else(early)?;
            (Ipv4Addr::from(*ip).into(), rest)
        }
        6 => {
            let (ip, rest) = rest.split_first_chunk::<16>().ok_or_else(early)?;
            (Ipv6Addr::from(*ip).into(), rest)
        }
        _ => return Err(ProtocolViolation::Body(FrameKind::Open, "an unknown family of addresses")),
    };
    let (port, rest) = rest.split_first_chunk::<2>().ok_or_else(early)?;
    Ok((Some(SocketAddr::new(ip, u16::from_be_bytes(*port))), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_told_is_heard() {
        for client in [None, Some("192.0.2.7:258"), Some("[2001:db8::7]:50000")] {
            for probe in [false, true] {
                let open = OpenFrame {
                    service: ServiceName::parse("orders").expect("a valid name"),
                    id: "a1b2-7f".into(),
                    client: client.map(|text| text.parse().expect("an address")),
                    probe,
                };
                assert_eq!(OpenFrame::parse(&open.body()), Ok(open));
            }
        }
    }

    #[test]
    fn an_id_that_could_be_no_id_is_refused() {
        for body in [&b"\0\0\0\x01a"[..], b"\0\x01\n\0\x01a", b"\x02\x01a\0\x01a", b"\0\x01a\x05\x01a"] {
            assert!(OpenFrame::parse(body).is_err(), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_open_or_refused(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(open) = OpenFrame::parse(&body) {
                prop_assert_eq!(open.body(), body);
            }
        }
    }
}
