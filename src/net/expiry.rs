//! When the certificates that a profile names end, so that it can be told before it happens.

use rustls::pki_types::CertificateDer;

use super::{tls, verify};
use crate::{
    disk::Pipes,
    profile::{ClientCheck, DmzHalf, InternalHalf, LinkTls, Material, Profile, Role},
};

/// One file of certificates; the first of them to end counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    pub role: Role,
    pub used: Use,
    /// Where it was read.
    pub object: String,
    /// Seconds since 1970.
    pub ends: i64,
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Link,
    Accept,
    Connect,
}

impl Use {
    pub fn word(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Accept => "accept",
            Self::Connect => "connect",
        }
    }
}

/// Those of the files that read; what does not is told where it is opened.
pub fn of(profile: &Profile) -> Vec<Expiry> {
    let mut found: Vec<Expiry> = Vec::new();
    for (role, used, material) in materials(profile) {
        let Some(ends) = ends(material) else { continue };
        let object = match material {
            Material::File { path, .. } => path.display().to_string(),
            Material::Memory(_) => "built in".into(),
        };
        let expiry = Expiry { role, used, object, ends };
        // Several services may name one file.
        if !found.contains(&expiry) {
            found.push(expiry);
        }
    }
    found
}

fn ends(material: &Material) -> Option<i64> {
    let chain: Vec<CertificateDer<'static>> = tls::chain(material, Pipes::Refused).ok()?;
    chain.iter().filter_map(verify::expires).min()
}

/// A trust store may hold many authorities, some of which ended long ago: of those nothing is told.
fn materials(profile: &Profile) -> Vec<(Role, Use, &Material)> {
    let mut found = Vec::new();
    let links = [
        (Role::Dmz, profile.dmz.as_ref().and_then(DmzHalf::link_tls)),
        (Role::Internal, profile.internal.as_ref().and_then(InternalHalf::link_tls)),
    ];
    for (role, tls) in links {
        let Some(LinkTls { certificate, ca, .. }) = tls else { continue };
        found.extend([(role, Use::Link, certificate), (role, Use::Link, ca)]);
    }
    for tls in profile.accept_tls() {
        found.push((Role::Dmz, Use::Accept, &tls.pair.certificate));
        match &tls.clients {
            ClientCheck::Nobody => {}
            ClientCheck::Optional(clients) | ClientCheck::Required(clients) => {
                found.push((Role::Dmz, Use::Accept, &clients.ca));
            }
        }
    }
    let inner = if profile.internal.is_some() { Role::Internal } else { Role::Dmz };
    for tls in profile.connect_tls() {
        found.extend(tls.pair.iter().map(|pair| (inner, Use::Connect, &pair.certificate)));
    }
    found
}
