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
    #[error("{0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate and its key, as PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// A CA that can issue.
pub struct Authority {
    pub pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn create() -> Result<Self, rcgen::Error> {
        let mut params = dated(CertificateParams::default(), CA_DAYS);
        // A name of its own: of two CAs of one name, a wrong one would look like a bad signature.
        let name = format!("portcullis private CA {:08x}", fastrand::u32(..));
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pair = Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() };
        Ok(Self { pair, issuer: Issuer::new(params, key) })
    }

    fn read(certificate: &str, key: &str) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Self { pair: Pair { certificate: certificate.into(), key: key.into() }, issuer })
    }

    /// A certificate that serves as TLS server and as TLS client under `name`.
    pub fn issue(&self, name: &str) -> Result<Pair, rcgen::Error> {
        let mut params = dated(CertificateParams::new(vec![name.to_owned()])?, HALF_DAYS);
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        Ok(Pair { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// Writes what is missing of `ca`, and of a pair for each file stem and name; returns the files
/// written. Nothing is ever overwritten.
pub fn write(folder: &Path, halves: &[(&str, &str)]) -> Result<Vec<PathBuf>, CertsError> {
    fs::create_dir_all(folder).map_err(|source| CertsError::Io { path: folder.into(), source })?;
    let mut written = Vec::new();
    let authority = match present(folder, "ca")? {
        Some(pair) => Authority::read(&pair.certificate, &pair.key)
            .map_err(|source| CertsError::Ca { path: folder.join("ca.pem"), source })?,
        None => {
            let authority = Authority::create()?;
            store(folder, "ca", &authority.pair, &mut written)?;
            authority
        }
    };
    for (stem, name) in halves {
        if present(folder, stem)?.is_none() {
            store(folder, stem, &authority.issue(name)?, &mut written)?;
        }
    }
    Ok(written)
}

fn present(folder: &Path, stem: &str) -> Result<Option<Pair>, CertsError> {
    let certificate = read(folder.join(format!("{stem}.pem")))?;
    let key = read(folder.join(format!("{stem}.key")))?;
    match (certificate, key) {
        ((_, Some(certificate)), (_, Some(key))) => Ok(Some(Pair { certificate, key })),
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

fn store(folder: &Path, stem: &str, pair: &Pair, written: &mut Vec<PathBuf>) -> Result<(), CertsError> {
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

fn dated(mut params: CertificateParams, days: i64) -> CertificateParams {
    let now = time::OffsetDateTime::now_utc();
    // A clock that runs a little behind the other gateway's must not refuse a new certificate.
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(days);
    params
}
