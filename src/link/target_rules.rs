//! Which targets of a name's SRV records are dialled, and how many links each one gets (RFC 2782). There are no
//! sockets here, and the time is passed in.
//!
//! Targets with the lowest priority number are dialled, and share the prepared links by weight. Those with the
//! next number stand by until none of the former has had a link for a while, and are released when one of them
//! is back.

use std::time::Duration;

use tokio::time::Instant;

use crate::net::dns::service_rules::TargetRank;

/// After this long without a link, the targets with the next number are dialled as well.
pub const FAILOVER_DELAY: Duration = Duration::from_secs(5);

/// A target's state when the choice is made.
#[derive(Debug, Clone, Copy)]
pub struct TargetState {
    pub rank: TargetRank,
    pub progress: DialProgress,
}

/// How far dialling a gateway has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialProgress {
    NotDialled,
    Dialled,
    /// It has a link that has proven itself.
    Linked,
}

/// Since when no target can be reached.
#[derive(Debug, Default)]
pub struct StandbyRule {
    linkless_since: Option<Instant>,
}

impl StandbyRule {
    /// The highest priority number that is dialled now.
    pub fn last_priority(&mut self, targets: &[TargetState], now: Instant) -> Option<u16> {
        let of = |is_meant: fn(&TargetState) -> bool| {
            targets.iter().filter(move |target| is_meant(target)).map(|target| target.rank.priority)
        };
        let first = of(|_| true).min()?;
        if let Some(linked) = of(|target| target.progress == DialProgress::Linked).min() {
            self.linkless_since = None;
            return Some(linked);
        }
        // A target that is already dialled stays dialled, whatever number it has now.
        let last = of(|target| target.progress >= DialProgress::Dialled).max().unwrap_or(first);
        let since = *self.linkless_since.get_or_insert(now);
        let next = of(|_| true).filter(|priority| *priority > last).min();
        match next {
            Some(next) if now.saturating_duration_since(since) >= FAILOVER_DELAY => {
                self.linkless_since = Some(now);
                Some(next)
            }
            _ => Some(last),
        }
    }
}

/// The number of links for each of these weights: at least one each and, if that is enough, `wanted` together.
pub fn share_links(wanted: usize, weights: &[u16]) -> Vec<usize> {
    // If nobody has a weight, all count the same.
    let is_even = weights.iter().all(|weight| *weight == 0);
    let weights: Vec<_> =
        weights.iter().map(|weight| if is_even { 1.0 } else { f64::from(*weight) }).collect();
    let mut shares = vec![None; weights.len()];
    let (mut links, mut total) = (wanted as f64, weights.iter().sum::<f64>());
    // A target worth less than one link gets one; the others share the rest.
    while let Some(at) = (0..shares.len()).find(|at| shares[*at].is_none() && links * weights[*at] < total) {
        shares[at] = Some(1);
        links -= 1.0;
        total -= weights[at];
    }
    let exact = |at: usize| links * weights[at] / total;
    let mut rest: Vec<_> = (0..shares.len()).filter(|at| shares[*at].is_none()).collect();
    let whole: f64 = rest.iter().map(|at| exact(*at).floor()).sum();
    // Links that remain after rounding go where most is missing.
    rest.sort_by(|one, other| exact(*other).fract().total_cmp(&exact(*one).fract()));
    for (index, at) in rest.iter().enumerate() {
        let is_given_more = (index as f64) < (links - whole).round();
        shares[*at] = Some(exact(*at).floor() as usize + usize::from(is_given_more));
    }
    shares.into_iter().map(|share| share.unwrap_or(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_shared_by_weight_and_everybody_has_one() {
        for (wanted, weights, shares) in [
            (8, vec![3, 1], vec![6, 2]),
            (8, vec![0, 0], vec![4, 4]),
            (8, vec![0, 0, 0], vec![3, 3, 2]),
            (10, vec![60, 30, 10], vec![6, 3, 1]),
            (8, vec![100, 0], vec![7, 1]),
            (8, vec![65535, 1, 1], vec![6, 1, 1]),
            (8, vec![1; 8], vec![1; 8]),
            (4, vec![1; 64], vec![1; 64]),
            (1, vec![7], vec![1]),
            (7, vec![2, 1], vec![5, 2]),
            (100, vec![1, 1, 1], vec![34, 33, 33]),
            (8, vec![], vec![]),
        ] {
            assert_eq!(share_links(wanted, &weights), shares, "{wanted} by {weights:?}");
        }
        for wanted in 1..40 {
            for weights in [vec![5, 3, 0, 9], vec![1, 1000, 1], vec![7, 7, 7, 7, 7]] {
                let shares = share_links(wanted, &weights);
                assert_eq!(
                    shares.iter().sum::<usize>(),
                    wanted.max(weights.len()),
                    "{wanted} by {weights:?}"
                );
                assert!(shares.iter().all(|share| *share > 0));
            }
        }
    }

    /// Targets by priority, which are dialled according to the rule.
    struct Targets {
        rule: StandbyRule,
        states: Vec<TargetState>,
    }

    impl Targets {
        fn new(priorities: &[u16]) -> Self {
            let state = |priority: &u16| TargetState {
                rank: TargetRank { priority: *priority, weight: 0 },
                progress: DialProgress::NotDialled,
            };
            Self { rule: StandbyRule::default(), states: priorities.iter().map(state).collect() }
        }

        fn link(&mut self, at: usize) {
            assert_ne!(self.states[at].progress, DialProgress::NotDialled, "{at}");
            self.states[at].progress = DialProgress::Linked;
        }

        fn lose(&mut self, at: usize) {
            self.states[at].progress = DialProgress::Dialled;
        }

        /// The priorities of those that are dialled this much later.
        async fn after(&mut self, milliseconds: u64) -> Vec<usize> {
            tokio::time::advance(Duration::from_millis(milliseconds)).await;
            let last = self.rule.last_priority(&self.states, Instant::now());
            for state in &mut self.states {
                state.progress = match last.is_some_and(|last| state.rank.priority <= last) {
                    true => state.progress.max(DialProgress::Dialled),
                    false => DialProgress::NotDialled,
                };
            }
            let is_dialled = |at: &usize| self.states[*at].progress != DialProgress::NotDialled;
            (0..self.states.len()).filter(is_dialled).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_priority_is_dialled_after_five_seconds_and_dropped_on_recovery() {
        let mut targets = Targets::new(&[10, 10, 20, 30]);
        assert_eq!(targets.after(0).await, [0, 1]);
        targets.link(0);
        targets.link(1);
        assert_eq!(targets.after(60_000).await, [0, 1]);
        targets.lose(0);
        assert_eq!(targets.after(60_000).await, [0, 1], "one of them is enough");
        targets.lose(1);
        assert_eq!(targets.after(0).await, [0, 1]);
        assert_eq!(targets.after(4_999).await, [0, 1]);
        assert_eq!(targets.after(1).await, [0, 1, 2], "the former are dialled on");
        targets.link(2);
        assert_eq!(targets.after(60_000).await, [0, 1, 2]);
        targets.link(1);
        assert_eq!(targets.after(0).await, [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn each_number_is_given_its_time_and_a_short_loss_is_none() {
        let mut targets = Targets::new(&[10, 20, 30]);
        assert_eq!(targets.after(0).await, [0]);
        targets.link(0);
        for _ in 0..10 {
            assert_eq!(targets.after(250).await, [0]);
            targets.lose(0);
            assert_eq!(targets.after(4_900).await, [0]);
            assert_eq!(targets.after(0).await, [0]);
            targets.link(0);
        }
        assert_eq!(targets.after(0).await, [0]);
        targets.lose(0);
        assert_eq!(targets.after(0).await, [0]);
        assert_eq!(targets.after(5_000).await, [0, 1]);
        assert_eq!(targets.after(4_999).await, [0, 1]);
        assert_eq!(targets.after(1).await, [0, 1, 2]);
        targets.link(1);
        assert_eq!(targets.after(0).await, [0, 1], "what comes after the one that is back is released");
    }

    #[tokio::test(start_paused = true)]
    async fn numbers_that_change_places_cost_no_link() {
        let mut targets = Targets::new(&[10, 20]);
        assert_eq!(targets.after(0).await, [0]);
        targets.link(0);
        targets.states[0].rank.priority = 20;
        targets.states[1].rank.priority = 10;
        assert_eq!(targets.after(0).await, [0, 1], "until the one that is to be used has a link");
        targets.link(1);
        assert_eq!(targets.after(0).await, [1]);
        assert_eq!(StandbyRule::default().last_priority(&[], Instant::now()), None);
    }
}
