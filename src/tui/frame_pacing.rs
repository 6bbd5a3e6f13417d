//! When to draw: at most twice a second without input, soon after a key, and never without a reason.

use std::time::Duration;

use tokio::time::Instant;

/// Whether a frame is due, and when it may be drawn.
#[derive(Debug)]
pub struct FramePacing {
    owed: PendingFrame,
    /// When the last frame was drawn; before the first one, when the screen started.
    since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PendingFrame {
    Nothing,
    /// A snapshot has changed something.
    Calmly,
    /// The operator has pressed a key or changed the size.
    Soon,
    /// Nothing has been drawn yet.
    First,
}

impl FramePacing {
    /// The first frame is due at once.
    pub fn new(now: Instant) -> Self {
        Self { owed: PendingFrame::First, since: now }
    }

    pub fn note_change(&mut self) {
        self.owed = self.owed.max(PendingFrame::Calmly);
    }

    pub fn note_input(&mut self) {
        self.owed = self.owed.max(PendingFrame::Soon);
    }

    pub fn note_drawn(&mut self, now: Instant) {
        *self = Self { owed: PendingFrame::Nothing, since: now };
    }

    /// When the next frame may be drawn; `None` if none is due.
    pub fn due(&self) -> Option<Instant> {
        let pause = match self.owed {
            PendingFrame::Nothing => return None,
            PendingFrame::Calmly => IDLE_FRAME_INTERVAL,
            PendingFrame::Soon => KEY_REPEAT_FRAME_INTERVAL,
            PendingFrame::First => Duration::ZERO,
        };
        Some(self.since + pause)
    }
}

/// Numbers that change faster cannot be read.
const IDLE_FRAME_INTERVAL: Duration = Duration::from_millis(500);
/// Ten frames a second while a key is held: 3 % of a core in a debug build.
const KEY_REPEAT_FRAME_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_sooner_than_a_snapshot() {
        let now = Instant::now();
        let mut pace = FramePacing::new(now);
        assert_eq!(pace.due(), Some(now));
        pace.note_drawn(now);
        assert_eq!(pace.due(), None);
        pace.note_change();
        assert_eq!(pace.due(), Some(now + IDLE_FRAME_INTERVAL));
        pace.note_input();
        pace.note_change();
        assert_eq!(pace.due(), Some(now + KEY_REPEAT_FRAME_INTERVAL));
    }
}
