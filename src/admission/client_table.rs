//! The clients that have come lately, by address: how many sessions each has open, and how many new ones it may
//! begin.
//!
//! The table is bounded, since addresses cost a sender nothing: of those without an open session the one that was
//! seen longest ago is forgotten first. Its lock is taken when a session begins and when it ends, and for no byte.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;

use super::{source_network::source_network, token_bucket::TokenBucket};
use crate::profile::{ClientLimits, NewSessionRate, ServiceName};

/// Addresses that are remembered at once, of all services.
pub const ADDRESSES_MAX: usize = 65_536;
/// Clients with open sessions that are passed over before one of them is forgotten after all.
const SECOND_CHANCES: usize = 8;

/// A client of one service, or of all that share their limits.
type ClientKey = (Option<ServiceName>, IpAddr);

#[derive(Debug)]
pub struct ClientTable(Mutex<TableState>);

#[derive(Debug)]
struct TableState {
    max: usize,
    clients: LruCache<ClientKey, ClientEntry>,
    /// Of the last entry that was made.
    number: u64,
}

#[derive(Debug)]
struct ClientEntry {
    /// Tells it from an earlier one of the same client, which was forgotten.
    number: u64,
    open: usize,
    begins: TokenBucket,
}

/// What a client has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientLimitReached {
    Sessions(usize),
    Rate { rate: NewSessionRate, retry_after: Duration },
}

/// A client's place for one session, held for as long as that is open.
#[derive(Debug)]
pub struct ClientPlace {
    table: Arc<ClientTable>,
    client: ClientKey,
    number: u64,
    is_rated: bool,
}

impl Default for ClientTable {
    fn default() -> Self {
        Self::new(ADDRESSES_MAX)
    }
}

impl ClientTable {
    fn new(max: usize) -> Self {
        Self(Mutex::new(TableState { max, clients: LruCache::unbounded(), number: 0 }))
    }

    /// Takes a place for one more session of a client; `of` is the service whose limits these are, if of one alone.
    pub fn take(
        self: &Arc<Self>,
        of: Option<ServiceName>,
        address: IpAddr,
        limits: &ClientLimits,
        now: Instant,
    ) -> Result<ClientPlace, ClientLimitReached> {
        let client = (of, source_network(address));
        let mut table = self.lock();
        let entry = table.entry(&client, limits, now);
        if let Some(most) = limits.sessions.filter(|&most| entry.open >= most) {
            return Err(ClientLimitReached::Sessions(most));
        }
        if let Some(rate) = limits.rate {
            entry.begins.earn(now, rate.per_second(), f64::from(limits.burst));
            if !entry.begins.take() {
                let retry_after = entry.begins.until_one(rate.per_second());
                return Err(ClientLimitReached::Rate { rate, retry_after });
            }
        }
        entry.open += 1;
        let number = entry.number;
        drop(table);
        Ok(ClientPlace { table: self.clone(), client, number, is_rated: limits.rate.is_some() })
    }

    fn lock(&self) -> MutexGuard<'_, TableState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TableState {
    /// The client's entry, which is the one seen last from now on.
    fn entry(&mut self, client: &ClientKey, limits: &ClientLimits, now: Instant) -> &mut ClientEntry {
        if !self.clients.contains(client) {
            while self.clients.len() >= self.max {
                self.forget_one();
            }
        }
        let Self { clients, number, .. } = self;
        clients.get_or_insert_mut(client.clone(), || {
            *number += 1;
            ClientEntry { number: *number, open: 0, begins: TokenBucket::new(f64::from(limits.burst), now) }
        })
    }

    fn forget_one(&mut self) {
        for _ in 0..SECOND_CHANCES {
            match self.clients.pop_lru() {
                Some((client, entry)) if entry.open > 0 => {
                    self.clients.put(client, entry);
                }
                Some(_) | None => return,
            }
        }
        self.clients.pop_lru();
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        let Some(entry) = table.clients.peek_mut(&self.client) else { return };
        // An entry of its own was forgotten, and this one is a later one's.
        if entry.number != self.number {
            return;
        }
        entry.open = entry.open.saturating_sub(1);
        // Without a rate there is nothing to remember of it.
        if entry.open == 0 && !self.is_rated {
            table.clients.pop(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::ClientScope;

    fn limits(sessions: Option<usize>, rate: Option<(u32, u64)>, burst: u32) -> ClientLimits {
        let rate = rate.map(|(count, per)| NewSessionRate { count, per: Duration::from_secs(per) });
        ClientLimits { sessions, rate, burst, scope: ClientScope::Half }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_client_has_so_many_at_once_and_so_many_new_ones() {
        let (table, start) = (Arc::new(ClientTable::default()), Instant::now());
        let two = limits(Some(2), None, 1);
        let take = |from: &str| table.take(None, address(from), &two, start);
        let (first, _second) = (take("192.0.2.7").expect("one"), take("::ffff:192.0.2.7").expect("two"));
        assert_eq!(take("192.0.2.7").err(), Some(ClientLimitReached::Sessions(2)));
        let (_a, _b) = (take("2001:db8::1").expect("another"), take("2001:db8::ffff:2").expect("of its /64"));
        assert!(take("2001:db8::3").is_err() && take("2001:db8:0:1::3").is_ok());
        drop(first);
        assert!(take("192.0.2.7").is_ok(), "its place is free again, and given back at once");

        let table = Arc::new(ClientTable::default());
        let rated = limits(None, Some((2, 1)), 4);
        let at = |ms: u64| {
            table.take(None, address("192.0.2.7"), &rated, start + Duration::from_millis(ms)).map(drop)
        };
        assert!((0..4).all(|_| at(0).is_ok()), "the burst");
        let Err(ClientLimitReached::Rate { retry_after, .. }) = at(0) else { panic!("a fifth") };
        assert_eq!(retry_after, Duration::from_millis(500));
        assert!(at(499).is_err() && at(500).is_ok() && at(600).is_err());
        assert_eq!((0..10).filter(|_| at(100_000).is_ok()).count(), 4, "no more is saved up than the burst");
    }

    #[test]
    fn services_count_apart_unless_they_share() {
        let (table, now) = (Arc::new(ClientTable::default()), Instant::now());
        let one = limits(Some(1), None, 1);
        let of = |name: Option<&str>| {
            let service = name.map(|name| ServiceName::parse(name).expect("a name"));
            table.take(service, address("192.0.2.7"), &one, now)
        };
        let _held =
            [of(Some("orders")).expect("one"), of(Some("chat")).expect("one"), of(None).expect("one")];
        assert!(of(Some("orders")).is_err() && of(None).is_err());
    }

    #[test]
    fn the_table_is_bounded_and_who_was_seen_longest_ago_goes() {
        const MAX: usize = 100;
        let (table, now) = (Arc::new(ClientTable::new(MAX)), Instant::now());
        let rated = limits(Some(10), Some((1, 3600)), 1);
        let take = |at: usize| {
            let from = IpAddr::from([10, 0, (at >> 8) as u8, at as u8]);
            table.take(None, from, &rated, now)
        };
        let held = take(0).expect("the first");
        (1..MAX).for_each(|at| drop(take(at).expect("a new one")));
        assert!(take(1).is_err(), "it is remembered, and seen again");
        drop(take(MAX).expect("a new one"));
        assert_eq!(table.lock().clients.len(), MAX);
        assert!(take(1).is_err() && take(0).is_err(), "seen lately, or with a session open");
        assert!(take(2).is_ok(), "the one that was forgotten");
        // An attacker with many addresses forgets whom it likes, and the bound holds.
        let kept: Vec<_> = (1000..1000 + 3 * MAX).map(|at| take(at).expect("a new one")).collect();
        assert_eq!(table.lock().clients.len(), MAX);
        // Places of those that were forgotten take nothing from those that came later.
        drop((kept, held));
        assert!(table.lock().clients.iter().all(|(_, entry)| entry.open == 0));
    }
}
