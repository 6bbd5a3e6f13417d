//! Whom a gateway trusts at its edges: clients with a certificate, and backends. Links have stricter rules, in
//! `peer_verifier`: there both ends are ours.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    authorities::Authorities, error::failure_reason, party::TlsParty, peer_verifier::name_among,
    revocation::RevocationCheck,
};

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientCertificateDemand {
    Required,
    Optional,
}

/// Accepts clients whose certificate comes from an authority and, if names are given, has one of them.
#[derive(Debug)]
pub(super) struct NamedClientVerifier {
    pub authorities: Authorities,
    pub names: Option<Vec<String>>,
    pub demand: ClientCertificateDemand,
    pub revoked: Arc<RevocationCheck>,
}

impl NamedClientVerifier {
    /// Why a client that shows these certificates would not be let in; `None` if it would.
    pub(super) fn refusal_reason(&self, chain: &[CertificateDer<'_>]) -> Option<String> {
        let (leaf, intermediates) = chain.split_first()?;
        let error = self.check(leaf, intermediates, UnixTime::now()).err()?;
        let fault = self.authorities.fault(&error, leaf, intermediates);
        Some(fault.map_or_else(|| failure_reason(&error, TlsParty::Client), |fault| fault.in_short()))
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.authorities.check_client(leaf, intermediates, now)?;
        if let Some(names) = &self.names {
            name_among(leaf, names, "this accept's `names`")?;
        }
        self.revoked.lists().check(leaf, intermediates, now)
    }
}

impl ClientCertVerifier for NamedClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.demand == ClientCertificateDemand::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authorities.hints()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let checked = self.check(leaf, intermediates, now);
        checked.map_err(|error| self.authorities.explain(error, leaf, intermediates))?;
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

/// Accepts a backend whose certificate comes from an authority and has the name given in the connect.
#[derive(Debug)]
pub(super) struct BackendVerifier {
    pub authorities: Authorities,
}

impl ServerCertVerifier for BackendVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.authorities.check_server(leaf, intermediates, now);
        checked.map_err(|error| self.authorities.explain(error, leaf, intermediates))?;
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
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
