//! How many links and clients a pool takes, as the profile and the descriptors say.

use std::time::Duration;

use super::Pool;
use crate::{
    link::{Peer, shares::ShareRule},
    profile::PoolLimits,
};

impl Pool {
    pub fn set_limits(&self, limits: PoolLimits, services: usize) {
        self.shares.bound_each(limits.links_per_peer);
        let mut contents = self.lock();
        (contents.limits, contents.services_max) = (limits, services);
    }

    /// The age at which this end replaces a link.
    pub fn retire_age(&self) -> Duration {
        self.lock().limits.retire
    }

    pub fn bound_links(&self, max: usize) {
        self.shares.resize(max);
    }

    /// Shares out the links that peers dial by this rule.
    pub fn share_links(&self, rule: ShareRule) {
        self.shares.follow_rule(rule);
    }

    /// Links that a peer may have now.
    pub fn links_allowed(&self, peer: &Peer) -> usize {
        self.shares.links_allowed(&peer.label())
    }
}
