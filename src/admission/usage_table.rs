//! What recent clients, by their addresses, or gateways, by their names, have used: how many sessions each has
//! open, and how many new ones it may start.
//!
//! The table is bounded, since addresses cost a sender nothing. Of those without an open session, the one seen
//! longest ago is forgotten first. The lock is taken when a session begins and when it ends, but for no byte.

use std::{
    hash::{Hash, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;

use super::token_bucket::TokenBucket;
use crate::profile::{NewSessionRate, SessionLimits};

/// How many are remembered at once, for all services.
pub const REMEMBERED_MAX: usize = 65_536;
/// How many with open sessions are skipped before one of them is forgotten after all.
const SECOND_CHANCES: usize = 8;

/// The usage of each user; `K` identifies the users.
#[derive(Debug)]
pub struct UsageTable<K: Hash + Eq>(Mutex<TableState<K>>);

#[derive(Debug)]
struct TableState<K: Hash + Eq> {
    max: usize,
    /// Its hasher is one that senders cannot foresee, who choose among many addresses.
    users: LruCache<K, UsageEntry, RandomState>,
    /// The number of the last entry that was made.
    number: u64,
}

#[derive(Debug)]
struct UsageEntry {
    /// Distinguishes it from an earlier entry of the same user, which was forgotten.
    number: u64,
    open: usize,
    begins: TokenBucket,
}

/// The limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitReached {
    Sessions(usize),
    Rate { rate: NewSessionRate, retry_after: Duration },
}

/// A session's permit, held for as long as the session is open.
#[derive(Debug)]
pub struct UsagePermit<K: Hash + Eq> {
    table: Arc<UsageTable<K>>,
    user: K,
    number: u64,
    is_rated: bool,
}

impl<K: Hash + Eq> Default for UsageTable<K> {
    fn default() -> Self {
        Self::new(REMEMBERED_MAX)
    }
}

impl<K: Hash + Eq> UsageTable<K> {
    fn new(max: usize) -> Self {
        Self(Mutex::new(TableState {
            max,
            users: LruCache::unbounded_with_hasher(RandomState::new()),
            number: 0,
        }))
    }

    /// Takes a permit for one more session.
    pub fn take(
        self: &Arc<Self>,
        user: K,
        limits: &SessionLimits,
        now: Instant,
    ) -> Result<UsagePermit<K>, LimitReached>
    where
        K: Clone,
    {
        let mut table = self.lock();
        let entry = table.entry(&user, limits, now);
        if let Some(most) = limits.sessions.filter(|&most| entry.open >= most) {
            return Err(LimitReached::Sessions(most));
        }
        if let Some(rate) = limits.rate {
            entry.begins.refill(now, rate.per_second(), f64::from(limits.burst));
            if !entry.begins.take() {
                let retry_after = entry.begins.time_until_token(rate.per_second());
                return Err(LimitReached::Rate { rate, retry_after });
            }
        }
        entry.open += 1;
        let number = entry.number;
        drop(table);
        Ok(UsagePermit { table: self.clone(), user, number, is_rated: limits.rate.is_some() })
    }

    fn lock(&self) -> MutexGuard<'_, TableState<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> TableState<K> {
    /// The user's entry, marked as the one seen last.
    fn entry(&mut self, user: &K, limits: &SessionLimits, now: Instant) -> &mut UsageEntry
    where
        K: Clone,
    {
        if !self.users.contains(user) {
            while self.users.len() >= self.max {
                self.forget_one();
            }
        }
        let Self { users, number, .. } = self;
        users.get_or_insert_mut(user.clone(), || {
            *number += 1;
            UsageEntry { number: *number, open: 0, begins: TokenBucket::new(f64::from(limits.burst), now) }
        })
    }

    fn forget_one(&mut self) {
        for _ in 0..SECOND_CHANCES {
            match self.users.pop_lru() {
                Some((user, entry)) if entry.open > 0 => {
                    self.users.put(user, entry);
                }
                Some(_) | None => return,
            }
        }
        self.users.pop_lru();
    }
}

impl<K: Hash + Eq> Drop for UsagePermit<K> {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        let Some(entry) = table.users.peek_mut(&self.user) else { return };
        // Its own entry was forgotten, and this is a later one.
        if entry.number != self.number {
            return;
        }
        entry.open = entry.open.saturating_sub(1);
        // Without a rate there is nothing to remember about it.
        if entry.open == 0 && !self.is_rated {
            table.users.pop(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(sessions: Option<usize>, rate: Option<(u32, u64)>, burst: u32) -> SessionLimits {
        let rate = rate.map(|(count, per)| NewSessionRate { count, per: Duration::from_secs(per) });
        SessionLimits { sessions, rate, burst }
    }

    #[test]
    fn each_user_has_a_session_limit_and_a_rate() {
        let (table, start) = (Arc::new(UsageTable::default()), Instant::now());
        let two = limits(Some(2), None, 1);
        let take = |user: &'static str| table.take(user, &two, start);
        let (first, _second) = (take("a").expect("one"), take("a").expect("two"));
        assert_eq!(take("a").err(), Some(LimitReached::Sessions(2)));
        assert!(take("b").is_ok(), "another one");
        drop(first);
        assert!(take("a").is_ok(), "its place is free again, and given back at once");

        let table = Arc::new(UsageTable::default());
        let rated = limits(None, Some((2, 1)), 4);
        let at = |ms: u64| table.take("a", &rated, start + Duration::from_millis(ms)).map(drop);
        assert!((0..4).all(|_| at(0).is_ok()), "the burst");
        let Err(LimitReached::Rate { retry_after, .. }) = at(0) else { panic!("a fifth") };
        assert_eq!(retry_after, Duration::from_millis(500));
        assert!(at(499).is_err() && at(500).is_ok() && at(600).is_err());
        assert_eq!((0..10).filter(|_| at(100_000).is_ok()).count(), 4, "no more is saved up than the burst");
    }

    #[test]
    fn the_table_is_bounded_and_who_was_seen_longest_ago_goes() {
        const MAX: usize = 100;
        let (table, now) = (Arc::new(UsageTable::new(MAX)), Instant::now());
        let rated = limits(Some(10), Some((1, 3600)), 1);
        let take = |at: usize| table.take(at, &rated, now);
        let held = take(0).expect("the first");
        (1..MAX).for_each(|at| drop(take(at).expect("a new one")));
        assert!(take(1).is_err(), "it is remembered, and seen again");
        drop(take(MAX).expect("a new one"));
        assert_eq!(table.lock().users.len(), MAX);
        assert!(take(1).is_err() && take(0).is_err(), "seen recently, or with a session open");
        assert!(take(2).is_ok(), "the one that was forgotten");
        // An attacker with many addresses can make the table forget others, but the limit holds.
        let kept: Vec<_> = (1000..1000 + 3 * MAX).map(|at| take(at).expect("a new one")).collect();
        assert_eq!(table.lock().users.len(), MAX);
        // Places of forgotten users take nothing from later ones.
        drop((kept, held));
        assert!(table.lock().users.iter().all(|(_, entry)| entry.open == 0));
    }
}
