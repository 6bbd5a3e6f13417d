//! Several gateways behind one dialled address, as behind a balancer. Their links are kept as one, and `status` has a
//! row for each gateway. A notice says that there are several, and when one of them has no link any more.
//!
//! Over SOCKS5, gateways of one name cannot be distinguished.

use std::time::Duration;

use crate::{
    link::liveness::{PING_INTERVAL, SILENCE_MAX},
    proto::multiplex::hello::InstanceId,
};

/// Gateways whose links have been up side by side for this long share their address. A shorter time is that of a
/// process which takes over from another one: if that is dead, its links are there until their silence is noticed.
const SETTLING_PERIOD: Duration = SILENCE_MAX.saturating_add(PING_INTERVAL.saturating_mul(2));

/// The gateways that share an address; none while one has it alone.
#[derive(Debug, Default)]
pub(super) struct AddressSharers(Vec<InstanceId>);

/// A change among the gateways that share an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SharersChange {
    /// This many share the address, more than before.
    More(usize),
    /// One has no link any more, and this many others have.
    Gone { instance: InstanceId, left: usize },
}

impl AddressSharers {
    /// Whether there are several.
    pub fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// Compares them with the gateways that take sessions now, each with the age of its oldest link.
    pub fn compare(&mut self, linked: &[(InstanceId, Duration)]) -> Vec<SharersChange> {
        let is_linked = |known: &InstanceId| linked.iter().any(|(instance, _)| instance == known);
        let mut changes = Vec::new();
        // Without any link at all, the address is out of reach, which is reported elsewhere.
        if !linked.is_empty() {
            let missing = self.0.iter().filter(|known| !is_linked(known));
            let left = linked.len();
            changes.extend(missing.map(|instance| SharersChange::Gone { instance: *instance, left }));
        }
        self.0.retain(is_linked);
        let settled = linked.iter().filter(|(_, age)| *age >= SETTLING_PERIOD).map(|(instance, _)| *instance);
        let before = self.0.len();
        let unknown: Vec<_> = settled.filter(|instance| !self.0.contains(instance)).collect();
        self.0.extend(unknown);
        if self.0.len() > before.max(1) {
            changes.push(SharersChange::More(self.0.len()));
        }
        if self.0.len() < 2 {
            self.0.clear();
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_that_share_an_address_are_reported_and_so_is_one_that_goes() {
        let [one, other, third] = [1, 2, 3].map(|number| InstanceId([number; 16]));
        // The links of a dead process may still be there when those of its successor are as old as `new`.
        let (old, new) = (SETTLING_PERIOD, SILENCE_MAX + PING_INTERVAL);
        let mut sharers = AddressSharers::default();
        let gone = |instance, left| SharersChange::Gone { instance, left };
        let rounds = [
            (vec![(one, old)], vec![]),
            // One takes over from another.
            (vec![(one, old), (other, new)], vec![]),
            (vec![(other, old)], vec![]),
            (vec![(other, old), (one, old)], vec![SharersChange::More(2)]),
            // All its links were replaced.
            (vec![(other, old), (one, new)], vec![]),
            (vec![(other, old)], vec![gone(one, 1)]),
            (vec![(other, old)], vec![]),
            (vec![(other, old), (one, old), (third, old)], vec![SharersChange::More(3)]),
            (vec![(other, old), (third, old)], vec![gone(one, 2)]),
            (vec![], vec![]),
            (vec![(other, new)], vec![]),
        ];
        for (number, (linked, expected)) in rounds.into_iter().enumerate() {
            assert_eq!(sharers.compare(&linked), expected, "round {number}");
        }
    }
}
