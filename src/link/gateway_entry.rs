//! One address of the profile that links are dialled to, and the gateways that it stands for at the moment.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use super::target_rules::{DialProgress, StandbyRule, TargetState, share_links};
use crate::{
    net::dns::{DnsError, service_rules::TargetRank},
    profile::{HostPort, LinkAddress},
};

pub(super) struct GatewayEntry {
    pub written: LinkAddress,
    pub gateways_behind: GatewaysBehind,
    /// Why its name could not be looked up.
    pub unanswered: Option<Arc<DnsError>>,
    /// Stops the look-ups of its name when dropped.
    pub follows: Option<DropGuard>,
}

pub(super) enum GatewaysBehind {
    /// Gateways that are all dialled.
    All(Vec<LinkAddress>),
    /// The targets of SRV records.
    Ranked { targets: Vec<RankedGateway>, rule: StandbyRule },
}

pub(super) struct RankedGateway {
    pub address: LinkAddress,
    pub rank: TargetRank,
}

impl GatewayEntry {
    pub fn new(written: &LinkAddress, gateways_behind: GatewaysBehind, follows: Option<DropGuard>) -> Self {
        Self { written: written.clone(), gateways_behind, unanswered: None, follows }
    }

    pub fn is_empty(&self) -> bool {
        self.gateways().next().is_none()
    }

    /// All of its gateways, including those that stand by.
    pub fn gateways(&self) -> impl Iterator<Item = &LinkAddress> {
        let (all, ranked): (&[_], &[_]) = match &self.gateways_behind {
            GatewaysBehind::All(all) => (all, &[]),
            GatewaysBehind::Ranked { targets, .. } => (&[], targets),
        };
        all.iter().chain(ranked.iter().map(|target| &target.address))
    }

    /// The gateways to dial, and how many of the prepared links each one gets.
    pub fn choose(
        &mut self,
        prepared: usize,
        progress_of: impl Fn(&LinkAddress) -> DialProgress,
        now: Instant,
    ) -> Vec<(LinkAddress, usize)> {
        let (targets, rule) = match &mut self.gateways_behind {
            GatewaysBehind::All(all) => return all.iter().map(|of| (of.clone(), prepared)).collect(),
            GatewaysBehind::Ranked { targets, rule } => (targets, rule),
        };
        let state = |target: &RankedGateway| TargetState {
            rank: target.rank,
            progress: progress_of(&target.address),
        };
        let states: Vec<_> = targets.iter().map(state).collect();
        let Some(last) = rule.last_priority(&states, now) else { return Vec::new() };
        let mut by_priority: BTreeMap<u16, Vec<&RankedGateway>> = BTreeMap::new();
        for target in targets.iter().filter(|target| target.rank.priority <= last) {
            by_priority.entry(target.rank.priority).or_default().push(target);
        }
        let of_level = |level: Vec<&RankedGateway>| {
            let weights: Vec<_> = level.iter().map(|target| target.rank.weight).collect();
            let gateways = level.into_iter().map(|target| target.address.clone()).collect::<Vec<_>>();
            gateways.into_iter().zip(share_links(prepared, &weights))
        };
        by_priority.into_values().flat_map(of_level).collect()
    }

    /// What the SRV records say now; targets that they no longer name keep their rank.
    pub fn rank_targets<'a>(
        &mut self,
        known: impl Iterator<Item = &'a HostPort>,
        ranks: &BTreeMap<HostPort, TargetRank>,
    ) {
        let GatewaysBehind::Ranked { targets, .. } = &mut self.gateways_behind else { return };
        let before = std::mem::take(targets);
        let rank_before = |target: &HostPort| Some(before.iter().find(|of| of.address.at == *target)?.rank);
        let ranked = known.filter_map(|target| {
            let rank = ranks.get(target).copied().or_else(|| rank_before(target))?;
            Some(RankedGateway { address: self.written.at_target(target), rank })
        });
        *targets = ranked.collect();
    }
}
