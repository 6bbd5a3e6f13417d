//! Why links that this half keeps have failed, and the cause under which an operator knows each error.
//!
//! One function here maps each kind of error to its [`LinkCause`]. The text comes from the errors themselves.

use std::{io, sync::Arc, time::Duration};

use rustls::{AlertDescription as Alert, CertificateError, Error as RustlsError, InvalidMessage};
use thiserror::Error;

use super::{
    carrier::CarrierError, grants::CarriesMismatch, handshake::HandshakeError, multiplex::handle::LinkLoss,
};
use crate::{
    net::{
        dial::DialError,
        listen::BindError,
        via::{ViaError, ViaErrorKind},
    },
    profile::ViaProxy,
    proto::multiplex::PeerViolation,
    telemetry::link_cause::{LinkCause, LinkFault},
    tls::{
        chain::ChainError,
        error::{NameMismatch, TlsError},
    },
};

/// Why links to a gateway cannot be opened, or do not last.
#[derive(Debug, Error)]
pub enum LinkError {
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// Every service that it offers carries something else here.
    #[error("{}", mismatch_words(.0))]
    Mismatches(Vec<CarriesMismatch>),
    /// It offers nothing: this gateway is not allowed anything there, or there is nothing.
    #[error("{0} is not among the `peers` of any service")]
    NothingAllowed(Arc<str>),
    #[error(
        "it serves none of {} to this gateway: unknown there, not allowed by `peers`, or another `carries`",
        .0.join(", ")
    )]
    NothingGranted(Vec<String>),
    #[error("this half offers no service")]
    NothingOffered,
    #[error("{0} is not among the service's `peers`")]
    PeerNotAllowed(Arc<str>),
    #[error("it drains, and takes no links now")]
    Drains,
    #[error("ready link lost: {0}")]
    Lost(IdleLinkError),
    /// The proxy may have cut it. One that cuts what is silent does so after the same time each time.
    #[error("ready link lost after {:.1}s, through proxy {proxy}: {why}", .lived.as_secs_f64())]
    LostThrough { proxy: Arc<ViaProxy>, lived: Duration, why: IdleLinkError },
    /// A link with sessions on it has broken the protocol.
    #[error("{}", LinkLoss::Broken(.0.clone()))]
    Violation(PeerViolation),
}

/// Why an idle link has failed.
#[derive(Debug, Clone, Error)]
pub enum IdleLinkError {
    #[error(transparent)]
    Link(#[from] LinkLoss),
    #[error("the other gateway closes new links at once")]
    ClosedAtOnce,
    #[error("the certificate of the other gateway was revoked")]
    Revoked,
    /// On a parked SOCKS5 link, where the peer must send nothing until a client arrives.
    #[error("the peer sent bytes before a client had come")]
    EarlyBytes,
    /// Over SOCKS5: the second reply, which should have announced a session, was not valid.
    #[error(transparent)]
    Announcement(Arc<HandshakeError>),
}

impl From<io::Error> for IdleLinkError {
    fn from(error: io::Error) -> Self {
        Self::Link(error.into())
    }
}

impl IdleLinkError {
    /// The error for a link that was closed without a reason.
    pub const CLOSED: Self = Self::Link(LinkLoss::Closed);

    pub fn fault(&self) -> LinkFault {
        LinkFault::new(self.into(), format!("ready link lost: {self}"))
    }
}

impl LinkError {
    pub fn fault(&self) -> LinkFault {
        LinkFault::new(self.into(), self.to_string())
    }
}

fn mismatch_words(mismatches: &[CarriesMismatch]) -> String {
    mismatches.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl From<&LinkError> for LinkCause {
    fn from(failure: &LinkError) -> Self {
        match failure {
            LinkError::Handshake(error) => error.into(),
            LinkError::Lost(why) | LinkError::LostThrough { why, .. } => why.into(),
            LinkError::Mismatches(_)
            | LinkError::NothingAllowed(_)
            | LinkError::NothingGranted(_)
            | LinkError::NothingOffered
            | LinkError::PeerNotAllowed(_)
            | LinkError::Drains
            | LinkError::Violation(_) => Self::Other,
        }
    }
}

impl From<&IdleLinkError> for LinkCause {
    fn from(failure: &IdleLinkError) -> Self {
        match failure {
            IdleLinkError::Announcement(error) => (&**error).into(),
            IdleLinkError::Link(
                LinkLoss::Closed
                | LinkLoss::Cut
                | LinkLoss::Silent
                | LinkLoss::Socket(_)
                | LinkLoss::Unreachable(_),
            ) => Self::GatewayLost,
            IdleLinkError::Link(LinkLoss::Broken(_))
            | IdleLinkError::ClosedAtOnce
            | IdleLinkError::Revoked
            | IdleLinkError::EarlyBytes => Self::Other,
        }
    }
}

impl From<&HandshakeError> for LinkCause {
    fn from(error: &HandshakeError) -> Self {
        match error {
            HandshakeError::Dial(error) => error.into(),
            HandshakeError::Via(error) => error.into(),
            HandshakeError::Through(_, error) => (&**error).into(),
            HandshakeError::Carrier(error) => error.into(),
            HandshakeError::Tls(error) => error.into(),
            HandshakeError::Socks(_)
            | HandshakeError::Late
            | HandshakeError::Socket(_)
            | HandshakeError::Hello(_)
            | HandshakeError::HalfAnnounced
            | HandshakeError::Revoked => Self::Other,
        }
    }
}

impl From<&DialError> for LinkCause {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::Resolve { .. } => Self::NameUnresolved,
            DialError::Refused { .. } => Self::ConnectionRefused,
            DialError::Timeout { .. } => Self::NoAnswer,
            DialError::Unreachable { .. } | DialError::Unroutable { .. } => Self::Unreachable,
            DialError::Local { .. } | DialError::Rule { .. } => Self::Other,
        }
    }
}

impl From<&ViaError> for LinkCause {
    fn from(error: &ViaError) -> Self {
        let is_late = matches!(error.failure, ViaErrorKind::Late);
        match error.dial_error() {
            Some(DialError::Refused { .. } | DialError::Timeout { .. }) => Self::ProxyAway,
            Some(error) => error.into(),
            None if is_late => Self::ProxyAway,
            None => Self::Other,
        }
    }
}

impl From<&CarrierError> for LinkCause {
    fn from(error: &CarrierError) -> Self {
        match error {
            // The link's own names and certificates are checked inside it.
            CarrierError::Tls(error) => Self::of_outer(error.into()),
            CarrierError::Faulty | CarrierError::WebSocket(_) => Self::Other,
        }
    }
}

impl LinkCause {
    /// What a cause is called when it concerns the TLS around a link's WebSocket.
    fn of_outer(cause: Self) -> Self {
        if cause == Self::OtherCa {
            return Self::OuterOtherCa;
        }
        if cause == Self::CertificateDates { cause } else { Self::Other }
    }
}

impl From<&TlsError> for LinkCause {
    fn from(error: &TlsError) -> Self {
        match error {
            TlsError::Chain(fault) => (&**fault).into(),
            TlsError::Handshake { error, .. } | TlsError::NotPeer(error) => of_rustls(error),
            TlsError::NoCertificate => Self::CertificateMissing,
            TlsError::Io(_) | TlsError::HostName(_) | TlsError::NoProtocol(_) => Self::Other,
        }
    }
}

impl From<&ChainError> for LinkCause {
    fn from(fault: &ChainError) -> Self {
        match fault {
            ChainError::IssuerMissing { .. } | ChainError::SelfSigned { .. } => Self::OtherCa,
            ChainError::Expired { .. } | ChainError::NotYet { .. } | ChainError::ListExpired { .. } => {
                Self::CertificateDates
            }
            ChainError::IssuerNoCa { .. }
            | ChainError::NameExcluded { .. }
            | ChainError::Algorithm { .. }
            | ChainError::Version { .. }
            | ChainError::IsAuthority { .. }
            | ChainError::Revoked { .. } => Self::Other,
        }
    }
}

/// The cause for which rustls gave up, or which the other side's alert names (RFC 8446, section 6.2).
fn of_rustls(error: &RustlsError) -> LinkCause {
    match error {
        RustlsError::InvalidCertificate(CertificateError::Other(ours)) if ours.0.is::<NameMismatch>() => {
            LinkCause::PeerNotListed
        }
        RustlsError::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )
        | RustlsError::AlertReceived(Alert::CertificateExpired) => LinkCause::CertificateDates,
        RustlsError::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)
        | RustlsError::AlertReceived(Alert::UnknownCA | Alert::DecryptError) => LinkCause::OtherCa,
        RustlsError::AlertReceived(
            Alert::AccessDenied
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate,
        ) => LinkCause::CertificateRefused,
        RustlsError::AlertReceived(Alert::CertificateRequired) | RustlsError::NoCertificatesPresented => {
            LinkCause::CertificateMissing
        }
        RustlsError::InvalidMessage(InvalidMessage::InvalidContentType) => LinkCause::NoTls,
        _ => LinkCause::Other,
    }
}

impl From<&BindError> for LinkCause {
    fn from(error: &BindError) -> Self {
        match error {
            BindError::Taken { .. } | BindError::TakenHere { .. } => Self::PortTaken,
            BindError::Forbidden { .. } => Self::PortForbidden,
            BindError::Resolve { .. } => Self::NameUnresolved,
            BindError::Absent { .. } | BindError::Passed { .. } | BindError::Other { .. } => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        net::dial::{DialRuleError, TriedAddresses},
        net::resolve_error::ResolveError,
        profile::HostPort,
        tls::party::TlsParty,
    };

    fn at() -> HostPort {
        HostPort { host: "dmz".into(), port: 1444 }
    }

    #[test]
    fn a_dial_fails_by_the_cause_that_its_error_is() {
        let (tried, within) = (TriedAddresses::default, Duration::from_secs(3));
        let source = || io::Error::other("it failed");
        for (error, cause) in [
            (DialError::Resolve { at: at(), source: ResolveError::NoAddress }, LinkCause::NameUnresolved),
            (DialError::Unroutable { at: at(), source: ResolveError::NoAddress }, LinkCause::Unreachable),
            (DialError::Refused { at: at(), tried: tried() }, LinkCause::ConnectionRefused),
            (DialError::Timeout { at: at(), within, tried: tried() }, LinkCause::NoAnswer),
            (DialError::Unreachable { at: at(), source: source(), tried: tried() }, LinkCause::Unreachable),
            (DialError::Local { at: at(), source: source(), tried: tried() }, LinkCause::Other),
            (DialError::Rule { at: at(), source: DialRuleError::OwnPort, tried: tried() }, LinkCause::Other),
        ] {
            let failure = LinkError::Handshake(error.into());
            assert_eq!(failure.fault().cause, cause, "{failure}");
        }
    }

    #[test]
    fn what_is_wrong_around_a_link_is_not_taken_for_what_is_wrong_with_it() {
        let outer = |error| {
            let error = TlsError::Handshake { with: TlsParty::Gateway, error: Box::new(error) };
            LinkCause::from(&CarrierError::Tls(error))
        };
        for (error, cause) in [
            (RustlsError::InvalidCertificate(CertificateError::UnknownIssuer), LinkCause::OuterOtherCa),
            (RustlsError::InvalidCertificate(CertificateError::Expired), LinkCause::CertificateDates),
            (RustlsError::InvalidMessage(InvalidMessage::InvalidContentType), LinkCause::Other),
            (RustlsError::AlertReceived(Alert::CertificateRequired), LinkCause::Other),
        ] {
            assert_eq!(outer(error), cause);
        }
    }

    #[test]
    fn each_tls_alert_maps_to_its_cause() {
        let of = |error| {
            let error = TlsError::Handshake { with: TlsParty::Gateway, error: Box::new(error) };
            LinkCause::from(&HandshakeError::Tls(error))
        };
        for (alert, cause) in [
            (Alert::UnknownCA, LinkCause::OtherCa),
            (Alert::CertificateExpired, LinkCause::CertificateDates),
            (Alert::AccessDenied, LinkCause::CertificateRefused),
            (Alert::CertificateRequired, LinkCause::CertificateMissing),
            (Alert::InternalError, LinkCause::Other),
        ] {
            assert_eq!(of(RustlsError::AlertReceived(alert)), cause, "{alert:?}");
        }
        assert_eq!(of(RustlsError::InvalidMessage(InvalidMessage::InvalidContentType)), LinkCause::NoTls);
    }
}
