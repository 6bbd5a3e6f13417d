//! The protocol `portcullis/2`: links that sessions share.
//!
//! Every frame names its session, or 0 for the link itself. [`frame`] is the format of a frame, and [`fields`]
//! that of the bodies that may be extended: [`hello`] and [`open`]. [`decoder`] reads bytes as they arrive.
//! [`state`] says which frame may come when, for the link and for each of its sessions. The DMZ half's end of a
//! link is its **opener**, the internal half's its **server**, whoever dialled.
//!
//! The files here use each other: frames are made of bodies, and all fail with the error that is defined here.

pub mod decoder;
pub mod fields;
pub mod frame;
pub mod hello;
pub mod open;
pub mod permitted;
pub mod state;

use thiserror::Error;

use self::{
    frame::FrameType,
    state::{LinkStage, SessionStage},
};

/// The number of the protocol in `hello`.
pub const PROTOCOL: u16 = 2;
/// The name offered by ALPN (RFC 7301), which is also shown to operators.
pub const PROTOCOL_NAME: &str = "portcullis/2";

/// Whether a name offered by ALPN is our own protocol, in any version.
pub fn is_version(name: &str) -> bool {
    let number = name.strip_prefix("portcullis/");
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// How a peer broke the protocol, for which its link is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PeerViolation {
    #[error("a frame of unknown type {0:#04x}")]
    UnknownType(u8),
    #[error("a frame `{0}` of {1} bytes")]
    BadLength(FrameType, usize),
    #[error("a frame `{0}` for session {1}")]
    BadSession(FrameType, u32),
    #[error("a frame `{0}` while the link is {1}")]
    LinkState(FrameType, LinkStage),
    #[error("a frame `{0}` while session {1} is {2}")]
    SessionState(FrameType, u32, SessionStage),
    #[error("a frame `{0}` with an invalid body: {1}")]
    BadBody(FrameType, &'static str),
    #[error("session {0}, which was never opened")]
    NeverOpened(u32),
    #[error("session {0} was opened twice, or out of order")]
    NumberUsedAgain(u32),
    #[error("{1} bytes for session {0}, more than it has credit for")]
    BeyondCredit(u32, usize),
    #[error("session {0} has been given more credit than a number holds")]
    CreditOverflow(u32),
    #[error("session {0}, which is not on its way to another link")]
    NotMoving(u32),
    #[error("session {0}, of which not all bytes have come that were sent")]
    MovedBytes(u32),
    #[error("too many {0}")]
    TooMany(&'static str),
    #[error("a frame that was begun and not ended")]
    TooSlow,
}
