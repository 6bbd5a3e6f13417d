//! The ports for clients, and for links inside WebSockets, which use one path of a port, alone or beside
//! services. They belong to the engine and to no half, so a switch keeps those that both profiles name.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;

use super::halves::{DmzSide, InternalSide, SharedContext};
use crate::{
    accept::{
        routes::{BorrowedRoutes, HttpRoute, PortRoutes, RouteTable, SniRoute, TlsHandling, WebKind},
        tcp,
    },
    link::endpoint::LinkEndpoints,
    net::{
        listen::{self, BindError, Listener, ListenerAddresses, ListenerGuard},
        resolved_names::ResolvedNames,
    },
    profile::{
        Accept, AcceptAddress, BindPolicy, Carries, DmzMode, DmzService, EdgeScheme, Half, HostPort,
        InternalMode, LinkAddress, Problem, Profile, ServiceName, UnreadyPolicy,
    },
    tls::edge::EdgeTls,
    verify::probe::ProbeEntry,
};

pub type ClientPorts = HashMap<PortKey, ClientPort>;
/// Identifies a port by its address in the profile. An owner that asks for port 0 has a port of its own.
type PortKey = (HostPort, Option<PortOwner>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum PortOwner {
    /// An accept of a service, by its position.
    Accept(ServiceName, usize),
    Links(Half),
}

/// A bound port, which may be handed from one service to another.
#[derive(Debug)]
pub struct ClientPort {
    routes: Arc<ArcSwap<PortRoutes>>,
    /// The endpoints for links on this port.
    endpoints: Arc<LinkEndpoints>,
    /// The address in the profile for each service on it.
    names: Vec<(AcceptAddress, ServiceName)>,
    entries: Vec<ProbeEntry>,
    /// Until it is started.
    listener: Option<Arc<Listener>>,
    /// Closes the port when it is no longer wanted.
    pub(super) closer: ListenerGuard,
    /// What happens to it while none of its services is ready.
    pub(super) unready: UnreadyPolicy,
    /// Where it listened before it was closed because of that.
    pub(super) closed: Option<ClosedPort>,
}

/// A port that is closed while none of its services is ready.
#[derive(Debug)]
pub(super) struct ClosedPort {
    pub at: Vec<SocketAddr>,
    /// It could not be opened again, and that was reported.
    pub is_taken: bool,
}

/// One port as a profile wants it.
#[derive(Default)]
struct WantedPort<'a> {
    /// The services, and their accepts.
    accepts: Vec<(&'a DmzService, &'a Accept)>,
    /// The links that come in here, and whether they wait for its address.
    links: Option<(&'a LinkAddress, BindPolicy)>,
}

impl WantedPort<'_> {
    /// If one of those that share it waits, that is enough to wait.
    fn bind(&self) -> BindPolicy {
        let mut all = self.accepts.iter().map(|(_, accept)| accept.bind);
        let waits = all.any(|bind| bind == BindPolicy::Wait)
            || self.links.is_some_and(|(_, bind)| bind == BindPolicy::Wait);
        if waits { BindPolicy::Wait } else { BindPolicy::Now }
    }

    /// Links use it whatever happens to its services.
    fn unready(&self) -> UnreadyPolicy {
        let refuses = |(service, _): &(&DmzService, _)| service.unready == UnreadyPolicy::Refuse;
        match self.links.is_none() && self.accepts.iter().all(refuses) {
            true => UnreadyPolicy::Refuse,
            false => UnreadyPolicy::Accept,
        }
    }
}

fn key_of_links(half: Half, address: &LinkAddress) -> PortKey {
    let at = address.at.clone();
    let own = at.takes_free_port().then_some(PortOwner::Links(half));
    (at, own)
}

/// The ports that a profile wants.
fn wanted_ports(profile: &Profile) -> HashMap<PortKey, WantedPort<'_>> {
    let mut wanted = HashMap::<_, WantedPort<'_>>::new();
    for service in profile.dmz.iter().flat_map(|half| &half.services) {
        for (index, accept) in service.accept.iter().enumerate() {
            let at = accept.address.at.clone();
            let own = at.takes_free_port().then(|| PortOwner::Accept(service.name.clone(), index));
            wanted.entry((at, own)).or_default().accepts.push((service, accept));
        }
    }
    let of_dmz = profile.dmz.as_ref().and_then(|half| match &half.mode {
        DmzMode::Reverse { listen, bind, .. } => Some((Half::Dmz, listen, *bind)),
        DmzMode::Direct(_) | DmzMode::Forward { .. } => None,
    });
    let of_internal = profile.internal.as_ref().and_then(|half| match &half.mode {
        InternalMode::Forward { listen, bind, .. } => Some((Half::Internal, listen, *bind)),
        InternalMode::Reverse { .. } => None,
    });
    let inside = |(_, listen, _): &(_, &LinkAddress, _)| listen.web_socket().is_some();
    for (half, listen, bind) in of_dmz.into_iter().chain(of_internal).filter(inside) {
        wanted.entry(key_of_links(half, listen)).or_default().links = Some((listen, bind));
    }
    wanted
}

impl ClientPort {
    /// The services that clients reach through it.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.names.iter().map(|(_, service)| service)
    }

    pub(super) fn start(&self, listener: Arc<Listener>, common: &SharedContext) {
        let shared = tcp::ClientPortContext {
            serve: common.serve.clone(),
            tasks: common.tasks.clone(),
            notices: common.notices.clone(),
            probes: common.sessions.probes.expected(),
            own_ports: common.own_ports.clone(),
            gates: common.sessions.gates.clone(),
            logins: common.sessions.logins.clone(),
            quota: common.clients.clone(),
            handshakes: common.handshakes.clone(),
            arrivals: common.arrivals.clone(),
            requests: common.requests.clone(),
            access: common.access.clone(),
            leaving: common.leaving.clone(),
        };
        common
            .tasks
            .spawn("client port", tcp::run(listener, self.routes.clone(), self.endpoints.clone(), shared));
    }

    /// A service's address wherever the port listens, with the real port number.
    fn addresses_of(&self, address: &AcceptAddress) -> Vec<AcceptAddress> {
        let real = |at| AcceptAddress { at, ..address.clone() };
        self.closer.describe().into_iter().map(real).collect()
    }
}

/// The addresses of the ports that `profile` wants and `current` lacks.
pub fn missing_addresses(profile: &Profile, current: &ClientPorts) -> Vec<HostPort> {
    wanted_ports(profile).into_keys().filter(|key| !current.contains_key(key)).map(|(at, _)| at).collect()
}

/// Binds the ports that `profile` wants and `current` lacks.
pub fn bind_missing(
    profile: &Profile,
    current: &ClientPorts,
    found: &ResolvedNames,
) -> Result<ClientPorts, BindError> {
    let mut bound = ClientPorts::new();
    for (key, wanted) in wanted_ports(profile) {
        if !current.contains_key(&key) {
            let listener = listen::bind_for_clients(&key.0, found.addresses(&key.0), wanted.bind())?;
            let port = ClientPort {
                // Replaced before the port is started.
                routes: Arc::new(ArcSwap::from_pointee(PortRoutes {
                    proxy: None,
                    table: RouteTable::Named(Vec::new()),
                })),
                endpoints: Arc::default(),
                names: Vec::new(),
                entries: Vec::new(),
                closer: listener.closer(),
                unready: UnreadyPolicy::default(),
                closed: None,
                listener: Some(listener),
            };
            bound.insert(key, port);
        }
    }
    Ok(bound)
}

/// Opens the link endpoints of new parts, on an open port or on a new one that is started for them. Services
/// are added to that port later.
pub fn open_endpoints(
    (dmz, internal): (Option<&DmzSide>, Option<&InternalSide>),
    (running, new): (&ClientPorts, &mut ClientPorts),
    (profile, edges): (&Profile, &EdgeTls),
    common: &SharedContext,
) {
    let of_dmz = dmz.and_then(DmzSide::endpoint).map(|endpoint| (Half::Dmz, endpoint));
    let of_internal = internal.and_then(InternalSide::endpoint).map(|endpoint| (Half::Internal, endpoint));
    for (half, endpoint) in of_dmz.into_iter().chain(of_internal) {
        let key = key_of_links(half, &endpoint.address);
        let Some(wanted) = wanted_ports(profile).remove(&key) else { continue };
        let routes = build_routes(&wanted, edges).without_services();
        if let Some(port) = running.get(&key) {
            let borrowed = BorrowedRoutes::join(&port.routes, routes);
            endpoint.open_in(&port.endpoints, ListenerAddresses::clone(&port.closer), borrowed);
        } else if let Some(port) = new.get_mut(&key) {
            port.routes.store(Arc::new(routes));
            endpoint.open_in(&port.endpoints, ListenerAddresses::clone(&port.closer), None);
            if let Some(listener) = port.listener.take() {
                port.start(listener, common);
            }
        }
    }
}

/// The ports that `profile` wants and `current` lacks, and those that it does not want, in words. Only client
/// ports: a half reports its link ports itself.
pub fn port_changes(profile: &Profile, current: &ClientPorts) -> (Vec<String>, Vec<String>) {
    let wanted = wanted_ports(profile);
    let line = |at: &AcceptAddress, service: &ServiceName| format!("{at} for clients of `{service}`");
    let opens =
        wanted.iter().filter(|(key, _)| !current.contains_key(key)).flat_map(|(_, port)| &port.accepts);
    let mut opens: Vec<_> = opens.map(|(service, accept)| line(&accept.address, &service.name)).collect();
    let closes = current.iter().filter(|(key, _)| !wanted.contains_key(key));
    let closes = closes.flat_map(|(_, port)| port.names.iter().map(move |(at, service)| (port, at, service)));
    let reported =
        |(port, at, service): (&ClientPort, &AcceptAddress, &ServiceName)| match &port.addresses_of(at)[..] {
            [one] => line(one, service),
            _ => line(at, service),
        };
    let mut closes: Vec<_> = closes.map(reported).collect();
    opens.sort_unstable();
    closes.sort_unstable();
    (opens, closes)
}

/// Opens the new ports, hands kept ones to their services, closes those no longer wanted.
pub fn replace_ports(
    ports: &mut ClientPorts,
    new: ClientPorts,
    profile: &Profile,
    edges: &EdgeTls,
    common: &SharedContext,
) {
    let mut before = std::mem::take(ports);
    before.extend(new);
    for (key, wanted) in wanted_ports(profile) {
        let Some(mut port) = before.remove(&key) else { continue };
        port.routes.store(Arc::new(build_routes(&wanted, edges)));
        port.endpoints.forget_closed();
        port.unready = wanted.unready();
        let services = wanted.accepts;
        port.names =
            services.iter().map(|(service, accept)| (accept.address.clone(), service.name.clone())).collect();
        let local = port.closer.listens_at().first().copied();
        // A port that waits for its address has nothing to probe yet.
        let local = local.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let entry = |(service, accept): &(&DmzService, &Accept)| ProbeEntry {
            service: service.name.clone(),
            at: local,
            tls: edges.probe_client(accept, local.ip()),
            fault: accept_fault(accept, edges).cloned(),
            routes: port.routes.clone(),
            tls_and_sni: (accept.tls.clone(), accept.sni.clone()),
        };
        port.entries = services.iter().map(entry).collect();
        if let Some(listener) = port.listener.take() {
            port.start(listener, common);
        }
        ports.insert(key, port);
    }
    note_own_ports(ports, common);
}

/// Notes the ports at which nobody but clients of one service comes in.
pub(super) fn note_own_ports(ports: &ClientPorts, common: &SharedContext) {
    let mut own = HashMap::<_, Vec<_>>::new();
    for port in ports.values() {
        let mut services = port.services();
        if let Some(first) = services.next()
            && services.all(|service| service == first)
        {
            own.entry(first.clone()).or_default().push(ListenerAddresses::clone(&port.closer));
        }
    }
    common.own_ports.set(own);
}

fn build_routes(port: &WantedPort<'_>, edges: &EdgeTls) -> PortRoutes {
    let services = &port.accepts;
    // It is the same for all accepts of a port.
    let proxy = services.iter().find_map(|(_, accept)| accept.proxy.clone());
    let (mut routes, mut plain_web) = (Vec::<SniRoute>::new(), Vec::new());
    for (service, accept) in services {
        let (service, carries) = (service.name.clone(), service.carries);
        let scheme = accept.address.scheme;
        let web = |service| {
            let (path, web) = (accept.address.path.clone(), accept.web.clone()?);
            Some(HttpRoute { service, path, web, web_kind: web_kind(scheme, carries) })
        };
        let config = |tls: &Option<_>| edges.accept_server(tls.as_ref()?, scheme);
        let handling = match (scheme, &accept.tls) {
            (EdgeScheme::Tcp, _) if accept.sni.is_empty() => {
                return PortRoutes { proxy, table: RouteTable::One(service) };
            }
            (EdgeScheme::Tcp, _) => Some(TlsHandling::Passed(service)),
            (EdgeScheme::Http | EdgeScheme::Ws, _) => {
                plain_web.extend(web(service));
                None
            }
            // An accept that should end TLS and cannot turns its clients away, so that nothing is passed on by
            // mistake.
            (EdgeScheme::Tls | EdgeScheme::Https | EdgeScheme::Wss, _)
                if accept_fault(accept, edges).is_some() =>
            {
                let why = accept_fault(accept, edges).map(|problem| problem.what.clone());
                Some(TlsHandling::Down(service, why.unwrap_or_default()))
            }
            (EdgeScheme::Tls, tls) => config(tls).map(|config| TlsHandling::Tls(service, config)),
            (EdgeScheme::Https | EdgeScheme::Wss, tls) => {
                let config = config(tls);
                // Requests may choose only among services of the same names and the same TLS.
                let same =
                    routes.iter_mut().find(|route| route.sni == accept.sni).map(|route| &mut route.handling);
                match (same, config) {
                    (Some(TlsHandling::Http(routes, same)), Some(config)) if same.is_same_as(&config) => {
                        Arc::make_mut(routes).extend(web(service));
                        None
                    }
                    (_, config) => config.map(|config| {
                        TlsHandling::Http(Arc::new(web(service).into_iter().collect()), config)
                    }),
                }
            }
        };
        routes.extend(handling.map(|handling| SniRoute { sni: accept.sni.clone(), handling }));
    }
    let links_are_plain =
        port.links.is_some_and(|(links, _)| links.web_socket().is_some_and(|socket| !socket.is_secure()));
    let table = match plain_web.is_empty() && !links_are_plain {
        true => RouteTable::Named(routes),
        false => RouteTable::Http(Arc::new(plain_web)),
    };
    PortRoutes { proxy, table }
}

/// What is wrong with the TLS of an accept, so that it cannot be used.
fn accept_fault<'a>(accept: &Accept, edges: &'a EdgeTls) -> Option<&'a Problem> {
    let fault = edges.fault_of_accept(accept.tls.as_ref()?)?;
    (!fault.is_kept).then_some(fault.problem)
}

fn web_kind(scheme: EdgeScheme, carries: Carries) -> WebKind {
    match (scheme, carries) {
        (EdgeScheme::Ws | EdgeScheme::Wss, Carries::Bytes) => WebKind::Frames,
        (EdgeScheme::Ws | EdgeScheme::Wss, Carries::Http) => WebKind::Sockets,
        (EdgeScheme::Http | EdgeScheme::Https | EdgeScheme::Tcp | EdgeScheme::Tls, _) => WebKind::Requests,
    }
}

/// Where clients of a service connect, with the real port numbers.
pub fn addresses_of_service(ports: &ClientPorts, service: &ServiceName) -> Vec<String> {
    let names = ports.values().flat_map(|port| port.names.iter().map(move |(at, of)| (port, at, of)));
    let of_it = names.filter(|(_, _, of)| *of == service);
    let mut bound: Vec<_> =
        of_it.flat_map(|(port, at, _)| port.addresses_of(at)).map(|at| at.to_string()).collect();
    bound.sort_unstable();
    bound
}

/// Why the ports of a service wait.
pub struct WaitingPorts {
    pub reason: String,
    /// Whether clients can use none of them.
    pub are_all: bool,
}

/// Why the ports of a service wait, if they do.
pub fn awaited_ports(ports: &ClientPorts, service: &ServiceName) -> Option<WaitingPorts> {
    let of_it = || ports.values().filter(|port| port.services().any(|of| of == service));
    let reason = of_it().find_map(|port| port.closer.awaited())?;
    let are_all = of_it().all(|port| port.closer.listens_at().is_empty());
    Some(WaitingPorts { reason: format!("its port is not open yet, {reason}"), are_all })
}

/// Where probes enter each service: one entry for each kind of TLS that its clients use, or any of its ports.
pub fn probe_entries(ports: &ClientPorts) -> Vec<ProbeEntry> {
    let open = |port: &ClientPort| {
        let at = port.closer.listens_at().first().copied();
        let entries =
            port.entries.iter().filter_map(move |entry| Some(ProbeEntry { at: at?, ..entry.clone() }));
        entries.collect::<Vec<_>>()
    };
    let mut entries: Vec<_> = ports.values().flat_map(open).collect();
    entries.sort_by(|one, other| {
        let order = |entry: &ProbeEntry| (entry.service.clone(), entry.tls.is_none(), entry.at);
        order(one).cmp(&order(other))
    });
    let mut chosen: Vec<ProbeEntry> = Vec::new();
    for entry in entries {
        let is_reported = |other: &&ProbeEntry| {
            other.service == entry.service && (entry.tls.is_none() || other.tls_and_sni == entry.tls_and_sni)
        };
        if !chosen.iter().rev().any(|other| is_reported(&other)) {
            chosen.push(entry);
        }
    }
    chosen
}
