//! Bytes ↔ meaning; no sockets, no clock, no policy.
//!
//! [`socks5`] is what any peer can speak. [`multiplex`] is the protocol of our own, agreed on by ALPN
//! inside TLS, with which sessions share links. [`ws`] has the frames of a WebSocket, [`frame_boundary`] finds
//! where one ends, [`proxy`] what a proxy
//! says about a client, and [`certificate`] what a certificate says.

pub mod certificate;
pub mod client_hello;
pub mod frame_boundary;
pub mod multiplex;
pub mod proxy;
pub mod socks5;
pub mod ws;

/// Why a session is refused to the gateway that requested it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    UnknownService,
    /// This peer may not use the service.
    NotAllowed,
    BackendRefused,
    BackendLate,
    BackendUnreachable,
    /// None of its backends is up, which is known without trying them.
    ServiceDown,
    /// A limit is reached.
    Full,
    Draining,
    /// A fault of ours.
    Unavailable,
    /// It arrived while its link was asked to leave, and was not looked at.
    OtherLink,
}

impl Refusal {
    /// The words for operators.
    pub fn words(self) -> &'static str {
        match self {
            Self::UnknownService => "it does not know the service",
            Self::NotAllowed => "it does not allow this gateway to use the service",
            Self::BackendRefused => "the backend refused the connection",
            Self::BackendLate => "the backend did not answer in time",
            Self::BackendUnreachable => "the backend is unreachable",
            Self::ServiceDown => "none of its backends is up",
            Self::Full => "a limit is reached there",
            Self::Draining => "it drains",
            Self::Unavailable => "it cannot serve now",
            Self::OtherLink => "it takes no sessions on this link",
        }
    }
}
