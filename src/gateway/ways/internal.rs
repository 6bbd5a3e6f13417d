//! The internal half's way: where its sessions come from.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;

use super::{Common, IdentityCell, Port, RETRY_HURRIED, Resized, greeter, same_identity, why_down};
use crate::{
    accept::{
        Negotiated, forward,
        reverse::{Offered, Offering, Parking},
    },
    link::{
        greet::{Says, Terms},
        keeper::{Shared, Wanted},
        serving::Server,
        shares::{LinkShares, Rule},
    },
    net::{listen::BindError, names::Found, tls::Identity},
    profile::{InternalHalf, InternalService, InternalWay, LinkAddress, Retry, Role, ServiceName},
    telemetry::snapshot::PoolRow,
};

/// Where the internal half gets its sessions from.
pub struct InternalSide {
    identity: IdentityCell,
    links: Arc<LinkShares>,
    maximum: usize,
    offering: Arc<ArcSwap<Offering>>,
    parts: InternalParts,
}

enum InternalParts {
    Forward { port: Port, visitors: Arc<forward::Visitors>, server: Arc<Server> },
    Reverse { parkings: HashMap<LinkAddress, Parking> },
}

impl InternalSide {
    /// Opens what the way needs; nothing runs yet.
    pub fn prepare(
        half: &InternalHalf,
        identity: Option<Identity>,
        found: &Found,
        common: &Common,
    ) -> Result<Self, BindError> {
        let parts = match &half.way {
            InternalWay::Forward { listen, bind, .. } => {
                let port = Port::bind(listen, *bind, found)?;
                let visitors = Arc::<forward::Visitors>::default();
                let server = forward_server(common, &visitors);
                InternalParts::Forward { port, visitors, server }
            }
            InternalWay::Reverse { .. } => InternalParts::Reverse { parkings: HashMap::new() },
        };
        let links = LinkShares::new(common.shares.load().internal_links, Rule::Divided(gateways(half)));
        Ok(Self {
            identity: Arc::new(ArcSwap::from_pointee(identity)),
            maximum: half.maximum,
            offering: Arc::new(ArcSwap::from_pointee(offering(half, links.max()))),
            links,
            parts,
        })
    }

    /// Whether this way can go on under another profile.
    pub fn serves(&self, half: &InternalHalf) -> bool {
        // The bound on links is made with the way; another one is another way.
        let same_way = match (&self.parts, &half.way) {
            (InternalParts::Forward { port, .. }, InternalWay::Forward { listen, .. }) => {
                port.address == *listen
            }
            (InternalParts::Reverse { .. }, InternalWay::Reverse { .. }) => true,
            _ => false,
        };
        same_way && self.maximum == half.maximum
    }

    pub fn start(&mut self, half: &InternalHalf, common: &Common) {
        match &mut self.parts {
            InternalParts::Forward { port, visitors, server } => {
                let Some(listener) = port.listener.take() else { return };
                let offering = self.offering.clone();
                let says = Says::Serves(Arc::new(move |peer| offering.load().to(peer)));
                let terms = Terms { says, epoch: server.epoch().clone() };
                let run = forward::run(
                    listener,
                    greeter(self.identity.clone(), terms, common.shares.load().internal_handshakes, common),
                    visitors.clone(),
                    server.clone(),
                    self.links.clone(),
                    common.serve.clone(),
                );
                common.tasks.spawn("link port", run);
            }
            InternalParts::Reverse { .. } => self.keep(half, common, Some(RETRY_HURRIED)),
        }
    }

    /// Goes on under another profile that has the same way.
    pub fn update(&mut self, half: &InternalHalf, identity: Option<Identity>, common: &Common) {
        let identity_stays = same_identity(&self.identity.load(), &identity);
        self.identity.store(Arc::new(identity));
        let now = offering(half, self.links.max());
        let before = self.offering.load_full();
        // The other half hears how many are to be ready with new links alone.
        let offering_stays = (&before.services, before.prepared) == (&now.services, now.prepared);
        self.offering.store(Arc::new(now));
        self.keep(half, common, None);
        if !(identity_stays && offering_stays) {
            self.retire_links();
        }
    }

    /// Shows and accepts this on its links from now on; those that stand with something else are replaced.
    pub fn renew(&mut self, identity: Option<Identity>) {
        if !same_identity(&self.identity.load(), &identity) {
            self.identity.store(Arc::new(identity));
            self.retire_links();
        }
    }

    fn retire_links(&self) {
        match &self.parts {
            InternalParts::Forward { server, .. } => server.epoch().end(),
            InternalParts::Reverse { parkings } => parkings.values().for_each(Parking::retire_links),
        }
    }

    fn keep(&mut self, half: &InternalHalf, common: &Common, hurried: Option<Retry>) {
        let InternalParts::Reverse { parkings } = &mut self.parts else { return };
        let InternalWay::Reverse { connect, prepared, retry, .. } = &half.way else { return };
        let shared = Shared {
            role: Role::Internal,
            identity: self.identity.clone(),
            links: self.links.clone(),
            tasks: common.tasks.clone(),
            notices: common.notices.clone(),
        };
        let wanted = Wanted { prepared: *prepared, retry: hurried.unwrap_or(*retry) };
        let mut kept = HashMap::new();
        for gateway in connect {
            let parking = match parkings.remove(gateway) {
                Some(parking) => {
                    parking.keeper.update(wanted);
                    parking
                }
                None => {
                    let (offering, serve) = (self.offering.clone(), common.serve.clone());
                    Parking::start(gateway.clone(), wanted, offering, shared.clone(), serve)
                }
            };
            kept.insert(gateway.clone(), parking);
        }
        // What is left belongs to gateways that the profile lacks.
        std::mem::replace(parkings, kept).values().for_each(Parking::retire);
    }

    /// Keeps so many links ready for each gateway, and for each service that speaks SOCKS5.
    pub fn resize(&mut self, prepared: usize) -> Resized {
        let InternalParts::Reverse { parkings } = &self.parts else { return Resized::DialsNone };
        if prepared == 0 {
            return Resized::None;
        }
        let links = self.rows().len().saturating_mul(prepared);
        let maximum = self.links.max();
        if links > maximum {
            return Resized::Beyond { links, maximum };
        }
        let offering = Offering { prepared, ..Offering::clone(&self.offering.load()) };
        self.offering.store(Arc::new(offering));
        parkings.values().for_each(|parking| parking.keeper.resize(prepared));
        // The other half hears of the new number with new links alone.
        parkings.values().for_each(Parking::retire_links);
        Resized::Done
    }

    /// Keeps no more links for a service that drains, or for any.
    pub fn drain(&mut self, service: Option<&ServiceName>) {
        let InternalParts::Reverse { parkings } = &mut self.parts else { return };
        match service {
            None => parkings.drain().for_each(|(_, parking)| parking.retire()),
            Some(service) => {
                let mut offering = Offering::clone(&self.offering.load());
                offering.drained.push(service.clone());
                self.offering.store(Arc::new(offering));
                parkings.values().for_each(|parking| parking.keeper.look_again());
            }
        }
    }

    /// What is still missing before new sessions can go this way.
    pub fn missing(&self) -> Option<String> {
        match &self.parts {
            InternalParts::Forward { port, visitors, .. } => {
                (!visitors.any()).then(|| format!("no DMZ gateway has dialled in at {}", port.told()))
            }
            InternalParts::Reverse { parkings } => {
                let all = parkings.values().all(|parking| parking.keeper.can_serve(None));
                (!all).then(|| why_down(&self.rows()))
            }
        }
    }

    /// Whether it can carry sessions of every service, though not all of it is ready.
    pub fn suffices(&self) -> bool {
        match &self.parts {
            InternalParts::Forward { .. } => self.missing().is_none(),
            InternalParts::Reverse { parkings } => self.offering.load().services.iter().all(|service| {
                parkings.values().any(|parking| parking.keeper.can_serve(Some(&service.name)))
            }),
        }
    }

    pub fn rows(&self) -> Vec<PoolRow> {
        match &self.parts {
            InternalParts::Forward { visitors, .. } => visitors.rows(),
            InternalParts::Reverse { parkings } => {
                let mut rows: Vec<_> = parkings.values().flat_map(|parking| parking.keeper.rows()).collect();
                rows.sort_by(|a, b| (&a.service, &a.address).cmp(&(&b.service, &b.address)));
                rows
            }
        }
    }

    /// Forgets lost gateways of this name or address; how many.
    pub fn dismiss(&self, name: &str) -> usize {
        match &self.parts {
            InternalParts::Forward { visitors, .. } => visitors.dismiss(name),
            InternalParts::Reverse { .. } => 0,
        }
    }

    pub fn listening(&self) -> Vec<String> {
        match &self.parts {
            InternalParts::Forward { port, .. } => port.listening(),
            InternalParts::Reverse { .. } => Vec::new(),
        }
    }

    /// No new links; those that are ready can still be opened.
    pub fn close_port(&self) {
        match &self.parts {
            InternalParts::Forward { port, .. } => port.closer.close(),
            InternalParts::Reverse { parkings } => {
                parkings.values().for_each(|parking| parking.keeper.stop_dialling());
            }
        }
    }

    /// Links that have yet to be closed.
    pub fn links(&self) -> usize {
        self.links.held()
    }

    /// Ready links go; sessions stay.
    pub fn retire(&self) {
        self.close_port();
        match &self.parts {
            InternalParts::Forward { server, .. } => server.drain(),
            InternalParts::Reverse { parkings } => parkings.values().for_each(Parking::retire),
        }
    }
}

/// DMZ gateways that share the links: those that are dialled, or the names that may dial in.
fn gateways(half: &InternalHalf) -> usize {
    match &half.way {
        InternalWay::Reverse { connect, .. } => connect.len(),
        InternalWay::Forward { tls, .. } => tls.as_ref().map_or(1, |tls| tls.peers.len()),
    }
}

fn offering(half: &InternalHalf, maximum: usize) -> Offering {
    let offered = |service: &InternalService| Offered {
        name: service.name.clone(),
        peers: service.peers.clone(),
        carries: service.carries,
    };
    let services = half.services.iter().map(offered).collect();
    let prepared = match &half.way {
        InternalWay::Reverse { prepared, .. } => *prepared,
        // Whoever dials says how many are kept.
        InternalWay::Forward { .. } => 0,
    };
    Offering { services, drained: Vec::new(), prepared, maximum }
}

/// The serving ends of links that DMZ gateways dial.
fn forward_server(common: &Common, visitors: &Arc<forward::Visitors>) -> Arc<Server> {
    let (serve, visitors) = (common.serve.clone(), visitors.clone());
    Server::new(
        common.tasks.clone(),
        Arc::new(move |link, open| serve(Negotiated::opened(link, open))),
        Arc::new(move |peer, _, loss| visitors.lost(peer, &loss)),
    )
}
