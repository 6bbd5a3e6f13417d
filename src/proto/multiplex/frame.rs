//! A frame: one byte of type, three of length, four of session (big-endian), then the body. What may follow what is
//! decided in `state`; here is only what the bytes mean.
//! The type limits the length, so that a peer cannot make this side buffer more than it needs. Whether it may come
//! now is not judged here.

use std::fmt;

use super::{PeerViolation, hello, open};
use crate::proto::Refusal;

pub const HEADER_BYTES: usize = 8;
/// The largest body of `data` in this version; a turn of a session never sends more.
pub const DATA_BYTES_MAX: usize = 64 * 1024;
/// The body of `ping` and `pong`: a pong repeats the ping's.
pub const PING_BYTES: usize = 8;

/// The body of `move` and `resume`: a count of bytes, credit, and the ticket.
pub const MOVE_BYTES: usize = 28;

/// Shows that whoever goes on with a session is who moved it: a secret of the server's for each move. An opener has
/// none to give, and sends zeros, or [`HEAVY_SESSION`].
pub type MoveTicket = [u8; 16];

/// What an opener sends in place of a ticket if the session leaves because it is heavy: the link that it comes to is one
/// for bulk.
pub const HEAVY_SESSION: MoveTicket = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    Hello = 1,
    Services,
    Open,
    Opened,
    Refused,
    Data,
    End,
    Reset,
    Credit,
    Ping,
    Pong,
    Drain,
    Retire,
    Move,
    Resume,
}

impl FrameType {
    pub const ALL: [Self; 15] = [
        Self::Hello,
        Self::Services,
        Self::Open,
        Self::Opened,
        Self::Refused,
        Self::Data,
        Self::End,
        Self::Reset,
        Self::Credit,
        Self::Ping,
        Self::Pong,
        Self::Drain,
        Self::Retire,
        Self::Move,
        Self::Resume,
    ];

    /// How many bytes the body may have.
    fn allows_length(self, length: usize) -> bool {
        match self {
            Self::Hello | Self::Services => length <= hello::BODY_BYTES_MAX,
            Self::Open => length <= open::BODY_BYTES_MAX,
            Self::Data => (1..=DATA_BYTES_MAX).contains(&length),
            Self::Refused | Self::Reset => length == 1,
            Self::Credit => length == 4,
            Self::Ping | Self::Pong => length == PING_BYTES,
            Self::Move | Self::Resume => length == MOVE_BYTES,
            Self::Opened | Self::End | Self::Drain | Self::Retire => length == 0,
        }
    }

    /// Whether it is about one session and not about the link.
    pub fn is_about_session(self) -> bool {
        match self {
            Self::Open
            | Self::Opened
            | Self::Refused
            | Self::Data
            | Self::End
            | Self::Reset
            | Self::Credit
            | Self::Move
            | Self::Resume => true,
            Self::Hello | Self::Services | Self::Ping | Self::Pong | Self::Drain | Self::Retire => false,
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Services => "services",
            Self::Open => "open",
            Self::Opened => "opened",
            Self::Refused => "refused",
            Self::Data => "data",
            Self::End => "end",
            Self::Reset => "reset",
            Self::Credit => "credit",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Drain => "drain",
            Self::Retire => "retire",
            Self::Move => "move",
            Self::Resume => "resume",
        }
    }
}

impl fmt::Display for FrameType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.label())
    }
}

/// The header of a frame, parsed and within its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    pub kind: FrameType,
    pub length: usize,
    /// 0 if it is about the link.
    pub session: u32,
}

impl FrameHead {
    pub fn parse(bytes: [u8; HEADER_BYTES]) -> Result<Self, PeerViolation> {
        let [kind, a, b, c, session @ ..] = bytes;
        let known = FrameType::ALL.into_iter().find(|known| *known as u8 == kind);
        let kind = known.ok_or(PeerViolation::UnknownType(kind))?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let session = u32::from_be_bytes(session);
        if !kind.allows_length(length) {
            return Err(PeerViolation::BadLength(kind, length));
        }
        if kind.is_about_session() != (session != 0) {
            return Err(PeerViolation::BadSession(kind, session));
        }
        Ok(Self { kind, length, session })
    }

    pub fn bytes(self) -> [u8; HEADER_BYTES] {
        debug_assert!(self.kind.allows_length(self.length), "{self:?}");
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [d, e, f, g] = self.session.to_be_bytes();
        [self.kind as u8, a, b, c, d, e, f, g]
    }
}

/// Why a session is cut, as reported by the gateway nearest to the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CutCause {
    Client = 1,
    Backend,
    /// A timeout, `idle`.
    Time,
    Operator,
    Other,
    /// A rule of that gateway: a certificate was revoked.
    Policy,
}

impl CutCause {
    pub const ALL: [Self; 6] =
        [Self::Client, Self::Backend, Self::Time, Self::Operator, Self::Other, Self::Policy];

    fn parse(byte: u8) -> Result<Self, PeerViolation> {
        let known = Self::ALL.into_iter().find(|known| *known as u8 == byte);
        known.ok_or(PeerViolation::BadBody(FrameType::Reset, "no such cause"))
    }
}

/// A received frame. The body of `data` is not included, because it is not collected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkFrame {
    ServerHello(hello::ServerHello),
    OpenerHello(hello::OpenerHello),
    Services(Vec<hello::ServiceOffer>),
    Open(Box<open::OpenRequest>),
    Opened,
    Refused(Refusal),
    End,
    Reset(CutCause),
    Credit(u32),
    Ping([u8; PING_BYTES]),
    Pong([u8; PING_BYTES]),
    Drain,
    Retire,
    /// The last frame of a session on this link: how many bytes of it this end has sent in all, and how many the
    /// other end may send once it goes on. An opener says that in `resume`.
    Move {
        sent: u64,
        credit: u32,
        ticket: MoveTicket,
    },
    /// It goes on over this link: how many bytes of it the opener has received in all, and how many may come now.
    Resume {
        received: u64,
        credit: u32,
        ticket: MoveTicket,
    },
}

impl LinkFrame {
    pub fn kind(&self) -> FrameType {
        match self {
            Self::ServerHello(_) | Self::OpenerHello(_) => FrameType::Hello,
            Self::Services(_) => FrameType::Services,
            Self::Open(_) => FrameType::Open,
            Self::Opened => FrameType::Opened,
            Self::Refused(_) => FrameType::Refused,
            Self::End => FrameType::End,
            Self::Reset(_) => FrameType::Reset,
            Self::Credit(_) => FrameType::Credit,
            Self::Ping(_) => FrameType::Ping,
            Self::Pong(_) => FrameType::Pong,
            Self::Drain => FrameType::Drain,
            Self::Retire => FrameType::Retire,
            Self::Move { .. } => FrameType::Move,
            Self::Resume { .. } => FrameType::Resume,
        }
    }

    /// Appends it to the bytes to send; `session` is 0 for frames about the link.
    pub fn push(&self, out: &mut Vec<u8>, session: u32) {
        match self {
            Self::ServerHello(hello) => push_frame(out, FrameType::Hello, session, &hello.body()),
            Self::OpenerHello(hello) => push_frame(out, FrameType::Hello, session, &hello.body()),
            Self::Services(offers) => {
                push_frame(out, FrameType::Services, session, &hello::services_body(offers));
            }
            Self::Open(open) => push_frame(out, FrameType::Open, session, &open.body()),
            Self::Refused(refusal) => {
                push_frame(out, FrameType::Refused, session, &[refusal_byte(*refusal)]);
            }
            Self::Reset(cause) => push_frame(out, FrameType::Reset, session, &[*cause as u8]),
            Self::Credit(bytes) => push_frame(out, FrameType::Credit, session, &bytes.to_be_bytes()),
            Self::Ping(token) | Self::Pong(token) => push_frame(out, self.kind(), session, token),
            Self::Opened | Self::End | Self::Drain | Self::Retire => {
                push_frame(out, self.kind(), session, &[]);
            }
            Self::Move { sent: bytes, credit, ticket } | Self::Resume { received: bytes, credit, ticket } => {
                let body = [&bytes.to_be_bytes()[..], &credit.to_be_bytes(), ticket].concat();
                push_frame(out, self.kind(), session, &body);
            }
        }
    }

    /// Parses a frame with a complete body; not `hello`, whose format depends on its sender, and not `data`.
    pub(super) fn parse(kind: FrameType, body: &[u8]) -> Result<Self, PeerViolation> {
        let token = || -> Result<[u8; PING_BYTES], PeerViolation> {
            body.try_into().map_err(|_| PeerViolation::BadLength(kind, body.len()))
        };
        Ok(match kind {
            FrameType::Services => Self::Services(hello::parse_services(body)?),
            FrameType::Open => Self::Open(Box::new(open::OpenRequest::parse(body)?)),
            FrameType::Opened => Self::Opened,
            FrameType::Refused => Self::Refused(parse_refusal(body)?),
            FrameType::End => Self::End,
            FrameType::Reset => Self::Reset(CutCause::parse(body.first().copied().unwrap_or(0))?),
            FrameType::Credit => {
                let bytes = body.try_into().map(u32::from_be_bytes).unwrap_or(0);
                if bytes == 0 {
                    return Err(PeerViolation::BadBody(kind, "no credit at all"));
                }
                Self::Credit(bytes)
            }
            FrameType::Ping => Self::Ping(token()?),
            FrameType::Pong => Self::Pong(token()?),
            FrameType::Drain => Self::Drain,
            FrameType::Retire => Self::Retire,
            FrameType::Move => {
                let (sent, credit, ticket) = parse_move(kind, body)?;
                Self::Move { sent, credit, ticket }
            }
            FrameType::Resume => {
                let (received, credit, ticket) = parse_move(kind, body)?;
                Self::Resume { received, credit, ticket }
            }
            FrameType::Hello | FrameType::Data => {
                return Err(PeerViolation::BadLength(kind, body.len()));
            }
        })
    }
}

fn parse_move(kind: FrameType, body: &[u8]) -> Result<(u64, u32, MoveTicket), PeerViolation> {
    let bad = || PeerViolation::BadLength(kind, body.len());
    let (bytes, rest) = body.split_first_chunk().ok_or_else(bad)?;
    let (credit, ticket) = rest.split_first_chunk().ok_or_else(bad)?;
    let ticket = ticket.try_into().map_err(|_| bad())?;
    Ok((u64::from_be_bytes(*bytes), u32::from_be_bytes(*credit), ticket))
}

/// The possible reasons in `refused`.
const REFUSALS: [Refusal; 9] = [
    Refusal::UnknownService,
    Refusal::NotAllowed,
    Refusal::BackendRefused,
    Refusal::BackendLate,
    Refusal::BackendUnreachable,
    Refusal::Full,
    Refusal::Draining,
    Refusal::Unavailable,
    Refusal::OtherLink,
];

/// The body of `refused`.
fn refusal_byte(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::UnknownService => 1,
        Refusal::NotAllowed => 2,
        Refusal::BackendRefused => 3,
        Refusal::BackendLate => 4,
        Refusal::BackendUnreachable | Refusal::ServiceDown => 5,
        Refusal::Full => 6,
        Refusal::Draining => 7,
        Refusal::Unavailable => 8,
        Refusal::OtherLink => 9,
    }
}

fn parse_refusal(body: &[u8]) -> Result<Refusal, PeerViolation> {
    let known = |byte: u8| REFUSALS.into_iter().find(|refusal| refusal_byte(*refusal) == byte);
    let refusal = body.first().copied().and_then(known);
    refusal.ok_or(PeerViolation::BadBody(FrameType::Refused, "no such reason"))
}

fn push_frame(out: &mut Vec<u8>, kind: FrameType, session: u32, body: &[u8]) {
    out.extend_from_slice(&FrameHead { kind, length: body.len(), session }.bytes());
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_type_length_and_session_on_the_wire() {
        let header = FrameHead { kind: FrameType::Data, length: 0x0102, session: 0x0304_0506 };
        assert_eq!(header.bytes(), [6, 0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(FrameHead::parse(header.bytes()), Ok(header));
    }

    #[test]
    fn reasons_and_causes_survive_the_way() {
        for refusal in REFUSALS {
            assert_eq!(parse_refusal(&[refusal_byte(refusal)]), Ok(refusal));
        }
        for cause in CutCause::ALL {
            assert_eq!(CutCause::parse(cause as u8), Ok(cause));
        }
        assert!(parse_refusal(&[0]).is_err() && parse_refusal(&[10]).is_err());
        assert!(CutCause::parse(0).is_err() && CutCause::parse(7).is_err());
    }

    #[test]
    fn every_length_and_session_out_of_bounds_is_refused() {
        for (bytes, expected) in [
            ([0, 0, 0, 0, 0, 0, 0, 1], "a frame of unknown type 0x00"),
            ([16, 0, 0, 0, 0, 0, 0, 1], "a frame of unknown type 0x10"),
            ([6, 0, 0, 0, 0, 0, 0, 1], "a frame `data` of 0 bytes"),
            ([6, 1, 0, 1, 0, 0, 0, 1], "a frame `data` of 65537 bytes"),
            ([7, 0, 0, 1, 0, 0, 0, 1], "a frame `end` of 1 bytes"),
            ([9, 0, 0, 3, 0, 0, 0, 1], "a frame `credit` of 3 bytes"),
            ([3, 255, 255, 255, 0, 0, 0, 1], "a frame `open` of 16777215 bytes"),
            ([7, 0, 0, 0, 0, 0, 0, 0], "a frame `end` for session 0"),
            ([12, 0, 0, 0, 0, 0, 0, 9], "a frame `drain` for session 9"),
            ([14, 0, 0, 27, 0, 0, 0, 1], "a frame `move` of 27 bytes"),
            ([15, 0, 0, 28, 0, 0, 0, 0], "a frame `resume` for session 0"),
        ] {
            assert_eq!(FrameHead::parse(bytes).map_err(|error| error.to_string()), Err(expected.into()));
        }
    }
}
