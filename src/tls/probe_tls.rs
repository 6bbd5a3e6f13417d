//! TLS between a probe and a client port of this same gateway. The port has to show exactly the certificate of
//! the accept under test, and asks the probe for none, whatever it asks of clients.

use std::{net::IpAddr, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::NoServerSessionStorage,
};
use thiserror::Error as ThisError;

use super::edge::TlsClient;

/// The client side of a probe to a port that shows `leaf` for any of `names`; if empty, for every name.
pub fn probe_client(leaf: CertificateDer<'static>, names: &[String], port: IpAddr) -> Option<TlsClient> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(PinnedVerifier { leaf, provider: provider.clone() });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites of both versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // A name with a star stands for any label there; an address cannot be sent as a name.
    let name = match names.first() {
        Some(name) => ServerName::try_from(name.replace('*', "probe")).ok()?,
        None => ServerName::from(port),
    };
    Some(TlsClient::new(Arc::new(config), name))
}

/// Answers like `config`, but asks for no certificate, because a probe has none. The connection cannot be
/// resumed, since a client that resumes is not asked for one either.
pub fn probe_server_config(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut answering = ServerConfig::builder_with_provider(config.crypto_provider().clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites of both versions")
        .with_no_client_auth()
        .with_cert_resolver(config.cert_resolver.clone());
    answering.session_storage = Arc::new(NoServerSessionStorage {});
    answering.send_tls13_tickets = 0;
    Arc::new(answering)
}

/// Accepts only this one certificate, from whoever has its key.
#[derive(Debug)]
struct PinnedVerifier {
    leaf: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug, ThisError)]
#[error("the port shows another certificate than this accept's")]
struct UnexpectedCertificate;

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match *leaf == self.leaf {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::Other(OtherError(Arc::new(UnexpectedCertificate))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
