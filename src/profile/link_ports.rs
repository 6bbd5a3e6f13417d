//! The ports that links inside WebSockets come in by: what they show.

use super::{
    Accept, LinkAddress, OuterTls,
    fields::Located,
    problem::{Problem, ValueProblem},
    raw::RawProfile,
};

pub(super) fn check(raw: &RawProfile, problems: &mut Vec<Problem>) {
    let accepts = || raw.dmz.good().into_iter().flat_map(|dmz| &dmz.services);
    let accepts = || accepts().flat_map(|service| &service.accept.list);
    let dmz = raw.dmz.good().and_then(|dmz| dmz.link.good()).and_then(|link| link.ends.listen.good());
    let has_certificate = |listen: &LinkAddress| {
        let shows = |accept: &Located<Accept>| {
            accept.value.address.at == listen.at && accept.value.web.is_some() && accept.value.tls.is_some()
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

/// A listener that speaks TLS around a WebSocket has something to show.
fn check_certificate(listen: &Located<LinkAddress>, problems: &mut Vec<Problem>) {
    if listen.value.web_socket().is_some_and(|socket| socket.outer == OuterTls::OfPort) {
        let what = format!("`{}` has no certificate to show", listen.value);
        let advice = "write `outer: { certificate: FILE, key: FILE }` under `link`";
        problems.push(ValueProblem::new(what, advice).at(listen.place.clone()));
    }
}
