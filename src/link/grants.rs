//! What an opener grants of the services that a server offers: those that clients may reach through this half. A
//! service that carries something else at the other half is not granted, and reported as a mismatch.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use thiserror::Error;

use super::{Peer, shares::GatewayShares};
use crate::{
    profile::{Carries, ServiceName},
    proto::multiplex::hello::ServiceOffer,
};

/// The services of this half, and what it asks of peers that offer them.
pub type GrantPolicy = HashMap<ServiceName, GrantRule>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRule {
    /// Which peers may offer it; `None` means all of the link's peers.
    pub peers: Option<Vec<String>>,
    pub carries: Carries,
}

/// A service that carries one thing at the other half and another at this one, so it is not granted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{service}` carries {peer_carries} there and {own_carries} here: write the same `carries` on both halves"
)]
pub struct CarriesMismatch {
    pub service: ServiceName,
    pub peer_carries: Carries,
    pub own_carries: Carries,
}

/// The services that the links of an opener are used for, as its profile says now.
#[derive(Debug)]
pub struct ServiceGrants {
    policy: ArcSwap<GrantPolicy>,
    retire: ArcSwap<Duration>,
    links: Arc<GatewayShares>,
}

impl ServiceGrants {
    /// Grants nothing until a policy is set. `links` limits the links of each peer.
    pub fn new(links: Arc<GatewayShares>) -> Arc<Self> {
        Arc::new(Self { policy: ArcSwap::default(), retire: ArcSwap::default(), links })
    }

    /// Applies these rules from now on, and returns whether they are the same as before.
    pub fn set_policy(&self, policy: GrantPolicy) -> bool {
        let is_unchanged = **self.policy.load() == policy;
        self.policy.store(Arc::new(policy));
        is_unchanged
    }

    pub fn policy(&self) -> Arc<GrantPolicy> {
        self.policy.load_full()
    }

    /// The age at which this end replaces a link from now on.
    pub fn set_retire(&self, retire: Duration) {
        self.retire.store(Arc::new(retire));
    }

    pub fn retire(&self) -> Duration {
        **self.retire.load()
    }

    /// How many links a peer may have now.
    pub fn links_allowed(&self, peer: &Peer) -> u16 {
        u16::try_from(self.links.links_allowed(&peer.label())).unwrap_or(u16::MAX)
    }

    /// Judges an offer: the services that a peer's links are used for, and those that are carried otherwise here.
    pub fn judge(&self, peer: &Peer, offer: &[ServiceOffer]) -> (Vec<ServiceName>, Vec<CarriesMismatch>) {
        let policy = self.policy.load();
        let (mut granted, mut mismatches) = (Vec::new(), Vec::new());
        for ServiceOffer { name, carries: peer_carries, .. } in offer {
            let Some(rule) = policy.get(name).filter(|rule| peer.is_among(rule.peers.as_deref())) else {
                continue;
            };
            let (service, own_carries) = (name.clone(), rule.carries);
            match own_carries == *peer_carries {
                true => granted.push(service),
                false => {
                    mismatches.push(CarriesMismatch { service, peer_carries: *peer_carries, own_carries })
                }
            }
        }
        (granted, mismatches)
    }
}

/// Of these services to everybody, as bytes.
#[cfg(test)]
pub fn granting<const N: usize>(services: [&ServiceName; N]) -> Arc<ServiceGrants> {
    let grants = ServiceGrants::new(Arc::default());
    let rule = GrantRule { peers: None, carries: Carries::Bytes };
    grants.set_policy(services.into_iter().map(|service| (service.clone(), rule.clone())).collect());
    grants
}
