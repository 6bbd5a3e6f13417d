//! Limits how many of this half's links each gateway may have, by the name in its certificate, wherever it dials
//! from. A gateway that takes all it can get leaves the others their share.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::telemetry::clock;

/// A gateway that has had no session for so long lends half of what it leaves unused.
const IDLE_MS: u64 = 60_000;

/// How links are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareRule {
    /// So many gateways have an equal part each, and more only while the others leave theirs unused.
    Divided(usize),
    /// However many there are, each may have half of what the others leave.
    HalfOfTheRest,
}

impl ShareRule {
    /// Of a half whose link names its peers: one that is alone may have all.
    pub fn among(names: usize) -> Self {
        if names == 1 { Self::Divided(1) } else { Self::HalfOfTheRest }
    }
}

/// All links of one half.
#[derive(Debug)]
pub struct LinkShares {
    max: AtomicUsize,
    rule: Mutex<ShareRule>,
    held: Mutex<HashMap<Arc<str>, HeldLinks>>,
}

/// Links of one gateway.
#[derive(Debug)]
struct HeldLinks {
    links: usize,
    /// `clock::coarse_ms` of its last session.
    used_ms: Option<u64>,
}

impl HeldLinks {
    fn is_in_use(&self, now_ms: u64) -> bool {
        self.used_ms.is_some_and(|used_ms| now_ms.saturating_sub(used_ms) < IDLE_MS)
    }
}

/// A link's place in the share of its gateway, for as long as it lives.
pub struct LinkPermit {
    of: Arc<LinkShares>,
    gateway: Arc<str>,
}

impl fmt::Debug for LinkPermit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("LinkPlace").field(&self.gateway).finish()
    }
}

impl LinkShares {
    pub fn new(max: usize, rule: ShareRule) -> Arc<Self> {
        Arc::new(Self { max: AtomicUsize::new(max), rule: Mutex::new(rule), held: Mutex::default() })
    }

    pub fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Links that stand stay, even if they exceed the new bound.
    pub fn resize(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// There are more gateways now, or fewer.
    pub fn follow_rule(&self, rule: ShareRule) {
        *self.rule.lock().unwrap_or_else(PoisonError::into_inner) = rule;
    }

    /// Links of all gateways.
    pub fn held(&self) -> usize {
        self.lock().values().map(|held| held.links).sum()
    }

    /// A place for one more link of a gateway, if it may have one.
    pub fn take(self: &Arc<Self>, gateway: &Arc<str>) -> Option<LinkPermit> {
        let now_ms = clock::coarse_ms();
        let mut held = self.lock();
        held.retain(|_, held| held.links > 0 || held.is_in_use(now_ms));
        let own = held.get(gateway).map_or(0, |held| held.links);
        if own >= self.most(&held, gateway, now_ms) {
            return None;
        }
        held.entry(gateway.clone()).or_insert(HeldLinks { links: 0, used_ms: None }).links += 1;
        Some(LinkPermit { of: self.clone(), gateway: gateway.clone() })
    }

    /// Links that a gateway may have now.
    pub fn links_allowed(&self, gateway: &Arc<str>) -> usize {
        self.most(&self.lock(), gateway, clock::coarse_ms())
    }

    fn most(&self, held: &HashMap<Arc<str>, HeldLinks>, gateway: &Arc<str>, now_ms: u64) -> usize {
        let others = || held.iter().filter(|(name, _)| *name != gateway).map(|(_, held)| held);
        let left_by_others = self.max().saturating_sub(others().map(|held| held.links).sum());
        match *self.rule.lock().unwrap_or_else(PoisonError::into_inner) {
            ShareRule::HalfOfTheRest => left_by_others.div_ceil(2),
            ShareRule::Divided(gateways) => {
                let known = others().count();
                let share = (self.max() / gateways.max(known + 1)).max(1);
                let kept_back = |held: &HeldLinks| {
                    let unused = share.saturating_sub(held.links);
                    if held.is_in_use(now_ms) { unused } else { unused.div_ceil(2) }
                };
                let absent = gateways.saturating_sub(known + 1) * share.div_ceil(2);
                let kept_back = others().map(kept_back).sum::<usize>() + absent;
                left_by_others.saturating_sub(kept_back).max(share.min(left_by_others))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, HeldLinks>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkPermit {
    /// A session has come over the link.
    pub fn note_used(&self) {
        if let Some(held) = self.of.lock().get_mut(&self.gateway) {
            held.used_ms = Some(clock::coarse_ms());
        }
    }
}

impl Drop for LinkPermit {
    fn drop(&mut self) {
        if let Some(held) = self.of.lock().get_mut(&self.gateway) {
            held.links = held.links.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    /// Takes all that a gateway can get.
    fn take_all(shares: &Arc<LinkShares>, gateway: &str) -> Vec<LinkPermit> {
        std::iter::from_fn(|| shares.take(&name(gateway))).collect()
    }

    #[test]
    fn a_gateway_that_is_used_keeps_its_share_and_one_that_is_not_lends_half() {
        let shares = LinkShares::new(64, ShareRule::Divided(2));
        let honest = shares.take(&name("honest")).expect("there is room");
        let greedy = take_all(&shares, "greedy");
        assert_eq!(greedy.len(), 47, "32 of its own, and half of the 31 that are unused");
        drop(greedy);
        honest.note_used();
        let greedy = take_all(&shares, "greedy");
        assert_eq!(greedy.len(), 32);
        assert_eq!(take_all(&shares, "honest").len(), 31);
        assert_eq!(shares.held(), 33);
        drop((honest, greedy));
        assert_eq!(shares.held(), 0);
    }

    #[test]
    fn a_gateway_that_is_not_there_is_left_half_of_its_share() {
        let shares = LinkShares::new(64, ShareRule::Divided(2));
        let greedy = take_all(&shares, "greedy");
        assert_eq!(greedy.len(), 48);
        assert_eq!(take_all(&shares, "late").len(), 16);
    }

    #[test]
    fn one_alone_may_have_all_and_few_links_are_shared_too() {
        assert_eq!(take_all(&LinkShares::new(7, ShareRule::among(1)), "only").len(), 7);
        let shares = LinkShares::new(3, ShareRule::Divided(4));
        assert_eq!(take_all(&shares, "one").len(), 1);
    }

    #[test]
    fn each_may_have_half_of_what_the_others_leave() {
        let shares = LinkShares::new(100, ShareRule::among(3));
        let greedy = take_all(&shares, "greedy");
        let second = take_all(&shares, "second");
        let third = take_all(&shares, "third");
        assert_eq!((greedy.len(), second.len(), third.len()), (50, 25, 13));
        assert_eq!(shares.links_allowed(&name("fourth")), 6);
    }
}
