//! `certs --revoke`: the CA's list of revoked certificates, `crl.pem`.

use std::{collections::BTreeMap, fs, path::Path};

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use time::OffsetDateTime;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::{
    CertificateAuthority, CertsError, CertsReport, ShownCertificate, read_text, renewal::certificates,
    serial_bytes, write_new,
};

/// The list, as read from its file.
#[derive(Default)]
struct RevokedList {
    /// When each certificate was revoked, by serial number.
    revoked: BTreeMap<Vec<u8>, OffsetDateTime>,
    number: u64,
}

/// Adds all certificates of a name to the list, including renewed ones.
pub(super) fn revoke(
    folder: &Path,
    authority: &CertificateAuthority,
    name: &str,
    report: &mut CertsReport,
) -> Result<(), CertsError> {
    let (file, new) = (folder.join("crl.pem"), folder.join("crl.pem.new"));
    let mut meant = Vec::new();
    for (stem, shown) in certificates(folder)?.readable {
        let old = read_text(&folder.join(format!("{stem}.pem.old"))).ok();
        let old = old.and_then(|text| ShownCertificate::read(&text));
        let all = [Some(shown), old].into_iter().flatten();
        let is_meant = |one: &ShownCertificate| !one.is_authority && (stem == name || one.has_name(name));
        meant.extend(all.filter(|one| is_meant(one) && one.is_issued_by(authority)));
    }
    if meant.is_empty() {
        let folder = folder.display();
        report
            .left
            .push(format!("no certificate for `{name}` of the CA in {folder} is there, so none is revoked"));
        return Ok(());
    }
    let mut register = read_register(&file, authority)?;
    let now = OffsetDateTime::now_utc();
    let before = register.revoked.len();
    for one in meant {
        register.revoked.entry(one.serial).or_insert(now);
    }
    let is_news = register.revoked.len() > before;
    let list = issue(&register, authority, now)?;
    // Left over from an interrupted write.
    let _ = fs::remove_file(&new);
    write_new(&new, &list, 0o644)?;
    fs::rename(&new, &file).map_err(|source| CertsError::Io { path: file.clone(), source })?;
    let file = file.display();
    report.done.push(match is_news {
        true => format!("revoked `{name}`: {file} has it"),
        false => format!("`{name}` was revoked already; {file} is reissued"),
    });
    report.done.push(format!(
        "to apply it, copy {file} to each host, and name it in the `tls` of the other half's link: `revoked: [FILE]`"
    ));
    report.done.push(format!(
        "for a new certificate, move the files of `{name}` out of {}, and run `portcullis certs` again",
        folder.display()
    ));
    Ok(())
}

/// The list is valid for as long as the CA is; it is replaced when something is added.
fn issue(
    register: &RevokedList,
    authority: &CertificateAuthority,
    now: OffsetDateTime,
) -> Result<String, CertsError> {
    let ends = ShownCertificate::read(&authority.pair.certificate).map(|shown| shown.not_after);
    let revoked = |(serial, at): (&Vec<u8>, &OffsetDateTime)| RevokedCertParams {
        serial_number: SerialNumber::from_slice(serial),
        revocation_time: *at,
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        // A clock that is a little behind must not refuse it.
        this_update: now - time::Duration::hours(1),
        next_update: ends.unwrap_or(now).max(now + time::Duration::days(1)),
        crl_number: SerialNumber::from(register.number.saturating_add(1)),
        issuing_distribution_point: None,
        revoked_certs: register.revoked.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(&authority.issuer)?.pem()?)
}

fn read_register(file: &Path, authority: &CertificateAuthority) -> Result<RevokedList, CertsError> {
    let text = match read_text(file) {
        Ok(text) => text,
        Err(error) if error.is_missing() => return Ok(RevokedList::default()),
        Err(source) => return Err(CertsError::Read { path: file.into(), source }),
    };
    let fault = |why: &str| CertsError::Unusable { path: file.into(), why: why.into() };
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(text.as_bytes()).map_err(|_| fault("it is not a PEM file"))?;
    let (_, list) = CertificateRevocationList::from_der(&pem.contents)
        .map_err(|_| fault("it is not a list of revoked certificates"))?;
    let issuer = ShownCertificate::read(&authority.pair.certificate).map(|shown| shown.subject);
    if issuer.as_deref() != Some(list.issuer().as_raw()) {
        return Err(fault("it comes from another CA than `ca.pem`"));
    }
    let number = list.crl_number().map(|number| number.to_bytes_be());
    let number =
        number.map_or(0, |bytes| bytes.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte)));
    let revoked = list.iter_revoked_certificates();
    let revoked =
        revoked.map(|one| (serial_bytes(one.raw_serial()), one.revocation_date.to_datetime())).collect();
    Ok(RevokedList { revoked, number })
}
