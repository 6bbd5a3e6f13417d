//! Whether a gateway that has come is one that was lost, started anew.
//!
//! A gateway is told by its name, its address and its instance, so a restart looks like another gateway. One
//! that comes once another of its name and address can have been gone stands for it, and for no second one; what
//! stood beside it before that does not. How soon that is depends on how the loss was noticed: a socket that is
//! reset tells of it at once, silence only after a while, by which the same gateway may have started anew.
//!
//! What has failed of the one counts on with the other. Otherwise a gateway that starts again and again would look
//! like several that failed once each.

use std::time::{Duration, Instant};

use super::{Peer, link_guard::LinkCounters};

/// When a gateway came, and whether it stands for another.
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
    /// Of a gateway that came so long ago.
    pub fn began_before(by: Duration) -> Self {
        let Some(began) = Instant::now().checked_sub(by) else {
            panic!("this clock began less than {by:?} ago")
        };
        Self { began, is_successor: false }
    }
}

/// A gateway in the books.
pub trait Succeeding {
    fn peer(&self) -> &Peer;
    fn succession(&mut self) -> &mut Succession;
    fn counters(&self) -> &LinkCounters;
    /// Links that it has lost.
    fn failures(&mut self) -> &mut u64;
    /// How long it has been lost.
    fn lost_for(&self) -> Option<Duration>;

    fn has_links(&self) -> bool {
        self.counters().links() > 0
    }
}

/// Takes out each that was lost and has a successor.
pub fn forget_succeeded<T: Succeeding>(all: &mut Vec<T>) {
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

fn successor_of<T: Succeeding>(all: &mut [T], at: usize) -> Option<usize> {
    all[at].lost_for()?;
    let now = Instant::now();
    let gone_at = now.checked_sub(all[at].counters().gone_for()?)?;
    let (peer, came_at) = (all[at].peer().clone(), all[at].succession().began);
    all.iter_mut().position(|one| {
        let Succession { began, is_successor } = *one.succession();
        let is_later = began > came_at && began >= gone_at;
        is_later && !is_successor && one.has_links() && one.peer().may_succeed(&peer)
    })
}
