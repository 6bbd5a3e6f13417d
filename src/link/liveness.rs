//! Whether a link's other end is alive, by clocks that start with what has happened.
//!
//! A link is looked at once a [`HEARTBEAT`]. Nothing heard since the look before: a ping goes. It is
//! unanswered for [`UNANSWERED`], and nothing else was heard meanwhile: the other end is dead, 8.5 to
//! 11 s after it was heard last, whatever lies between that may acknowledge for it.
//!
//! What is no silence: that we did not listen. A look that comes late, since this process was stopped
//! or is short of time, moves the deadline by as much. An end that can not read, since its session's
//! receiver is slow, judges nobody and can not answer either: it sends pings of its own, which tell
//! the same. And while a ping of ours has yet to reach the other end's kernel, behind other bytes or
//! before a shut window, that kernel's acknowledgements stand for an answer.

use std::time::Duration;

use tokio::time::Instant;

use super::allowance::Allowance;
use crate::proto::link::frame::TOKEN;

/// Between two looks.
pub const HEARTBEAT: Duration = Duration::from_millis(2500);
/// A ping without an answer for so long, and nothing else heard: the other end is dead.
pub const UNANSWERED: Duration = Duration::from_secs(6);
/// Pings that an end may send at once, and how many more each second: it asks once a [`HEARTBEAT`],
/// or twice while it settles a session.
const PINGS_AT_ONCE: f64 = 64.0;
const PINGS_A_SECOND: f64 = 4.0;

#[derive(Debug)]
pub struct Liveness {
    /// When the next look is due.
    due: Instant,
    heard: bool,
    question: Option<Question>,
    /// Since when no ping of ours could be written.
    blocked_since: Option<Instant>,
    /// Pings that the other end may still send.
    pings: Allowance,
    next: u64,
}

/// A ping that has not been answered.
#[derive(Debug)]
struct Question {
    token: u64,
    asked: Instant,
    dead_at: Instant,
}

/// What a look has shown.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Alive,
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

/// Whether a ping of ours would go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    Yes,
    /// The socket takes nothing now.
    Blocked,
}

impl Liveness {
    pub fn new(now: Instant) -> Self {
        Self {
            due: now + HEARTBEAT,
            heard: false,
            question: None,
            blocked_since: None,
            pings: Allowance::new(PINGS_AT_ONCE, now.into_std()),
            next: 0,
        }
    }

    /// When to look next.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Any byte has come.
    pub fn heard(&mut self) {
        self.heard = true;
    }

    /// A ping has come; false when there are too many of them for the time.
    pub fn pinged(&mut self, now: Instant) -> bool {
        self.earn_pings(now, Reading::Yes);
        self.pings.take()
    }

    /// An answer has come; the round trip, if it answers the last question.
    pub fn answered(&mut self, token: [u8; TOKEN], now: Instant) -> Option<Duration> {
        let question = self.question.take_if(|question| question.token.to_be_bytes() == token)?;
        Some(now.saturating_duration_since(question.asked))
    }

    /// One look, `late` after it was due. `unacknowledged` tells for how long the other end's kernel
    /// has not acknowledged what is on its way to it; `None`: it has acknowledged all.
    pub fn look(
        &mut self,
        now: Instant,
        late: Duration,
        (reading, writing): (Reading, Writing),
        unacknowledged: impl FnOnce() -> Option<Duration>,
    ) -> Verdict {
        self.due = now + HEARTBEAT;
        self.earn_pings(now, reading);
        let heard = std::mem::take(&mut self.heard);
        if writing == Writing::Blocked {
            self.question = None;
            let since = *self.blocked_since.get_or_insert(now);
            let silent = unacknowledged().unwrap_or_default().min(now - since);
            return if silent >= UNANSWERED { Verdict::Dead } else { Verdict::Alive };
        }
        self.blocked_since = None;
        match (&mut self.question, reading) {
            (_, Reading::Stopped) => {
                self.question = None;
                Verdict::Ping(self.token())
            }
            (_, Reading::Yes) if heard => {
                self.question = None;
                Verdict::Alive
            }
            (None, Reading::Yes) => self.ask(now),
            (Some(question), Reading::Yes) => {
                question.dead_at += late;
                if now >= question.dead_at {
                    let silent = unacknowledged().unwrap_or(UNANSWERED);
                    let Some(left) = UNANSWERED.checked_sub(silent).filter(|left| !left.is_zero()) else {
                        return Verdict::Dead;
                    };
                    question.dead_at = now + left;
                }
                self.due = self.due.min(question.dead_at);
                Verdict::Alive
            }
        }
    }

    /// The other end need not answer now: whatever it is asked, and until when, has another deadline.
    pub fn excused(&mut self, now: Instant) {
        self.question = None;
        self.due = now + HEARTBEAT;
    }

    /// Those that came while this end did not read are read at once, however many: they are earned
    /// without a bound meanwhile, and stay earned.
    fn earn_pings(&mut self, now: Instant, reading: Reading) {
        let most = match reading {
            Reading::Yes => PINGS_AT_ONCE.max(self.pings.left()),
            Reading::Stopped => f64::INFINITY,
        };
        self.pings.earn(now.into_std(), PINGS_A_SECOND, most);
    }

    fn ask(&mut self, now: Instant) -> Verdict {
        let token = self.token();
        self.question = Some(Question { token: self.next, asked: now, dead_at: now + UNANSWERED });
        Verdict::Ping(token)
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

    const OPEN: (Reading, Writing) = (Reading::Yes, Writing::Yes);
    const NOT_READING: (Reading, Writing) = (Reading::Stopped, Writing::Yes);
    const MS: Duration = Duration::from_millis(1);

    /// Looks when a look is due, until the other end is dead; how long after `began` that was.
    fn dies(liveness: &mut Liveness, began: Instant) -> Duration {
        loop {
            let now = liveness.due();
            if liveness.look(now, Duration::ZERO, OPEN, || None) == Verdict::Dead {
                return now - began;
            }
        }
    }

    #[test]
    fn silence_is_asked_about_and_then_believed() {
        let began = Instant::now();
        let mut liveness = Liveness::new(began);
        liveness.heard();
        assert_eq!(liveness.look(liveness.due(), Duration::ZERO, OPEN, || None), Verdict::Alive);
        let asked = liveness.due();
        let Verdict::Ping(token) = liveness.look(asked, Duration::ZERO, OPEN, || None) else {
            panic!("a ping is due")
        };
        assert!(liveness.answered([9; TOKEN], asked + MS).is_none(), "not what was asked");
        assert_eq!(liveness.answered(token, asked + MS), Some(MS));
        assert!(liveness.answered(token, asked + MS).is_none(), "answered once");
        liveness.heard();
        assert_eq!(liveness.look(liveness.due(), Duration::ZERO, OPEN, || None), Verdict::Alive);
        let asked = liveness.due();
        assert_eq!(dies(&mut liveness, asked), UNANSWERED);
    }

    #[test]
    fn silence_is_time_and_not_a_number_of_looks() {
        let began = Instant::now();
        let mut liveness = Liveness::new(began);
        assert!(matches!(liveness.look(began, Duration::ZERO, OPEN, || None), Verdict::Ping(_)));
        for look in 1..6000 {
            let now = began + look * MS;
            assert_eq!(liveness.look(now, Duration::ZERO, OPEN, || None), Verdict::Alive, "{look} ms");
        }
        assert_eq!(liveness.look(began + UNANSWERED, Duration::ZERO, OPEN, || None), Verdict::Dead);
    }

    #[test]
    fn time_in_which_nobody_listened_is_not_counted() {
        let began = Instant::now();
        let mut liveness = Liveness::new(began);
        assert!(matches!(liveness.look(began, Duration::ZERO, OPEN, || None), Verdict::Ping(_)));
        // Stopped for an hour, from just before a look.
        let late = Duration::from_secs(3600);
        let woken = liveness.due() + late;
        assert_eq!(liveness.look(woken, late, OPEN, || None), Verdict::Alive);
        assert_eq!(dies(&mut liveness, woken), UNANSWERED - HEARTBEAT);
    }

    #[test]
    fn a_ping_that_is_still_on_its_way_is_answered_by_acknowledgements() {
        let began = Instant::now();
        let mut liveness = Liveness::new(began);
        let acknowledged = |ago: u64| move || Some(Duration::from_secs(ago));
        assert!(matches!(liveness.look(began, Duration::ZERO, OPEN, || None), Verdict::Ping(_)));
        let mut now = began + UNANSWERED;
        for _ in 0..100 {
            assert_eq!(liveness.look(now, Duration::ZERO, OPEN, acknowledged(1)), Verdict::Alive);
            now = liveness.due();
        }
        now += 2 * HEARTBEAT;
        assert_eq!(liveness.look(now, Duration::ZERO, OPEN, acknowledged(6)), Verdict::Dead);
    }

    #[test]
    fn before_a_shut_window_only_the_kernel_judges_and_from_then_on() {
        let began = Instant::now();
        let mut liveness = Liveness::new(began);
        let blocked = (Reading::Yes, Writing::Blocked);
        for (at, acknowledged, expected) in [
            (0, 100, Verdict::Alive),
            (5, 105, Verdict::Alive),
            (6, 1, Verdict::Alive),
            (600, 5, Verdict::Alive),
            (601, 6, Verdict::Dead),
        ] {
            let silent = Some(Duration::from_secs(acknowledged));
            let now = began + Duration::from_secs(at);
            assert_eq!(liveness.look(now, Duration::ZERO, blocked, || silent), expected, "at {at} s");
        }
    }

    #[test]
    fn an_end_that_does_not_read_judges_nobody() {
        let began = Instant::now();
        let mut liveness = Liveness::new(began);
        for look in 0..1000 {
            let now = began + look * HEARTBEAT;
            let seen = liveness.look(now, Duration::ZERO, NOT_READING, || None);
            assert!(matches!(seen, Verdict::Ping(_)), "{seen:?}: it can answer nothing, and so it asks");
        }
        let again = liveness.due();
        assert!(
            matches!(liveness.look(again, Duration::ZERO, OPEN, || None), Verdict::Ping(_)),
            "asked first when it reads again"
        );
        assert_eq!(dies(&mut liveness, again), UNANSWERED);
    }

    #[test]
    fn a_flood_of_pings_is_too_many_for_the_time() {
        let began = Instant::now();
        let mut liveness = Liveness::new(began);
        let many = |liveness: &mut Liveness, now| (0..1000).take_while(|_| liveness.pinged(now)).count();
        assert_eq!(many(&mut liveness, began), 64);
        assert_eq!(many(&mut liveness, began + Duration::from_secs(3)), 12);
        assert_eq!(many(&mut liveness, began + Duration::from_secs(3600)), 64, "no more than at once");
    }

    #[test]
    fn pings_of_an_end_that_does_not_read_are_never_too_many() {
        // Both ends have a slow receiver for a day: each asks once a heartbeat, and neither hears it.
        let began = Instant::now();
        let mut liveness = Liveness::new(began);
        let day = 24 * 3600 * 1000 / HEARTBEAT.as_millis() as u32;
        for look in 0..day {
            liveness.look(began + look * HEARTBEAT, Duration::ZERO, NOT_READING, || None);
        }
        let now = began + day * HEARTBEAT;
        assert!((0..day).all(|_| liveness.pinged(now)), "all of them at once, when it reads again");
        // As long as it does nothing else.
        for look in 0..day {
            assert!(liveness.pinged(now + look * HEARTBEAT));
        }
    }
}
