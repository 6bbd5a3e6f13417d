//! Reads certificates and keys from PEM files, and reports a faulty file at the profile key that names it. This
//! is the only module that uses `rustls-pemfile`.

use std::fmt;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use x509_parser::{
    error::X509Error,
    prelude::{FromDer, X509Certificate, X509Version},
};

use crate::{
    disk::{self, FileAccess, FileContents, PipePolicy, ReadError},
    profile::{PemSource, Problem, ProfileLocation},
};

/// Enough for the authorities of a whole country; a larger file cannot be one of certificates.
const FILE_BYTES_MAX: u64 = 32 * 1024 * 1024;

pub(super) fn read_chain(
    material: &PemSource,
    pipes: PipePolicy,
) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let text = read_pem(material, FileAudience::Anyone, pipes)?;
    let mut chain = Vec::new();
    for found in rustls_pemfile::certs(&mut text.as_slice()) {
        let number = chain.len() + 1;
        let damaged = |why: &dyn fmt::Display| {
            let what = format!("{}certificate {number} is damaged: {why}", name_prefix(material));
            pem_problem(material, what, "take that one out, or copy it again from where it was issued")
        };
        let certificate = found.map_err(|error| damaged(&error))?;
        check_whole(&certificate)
            .map_err(|_| damaged(&"its bytes are not those of a certificate (X.509)"))?;
        chain.push(certificate);
    }
    match chain.is_empty() {
        true => Err(pem_problem(material, "it holds no certificate".into(), "name a PEM file with one")),
        false => Ok(chain),
    }
}

/// A larger list should not be kept in a gateway's memory.
const LIST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads lists of revoked certificates, in PEM or a single one in DER.
pub(super) fn read_lists(material: &PemSource, pipes: PipePolicy) -> Result<Vec<Vec<u8>>, Problem> {
    let bytes = read_file(material, (LIST_BYTES_MAX, "name a list of revoked certificates"), pipes)?.bytes;
    if bytes.first() == Some(&DER_SEQUENCE) {
        return Ok(vec![bytes]);
    }
    let mut lists = Vec::new();
    for found in rustls_pemfile::crls(&mut bytes.as_slice()) {
        let list = found.map_err(|error| {
            let what = format!("{}list {} is damaged: {error}", name_prefix(material), lists.len() + 1);
            pem_problem(material, what, "copy it again from where it was issued")
        })?;
        lists.push(list.to_vec());
    }
    match lists.is_empty() {
        true => {
            let what = format!("{}it holds no list of revoked certificates", name_prefix(material));
            Err(pem_problem(material, what, "name a file with one: `-----BEGIN X509 CRL-----`, or DER"))
        }
        false => Ok(lists),
    }
}

/// The first byte of everything signed in DER.
const DER_SEQUENCE: u8 = 0x30;

pub(super) fn read_key(material: &PemSource, pipes: PipePolicy) -> Result<PrivateKeyDer<'static>, Problem> {
    let text = read_pem(material, FileAudience::OwnerOnly, pipes)?;
    if ENCRYPTED.iter().any(|mark| text.windows(mark.len()).any(|part| part == *mark)) {
        let what = format!("{}it is encrypted, and a gateway has no password for it", name_prefix(material));
        let advice = "write it without one: openssl pkey -in KEY -out NEW, then chmod 600 NEW";
        return Err(pem_problem(material, what, advice));
    }
    match rustls_pemfile::private_key(&mut text.as_slice()) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(pem_problem(material, "it holds no private key".into(), "name a PEM file with one")),
        Err(error) => Err(pem_problem(material, format!("it is not a PEM file: {error}"), "name a PEM file")),
    }
}

/// How PEM marks a key that needs a password (RFC 5958, and RFC 1421 as OpenSSL writes it).
const ENCRYPTED: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];

/// The file name, for the beginning of a problem.
pub(super) fn name_prefix(material: &PemSource) -> String {
    match material {
        PemSource::File { path, .. } => format!("{}: ", path.display()),
        PemSource::Memory(_) => String::new(),
    }
}

pub(super) fn read_roots(
    material: &PemSource,
    authorities: &[CertificateDer<'static>],
) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in authorities.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| {
            let what = format!("{}certificate {} cannot be a CA's: {error}", name_prefix(material), at + 1);
            pem_problem(material, what, "take that one out, or name a CA's file")
        })?;
    }
    Ok(roots)
}

#[derive(PartialEq)]
enum FileAudience {
    Anyone,
    OwnerOnly,
}

fn read_pem(material: &PemSource, audience: FileAudience, pipes: PipePolicy) -> Result<Vec<u8>, Problem> {
    let contents = read_file(material, (FILE_BYTES_MAX, "name a PEM file"), pipes)?;
    let PemSource::File { path, .. } = material else { return Ok(contents.bytes) };
    if audience == FileAudience::OwnerOnly && !contents.access.keeps_secret() {
        let what = format!("{}: others may read it (mode {:04o})", path.display(), contents.access.mode);
        return Err(pem_problem(
            material,
            what,
            "run chmod 600 on it, and replace the key if others had access",
        ));
    }
    Ok(contents.bytes)
}

fn read_file(
    material: &PemSource,
    (bytes_max, advice): (u64, &str),
    pipes: PipePolicy,
) -> Result<FileContents, Problem> {
    let path = match material {
        PemSource::Memory(text) => {
            return Ok(FileContents { bytes: text.as_bytes().to_vec(), access: FileAccess::OWN });
        }
        PemSource::File { path, .. } => path,
    };
    disk::read(path, bytes_max, pipes).map_err(|error| {
        let usual = match error {
            ReadError::Io(_) if is_revocation_list(material) => {
                "`portcullis certs --out DIR --revoke NAME` makes it with the first revoked certificate; until then leave `revoked` out"
            }
            ReadError::Io(_) => "make it with `portcullis certs --out DIR`, or correct the path",
            ReadError::Locked => "restart with that profile, or keep the file beside the others",
            ReadError::NotPlain(_) | ReadError::TooLarge { .. } | ReadError::Silent => advice,
        };
        let advice = error.permission_advice(path).unwrap_or_else(|| usual.to_owned());
        pem_problem(material, format!("{}: {error}", path.display()), &advice)
    })
}

fn is_revocation_list(material: &PemSource) -> bool {
    match material {
        PemSource::File { location, .. } => {
            location.key.rsplit('.').next().is_some_and(|key| key.starts_with("revoked"))
        }
        PemSource::Memory(_) => false,
    }
}

pub(super) fn pem_problem(material: &PemSource, what: String, advice: &str) -> Problem {
    let location = match material {
        PemSource::File { location, .. } => location.clone(),
        PemSource::Memory(_) => {
            ProfileLocation { file: "built in".into(), line: 0, column: 0, key: "tls".into() }
        }
    };
    Problem { location, what, advice: advice.into() }
}

/// Whether a certificate can be parsed at all.
fn check_whole(certificate: &CertificateDer<'_>) -> Result<(), X509Error> {
    X509Certificate::from_der(certificate)?;
    Ok(())
}

/// The first certificate of a chain that nobody would accept: its number, and why.
pub(super) fn find_unfit(chain: &[CertificateDer<'_>]) -> Option<(usize, &'static str)> {
    chain.iter().enumerate().find_map(|(at, certificate)| {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let signed = parsed.signature_algorithm.algorithm.to_id_string();
        let is_ca = parsed.is_ca();
        let why = match parsed.version() {
            X509Version::V3 if WEAK_SIGNATURES.contains(&signed.as_str()) => "is signed with SHA-1 or MD5",
            X509Version::V3 if at == 0 && is_ca => "is a CA's own (CA:TRUE), and stands for no gateway",
            X509Version::V3 => return None,
            _ => "is not of X.509 version 3",
        };
        Some((at + 1, why))
    })
}

/// The problem of a certificate of ours for which the library did not take the pair. It reads the certificate before the
/// key, so any other error is the key's.
pub(super) fn unfit_problem(
    error: &rustls::Error,
    chain: &[CertificateDer<'_>],
    certificate: &PemSource,
) -> Option<Problem> {
    let (number, why) =
        find_unfit(chain).filter(|_| matches!(error, rustls::Error::InvalidCertificate(_)))?;
    Some(unfit(certificate, chain, number, why))
}

pub(super) fn unfit(
    certificate: &PemSource,
    chain: &[CertificateDer<'_>],
    number: usize,
    why: &str,
) -> Problem {
    let what = format!("{}certificate {number} of {} {why}", name_prefix(certificate), chain.len());
    pem_problem(certificate, what, "have it reissued, or make one with `portcullis certs`")
}

/// Signatures with SHA-1 and MD5 (RFC 8017, appendix C; RFC 3279, section 2.2.3).
const WEAK_SIGNATURES: [&str; 3] = ["1.2.840.113549.1.1.5", "1.2.840.10045.4.1", "1.2.840.113549.1.1.4"];

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{fs, path::Path, process::Command};

    use super::*;

    fn openssl(folder: &Path, line: &str) {
        let done = Command::new("openssl").args(line.split(' ')).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "openssl {line}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn material(folder: &Path, name: &str) -> PemSource {
        let location = ProfileLocation { file: "p.yaml".into(), line: 1, column: 1, key: "tls".into() };
        PemSource::File { path: folder.join(name), location }
    }

    #[test]
    fn a_bad_file_is_reported_with_certificate_number_and_fault() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        openssl(at, "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out plain.key");
        openssl(at, "pkcs8 -topk8 -in plain.key -out pkcs8.key -passout pass:secret");
        openssl(at, "ec -in plain.key -out old.key -aes256 -passout pass:secret");
        for name in ["pkcs8.key", "old.key"] {
            let problem = read_key(&material(at, name), PipePolicy::Refused).unwrap_err();
            assert!(
                problem
                    .what
                    .ends_with(&format!("{name}: it is encrypted, and a gateway has no password for it"))
            );
        }
        openssl(at, "req -x509 -new -key plain.key -subj /CN=ca -out ca.pem");
        openssl(
            at,
            "req -x509 -new -sha1 -key plain.key -subj /CN=dmz -addext basicConstraints=CA:FALSE -out sha1.pem",
        );
        openssl(at, "req -new -key plain.key -subj /CN=dmz -out dmz.csr");
        openssl(at, "x509 -req -in dmz.csr -CA ca.pem -CAkey plain.key -CAcreateserial -out v1.pem");
        let read = |name: &str| read_chain(&material(at, name), PipePolicy::Refused).unwrap();
        let unfit = |name: &str| find_unfit(&read(name));
        assert_eq!(unfit("ca.pem"), Some((1, "is a CA's own (CA:TRUE), and stands for no gateway")));
        assert_eq!(unfit("sha1.pem"), Some((1, "is signed with SHA-1 or MD5")));
        assert_eq!(unfit("v1.pem"), Some((1, "is not of X.509 version 3")));
        let good = fs::read_to_string(at.join("ca.pem")).unwrap();
        let bad = "-----BEGIN CERTIFICATE-----\nMAAAAA==\n-----END CERTIFICATE-----\n";
        fs::write(at.join("bundle.pem"), [&good, &good, bad, &good].concat()).unwrap();
        let problem = read_chain(&material(at, "bundle.pem"), PipePolicy::Refused).unwrap_err();
        assert!(problem.what.contains("bundle.pem: certificate 3 is damaged: "), "{problem}");
        // A bundle of more than 1 MiB is read to its end.
        let many = 1024 * 1024 / good.len() + 2;
        fs::write(at.join("large.pem"), good.repeat(many)).unwrap();
        assert_eq!(read("large.pem").len(), many);
    }
}
