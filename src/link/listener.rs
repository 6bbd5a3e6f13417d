//! The port that links come in by.
//!
//! Each newcomer is greeted in a task of its own under a deadline, so a silent one stalls nobody.
//! The number of greetings at once is bounded; past it the oldest of the address that has the most
//! gives way, since an honest greeting takes milliseconds and a silent one would sit there until its
//! deadline.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    future::Future,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::greet::{self, Greeted, Terms};
use crate::{
    net::{
        listen::{Listener, Told},
        tls::Identity,
    },
    tasks::Tasks,
    telemetry::{notices::Notices, rate_limited::LogKind},
};

/// Greetings at once. Each holds a descriptor and a TLS state for at most the greeting's deadline.
const GREETINGS_MAX: usize = 512;
/// Why a greeting ends that has lost its place.
pub const EVICTED: &str =
    "too many greetings at once, and of these this was the oldest of the address with the most";

/// What a link listener needs to greet.
#[derive(Debug, Clone)]
pub struct Greeter {
    pub identity: Arc<ArcSwap<Option<Identity>>>,
    pub terms: Terms,
    pub tasks: Tasks,
    pub notices: Arc<Notices>,
}

/// Accepts links until the port is closed, and hands each to `greeted`.
pub async fn run<F>(
    listener: Arc<Listener>,
    greeter: Greeter,
    greeted: impl Fn(Greeted) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let greetings = Arc::new(Greetings::default());
    let notices = greeter.notices.clone();
    let accepted = |stream: TcpStream, from: SocketAddr| {
        let (greeter, greeted, greetings) = (greeter.clone(), greeted.clone(), greetings.clone());
        let (key, evicted) = greetings.begin(from.ip());
        greeter.tasks.clone().spawn("link", async move {
            let greeting = greet::accept(stream, from, &greeter.identity, &greeter.terms);
            let greeting = evicted.run_until_cancelled(greeting).await;
            greetings.end(key);
            match greeting {
                Some(Ok(link)) => greeted(link).await,
                Some(Err(error)) => tell(&greeter.notices, from, &error.to_string()),
                None => tell(&greeter.notices, from, EVICTED),
            }
        });
    };
    let tell = |told: Told<'_>| match told {
        Told::Pauses(error) => {
            notices.error(format!("link port: {error}; accepting pauses until descriptors are free"));
        }
        Told::Waits { at, why } => {
            notices.warn(format!("link port {at}: {why}; it is tried again every second"));
        }
        Told::Listens(at) => notices.info(format!("link port {at} listens now")),
    };
    listener.accept(accepted, tell).await;
}

fn tell(notices: &Notices, from: SocketAddr, why: &str) {
    notices.warn_limited(LogKind::LinkRejected, format!("link from {from}: {why}"));
}

/// The greetings under way; one too many, and one gives way: the oldest of the address that has the
/// most, so that one address alone can not turn the others away.
#[derive(Debug, Default)]
pub struct Greetings {
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    count: u64,
    /// Oldest first.
    of: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
    all: usize,
}

/// A greeting's place.
#[derive(Debug)]
pub struct Place {
    number: u64,
    whose: IpAddr,
}

impl Greetings {
    /// A place, and the token that tells that it is lost.
    pub fn begin(&self, from: IpAddr) -> (Place, CancellationToken) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.all >= GREETINGS_MAX {
            under_way.evict();
        }
        under_way.count += 1;
        under_way.all += 1;
        let (token, place) =
            (CancellationToken::new(), Place { number: under_way.count, whose: whose(from) });
        under_way.of.entry(place.whose).or_default().insert(place.number, token.clone());
        (place, token)
    }

    pub fn end(&self, place: Place) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.remove(place.whose, place.number);
    }
}

impl UnderWay {
    fn evict(&mut self) {
        let first = |tokens: &BTreeMap<u64, _>| tokens.keys().next().copied().unwrap_or_default();
        let most = self.of.iter().max_by_key(|(_, tokens)| (tokens.len(), Reverse(first(tokens))));
        if let Some((whose, oldest)) = most.map(|(whose, tokens)| (*whose, first(tokens)))
            && let Some(token) = self.remove(whose, oldest)
        {
            token.cancel();
        }
    }

    fn remove(&mut self, whose: IpAddr, number: u64) -> Option<CancellationToken> {
        let tokens = self.of.get_mut(&whose)?;
        let token = tokens.remove(&number)?;
        if tokens.is_empty() {
            self.of.remove(&whose);
        }
        self.all -= 1;
        Some(token)
    }
}

/// Whose an address is: a network of IPv6 gives its hosts as many as they like (RFC 4291, 2.5.1).
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_greets_most_gives_way_first() {
        let greetings = Greetings::default();
        let begin = |address: &str| greetings.begin(address.parse().expect("an address"));
        let (_, honest) = begin("192.0.2.7");
        let (leaving, _) = begin("192.0.2.8");
        let flood: Vec<_> = (2..GREETINGS_MAX).map(|at| begin(&format!("2001:db8::{at:x}")).1).collect();
        let evicted = || flood.iter().filter(|token| token.is_cancelled()).count();
        assert_eq!(evicted(), 0);
        begin("198.51.100.1");
        assert!(flood[0].is_cancelled() && evicted() == 1 && !honest.is_cancelled());
        // The flood goes on, and is alone in paying.
        let more: Vec<_> = (0..2 * GREETINGS_MAX).map(|_| begin("2001:db8::1").1).collect();
        assert_eq!(evicted(), flood.len());
        assert!(!honest.is_cancelled() && !more[more.len() - 1].is_cancelled());
        // A place that is given back is free.
        greetings.end(leaving);
        let before = more.iter().filter(|token| token.is_cancelled()).count();
        let (_, one) = begin("203.0.113.1");
        assert_eq!(more.iter().filter(|token| token.is_cancelled()).count(), before);
        assert!(!one.is_cancelled());
    }

    #[test]
    fn of_many_addresses_the_oldest_gives_way() {
        let greetings = Greetings::default();
        let tokens: Vec<_> = (0..GREETINGS_MAX + 2)
            .map(|at| greetings.begin(IpAddr::from([10, 0, (at >> 8) as u8, at as u8])).1)
            .collect();
        let evicted: Vec<_> = (0..tokens.len()).filter(|at| tokens[*at].is_cancelled()).collect();
        assert_eq!(evicted, [0, 1]);
    }
}
