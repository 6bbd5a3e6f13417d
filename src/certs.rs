//! A private CA and a certificate for each half: `portcullis certs`, and the demo's in memory.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use thiserror::Error;
use x509_parser::extensions::GeneralName;

/// A CA lasts long enough not to surprise anyone, a half's certificate a year.
const CA_DAYS: i64 = 3650;
const HALF_DAYS: i64 = 398;

#[derive(Debug, Error)]
pub enum CertsError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}; mend or remove it", path.display())]
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
    #[error("{0}")]
    Make(#[from] rcgen::Error),
}

const NAME_RULE: &str = "a certificate's name is 1 to 255 of A-Z, a-z, 0-9, `.`, `_`, `-`, begins with a letter or \
    digit, and is not `ca`";

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

/// A CA that can issue.
pub struct CertificateAuthority {
    pub pair: CertificatePair,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    pub fn create() -> Result<Self, rcgen::Error> {
        let mut params = with_validity(CertificateParams::default(), CA_DAYS);
        // A name of its own: of two CAs of one name, a wrong one would look like a bad signature.
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

    /// A certificate that serves as TLS server and as TLS client under `name`.
    pub fn issue(&self, name: &str) -> Result<CertificatePair, rcgen::Error> {
        let mut params = with_validity(CertificateParams::new(vec![name.to_owned()])?, HALF_DAYS);
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        Ok(CertificatePair {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// One half's certificates: a single one is called after the half, several after their names.
#[derive(Debug, Clone)]
pub struct HalfNames<'a> {
    pub half: &'a str,
    /// Empty: any name will do, and a new certificate is for the half's own.
    pub names: &'a [String],
}

impl<'a> HalfNames<'a> {
    /// File stem, name of a new certificate, and whether one that is there has to have that name.
    fn certificates(&self) -> Vec<(&'a str, &'a str, bool)> {
        match self.names {
            [] => vec![(self.half, self.half, false)],
            [name] => vec![(self.half, name, true)],
            several => several.iter().map(|name| (name.as_str(), name.as_str(), true)).collect(),
        }
    }
}

/// Writes what is missing of `ca`, and of a pair for each name; returns the files written. Nothing is
/// ever overwritten.
pub fn write(folder: &Path, halves: &[HalfNames<'_>]) -> Result<Vec<PathBuf>, CertsError> {
    let wanted: Vec<_> = halves.iter().flat_map(HalfNames::certificates).collect();
    if let Some((_, name, _)) = wanted.iter().find(|(_, name, _)| !is_name(name)) {
        return Err(CertsError::Name((*name).to_owned()));
    }
    fs::create_dir_all(folder).map_err(|source| CertsError::Io { path: folder.into(), source })?;
    let mut written = Vec::new();
    let authority = match read_existing(folder, "ca")? {
        Some(pair) => CertificateAuthority::read(&pair.certificate, &pair.key)
            .map_err(|source| CertsError::Ca { path: folder.join("ca.pem"), source })?,
        None => {
            let authority = CertificateAuthority::create()?;
            store(folder, "ca", &authority.pair, &mut written)?;
            authority
        }
    };
    for (stem, name, has_to_match) in wanted {
        match read_existing(folder, stem)? {
            None => store(folder, stem, &authority.issue(name)?, &mut written)?,
            Some(pair) if has_to_match => check_name(&folder.join(format!("{stem}.pem")), &pair, name)?,
            Some(_) => {}
        }
    }
    Ok(written)
}

/// A name that a file can have as well.
fn is_name(name: &str) -> bool {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    begins && name.len() <= 255 && name.bytes().all(valid) && name != "ca"
}

fn check_name(path: &Path, pair: &CertificatePair, wanted: &str) -> Result<(), CertsError> {
    let found = dns_names(&pair.certificate);
    if found.iter().any(|name| name.eq_ignore_ascii_case(wanted)) {
        return Ok(());
    }
    Err(CertsError::OtherName { path: path.into(), found, wanted: wanted.to_owned() })
}

/// The DNS names of a certificate; none of one that does not read.
fn dns_names(certificate: &str) -> Vec<String> {
    let read = || {
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
        let parsed = pem.parse_x509().ok()?;
        let alternatives = parsed.subject_alternative_name().ok()??;
        let dns = alternatives.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(text) => Some((*text).to_owned()),
            _ => None,
        });
        Some(dns.collect())
    };
    read().unwrap_or_default()
}

fn read_existing(folder: &Path, stem: &str) -> Result<Option<CertificatePair>, CertsError> {
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

fn read(path: PathBuf) -> Result<(PathBuf, Option<String>), CertsError> {
    match fs::read_to_string(&path) {
        Ok(text) => Ok((path, Some(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((path, None)),
        Err(source) => Err(CertsError::Io { path, source }),
    }
}

fn store(
    folder: &Path,
    stem: &str,
    pair: &CertificatePair,
    written: &mut Vec<PathBuf>,
) -> Result<(), CertsError> {
    // The key first: a certificate without its key would look complete.
    for (extension, text, mode) in [("key", &pair.key, 0o600), ("pem", &pair.certificate, 0o644)] {
        let path = folder.join(format!("{stem}.{extension}"));
        let io = |source| CertsError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(io)?;
        file.write_all(text.as_bytes()).map_err(io)?;
        written.push(path);
    }
    Ok(())
}

fn with_validity(mut params: CertificateParams, days: i64) -> CertificateParams {
    let now = time::OffsetDateTime::now_utc();
    // A clock that runs a little behind the other gateway's must not refuse a new certificate.
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(days);
    params
}
