//! Backends that are this gateway itself. A service that leads back to itself would have its sessions go round until
//! no descriptor is left; at the port for links, nobody serves clients. The port for monitors is not one of them: a
//! service may publish it behind TLS and logins.

use std::collections::HashMap;

use super::{
    Accept, Backend, HostPort, Mode, ServiceName,
    fields::{Located, ReadValue},
    problem::{Problem, ValueProblem},
    raw::{RawDmzService, RawProfile},
};

/// Checks files that have both backends and ports, since one process then serves both.
pub(super) fn check(raw: &RawProfile, mode: Mode, problems: &mut Vec<Problem>) {
    check_link_port(raw, mode, problems);
    check_client_ports(raw, mode, problems);
}

/// The port for links, of a half that runs in the same process as the backends.
fn check_link_port(raw: &RawProfile, mode: Mode, problems: &mut Vec<Problem>) {
    let (dmz, internal) = (raw.dmz.good(), raw.internal.good());
    let link = match mode {
        Mode::Direct => None,
        Mode::Forward => internal.and_then(|half| half.link.good()).and_then(|link| link.ends.listen.good()),
        Mode::Reverse => dmz.and_then(|half| half.link.good()).and_then(|link| link.ends.listen.good()),
    };
    let mut accepts =
        dmz.into_iter().flat_map(|half| &half.services).flat_map(|service| &service.accept.list);
    // Services may share the port of links, and one may lead to another.
    let Some(link) =
        link.map(|link| &link.value.at).filter(|at| accepts.all(|accept| accept.value.address.at != **at))
    else {
        return;
    };
    let backends = internal.into_iter().flat_map(|half| &half.services).map(|service| &service.connect);
    for backend in backends.filter_map(ReadValue::good).flat_map(|backends| backends.iter()) {
        let Some(to) = backend.value.remote().and_then(|remote| remote.at.network()) else { continue };
        if is_at(to, link) {
            let what = format!("`{}` is this gateway's own port for links", backend.value);
            let fault = ValueProblem::new(what, "write the address of the server itself");
            problems.push(fault.at(backend.location.clone()));
        }
    }
}

/// The ports of clients: what is sent there comes back as a session.
fn check_client_ports(raw: &RawProfile, mode: Mode, problems: &mut Vec<Problem>) {
    let Some(dmz) = raw.dmz.good() else { return };
    let inside = raw.internal.good().into_iter().flat_map(|half| &half.services);
    let inside: HashMap<&ServiceName, _> = inside.map(|service| (&service.name, &service.connect)).collect();
    let backends = |service: &RawDmzService| -> Vec<Located<Backend>> {
        let own = service.connect.good().filter(|_| mode == Mode::Direct);
        let partner = inside.get(&service.name).and_then(|connect| connect.good());
        own.or(partner).map(|backends| backends.iter().cloned().collect()).unwrap_or_default()
    };
    let backends: Vec<_> = dmz.services.iter().map(backends).collect();
    let leads = |from: usize, to: usize| {
        let accepts = &dmz.services[to].accept.list;
        backends[from]
            .iter()
            .find(|backend| accepts.iter().any(|accept| is_reached_at(&backend.value, &accept.value)))
    };
    for start in 0..dmz.services.len() {
        let (mut seen, mut next) = (vec![false; dmz.services.len()], vec![start]);
        let mut first = None;
        while let Some(at) = next.pop() {
            for (to, is_seen) in seen.iter_mut().enumerate() {
                let Some(by) = leads(at, to) else { continue };
                if at == start {
                    first = first.or(Some(by));
                }
                if to == start
                    && let Some(by) = first
                {
                    let service = &dmz.services[start].name;
                    let what = format!("`{}` leads back to the clients of `{service}`", by.value);
                    problems.push(
                        ValueProblem::new(what, "write the address of the server itself")
                            .at(by.location.clone()),
                    );
                    next.clear();
                    break;
                }
                if !std::mem::replace(is_seen, true) {
                    next.push(to);
                }
            }
        }
    }
}

/// Whether what is sent to the backend comes back in at the accept, as far as the addresses show.
fn is_reached_at(backend: &Backend, accept: &Accept) -> bool {
    let Some(remote) = backend.remote() else { return false };
    let Some(to) = remote.at.network() else { return false };
    let own = &accept.address.at;
    if !is_at(to, own) {
        return false;
    }
    match backend {
        Backend::Echo | Backend::Socket(_) => true,
        Backend::Http(http) => {
            let folder = accept.address.path.trim_end_matches('/');
            let below = http.path.strip_prefix(folder);
            accept.web.is_some() && below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        }
    }
}

fn is_at(to: &HostPort, own: &HostPort) -> bool {
    own.port != 0 && own.port == to.port && is_same_host(to, own)
}

/// Another machine may have the same port, but these addresses certainly belong to this one.
fn is_same_host(to: &HostPort, own: &HostPort) -> bool {
    to.host == own.host
        || to.is_loopback() && (own.is_any() || own.host == "localhost")
        || to.is_any() && own.is_loopback()
}
