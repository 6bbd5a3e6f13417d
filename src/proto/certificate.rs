//! What an X.509 certificate says (RFC 5280): its names and its end. Nothing here decides whether it is
//! trusted.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The names of a certificate: DNS names, URIs and addresses (RFC 5280, section 4.2.1.6), or the common name if
/// it has none of them.
pub fn certificate_names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    X509Certificate::from_der(certificate).ok().map(|(_, parsed)| names_of(&parsed))
}

pub fn names_of(parsed: &X509Certificate<'_>) -> Vec<String> {
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
    names
}

/// The name that a certificate gives a person or a program: its first DNS or mail name, or else its common
/// name.
pub fn subject_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let mut names = alternatives.iter().flat_map(|alternatives| &alternatives.value.general_names);
    let of_subject = names.find_map(|name| match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) => Some((*text).to_owned()),
        _ => None,
    });
    let common =
        || parsed.subject().iter_common_name().find_map(|name| name.as_str().ok().map(str::to_owned));
    of_subject.or_else(common)
}

/// Four bytes or sixteen; anything else is not an address.
fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// When a certificate ends, in seconds since 1970.
pub fn expiry_seconds(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// Host names are compared without case (RFC 4343), addresses by value, and URIs letter by letter.
pub fn is_same_name(one: &str, other: &str) -> bool {
    match (one.parse::<IpAddr>(), other.parse::<IpAddr>()) {
        (Ok(one), Ok(other)) => one == other,
        _ if one.contains(':') || other.contains(':') => one == other,
        _ => one.eq_ignore_ascii_case(other),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(alternatives: Vec<SanType>, common_name: Option<&str>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.subject_alt_names = alternatives;
        params.distinguished_name.remove(DnType::CommonName);
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn a_subject_is_its_first_dns_or_mail_name_and_else_its_common_name() {
        let dns = || SanType::DnsName("host.test".try_into().expect("a name"));
        let mail = || SanType::Rfc822Name("alice@example.test".try_into().expect("an address"));
        let uri = || SanType::URI("https://example.test".try_into().expect("an address"));
        let ip = || SanType::IpAddress([192, 0, 2, 7].into());
        for (alternatives, common_name, subject) in [
            (vec![dns(), mail()], Some("common"), Some("host.test")),
            (vec![mail(), dns()], Some("common"), Some("alice@example.test")),
            (vec![uri(), ip(), mail()], None, Some("alice@example.test")),
            (vec![uri(), ip()], Some("common"), Some("common")),
            (Vec::new(), Some("Älice"), Some("Älice")),
            (Vec::new(), None, None),
        ] {
            let certificate = certificate(alternatives, common_name);
            assert_eq!(subject_name(&certificate).as_deref(), subject, "{common_name:?}");
        }
        assert_eq!(subject_name(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
