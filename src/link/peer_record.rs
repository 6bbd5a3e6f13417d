//! What is remembered about a process of a peer: when it last had a turn, and whether it answers. Gateways may share
//! a name, and one of them may fail alone. One that dials from ten addresses is one process: its name and its instance
//! identify it, or its address where it has no instance. Whoever shows another instance on each link is judged by
//! its name: while nobody of a name answers, all of that name rest.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::telemetry::clock;

/// After this many unanswered `open`s in a row, a process rests: it is used last.
const UNANSWERED_MAX: u32 = 3;
pub const PEER_REST_PERIOD: Duration = Duration::from_secs(10);

/// The record of one process, shared by all its links.
#[derive(Debug, Default)]
pub struct PeerRecord {
    /// Shared by all processes of its name.
    of_name: Arc<AnswerRecord>,
    own: AnswerRecord,
}

/// The turns and the answers of one process, or of all that share a name.
#[derive(Debug, Default)]
struct AnswerRecord {
    /// The number of its last take; the one with the lowest number is next.
    last_turn: AtomicU64,
    unanswered: AtomicU32,
    /// Until when it rests, by `clock::coarse_ms`.
    rests_until_ms: AtomicU64,
}

impl PeerRecord {
    /// The record of another process of the same name.
    pub fn of_same_name(&self) -> Self {
        Self { of_name: self.of_name.clone(), own: AnswerRecord::default() }
    }

    /// Notes that an `open` was answered, whatever the answer.
    pub fn note_answered(&self) {
        self.both().iter().for_each(|record| record.unanswered.store(0, Ordering::Relaxed));
    }

    /// Notes that an `open` was not answered in time. Returns whether it rests from now on and did not before.
    pub fn note_unanswered(&self) -> bool {
        let [name_rests, rests] = self.both().map(AnswerRecord::note_unanswered);
        name_rests || rests
    }

    /// Its rank among peers: those that rest come last; of the others, the name used longest ago comes first, and of a
    /// name the process.
    pub fn rank(&self) -> (bool, [u64; 2]) {
        let both = self.both();
        let turns = both.map(|record| record.last_turn.load(Ordering::Relaxed));
        (both.iter().any(|record| record.is_resting()), turns)
    }

    /// Notes that it is used for a session. If it has yet to show that it answers again, only this session
    /// tries it.
    pub fn take_turn(&self, number: u64) {
        self.both().iter().for_each(|record| record.take_turn(number));
    }

    /// Whether it has rested itself, and has answered nothing since.
    pub fn is_doubtful(&self) -> bool {
        self.own.is_doubtful()
    }

    fn both(&self) -> [&AnswerRecord; 2] {
        [&self.of_name, &self.own]
    }
}

impl AnswerRecord {
    fn note_unanswered(&self) -> bool {
        let before = self.unanswered.fetch_add(1, Ordering::Relaxed);
        if before + 1 >= UNANSWERED_MAX {
            self.begin_rest();
        }
        before + 1 == UNANSWERED_MAX
    }

    fn take_turn(&self, number: u64) {
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
        mute.both().iter().for_each(|record| record.rests_until_ms.store(0, Ordering::Relaxed));
        assert!(mute.rank() < other.rank());
        mute.take_turn(6);
        assert!(mute.rank() > other.rank());
        mute.note_answered();
        other.take_turn(7);
        assert!(mute.rank() < other.rank());
    }

    #[test]
    fn a_name_rests_while_nobody_of_it_answers_and_else_only_the_process() {
        let (one, other) = (PeerRecord::default(), PeerRecord::default());
        let (two, three) = (one.of_same_name(), one.of_same_name());
        assert!(!one.note_unanswered() && !two.note_unanswered());
        assert!(three.note_unanswered(), "it tells another instance on each link");
        other.take_turn(9);
        assert!([&one, &two, &three].iter().all(|record| record.rank() > other.rank()));
        assert!(![&one, &two, &three].iter().any(|record| record.is_doubtful()), "one may be chance");
        two.note_answered();
        assert!(one.rank() < other.rank());
        for _ in 0..2 {
            one.note_unanswered();
            two.note_answered();
        }
        assert!(one.is_doubtful() && one.rank() > other.rank() && two.rank() < other.rank());
    }
}
