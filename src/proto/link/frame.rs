//! A frame: one byte of type, three of length (big-endian), the body.

use std::fmt;

use super::{ProtocolViolation, hello, open};
use crate::proto::Refusal;

pub const HEADER: usize = 4;
/// The largest body of `data` that this version sends or takes: one read of the relay.
pub const DATA_MAX: usize = 128 * 1024;
/// Body of `ping` and `pong`: what the one says, the other repeats.
pub const TOKEN: usize = 8;
const RESET: usize = 5;

/// The type of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    Hello = 1,
    Open,
    Opened,
    Refused,
    Data,
    End,
    Reset,
    Ping,
    Pong,
    Drain,
    Retire,
}

impl FrameKind {
    pub const ALL: [Self; 11] = [
        Self::Hello,
        Self::Open,
        Self::Opened,
        Self::Refused,
        Self::Data,
        Self::End,
        Self::Reset,
        Self::Ping,
        Self::Pong,
        Self::Drain,
        Self::Retire,
    ];

    /// How many bytes the body may have.
    fn allows(self, length: usize) -> bool {
        match self {
            Self::Hello => (hello::BODY_MIN..=hello::BODY_MAX).contains(&length),
            Self::Open => (open::BODY_MIN..=open::BODY_MAX).contains(&length),
            Self::Data => (1..=DATA_MAX).contains(&length),
            Self::Refused => length == 1,
            Self::Reset => length == RESET,
            Self::Ping | Self::Pong => length == TOKEN,
            Self::Opened | Self::End | Self::Drain | Self::Retire => length == 0,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Open => "open",
            Self::Opened => "opened",
            Self::Refused => "refused",
            Self::Data => "data",
            Self::End => "end",
            Self::Reset => "reset",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Drain => "drain",
            Self::Retire => "retire",
        }
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// The first bytes of a frame, understood and within their bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameKind,
    pub length: usize,
}

impl FrameHeader {
    pub fn parse(bytes: [u8; HEADER]) -> Result<Self, ProtocolViolation> {
        let [kind, a, b, c] = bytes;
        let kind = FrameKind::ALL
            .into_iter()
            .find(|known| *known as u8 == kind)
            .ok_or(ProtocolViolation::Type(kind))?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if kind.allows(length) {
            Ok(Self { kind, length })
        } else {
            Err(ProtocolViolation::Length(kind, length))
        }
    }

    pub fn bytes(self) -> [u8; HEADER] {
        debug_assert!(self.kind.allows(self.length), "{self:?}");
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        [self.kind as u8, a, b, c]
    }
}

/// Why a session is cut, as the gateway nearest to the cause saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ResetCause {
    Client = 1,
    Backend,
    /// A time limit, `idle`.
    Time,
    Operator,
    Other,
}

impl ResetCause {
    const ALL: [Self; 5] = [Self::Client, Self::Backend, Self::Time, Self::Operator, Self::Other];
}

/// `reset`: cuts a session. Its number among the link's sessions tells a late one from one that is
/// meant for the session after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResetFrame {
    pub session: u32,
    pub cause: ResetCause,
}

impl ResetFrame {
    pub fn parse(body: &[u8]) -> Result<Self, ProtocolViolation> {
        let bad = ProtocolViolation::Body(FrameKind::Reset, "no such cause");
        let [a, b, c, d, cause] = *body else { return Err(bad) };
        let cause = ResetCause::ALL.into_iter().find(|known| *known as u8 == cause).ok_or(bad)?;
        Ok(Self { session: u32::from_be_bytes([a, b, c, d]), cause })
    }

    pub fn body(self) -> [u8; RESET] {
        let [a, b, c, d] = self.session.to_be_bytes();
        [a, b, c, d, self.cause as u8]
    }
}

const REFUSALS: [Refusal; 8] = [
    Refusal::UnknownService,
    Refusal::NotAllowed,
    Refusal::BackendRefused,
    Refusal::BackendLate,
    Refusal::BackendUnreachable,
    Refusal::Full,
    Refusal::Draining,
    Refusal::Unavailable,
];

/// The body of `refused`.
pub fn refusal_byte(refusal: Refusal) -> u8 {
    match refusal {
        Refusal::UnknownService => 1,
        Refusal::NotAllowed => 2,
        Refusal::BackendRefused => 3,
        Refusal::BackendLate => 4,
        Refusal::BackendUnreachable => 5,
        Refusal::Full => 6,
        Refusal::Draining => 7,
        Refusal::Unavailable => 8,
    }
}

pub fn parse_refusal(body: &[u8]) -> Result<Refusal, ProtocolViolation> {
    let known = |byte: u8| REFUSALS.into_iter().find(|refusal| refusal_byte(*refusal) == byte);
    body.first().copied().and_then(known).ok_or(ProtocolViolation::Body(FrameKind::Refused, "no such reason"))
}

/// Appends a whole frame.
pub fn push(out: &mut Vec<u8>, kind: FrameKind, body: &[u8]) {
    out.extend_from_slice(&FrameHeader { kind, length: body.len() }.bytes());
    out.extend_from_slice(body);
}

/// A frame as it was heard. The body of `data` is not here: it is not gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    Offer(hello::OfferHello),
    Grant(hello::GrantHello),
    Open(open::OpenFrame),
    Opened,
    Refused(Refusal),
    Data,
    End,
    Reset(ResetFrame),
    Ping([u8; TOKEN]),
    Pong([u8; TOKEN]),
    Drain,
    Retire,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_type_and_length_on_the_wire() {
        assert_eq!(FrameHeader { kind: FrameKind::Data, length: 0x0001_0203 }.bytes(), [5, 1, 2, 3]);
        assert_eq!(FrameHeader::parse([8, 0, 0, 8]), Ok(FrameHeader { kind: FrameKind::Ping, length: 8 }));
    }

    #[test]
    fn every_length_out_of_bounds_is_refused() {
        for (bytes, told) in [
            ([0, 0, 0, 0], "a frame of unknown type 0x00"),
            ([12, 0, 0, 0], "a frame of unknown type 0x0c"),
            ([5, 0, 0, 0], "a frame `data` of 0 bytes"),
            ([5, 2, 0, 1], "a frame `data` of 131073 bytes"),
            ([6, 0, 0, 1], "a frame `end` of 1 bytes"),
            ([8, 0, 0, 7], "a frame `ping` of 7 bytes"),
            ([2, 0, 4, 0], "a frame `open` of 1024 bytes"),
            ([1, 255, 255, 255], "a frame `hello` of 16777215 bytes"),
        ] {
            assert_eq!(FrameHeader::parse(bytes).map_err(|error| error.to_string()), Err(told.into()));
        }
    }

    #[test]
    fn reasons_and_causes_survive_the_way() {
        for refusal in REFUSALS {
            assert_eq!(parse_refusal(&[refusal_byte(refusal)]), Ok(refusal));
        }
        for cause in ResetCause::ALL {
            let reset = ResetFrame { session: 0x0102_0304, cause };
            assert_eq!(ResetFrame::parse(&reset.body()), Ok(reset));
        }
        assert!(parse_refusal(&[0]).is_err() && parse_refusal(&[9]).is_err());
        assert!(ResetFrame::parse(&[0, 0, 0, 1, 0]).is_err() && ResetFrame::parse(&[0, 0, 0, 1, 6]).is_err());
    }
}
