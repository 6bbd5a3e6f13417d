//! How many links and clients a pool accepts, from the profile and the descriptors. A limit that shrinks cuts nothing:
//! what is there stays, and new ones are refused.

use super::Pool;
use crate::{link::shares::ShareRule, profile::PoolLimits};

impl Pool {
    pub fn set_limits(&self, limits: PoolLimits) {
        self.shares.bound_each(limits.links_per_peer);
        self.lock().limits = limits;
    }

    pub fn limit_links(&self, max: usize) {
        self.shares.resize(max);
    }

    /// Sets the rule by which links that peers dial are shared out.
    pub fn share_links(&self, rule: ShareRule) {
        self.shares.follow_rule(rule);
    }
}
