//! Decides who may be a peer: a certificate that was issued by the link's `ca`, or a self-signed one that `ca`
//! contains itself, and that carries one of the names in the link's `peers`.
//!
//! The address that was dialled plays no part, so the usual check against the host name is replaced by one
//! against that list. Dates, chain and key usage are checked by webpki.

use std::{io, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use thiserror::Error as ThisError;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::authorities::Authorities;
use crate::proto::certificate::{certificate_names, is_same_name};

/// Names told of a certificate that is refused; it is the other side's text.
const TOLD_NAMES_MAX: usize = 4;
/// Signs told of each.
const NAME_CHARS_MAX: usize = 100;

/// Checks the other side of a link, whichever side dialled.
#[derive(Debug)]
pub struct PeerVerifier {
    authorities: Authorities,
    peers: Vec<String>,
}

#[derive(Debug, ThisError)]
#[error("its certificate is for {told}, none of which is among {of} {wanted:?}")]
struct NotAmong {
    told: String,
    of: &'static str,
    wanted: Vec<String>,
}

impl PeerVerifier {
    pub fn new(authorities: Authorities, peers: Vec<String>) -> Self {
        Self { authorities, peers }
    }

    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    pub fn peers(&self) -> &[String] {
        &self.peers
    }

    /// The first of `peers` that the certificate carries.
    pub fn name_of(&self, certificate: &CertificateDer<'_>) -> Result<String, Error> {
        name_among(certificate, &self.peers, "this link's peers")
    }
}

/// The first of the `wanted` names that a certificate carries; `of` says whose they are.
pub fn name_among(
    certificate: &CertificateDer<'_>,
    wanted: &[String],
    of: &'static str,
) -> Result<String, Error> {
    let names = certificate_names(certificate).ok_or(CertificateError::BadEncoding)?;
    if let Some(name) = wanted.iter().find(|name| names.iter().any(|of| is_same_name(of, name))) {
        return Ok(name.clone());
    }
    let why = NotAmong { told: told_names(&names), of, wanted: wanted.to_vec() };
    Err(CertificateError::Other(OtherError(Arc::new(why))).into())
}

/// The names of a certificate in one line.
pub(super) fn told_names(names: &[String]) -> String {
    match names.is_empty() {
        true => "no name".into(),
        false => {
            let plain =
                |name: &String| name.chars().filter(|sign| !sign.is_control()).take(NAME_CHARS_MAX).collect();
            names.iter().take(TOLD_NAMES_MAX).map(plain).collect::<Vec<String>>().join(", ")
        }
    }
}

/// Who a certificate is for, and how many days it has left.
pub fn describe_certificate(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate_names(certificate)?;
    let left = parsed.validity().not_after.timestamp() - x509_parser::time::ASN1Time::now().timestamp();
    let names = told_names(&names).replace(", ", "`, `");
    Some(format!("for `{names}`, {} days left", left.max(0) / (24 * 60 * 60)))
}

/// Who is at the other end of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsParty {
    Gateway,
    Backend,
    Client,
}

impl TlsParty {
    fn name(self) -> &'static str {
        match self {
            Self::Gateway => "the other gateway",
            Self::Backend => "the backend",
            Self::Client => "the client",
        }
    }

    /// Where those stand who may issue its certificate.
    pub(super) fn ca(self) -> &'static str {
        match self {
            Self::Gateway => "this link's `ca`",
            Self::Backend => "this connect's `ca`",
            Self::Client => "this accept's `ca`",
        }
    }
}

/// A failed handshake in words.
pub(super) fn told_failure(error: &io::Error, of: TlsParty) -> String {
    inner(error).map_or_else(|| error.to_string(), |error| tls_reason(error, of))
}

/// What the other side says of this one's certificate. In TLS 1.3 whoever dialled is done before it has been
/// judged, so the alert comes with what is read next.
pub fn alert(error: &io::Error, of: TlsParty) -> Option<String> {
    match inner(error)? {
        error @ Error::AlertReceived(_) => Some(tls_reason(error, of)),
        _ => None,
    }
}

fn inner(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Why a handshake or a certificate was refused, in an operator's words; alerts are what the other
/// side says of ours (RFC 8446, 6.2).
pub fn tls_reason(error: &Error, of: TlsParty) -> String {
    use rustls::AlertDescription as Alert;
    let (party, ca) = (of.name(), of.ca());
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
        // A CA of the same name as ours: it is its signature that fails.
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            format!("its certificate comes from another CA than {ca}, of the same name")
        }
        Error::AlertReceived(Alert::CertificateExpired) => {
            format!("{party} takes this one's certificate for expired, or for not valid yet")
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
        ) => format!("{party} refuses this one's certificate ({error}); its log says why"),
        other => other.to_string(),
    }
}

/// Whether a certificate reads at all.
pub fn check_whole(certificate: &CertificateDer<'_>) -> Result<(), String> {
    X509Certificate::from_der(certificate).map(|_| ()).map_err(|error| error.to_string())
}

/// The first certificate of a chain that nobody would accept, by its number, and why.
pub fn find_unfit(chain: &[CertificateDer<'_>]) -> Option<(usize, &'static str)> {
    chain.iter().enumerate().find_map(|(at, certificate)| {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let signed = parsed.signature_algorithm.algorithm.to_id_string();
        let is_ca = parsed.is_ca();
        let why = match parsed.version() {
            X509Version::V3 if WEAK.contains(&signed.as_str()) => "is signed with SHA-1 or MD5",
            X509Version::V3 if at == 0 && is_ca => "is a CA's own (CA:TRUE), and stands for no gateway",
            X509Version::V3 => return None,
            _ => "is not of X.509 version 3",
        };
        Some((at + 1, why))
    })
}

/// Signatures with SHA-1 and MD5 (RFC 8017, appendix C; RFC 3279, section 2.2.3).
const WEAK: [&str; 3] = ["1.2.840.113549.1.1.5", "1.2.840.10045.4.1", "1.2.840.113549.1.1.4"];

pub(super) fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| format!("{seconds} s"), |time| time.date().to_string())
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.authorities.check_server(leaf, intermediates, now);
        checked.map_err(|error| self.authorities.explain(error, leaf, intermediates))?;
        self.name_of(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authorities.hints()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let checked = self.authorities.check_client(leaf, intermediates, now);
        checked.map_err(|error| self.authorities.explain(error, leaf, intermediates))?;
        self.name_of(leaf)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::RootCertStore;

    use super::*;

    fn verifier(authorities: &[CertificateDer<'static>]) -> PeerVerifier {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authorities = Authorities::new(authorities.to_vec(), &roots, provider, TlsParty::Gateway);
        PeerVerifier::new(authorities.expect("a verifier"), vec!["dmz".into()])
    }

    fn accepts(
        verifier: &PeerVerifier,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
    ) -> [Result<(), Error>; 2] {
        let now = UnixTime::now();
        let name = ServerName::try_from("dmz").expect("a name");
        [
            verifier.verify_server_cert(leaf, rest, &name, &[], now).map(|_| ()),
            verifier.verify_client_cert(leaf, rest, now).map(|_| ()),
        ]
    }

    #[test]
    fn a_certificate_in_the_ca_file_is_a_peers_and_issues_none_unless_it_is_a_cas() {
        for (is_ca, issues) in [
            (IsCa::NoCa, false),
            (IsCa::ExplicitNoCa, false),
            (IsCa::Ca(BasicConstraints::Unconstrained), true),
        ] {
            let mut params = CertificateParams::new(["dmz".to_owned()]).expect("names");
            params.is_ca = is_ca;
            let key = KeyPair::generate().expect("a key");
            let own = params.self_signed(&key).expect("a certificate");
            let pinning = verifier(&[own.der().clone()]);
            assert_eq!(accepts(&pinning, own.der(), &[]), [Ok(()), Ok(())], "{is_ca:?}");
            // The same names and key, and yet another certificate.
            let twin = params.self_signed(&key).expect("a certificate");
            if !issues {
                assert!(accepts(&pinning, twin.der(), &[]).iter().all(Result::is_err), "{is_ca:?}");
            }
            let issuer = Issuer::from_params(&params, &key);
            let below = CertificateParams::new(["dmz".to_owned()]).expect("names");
            let below = below.signed_by(&KeyPair::generate().expect("a key"), &issuer).expect("signed");
            let rest = [own.der().clone()];
            for found in accepts(&pinning, below.der(), &rest) {
                assert_eq!(found.is_ok(), issues, "{is_ca:?}: {found:?}");
            }
            // In a file with others as well.
            let other_key = KeyPair::generate().expect("a key");
            let mut other = CertificateParams::new(["other".to_owned()]).expect("names");
            other.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let other = other.self_signed(&other_key).expect("a certificate");
            let both = verifier(&[other.der().clone(), own.der().clone()]);
            assert_eq!(accepts(&both, own.der(), &[]), [Ok(()), Ok(())], "{is_ca:?}");
            assert_eq!(accepts(&both, below.der(), &rest)[1].is_ok(), issues, "{is_ca:?}");
            let strange = accepts(&both, other.der(), &[]);
            assert!(
                strange.iter().all(|found| format!("{found:?}").contains("none of which")
                    || format!("{found:?}").contains("NotAmong")),
                "{strange:?}"
            );
        }
    }

    #[test]
    fn a_pinned_certificate_has_dates() {
        let now = time::OffsetDateTime::now_utc();
        let day = time::Duration::days(1);
        for (from, to, expected) in
            [(now - day * 9, now - day, "Expired"), (now + day, now + day * 9, "NotValidYet")]
        {
            let mut params = CertificateParams::new(["dmz".to_owned()]).expect("names");
            (params.not_before, params.not_after) = (from, to);
            let own = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate");
            for found in accepts(&verifier(&[own.der().clone()]), own.der(), &[]) {
                assert!(format!("{found:?}").contains(expected), "{found:?}");
            }
        }
    }

    #[test]
    fn names_are_compared_as_what_they_are() {
        let names = ["DMZ.Test", "192.0.2.1", "2001:db8::1"].map(str::to_owned);
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        let uri = "spiffe://Test/dmz".try_into().expect("ASCII");
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
        let certificate = params.self_signed(&key).expect("a certificate");
        let is_named = |name: &str| name_among(certificate.der(), &[name.to_owned()], "these").is_ok();
        for name in ["dmz.test", "DMZ.TEST", "192.0.2.1", "2001:DB8:0::1", "spiffe://Test/dmz"] {
            assert!(is_named(name), "{name}");
        }
        for name in ["dmz", "dmz.test.", "192.0.2.2", "spiffe://test/dmz", "2001:db8::2"] {
            assert!(!is_named(name), "{name}");
        }
    }
}
