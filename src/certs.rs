//! A private CA and its certificates, for halves and clients: `portcullis certs`, and the demo's in memory. A pair
//! that exists is checked and kept, never overwritten.
//!
//! This file and its parts use each other: renewing and revoking read and write files as this one does.

mod renewal;
mod revoking;

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use thiserror::Error;
use time::OffsetDateTime;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::disk::{self, ReadError};

/// A CA is valid long enough not to surprise anyone; a half's certificate is valid for a year.
const CA_DAYS: i64 = 3650;
const HALF_DAYS: i64 = 398;

#[derive(Debug, Error)]
pub enum CertsError {
    #[error("{}: {source}{}", path.display(), io_advice(source))]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}{}", path.display(), read_advice(source))]
    Read { path: PathBuf, source: ReadError },
    #[error("{}: {source}; fix or remove it", path.display())]
    Ca { path: PathBuf, source: rcgen::Error },
    #[error("{}: is there without {}; restore the other, or remove it", present.display(), missing.display())]
    Half { present: PathBuf, missing: PathBuf },
    #[error(
        "{}: is for {}, not for `{wanted}`; write to another folder, or remove the pair that is there",
        path.display(), list(found)
    )]
    OtherName { path: PathBuf, found: Vec<String>, wanted: String },
    #[error("`{0}`: {NAME_RULE}")]
    Name(String),
    #[error("{}: {why}; fix or remove it", path.display())]
    Unusable { path: PathBuf, why: String },
    #[error("{}: it is not a folder; choose another one with --out", .0.display())]
    NoFolder(PathBuf),
    #[error("{} holds no CA; make one with `portcullis certs --out {}`", .0.display(), .0.display())]
    NoCa(PathBuf),
    #[error("{0}")]
    Make(#[from] rcgen::Error),
}

const NAME_RULE: &str = "a certificate's name is 1 to 255 of A-Z, a-z, 0-9, `.`, `_`, `-`, begins with a letter or \
    digit, and is not `ca` or `crl`";

fn io_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; choose a folder with --out that is this user's, or run this as the user whose it is"
        }
        io::ErrorKind::StorageFull => "; make room there, and run this again",
        _ => "",
    }
}

fn read_advice(source: &ReadError) -> &'static str {
    match source {
        ReadError::Io(source) => io_advice(source),
        ReadError::NotPlain(_) | ReadError::TooLarge { .. } | ReadError::Locked | ReadError::Silent => "",
    }
}

/// The names of the CA's own files.
const OWN_STEMS: [&str; 2] = ["ca", "crl"];

fn list(names: &[String]) -> String {
    match names {
        [] => "no name".into(),
        names => format!("`{}`", names.join("`, `")),
    }
}

/// A certificate and its key, as PEM.
pub struct CertificatePair {
    pub certificate: String,
    pub key: String,
}

/// A CA that can issue certificates.
pub struct CertificateAuthority {
    pub pair: CertificatePair,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    pub fn create() -> Result<Self, rcgen::Error> {
        let mut params = with_validity(CertificateParams::default(), CA_DAYS);
        // A unique name: with two CAs of one name, the wrong one would look like a bad signature.
        let name = format!("portcullis private CA {:08x}", fastrand::u32(..));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pair = CertificatePair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() };
        Ok(Self { pair, issuer: Issuer::new(params, key) })
    }

    fn read(certificate: &str, key: &str) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Self { pair: CertificatePair { certificate: certificate.into(), key: key.into() }, issuer })
    }

    /// Issues a certificate for a TLS server and TLS client called `name`.
    pub fn issue(&self, name: &str) -> Result<CertificatePair, rcgen::Error> {
        self.issue_for(vec![name.to_owned()], CertificateUsage::Both)
    }

    fn issue_for(
        &self,
        names: Vec<String>,
        usage: CertificateUsage,
    ) -> Result<CertificatePair, rcgen::Error> {
        let first = names.first().cloned().unwrap_or_default();
        let mut params = with_validity(CertificateParams::new(names)?, HALF_DAYS);
        params.distinguished_name.push(DnType::CommonName, first);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match usage {
            CertificateUsage::Both => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            CertificateUsage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let key = KeyPair::generate()?;
        Ok(CertificatePair {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// The use of a certificate: by a client only, or by both ends.
#[derive(Debug, Clone, Copy)]
enum CertificateUsage {
    /// TLS server and TLS client, because a gateway may be either.
    Both,
    Client,
}

/// The certificates of one half: a single one is called after the half, several after their names.
#[derive(Debug, Clone)]
pub struct HalfNames<'a> {
    pub half: &'a str,
    /// If empty, any name will do, and a new certificate is for the half's own name.
    pub names: &'a [String],
}

impl<'a> HalfNames<'a> {
    fn certificates(&self) -> Vec<WantedCertificate> {
        let wanted = |stem: &str, name: &str, has_to_match| WantedCertificate {
            stem: stem.into(),
            name: name.into(),
            has_to_match,
            usage: CertificateUsage::Both,
        };
        match self.names {
            [] => vec![wanted(self.half, self.half, false)],
            [name] => vec![wanted(self.half, name, true)],
            several => several.iter().map(|name| wanted(name, name, true)).collect(),
        }
    }
}

/// A certificate that should be there.
#[derive(Debug)]
struct WantedCertificate {
    /// The name of its files.
    stem: String,
    /// The name in a new certificate.
    name: String,
    /// Whether an existing certificate must have that name.
    has_to_match: bool,
    usage: CertificateUsage,
}

/// A request of `portcullis certs`. Names that are not given are not compared with existing files.
#[derive(Debug, Clone, Default)]
pub struct CertsRequest {
    pub dmz: Vec<String>,
    pub internal: Vec<String>,
    pub clients: Vec<String>,
    pub renew: bool,
    pub revoke: Vec<String>,
}

/// The outcome: what was done, and what was not, with the reasons.
#[derive(Debug, Default)]
pub struct CertsReport {
    pub done: Vec<String>,
    pub left: Vec<String>,
}

impl CertsReport {
    fn is_empty(&self) -> bool {
        self.done.is_empty() && self.left.is_empty()
    }
}

impl CertsRequest {
    /// The certificates that should exist: those for the given names, and those of both halves if nothing else
    /// was requested or the CA is new.
    fn wanted(&self, has_authority: bool) -> Vec<WantedCertificate> {
        let changes = self.renew || !self.revoke.is_empty();
        let client = |name: &String| WantedCertificate {
            stem: name.clone(),
            name: name.clone(),
            has_to_match: true,
            usage: CertificateUsage::Client,
        };
        let halves = [
            HalfNames { half: "dmz", names: &self.dmz },
            HalfNames { half: "internal", names: &self.internal },
        ];
        let both = !changes && (self.clients.is_empty() || !has_authority);
        let is_wanted = |half: &&HalfNames<'_>| both || !half.names.is_empty();
        let of_halves = halves.iter().filter(is_wanted).flat_map(HalfNames::certificates);
        of_halves.chain(self.clients.iter().map(client)).collect()
    }
}

/// Does everything requested, in this order: makes what is missing, renews, revokes. If one thing cannot be
/// done, the others still are.
pub fn run(folder: &Path, request: &CertsRequest) -> Result<CertsReport, CertsError> {
    let mut report = CertsReport::default();
    let names: Vec<_> =
        [&request.dmz, &request.internal, &request.clients].into_iter().flatten().cloned().collect();
    let changes = request.renew || !request.revoke.is_empty();
    if !request.renew {
        let wanted = request.wanted(folder.join("ca.pem").exists());
        if !wanted.is_empty() {
            let (written, failed) = make_missing(folder, &wanted)?;
            report.done.extend(written.iter().map(|path| format!("made {}", path.display())));
            report.left.extend(failed.iter().map(ToString::to_string));
        }
    }
    if !changes {
        if report.is_empty() {
            let folder = folder.display();
            report.done.push(format!("nothing to make: {folder} holds a CA and all that was asked for"));
        }
        return Ok(report);
    }
    let authority = read_authority(folder)?.ok_or_else(|| CertsError::NoCa(folder.into()))?;
    if request.renew {
        renewal::renew(folder, &authority, &names, &mut report)?;
    }
    for name in &request.revoke {
        revoking::revoke(folder, &authority, name, &mut report)?;
    }
    Ok(report)
}

/// Writes what is missing of `ca`, and of a pair for each name; returns the files written. Nothing is ever
/// overwritten.
pub fn write(folder: &Path, halves: &[HalfNames<'_>]) -> Result<Vec<PathBuf>, CertsError> {
    let wanted: Vec<_> = halves.iter().flat_map(HalfNames::certificates).collect();
    let (written, failed) = make_missing(folder, &wanted)?;
    match failed.into_iter().next() {
        None => Ok(written),
        Some(error) => Err(error),
    }
}

/// The files written, and the reasons why others were not.
fn make_missing(
    folder: &Path,
    wanted: &[WantedCertificate],
) -> Result<(Vec<PathBuf>, Vec<CertsError>), CertsError> {
    if let Some(bad) = wanted.iter().find(|wanted| !is_name(&wanted.name)) {
        return Err(CertsError::Name(bad.name.clone()));
    }
    fs::create_dir_all(folder).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CertsError::NoFolder(folder.into()),
        _ => CertsError::Io { path: folder.into(), source },
    })?;
    let (mut written, mut failed) = (Vec::new(), Vec::new());
    let authority = match read_authority(folder)? {
        Some(authority) => authority,
        None => {
            let authority = CertificateAuthority::create()?;
            store(folder, "ca", &authority.pair, &mut written)?;
            authority
        }
    };
    for WantedCertificate { stem, name, has_to_match, usage } in wanted {
        let made = match read_existing_pair(folder, stem) {
            Ok(None) => authority
                .issue_for(vec![name.clone()], *usage)
                .map_err(CertsError::from)
                .and_then(|pair| store(folder, stem, &pair, &mut written)),
            Ok(Some(pair)) => check_pair(folder, stem, &pair, has_to_match.then_some(name)),
            Err(error) => Err(error),
        };
        failed.extend(made.err());
    }
    Ok((written, failed))
}

fn read_authority(folder: &Path) -> Result<Option<CertificateAuthority>, CertsError> {
    let Some(pair) = read_existing_pair(folder, "ca")? else { return Ok(None) };
    let read = CertificateAuthority::read(&pair.certificate, &pair.key);
    read.map(Some).map_err(|source| CertsError::Ca { path: folder.join("ca.pem"), source })
}

/// A name that can also be a file name.
fn is_name(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    begins && name.len() <= 255 && name.bytes().all(valid) && !OWN_STEMS.contains(&name)
}

/// A pair that exists is one, and is for the wanted name, if there is one.
fn check_pair(
    folder: &Path,
    stem: &str,
    pair: &CertificatePair,
    wanted: Option<&String>,
) -> Result<(), CertsError> {
    let path = |extension: &str| folder.join(format!("{stem}.{extension}"));
    let unusable =
        |extension: &str, why: &str| CertsError::Unusable { path: path(extension), why: why.into() };
    let shown = ShownCertificate::read(&pair.certificate);
    let shown = shown.ok_or_else(|| unusable("pem", "it holds no certificate"))?;
    if !pair.key.contains("PRIVATE KEY-----") {
        return Err(unusable("key", "it holds no private key"));
    }
    match wanted.filter(|wanted| !shown.has_name(wanted)) {
        None => Ok(()),
        Some(wanted) => {
            Err(CertsError::OtherName { path: path("pem"), found: shown.names, wanted: wanted.clone() })
        }
    }
}

/// The names and the expiry of a certificate in a file.
struct ShownCertificate {
    /// Host names and addresses.
    names: Vec<String>,
    has_other_names: bool,
    is_authority: bool,
    not_after: OffsetDateTime,
    serial: Vec<u8>,
    subject: Vec<u8>,
    /// It cannot be used by a TLS server.
    is_client_only: bool,
    der: Vec<u8>,
}

impl ShownCertificate {
    fn read(text: &str) -> Option<Self> {
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).ok()?;
        let parsed = pem.parse_x509().ok()?;
        let alternatives = parsed.subject_alternative_name().ok()?;
        let all = alternatives.iter().flat_map(|names| &names.value.general_names);
        let names: Vec<_> = all.map(host_name).collect();
        let usage = parsed.extended_key_usage().ok()?;
        Some(Self {
            has_other_names: names.contains(&None),
            is_authority: parsed.is_ca(),
            names: names.into_iter().flatten().collect(),
            not_after: parsed.validity().not_after.to_datetime(),
            serial: serial_bytes(parsed.raw_serial()),
            subject: parsed.subject().as_raw().to_vec(),
            is_client_only: usage.is_some_and(|usage| usage.value.client_auth && !usage.value.server_auth),
            der: pem.contents.clone(),
        })
    }

    fn has_name(&self, wanted: &str) -> bool {
        self.names.iter().any(|name| name.eq_ignore_ascii_case(wanted))
    }

    fn is_issued_by(&self, authority: &CertificateAuthority) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(&self.der) else { return false };
        let text = authority.pair.certificate.as_bytes();
        let Ok((_, issuer)) = x509_parser::pem::parse_x509_pem(text) else { return false };
        issuer.parse_x509().is_ok_and(|issuer| {
            parsed.issuer().as_raw() == issuer.subject().as_raw()
                && parsed.verify_signature(Some(issuer.public_key())).is_ok()
        })
    }
}

/// A name that is a host name or an address.
fn host_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(text) => Some((*text).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(bytes) => Some(IpAddr::from(bytes).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    }
}

/// A serial number without leading zeros, for comparison.
fn serial_bytes(raw: &[u8]) -> Vec<u8> {
    raw.iter().skip_while(|byte| **byte == 0).copied().collect()
}

fn read_existing_pair(folder: &Path, stem: &str) -> Result<Option<CertificatePair>, CertsError> {
    let certificate = read(folder.join(format!("{stem}.pem")))?;
    let key = read(folder.join(format!("{stem}.key")))?;
    match (certificate, key) {
        ((_, Some(certificate)), (_, Some(key))) => Ok(Some(CertificatePair { certificate, key })),
        ((_, None), (_, None)) => Ok(None),
        ((present, Some(_)), (missing, None)) | ((missing, None), (present, Some(_))) => {
            Err(CertsError::Half { present, missing })
        }
    }
}

/// The text of a plain file: anything else might never answer.
fn read_text(path: &Path) -> Result<String, ReadError> {
    Ok(io::read_to_string(disk::open_plain(path)?)?)
}

fn read(path: PathBuf) -> Result<(PathBuf, Option<String>), CertsError> {
    match read_text(&path) {
        Ok(text) => Ok((path, Some(text))),
        Err(error) if error.is_missing() => Ok((path, None)),
        Err(source) => Err(CertsError::Read { path, source }),
    }
}

fn store(
    folder: &Path,
    stem: &str,
    pair: &CertificatePair,
    written: &mut Vec<PathBuf>,
) -> Result<(), CertsError> {
    let [key, certificate] = ["key", "pem"].map(|extension| folder.join(format!("{stem}.{extension}")));
    // The key first: a certificate without its key would look complete.
    write_new(&key, &pair.key, 0o600)?;
    if let Err(error) = write_new(&certificate, &pair.certificate, 0o644) {
        // A key alone would be taken for half of somebody else's pair.
        let _ = fs::remove_file(&key);
        return Err(error);
    }
    written.extend([key, certificate]);
    Ok(())
}

/// Writes a file that does not exist yet. One that cannot be written whole is not left there.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    let io = |source| CertsError::Io { path: path.into(), source };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(io)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|source| {
        let _ = fs::remove_file(path);
        io(source)
    })
}

fn with_validity(mut params: CertificateParams, days: i64) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    // If the other gateway's clock is a little behind, it must not refuse a new certificate.
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(days);
    params
}
