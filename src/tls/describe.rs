//! Describes certificates for operators. The text in them comes from outside, so it is shortened and has no
//! control characters.

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{proto::certificate::certificate_names, text};

/// How many names of one certificate are listed.
const NAMES_MAX: usize = 4;
/// The longest shown name.
const NAME_CHARS_MAX: usize = 100;

/// The names of a certificate in one line.
pub(super) fn list_names(names: &[String]) -> String {
    match names.is_empty() {
        true => "no name".into(),
        false => {
            let plain =
                |name: &String| name.chars().filter(|ch| !ch.is_control()).take(NAME_CHARS_MAX).collect();
            names.iter().take(NAMES_MAX).map(plain).collect::<Vec<String>>().join(", ")
        }
    }
}

/// The names in a certificate, and how many days it is still valid.
pub fn describe_certificate(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate_names(certificate)?;
    let left = parsed.validity().not_after.timestamp() - x509_parser::time::ASN1Time::now().timestamp();
    let names = list_names(&names).replace(", ", "`, `");
    let days = text::count(left.max(0).unsigned_abs() / (24 * 60 * 60), "day");
    Some(format!("for `{names}`, {days} left"))
}

pub(super) fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| format!("{seconds} s"), |time| time.date().to_string())
}
