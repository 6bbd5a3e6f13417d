//! The ports that clients come in by.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;

use super::ways::Common;
use crate::{
    accept::{
        door::{Behind, Door, Doors, Front, Speaks, WebDoor},
        tcp,
    },
    net::{
        edges::{Caller, Edges},
        listen::{self, BindError, Closer, Listener},
        names::Found,
    },
    profile::{
        Accept, AcceptAddress, AcceptTls, Bind, Carries, DmzHalf, DmzService, EdgeScheme, HostPort, Problem,
        ServiceName,
    },
};

pub type Ports = HashMap<Key, Port>;
/// Ports by what the profile says; each accept on `port 0`, told by its place, is a port of its own.
type Key = (HostPort, Option<(ServiceName, usize)>);

/// One bound port, which may be handed from one service to another.
#[derive(Debug)]
pub struct Port {
    front: Arc<ArcSwap<Front>>,
    /// What the profile calls it for each service.
    names: Vec<(AcceptAddress, ServiceName)>,
    entries: Vec<Entry>,
    /// Until it is started.
    listener: Option<Arc<Listener>>,
    /// Closes the port when it is not wanted any more.
    closer: Closer,
}

/// Where a probe of a service goes in.
#[derive(Debug, Clone)]
pub struct Entry {
    pub service: ServiceName,
    pub at: SocketAddr,
    /// How it speaks TLS where clients do.
    pub tls: Option<Caller>,
    /// Why its TLS can not be spoken.
    pub fault: Option<Problem>,
    /// What clients speak there.
    of: (Option<AcceptTls>, Vec<String>),
}

/// The ports that a profile wants, with the services of each and how they are reached.
fn wanted(half: Option<&DmzHalf>) -> HashMap<Key, Vec<(&DmzService, &Accept)>> {
    let mut wanted = HashMap::<_, Vec<_>>::new();
    for service in half.into_iter().flat_map(|half| &half.services) {
        for (place, accept) in service.accept.iter().enumerate() {
            let at = accept.address.at.clone();
            let own = (at.port == 0).then(|| (service.name.clone(), place));
            wanted.entry((at, own)).or_default().push((service, accept));
        }
    }
    wanted
}

impl Port {
    /// An address of a service at each place where it listens, with the real port.
    fn shown(&self, address: &AcceptAddress) -> Vec<AcceptAddress> {
        let real = |at| AcceptAddress { at, ..address.clone() };
        self.closer.shown().into_iter().map(real).collect()
    }
}

/// The addresses of the ports that `half` wants and `current` lacks.
pub fn missing(half: Option<&DmzHalf>, current: &Ports) -> Vec<HostPort> {
    wanted(half).into_keys().filter(|key| !current.contains_key(key)).map(|(at, _)| at).collect()
}

/// Binds the ports that `half` wants and `current` lacks.
pub fn bind_missing(half: Option<&DmzHalf>, current: &Ports, found: &Found) -> Result<Ports, BindError> {
    let mut bound = Ports::new();
    for (key, services) in wanted(half) {
        if !current.contains_key(&key) {
            // One of those that share it is enough to wait for it.
            let waits = services.iter().any(|(_, accept)| accept.bind == Bind::Wait);
            let bind = if waits { Bind::Wait } else { Bind::Now };
            let listener = listen::bind_for_clients(&key.0, found.addresses(&key.0), bind)?;
            let port = Port {
                // Replaced before it is started.
                front: Arc::new(ArcSwap::from_pointee(Front {
                    proxy: None,
                    doors: Doors::One(services[0].0.name.clone()),
                })),
                names: Vec::new(),
                entries: Vec::new(),
                closer: listener.closer(),
                listener: Some(listener),
            };
            bound.insert(key, port);
        }
    }
    Ok(bound)
}

/// The ports that `half` wants and `current` lacks, and those that it does not want, in words.
pub fn changes(half: Option<&DmzHalf>, current: &Ports) -> (Vec<String>, Vec<String>) {
    let wanted = wanted(half);
    let line = |at: &AcceptAddress, service: &ServiceName| format!("{at} for clients of `{service}`");
    let opens =
        wanted.iter().filter(|(key, _)| !current.contains_key(key)).flat_map(|(_, services)| services);
    let mut opens: Vec<_> = opens.map(|(service, accept)| line(&accept.address, &service.name)).collect();
    let closes = current.iter().filter(|(key, _)| !wanted.contains_key(key));
    let closes = closes.flat_map(|(_, port)| port.names.iter().map(move |(at, service)| (port, at, service)));
    let told = |(port, at, service): (&Port, &AcceptAddress, &ServiceName)| match &port.shown(at)[..] {
        [one] => line(one, service),
        _ => line(at, service),
    };
    let mut closes: Vec<_> = closes.map(told).collect();
    opens.sort();
    closes.sort();
    (opens, closes)
}

/// Opens the new ports, hands kept ones to their services, closes those no longer wanted.
pub fn replace(ports: &mut Ports, new: Ports, half: Option<&DmzHalf>, edges: &Edges, common: &Common) {
    let mut before = std::mem::take(ports);
    before.extend(new);
    for (key, services) in wanted(half) {
        let Some(mut port) = before.remove(&key) else { continue };
        port.front.store(Arc::new(front(&services, edges)));
        port.names =
            services.iter().map(|(service, accept)| (accept.address.clone(), service.name.clone())).collect();
        let local = port.closer.listens_at().first().copied();
        // Who waits for its address has nowhere to be probed yet.
        let local = local.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        let entry = |(service, accept): &(&DmzService, &Accept)| Entry {
            service: service.name.clone(),
            at: local,
            tls: edges.prober(accept, local.ip()),
            fault: fault(accept, edges).cloned(),
            of: (accept.tls.clone(), accept.sni.clone()),
        };
        port.entries = services.iter().map(entry).collect();
        if let Some(listener) = port.listener.take() {
            let shared = tcp::Shared {
                serve: common.serve.clone(),
                tasks: common.tasks.clone(),
                notices: common.notices.clone(),
                probes: common.sessions.probes.door(),
                quota: common.clients.clone(),
                greetings: common.greetings.clone(),
            };
            common.tasks.spawn("client port", tcp::run(listener, port.front.clone(), shared));
        }
        ports.insert(key, port);
    }
}

fn front(services: &[(&DmzService, &Accept)], edges: &Edges) -> Front {
    // The same for all of a port.
    let proxy = services.iter().find_map(|(_, accept)| accept.proxy.clone());
    let (mut doors, mut plain_web) = (Vec::<Door>::new(), Vec::new());
    for (service, accept) in services {
        let (service, carries) = (service.name.clone(), service.carries);
        let scheme = accept.address.scheme;
        let web = |service| {
            let (path, web) = (accept.address.path.clone(), accept.web.clone()?);
            Some(WebDoor { service, path, web, speaks: speaks(scheme, carries) })
        };
        let config = |tls: &Option<_>| edges.accept(tls.as_ref()?, scheme);
        let behind = match (scheme, &accept.tls) {
            (EdgeScheme::Tcp, _) if accept.sni.is_empty() => {
                return Front { proxy, doors: Doors::One(service) };
            }
            (EdgeScheme::Tcp, _) => Some(Behind::Passed(service)),
            (EdgeScheme::Http | EdgeScheme::Ws, _) => {
                plain_web.extend(web(service));
                None
            }
            // An accept that should end TLS and can not turns its clients away: nothing is passed on by mistake.
            (EdgeScheme::Tls | EdgeScheme::Https | EdgeScheme::Wss, _) if fault(accept, edges).is_some() => {
                let why = fault(accept, edges).map(|problem| problem.what.clone());
                Some(Behind::Down(service, why.unwrap_or_default()))
            }
            (EdgeScheme::Tls, tls) => config(tls).map(|config| Behind::Tls(service, config)),
            (EdgeScheme::Https | EdgeScheme::Wss, tls) => {
                let config = config(tls);
                // Requests choose among services of the same names and the same TLS alone.
                let same = doors.iter_mut().find(|door| door.sni == accept.sni).map(|door| &mut door.behind);
                match (same, config) {
                    (Some(Behind::Web(doors, same)), Some(config)) if Arc::ptr_eq(same, &config) => {
                        Arc::make_mut(doors).extend(web(service));
                        None
                    }
                    (_, config) => {
                        config.map(|config| Behind::Web(Arc::new(web(service).into_iter().collect()), config))
                    }
                }
            }
        };
        doors.extend(behind.map(|behind| Door { sni: accept.sni.clone(), behind }));
    }
    let doors = if plain_web.is_empty() { Doors::Named(doors) } else { Doors::Web(Arc::new(plain_web)) };
    Front { proxy, doors }
}

/// What is wrong with the TLS of an accept, so that it can not be spoken.
fn fault<'a>(accept: &Accept, edges: &'a Edges) -> Option<&'a Problem> {
    let fault = edges.fault_of_accept(accept.tls.as_ref()?)?;
    (!fault.is_kept).then_some(fault.problem)
}

fn speaks(scheme: EdgeScheme, carries: Carries) -> Speaks {
    match (scheme, carries) {
        (EdgeScheme::Ws | EdgeScheme::Wss, Carries::Bytes) => Speaks::Frames,
        (EdgeScheme::Ws | EdgeScheme::Wss, Carries::Http) => Speaks::Sockets,
        (EdgeScheme::Http | EdgeScheme::Https | EdgeScheme::Tcp | EdgeScheme::Tls, _) => Speaks::Requests,
    }
}

/// Where clients of a service come in, with the real ports.
pub fn of_service(ports: &Ports, service: &ServiceName) -> Vec<String> {
    let names = ports.values().flat_map(|port| port.names.iter().map(move |(at, of)| (port, at, of)));
    let of_it = names.filter(|(_, _, of)| *of == service);
    let mut bound: Vec<_> = of_it.flat_map(|(port, at, _)| port.shown(at)).map(|at| at.to_string()).collect();
    bound.sort();
    bound
}

/// Where probes of each service go in: by each kind of TLS that its clients speak, or by any of its ports.
pub fn entries(ports: &Ports) -> Vec<Entry> {
    let open = |port: &Port| {
        let at = port.closer.listens_at().first().copied();
        let entries = port.entries.iter().filter_map(move |entry| Some(Entry { at: at?, ..entry.clone() }));
        entries.collect::<Vec<_>>()
    };
    let mut entries: Vec<_> = ports.values().flat_map(open).collect();
    entries.sort_by(|one, other| {
        let order = |entry: &Entry| (entry.service.clone(), entry.tls.is_none(), entry.at);
        order(one).cmp(&order(other))
    });
    let mut chosen: Vec<Entry> = Vec::new();
    for entry in entries {
        let is_told =
            |other: &&Entry| other.service == entry.service && (entry.tls.is_none() || other.of == entry.of);
        if !chosen.iter().rev().any(|other| is_told(&other)) {
            chosen.push(entry);
        }
    }
    chosen
}
