//! The port that links come in by.
//!
//! Each connection is handled in a task of its own under a deadline, so a silent one stalls nobody. The number of
//! handshakes at once is bounded. Past the bound, the oldest one of the address that has the most is evicted: an
//! honest handshake takes milliseconds, a silent one would stay until its deadline.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::handshake::{self, HandshakeOutcome, HandshakeTerms};
use crate::{
    net::listen::{ListenEvent, Listener},
    tasks::Tasks,
    telemetry::{notices::NoticeLog, rate_limited::LogKind},
    tls::link::LinkIdentity,
};

/// Why a greeting ends that has lost its place.
pub const EVICTED: &str =
    "too many greetings at once, and of these this was the oldest of the address with the most";

/// What a link listener needs to greet.
#[derive(Debug, Clone)]
pub struct HandshakeContext {
    pub identity: Arc<ArcSwap<Option<LinkIdentity>>>,
    pub terms: HandshakeTerms,
    /// At once; each holds a descriptor and a TLS state for at most the greeting's deadline.
    pub handshakes: usize,
    pub tasks: Tasks,
    pub notices: Arc<NoticeLog>,
}

/// Accepts links until the port is closed, and hands each to `greeted` with its place among greetings,
/// which it gives up when it has another.
pub async fn run<F>(
    listener: Arc<Listener>,
    greeter: HandshakeContext,
    greeted: impl Fn(HandshakeOutcome, HandshakePermit) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let greetings = Arc::new(HandshakeLimiter::new(greeter.handshakes));
    let notices = greeter.notices.clone();
    let accepted = |stream: TcpStream, from: SocketAddr| {
        let (greeter, greeted) = (greeter.clone(), greeted.clone());
        let greeting = HandshakePermit::begin(greetings.clone(), from.ip());
        greeter.tasks.clone().spawn("link", async move {
            let evicted = greeting.evicted.clone();
            let served = async {
                match handshake::accept(stream, from, &greeter.identity, &greeter.terms).await {
                    // One that is turned away has its place until it is closed.
                    Ok(link) => greeted(link, greeting).await,
                    Err(error) => tell(&greeter.notices, from, &error.to_string()),
                }
            };
            if evicted.run_until_cancelled(served).await.is_none() {
                tell(&greeter.notices, from, EVICTED);
            }
        });
    };
    let tell = |told: ListenEvent<'_>| match told {
        ListenEvent::Pauses(error) => {
            notices.error(format!("link port: {error}; accepting pauses until descriptors are free"));
        }
        ListenEvent::Waits { at, why } => {
            notices.warn(format!("link port {at}: {why}; it is tried again every second"));
        }
        ListenEvent::Listens(at) => notices.info(format!("link port {at} listens now")),
    };
    listener.accept(accepted, tell).await;
}

fn tell(notices: &NoticeLog, from: SocketAddr, why: &str) {
    notices.warn_limited(LogKind::LinkRejected, format!("link from {from}: {why}"));
}

/// The greetings under way; one too many, and one gives way: the oldest of the address that has the
/// most, so that one address alone can not turn the others away.
#[derive(Debug)]
pub struct HandshakeLimiter {
    under_way: Mutex<PendingHandshakes>,
}

#[derive(Debug, Default)]
struct PendingHandshakes {
    max: usize,
    count: u64,
    /// Oldest first.
    of: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
    /// Who has the most last, and of those the one whose oldest is the oldest of all.
    ranks: BTreeSet<EvictionRank>,
    all: usize,
}

type EvictionRank = (usize, Reverse<u64>, IpAddr);

/// One of the greetings under way, until it is dropped.
#[derive(Debug)]
pub struct HandshakePermit {
    number: u64,
    whose: IpAddr,
    /// Others want its place.
    pub evicted: CancellationToken,
    of: Arc<HandshakeLimiter>,
}

impl HandshakePermit {
    pub fn begin(of: Arc<HandshakeLimiter>, from: IpAddr) -> Self {
        let (whose, evicted) = (source_network(from), CancellationToken::new());
        let number = of.lock().begin(whose, evicted.clone());
        Self { number, whose, evicted, of }
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        self.of.lock().remove(self.whose, self.number);
    }
}

impl HandshakeLimiter {
    /// So many at once.
    pub fn new(max: usize) -> Self {
        let greetings = Self { under_way: Mutex::default() };
        greetings.resize(max);
        greetings
    }

    /// Those under way stay.
    pub fn resize(&self, max: usize) {
        self.lock().max = max;
    }

    fn lock(&self) -> MutexGuard<'_, PendingHandshakes> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingHandshakes {
    fn begin(&mut self, whose: IpAddr, token: CancellationToken) -> u64 {
        if self.all >= self.max {
            self.evict();
        }
        self.count += 1;
        self.all += 1;
        let number = self.count;
        self.change(whose, |tokens| tokens.insert(number, token));
        number
    }

    fn evict(&mut self) {
        let Some(&(_, Reverse(oldest), whose)) = self.ranks.last() else { return };
        if let Some(token) = self.remove(whose, oldest) {
            token.cancel();
        }
    }

    fn remove(&mut self, whose: IpAddr, number: u64) -> Option<CancellationToken> {
        let token = self.change(whose, |tokens| tokens.remove(&number))?;
        self.all -= 1;
        Some(token)
    }

    /// Changes the greetings of one address, and its rank with them.
    fn change<T>(
        &mut self,
        whose: IpAddr,
        change: impl FnOnce(&mut BTreeMap<u64, CancellationToken>) -> T,
    ) -> T {
        let tokens = self.of.entry(whose).or_default();
        let rank = |tokens: &BTreeMap<u64, _>| {
            tokens.first_key_value().map(|(first, _)| (tokens.len(), Reverse(*first), whose))
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
                self.of.remove(&whose);
            }
        }
        changed
    }
}

/// Whose an address is: a network of IPv6 gives its hosts as many as they like (RFC 4291, 2.5.1).
fn source_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 512;

    #[test]
    fn who_greets_most_gives_way_first() {
        let greetings = Arc::new(HandshakeLimiter::new(MAX));
        let begin =
            |address: &str| HandshakePermit::begin(greetings.clone(), address.parse().expect("an address"));
        let (honest, leaving) = (begin("192.0.2.7"), begin("192.0.2.8"));
        let flood: Vec<_> = (2..MAX).map(|at| begin(&format!("2001:db8::{at:x}"))).collect();
        let evicted = |of: &[HandshakePermit]| of.iter().filter(|one| one.evicted.is_cancelled()).count();
        assert_eq!(evicted(&flood), 0);
        let _newcomer = begin("198.51.100.1");
        assert!(flood[0].evicted.is_cancelled() && evicted(&flood) == 1 && !honest.evicted.is_cancelled());
        // The flood goes on, and is alone in paying.
        let more: Vec<_> = (0..2 * MAX).map(|_| begin("2001:db8::1")).collect();
        assert_eq!(evicted(&flood), flood.len());
        assert!(!honest.evicted.is_cancelled() && !more[more.len() - 1].evicted.is_cancelled());
        // A place that is given back is free.
        drop(leaving);
        let before = evicted(&more);
        let one = begin("203.0.113.1");
        assert_eq!(evicted(&more), before);
        assert!(!one.evicted.is_cancelled());
        drop((honest, flood, more, one, _newcomer));
        let left = greetings.lock();
        assert_eq!((left.all, left.of.len(), left.ranks.len()), (0, 0, 0));
    }

    #[test]
    fn of_many_addresses_the_oldest_gives_way() {
        let greetings = Arc::new(HandshakeLimiter::new(MAX));
        let from = |at: usize| IpAddr::from([10, 0, (at >> 8) as u8, at as u8]);
        let begun: Vec<_> =
            (0..MAX + 2).map(|at| HandshakePermit::begin(greetings.clone(), from(at))).collect();
        let evicted: Vec<_> = (0..begun.len()).filter(|at| begun[*at].evicted.is_cancelled()).collect();
        assert_eq!(evicted, [0, 1]);
    }
}
