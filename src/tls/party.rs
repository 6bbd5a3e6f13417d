//! Who is at the other end of a handshake, and how messages name it.

/// The party at the other end of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsParty {
    Gateway,
    Backend,
    Client,
    /// Whoever ends the TLS around a link's WebSocket: the other gateway, a balancer, or a proxy.
    Outer,
}

impl TlsParty {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "the other gateway",
            Self::Backend => "the backend",
            Self::Client => "the client",
            Self::Outer => "whoever speaks the outer TLS",
        }
    }

    /// The profile key that lists who may issue its certificate.
    pub(super) fn ca(self) -> &'static str {
        match self {
            Self::Gateway => "this link's `ca`",
            Self::Backend => "this connect's `ca`",
            Self::Client => "this accept's `ca`",
            Self::Outer => "the `ca` of `outer`, or the system's authorities",
        }
    }
}
