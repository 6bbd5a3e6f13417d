//! `hello`, the first frame of each end: what the server offers, then what the opener grants.
//!
//! ```text
//! offer:    version, target (2), maximum (2), services     server → opener
//! grant:    version, links (2), data (4), names            opener → server
//! services: count (2), then each as what it carries (1), length (1) and text
//! names:    count (2), then each as length (1) and text
//! ```

use super::{ProtocolViolation, frame::FrameKind};
use crate::profile::{Carries, ServiceName};

const VERSION: u8 = 1;
/// Services of one profile; each costs 2 to 257 bytes.
const NAMES_MAX: usize = 1024;
pub const BODY_MIN: usize = 7;
pub const BODY_MAX: usize = 9 + NAMES_MAX * 257;
/// What a service carries.
const BYTES: u8 = 0;
const HTTP: u8 = 1;

/// What the internal half tells of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferHello {
    pub services: Vec<(ServiceName, Carries)>,
    /// Ready links that it means to keep, where it dials.
    pub target: usize,
    /// Links in all that it has room for.
    pub maximum: usize,
}

/// What the DMZ half answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantHello {
    /// The offered services that clients may reach through this peer.
    pub services: Vec<ServiceName>,
    /// Most links it takes from one peer.
    pub links: usize,
    /// The largest body of `data` it takes.
    pub data: usize,
}

impl OfferHello {
    pub fn body(&self) -> Vec<u8> {
        let mut body = vec![VERSION];
        body.extend_from_slice(&bounded(self.target));
        body.extend_from_slice(&bounded(self.maximum));
        push_each(&mut body, &self.services, |body, (name, carries)| {
            body.push(match carries {
                Carries::Bytes => BYTES,
                Carries::Http => HTTP,
            });
            push_name(body, name);
        });
        body
    }

    pub fn parse(body: &[u8]) -> Result<Self, ProtocolViolation> {
        let mut rest = BodyCursor(body);
        rest.version()?;
        let (target, maximum) = (rest.number(2)?, rest.number(2)?);
        let services = rest.each(|rest| {
            let carries = rest.carries()?;
            Ok((rest.name()?, carries))
        })?;
        Ok(Self { services, target, maximum })
    }
}

impl GrantHello {
    pub fn body(&self) -> Vec<u8> {
        let mut body = vec![VERSION];
        body.extend_from_slice(&bounded(self.links));
        body.extend_from_slice(&u32::try_from(self.data).unwrap_or(u32::MAX).to_be_bytes());
        push_each(&mut body, &self.services, push_name);
        body
    }

    pub fn parse(body: &[u8]) -> Result<Self, ProtocolViolation> {
        let mut rest = BodyCursor(body);
        rest.version()?;
        let (links, data) = (rest.number(2)?, rest.number(4)?);
        let services = rest.each(BodyCursor::name)?;
        if data == 0 {
            return Err(ProtocolViolation::Body(FrameKind::Hello, "it takes no data"));
        }
        Ok(Self { services, links, data })
    }
}

fn bounded(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

fn push_each<T>(body: &mut Vec<u8>, services: &[T], push: impl Fn(&mut Vec<u8>, &T)) {
    let services = &services[..services.len().min(NAMES_MAX)];
    body.extend_from_slice(&bounded(services.len()));
    for service in services {
        push(body, service);
    }
}

/// A name of 1 to 255 bytes, as a profile allows.
pub(super) fn push_name(body: &mut Vec<u8>, name: &ServiceName) {
    body.push(name.as_str().len() as u8);
    body.extend_from_slice(name.as_str().as_bytes());
}

/// What is left of a body.
struct BodyCursor<'a>(&'a [u8]);

impl<'a> BodyCursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ProtocolViolation> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(ProtocolViolation::Body(FrameKind::Hello, "it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<usize, ProtocolViolation> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    fn version(&mut self) -> Result<(), ProtocolViolation> {
        match self.number(1)? {
            version if version == usize::from(VERSION) => Ok(()),
            _ => Err(ProtocolViolation::Body(FrameKind::Hello, "an unknown version")),
        }
    }

    /// All that is left: so many services, each read by `read`.
    fn each<T>(
        mut self,
        read: impl Fn(&mut Self) -> Result<T, ProtocolViolation>,
    ) -> Result<Vec<T>, ProtocolViolation> {
        let count = self.number(2)?;
        if count > NAMES_MAX {
            return Err(ProtocolViolation::Body(FrameKind::Hello, "too many services"));
        }
        let services = (0..count).map(|_| read(&mut self)).collect::<Result<_, _>>()?;
        match self.0 {
            [] => Ok(services),
            _ => Err(ProtocolViolation::Body(FrameKind::Hello, "it goes on behind its last name")),
        }
    }

    fn name(&mut self) -> Result<ServiceName, ProtocolViolation> {
        let length = self.number(1)?;
        let text = std::str::from_utf8(self.take(length)?).ok();
        let bad = ProtocolViolation::Body(FrameKind::Hello, "a service's name that no profile could hold");
        text.and_then(ServiceName::parse).ok_or(bad)
    }

    fn carries(&mut self) -> Result<Carries, ProtocolViolation> {
        match self.take(1)? {
            [BYTES] => Ok(Carries::Bytes),
            [HTTP] => Ok(Carries::Http),
            _ => Err(ProtocolViolation::Body(FrameKind::Hello, "a service that carries nothing known")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Vec<ServiceName> {
        names.iter().map(|name| ServiceName::parse(name).expect("a valid name")).collect()
    }

    #[test]
    fn what_is_told_is_heard() {
        let services = names(&["orders", "web"]).into_iter().zip([Carries::Bytes, Carries::Http]).collect();
        let offer = OfferHello { services, target: 8, maximum: 1024 };
        assert_eq!(offer.body(), b"\x01\0\x08\x04\0\0\x02\0\x06orders\x01\x03web");
        assert_eq!(OfferHello::parse(&offer.body()), Ok(offer));
        let grant = GrantHello { services: names(&["web"]), links: 70_000, data: 131_072 };
        let heard = GrantHello::parse(&grant.body()).expect("it is whole");
        assert_eq!((heard.links, heard.data, heard.services), (65_535, 131_072, grant.services));
    }

    #[test]
    fn a_profile_of_the_largest_size_fits() {
        let name = |number: usize| ServiceName::parse(&format!("{number:0255}")).expect("a valid name");
        let longest = |number: usize| (name(number), Carries::Http);
        let offer = OfferHello { services: (0..NAMES_MAX).map(longest).collect(), target: 1, maximum: 1 };
        assert!(offer.body().len() <= BODY_MAX);
        assert_eq!(OfferHello::parse(&offer.body()), Ok(offer));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_hello_or_refused(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(offer) = OfferHello::parse(&body) {
                prop_assert_eq!(offer.body(), body.clone());
            }
            if let Ok(grant) = GrantHello::parse(&body) {
                prop_assert_eq!(grant.body(), body);
            }
        }
    }
}
