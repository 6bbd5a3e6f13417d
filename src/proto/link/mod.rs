//! The protocol `portcullis/1`: one link, one session at a time, session after session.
//!
//! [`frame`] is the form of a frame, [`hello`] and [`open`] the two with a body of some size,
//! [`decoder`] takes bytes as they come, [`state`] says which frame may come when. The DMZ half's
//! end of a link is its **opener**, the internal half's its **server**, whoever dialled.

pub mod decoder;
pub mod frame;
pub mod hello;
pub mod open;
pub mod state;

use thiserror::Error;

use self::{frame::FrameKind, state::LinkProtocolState};

/// The names offered by ALPN (RFC 7301), the preferred one first. The second is for a far side
/// whose TLS ends a handshake that shares no name.
pub const ALPN: &[u8] = b"portcullis/1";
pub const ALPN_SOCKS: &[u8] = b"socks/5";
/// How the two are shown.
pub const WIRE: &str = "portcullis/1";
pub const WIRE_SOCKS: &str = "socks/5";

/// How a far side broke the protocol; it costs it the link.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProtocolViolation {
    #[error("a frame of unknown type {0:#04x}")]
    Type(u8),
    #[error("a frame `{0}` of {1} bytes")]
    Length(FrameKind, usize),
    #[error("a frame `{0}` while the link is {1}")]
    State(FrameKind, LinkProtocolState),
    #[error("a frame `{0}` with a body that means nothing: {1}")]
    Body(FrameKind, &'static str),
    #[error("too many {0}")]
    Flood(&'static str),
    #[error("a frame that was begun and not ended")]
    Slow,
}
