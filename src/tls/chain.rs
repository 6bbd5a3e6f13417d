//! What is wrong with a chain of certificates: which one, which name is missing, and what to do.
//!
//! webpki has already found that the chain is wrong and why, but gives neither a number nor a name. Nothing
//! here decides whether a certificate is trusted.

use std::fmt;

use rustls::{
    CertificateError, Error,
    pki_types::{CertificateDer, UnixTime},
};
use thiserror::Error as ThisError;
use webpki::Error as PathError;
use x509_parser::{
    oid_registry::Oid,
    prelude::{
        FromDer, GeneralName, GeneralSubtree, NameConstraints, X509Certificate, X509Name, X509Version,
    },
};

use super::{describe, party::TlsParty};
use crate::proto::certificate;

/// The longest shown name from a certificate, which is the other side's text.
const NAME_CHARS_MAX: usize = 100;
/// How many names of one certificate are shown.
const NAMES_MAX: usize = 4;

/// One of the certificates that were shown, or one in `ca`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainCertificate {
    number: usize,
    of: usize,
    /// The `ca`, if it is in there.
    within: Option<&'static str>,
    subject: String,
}

impl fmt::Display for ChainCertificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, of, within, subject } = self;
        write!(out, "certificate {number} of {of}")?;
        if let Some(ca) = within {
            write!(out, " in {ca}")?;
        }
        write!(out, " (`{subject}`)")
    }
}

/// Why a chain is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
pub enum ChainError {
    #[error("{one} is issued by `{issuer}`, which is neither behind it in the same file nor in {ca}")]
    IssuerMissing { one: ChainCertificate, issuer: String, ca: &'static str },
    #[error("{one} signs itself, and {ca} does not hold it")]
    SelfSigned { one: ChainCertificate, ca: &'static str },
    #[error("{one} is issued by {issuer}, which is not a CA (CA:FALSE)")]
    IssuerNoCa { one: ChainCertificate, issuer: ChainCertificate },
    #[error("{one} is for {names}, which the name constraints of {authority} exclude ({limits})")]
    NameExcluded { one: ChainCertificate, names: String, authority: ChainCertificate, limits: String },
    #[error("{one} is signed with {algorithm}, which is not accepted")]
    Algorithm { one: ChainCertificate, algorithm: String },
    #[error("{one} is not of X.509 version 3")]
    Version { one: ChainCertificate },
    #[error("{one} is a CA's own (CA:TRUE), and stands for nobody else")]
    IsAuthority { one: ChainCertificate },
    #[error("{one} has expired on {on}")]
    Expired { one: ChainCertificate, on: String },
    #[error("{one} is not valid before {on}")]
    NotYet { one: ChainCertificate, on: String },
    #[error("{one} is revoked")]
    Revoked { one: ChainCertificate },
    #[error(
        "certificates of `{issuer}` are not taken, since the list of those that are revoked, {list}, has expired on {on}"
    )]
    ListExpired { issuer: String, list: String, on: String },
}

impl ChainError {
    /// How to fix it.
    pub fn advice(&self) -> String {
        match self {
            Self::IssuerMissing { issuer, ca, .. } => format!(
                "append the certificate of `{issuer}` to the file that holds the first one, or take it up in {ca}"
            ),
            Self::SelfSigned { ca, .. } => {
                format!("take it up in {ca}, or use one that a CA of {ca} has issued")
            }
            Self::IssuerNoCa { .. } => "have it issued by a CA".into(),
            Self::NameExcluded { authority, .. } => {
                format!("use a name within them, or another CA than `{}`", authority.subject)
            }
            Self::Algorithm { .. } => {
                "have it reissued, signed with ECDSA, Ed25519 or RSA, and SHA-256 or more".into()
            }
            Self::Version { .. } => "have it reissued as version 3, with a subjectAltName".into(),
            Self::IsAuthority { .. } => "use one that is issued for the name (CA:FALSE)".into(),
            Self::Expired { .. } => "put its successor in its place, or set the clock right".into(),
            Self::NotYet { .. } => "set the clock right, or wait".into(),
            Self::Revoked { .. } => "have another one issued".into(),
            Self::ListExpired { .. } => {
                "put its successor in its place, or say `revoked_expired: accept`".into()
            }
        }
    }

    /// The fault in words, for a chain that the other side of a handshake has shown.
    pub fn of_other_side(&self) -> String {
        let (short, advice) = (self.in_short(), self.advice());
        match self {
            Self::IssuerMissing { .. } | Self::SelfSigned { .. } => format!("{short}: {self}; {advice}"),
            Self::ListExpired { .. }
            | Self::IssuerNoCa { .. }
            | Self::NameExcluded { .. }
            | Self::Algorithm { .. }
            | Self::Version { .. }
            | Self::IsAuthority { .. }
            | Self::Expired { .. }
            | Self::NotYet { .. }
            | Self::Revoked { .. } => format!("{short}; {advice}"),
        }
    }

    /// Such a fault without what to do about it.
    pub fn in_short(&self) -> String {
        match self {
            Self::IssuerMissing { ca, .. } | Self::SelfSigned { ca, .. } => {
                format!("its certificate comes from another CA than {ca}")
            }
            Self::ListExpired { .. } => self.to_string(),
            Self::IssuerNoCa { .. }
            | Self::NameExcluded { .. }
            | Self::Algorithm { .. }
            | Self::Version { .. }
            | Self::IsAuthority { .. }
            | Self::Expired { .. }
            | Self::NotYet { .. }
            | Self::Revoked { .. } => format!("its {self}"),
        }
    }

    /// Whether it is about an algorithm, for which the library has no alert.
    pub fn is_of_algorithm(&self) -> bool {
        matches!(self, Self::Algorithm { .. })
    }
}

/// Which certificate an error is about; `None` if the error itself says everything.
pub fn fault(
    error: &Error,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    authorities: &[CertificateDer<'_>],
    of: TlsParty,
) -> Option<ChainError> {
    let Error::InvalidCertificate(error) = error else { return None };
    let shown = std::iter::once(leaf).chain(rest).map(parse).collect::<Option<Vec<_>>>()?;
    let chain = Chain { shown, authorities: authorities.iter().filter_map(parse).collect(), ca: of.ca() };
    chain.fault(error)
}

/// The fault that one certificate of a chain is revoked.
pub fn revoked(leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], at: usize) -> Option<ChainError> {
    let subject = text(parse(std::iter::once(leaf).chain(rest).nth(at)?)?.subject());
    let one = ChainCertificate { number: at + 1, of: rest.len() + 1, within: None, subject };
    Some(ChainError::Revoked { one })
}

/// The error when the issuer's list has expired, so that nobody knows whether a certificate is revoked.
pub fn list_expired(one: &CertificateDer<'_>, list: &str, on: UnixTime) -> Option<ChainError> {
    let issuer = text(parse(one)?.issuer());
    Some(ChainError::ListExpired { issuer, list: printable(list), on: describe::date(on) })
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(certificate).ok().map(|(_, parsed)| parsed)
}

struct Chain<'a> {
    shown: Vec<X509Certificate<'a>>,
    authorities: Vec<X509Certificate<'a>>,
    ca: &'static str,
}

impl Chain<'_> {
    fn fault(&self, error: &CertificateError) -> Option<ChainError> {
        match error {
            CertificateError::UnknownIssuer => Some(self.unknown_issuer()),
            CertificateError::UnsupportedSignatureAlgorithmContext { signature_algorithm_id: id, .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
                signature_algorithm_id: id,
                ..
            } => self.algorithm(id),
            CertificateError::ExpiredContext { not_after, .. } => {
                let at =
                    self.position_after_leaf(|one| is_at(one.validity().not_after.timestamp(), *not_after))?;
                Some(ChainError::Expired { one: self.located(at), on: describe::date(*not_after) })
            }
            CertificateError::NotValidYetContext { not_before, .. } => {
                let at = self
                    .position_after_leaf(|one| is_at(one.validity().not_before.timestamp(), *not_before))?;
                Some(ChainError::NotYet { one: self.located(at), on: describe::date(*not_before) })
            }
            CertificateError::Other(other) => self.path_fault(other.0.downcast_ref()?),
            _ => None,
        }
    }

    /// Faults for which rustls has no words.
    fn path_fault(&self, error: &PathError) -> Option<ChainError> {
        match error {
            PathError::NameConstraintViolation => self.name_excluded(),
            PathError::CaUsedAsEndEntity if self.shown[0].subject() == self.shown[0].issuer() => {
                Some(ChainError::SelfSigned { one: self.located(0), ca: self.ca })
            }
            PathError::CaUsedAsEndEntity => Some(ChainError::IsAuthority { one: self.located(0) }),
            PathError::UnsupportedCertVersion => {
                let at = self.shown.iter().position(|one| one.version() != X509Version::V3)?;
                Some(ChainError::Version { one: self.located(at) })
            }
            PathError::EndEntityUsedAsCa => {
                let issuer = self.position_after_leaf(|one| !one.is_ca())?;
                let issued = |one: &X509Certificate<'_>| one.issuer() == self.shown[issuer].subject();
                let at = self.shown.iter().position(issued)?;
                Some(ChainError::IssuerNoCa { one: self.located(at), issuer: self.located(issuer) })
            }
            _ => None,
        }
    }

    /// The fault of the first certificate whose issuer is missing.
    fn unknown_issuer(&self) -> ChainError {
        let last = self.path().last().copied().unwrap_or_default();
        let (one, issuer) = (self.located(last), self.shown[last].issuer());
        if self.shown[last].subject() == issuer {
            return ChainError::SelfSigned { one, ca: self.ca };
        }
        match self.authorities.iter().position(|of| of.subject() == issuer) {
            // It is there, but may not issue certificates.
            Some(at) => ChainError::IssuerNoCa { one, issuer: self.in_ca(at) },
            None => ChainError::IssuerMissing { one, issuer: text(issuer), ca: self.ca },
        }
    }

    /// From the first certificate to its issuer and so on, as far as they were shown.
    fn path(&self) -> Vec<usize> {
        let mut path = vec![0];
        while let Some(&last) = path.last() {
            let issuer = self.shown[last].issuer();
            let next =
                (0..self.shown.len()).find(|at| !path.contains(at) && self.shown[*at].subject() == issuer);
            match next {
                Some(next) => path.push(next),
                None => break,
            }
        }
        path
    }

    fn algorithm(&self, id: &[u8]) -> Option<ChainError> {
        let is_it = |one: &X509Certificate<'_>| {
            let oid = one.signature_algorithm.algorithm.as_bytes();
            id.windows(oid.len()).any(|part| part == oid)
        };
        let at = self.shown.iter().position(is_it)?;
        let algorithm = algorithm_name(&self.shown[at].signature_algorithm.algorithm);
        Some(ChainError::Algorithm { one: self.located(at), algorithm })
    }

    fn name_excluded(&self) -> Option<ChainError> {
        let path = self.path();
        let issuer = self.shown[*path.last()?].issuer();
        let within = path[1..].iter().map(|at| (&self.shown[*at], self.located(*at)));
        let numbered = self.authorities.iter().enumerate();
        let above = numbered.filter(|(_, of)| of.subject() == issuer).map(|(at, of)| (of, self.in_ca(at)));
        let names = certificate::names_of(&self.shown[0]);
        let limiting: Vec<_> = within
            .chain(above)
            .filter_map(|(one, located)| Some((one.name_constraints().ok()??.value, located)))
            .collect();
        // If it is not about a host name, the lowest CA that has constraints at all.
        let (limits, authority) = limiting
            .iter()
            .find(|(limits, _)| names.iter().any(|name| excludes(limits, name)))
            .or_else(|| limiting.first())?;
        Some(ChainError::NameExcluded {
            one: self.located(0),
            names: describe::list_names(&names),
            authority: authority.clone(),
            limits: describe_limits(limits),
        })
    }

    /// The first matching one after the first certificate.
    fn position_after_leaf(&self, fits: impl Fn(&X509Certificate<'_>) -> bool) -> Option<usize> {
        (1..self.shown.len()).find(|at| fits(&self.shown[*at]))
    }

    fn located(&self, at: usize) -> ChainCertificate {
        let subject = text(self.shown[at].subject());
        ChainCertificate { number: at + 1, of: self.shown.len(), within: None, subject }
    }

    fn in_ca(&self, at: usize) -> ChainCertificate {
        let subject = text(self.authorities[at].subject());
        ChainCertificate { number: at + 1, of: self.authorities.len(), within: Some(self.ca), subject }
    }
}

fn is_at(seconds: i64, time: UnixTime) -> bool {
    u64::try_from(seconds) == Ok(time.as_secs())
}

/// A name in a form that is safe in a log line.
pub(super) fn text(name: &X509Name<'_>) -> String {
    printable(&name.to_string())
}

fn printable(text: &str) -> String {
    text.chars().filter(|ch| !ch.is_control()).take(NAME_CHARS_MAX).collect()
}

/// Whether a host name is outside what a CA may issue for (RFC 5280, section 4.2.1.10).
fn excludes(limits: &NameConstraints<'_>, name: &str) -> bool {
    let hosts = |trees: &Option<Vec<GeneralSubtree<'_>>>| {
        let bases = trees.iter().flatten().filter_map(|tree| match tree.base {
            GeneralName::DNSName(base) => Some(base.trim_start_matches('.').to_ascii_lowercase()),
            _ => None,
        });
        bases.collect::<Vec<_>>()
    };
    let name = name.to_ascii_lowercase();
    let is_below = |base: &String| {
        base.is_empty() || name.strip_suffix(base).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let permitted = hosts(&limits.permitted_subtrees);
    hosts(&limits.excluded_subtrees).iter().any(is_below)
        || (!permitted.is_empty() && !permitted.iter().any(is_below))
}

fn describe_limits(limits: &NameConstraints<'_>) -> String {
    let reported = |word: &str, trees: &Option<Vec<GeneralSubtree<'_>>>| {
        let trees = trees.as_ref().filter(|trees| !trees.is_empty())?;
        let bases = trees.iter().take(NAMES_MAX).map(|tree| match &tree.base {
            GeneralName::DNSName(base) | GeneralName::URI(base) | GeneralName::RFC822Name(base) => {
                printable(base)
            }
            other => printable(&other.to_string()),
        });
        Some(format!("{word} {}", bases.collect::<Vec<_>>().join(", ")))
    };
    let parts = [
        reported("permitted:", &limits.permitted_subtrees),
        reported("excluded:", &limits.excluded_subtrees),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// OpenSSL's name for it (RFC 8017, appendix C; RFC 3279, section 2.2; RFC 8410), or its number.
fn algorithm_name(oid: &Oid<'_>) -> String {
    let number = oid.to_id_string();
    let name = match number.as_str() {
        "1.2.840.113549.1.1.4" => "MD5 (md5WithRSAEncryption)",
        "1.2.840.113549.1.1.5" => "SHA-1 (sha1WithRSAEncryption)",
        "1.2.840.10045.4.1" => "SHA-1 (ecdsa-with-SHA1)",
        "1.2.840.10045.4.3.1" => "SHA-224 (ecdsa-with-SHA224)",
        "1.2.840.113549.1.1.14" => "SHA-224 (sha224WithRSAEncryption)",
        "1.2.840.10040.4.3" => "DSA (dsa_with_SHA1)",
        "2.16.840.1.101.3.4.3.2" => "DSA (dsa_with_SHA256)",
        "1.3.101.113" => "Ed448",
        _ => return format!("the algorithm {number}"),
    };
    name.into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
