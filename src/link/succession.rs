//! Whether a gateway that has appeared is a lost one after a restart, and which lost ones are forgotten.
//!
//! A gateway is identified by its name, its address and its instance, so after a restart it looks like another
//! one. A gateway that appears once another of the same name and address may have gone counts as its successor,
//! and as nobody else's. One that was already there before does not. How soon that is depends on how the loss
//! was noticed: a reset is noticed at once, but silence only after a while, when the gateway may already have
//! restarted.
//!
//! The failure count of the old one continues with the new one. Otherwise a gateway that restarts again and
//! again would look like several that failed once each.

use std::time::{Duration, Instant};

use super::{Peer, link_guard::LinkCounters};

/// How many lost gateways a list remembers at once.
pub const LOST_MAX: usize = 64;

/// When a gateway appeared, and whether it succeeds another one.
#[derive(Debug)]
pub struct Succession {
    began: Instant,
    is_successor: bool,
}

impl Default for Succession {
    fn default() -> Self {
        Self { began: Instant::now(), is_successor: false }
    }
}

#[cfg(test)]
impl Succession {
    /// A gateway that appeared this long ago.
    pub fn began_before(by: Duration) -> Self {
        let Some(began) = Instant::now().checked_sub(by) else {
            panic!("this clock began less than {by:?} ago")
        };
        Self { began, is_successor: false }
    }
}

/// An entry for a gateway that may have a successor.
pub trait SuccessionEntry {
    fn peer(&self) -> &Peer;
    fn succession(&mut self) -> &mut Succession;
    fn counters(&self) -> &LinkCounters;
    /// The links that it has lost.
    fn failures(&mut self) -> &mut u64;
    /// How long it has been lost.
    fn lost_for(&self) -> Option<Duration>;
    /// Whether it has links, or was lost recently and without a goodbye.
    fn is_remembered(&self) -> bool;

    fn has_links(&self) -> bool {
        self.counters().links() > 0
    }
}

/// Forgets gateways that have said goodbye or were restarted, and those lost longest ago if there are too many.
pub fn forget_lost_peers<T: SuccessionEntry>(all: &mut Vec<T>) {
    all.retain(T::is_remembered);
    forget_succeeded(all);
    while all.iter().filter(|one| one.lost_for().is_some()).count() > LOST_MAX {
        let lost = (0..all.len()).filter(|&at| all[at].lost_for().is_some());
        let longest = lost.min_by_key(|&at| all[at].counters().empty_since_us());
        longest.into_iter().for_each(|at| drop(all.remove(at)));
    }
}

/// Removes each lost entry that has a successor.
fn forget_succeeded<T: SuccessionEntry>(all: &mut Vec<T>) {
    let mut at = 0;
    while at < all.len() {
        match successor_of(all, at) {
            Some(successor) => {
                let failed = *all[at].failures();
                all[successor].succession().is_successor = true;
                *all[successor].failures() += failed;
                all.remove(at);
            }
            None => at += 1,
        }
    }
}

fn successor_of<T: SuccessionEntry>(all: &mut [T], at: usize) -> Option<usize> {
    all[at].lost_for()?;
    let now = Instant::now();
    let lost_at = now.checked_sub(all[at].counters().gone_for()?)?;
    let (peer, arrived_at) = (all[at].peer().clone(), all[at].succession().began);
    all.iter_mut().position(|one| {
        let Succession { began, is_successor } = *one.succession();
        let is_later = began > arrived_at && began >= lost_at;
        is_later && !is_successor && one.has_links() && one.peer().may_succeed(&peer)
    })
}
