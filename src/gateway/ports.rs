//! The ports that clients come in by.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;

use super::ways::Common;
use crate::{
    accept::tcp,
    net::listen::{self, BindError, Closer, Listener},
    profile::{AcceptAddress, DmzHalf, ServiceName},
};

/// Ports by what the profile says; `port 0` of two services are two ports.
pub type Ports = HashMap<(AcceptAddress, Option<ServiceName>), Port>;

/// One bound port, which may be handed from one service to another.
#[derive(Debug)]
pub struct Port {
    bound: AcceptAddress,
    local: SocketAddr,
    service: Arc<ArcSwap<ServiceName>>,
    /// Until it is started.
    listener: Option<Arc<Listener>>,
    /// Closes the port when it is not wanted any more.
    _closer: Closer,
}

/// The ports that a profile wants, with the service of each.
fn wanted(half: &DmzHalf) -> impl Iterator<Item = ((AcceptAddress, Option<ServiceName>), &ServiceName)> {
    half.services.iter().flat_map(|service| {
        service.accept.iter().map(|accept| {
            let own = (accept.at.port == 0).then(|| service.name.clone());
            ((accept.clone(), own), &service.name)
        })
    })
}

/// Binds the ports that `half` wants and `current` lacks.
pub fn bind_missing(half: Option<&DmzHalf>, current: &Ports) -> Result<Ports, BindError> {
    let mut bound = Ports::new();
    for (key, service) in half.into_iter().flat_map(wanted) {
        if !current.contains_key(&key) {
            let listener = listen::bind_for_clients(&key.0.at)?;
            let local =
                listener.local_addr().map_err(|source| BindError::Other { at: key.0.at.clone(), source })?;
            let mut real = key.0.clone();
            real.at.port = local.port();
            let port = Port {
                bound: real,
                local,
                service: Arc::new(ArcSwap::from_pointee(service.clone())),
                _closer: listener.closer(),
                listener: Some(listener),
            };
            bound.insert(key, port);
        }
    }
    Ok(bound)
}

/// The ports that `half` wants and `current` lacks, and those that it does not want, in words.
pub fn changes(half: Option<&DmzHalf>, current: &Ports) -> (Vec<String>, Vec<String>) {
    let wanted: HashMap<_, _> = half.into_iter().flat_map(wanted).collect();
    let opens = wanted.iter().filter(|(key, _)| !current.contains_key(key));
    let mut opens: Vec<_> =
        opens.map(|((at, _), service)| format!("{at} for clients of `{service}`")).collect();
    let closes = current.iter().filter(|(key, _)| !wanted.contains_key(key));
    let mut closes: Vec<_> =
        closes.map(|(_, port)| format!("{} for clients of `{}`", port.bound, port.service.load())).collect();
    opens.sort();
    closes.sort();
    (opens, closes)
}

/// Opens the new ports, hands kept ones to their services, closes those no longer wanted.
pub fn replace(ports: &mut Ports, new: Ports, half: Option<&DmzHalf>, common: &Common) {
    let mut before = std::mem::take(ports);
    before.extend(new);
    for (key, service) in half.into_iter().flat_map(wanted) {
        let Some(mut port) = before.remove(&key) else { continue };
        port.service.store(Arc::new(service.clone()));
        if let Some(listener) = port.listener.take() {
            let run = tcp::run(
                listener,
                port.service.clone(),
                common.serve.clone(),
                common.tasks.clone(),
                common.notices.clone(),
            );
            common.tasks.spawn("client port", run);
        }
        ports.insert(key, port);
    }
}

/// The addresses of a service, with their real ports.
pub fn of_service(ports: &Ports, service: &ServiceName) -> Vec<String> {
    let mut bound: Vec<_> = ports
        .values()
        .filter(|port| **port.service.load() == *service)
        .map(|port| port.bound.to_string())
        .collect();
    bound.sort();
    bound
}

/// One port of each service: where a probe goes in.
pub fn of_each(ports: &Ports) -> Vec<(ServiceName, SocketAddr)> {
    let mut each: Vec<_> =
        ports.values().map(|port| (ServiceName::clone(&port.service.load()), port.local)).collect();
    each.sort();
    each.dedup_by(|(one, _), (other, _)| one == other);
    each
}
