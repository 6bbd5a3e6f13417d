//! The snapshot rows of a keeper's links. One row stands for all links of our own; over SOCKS5, each service has its
//! own.

use std::time::Instant;

use super::{KeeperState, KeeperTarget, LinkKeeper, LinkProtocol};
use crate::{
    profile::ServiceName,
    proto::{multiplex, socks5},
    telemetry::snapshot::{PoolRow, PoolState},
};

/// Why a locked gateway is not dialled.
const LOCKED: &str = "it is locked, and `portcullis unlock` lifts that";

impl LinkKeeper {
    /// One row for each kind of link it keeps. Several gateways behind the address have one each.
    pub fn rows(&self) -> Vec<PoolRow> {
        let mut state = self.lock();
        let services: Vec<_> = match state.protocol {
            Some(LinkProtocol::Socks) => self.parked_services().into_iter().map(Some).collect(),
            None | Some(LinkProtocol::Own) => Vec::new(),
        };
        if services.is_empty() {
            let row = self.row(&mut state, None);
            let several = state.sharers.are_several();
            let rows = several.then(|| self.dial_state(&mut state, None).counts.rows_by_gateway(&row));
            return match rows.filter(|rows| rows.len() > 1) {
                Some(rows) => share_row(&row, rows),
                None => vec![row],
            };
        }
        services.into_iter().map(|service| self.row(&mut state, service)).collect()
    }

    fn row(&self, state: &mut KeeperState, service: Option<ServiceName>) -> PoolRow {
        let target = self.target(state, service.as_ref());
        let protocol = state.protocol.map(|protocol| match protocol {
            LinkProtocol::Own => multiplex::PROTOCOL_NAME.into(),
            LinkProtocol::Socks => socks5::PROTOCOL_NAME.into(),
        });
        let peer = state.peer.as_ref().map(ToString::to_string);
        let name = service.as_ref().map_or_else(|| "*".into(), ToString::to_string);
        let row = PoolRow {
            peer,
            address: Some(self.gateway.to_string()),
            name: self.gateway.followed_name().map(ToOwned::to_owned),
            target,
            protocol,
            serves: match (state.protocol, &state.serves) {
                (Some(LinkProtocol::Own), Some(serves)) => serves.names(),
                (Some(LinkProtocol::Own), None) | (Some(LinkProtocol::Socks) | None, _) => Vec::new(),
            },
            ..PoolRow::new(self.context.half, name)
        };
        let mismatch = state.mismatch.clone();
        let is_locked = self.is_locked(state);
        let row = self.dial_state(state, service.as_ref()).fill_row(row);
        if is_locked && row.ready == 0 && row.carrying == 0 {
            return PoolRow {
                state: PoolState::Down,
                last_error: Some(LOCKED.into()),
                last_cause: None,
                ..row
            };
        }
        PoolRow { last_error: row.last_error.or(mismatch), ..row }
    }

    /// Whether a link is up that has lived, which rules out a gateway that accepts links and closes each one. A
    /// gateway that is dialled for each session counts as linked if it was reached at the last check.
    pub fn is_linked(&self) -> bool {
        let state = self.lock();
        let is_dialled_by_session =
            state.protocol == Some(LinkProtocol::Socks) && self.parked_services().is_empty();
        let now = Instant::now();
        let mut states = state.dial_states.values();
        states.any(|state| if is_dialled_by_session { state.is_healthy() } else { state.has_lived(now) })
    }

    /// The target that it currently has.
    pub fn wanted(&self) -> KeeperTarget {
        self.lock().wanted
    }

    /// Whether the last dial failed.
    pub fn is_down(&self) -> bool {
        self.dial_state(&mut self.lock(), None).last_fault.is_some()
    }

    /// How many ready links are wanted now.
    pub(super) fn target(&self, state: &KeeperState, service: Option<&ServiceName>) -> usize {
        let wanted = state.wanted.prepared;
        match (state.protocol, service) {
            (Some(LinkProtocol::Socks), None) => 0,
            (Some(LinkProtocol::Own) | None, _) | (Some(LinkProtocol::Socks), Some(_)) => wanted,
        }
    }
}

/// What is wanted of the address is shared among its gateways, and what only the address has is in the first row.
fn share_row(whole: &PoolRow, rows: Vec<PoolRow>) -> Vec<PoolRow> {
    let ready: Vec<_> = rows.iter().map(|row| row.ready).collect();
    let targets = share_target(whole.target, &ready);
    let share = |(at, (row, target)): (usize, (PoolRow, usize))| match at {
        0 => PoolRow { target, at_maximum: row.at_maximum && row.ready < target, ..row },
        _ => PoolRow {
            target,
            at_maximum: row.at_maximum && row.ready < target,
            dialling: 0,
            failures: 0,
            cut: 0,
            last_error: None,
            last_cause: None,
            retry_seconds: None,
            ..row
        },
    };
    rows.into_iter().zip(targets).enumerate().map(share).collect()
}

/// Parts of a target that go with the links that are ready. If there are enough in all, each has enough.
fn share_target(target: usize, ready: &[usize]) -> Vec<usize> {
    let all = ready.iter().sum::<usize>().max(1);
    let (mut counted, mut shared) = (0, 0);
    let mut parts: Vec<_> = ready
        .iter()
        .map(|links| {
            counted += links;
            let part = target * counted / all - shared;
            shared += part;
            part
        })
        .collect();
    // Nothing is ready yet.
    if let Some(first) = parts.first_mut() {
        *first += target - shared;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gateway_that_lacks_links_is_at_the_maximum_of_its_address() {
        let row = |ready, carrying| {
            let row = PoolRow::new(crate::profile::Half::Internal, "*".into());
            PoolRow { ready, carrying, at_maximum: true, ..row }
        };
        let whole = PoolRow { target: 8, ..row(5, 3) };
        let shared = share_row(&whole, vec![row(0, 3), row(5, 0)]);
        let seen: Vec<_> = shared.iter().map(|row| (row.target, row.at_maximum)).collect();
        assert_eq!(seen, [(0, false), (8, true)]);
    }

    #[test]
    fn what_is_wanted_is_shared_so_that_each_gateway_has_enough_if_all_have() {
        for (target, ready, expected) in [
            (8, &[4, 4][..], &[4, 4][..]),
            (8, &[6, 2], &[6, 2]),
            (8, &[5, 4], &[4, 4]),
            (8, &[1, 9, 1], &[0, 7, 1]),
            (8, &[2, 2], &[4, 4]),
            (8, &[0, 8], &[0, 8]),
            (8, &[0, 0], &[8, 0]),
        ] {
            let shared = share_target(target, ready);
            assert_eq!(shared, expected, "{ready:?}");
            assert_eq!(shared.iter().sum::<usize>(), target);
            let has_enough = shared.iter().zip(ready).all(|(target, ready)| ready >= target);
            assert_eq!(has_enough, ready.iter().sum::<usize>() >= target, "{ready:?}");
        }
    }
}
