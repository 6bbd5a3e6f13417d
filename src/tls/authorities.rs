//! The certificates of a `ca`: whom they make trustworthy, and why somebody is not trusted.
//!
//! Those that are CAs issue the certificates of others. A self-signed one is trusted when it is shown itself,
//! byte for byte, even if it says that it is a CA: it is pinned. webpki checks dates, chain and key usage.
//! Names are checked by the users of this module.

use std::{sync::Arc, time::Duration};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{danger::HandshakeSignatureValid, verify_server_cert_signed_by_trust_anchor},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::{
    chain::{self, ChainError},
    handshake,
    party::TlsParty,
};

#[derive(Debug)]
pub struct Authorities {
    all: Vec<CertificateDer<'static>>,
    issuers: Arc<RootCertStore>,
    /// `None` if no certificate here may issue others.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    hints: Vec<DistinguishedName>,
    self_issued: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
    /// Whose certificates are checked.
    of: TlsParty,
}

impl Authorities {
    /// `roots` are the same certificates, parsed.
    pub fn new(
        all: Vec<CertificateDer<'static>>,
        roots: &RootCertStore,
        provider: Arc<CryptoProvider>,
        of: TlsParty,
    ) -> Result<Self, VerifierBuilderError> {
        let hints = roots.subjects();
        let mut issuers = RootCertStore::empty();
        issuers.add_parsable_certificates(all.iter().filter(|one| may_issue(one)).cloned());
        let issuers = Arc::new(issuers);
        let clients = match issuers.is_empty() {
            true => None,
            false => {
                let builder = WebPkiClientVerifier::builder_with_provider(issuers.clone(), provider.clone());
                Some(builder.build()? as Arc<dyn ClientCertVerifier>)
            }
        };
        let self_issued = all.iter().filter(|one| is_self_issued(one)).cloned().collect();
        Ok(Self { all, issuers, clients, hints, self_issued, provider, of })
    }

    /// Checks that a certificate comes from here, is in date, and may be used by a TLS server.
    pub fn check_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.self_issued.contains(leaf) {
            return check_dates(leaf, now);
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.issuers,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }

    /// Checks the certificates that a TLS client has shown.
    pub fn check_client(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.self_issued.contains(leaf) {
            return check_dates(leaf, now);
        }
        let clients = self.clients.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        clients.verify_client_cert(leaf, intermediates, now).map(|_| ())
    }

    /// Which certificate of a chain the error is about, and why.
    pub fn fault(
        &self,
        error: &Error,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
    ) -> Option<ChainError> {
        chain::fault(error, leaf, rest, &self.all, self.of)
    }

    /// Keeps the fault for whoever runs the handshake, and returns the error for the other side.
    pub fn explain(&self, error: Error, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Error {
        let Some(fault) = self.fault(&error, leaf, rest) else { return error };
        handshake::keep_fault(fault.clone());
        // rustls's own alert would be that of a bad signature, as for another CA.
        match fault.is_of_algorithm() {
            true => CertificateError::Other(OtherError(Arc::new(fault))).into(),
            false => error,
        }
    }

    pub fn hints(&self) -> &[DistinguishedName] {
        &self.hints
    }

    pub fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    pub fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    pub fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a certificate of `ca` may issue others. webpki treats whatever is trusted as a CA, but a certificate
/// pinned for somebody must not issue others. Roots from before version 3 cannot say what they are.
pub(super) fn may_issue(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    match (parsed.basic_constraints(), parsed.key_usage()) {
        (Ok(Some(constraints)), _) => constraints.value.ca,
        (Ok(None), Ok(Some(usage))) => usage.value.key_cert_sign(),
        (Ok(None), Ok(None)) => parsed.version() != X509Version::V3,
        _ => false,
    }
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
}

/// The remaining checks of a certificate that `ca` itself contains, except its name.
fn check_dates(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let at = |seconds: i64| {
        UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or_default()))
    };
    let not_before = at(parsed.validity().not_before.timestamp());
    let not_after = at(parsed.validity().not_after.timestamp());
    match now {
        now if now < not_before => Err(CertificateError::NotValidYetContext { time: now, not_before }.into()),
        now if now > not_after => Err(CertificateError::ExpiredContext { time: now, not_after }.into()),
        _ => Ok(()),
    }
}
