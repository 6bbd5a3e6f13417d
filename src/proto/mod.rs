//! Bytes ↔ meaning; no sockets, no clock, no policy.
//!
//! [`socks5`] is what any far side can speak; [`multiplex`] is the protocol of our own, agreed by ALPN
//! inside TLS, by which sessions share links. [`ws`] are the frames of a client's WebSocket, [`proxy`] is
//! what a proxy says of a client, [`certificate`] what a certificate says of itself.

pub mod certificate;
pub mod client_hello;
pub mod multiplex;
pub mod proxy;
pub mod socks5;
pub mod ws;

/// Why a session is refused to the gateway that asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    UnknownService,
    /// This peer may not use the service.
    NotAllowed,
    BackendRefused,
    BackendLate,
    BackendUnreachable,
    /// None of its backends is up: known without asking them.
    ServiceDown,
    /// A limit is reached.
    Full,
    Draining,
    /// A fault of ours.
    Unavailable,
    /// It came while its link was asked to go, and was not looked at.
    OtherLink,
}

impl Refusal {
    /// For an operator.
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
            Self::Unavailable => "it can not serve now",
            Self::OtherLink => "it takes no sessions on this link",
        }
    }
}
