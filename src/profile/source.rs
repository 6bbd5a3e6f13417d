//! The source address of a dial: `source` in the map of an address to dial.

use std::net::IpAddr;

use super::{
    Backend, ConfinePolicy, HostPort, Mode,
    fields::{Located, ValueReader},
    problem::{Problem, ValueProblem, quote_for_problem},
    raw::RawProfile,
};

/// An address from which `at` can be dialled.
pub(super) fn read(
    field: &ValueReader<'_>,
    at: Option<&HostPort>,
    problems: &mut Vec<Problem>,
) -> Option<IpAddr> {
    let text = field.text(problems)?;
    let written = quote_for_problem(text);
    let fault = match (text.parse::<IpAddr>(), at) {
        (_, None) => ValueProblem::new("`source` needs a network address to dial", "remove it"),
        (Err(_), _) => {
            let what = format!("`{written}` is not an address");
            ValueProblem::new(what, "write one of this machine, `192.0.2.8`, without a port")
        }
        (Ok(ip), _) if ip.is_unspecified() || ip.is_multicast() => {
            let what = format!("nothing can be dialled from `{written}`");
            ValueProblem::new(what, "write an address of this machine, or remove it")
        }
        (Ok(ip), Some(at)) => match at.host_without_zone().parse::<IpAddr>() {
            Ok(to) if to.is_ipv4() != ip.is_ipv4() => {
                let what = format!("`{}` cannot be dialled from `{written}`", at.host);
                ValueProblem::new(what, "write an address of the same family")
            }
            Ok(_) | Err(_) => return Some(ip),
        },
    };
    field.refuse(fault, problems)
}

/// A half that may not bind cannot choose its source address.
pub(super) fn check(raw: &RawProfile, mode: Mode, problems: &mut Vec<Problem>) {
    if mode != Mode::Reverse || raw.confine == ConfinePolicy::Off {
        return;
    }
    let Some(internal) = raw.internal.good() else { return };
    let links = internal.link.good().and_then(|link| link.ends.connect.good()).into_iter().flatten();
    let links = links.filter(|link| link.value.source.is_some()).map(|link| &link.location);
    let backends = internal.services.iter().filter_map(|service| service.connect.good());
    let has_source =
        |backend: &&Located<Backend>| backend.value.remote().is_some_and(|remote| remote.source.is_some());
    let backends = backends.flat_map(|backends| backends.iter()).filter(has_source);
    for location in links.chain(backends.map(|backend| &backend.location)) {
        let what = "`source` needs `bind`, which the lock of the internal half refuses in reverse mode";
        let advice = "remove `source`, or write `confine: off` at the top";
        problems.push(ValueProblem::new(what, advice).at(location.clone()));
    }
}
