//! Services that lead back to themselves: their sessions would go round until no descriptor is left.

use std::collections::HashMap;

use super::{
    Accept, Backend, HostPort, Mode, ServiceName,
    fields::Located,
    problem::{Problem, ValueProblem},
    raw::{RawDmzService, RawProfile},
};

/// Checks files that have both backends and client ports, since one process then serves both.
pub(super) fn check(raw: &RawProfile, mode: Mode, problems: &mut Vec<Problem>) {
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
                            .at(by.place.clone()),
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
    if own.port == 0 || own.port != to.port || !is_same_host(to, own) {
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

/// Another machine may have the same port, but these addresses certainly belong to this one.
fn is_same_host(to: &HostPort, own: &HostPort) -> bool {
    to.host == own.host
        || to.is_loopback() && (own.is_any() || own.host == "localhost")
        || to.is_any() && own.is_loopback()
}
