//! `open`: the session that a client wants, and what is known about that client.
//!
//! Only the service and the session's id are required. Each of the other fields has a limit, and so have all of
//! them together.

use std::net::{IpAddr, SocketAddr};

use super::{
    PeerViolation,
    fields::{FieldReader, push_field},
    frame::FrameType,
};
use crate::profile::ServiceName;

/// A session's id is a few hexadecimal digits and a dash.
pub const SESSION_ID_BYTES_MAX: usize = 32;
pub const USER_BYTES_MAX: usize = 255;
pub const ALPN_BYTES_MAX: usize = 255;
pub const PROXY_TLVS_BYTES_MAX: usize = 4096;
/// All of the above, and as much again for later versions.
pub const BODY_BYTES_MAX: usize = 10 * 1024;

/// Room for what most of them say.
const BODY_BYTES: usize = 128;

const SERVICE_TAG: u8 = 1;
const SESSION_ID_TAG: u8 = 2;
const PROBE_TAG: u8 = 3;
const CLIENT_TAG: u8 = 4;
const DESTINATION_TAG: u8 = 5;
const USER_TAG: u8 = 6;
const ALPN_TAG: u8 = 7;
const PROXY_TLVS_TAG: u8 = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRequest {
    pub service: ServiceName,
    /// The session's id, the same on both gateways.
    pub id: String,
    /// It is a probe, not a client.
    pub is_probe: bool,
    pub client: Option<SocketAddr>,
    pub origin: ClientOrigin,
}

/// What is known about a client's connection, besides its address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientOrigin {
    /// The address that the client connected to.
    pub destination: Option<SocketAddr>,
    pub user: Option<ProvenUser>,
    /// The protocol that an accept agreed on with its client (RFC 7301).
    pub alpn: Vec<u8>,
    /// What a proxy in front of us said (PROXY v2, section 2.2), except for fields about its header itself.
    pub proxy_tlvs: Vec<u8>,
}

impl ClientOrigin {
    /// For a backend whose connections are shared by clients.
    pub fn without_alpn(&self) -> Box<Self> {
        Box::new(Self { alpn: Vec::new(), ..self.clone() })
    }
}

/// Who a client is, and how that was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenUser {
    /// Such as `certificate`, `basic`, `jwt`.
    pub method: String,
    pub name: String,
}

impl OpenRequest {
    /// A request with nothing else known.
    pub fn new(service: ServiceName, id: String) -> Self {
        Self { service, id, is_probe: false, client: None, origin: ClientOrigin::default() }
    }

    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_BYTES);
        push_field(&mut body, SERVICE_TAG, self.service.as_str().as_bytes());
        push_field(&mut body, SESSION_ID_TAG, self.id.as_bytes());
        if self.is_probe {
            push_field(&mut body, PROBE_TAG, &[]);
        }
        for (tag, address) in [(CLIENT_TAG, self.client), (DESTINATION_TAG, self.origin.destination)] {
            if let Some(address) = address {
                push_field(&mut body, tag, &address_value(address));
            }
        }
        if let Some(user) = &self.origin.user {
            let method = &user.method.as_bytes()[..user.method.len().min(USER_BYTES_MAX)];
            let value = [&[method.len() as u8], method, user.name.as_bytes()].concat();
            push_field(&mut body, USER_TAG, &value);
        }
        for (tag, bytes) in [(ALPN_TAG, &self.origin.alpn), (PROXY_TLVS_TAG, &self.origin.proxy_tlvs)] {
            if !bytes.is_empty() {
                push_field(&mut body, tag, bytes);
            }
        }
        body
    }

    pub fn parse(body: &[u8]) -> Result<Self, PeerViolation> {
        let mut fields = FieldReader::new(FrameType::Open, body);
        let (mut service, mut id, mut probe) = (None, None, None);
        let (mut client, mut destination, mut user) = (None, None, None);
        let (mut alpn, mut proxy_tlvs) = (None, None);
        while let Some((tag, value)) = fields.next_field()? {
            match tag {
                SERVICE_TAG => fields.once(&mut service, fields.service(value)?)?,
                SESSION_ID_TAG => fields.once(&mut id, session_id(value)?)?,
                PROBE_TAG => fields.once(&mut probe, ())?,
                CLIENT_TAG => fields.once(&mut client, address(value)?)?,
                DESTINATION_TAG => fields.once(&mut destination, address(value)?)?,
                USER_TAG => fields.once(&mut user, proven_user(value)?)?,
                ALPN_TAG => fields.once(&mut alpn, bounded(value, ALPN_BYTES_MAX)?)?,
                PROXY_TLVS_TAG => fields.once(&mut proxy_tlvs, bounded(value, PROXY_TLVS_BYTES_MAX)?)?,
                _ => {}
            }
        }
        Ok(Self {
            service: fields.required(service)?,
            id: fields.required(id)?,
            is_probe: probe.is_some(),
            client,
            origin: ClientOrigin {
                destination,
                user,
                alpn: alpn.unwrap_or_default(),
                proxy_tlvs: proxy_tlvs.unwrap_or_default(),
            },
        })
    }
}

fn bad(what: &'static str) -> PeerViolation {
    PeerViolation::BadBody(FrameType::Open, what)
}

fn bounded(value: &[u8], most: usize) -> Result<Vec<u8>, PeerViolation> {
    match value.len() {
        1.. if value.len() <= most => Ok(value.to_vec()),
        _ => Err(bad("a field that is empty or too long")),
    }
}

fn session_id(value: &[u8]) -> Result<String, PeerViolation> {
    let is_of_an_id = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    let is_id = (1..=SESSION_ID_BYTES_MAX).contains(&value.len()) && value.iter().all(is_of_an_id);
    match is_id {
        true => Ok(value.iter().map(|byte| char::from(*byte)).collect()),
        false => Err(bad("an invalid session id")),
    }
}

fn proven_user(value: &[u8]) -> Result<ProvenUser, PeerViolation> {
    let wrong = || bad("an invalid user");
    let (length, rest) = value.split_first().ok_or_else(wrong)?;
    let (method, name) = rest.split_at_checked(usize::from(*length)).ok_or_else(wrong)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| wrong());
    if method.is_empty() || name.is_empty() || name.len() > USER_BYTES_MAX {
        return Err(wrong());
    }
    Ok(ProvenUser { method: text(method)?, name: text(name)? })
}

fn address_value(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => [&ip.octets()[..], &port].concat(),
        IpAddr::V6(ip) => [&ip.octets()[..], &port].concat(),
    }
}

/// Distinguished by their length.
fn address(value: &[u8]) -> Result<SocketAddr, PeerViolation> {
    let wrong = || bad("an invalid address");
    let (ip, port) = value.split_last_chunk::<2>().ok_or_else(wrong)?;
    let ip: IpAddr = match *ip {
        [a, b, c, d] => [a, b, c, d].into(),
        _ => <[u8; 16]>::try_from(ip).map_err(|_| wrong())?.into(),
    };
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> OpenRequest {
        OpenRequest::new(ServiceName::parse("orders").expect("a name"), "a1b2-7f".into())
    }

    fn full() -> OpenRequest {
        OpenRequest {
            is_probe: true,
            client: "192.0.2.7:258".parse().ok(),
            origin: ClientOrigin {
                destination: "[2001:db8::7]:443".parse().ok(),
                user: Some(ProvenUser { method: "certificate".into(), name: "älice".into() }),
                alpn: b"h2".to_vec(),
                proxy_tlvs: vec![7; PROXY_TLVS_BYTES_MAX],
            },
            ..request()
        }
    }

    #[test]
    fn an_encoded_body_decodes_to_the_same() {
        for request in [request(), full()] {
            let body = request.body();
            assert!(body.len() <= BODY_BYTES_MAX);
            assert_eq!(OpenRequest::parse(&body), Ok(request));
        }
    }

    #[test]
    fn each_field_has_its_bound() {
        let with = |tag, value: &[u8]| {
            let mut body = request().body();
            push_field(&mut body, tag, value);
            OpenRequest::parse(&body)
        };
        assert_eq!(with(99, b"of a later version"), Ok(request()));
        for (tag, value) in [
            (SESSION_ID_TAG, &b"twice"[..]),
            (CLIENT_TAG, b"12345"),
            (DESTINATION_TAG, b""),
            (USER_TAG, b"\x01x"),
            (USER_TAG, b"\x09short"),
            (ALPN_TAG, &[1; 256]),
            (PROXY_TLVS_TAG, &[1; PROXY_TLVS_BYTES_MAX + 1]),
        ] {
            assert!(with(tag, value).is_err(), "{tag}: {value:?}");
        }
        for id in ["", "a\n", "123456789012345678901234567890123"] {
            let mut body = Vec::new();
            push_field(&mut body, SERVICE_TAG, b"orders");
            push_field(&mut body, SESSION_ID_TAG, id.as_bytes());
            assert!(OpenRequest::parse(&body).is_err(), "{id}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_open_or_refused(body in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(open) = OpenRequest::parse(&body) {
                prop_assert_eq!(OpenRequest::parse(&open.body()), Ok(open));
            }
        }
    }
}
