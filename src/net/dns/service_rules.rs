//! Which targets of a name's SRV records are used (RFC 2782). There are no sockets here. The addresses of a
//! target are always looked up separately, whatever the server adds to the records.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use super::name_rules::{ChosenTargets, LookupAnswer, TARGETS_MAX};
use crate::profile::HostPort;

/// One SRV record as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRecord {
    pub rank: TargetRank,
    pub port: u16,
    pub target: String,
}

/// The rank of a target among the others, and its share of the links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetRank {
    /// The lowest number comes first.
    pub priority: u16,
    pub weight: u16,
}

/// The SRV records of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRecords {
    pub records: Vec<ServiceRecord>,
    /// How long they are valid.
    pub ttl: Duration,
}

impl ServiceRecords {
    /// The rank of each target that can be dialled; its best, if it has several.
    pub fn ranks(&self) -> BTreeMap<HostPort, TargetRank> {
        let mut ranks = BTreeMap::new();
        for ServiceRecord { rank, port, target } in &self.records {
            let Some(target) = HostPort::of_record(target, *port) else { continue };
            let best: &mut TargetRank = ranks.entry(target).or_insert(*rank);
            if dial_rank(*rank) < dial_rank(*best) {
                *best = *rank;
            }
        }
        ranks
    }
}

/// Sorts by priority, then the heavier first.
fn dial_rank(rank: TargetRank) -> (u16, Reverse<u16>) {
    (rank.priority, Reverse(rank.weight))
}

impl LookupAnswer for ServiceRecords {
    type Target = HostPort;
    const ONE: &str = "target";
    const ALL: &str = "targets";

    fn choose(&self) -> ChosenTargets<HostPort> {
        let mut ranked: Vec<_> = self.ranks().into_iter().collect();
        ranked.sort_by(|(one, of_one), (other, of_other)| {
            (dial_rank(*of_one), one).cmp(&(dial_rank(*of_other), other))
        });
        let beyond = ranked.len().saturating_sub(TARGETS_MAX);
        ranked.truncate(TARGETS_MAX);
        let unusable = self.records.iter().filter(|of| HostPort::of_record(&of.target, of.port).is_none());
        let mut unusable: Vec<_> = unusable.map(|of| format!("{}:{}", of.target, of.port)).collect();
        unusable.sort_unstable();
        unusable.dedup();
        ChosenTargets { used: ranked.into_iter().map(|(target, _)| target).collect(), unusable, beyond }
    }

    fn covers(&self, _: &HostPort) -> bool {
        true
    }

    fn ttl(&self) -> Duration {
        self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(all: &[(u16, u16, u16, &str)]) -> ServiceRecords {
        let record = |(priority, weight, port, target): &(u16, u16, u16, &str)| ServiceRecord {
            rank: TargetRank { priority: *priority, weight: *weight },
            port: *port,
            target: (*target).to_owned(),
        };
        ServiceRecords { records: all.iter().map(record).collect(), ttl: Duration::ZERO }
    }

    fn used(chosen: &ChosenTargets<HostPort>) -> Vec<String> {
        chosen.used.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_undiallable_targets_are_left_out() {
        let chosen = records(&[
            (0, 0, 1443, "."),
            (0, 5, 0, "gate.test."),
            (0, 5, 1443, "127.0.0.1."),
            (0, 5, 1443, "a\\032b.test."),
            (10, 5, 1443, "Gate.test."),
            (20, 5, 1443, "gate.test"),
        ]);
        let (used, ranks) = (used(&chosen.choose()), chosen.ranks());
        assert_eq!(used, ["gate.test:1443"], "in one spelling");
        assert_eq!(ranks.into_values().collect::<Vec<_>>(), [TargetRank { priority: 10, weight: 5 }]);
        let unusable = [".:1443", "127.0.0.1.:1443", "a\\032b.test.:1443", "gate.test.:0"];
        assert_eq!(chosen.choose().unusable, unusable);
    }

    #[test]
    fn the_first_by_priority_weight_and_name_are_used_and_the_rest_is_counted() {
        let names: Vec<_> = (0..200).map(|number| format!("gate-{number:03}.test.")).collect();
        let all: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(at, name)| match at {
                0..100 => (20, 0, 1443, name.as_str()),
                100..150 => (10, 1, 1443, name.as_str()),
                _ => (10, 2, 1443, name.as_str()),
            })
            .collect();
        let chosen = records(&all).choose();
        let names = used(&chosen);
        assert_eq!((names.len(), chosen.beyond), (64, 136));
        let heavy = names.iter().filter(|name| name.as_str() >= "gate-150").count();
        assert_eq!(
            (heavy, names[0].as_str(), names[13].as_str()),
            (50, "gate-100.test:1443", "gate-113.test:1443")
        );
    }
}
