//! The ports at which links inside WebSockets come in: what they show, and with which accepts they can share
//! one.

use super::{
    Accept, ClientCheck, DmzHalf, LinkAddress, OuterTls, UnreadyPolicy,
    fields::Located,
    problem::{Problem, ProfileLocation, ValueProblem},
    raw::{RawDmz, RawDmzService, RawProfile},
};

/// What each listener shows, in any mode.
pub(super) fn check(raw: &RawProfile, problems: &mut Vec<Problem>) {
    let accepts = || raw.dmz.good().into_iter().flat_map(|dmz| &dmz.services);
    let accepts = || accepts().flat_map(|service| &service.accept.list);
    let dmz = raw.dmz.good().and_then(|dmz| dmz.link.good()).and_then(|link| link.ends.listen.good());
    let has_certificate = |listen: &LinkAddress| {
        let shows = |accept: &Located<Accept>| {
            is_on_port(listen, &accept.value) && accept.value.web.is_some() && accept.value.tls.is_some()
        };
        accepts().any(shows)
    };
    if let Some(listen) = dmz.filter(|listen| !has_certificate(&listen.value)) {
        check_certificate(listen, problems);
    }
    let internal = raw.internal.good().and_then(|internal| internal.link.good());
    if let Some(listen) = internal.and_then(|link| link.ends.listen.good()) {
        check_certificate(listen, problems);
    }
}

/// A listener with TLS around a WebSocket needs a certificate.
fn check_certificate(listen: &Located<LinkAddress>, problems: &mut Vec<Problem>) {
    if listen.value.web_socket().is_some_and(|socket| socket.outer == OuterTls::OfPort) {
        let what = format!("`{}` has no certificate to show", listen.value);
        let advice = "write `outer: { certificate: FILE, key: FILE }` under `link`";
        problems.push(ValueProblem::new(what, advice).at(listen.location.clone()));
    }
}

fn is_on_port(listen: &LinkAddress, accept: &Accept) -> bool {
    accept.address.at == listen.at && !listen.at.takes_free_port()
}

/// Whether an accept shares the port of links, which are recognised by the path of their request.
pub(super) fn is_shared(listen: &LinkAddress, accept: &Accept) -> bool {
    let Some(socket) = listen.web_socket().filter(|_| is_on_port(listen, accept)) else { return false };
    // Both begin with a request, plain or in TLS; or the name in a ClientHello comes first.
    match accept.web.is_some() {
        true => accept.address.scheme.is_tls() == socket.is_secure(),
        false => socket.is_secure() && !accept.sni.is_empty(),
    }
}

/// What accepts on the port of links may not require or do.
pub(super) fn check_sharing(dmz: &RawDmz, listen: &Located<LinkAddress>, problems: &mut Vec<Problem>) {
    let of_service = |service: &'_ RawDmzService| {
        let unready = service.unready.unwrap_or(dmz.unready);
        service.accept.list.iter().map(|accept| (unready, accept.clone())).collect::<Vec<_>>()
    };
    let accepts = dmz.services.iter().flat_map(of_service);
    let shared = accepts.filter(|(_, accept)| is_shared(&listen.value, &accept.value));
    for (unready, Located { value: accept, location }) in shared {
        let Located { location: ProfileLocation { key, line, .. }, .. } = listen;
        if matches!(accept.tls.as_ref().map(|tls| &tls.clients), Some(ClientCheck::Required(_))) {
            let what = format!(
                "clients have to show certificates on the port of `{key}` (line {line}), and links show none there"
            );
            let advice = "write `verify_client: optional`, or give one of the two another port";
            problems.push(ValueProblem::new(what, advice).at(location.clone()));
        }
        if unready == UnreadyPolicy::Refuse {
            let what = format!(
                "links come in by this port (`{key}`, line {line}), so it cannot be closed while no service on \
                 it is ready"
            );
            let fault =
                ValueProblem::new(what, "write `unready: accept`, or give one of the two another port");
            problems.push(fault.at(location.clone()));
        }
    }
}

/// A certificate of the links' own that is never shown: each accept on their port shows another one, whatever
/// name is requested.
pub(super) fn has_unshown_certificate(half: &DmzHalf) -> bool {
    let Some(listen) = half.link_listen() else { return false };
    let Some(shown) = listen.shown_tls() else { return false };
    let accepts = half.services.iter().flat_map(|service| &service.accept);
    let mut shared = accepts.filter(|accept| is_shared(listen, accept) && accept.sni.is_empty());
    shared.any(|accept| accept.tls.as_ref().is_some_and(|tls| tls.pair != shown.pair))
}
