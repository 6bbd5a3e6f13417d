//! `hello`, the first frame of each end: the server offers, then the opener grants. `services` replaces the
//! offer at any time.

use std::fmt;

use super::{
    PROTOCOL, PeerViolation,
    fields::{FieldReader, push_field},
    frame::FrameType,
};
use crate::profile::{Carries, ServiceName};

/// The most services of one profile.
const SERVICES_MAX: usize = 1024;
pub const SOFTWARE_BYTES_MAX: usize = 64;
/// 1,024 services and a little more, for the additions of later versions.
pub const BODY_BYTES_MAX: usize = SERVICES_MAX * 260 + 1024;

const PROTOCOL_TAG: u8 = 1;
const SOFTWARE_TAG: u8 = 2;
const INSTANCE_TAG: u8 = 3;
const PREPARED_TAG: u8 = 4;
const LINKS_MAX_TAG: u8 = 5;
const SESSIONS_TAG: u8 = 6;
const OFFER_TAG: u8 = 7;
const GRANT_TAG: u8 = 8;

/// Identifies the process of a gateway: random, made at its start. Two gateways with one name differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InstanceId(pub [u8; 16]);

impl InstanceId {
    /// As much of it as tells the gateways of one name apart.
    pub fn short(self) -> String {
        self.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// Who is speaking, the same for both ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloAbout {
    pub software: String,
    pub instance: InstanceId,
}

/// Whether a service takes sessions now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum OfferState {
    Open = 0,
    /// None of its backends is up.
    Down,
    /// It is outside its hours.
    Closed,
    Locked,
    /// An operator drains it.
    Draining,
}

impl OfferState {
    /// The words for operators of the other half.
    pub fn words(self) -> &'static str {
        match self {
            Self::Open => "it is open",
            Self::Down => "no backend is up",
            Self::Closed => "it is outside of its hours",
            Self::Locked => "it is locked",
            Self::Draining => "it drains",
        }
    }
}

/// A service that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceOffer {
    pub name: ServiceName,
    pub carries: Carries,
    pub state: OfferState,
}

/// What the internal half says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHello {
    pub about: HelloAbout,
    /// How many links it means to keep, if it dials.
    pub links_kept: u16,
    /// How many links in all it has room for.
    pub links_max: u16,
    /// How many sessions one link carries at once.
    pub sessions_per_link: u16,
    pub services: Vec<ServiceOffer>,
}

/// What the DMZ half answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenerHello {
    pub about: HelloAbout,
    /// How many links it means to keep; 0 if it does not dial, or is of a version that does not say.
    pub links_kept: u16,
    /// The most links that it accepts from one peer.
    pub links_max: u16,
    /// The offered services that clients may reach through this peer.
    pub granted: Vec<ServiceName>,
}

impl HelloAbout {
    fn push(&self, body: &mut Vec<u8>) {
        push_field(body, PROTOCOL_TAG, &PROTOCOL.to_be_bytes());
        let software = &self.software.as_bytes()[..self.software.len().min(SOFTWARE_BYTES_MAX)];
        push_field(body, SOFTWARE_TAG, software);
        push_field(body, INSTANCE_TAG, &self.instance.0);
    }
}

/// The common fields of both hellos, filled as they are read.
#[derive(Default)]
struct AboutFields {
    protocol: Option<u16>,
    software: Option<String>,
    instance: Option<InstanceId>,
}

impl AboutFields {
    fn take(&mut self, fields: &FieldReader<'_>, tag: u8, value: &[u8]) -> Result<(), PeerViolation> {
        match tag {
            PROTOCOL_TAG => fields.once(&mut self.protocol, fields.number(value)?),
            SOFTWARE_TAG => fields.once(&mut self.software, fields.text(value, SOFTWARE_BYTES_MAX)?),
            INSTANCE_TAG => {
                let bytes = value.try_into();
                let bytes = bytes.map_err(|_| bad("an instance that is not 16 bytes long"))?;
                fields.once(&mut self.instance, InstanceId(bytes))
            }
            _ => Ok(()),
        }
    }

    fn whole(self, fields: &FieldReader<'_>) -> Result<HelloAbout, PeerViolation> {
        if fields.required(self.protocol)? != PROTOCOL {
            return Err(bad("another protocol than was agreed on"));
        }
        Ok(HelloAbout {
            software: fields.required(self.software)?,
            instance: fields.required(self.instance)?,
        })
    }
}

fn bad(what: &'static str) -> PeerViolation {
    PeerViolation::BadBody(FrameType::Hello, what)
}

impl ServerHello {
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.about.push(&mut body);
        push_field(&mut body, PREPARED_TAG, &self.links_kept.to_be_bytes());
        push_field(&mut body, LINKS_MAX_TAG, &self.links_max.to_be_bytes());
        push_field(&mut body, SESSIONS_TAG, &self.sessions_per_link.to_be_bytes());
        push_offers(&mut body, &self.services);
        body
    }

    pub fn parse(body: &[u8]) -> Result<Self, PeerViolation> {
        let mut fields = FieldReader::new(FrameType::Hello, body);
        let mut about = AboutFields::default();
        let (mut links_kept, mut links_max, mut sessions) = (None, None, None);
        let mut services = Vec::new();
        while let Some((tag, value)) = fields.next_field()? {
            match tag {
                PREPARED_TAG => fields.once(&mut links_kept, fields.number(value)?)?,
                LINKS_MAX_TAG => fields.once(&mut links_max, fields.number(value)?)?,
                SESSIONS_TAG => fields.once(&mut sessions, fields.number(value)?)?,
                OFFER_TAG => push_offer(&mut services, &fields, value)?,
                tag => about.take(&fields, tag, value)?,
            }
        }
        let sessions_per_link = fields.required(sessions)?;
        if sessions_per_link == 0 {
            return Err(bad("links that carry no session"));
        }
        Ok(Self {
            links_kept: fields.required(links_kept)?,
            links_max: fields.required(links_max)?,
            sessions_per_link,
            services,
            about: about.whole(&fields)?,
        })
    }
}

impl OpenerHello {
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.about.push(&mut body);
        if self.links_kept > 0 {
            push_field(&mut body, PREPARED_TAG, &self.links_kept.to_be_bytes());
        }
        push_field(&mut body, LINKS_MAX_TAG, &self.links_max.to_be_bytes());
        for name in self.granted.iter().take(SERVICES_MAX) {
            push_field(&mut body, GRANT_TAG, name.as_str().as_bytes());
        }
        body
    }

    pub fn parse(body: &[u8]) -> Result<Self, PeerViolation> {
        let mut fields = FieldReader::new(FrameType::Hello, body);
        let mut about = AboutFields::default();
        let (mut links_kept, mut links_max) = (None, None);
        let mut granted = Vec::new();
        while let Some((tag, value)) = fields.next_field()? {
            match tag {
                PREPARED_TAG => fields.once(&mut links_kept, fields.number(value)?)?,
                LINKS_MAX_TAG => fields.once(&mut links_max, fields.number(value)?)?,
                GRANT_TAG if granted.len() >= SERVICES_MAX => return Err(bad("too many services")),
                GRANT_TAG => granted.push(fields.service(value)?),
                tag => about.take(&fields, tag, value)?,
            }
        }
        Ok(Self {
            links_kept: links_kept.unwrap_or_default(),
            links_max: fields.required(links_max)?,
            granted,
            about: about.whole(&fields)?,
        })
    }
}

/// The body of `services`.
pub fn services_body(services: &[ServiceOffer]) -> Vec<u8> {
    let mut body = Vec::new();
    push_offers(&mut body, services);
    body
}

pub fn parse_services(body: &[u8]) -> Result<Vec<ServiceOffer>, PeerViolation> {
    let mut fields = FieldReader::new(FrameType::Services, body);
    let mut services = Vec::new();
    while let Some((tag, value)) = fields.next_field()? {
        if tag == OFFER_TAG {
            push_offer(&mut services, &fields, value)?;
        }
    }
    Ok(services)
}

fn push_offers(body: &mut Vec<u8>, services: &[ServiceOffer]) {
    for service in services.iter().take(SERVICES_MAX) {
        let carries = match service.carries {
            Carries::Bytes => 0,
            Carries::Http => 1,
        };
        let value = [&[carries, service.state as u8], service.name.as_str().as_bytes()].concat();
        push_field(body, OFFER_TAG, &value);
    }
}

fn push_offer(
    services: &mut Vec<ServiceOffer>,
    fields: &FieldReader<'_>,
    value: &[u8],
) -> Result<(), PeerViolation> {
    let [carries, state, name @ ..] = value else { return Err(bad("a service without a name")) };
    let carries = match carries {
        0 => Carries::Bytes,
        1 => Carries::Http,
        _ => return Err(bad("a service that carries what is not known")),
    };
    let states =
        [OfferState::Open, OfferState::Down, OfferState::Closed, OfferState::Locked, OfferState::Draining];
    let state = states.into_iter().find(|known| *known as u8 == *state);
    let state = state.ok_or(bad("a service in a state that is not known"))?;
    if services.len() >= SERVICES_MAX {
        return Err(bad("too many services"));
    }
    services.push(ServiceOffer { name: fields.service(name)?, carries, state });
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn about() -> HelloAbout {
        HelloAbout { software: "portcullis 0.1.0".into(), instance: InstanceId([7; 16]) }
    }

    fn name(name: &str) -> ServiceName {
        ServiceName::parse(name).expect("a name")
    }

    fn server() -> ServerHello {
        let offer = |text, carries, state| ServiceOffer { name: name(text), carries, state };
        let services = vec![
            offer("orders", Carries::Bytes, OfferState::Open),
            offer("web", Carries::Http, OfferState::Locked),
        ];
        ServerHello { about: about(), links_kept: 8, links_max: 1024, sessions_per_link: 256, services }
    }

    #[test]
    fn an_encoded_body_decodes_to_the_same() {
        assert_eq!(ServerHello::parse(&server().body()), Ok(server()));
        for links_kept in [0, 8] {
            let opener =
                OpenerHello { about: about(), links_kept, links_max: 64, granted: vec![name("orders")] };
            assert_eq!(OpenerHello::parse(&opener.body()), Ok(opener));
        }
        assert_eq!(parse_services(&services_body(&server().services)), Ok(server().services));
    }

    #[test]
    fn a_field_that_is_not_known_is_ignored() {
        let mut body = server().body();
        push_field(&mut body, 200, b"of a later version");
        assert_eq!(ServerHello::parse(&body), Ok(server()));
    }

    #[test]
    fn what_is_missing_twice_or_cut_is_refused() {
        let body = server().body();
        for length in 0..body.len() {
            // Cut after a service, it is a shorter offer.
            if let Ok(shorter) = ServerHello::parse(&body[..length]) {
                assert!(shorter.services.len() < 2, "{length}");
            }
        }
        let twice = [body.clone(), body].concat();
        assert!(ServerHello::parse(&twice).is_err());
        let mut other = server().body();
        other[4] = 9;
        let error = ServerHello::parse(&other).expect_err("protocol 9");
        assert!(error.to_string().contains("another protocol"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_hello_or_refused(body in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(hello) = ServerHello::parse(&body) {
                prop_assert_eq!(ServerHello::parse(&hello.body()), Ok(hello));
            }
            if let Ok(hello) = OpenerHello::parse(&body) {
                prop_assert_eq!(OpenerHello::parse(&hello.body()), Ok(hello));
            }
            if let Ok(services) = parse_services(&body) {
                prop_assert_eq!(parse_services(&services_body(&services)), Ok(services));
            }
        }
    }
}
