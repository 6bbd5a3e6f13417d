//! What is remembered about a peer: when it last had a turn, and whether it answers. A peer is identified by
//! the name in its certificate, so one that dials from ten addresses is one peer.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use crate::telemetry::clock;

/// After this many unanswered `open`s in a row, a peer rests: it is used last.
const UNANSWERED_MAX: u32 = 3;
pub const PEER_REST_PERIOD: Duration = Duration::from_secs(10);

/// The record of one peer, shared by all its links.
#[derive(Debug, Default)]
pub struct PeerRecord {
    /// The number of its last take; the peer with the lowest number is next.
    last_turn: AtomicU64,
    unanswered: AtomicU32,
    /// Until when it rests, by `clock::coarse_ms`.
    rests_until_ms: AtomicU64,
}

impl PeerRecord {
    /// Notes that an `open` was answered, whatever the answer.
    pub fn note_answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    /// Notes that an `open` was not answered in time. Returns whether it rests from now on and did not before.
    pub fn note_unanswered(&self) -> bool {
        let before = self.unanswered.fetch_add(1, Ordering::Relaxed);
        if before + 1 >= UNANSWERED_MAX {
            self.begin_rest();
        }
        before + 1 == UNANSWERED_MAX
    }

    /// Its rank among peers: those that rest come last; of the others, the one used longest ago comes first.
    pub fn rank(&self) -> (bool, u64) {
        (self.is_resting(), self.last_turn.load(Ordering::Relaxed))
    }

    /// Notes that it is used for a session. If it has yet to show that it answers again, only this session
    /// tries it.
    pub fn take_turn(&self, number: u64) {
        self.last_turn.store(number, Ordering::Relaxed);
        if self.is_doubtful() {
            self.begin_rest();
        }
    }

    fn is_doubtful(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= UNANSWERED_MAX
    }

    fn is_resting(&self) -> bool {
        self.is_doubtful() && clock::coarse_ms() < self.rests_until_ms.load(Ordering::Relaxed)
    }

    fn begin_rest(&self) {
        self.rests_until_ms
            .store(clock::coarse_ms() + PEER_REST_PERIOD.as_millis() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_nothing_is_used_last_until_it_answers() {
        let (mute, other) = (PeerRecord::default(), PeerRecord::default());
        other.take_turn(5);
        assert!((0..2).all(|_| !mute.note_unanswered()));
        assert!(mute.rank() < other.rank(), "two may be chance");
        assert!(mute.note_unanswered(), "it rests from now on");
        assert!(mute.rank() > other.rank());
        assert!(!mute.note_unanswered(), "that was reported");
        // Its rest is over: one session tries it, and no other.
        mute.rests_until_ms.store(0, Ordering::Relaxed);
        assert!(mute.rank() < other.rank());
        mute.take_turn(6);
        assert!(mute.rank() > other.rank());
        mute.note_answered();
        other.take_turn(7);
        assert!(mute.rank() < other.rank());
    }
}
