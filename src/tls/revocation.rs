//! Lists of revoked certificates (RFC 5280, section 5): they are read, trusted if a CA of `ca` has signed them,
//! and checked at handshakes.
//!
//! A list is accepted as a whole or not at all: delta lists, and lists about certificates of other CAs, are
//! refused. [`RevocationCheck`] is what verifiers ask; its lists are replaced by themselves, so that a pair that is
//! broken meanwhile delays nobody's revocation. Open connections are the task of [`super::shown_certificates`].

use std::{collections::HashSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, Error,
    pki_types::{CertificateDer, UnixTime},
};
use thiserror::Error as ThisError;
use webpki::{BorrowedCertRevocationList, Error as ListError};
use x509_parser::{
    oid_registry::OID_X509_EXT_ISSUER_DISTRIBUTION_POINT,
    prelude::{CertificateRevocationList, FromDer, X509Certificate},
};

use super::{
    chain, handshake,
    party::TlsParty,
    pem::{name_prefix, pem_problem, read_lists},
};
use crate::{
    disk::PipePolicy,
    profile::{ExpiredListPolicy, PemSource, Problem, RevokedFiles},
};

/// The lists of one `tls` that are in force, and what they are read from.
#[derive(Debug)]
pub struct RevocationCheck {
    files: RevokedFiles,
    /// Certificates that may have signed the lists.
    issuers: Vec<CertificateDer<'static>>,
    of: TlsParty,
    lists: ArcSwap<RevocationLists>,
}

impl Default for RevocationCheck {
    /// Nothing is revoked.
    fn default() -> Self {
        let files = RevokedFiles::default();
        Self { files, issuers: Vec::new(), of: TlsParty::Gateway, lists: ArcSwap::default() }
    }
}

impl RevocationCheck {
    /// Loads the files; `issuers` are the certificates that may have signed them.
    pub fn load(
        files: &RevokedFiles,
        issuers: Vec<CertificateDer<'static>>,
        of: TlsParty,
        pipes: PipePolicy,
    ) -> Result<Self, Vec<Problem>> {
        let lists = ArcSwap::from_pointee(RevocationLists::load(files, &issuers, of, pipes)?);
        Ok(Self { files: files.clone(), issuers, of, lists })
    }

    /// Reads the files again. If they cannot be used, the lists before stay in force; whoever loads the whole
    /// `tls` reports that.
    pub fn read_again(&self) {
        let read = RevocationLists::load(&self.files, &self.issuers, self.of, PipePolicy::Refused);
        read.into_iter().for_each(|lists| self.lists.store(Arc::new(lists)));
    }

    pub fn lists(&self) -> Arc<RevocationLists> {
        self.lists.load_full()
    }
}

/// All lists of one `tls`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RevocationLists {
    lists: Vec<RevocationList>,
    expired: ExpiredListPolicy,
}

/// A list.
#[derive(Debug, PartialEq, Eq)]
struct RevocationList {
    /// The file, for operators.
    object: Arc<str>,
    issuer: Box<[u8]>,
    serials: HashSet<Box<[u8]>>,
    /// The key that has signed it, and the part of the certificates that it is about, if it names one: a later list
    /// with the same replaces it.
    scope: Box<[u8]>,
    this_update: i64,
    next_update: UnixTime,
}

/// Identifies a certificate by its CA and serial number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateId {
    issuer: Box<[u8]>,
    serial: Box<[u8]>,
}

impl CertificateId {
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let (issuer, serial) = (parsed.issuer().as_raw().into(), plain_serial(parsed.raw_serial()));
        Some(Self { issuer, serial })
    }
}

/// Without the zeros that make a number positive.
fn plain_serial(serial: &[u8]) -> Box<[u8]> {
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial[zeros..].into()
}

/// When a list has to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListExpiry {
    pub object: Arc<str>,
    issuer: Box<[u8]>,
    /// By when the CA makes the next one, in seconds since 1970.
    pub next_update: i64,
    /// When the CA made it, likewise.
    this_update: i64,
    pub policy: ExpiredListPolicy,
}

impl ListExpiry {
    /// Whether it comes from the same CA and file as another list, and was made before it.
    pub fn is_older_than(&self, other: &Self) -> bool {
        (&self.object, &self.issuer) == (&other.object, &other.issuer) && self.this_update < other.this_update
    }
}

/// Why a list cannot be used.
#[derive(Debug, ThisError)]
enum RevocationListError {
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it is {0}, which is not supported")]
    Unsupported(&'static str),
    #[error("it comes from another CA, `{issuer}`, than those in {ca}")]
    OtherCa { issuer: String, ca: &'static str },
    #[error(
        "its signature is not that of `{issuer}` in {ca}: it comes from another CA of the same name, or is damaged"
    )]
    OtherSigner { issuer: String, ca: &'static str },
}

impl RevocationListError {
    fn advice(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "copy it again from where it was issued",
            Self::Unsupported(_) => "name a complete list of one CA's own certificates",
            Self::OtherCa { .. } | Self::OtherSigner { .. } => "name the list of a CA in `ca`",
        }
    }
}

impl RevocationLists {
    fn load(
        files: &RevokedFiles,
        issuers: &[CertificateDer<'_>],
        of: TlsParty,
        pipes: PipePolicy,
    ) -> Result<Self, Vec<Problem>> {
        let issuers: Vec<_> =
            issuers.iter().filter_map(|one| Some(X509Certificate::from_der(one).ok()?.1)).collect();
        let (mut lists, mut problems) = (Vec::new(), Vec::new());
        for file in &files.files {
            match read_file(file, &issuers, of, pipes) {
                Ok(found) => lists.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        match problems.is_empty() {
            true => Ok(Self { lists, expired: files.expired }),
            false => Err(problems),
        }
    }

    /// Refuses a chain that is otherwise valid if one of its certificates is revoked, or a list about it has
    /// expired.
    pub fn check(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.lists.is_empty() {
            return Ok(());
        }
        for (at, one) in std::iter::once(leaf).chain(rest).enumerate() {
            let id = CertificateId::of(one).ok_or(CertificateError::BadEncoding)?;
            for list in self.lists.iter().filter(|list| list.issuer == id.issuer) {
                if list.serials.contains(&id.serial) {
                    chain::revoked(leaf, rest, at).into_iter().for_each(handshake::keep_fault);
                    return Err(CertificateError::Revoked.into());
                }
                if self.expired == ExpiredListPolicy::Refuse && self.is_expired(list, now) {
                    let fault = chain::list_expired(one, &list.object, list.next_update);
                    fault.into_iter().for_each(handshake::keep_fault);
                    return Err(CertificateError::ApplicationVerificationFailure.into());
                }
            }
        }
        Ok(())
    }

    /// Whether neither a list nor a later one in its place is in date.
    fn is_expired(&self, list: &RevocationList, now: UnixTime) -> bool {
        let is_of_same =
            |other: &RevocationList| (&other.issuer, &other.scope) == (&list.issuer, &list.scope);
        !self.lists.iter().any(|other| is_of_same(other) && now < other.next_update)
    }

    /// Whether any of these is revoked, even by an expired list.
    pub fn revoke_any(&self, shown: &[CertificateId]) -> bool {
        let revokes = |list: &RevocationList, id: &CertificateId| {
            list.issuer == id.issuer && list.serials.contains(&id.serial)
        };
        shown.iter().any(|id| self.lists.iter().any(|list| revokes(list, id)))
    }

    /// Whether a chain that was shown contains a revoked certificate.
    pub fn revoke_chain(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.revoke_any(&chain.iter().filter_map(CertificateId::of).collect::<Vec<_>>())
    }

    pub fn expiries(&self) -> impl Iterator<Item = ListExpiry> {
        self.lists.iter().map(|list| ListExpiry {
            object: list.object.clone(),
            next_update: i64::try_from(list.next_update.as_secs()).unwrap_or(i64::MAX),
            issuer: list.issuer.clone(),
            this_update: list.this_update,
            policy: self.expired,
        })
    }
}

fn read_file(
    file: &PemSource,
    issuers: &[X509Certificate<'_>],
    of: TlsParty,
    pipes: PipePolicy,
) -> Result<Vec<RevocationList>, Problem> {
    let object: Arc<str> = match file {
        PemSource::File { path, .. } => path.display().to_string().into(),
        PemSource::Memory(_) => "built in".into(),
    };
    let ders = read_lists(file, pipes)?;
    let count = ders.len();
    let read = |(at, der): (usize, Vec<u8>)| {
        read_list(&der, &object, issuers, of).map_err(|fault| {
            let which = if count > 1 { format!("list {} of {count}: ", at + 1) } else { String::new() };
            pem_problem(file, format!("{}{which}{fault}", name_prefix(file)), fault.advice())
        })
    };
    ders.into_iter().enumerate().map(read).collect()
}

fn read_list(
    der: &[u8],
    object: &Arc<str>,
    issuers: &[X509Certificate<'_>],
    of: TlsParty,
) -> Result<RevocationList, RevocationListError> {
    let (rest, list) = CertificateRevocationList::from_der(der)
        .map_err(|error| RevocationListError::Damaged(error.to_string()))?;
    if !rest.is_empty() {
        return Err(RevocationListError::Damaged(format!("{} bytes follow it", rest.len())));
    }
    let serials = read_serials(der, &list)?;
    let (issuer, ca) = (list.issuer(), of.ca());
    let mut named = issuers.iter().filter(|one| one.subject().as_raw() == issuer.as_raw()).peekable();
    if named.peek().is_none() {
        return Err(RevocationListError::OtherCa { issuer: chain::text(issuer), ca });
    }
    let signer = named.find(|one| may_sign(one) && list.verify_signature(one.public_key()).is_ok());
    let Some(signer) = signer else {
        return Err(RevocationListError::OtherSigner { issuer: chain::text(issuer), ca });
    };
    let of_part = list.extensions().iter().find(|it| it.oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT);
    let scope = [signer.public_key().raw, of_part.map_or(&[], |part| part.value)].concat();
    let next_update = list
        .next_update()
        .ok_or(RevocationListError::Unsupported("a list that says not until when it holds"))?;
    Ok(RevocationList {
        object: object.clone(),
        issuer: issuer.as_raw().into(),
        serials,
        scope: scope.into(),
        this_update: list.last_update().timestamp(),
        next_update: UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(next_update.timestamp()).unwrap_or_default(),
        )),
    })
}

/// The serial numbers in a list. A list of version 1 has no extensions that could restrict it, and webpki does
/// not read it.
fn read_serials(
    der: &[u8],
    list: &CertificateRevocationList<'_>,
) -> Result<HashSet<Box<[u8]>>, RevocationListError> {
    if list.version().is_none() {
        return Ok(list.iter_revoked_certificates().map(|entry| plain_serial(entry.raw_serial())).collect());
    }
    let strict = BorrowedCertRevocationList::from_der(der).map_err(list_fault)?;
    let entries = strict.into_iter();
    entries.map(|entry| entry.map(|of| plain_serial(of.serial_number)).map_err(list_fault)).collect()
}

fn list_fault(error: ListError) -> RevocationListError {
    match error {
        ListError::UnsupportedDeltaCrl => RevocationListError::Unsupported("a list of changes (a delta CRL)"),
        ListError::UnsupportedIndirectCrl => {
            RevocationListError::Unsupported("a list of other CAs' certificates")
        }
        ListError::UnsupportedRevocationReasonsPartitioning | ListError::UnsupportedRevocationReason => {
            RevocationListError::Unsupported("a list of some reasons alone")
        }
        other => RevocationListError::Damaged(other.to_string()),
    }
}

/// Whether a CA may sign lists (RFC 5280, section 4.2.1.3).
fn may_sign(issuer: &X509Certificate<'_>) -> bool {
    match issuer.key_usage() {
        Ok(usage) => usage.is_none_or(|usage| usage.value.crl_sign()),
        Err(_) => false,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
