//! When the certificates that a profile names expire, so that operators can be warned in time. These are the files as
//! they are now; what is in force may be older, and is watched by `gateway::certificate_reload`.

use rustls::pki_types::CertificateDer;

use super::pem::read_chain;
use crate::{
    disk::PipePolicy,
    profile::{DmzHalf, Half, InternalHalf, LinkTls, PemSource, Profile},
    proto::certificate::expiry_seconds,
};

/// A file of certificates, with the earliest expiry in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateExpiry {
    pub half: Half,
    pub used: CertificateUse,
    /// The file it was read from.
    pub object: String,
    /// Seconds since 1970.
    pub not_after: i64,
}

/// The use of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateUse {
    Link,
    Accept,
    Connect,
}

impl CertificateUse {
    pub fn label(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Accept => "accept",
            Self::Connect => "connect",
        }
    }
}

/// The expiry of each file that can be read. Others are reported where they are opened.
pub fn certificate_expiries(profile: &Profile) -> Vec<CertificateExpiry> {
    let mut found: Vec<CertificateExpiry> = Vec::new();
    for (half, used, material) in materials(profile) {
        let Some(not_after) = earliest_end(material) else { continue };
        let object = match material {
            PemSource::File { path, .. } => path.display().to_string(),
            PemSource::Memory(_) => "built in".into(),
        };
        let expiry = CertificateExpiry { half, used, object, not_after };
        // Several services may name the same file.
        if !found.contains(&expiry) {
            found.push(expiry);
        }
    }
    found
}

fn earliest_end(material: &PemSource) -> Option<i64> {
    let chain: Vec<CertificateDer<'static>> = read_chain(material, PipePolicy::Refused).ok()?;
    chain.iter().filter_map(expiry_seconds).min()
}

/// A trust store may contain many authorities, and some may have expired long ago, so those are not reported.
fn materials(profile: &Profile) -> Vec<(Half, CertificateUse, &PemSource)> {
    let mut found = Vec::new();
    let links = [
        (Half::Dmz, profile.dmz.as_ref().and_then(DmzHalf::link_tls)),
        (Half::Internal, profile.internal.as_ref().and_then(InternalHalf::link_tls)),
    ];
    for (half, tls) in links {
        let Some(LinkTls { certificate, ca, .. }) = tls else { continue };
        found.extend([(half, CertificateUse::Link, certificate), (half, CertificateUse::Link, ca)]);
    }
    let outer = profile.outer_accept_tls();
    found.extend(outer.map(|(half, tls)| (half, CertificateUse::Link, &tls.pair.certificate)));
    for tls in profile.accept_tls() {
        found.push((Half::Dmz, CertificateUse::Accept, &tls.pair.certificate));
        let clients = tls.client_certificates();
        found.extend(clients.map(|clients| (Half::Dmz, CertificateUse::Accept, &clients.ca)));
    }
    let inner = if profile.internal.is_some() { Half::Internal } else { Half::Dmz };
    for tls in profile.connect_tls() {
        found.extend(tls.pair.iter().map(|pair| (inner, CertificateUse::Connect, &pair.certificate)));
    }
    found
}
