//! Whether a gateway that has come is one that was lost, started anew.
//!
//! A gateway is told by its name, its address and its instance, so a restart looks like another gateway. One
//! that comes while another of its name and address goes, or after that, stands for it, and for no second one;
//! what stood beside it all the time does not.

use std::time::{Duration, Instant};

use super::Peer;

/// A loss is noticed in this time, by which the same gateway may have started anew.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

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
    /// Of a gateway that has been here longer than any loss takes to notice.
    pub fn long_ago() -> Self {
        let Some(began) = Instant::now().checked_sub(2 * NOTICED_WITHIN) else {
            panic!("this clock began less than {NOTICED_WITHIN:?} ago")
        };
        Self { began, is_successor: false }
    }
}

/// A gateway in the books.
pub trait Succeeding {
    fn peer(&self) -> &Peer;
    fn succession(&mut self) -> &mut Succession;
    fn has_links(&self) -> bool;
    /// How long it has been lost.
    fn lost_for(&self) -> Option<Duration>;
}

/// Takes out each that was lost and has a successor.
pub fn forget_succeeded<T: Succeeding>(all: &mut Vec<T>) {
    let mut at = 0;
    while at < all.len() {
        match successor_of(all, at) {
            Some(successor) => {
                all[successor].succession().is_successor = true;
                all.remove(at);
            }
            None => at += 1,
        }
    }
}

fn successor_of<T: Succeeding>(all: &mut [T], at: usize) -> Option<usize> {
    let lost_for = all[at].lost_for()?;
    let lost_at = Instant::now().checked_sub(lost_for + NOTICED_WITHIN)?;
    let peer = all[at].peer().clone();
    all.iter_mut().position(|one| {
        let Succession { began, is_successor } = *one.succession();
        began >= lost_at && !is_successor && one.has_links() && one.peer().may_succeed(&peer)
    })
}
