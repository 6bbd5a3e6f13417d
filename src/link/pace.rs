//! Whether a link's other end is alive: what was heard since the last look, and pings.
//!
//! Looked at once a [`BEAT`]. Nothing heard since the last one: a ping goes. Still nothing at the
//! next: the other end is dead, 6 to 9 s after it was heard last, whatever lies between that may
//! acknowledge for it. An end that can not read, since its session's receiver is slow, can not
//! answer either: it sends pings of its own, which tell the same. A link whose window is shut is
//! not judged here but by the kernel's acknowledgements, see `net::tcp::is_silent`.

use std::time::{Duration, Instant};

use crate::proto::link::frame::TOKEN;

/// Between two looks.
pub const BEAT: Duration = Duration::from_secs(3);
/// Pings heard between two looks that mean something else than a question.
const PINGS_MAX: u32 = 64;

#[derive(Debug, Default)]
pub struct Pace {
    heard: bool,
    silent_beats: u8,
    pings: u32,
    asked: Option<(u64, Instant)>,
    next: u64,
}

/// What a look has shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Beat {
    Fine,
    /// A ping with this token is due.
    Ping([u8; TOKEN]),
    Dead,
}

/// Whether this end takes what the other sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    Yes,
    /// Its session's receiver takes nothing now.
    Stopped,
}

impl Pace {
    pub fn heard(&mut self) {
        self.heard = true;
    }

    /// A ping has come; false when there are too many of them.
    pub fn pinged(&mut self) -> bool {
        self.pings += 1;
        self.pings <= PINGS_MAX
    }

    /// An answer has come; the round trip, if it answers the last question.
    pub fn answered(&mut self, token: [u8; TOKEN]) -> Option<Duration> {
        let (asked, at) = self.asked?;
        if asked.to_be_bytes() != token {
            return None;
        }
        self.asked = None;
        Some(at.elapsed())
    }

    /// One look.
    pub fn beat(&mut self, reading: Reading) -> Beat {
        let heard = std::mem::take(&mut self.heard);
        self.pings = 0;
        match (heard, reading) {
            (true, Reading::Yes) => {
                self.silent_beats = 0;
                Beat::Fine
            }
            (_, Reading::Stopped) => {
                self.silent_beats = 0;
                self.ping()
            }
            (false, Reading::Yes) if self.silent_beats > 0 => Beat::Dead,
            (false, Reading::Yes) => {
                self.silent_beats += 1;
                self.ping()
            }
        }
    }

    /// The window is shut: nothing can be said, and silence means nothing.
    pub fn excused(&mut self) {
        self.silent_beats = 0;
    }

    fn ping(&mut self) -> Beat {
        let token = self.token();
        self.asked = Some((self.next, Instant::now()));
        Beat::Ping(token)
    }

    /// A token that no ping of this end has had.
    pub fn token(&mut self) -> [u8; TOKEN] {
        self.next += 1;
        self.next.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_asked_about_and_then_believed() {
        let mut pace = Pace::default();
        pace.heard();
        assert_eq!(pace.beat(Reading::Yes), Beat::Fine);
        let Beat::Ping(token) = pace.beat(Reading::Yes) else { panic!("a ping is due") };
        pace.heard();
        assert!(pace.answered([9; TOKEN]).is_none(), "not what was asked");
        assert!(pace.answered(token).is_some() && pace.answered(token).is_none());
        assert_eq!(pace.beat(Reading::Yes), Beat::Fine);
        assert!(matches!(pace.beat(Reading::Yes), Beat::Ping(_)));
        assert_eq!(pace.beat(Reading::Yes), Beat::Dead);
    }

    #[test]
    fn an_end_that_does_not_read_judges_nobody() {
        let mut pace = Pace::default();
        for _ in 0..5 {
            assert!(matches!(pace.beat(Reading::Stopped), Beat::Ping(_)));
        }
        assert!(matches!(pace.beat(Reading::Yes), Beat::Ping(_)), "asked first when it reads again");
    }

    #[test]
    fn a_flood_of_pings_is_no_question() {
        let mut pace = Pace::default();
        assert!((0..PINGS_MAX).all(|_| pace.pinged()) && !pace.pinged());
        pace.beat(Reading::Yes);
        assert!(pace.pinged());
    }
}
