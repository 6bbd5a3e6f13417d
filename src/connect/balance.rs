//! The order in which a session tries the backends of its service. Pure: no sockets, no clock.

use std::net::IpAddr;

use crate::profile::Balance;

/// A backend as it stands when a session comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    pub address: &'a str,
    pub is_standby: bool,
    /// Its check has failed.
    pub is_down: bool,
    /// It has recently refused a session.
    pub is_resting: bool,
    /// Its share of its usual sessions while it has just come back: above 0, at most 1.
    pub share: f64,
    pub open: u64,
}

/// The client, and the numbers that decide between equals.
#[derive(Debug, Clone, Copy)]
pub struct BalanceInput {
    /// Increases with each session.
    pub turn: usize,
    pub client: Option<IpAddr>,
    /// A random number from 0 to 1.
    pub chance: f64,
}

/// The backends that may be tried, the best first: those in use, then those that stand by, then those that
/// rest. Those that are down are left out.
pub fn order_backends(candidates: &[Candidate<'_>], balance: Balance, input: BalanceInput) -> Vec<usize> {
    let mut order: Vec<_> = (0..candidates.len()).filter(|at| !candidates[*at].is_down).collect();
    let client = input.client.map(|client| client.to_canonical());
    // A backend in slow start declines most of its turns; with `client`, always those of the same addresses.
    let declines_turn = |at: usize| {
        let Candidate { address, share, .. } = candidates[at];
        let chance = match (balance, client) {
            (Balance::Least, _) => 0.0,
            (Balance::Client, Some(client)) => weigh([address, &client.to_string()]) as f64 / u64::MAX as f64,
            (Balance::Turn | Balance::Client, _) => input.chance,
        };
        chance >= share
    };
    let rank = |at: &usize| {
        let Candidate { is_standby, is_resting, .. } = candidates[*at];
        (is_resting, is_standby, declines_turn(*at))
    };
    order.sort_by_key(rank);
    // Turns are taken within a rank: else the turns of one that rests would all go to the next in the list.
    for equals in order.chunk_by_mut(|one, other| rank(one) == rank(other)) {
        match (balance, client) {
            (Balance::Turn, _) | (Balance::Client, None) => rotate(equals, input.turn),
            (Balance::Least, _) => {
                rotate(equals, input.turn);
                let load = |at: &usize| (candidates[*at].open + 1) as f64 / candidates[*at].share;
                equals.sort_by(|one, other| load(one).total_cmp(&load(other)));
            }
            (Balance::Client, Some(client)) => {
                let weight = |at: &usize| weigh([&client.to_string(), candidates[*at].address]);
                equals.sort_by_key(|at| std::cmp::Reverse(weight(at)));
            }
        }
    }
    order
}

fn rotate(equals: &mut [usize], turn: usize) {
    let by = turn % equals.len();
    equals.rotate_left(by);
}

/// A hash that is the same on every gateway, after every start and in every version: FNV-1a, whose bits are
/// then mixed, since addresses differ in their last characters.
fn weigh(what: [&str; 2]) -> u64 {
    let bytes = what.iter().flat_map(|text| text.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Candidate<'_> =
        Candidate { address: "", is_standby: false, is_down: false, is_resting: false, share: 1.0, open: 0 };
    const INPUT: BalanceInput = BalanceInput { turn: 0, client: None, chance: 0.5 };

    fn addressed() -> [Candidate<'static>; 3] {
        ["tcp://a:1", "tcp://b:1", "tcp://c:1"].map(|address| Candidate { address, ..GOOD })
    }

    #[test]
    fn a_client_has_the_same_backend_in_every_version() {
        let input = |client: &str| BalanceInput { client: client.parse().ok(), ..INPUT };
        let first = |client| order_backends(&addressed(), Balance::Client, input(client))[0];
        let clients = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "::ffff:192.0.2.1"];
        assert_eq!(clients.map(first), [0, 0, 1, 2, 0]);
    }

    #[test]
    fn sessions_take_turns_and_go_on_with_the_next() {
        for (turn, order) in [(0, [0, 1, 2]), (1, [1, 2, 0]), (2, [2, 0, 1]), (3, [0, 1, 2])] {
            let input = BalanceInput { turn, ..INPUT };
            assert_eq!(order_backends(&addressed(), Balance::Turn, input), order);
            // An unknown client has no backend of its own.
            assert_eq!(order_backends(&addressed(), Balance::Client, input), order);
        }
        assert_eq!(order_backends(&[GOOD], Balance::Turn, INPUT), [0]);
    }

    #[test]
    fn those_in_use_share_the_turns_of_those_that_are_not() {
        let check = |backends: &[Candidate<'_>], balance| {
            let firsts =
                (0..300).map(|turn| order_backends(backends, balance, BalanceInput { turn, ..INPUT })[0]);
            let firsts: Vec<_> = firsts.collect();
            let in_use = |it: &Candidate<'_>| !(it.is_standby || it.is_resting || it.is_down);
            let each = 300 / backends.iter().filter(|it| in_use(it)).count();
            for (at, backend) in backends.iter().enumerate() {
                let turns = firsts.iter().filter(|first| **first == at).count();
                assert_eq!(turns, if in_use(backend) { each } else { 0 }, "{at} of {backends:?}");
            }
        };
        let (standby, resting) =
            (Candidate { is_standby: true, ..GOOD }, Candidate { is_resting: true, ..GOOD });
        let down = Candidate { is_down: true, ..GOOD };
        for balance in [Balance::Turn, Balance::Least] {
            check(&[GOOD, GOOD, standby], balance);
            check(&[resting, GOOD, GOOD], balance);
            check(&[GOOD, down, standby, GOOD, resting], balance);
            check(&[GOOD, resting, resting, resting, resting, GOOD, GOOD, GOOD, GOOD, GOOD], balance);
        }
    }

    #[test]
    fn a_standby_comes_after_those_in_use_and_before_those_that_rest() {
        let mut backends = addressed();
        backends[0].is_standby = true;
        for balance in [Balance::Turn, Balance::Least] {
            assert_eq!(order_backends(&backends, balance, INPUT), [1, 2, 0]);
        }
        backends[1].is_resting = true;
        backends[2].is_resting = true;
        assert_eq!(order_backends(&backends, Balance::Turn, INPUT), [0, 1, 2]);
        backends[1].is_down = true;
        assert_eq!(order_backends(&backends, Balance::Turn, INPUT), [0, 2]);
        backends[0].is_down = true;
        backends[2].is_down = true;
        assert_eq!(order_backends(&backends, Balance::Turn, INPUT), [0; 0]);
    }

    #[test]
    fn the_one_with_the_fewest_open_sessions_comes_first() {
        let mut backends = addressed();
        (backends[0].open, backends[1].open, backends[2].open) = (4, 2, 3);
        assert_eq!(order_backends(&backends, Balance::Least, INPUT), [1, 2, 0]);
        // While it has just come back, its sessions count for more.
        backends[1].share = 0.1;
        assert_eq!(order_backends(&backends, Balance::Least, INPUT), [2, 0, 1]);
    }

    #[test]
    fn a_client_keeps_its_backend_whatever_becomes_of_the_others() {
        let of = |backends: &[Candidate<'_>], last: u8| {
            let client = Some(IpAddr::from([192, 0, 2, last]));
            order_backends(backends, Balance::Client, BalanceInput { turn: last.into(), client, ..INPUT })[0]
        };
        let before: Vec<_> = (0..=255).map(|last| of(&addressed(), last)).collect();
        for at in 0..3 {
            let share = before.iter().filter(|first| **first == at).count();
            assert!((50..120).contains(&share), "{at}: {share}");
        }
        let mut backends = addressed();
        backends[1].is_resting = true;
        let after: Vec<_> = (0..=255).map(|last| of(&backends, last)).collect();
        for (before, after) in before.iter().zip(&after) {
            assert!(*before == 1 && *after != 1 || before == after);
        }
        // It is used again for some clients, and for more and more of them.
        let mut seen = 0;
        for share in [0.1, 0.4, 0.7, 1.0] {
            (backends[1].is_resting, backends[1].share) = (false, share);
            let back: Vec<u8> = (0..=255).filter(|last| of(&backends, *last) == 1).collect();
            assert!(back.len() > seen, "{share}: {}", back.len());
            assert!(back.iter().all(|last| before[usize::from(*last)] == 1));
            seen = back.len();
        }
        // That client, as an IPv6 socket shows it.
        let mapped = BalanceInput { client: Some("::ffff:192.0.2.7".parse().expect("an address")), ..INPUT };
        assert_eq!(order_backends(&addressed(), Balance::Client, mapped)[0], before[7]);
    }

    #[test]
    fn a_backend_in_slow_start_declines_most_of_its_turns() {
        let mut backends = addressed();
        backends[0].share = 0.3;
        let first = |chance| order_backends(&backends, Balance::Turn, BalanceInput { chance, ..INPUT });
        assert_eq!(first(0.2), [0, 1, 2]);
        assert_eq!(first(0.3), [1, 2, 0]);
        // It is still better than one that stands by.
        backends[1].is_standby = true;
        backends[2].is_standby = true;
        let order = order_backends(&backends, Balance::Turn, BalanceInput { chance: 0.9, ..INPUT });
        assert_eq!(order, [0, 1, 2]);
    }
}
