//! Divides scarce things among gateways: the links of this half, and an internal half's connections to
//! backends. Each gateway is identified by the name in its certificate, wherever it dials from. A gateway that
//! takes everything it can get still leaves the others their share.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, futures::Notified};

use crate::telemetry::clock;

/// A gateway without a session for this long lends out half of what it leaves unused.
const IDLE_MS: u64 = 60_000;

/// The rule for dividing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareRule {
    /// This many gateways have an equal part each, and more only while the others leave theirs unused.
    Divided(usize),
    /// However many there are, each may have half of what the others leave.
    HalfOfTheRest,
}

impl ShareRule {
    /// The rule for a half whose link names this many peers: one that is alone may have all.
    pub fn among(names: usize) -> Self {
        if names == 1 { Self::Divided(1) } else { Self::HalfOfTheRest }
    }
}

/// The shares that gateways hold of one resource, and how much there is of it.
#[derive(Debug)]
pub struct GatewayShares {
    max: AtomicUsize,
    /// The most that each gateway may have, whatever is left.
    each_max: AtomicUsize,
    held: Mutex<HeldByGateway>,
    freed: Notify,
}

/// By the gateway's name, or by the dialled address while its name is not known.
#[derive(Debug)]
struct HeldByGateway {
    rule: ShareRule,
    gateways: HashMap<Arc<str>, GatewayUse>,
    /// The names that gateways last showed, by the addresses that are dialled.
    names: HashMap<Arc<str>, Arc<str>>,
}

impl HeldByGateway {
    fn name_of(&self, gateway: &Arc<str>) -> Arc<str> {
        self.names.get(gateway).unwrap_or(gateway).clone()
    }

    fn held_by(&self, name: &Arc<str>) -> usize {
        self.gateways.get(name).map_or(0, |of_gateway| of_gateway.held)
    }

    fn add_one(&mut self, name: &Arc<str>) {
        self.gateways.entry(name.clone()).or_insert(GatewayUse { held: 0, used_ms: None }).held += 1;
    }

    fn remove_one(&mut self, name: &Arc<str>) {
        let Some(of_gateway) = self.gateways.get_mut(name) else { return };
        of_gateway.held = of_gateway.held.saturating_sub(1);
        if of_gateway.held == 0 && of_gateway.used_ms.is_none() {
            self.gateways.remove(name);
        }
    }

    /// The number of addresses that lead to a gateway which another address leads to as well.
    fn same_again(&self) -> usize {
        self.names.len() - self.names.values().collect::<HashSet<_>>().len()
    }
}

/// The share that one gateway holds.
#[derive(Debug)]
struct GatewayUse {
    held: usize,
    /// The time of its last session, by `clock::coarse_ms`.
    used_ms: Option<u64>,
}

impl GatewayUse {
    fn is_in_use(&self, now_ms: u64) -> bool {
        self.used_ms.is_some_and(|used_ms| now_ms.saturating_sub(used_ms) < IDLE_MS)
    }
}

/// A unit of a gateway's share, held for as long as its link or connection lives.
pub struct SharePermit {
    shares: Arc<GatewayShares>,
    gateway: Arc<str>,
    /// The address it was dialled at, or the same name.
    asked_for: Arc<str>,
}

impl fmt::Debug for SharePermit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("SharePermit").field(&self.gateway).finish()
    }
}

impl Default for GatewayShares {
    /// Nothing, for nobody.
    fn default() -> Self {
        let held =
            HeldByGateway { rule: ShareRule::Divided(1), gateways: HashMap::new(), names: HashMap::new() };
        Self {
            max: AtomicUsize::new(0),
            each_max: AtomicUsize::new(usize::MAX),
            held: Mutex::new(held),
            freed: Notify::new(),
        }
    }
}

impl GatewayShares {
    pub fn new(max: usize, rule: ShareRule) -> Arc<Self> {
        let shares = Self::default();
        shares.resize(max);
        shares.follow_rule(rule);
        Arc::new(shares)
    }

    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Sets a new total. What is held stays, even if it exceeds it.
    pub fn resize(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
        self.freed.notify_waiters();
    }

    /// Applies a rule for a changed number of gateways.
    pub fn follow_rule(&self, rule: ShareRule) {
        let mut held = self.lock();
        if held.rule != rule {
            held.rule = rule;
            // Some may no longer be dialled; the others show their names with the next link.
            held.names.clear();
        }
    }

    /// Divides this much among this many gateways.
    pub fn divide(&self, max: usize, gateways: usize) {
        self.resize(max);
        self.follow_rule(ShareRule::Divided(gateways));
    }

    /// Limits every gateway from now on; existing links stay.
    pub fn bound_each(&self, max: Option<usize>) {
        self.each_max.store(max.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    /// What all gateways hold.
    pub fn permits_taken(&self) -> usize {
        self.lock().gateways.values().map(|of_gateway| of_gateway.held).sum()
    }

    /// One more permit for a gateway, if it may have one.
    pub fn take(self: &Arc<Self>, gateway: &Arc<str>) -> Option<SharePermit> {
        let now_ms = clock::coarse_ms();
        let mut held = self.lock();
        held.gateways.retain(|_, of_gateway| of_gateway.held > 0 || of_gateway.is_in_use(now_ms));
        let name = held.name_of(gateway);
        if held.held_by(&name) >= self.most(&held, &name, now_ms) {
            return None;
        }
        held.add_one(&name);
        Some(SharePermit { shares: self.clone(), gateway: name, asked_for: gateway.clone() })
    }

    /// Whether a gateway may have one more now.
    pub fn is_open_to(&self, gateway: &Arc<str>) -> bool {
        let held = self.lock();
        let name = held.name_of(gateway);
        held.held_by(&name) < self.most(&held, &name, clock::coarse_ms())
    }

    /// Whether a gateway has as much as the profile allows each of them, whatever is left.
    pub fn is_at_own_bound(&self, gateway: &Arc<str>) -> bool {
        let held = self.lock();
        held.held_by(&held.name_of(gateway)) >= self.each_max.load(Ordering::Relaxed)
    }

    /// Waits until something has become free.
    pub fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// How many links a gateway may have now.
    pub fn links_allowed(&self, gateway: &Arc<str>) -> usize {
        let held = self.lock();
        self.most(&held, &held.name_of(gateway), clock::coarse_ms())
    }

    fn most(&self, held: &HeldByGateway, gateway: &Arc<str>, now_ms: u64) -> usize {
        let others = || held.gateways.iter().filter(|(name, _)| *name != gateway).map(|(_, other)| other);
        let left_by_others = self.max().saturating_sub(others().map(|other| other.held).sum());
        let share = match held.rule {
            ShareRule::HalfOfTheRest => left_by_others.div_ceil(2),
            ShareRule::Divided(gateways) => {
                let known = others().count();
                let gateways = gateways.saturating_sub(held.same_again()).max(1);
                let share = (self.max() / gateways.max(known + 1)).max(1);
                let kept_back = |other: &GatewayUse| {
                    let unused = share.saturating_sub(other.held);
                    if other.is_in_use(now_ms) { unused } else { unused.div_ceil(2) }
                };
                let absent = gateways.saturating_sub(known + 1) * share.div_ceil(2);
                let kept_back = others().map(kept_back).sum::<usize>() + absent;
                left_by_others.saturating_sub(kept_back).max(share.min(left_by_others))
            }
        };
        share.min(self.each_max.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, HeldByGateway> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharePermit {
    /// Notes the name that the gateway at its other end has shown: all links of that name share.
    pub fn note_name(&mut self, name: &Arc<str>) {
        let mut held = self.shares.lock();
        held.names.insert(self.asked_for.clone(), name.clone());
        if self.gateway != *name {
            held.remove_one(&self.gateway);
            held.add_one(name);
            self.gateway = name.clone();
        }
    }

    /// Notes that a session has come over the link.
    pub fn note_used(&self) {
        if let Some(of_gateway) = self.shares.lock().gateways.get_mut(&self.gateway) {
            of_gateway.used_ms = Some(clock::coarse_ms());
        }
    }
}

impl Drop for SharePermit {
    fn drop(&mut self) {
        self.shares.lock().remove_one(&self.gateway);
        self.shares.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    /// Takes everything that a gateway can get.
    fn take_all(shares: &Arc<GatewayShares>, gateway: &str) -> Vec<SharePermit> {
        std::iter::from_fn(|| shares.take(&name(gateway))).collect()
    }

    #[test]
    fn a_gateway_that_is_used_keeps_its_share_and_one_that_is_not_lends_half() {
        let shares = GatewayShares::new(64, ShareRule::Divided(2));
        let honest = shares.take(&name("honest")).expect("there is room");
        let greedy = take_all(&shares, "greedy");
        assert_eq!(greedy.len(), 47, "32 of its own, and half of the 31 that are unused");
        assert_eq!(["honest", "greedy"].map(|of| shares.is_open_to(&name(of))), [true, false]);
        drop(greedy);
        honest.note_used();
        let greedy = take_all(&shares, "greedy");
        assert_eq!(greedy.len(), 32);
        assert_eq!(take_all(&shares, "honest").len(), 31);
        assert_eq!(shares.permits_taken(), 33);
        drop((honest, greedy));
        assert_eq!(shares.permits_taken(), 0);
    }

    #[test]
    fn a_gateway_that_is_not_there_is_left_half_of_its_share() {
        let shares = GatewayShares::new(64, ShareRule::Divided(2));
        let greedy = take_all(&shares, "greedy");
        assert_eq!(greedy.len(), 48);
        assert_eq!(take_all(&shares, "late").len(), 16);
    }

    #[test]
    fn one_alone_may_have_all_and_few_links_are_shared_too() {
        assert_eq!(take_all(&GatewayShares::new(7, ShareRule::among(1)), "only").len(), 7);
        let shares = GatewayShares::new(3, ShareRule::Divided(4));
        assert_eq!(take_all(&shares, "one").len(), 1);
    }

    #[test]
    fn addresses_of_one_name_have_one_share_together() {
        let shares = GatewayShares::new(60, ShareRule::Divided(3));
        let mut dialled: Vec<_> =
            ["a:1", "b:1", "c:1"].map(|at| shares.take(&name(at)).expect("room")).into();
        assert_eq!(shares.links_allowed(&name("c:1")), 60 - 2 - 10 - 10, "two have one each");
        for (permit, shown) in dialled.iter_mut().zip(["twice", "twice", "other"]) {
            permit.note_name(&name(shown));
        }
        dialled.iter().for_each(SharePermit::note_used);
        assert_eq!(take_all(&shares, "a:1").len(), 28, "two of its thirty stand");
        let of_twice: Vec<_> = std::iter::from_fn(|| shares.take(&name("a:1"))).collect();
        assert_eq!((of_twice.len(), shares.take(&name("b:1")).is_none()), (28, true));
        assert_eq!(take_all(&shares, "c:1").len(), 29);
        // Several gateways may be behind one address, too.
        dialled[2].note_name(&name("third"));
        assert_eq!(shares.links_allowed(&name("c:1")), 20, "the other one was here a moment ago");
        drop((dialled, of_twice));
        assert_eq!(shares.permits_taken(), 0);
        shares.follow_rule(ShareRule::Divided(1));
        assert_eq!(take_all(&shares, "a:1").len(), 60 - 20 - 20, "two were here a moment ago");
    }

    #[test]
    fn none_has_more_than_each_may_have() {
        let shares = GatewayShares::new(100, ShareRule::among(1));
        shares.bound_each(Some(4));
        let held = take_all(&shares, "only");
        assert_eq!((held.len(), shares.links_allowed(&name("only"))), (4, 4));
        shares.bound_each(Some(2));
        assert_eq!(
            (shares.permits_taken(), shares.links_allowed(&name("only"))),
            (4, 2),
            "those that stand stay"
        );
        shares.bound_each(None);
        assert_eq!(shares.links_allowed(&name("only")), 100);
    }

    #[test]
    fn each_may_have_half_of_what_the_others_leave() {
        let shares = GatewayShares::new(100, ShareRule::among(3));
        let greedy = take_all(&shares, "greedy");
        let second = take_all(&shares, "second");
        let third = take_all(&shares, "third");
        assert_eq!((greedy.len(), second.len(), third.len()), (50, 25, 13));
        assert_eq!(shares.links_allowed(&name("fourth")), 6);
    }
}
