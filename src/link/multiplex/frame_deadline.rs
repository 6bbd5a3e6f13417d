//! The deadline of a frame that has begun, kept without a clock read for each piece that is read.
//!
//! Under load nearly every read ends within a frame, so a deadline is not set for each of them. The link's task looks
//! from time to time whether a piece has come since the last look. If none has, the frame had begun by then, and has
//! its time from there. Where nothing had come before it, the clock is read at once: a link that is quiet can afford it.

use std::time::Duration;

use tokio::time::Instant;

/// A frame that has begun must be complete within this time; `data` must go on within it. Behind other frames it may be
/// [`LOOK_INTERVAL`] longer.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(6);
/// How often a link under load looks whether it goes on.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct FrameDeadline {
    /// Pieces that were read so far: frames, and parts of `data`.
    pieces: u64,
    state: FrameState,
    last_look: Instant,
    pieces_then: u64,
}

/// ```text
/// between ─► begun ─► timed
///        └──────────────┘       a piece leads back, or to begun
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameState {
    /// No frame has begun.
    Between,
    /// One has begun behind others; the next looks show how long ago.
    Begun,
    /// It must be complete by then.
    Timed { by: Instant },
}

impl FrameDeadline {
    pub fn new(now: Instant) -> Self {
        Self { pieces: 0, state: FrameState::Between, last_look: now, pieces_then: 0 }
    }

    /// Something was read: this many pieces, and perhaps the beginning of a frame.
    pub fn note_read(&mut self, pieces: u64, is_within_frame: bool, now: impl FnOnce() -> Instant) {
        self.pieces += pieces;
        self.state = match self.state {
            _ if !is_within_frame => FrameState::Between,
            _ if pieces > 0 => FrameState::Begun,
            FrameState::Between => FrameState::Timed { by: now() + FRAME_TIMEOUT },
            state @ (FrameState::Begun | FrameState::Timed { .. }) => state,
        };
    }

    /// When the frame is late.
    pub fn late_at(&self) -> Option<Instant> {
        match self.state {
            FrameState::Between | FrameState::Begun => None,
            FrameState::Timed { by } => Some(by),
        }
    }

    /// When to look again. Behind a quiet time that is long ago, and says nothing about this process.
    pub fn next_look(&self) -> Option<Instant> {
        match self.state {
            FrameState::Begun => Some(self.last_look + LOOK_INTERVAL),
            FrameState::Between | FrameState::Timed { .. } => None,
        }
    }

    pub fn look(&mut self, now: Instant) {
        if self.state != FrameState::Begun || now < self.last_look + LOOK_INTERVAL {
            return;
        }
        if self.pieces == self.pieces_then {
            self.state = FrameState::Timed { by: self.last_look + FRAME_TIMEOUT };
        }
        (self.last_look, self.pieces_then) = (now, self.pieces);
    }

    pub fn is_late(&self, now: Instant) -> bool {
        matches!(self.state, FrameState::Timed { by } if now >= by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCK: fn() -> Instant = || unreachable!("the clock is not read");

    #[test]
    fn a_frame_on_a_quiet_link_has_its_time_from_its_first_byte() {
        let began = Instant::now();
        let mut deadline = FrameDeadline::new(began);
        let first = began + Duration::from_secs(60);
        deadline.note_read(0, true, || first);
        deadline.note_read(0, true, CLOCK);
        assert_eq!((deadline.late_at(), deadline.next_look()), (Some(first + FRAME_TIMEOUT), None));
        assert!(deadline.is_late(first + FRAME_TIMEOUT) && !deadline.is_late(first + FRAME_TIMEOUT / 2));
        deadline.note_read(1, false, CLOCK);
        assert_eq!((deadline.late_at(), deadline.next_look()), (None, None));
    }

    #[test]
    fn a_link_under_load_reads_no_clock_and_is_never_late() {
        let began = Instant::now();
        let mut deadline = FrameDeadline::new(began);
        for step in 1..1000 {
            let now = began + step * Duration::from_millis(50);
            deadline.note_read(3, true, CLOCK);
            if deadline.next_look().is_some_and(|due| due <= now) {
                deadline.look(now);
            }
            assert!(!deadline.is_late(now));
            assert!(
                deadline.next_look().is_some_and(|due| due <= now + LOOK_INTERVAL),
                "it is looked at soon"
            );
        }
    }

    /// Never earlier than its time from its beginning, and little later.
    #[test]
    fn a_frame_that_stops_behind_others_is_late_soon_after_its_time() {
        for ahead in 0..40 {
            let began = Instant::now();
            let mut deadline = FrameDeadline::new(began);
            let stops = began + ahead * Duration::from_millis(17);
            let mut now = began;
            while now < stops {
                now += Duration::from_millis(1);
                deadline.note_read(1, true, CLOCK);
                deadline.look(now);
            }
            let stopped = now;
            deadline.note_read(1, true, CLOCK);
            while !deadline.is_late(now) {
                now = now.max(deadline.late_at().or(deadline.next_look()).expect("it waits"));
                deadline.look(now);
            }
            let took = now - stopped;
            assert!(took >= FRAME_TIMEOUT && took <= FRAME_TIMEOUT + 2 * LOOK_INTERVAL, "{took:?}");
        }
    }
}
