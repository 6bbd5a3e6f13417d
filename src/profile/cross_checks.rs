//! What has to agree between different keys: ports, the two halves' services, peers. A single key is checked where it
//! is read; here are only problems that no key alone has.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    Accept, LinkTls, Mode, ServiceName, UnreadyPolicy, carries,
    endpoint::HostPort,
    fields::{Located, ReadValue},
    health, link_ports, loops,
    problem::{Problem, ProfileLocation, ValueProblem, quote_for_problem},
    raw::{RawDmz, RawDmzService, RawInternal, RawProfile},
    source,
};

/// Checks everything that concerns several keys; without a mode, only what does not depend on it.
pub(super) fn check(raw: &RawProfile, mode: Option<Mode>, problems: &mut Vec<Problem>) {
    if let Some(mode) = mode {
        check_ports(raw, mode, problems);
        health::check(raw, mode, problems);
        loops::check(raw, mode, problems);
        source::check(raw, mode, problems);
    }
    carries::check(raw, mode, problems);
    link_ports::check(raw, problems);
    if let (Some(dmz), Some(internal)) = (raw.dmz.good(), raw.internal.good()) {
        check_link_listeners(dmz, internal, problems);
        if mode != Some(Mode::Direct) {
            check_partners(&[dmz], &[internal], problems);
        }
    }
    if let Some(dmz) = raw.dmz.good() {
        check_passed_ports_can_close(dmz, problems);
        let tls = dmz.link.good().map(|link| &link.ends.tls);
        let peers = dmz.services.iter().filter_map(|service| service.peers.as_ref());
        check_known_peers(tls, peers.flatten(), "dmz", problems);
    }
    if let Some(internal) = raw.internal.good() {
        let tls = internal.link.good().map(|link| &link.ends.tls);
        let peers = internal.services.iter().filter_map(|service| service.peers.as_ref());
        check_known_peers(tls, peers.flatten(), "internal", problems);
    }
}

/// Two listeners of one mode at the same address.
fn check_ports(raw: &RawProfile, mode: Mode, problems: &mut Vec<Problem>) {
    let mut taken = PortClaims::default();
    let dmz_link = raw.dmz.good().and_then(|dmz| dmz.link.good()).and_then(|link| link.ends.listen.good());
    let internal_link = raw
        .internal
        .good()
        .and_then(|internal| internal.link.good())
        .and_then(|link| link.ends.listen.good());
    let link = match mode {
        Mode::Direct => None,
        Mode::Forward => internal_link,
        Mode::Reverse => dmz_link,
    };
    if let Some(link) = link {
        taken.take(&link.value.at, &link.location, problems);
        raw.dmz.good().into_iter().for_each(|dmz| link_ports::check_sharing(dmz, link, problems));
    }
    let accepts = raw.dmz.good().into_iter().flat_map(|dmz| &dmz.services);
    let accepts = accepts.flat_map(|service| &service.accept.list);
    let mut shared: HashMap<&HostPort, Vec<&Located<Accept>>> = HashMap::new();
    for accept in accepts {
        let at = &accept.value.address.at;
        let others = shared.entry(at).or_default();
        match others.iter().find_map(|other| Some((other, find_clash(&accept.value, &other.value)?))) {
            Some((other, AcceptClash::Whole)) => {
                problems.push(collision(at, &accept.location, &other.location))
            }
            Some((other, AcceptClash::Requests)) => problems.push(same_requests(accept, &other.location)),
            Some((other, AcceptClash::Proxy)) => {
                problems.push(other_proxy_problem(&accept.location, &other.location))
            }
            Some((other, AcceptClash::Name(name))) => {
                problems.push(same_name_problem(name, &accept.location, &other.location))
            }
            None if !others.is_empty() => {}
            None if link.is_some_and(|link| link_ports::is_shared(&link.value, &accept.value)) => {}
            None => taken.take(at, &accept.location, problems),
        }
        others.push(accept);
    }
    if let Some(health) = raw.health.good() {
        taken.take(&health.value, &health.location, problems);
    }
}

/// A port that another process holds cannot be closed.
fn check_passed_ports_can_close(dmz: &RawDmz, problems: &mut Vec<Problem>) {
    let refuses = |service: &&RawDmzService| service.unready.unwrap_or(dmz.unready) == UnreadyPolicy::Refuse;
    let accepts = dmz.services.iter().filter(refuses).flat_map(|service| &service.accept.list);
    for accept in accepts.filter(|accept| accept.value.address.at.passed_name().is_some()) {
        let what = "a socket that is passed in cannot be closed while no service on it is ready";
        let fault = ValueProblem::new(what, "write HOST:PORT, or `unready: accept`");
        problems.push(fault.at(accept.location.clone()));
    }
}

/// Why a client's first bytes cannot tell which of two accepts it wants.
enum AcceptClash<'a> {
    Whole,
    /// They have the same host and path.
    Requests,
    Proxy,
    Name(&'a str),
}

fn find_clash<'a>(one: &'a Accept, other: &Accept) -> Option<AcceptClash<'a>> {
    let is_free = one.address.at.takes_free_port();
    if is_free {
        return None;
    }
    if one.proxy == other.proxy
        && one.address.scheme.is_tls() == other.address.scheme.is_tls()
        && (&one.sni, &one.tls) == (&other.sni, &other.tls)
        && let (Some(web), Some(other_web)) = (&one.web, &other.web)
    {
        let is_alike = web.hosts.is_empty() && other_web.hosts.is_empty()
            || web.hosts.iter().any(|host| other_web.hosts.contains(host));
        return (is_alike && one.address.path == other.address.path).then_some(AcceptClash::Requests);
    }
    let names_host = |accept: &Accept| accept.address.scheme.is_tls() || !accept.sni.is_empty();
    if !names_host(one) || !names_host(other) || (one.sni.is_empty() && other.sni.is_empty()) {
        return Some(AcceptClash::Whole);
    }
    // It must be known who a client is before its request is read.
    if one.proxy != other.proxy {
        return Some(AcceptClash::Proxy);
    }
    one.sni.iter().find(|name| other.sni.contains(name)).map(|name| AcceptClash::Name(name))
}

fn same_requests(accept: &Located<Accept>, other: &ProfileLocation) -> Problem {
    let Located { value: Accept { address, .. }, location } = accept;
    let what = format!("requests for `{address}` belong to `{}` (line {}) already", other.key, other.line);
    ValueProblem::new(what, "give one of the two another path, other `hosts` or another port")
        .at(location.clone())
}

fn other_proxy_problem(location: &ProfileLocation, other: &ProfileLocation) -> Problem {
    let what = format!("`{}` (line {}) is the same port with another `proxy`", other.key, other.line);
    ValueProblem::new(what, "give all accepts of a port the same `proxy`").at(location.clone())
}

fn same_name_problem(name: &str, location: &ProfileLocation, other: &ProfileLocation) -> Problem {
    let what = format!("`{name}` belongs to `{}` (line {}) already", other.key, other.line);
    ValueProblem::new(what, "give it to one of the two alone").at(location.clone())
}

/// The hosts of listeners, by port.
#[derive(Default)]
struct PortClaims<'a>(HashMap<u16, Vec<(&'a str, &'a ProfileLocation)>>);

impl<'a> PortClaims<'a> {
    fn take(&mut self, at: &'a HostPort, location: &'a ProfileLocation, problems: &mut Vec<Problem>) {
        // Each listener on port 0 gets a port of its own.
        if at.takes_free_port() {
            return;
        }
        let hosts = self.0.entry(at.port).or_default();
        let other =
            hosts.iter().filter(|(host, _)| hosts_overlap(host, &at.host)).map(|(_, location)| *location);
        match other.min_by_key(|location| (location.line, location.column)) {
            None => hosts.push((&at.host, location)),
            Some(other) => problems.push(collision(at, location, other)),
        }
    }
}

/// Whether two hosts have an address in common, as far as that can be known before they are looked up. IPv4 and
/// IPv6 never have.
fn hosts_overlap(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    match (addresses(one), addresses(other)) {
        (Some(ours), Some(theirs)) => ours.iter().any(|our| theirs.iter().any(|their| is_within(our, their))),
        // A name may have an address that a wildcard covers.
        (Some(known), None) | (None, Some(known)) => known.iter().any(IpAddr::is_unspecified),
        (None, None) => false,
    }
}

fn is_within(one: &IpAddr, other: &IpAddr) -> bool {
    one == other || one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
}

/// The addresses known without a look-up (RFC 6761, section 6.3, for the one name).
fn addresses(host: &str) -> Option<Vec<IpAddr>> {
    match host {
        "localhost" => Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
        _ => host.split('%').next().and_then(|host| host.parse().ok()).map(|ip| vec![ip]),
    }
}

fn collision(at: &HostPort, location: &ProfileLocation, other: &ProfileLocation) -> Problem {
    let what = format!("`{at}` is listened on by `{}` (line {}) already", other.key, other.line);
    ValueProblem::new(what, "give one of the two another port").at(location.clone())
}

/// During a switch between the modes, both link listeners are open for a moment.
fn check_link_listeners(dmz: &RawDmz, internal: &RawInternal, problems: &mut Vec<Problem>) {
    let dmz = dmz.link.good().and_then(|link| link.ends.listen.good());
    let internal = internal.link.good().and_then(|link| link.ends.listen.good());
    let (Some(dmz), Some(internal)) = (dmz, internal) else { return };
    let port = internal.value.at.port;
    if port != 0 && port == dmz.value.at.port {
        let Located { location: ProfileLocation { key, line, .. }, .. } = dmz;
        let what = format!("port {port} is that of `{key}` (line {line}), and a switch of modes needs both");
        problems
            .push(ValueProblem::new(what, "give one of the two another port").at(internal.location.clone()));
    }
}

/// Services of the DMZ halves and of the internal ones belong together by name. If one half's names cannot be
/// read, nothing can be said about the others'.
pub(super) fn check_partners(dmz: &[&RawDmz], internal: &[&RawInternal], problems: &mut Vec<Problem>) {
    let outside: Option<Vec<_>> = dmz.iter().map(|half| half.names.good()).collect();
    let inside: Option<Vec<_>> = internal.iter().map(|half| half.names.good()).collect();
    let (Some(outside), Some(inside)) = (outside, inside) else { return };
    unpaired_problem(&outside, &inside, "internal.services", problems);
    unpaired_problem(&inside, &outside, "dmz.services", problems);
}

fn unpaired_problem(
    names: &[&Vec<Located<ServiceName>>],
    others: &[&Vec<Located<ServiceName>>],
    folder: &str,
    problems: &mut Vec<Problem>,
) {
    let others: HashSet<_> = others.iter().copied().flatten().map(|other| &other.value).collect();
    for name in names.iter().copied().flatten().filter(|name| !others.contains(&name.value)) {
        let service = quote_for_problem(name.value.as_str());
        let fault = ValueProblem::new(
            format!("service `{service}` has no partner in the other half"),
            format!("write `{folder}.{service}`, or remove this one"),
        );
        problems.push(fault.at(name.location.clone()));
    }
}

/// A service's peers must be among the link's: any other name could never appear.
fn check_known_peers<'a>(
    tls: Option<&ReadValue<LinkTls>>,
    peers: impl Iterator<Item = &'a Located<String>>,
    half: &str,
    problems: &mut Vec<Problem>,
) {
    let Some(ReadValue::Good(tls)) = tls else { return };
    for peer in peers.filter(|peer| !tls.peers.contains(&peer.value)) {
        let fault = ValueProblem::new(
            format!("`{}` is not among the peers of the link", quote_for_problem(&peer.value)),
            format!("add it to `{half}.link.tls.peers`, or remove it here"),
        );
        problems.push(fault.at(peer.location.clone()));
    }
}
