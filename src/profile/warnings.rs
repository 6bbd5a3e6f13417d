//! What an operator should reconsider in a valid profile.

use super::{Accept, DmzHalf, DmzMode, InternalHalf, InternalMode, Profile, link_ports};

/// Sentences for `check` to print; none of them prevents the profile from running.
pub fn warnings(profile: &Profile) -> Vec<String> {
    let crowded = profile.internal.as_ref().and_then(warn_of_crowding);
    let cut = profile.internal.as_ref().and_then(warn_of_silent_links);
    let unshown = profile.dmz.as_ref().and_then(warn_of_unshown_certificate);
    let lost = profile.dmz.iter().flat_map(warn_of_lost_alpn);
    crowded.into_iter().chain(cut).chain(unshown).chain(lost).chain(warn_of_nameless_peers(profile)).collect()
}

/// Ready links leave too little room for links that carry sessions.
fn warn_of_crowding(half: &InternalHalf) -> Option<String> {
    let InternalMode::Reverse { connect, tls, prepared, .. } = &half.mode else { return None };
    let gateways = connect.len();
    // A link without TLS speaks SOCKS5, and is ready for one service.
    let (of, count) = match tls {
        Some(_) => (format!("{gateways} gateways"), gateways),
        None => {
            let services = half.services.len();
            (format!("{services} services, {gateways} gateways"), services.saturating_mul(gateways))
        }
    };
    let ready = count.saturating_mul(*prepared);
    (ready > half.maximum / 2).then(|| {
        format!(
            "internal.link.prepared: {of} and {prepared} prepared links for each make {ready}, \
             more than half of `maximum` ({}); raise `maximum`, or lower `prepared`",
            half.maximum
        )
    })
}

/// A parked SOCKS5 link can only be pinged within a WebSocket.
fn warn_of_silent_links(half: &InternalHalf) -> Option<String> {
    let InternalMode::Reverse { connect, tls: None, .. } = &half.mode else { return None };
    let silent = connect.iter().find(|address| address.via.is_some() && address.web_socket().is_none())?;
    Some(format!(
        "internal.link.via: links to {silent} speak SOCKS5, and nothing is sent on them while they wait: a proxy that \
         cuts silent connections cuts them again and again; use `socks+tls` or `socks+ws`"
    ))
}

/// SOCKS5 has no word for it, and a link without TLS speaks nothing else.
fn warn_of_lost_alpn(half: &DmzHalf) -> impl Iterator<Item = String> {
    let is_plain = !matches!(half.mode, DmzMode::Direct(_)) && half.link_tls().is_none();
    // A protocol that is read here is not passed on.
    let agrees =
        |accept: &Accept| accept.web.is_none() && accept.tls.as_ref().is_some_and(|tls| !tls.alpn.is_empty());
    let lost = half.services.iter().filter(move |service| is_plain && service.accept.iter().any(agrees));
    lost.map(|service| {
        format!(
            "dmz.services.{}.tls.alpn: SOCKS5 links do not say which protocol a client agreed on, and the backend is offered \
             none; use `socks+tls`, or write `alpn` in the `tls` of its `connect`",
            service.name.as_str()
        )
    })
}

/// On a shared port, links show the certificates of its accepts.
fn warn_of_unshown_certificate(half: &DmzHalf) -> Option<String> {
    let (listen, is_unshown) = (half.link_listen()?, link_ports::has_unshown_certificate(half));
    is_unshown.then(|| {
        format!(
            "dmz.link.outer: its certificate is never shown, since an accept on {} shows another one whatever name is \
             asked for; remove it, or write `sni` for that accept",
            listen.at
        )
    })
}

/// Peers are distinguished by their certificates, and a plain link has none.
fn warn_of_nameless_peers(profile: &Profile) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |half: &str, service: &str| {
        warnings.push(format!(
            "{half}.services.{service}.peers: a link without TLS does not say who its peer is; use `socks+tls`, \
             or remove `peers`"
        ));
    };
    if let Some(half) = &profile.dmz
        && matches!(half.mode, DmzMode::Forward { tls: None, .. } | DmzMode::Reverse { tls: None, .. })
    {
        let named = half.services.iter().filter(|service| service.peers.is_some());
        named.for_each(|service| warn("dmz", service.name.as_str()));
    }
    if let Some(half) = &profile.internal
        && matches!(
            half.mode,
            InternalMode::Forward { tls: None, .. } | InternalMode::Reverse { tls: None, .. }
        )
    {
        let named = half.services.iter().filter(|service| service.peers.is_some());
        named.for_each(|service| warn("internal", service.name.as_str()));
    }
    warnings
}
