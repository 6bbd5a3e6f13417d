//! Who may be a peer: a certificate from the link's `ca` that carries one of the link's `peers`.
//!
//! The address that was dialled plays no part, so the usual comparison with the host's name is
//! replaced by one with the list. Dates, chain and key usage are checked by webpki.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use thiserror::Error as ThisError;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Version};

/// Names told of a certificate that is refused; it is the other side's text.
const TOLD_NAMES_MAX: usize = 4;

/// Checks the other side of a link, whichever side dialled.
#[derive(Debug)]
pub struct PeerVerifier {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
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
    pub fn new(
        roots: RootCertStore,
        provider: Arc<CryptoProvider>,
        peers: Vec<String>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        Ok(Self { roots, clients, provider, peers })
    }

    pub fn peers(&self) -> &[String] {
        &self.peers
    }

    /// The first of `peers` that the certificate carries.
    pub fn name_of(&self, certificate: &CertificateDer<'_>) -> Result<String, Error> {
        name_among(certificate, &self.peers, "this link's peers")
    }

    /// Whether a certificate chains to the `ca`, is in date, and may serve as a TLS server.
    pub fn check_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }

    /// The same for a TLS client.
    pub fn check_client(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.clients.verify_client_cert(leaf, intermediates, now).map(|_| ())
    }
}

/// The first of the `wanted` names that a certificate carries; `of` says whose they are.
pub fn name_among(
    certificate: &CertificateDer<'_>,
    wanted: &[String],
    of: &'static str,
) -> Result<String, Error> {
    let names = names(certificate).ok_or(CertificateError::BadEncoding)?;
    if let Some(name) = wanted.iter().find(|name| names.iter().any(|of| is_same_name(of, name))) {
        return Ok(name.clone());
    }
    let told = match names.is_empty() {
        true => "no name".into(),
        false => names.iter().take(TOLD_NAMES_MAX).cloned().collect::<Vec<_>>().join(", "),
    };
    let why = NotAmong { told, of, wanted: wanted.to_vec() };
    Err(CertificateError::Other(OtherError(Arc::new(why))).into())
}

/// Names of hosts are the same whatever their case (RFC 4343), addresses however they are written; a URI is
/// compared letter by letter.
pub fn is_same_name(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one == other,
        _ if one.contains(':') || other.contains(':') => one == other,
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// The names of a certificate: DNS names, URIs and addresses (RFC 5280, 4.2.1.6), and the common name
/// where it has none of them.
pub fn names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let mut names: Vec<String> = Vec::new();
    if let Ok(Some(alternatives)) = parsed.subject_alternative_name() {
        names.extend(alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(text) | GeneralName::URI(text) => Some((*text).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        }));
    }
    if names.is_empty() {
        names.extend(
            parsed.subject().iter_common_name().filter_map(|name| Some(name.as_str().ok()?.to_owned())),
        );
    }
    Some(names)
}

/// Four bytes or sixteen; what else stands there is no address.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// When a certificate ends, in seconds since 1970.
pub fn expires(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// Who a certificate is for, and how many days it has left.
pub fn told(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = names(certificate)?;
    let left = parsed.validity().not_after.timestamp() - x509_parser::time::ASN1Time::now().timestamp();
    Some(format!("for `{}`, {} days left", names.join("`, `"), left.max(0) / (24 * 60 * 60)))
}

/// Who is at the other end of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    Gateway,
    Backend,
    Client,
}

impl Party {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Gateway => ("the other gateway", "this link's `ca`"),
            Self::Backend => ("the backend", "this connect's `ca`"),
            Self::Client => ("the client", "this accept's `ca`"),
        }
    }
}

/// Why a handshake or a certificate was refused, in an operator's words; alerts are what the other
/// side says of ours (RFC 8446, 6.2).
pub fn words(error: &Error, of: Party) -> String {
    use rustls::AlertDescription as Alert;
    let (party, ca) = of.words();
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
pub fn unfit(chain: &[CertificateDer<'_>]) -> Option<(usize, &'static str)> {
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

fn date(time: UnixTime) -> String {
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
        self.check_server(leaf, intermediates, now)?;
        self.name_of(leaf)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.clients.verify_client_cert(leaf, intermediates, now)?;
        self.name_of(leaf)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

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
