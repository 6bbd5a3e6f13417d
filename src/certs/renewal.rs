//! `certs --renew`: replaces pairs whose certificate expires soon. The old files are kept as `.old`, so that whoever
//! still uses them can go on.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use thiserror::Error;
use time::OffsetDateTime;

use super::{
    CertificateAuthority, CertificatePair, CertificateUsage, CertsError, CertsReport, ShownCertificate, list,
    read_existing_pair, read_text, write_new,
};

/// Certificates that end within this many days are replaced.
const DUE_DAYS: i64 = 30;

/// Why a certificate that is due is not renewed.
#[derive(Debug, Error)]
enum RenewalError {
    #[error("it is a CA's own: make a new CA in another folder, and bring it to all gateways")]
    Authority,
    #[error("it comes from another CA than `ca.pem`")]
    OtherCa,
    #[error("it has no name, or one that is neither a host nor an address")]
    Names,
    #[error("{0}")]
    Write(#[from] CertsError),
}

/// Replaces the due pairs with these names, or all in the folder.
pub(super) fn renew(
    folder: &Path,
    authority: &CertificateAuthority,
    only: &[String],
    report: &mut CertsReport,
) -> Result<(), CertsError> {
    let until = OffsetDateTime::now_utc() + time::Duration::days(DUE_DAYS);
    let FolderCertificates { readable: found, unreadable } = certificates(folder)?;
    let is_for =
        |(stem, shown): &(String, ShownCertificate), name: &String| stem == name || shown.has_name(name);
    let mut unreadable = unreadable;
    unreadable.retain(|one| only.is_empty() || only.contains(&one.stem));
    report.left.extend(unreadable.iter().map(ToString::to_string));
    let is_there = |name: &&String| {
        found.iter().any(|one| is_for(one, name)) || unreadable.iter().any(|one| one.stem == **name)
    };
    for name in only.iter().filter(|name| !is_there(name)) {
        report
            .left
            .push(format!("no certificate for `{name}` is in {}, so none is renewed", folder.display()));
    }
    let is_meant = |one: &&(String, ShownCertificate)| {
        one.1.not_after <= until && (only.is_empty() || only.iter().any(|name| is_for(one, name)))
    };
    for (stem, shown) in found.iter().filter(is_meant) {
        let path = folder.join(format!("{stem}.pem"));
        let (path, ends) = (path.display(), shown.not_after.date());
        match renew_pair(folder, stem, shown, authority) {
            Ok(()) => report.done.push(format!(
                "renewed {path} for {}; the previous one expires on {ends}",
                list(&shown.names)
            )),
            Err(why) => report.left.push(format!("{path}: expires on {ends}, and is not renewed: {why}")),
        }
    }
    if report.is_empty() {
        let folder = folder.display();
        report.done.push(format!("nothing to renew: nothing in {folder} ends within {DUE_DAYS} days"));
    }
    Ok(())
}

fn renew_pair(
    folder: &Path,
    stem: &str,
    shown: &ShownCertificate,
    authority: &CertificateAuthority,
) -> Result<(), RenewalError> {
    if shown.is_authority {
        return Err(RenewalError::Authority);
    }
    if !shown.is_issued_by(authority) {
        return Err(RenewalError::OtherCa);
    }
    if shown.names.is_empty() || shown.has_other_names {
        return Err(RenewalError::Names);
    }
    Ok(replace(folder, stem, shown, authority)?)
}

/// The certificates of a folder.
#[derive(Default)]
pub(super) struct FolderCertificates {
    /// By the stem of their file.
    pub readable: Vec<(String, ShownCertificate)>,
    /// Those beside a key, where a certificate is to be expected.
    unreadable: Vec<UnreadableCertificate>,
}

/// A file that should hold a certificate.
#[derive(Debug, Error)]
#[error("{}: {why}, so it is not renewed", path.display())]
struct UnreadableCertificate {
    stem: String,
    path: PathBuf,
    why: String,
}

/// All certificates of a folder, in the order of their names.
pub(super) fn certificates(folder: &Path) -> Result<FolderCertificates, CertsError> {
    let io = |source| CertsError::Io { path: folder.into(), source };
    let mut found = FolderCertificates::default();
    for entry in fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".pem")) else { continue };
        let (stem, path) = (stem.to_owned(), folder.join(&name));
        let read = read_text(&path).map(|text| ShownCertificate::read(&text));
        let why = match read {
            Ok(Some(shown)) => {
                found.readable.push((stem, shown));
                continue;
            }
            Ok(None) => "it holds no certificate".to_owned(),
            Err(error) => error.to_string(),
        };
        if path.with_extension("key").exists() {
            found.unreadable.push(UnreadableCertificate { stem, path, why });
        }
    }
    found.readable.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    found.unreadable.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// The new pair is complete before the old one is moved, and its key is in place before its certificate.
fn replace(
    folder: &Path,
    stem: &str,
    shown: &ShownCertificate,
    authority: &CertificateAuthority,
) -> Result<(), CertsError> {
    // A certificate whose key is elsewhere is renewed there.
    read_existing_pair(folder, stem)?;
    let usage = if shown.is_client_only { CertificateUsage::Client } else { CertificateUsage::Both };
    let CertificatePair { certificate, key } = authority.issue_for(shown.names.clone(), usage)?;
    let parts = [("key", key, 0o600), ("pem", certificate, 0o644)];
    for (extension, text, mode) in &parts {
        let new = folder.join(format!("{stem}.{extension}.new"));
        // Left over from an interrupted renewal.
        let _ = fs::remove_file(&new);
        write_new(&new, text, *mode)?;
        take_owner(&folder.join(format!("{stem}.{extension}")), &new)?;
    }
    for (extension, ..) in &parts {
        let at = folder.join(format!("{stem}.{extension}"));
        let io = |source| CertsError::Io { path: at.clone(), source };
        let old = PathBuf::from(format!("{}.old", at.display()));
        match fs::remove_file(&old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            Ok(()) | Err(_) => fs::hard_link(&at, &old).map_err(io)?,
        }
        fs::rename(folder.join(format!("{stem}.{extension}.new")), &at).map_err(io)?;
    }
    Ok(())
}

/// Gives the new file to the owner of the old one, so that the same processes can read it.
fn take_owner(old: &Path, new: &Path) -> Result<(), CertsError> {
    let io = |source| CertsError::Io { path: new.into(), source };
    let (was, is) = (fs::metadata(old).map_err(io)?, fs::metadata(new).map_err(io)?);
    if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
        chown(new, Some(was.uid()), Some(was.gid())).map_err(io)?;
    }
    fs::set_permissions(new, fs::Permissions::from_mode(was.mode() & 0o777)).map_err(io)
}
