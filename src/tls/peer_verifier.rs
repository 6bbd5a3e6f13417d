//! Decides who may be a peer. Its certificate must be issued by the link's `ca`, or be a self-signed one that
//! `ca` contains, and must have one of the names in the link's `peers`.
//!
//! The dialled address plays no part, so a check against that list replaces the usual check of the host name.
//! webpki checks dates, chain and key usage.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    authorities::Authorities, describe::list_names, error::NameMismatch, revocation::RevocationCheck,
};
use crate::proto::certificate::{certificate_names, is_same_name};

/// Checks the other side of a link, whichever side dialled.
#[derive(Debug)]
pub struct PeerVerifier {
    authorities: Authorities,
    peers: Vec<String>,
    revoked: Arc<RevocationCheck>,
}

impl PeerVerifier {
    pub fn new(authorities: Authorities, peers: Vec<String>, revoked: Arc<RevocationCheck>) -> Self {
        Self { authorities, peers, revoked }
    }

    pub fn revoked(&self) -> &Arc<RevocationCheck> {
        &self.revoked
    }

    pub fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    pub fn peers(&self) -> &[String] {
        &self.peers
    }

    /// The first of `peers` that the certificate contains.
    pub fn name_of(&self, certificate: &CertificateDer<'_>) -> Result<String, Error> {
        name_among(certificate, &self.peers, "this link's peers")
    }
}

/// The first of the `wanted` names that a certificate contains; `owner` says whose names they are.
pub fn name_among(
    certificate: &CertificateDer<'_>,
    wanted: &[String],
    owner: &'static str,
) -> Result<String, Error> {
    let names = certificate_names(certificate).ok_or(CertificateError::BadEncoding)?;
    if let Some(name) = wanted.iter().find(|name| names.iter().any(|shown| is_same_name(shown, name))) {
        return Ok(name.clone());
    }
    let why = NameMismatch { found: list_names(&names), owner, wanted: wanted.to_vec() };
    Err(CertificateError::Other(OtherError(Arc::new(why))).into())
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
        self.revoked.lists().check(leaf, intermediates, now)?;
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
        self.revoked.lists().check(leaf, intermediates, now)?;
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

    use super::{super::party::TlsParty, *};

    fn verifier(authorities: &[CertificateDer<'static>]) -> PeerVerifier {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authorities = Authorities::new(authorities.to_vec(), &roots, provider, TlsParty::Gateway);
        PeerVerifier::new(authorities.expect("a verifier"), vec!["dmz".into()], Arc::default())
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
            // Another certificate with the same names and key.
            let other_certificate = params.self_signed(&key).expect("a certificate");
            if !issues {
                assert!(
                    accepts(&pinning, other_certificate.der(), &[]).iter().all(Result::is_err),
                    "{is_ca:?}"
                );
            }
            let issuer = Issuer::from_params(&params, &key);
            let below = CertificateParams::new(["dmz".to_owned()]).expect("names");
            let below = below.signed_by(&KeyPair::generate().expect("a key"), &issuer).expect("signed");
            let rest = [own.der().clone()];
            for found in accepts(&pinning, below.der(), &rest) {
                assert_eq!(found.is_ok(), issues, "{is_ca:?}: {found:?}");
            }
            // Also in a file with others.
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
                    || format!("{found:?}").contains("NameMismatch")),
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
