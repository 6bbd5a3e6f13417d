//! Handshakes under way, of links or of clients, and which one gives way if there are too many.
//!
//! Past the limit, the oldest handshake of the address with the most is evicted. An honest handshake takes
//! milliseconds, and a silent one would stay until its deadline.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::source_network::source_network;

/// The message for an evicted handshake.
pub const EVICTED: &str =
    "too many handshakes at once, and of these this was the oldest of the address with the most";

/// The handshakes under way. One past the limit evicts the oldest of the address with the most, so that a
/// single address cannot keep the others out.
#[derive(Debug)]
pub struct HandshakeLimiter {
    under_way: Mutex<PendingHandshakes>,
}

#[derive(Debug, Default)]
struct PendingHandshakes {
    max: usize,
    /// The limit of one address.
    max_each: usize,
    count: u64,
    /// By address, oldest first.
    by_network: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
    /// The address with the most comes last; among equals, the one with the oldest handshake of all.
    ranks: BTreeSet<EvictionRank>,
    all: usize,
}

type EvictionRank = (usize, Reverse<u64>, IpAddr);

/// Counts one handshake as under way, until it is dropped.
#[derive(Debug)]
pub struct HandshakePermit {
    number: u64,
    network: IpAddr,
    /// Cancelled when a newer handshake takes its place.
    pub evicted: CancellationToken,
    limiter: Arc<HandshakeLimiter>,
}

impl HandshakePermit {
    pub fn begin(limiter: Arc<HandshakeLimiter>, from: IpAddr) -> Self {
        let (network, evicted) = (source_network(from), CancellationToken::new());
        let number = limiter.lock().begin(network, evicted.clone());
        Self { number, network, evicted, limiter }
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.limiter.lock().remove(self.network, self.number);
    }
}

impl HandshakeLimiter {
    /// Admits `max` at once.
    pub fn new(max: usize) -> Self {
        Self::with_each(max, usize::MAX)
    }

    /// Admits `max` at once, and no more than `max_each` of one address.
    pub fn with_each(max: usize, max_each: usize) -> Self {
        let under_way = PendingHandshakes { max, max_each, ..PendingHandshakes::default() };
        Self { under_way: Mutex::new(under_way) }
    }

    /// Changes the limit; handshakes under way continue.
    pub fn resize(&self, max: usize) {
        self.lock().max = max;
    }

    fn lock(&self) -> MutexGuard<'_, PendingHandshakes> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingHandshakes {
    fn begin(&mut self, network: IpAddr, token: CancellationToken) -> u64 {
        let oldest_of = |tokens: &BTreeMap<u64, _>| tokens.first_key_value().map(|(oldest, _)| *oldest);
        match self.by_network.get(&network).filter(|tokens| tokens.len() >= self.max_each).and_then(oldest_of)
        {
            Some(oldest) => self.evict(network, oldest),
            None if self.all >= self.max => {
                if let Some(&(_, Reverse(oldest), most)) = self.ranks.last() {
                    self.evict(most, oldest);
                }
            }
            None => {}
        }
        self.count += 1;
        self.all += 1;
        let number = self.count;
        self.change(network, |tokens| tokens.insert(number, token));
        number
    }

    fn evict(&mut self, network: IpAddr, oldest: u64) {
        if let Some(token) = self.remove(network, oldest) {
            token.cancel();
        }
    }

    fn remove(&mut self, network: IpAddr, number: u64) -> Option<CancellationToken> {
        let token = self.change(network, |tokens| tokens.remove(&number))?;
        self.all -= 1;
        Some(token)
    }

    /// Changes the handshakes of one address, and its rank with them.
    fn change<T>(
        &mut self,
        network: IpAddr,
        change: impl FnOnce(&mut BTreeMap<u64, CancellationToken>) -> T,
    ) -> T {
        let tokens = self.by_network.entry(network).or_default();
        let rank = |tokens: &BTreeMap<u64, _>| {
            tokens.first_key_value().map(|(first, _)| (tokens.len(), Reverse(*first), network))
        };
        let before = rank(tokens);
        let changed = change(tokens);
        let after = rank(tokens);
        if let Some(before) = before {
            self.ranks.remove(&before);
        }
        match after {
            Some(after) => {
                self.ranks.insert(after);
            }
            None => {
                self.by_network.remove(&network);
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 512;

    #[test]
    fn the_address_with_the_most_handshakes_gives_way_first() {
        let limiter = Arc::new(HandshakeLimiter::new(MAX));
        let begin =
            |address: &str| HandshakePermit::begin(limiter.clone(), address.parse().expect("an address"));
        let (honest, leaving) = (begin("192.0.2.7"), begin("192.0.2.8"));
        let flood: Vec<_> = (2..MAX).map(|at| begin(&format!("2001:db8::{at:x}"))).collect();
        let evicted = |of: &[HandshakePermit]| of.iter().filter(|one| one.evicted.is_cancelled()).count();
        assert_eq!(evicted(&flood), 0);
        let _newcomer = begin("198.51.100.1");
        assert!(flood[0].evicted.is_cancelled() && evicted(&flood) == 1 && !honest.evicted.is_cancelled());
        // The flood goes on, and only the flood pays for it.
        let more: Vec<_> = (0..2 * MAX).map(|_| begin("2001:db8::1")).collect();
        assert_eq!(evicted(&flood), flood.len());
        assert!(!honest.evicted.is_cancelled() && !more[more.len() - 1].evicted.is_cancelled());
        // A permit that is given back is free.
        drop(leaving);
        let before = evicted(&more);
        let one = begin("203.0.113.1");
        assert_eq!(evicted(&more), before);
        assert!(!one.evicted.is_cancelled());
        drop((honest, flood, more, one, _newcomer));
        let left = limiter.lock();
        assert_eq!((left.all, left.by_network.len(), left.ranks.len()), (0, 0, 0));
    }

    #[test]
    fn one_address_has_no_more_than_its_own() {
        let limiter = Arc::new(HandshakeLimiter::with_each(MAX, 64));
        let begin = |address: [u8; 4]| HandshakePermit::begin(limiter.clone(), address.into());
        let (honest, begun) = (begin([192, 0, 2, 7]), (0..100).map(|_| begin([192, 0, 2, 8])));
        let begun: Vec<_> = begun.collect();
        let evicted: Vec<_> = (0..begun.len()).filter(|at| begun[*at].evicted.is_cancelled()).collect();
        assert_eq!(evicted, (0..100 - 64).collect::<Vec<_>>());
        assert!(!honest.evicted.is_cancelled());
    }

    #[test]
    fn of_many_addresses_the_oldest_gives_way() {
        let limiter = Arc::new(HandshakeLimiter::new(MAX));
        let from = |at: usize| IpAddr::from([10, 0, (at >> 8) as u8, at as u8]);
        let begun: Vec<_> =
            (0..MAX + 2).map(|at| HandshakePermit::begin(limiter.clone(), from(at))).collect();
        let evicted: Vec<_> = (0..begun.len()).filter(|at| begun[*at].evicted.is_cancelled()).collect();
        assert_eq!(evicted, [0, 1]);
    }
}
