//! Why links to a gateway fail, as far as an operator can do something about it.
//!
//! A cause is determined where the error is (`link::error`), and travels with the rows and notices of a
//! snapshot beside its text. What to do about each cause is in `verify::advice`.

use serde::{Deserialize, Serialize};

/// If there are several causes at once, the first one here explains the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkCause {
    /// The other gateway's certificate has none of the names in `peers`.
    PeerNotListed,
    /// A certificate has expired or is not valid yet, according to one host's clock.
    CertificateDates,
    OtherCa,
    /// The certificate of the TLS around a link's WebSocket, often a proxy's, is from another CA than those in
    /// `outer`.
    OuterOtherCa,
    /// The other gateway refuses our certificate; its log says why.
    CertificateRefused,
    CertificateMissing,
    /// The other end does not speak TLS.
    NoTls,
    PortTaken,
    PortForbidden,
    /// The proxy of `via` cannot be reached.
    ProxyAway,
    ConnectionRefused,
    NameUnresolved,
    NoAnswer,
    Unreachable,
    /// `maximum` links are in use.
    AtMaximum,
    /// The descriptors that are for links are in use.
    NoDescriptor,
    /// None of the services offered is known here and allowed.
    NoKnownService,
    NoInternalGateway,
    NoDmzGateway,
    /// Its links were up, and were lost without a goodbye.
    GatewayLost,
    /// Its links are up, and the last sessions that were opened on them had no answer.
    SessionsUnanswered,
    /// Anything else, including causes from a later version.
    #[serde(other)]
    Other,
}

/// A fault of links: its cause and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFault {
    pub cause: LinkCause,
    pub words: String,
}

impl LinkFault {
    pub fn new(cause: LinkCause, words: impl Into<String>) -> Self {
        Self { cause, words: words.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_of_a_later_version_is_another_one() {
        let read = |text: &str| serde_json::from_str::<LinkCause>(text).expect("a cause");
        assert_eq!(serde_json::to_string(&LinkCause::NoAnswer).expect("text"), "\"no_answer\"");
        assert_eq!((read("\"no_answer\""), read("\"sunspots\"")), (LinkCause::NoAnswer, LinkCause::Other));
    }
}
