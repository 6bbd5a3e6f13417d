//! How many links and clients a pool takes, as the profile and the descriptors say.

use super::Pool;
use crate::{link::shares::ShareRule, profile::PoolLimits};

impl Pool {
    pub fn set_limits(&self, limits: PoolLimits, services: usize) {
        self.shares.bound_each(limits.links_per_peer);
        let mut contents = self.lock();
        (contents.limits, contents.services_max) = (limits, services);
    }

    pub fn bound_links(&self, max: usize) {
        self.shares.resize(max);
    }

    /// Shares out the links that peers dial by this rule.
    pub fn share_links(&self, rule: ShareRule) {
        self.shares.follow_rule(rule);
    }
}
