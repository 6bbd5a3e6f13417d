//! Why a TLS handshake failed, and the words for it. They name the side whose certificate or setting is wrong, since
//! both ends log the same handshake.

use std::io;

use rustls::{AlertDescription as Alert, CertificateError, Error, PeerIncompatible};
use thiserror::Error as ThisError;

use super::{chain::ChainError, describe::date, party::TlsParty};

/// Why a TLS handshake failed.
#[derive(Debug, ThisError)]
pub enum TlsError {
    /// The other side's certificates are not trusted, and it is known which one is at fault.
    #[error("{}", .0.of_other_side())]
    Chain(Box<ChainError>),
    /// rustls gave up: a check of ours failed, or the other side's alert says that one of its own did.
    #[error("{}", failure_reason(.error, *.with))]
    Handshake { with: TlsParty, error: Box<Error> },
    #[error(transparent)]
    Io(io::Error),
    #[error("`{0}` is not a host name")]
    HostName(String),
    #[error("it takes none of the protocols that it is offered by ALPN: {0}")]
    NoProtocol(String),
    #[error("the peer showed no certificate")]
    NoCertificate,
    #[error("{0}")]
    NotPeer(Box<Error>),
}

impl TlsError {
    /// Why a read, a write or a handshake over TLS failed.
    pub(super) fn of_io(error: io::Error, with: TlsParty) -> Self {
        match rustls_error(&error) {
            Some(error) => Self::Handshake { with, error: Box::new(error.clone()) },
            None => Self::Io(error),
        }
    }

    /// What the other side says about this one's certificate. In TLS 1.3 the side that dialled is finished
    /// before its certificate is checked, so the alert arrives with the next read.
    pub fn alert(error: &io::Error, with: TlsParty) -> Option<Self> {
        match rustls_error(error)? {
            error @ Error::AlertReceived(_) => Some(Self::Handshake { with, error: Box::new(error.clone()) }),
            _ => None,
        }
    }
}

fn rustls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// A certificate without any of the wanted names.
#[derive(Debug, ThisError)]
#[error("its certificate is for {found}, none of which is among {owner} {wanted:?}")]
pub struct NameMismatch {
    pub found: String,
    /// Whose names are wanted.
    pub owner: &'static str,
    pub wanted: Vec<String>,
}

/// Why a handshake or a certificate was refused, in words for operators; alerts are what the other side says
/// about ours (RFC 8446, section 6.2).
pub(super) fn failure_reason(error: &Error, with: TlsParty) -> String {
    let (party, ca) = (with.name(), with.ca());
    match error {
        Error::InvalidCertificate(CertificateError::Other(ours)) => ours.0.to_string(),
        Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => {
            format!(
                "its certificate expired on {}, and the clock of this host says {}",
                date(*not_after),
                date(*time)
            )
        }
        Error::InvalidCertificate(CertificateError::NotValidYetContext { time, not_before }) => {
            format!(
                "its certificate is not valid yet, from {} on, and the clock of this host says {}",
                date(*not_before),
                date(*time)
            )
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => format!(
            "its certificate comes from another CA than {ca}, or the intermediate certificate between the two is missing in its file"
        ),
        // It names a CA with the same name as ours, but the signature does not match.
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            format!("its certificate comes from another CA than {ca}, of the same name")
        }
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) if with == TlsParty::Gateway => {
            format!(
                "{party} offers no key exchange that is taken here: `post_quantum: required` takes X25519MLKEM768 alone"
            )
        }
        Error::AlertReceived(Alert::HandshakeFailure) if with == TlsParty::Gateway => format!(
            "{party} takes none of the key exchanges that it is offered: with `post_quantum: required` at either end, both need X25519MLKEM768"
        ),
        Error::AlertReceived(Alert::CertificateExpired) => {
            format!("{party} takes this one's certificate for expired, or for not valid yet")
        }
        Error::InvalidCertificate(CertificateError::Revoked) => "its certificate is revoked".into(),
        Error::AlertReceived(Alert::CertificateRevoked) => {
            format!("{party} says that this one's certificate is revoked")
        }
        Error::AlertReceived(Alert::UnknownCA | Alert::DecryptError) => {
            format!("{party} says that this one's certificate comes from another CA than its `ca`")
        }
        Error::AlertReceived(Alert::CertificateRequired) => {
            format!("{party} wants a certificate, and was shown none")
        }
        Error::AlertReceived(
            Alert::AccessDenied
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate,
        ) => format!("{party} refuses this one's certificate ({}); its log says why", alert_words(error)),
        Error::AlertReceived(Alert::NoApplicationProtocol) => {
            format!("{party} takes none of the protocols that it is offered by ALPN")
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
            describe_other_name(&rustls::pki_types::ServerName::to_str(expected), presented, with)
        }
        Error::AlertReceived(_) => format!("{party} ended the handshake: {}", alert_words(error)),
        other => other.to_string(),
    }
}

/// The names are written by rustls as `DnsName("shop.internal")` or `IpAddress(192.0.2.1)`.
fn describe_other_name(wanted: &str, presented: &[String], with: TlsParty) -> String {
    let plain = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')'));
        inner.trim_matches('"').to_owned()
    };
    let found = match presented.is_empty() {
        true => "no name".to_owned(),
        false => presented.iter().map(plain).collect::<Vec<_>>().join(", "),
    };
    let advice = match with {
        TlsParty::Backend => "; write the one to expect as `name` in `tls`, or issue it for this name",
        TlsParty::Gateway | TlsParty::Client | TlsParty::Outer => {
            "; issue it for this name, or correct the address"
        }
    };
    format!("its certificate is for {found}, and not for {wanted}{advice}")
}

/// An alert in the words of RFC 8446, section 6: rustls has them as one word in capitals.
fn alert_words(error: &Error) -> String {
    let Error::AlertReceived(alert) = error else { return error.to_string() };
    let mut words = String::new();
    for (at, letter) in format!("{alert:?}").char_indices() {
        if at > 0 && letter.is_ascii_uppercase() && !words.ends_with(|last: char| last.is_ascii_uppercase()) {
            words.push(' ');
        }
        words.push(letter);
    }
    words.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(error: Error, with: TlsParty) -> String {
        failure_reason(&error, with)
    }

    #[test]
    fn another_name_is_reported_with_both_names_and_advice() {
        let error = CertificateError::NotValidForNameContext {
            expected: "be".try_into().expect("a name"),
            presented: vec!["DnsName(\"zz\")".into(), "IpAddress(192.0.2.1)".into()],
        };
        let reported = words_of(error.into(), TlsParty::Backend);
        assert_eq!(
            reported,
            "its certificate is for zz, 192.0.2.1, and not for be; write the one to expect as `name` in `tls`, \
             or issue it for this name"
        );
    }

    #[test]
    fn alerts_are_reported_in_words() {
        let reported = |alert| words_of(Error::AlertReceived(alert), TlsParty::Gateway);
        assert_eq!(
            reported(Alert::CertificateUnknown),
            "the other gateway refuses this one's certificate (certificate unknown); its log says why"
        );
        assert_eq!(reported(Alert::InternalError), "the other gateway ended the handshake: internal error");
    }
}
