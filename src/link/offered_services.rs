//! What an internal half offers over its links, as its profile says now. Each peer is offered only what its name may
//! use; a change is announced on links that are up.

use std::{collections::BTreeMap, time::Duration};

use super::{Peer, agreement, lockdown::Lockdown};
use crate::{
    profile::{Carries, ServiceName},
    proto::multiplex::hello::{OfferState, ServerHello, ServiceOffer},
};

/// A service of an internal half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedService {
    pub name: ServiceName,
    /// Which gateways may use it; `None` means all of the link's peers.
    pub peers: Option<Vec<String>>,
    pub carries: Carries,
}

#[derive(Debug, Clone, Default)]
pub struct OfferedServices {
    pub services: Vec<OfferedService>,
    /// The states of services that are not open.
    pub states: BTreeMap<ServiceName, OfferState>,
    /// Services that take no new sessions: nothing is parked for them, and `open` is refused.
    pub drained: Vec<ServiceName>,
    /// The locks for some gateways or for all.
    pub lockdown: Lockdown,
    pub prepared: usize,
    pub maximum: usize,
    pub sessions_per_link: usize,
    pub retire: Duration,
}

impl OfferedServices {
    /// The offer to a DMZ gateway by a half that keeps this many links there.
    pub fn hello_for(&self, peer: &Peer, links_kept: usize) -> ServerHello {
        let bounded = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        ServerHello {
            about: agreement::about(),
            links_kept: bounded(links_kept),
            links_max: bounded(self.maximum),
            sessions_per_link: bounded(self.sessions_per_link),
            services: self.services_for(peer),
        }
    }

    /// Whether links that were opened under `before` can go on: what only `hello` says is the same, and each
    /// service carries the same as before.
    pub fn has_terms_of(&self, before: &Self) -> bool {
        let carries_the_same = |service: &OfferedService| {
            let was = before.services.iter().find(|was| was.name == service.name);
            was.is_none_or(|was| was.carries == service.carries)
        };
        (self.prepared, self.sessions_per_link) == (before.prepared, before.sessions_per_link)
            && self.services.iter().all(carries_the_same)
    }

    /// The services that a DMZ gateway may use, and whether they can be used now.
    pub fn services_for(&self, peer: &Peer) -> Vec<ServiceOffer> {
        let allowed = self.services.iter().filter(|service| peer.is_among(service.peers.as_deref()));
        let offer = |service: &OfferedService| ServiceOffer {
            name: service.name.clone(),
            carries: service.carries,
            state: match self.lockdown.locks_session(Some(&peer.label()), &service.name) {
                true => OfferState::Locked,
                false => self.state(&service.name),
            },
        };
        allowed.map(offer).collect()
    }

    fn state(&self, service: &ServiceName) -> OfferState {
        self.states.get(service).copied().unwrap_or(OfferState::Open)
    }

    /// The services that SOCKS5 links are parked for. A service whose backends are down keeps its links: it may
    /// be back in a moment, and over SOCKS5 a client learns of it as of any backend that does not answer.
    pub fn parked_services(&self) -> Vec<ServiceName> {
        let names = self.services.iter().map(|service| &service.name);
        let is_parked = |name: &&ServiceName| {
            matches!(self.state(name), OfferState::Open | OfferState::Down) && !self.drained.contains(name)
        };
        names.filter(is_parked).cloned().collect()
    }
}
