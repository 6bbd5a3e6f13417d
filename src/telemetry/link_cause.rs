//! Why links to a gateway fail, as far as an operator can do something about it.
//!
//! A cause is made where the error is (`link::failure`), and travels with the rows and notices of a snapshot beside
//! the words for it. What to do about each is `verify::advice`.

use serde::{Deserialize, Serialize};

/// Of several causes at once, the first here explains the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkCause {
    /// The other gateway's certificate has none of the names in `peers`.
    PeerNotListed,
    /// A certificate has expired or is not valid yet, by the clock of one of the hosts.
    CertificateDates,
    OtherCa,
    /// What is shown around the WebSocket of a link, often by somebody on the way, is by another CA than `outer` has.
    OuterOtherCa,
    /// The other gateway refuses our certificate; its log says why.
    CertificateRefused,
    CertificateMissing,
    /// The other end does not speak TLS.
    NoTls,
    PortTaken,
    PortForbidden,
    /// The proxy of `via` is not there.
    ProxyAway,
    ConnectionRefused,
    NameUnresolved,
    NoAnswer,
    Unreachable,
    /// `maximum` links are in use.
    AtMaximum,
    /// None of the services that are offered is known here, and allowed.
    NoKnownService,
    NoInternalGateway,
    NoDmzGateway,
    /// Its links stood, and were lost without a goodbye.
    GatewayLost,
    /// Anything else, and what a later version knows.
    #[serde(other)]
    Other,
}

/// What is wrong with links: the cause, and the words for it.
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
