//! The lists of revoked certificates that a `tls` names, for links and for clients alike.

use super::{
    ExpiredListPolicy, RevokedFiles, defaults,
    fields::MapReader,
    keys,
    link::material,
    problem::{Problem, ValueProblem},
};

/// `revoked` and `revoked_expired`; `None` if they have problems.
pub(super) fn read(tls: &MapReader<'_>, problems: &mut Vec<Problem>) -> Option<RevokedFiles> {
    let before = problems.len();
    let mut files = Vec::new();
    if let Some(field) = tls.take(&keys::REVOKED) {
        let items = field.one_or_many(defaults::REVOKED_MAX, problems).unwrap_or_default();
        files.extend(items.iter().filter_map(|item| material(item, problems)));
    }
    let expired = tls.take(&keys::REVOKED_EXPIRED).and_then(|field| {
        if files.is_empty() && problems.len() == before {
            let fault =
                ValueProblem::new("there is no `revoked` that could expire", "write it, or remove this");
            problems.push(fault.at(field.location()));
        }
        keys::REVOKED_EXPIRED.read_field(&field, problems)
    });
    let expired: ExpiredListPolicy = expired.unwrap_or_default();
    (problems.len() == before).then_some(RevokedFiles { files, expired })
}
