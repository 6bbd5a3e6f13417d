//! Whether a link's other end is alive, measured by clocks that start when something has happened.
//!
//! A link is checked once a [`PING_INTERVAL`]. If nothing was heard since the last check, a ping is sent. If it is
//! not answered for [`PONG_TIMEOUT`] and nothing else was heard meanwhile, the other end is dead. That is 8.5 to
//! 11 s after it was last heard, whatever devices on the way may acknowledge for it.
//!
//! Time in which we did not listen does not count as silence. If a check is late because this process was
//! stopped or is short of CPU time, the deadline moves by that delay. And while a ping is still queued behind
//! other bytes or a closed window and has not reached the other end's kernel, that kernel's acknowledgements
//! count as an answer.

use std::time::Duration;

use tokio::time::Instant;

use crate::{admission::token_bucket::TokenBucket, proto::multiplex::frame::PING_BYTES};

/// Time between two checks.
pub const PING_INTERVAL: Duration = Duration::from_millis(2500);
/// If a ping is not answered for this long and nothing else is heard, the other end is dead.
pub const PONG_TIMEOUT: Duration = Duration::from_secs(6);
/// The longest time since a dead link was last heard, even if this process is short of CPU time.
pub const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How many pings an end may send at once, and how many more each second; it normally sends one each
/// [`PING_INTERVAL`].
const PINGS_AT_ONCE: f64 = 64.0;
const PINGS_A_SECOND: f64 = 4.0;

#[derive(Debug)]
pub struct LinkLiveness {
    /// When the next check is due.
    due: Instant,
    has_received: bool,
    question: Option<PendingPing>,
    /// Since when none of our pings could be written.
    blocked_since: Option<Instant>,
    /// How many pings the other end may still send.
    pings: TokenBucket,
    next: u64,
}

/// A ping that has not been answered.
#[derive(Debug)]
struct PendingPing {
    token: u64,
    sent_at: Instant,
    dead_at: Instant,
}

/// The result of a check.
#[derive(Debug, PartialEq, Eq)]
pub enum LivenessVerdict {
    Alive,
    /// A ping with this token is due.
    Ping([u8; PING_BYTES]),
    Dead,
}

/// Whether a ping of ours could be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteState {
    Yes,
    /// The socket accepts nothing now.
    Blocked,
}

impl LinkLiveness {
    pub fn new(now: Instant) -> Self {
        Self {
            due: now + PING_INTERVAL,
            has_received: false,
            question: None,
            blocked_since: None,
            pings: TokenBucket::new(PINGS_AT_ONCE, now.into_std()),
            next: 0,
        }
    }

    /// When to check next.
    pub fn next_check(&self) -> Instant {
        self.due
    }

    /// Notes that some byte has come.
    pub fn note_received(&mut self) {
        self.has_received = true;
    }

    /// Notes a ping; returns false if there are too many for the time.
    pub fn note_ping(&mut self, now: Instant) -> bool {
        self.earn_pings(now);
        self.pings.take()
    }

    /// Notes an answer; returns the round trip if it answers the last ping.
    pub fn note_pong(&mut self, token: [u8; PING_BYTES], now: Instant) -> Option<Duration> {
        let question = self.question.take_if(|question| question.token.to_be_bytes() == token)?;
        Some(now.saturating_duration_since(question.sent_at))
    }

    /// Performs one check, `delay` after it was due. `unacknowledged` returns how long the other end's kernel
    /// has not acknowledged what is on its way, or `None` if it has acknowledged everything.
    pub fn check(
        &mut self,
        now: Instant,
        delay: Duration,
        writing: WriteState,
        unacknowledged: impl FnOnce() -> Option<Duration>,
    ) -> LivenessVerdict {
        self.due = now + PING_INTERVAL;
        self.earn_pings(now);
        let has_received = std::mem::take(&mut self.has_received);
        if writing == WriteState::Blocked {
            self.question = None;
            let since = *self.blocked_since.get_or_insert(now);
            let silent = unacknowledged().unwrap_or_default().min(now - since);
            return if silent >= PONG_TIMEOUT { LivenessVerdict::Dead } else { LivenessVerdict::Alive };
        }
        self.blocked_since = None;
        match &mut self.question {
            _ if has_received => {
                self.question = None;
                LivenessVerdict::Alive
            }
            None => self.send_ping(now),
            Some(question) => {
                question.dead_at += delay;
                if now >= question.dead_at {
                    let silent = unacknowledged().unwrap_or(PONG_TIMEOUT);
                    let Some(left) = PONG_TIMEOUT.checked_sub(silent).filter(|left| !left.is_zero()) else {
                        return LivenessVerdict::Dead;
                    };
                    question.dead_at = now + left;
                }
                self.due = self.due.min(question.dead_at);
                LivenessVerdict::Alive
            }
        }
    }

    fn earn_pings(&mut self, now: Instant) {
        self.pings.refill(now.into_std(), PINGS_A_SECOND, PINGS_AT_ONCE);
    }

    fn send_ping(&mut self, now: Instant) -> LivenessVerdict {
        let token = self.token();
        self.question = Some(PendingPing { token: self.next, sent_at: now, dead_at: now + PONG_TIMEOUT });
        LivenessVerdict::Ping(token)
    }

    /// A token that no ping of this end has used.
    pub fn token(&mut self) -> [u8; PING_BYTES] {
        self.next += 1;
        self.next.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: WriteState = WriteState::Yes;
    const MS: Duration = Duration::from_millis(1);

    /// Checks whenever a check is due, until the other end is dead; returns how long that took from `began`.
    fn dies(liveness: &mut LinkLiveness, began: Instant) -> Duration {
        loop {
            let now = liveness.next_check();
            if liveness.check(now, Duration::ZERO, OPEN, || None) == LivenessVerdict::Dead {
                return now - began;
            }
        }
    }

    #[test]
    fn silence_is_asked_about_and_then_believed() {
        let began = Instant::now();
        let mut liveness = LinkLiveness::new(began);
        liveness.note_received();
        assert_eq!(
            liveness.check(liveness.next_check(), Duration::ZERO, OPEN, || None),
            LivenessVerdict::Alive
        );
        let checked_at = liveness.next_check();
        let LivenessVerdict::Ping(token) = liveness.check(checked_at, Duration::ZERO, OPEN, || None) else {
            panic!("a ping is due")
        };
        assert!(liveness.note_pong([9; PING_BYTES], checked_at + MS).is_none(), "not what was asked");
        assert_eq!(liveness.note_pong(token, checked_at + MS), Some(MS));
        assert!(liveness.note_pong(token, checked_at + MS).is_none(), "answered once");
        liveness.note_received();
        assert_eq!(
            liveness.check(liveness.next_check(), Duration::ZERO, OPEN, || None),
            LivenessVerdict::Alive
        );
        let checked_at = liveness.next_check();
        assert_eq!(dies(&mut liveness, checked_at), PONG_TIMEOUT);
    }

    #[test]
    fn silence_is_time_and_not_a_number_of_looks() {
        let began = Instant::now();
        let mut liveness = LinkLiveness::new(began);
        assert!(matches!(liveness.check(began, Duration::ZERO, OPEN, || None), LivenessVerdict::Ping(_)));
        for look in 1..6000 {
            let now = began + look * MS;
            assert_eq!(
                liveness.check(now, Duration::ZERO, OPEN, || None),
                LivenessVerdict::Alive,
                "{look} ms"
            );
        }
        assert_eq!(
            liveness.check(began + PONG_TIMEOUT, Duration::ZERO, OPEN, || None),
            LivenessVerdict::Dead
        );
    }

    #[test]
    fn time_while_the_process_was_stopped_is_not_counted() {
        let began = Instant::now();
        let mut liveness = LinkLiveness::new(began);
        assert!(matches!(liveness.check(began, Duration::ZERO, OPEN, || None), LivenessVerdict::Ping(_)));
        // Stopped for an hour, from just before a check.
        let delay = Duration::from_secs(3600);
        let woken = liveness.next_check() + delay;
        assert_eq!(liveness.check(woken, delay, OPEN, || None), LivenessVerdict::Alive);
        assert_eq!(dies(&mut liveness, woken), PONG_TIMEOUT - PING_INTERVAL);
    }

    #[test]
    fn a_ping_that_is_still_on_its_way_is_answered_by_acknowledgements() {
        let began = Instant::now();
        let mut liveness = LinkLiveness::new(began);
        let acknowledged = |ago: u64| move || Some(Duration::from_secs(ago));
        assert!(matches!(liveness.check(began, Duration::ZERO, OPEN, || None), LivenessVerdict::Ping(_)));
        let mut now = began + PONG_TIMEOUT;
        for _ in 0..100 {
            assert_eq!(liveness.check(now, Duration::ZERO, OPEN, acknowledged(1)), LivenessVerdict::Alive);
            now = liveness.next_check();
        }
        now += 2 * PING_INTERVAL;
        assert_eq!(liveness.check(now, Duration::ZERO, OPEN, acknowledged(6)), LivenessVerdict::Dead);
    }

    #[test]
    fn with_a_closed_window_only_the_kernels_acknowledgements_count() {
        let began = Instant::now();
        let mut liveness = LinkLiveness::new(began);
        let blocked = WriteState::Blocked;
        for (at, acknowledged, expected) in [
            (0, 100, LivenessVerdict::Alive),
            (5, 105, LivenessVerdict::Alive),
            (6, 1, LivenessVerdict::Alive),
            (600, 5, LivenessVerdict::Alive),
            (601, 6, LivenessVerdict::Dead),
        ] {
            let silent = Some(Duration::from_secs(acknowledged));
            let now = began + Duration::from_secs(at);
            assert_eq!(liveness.check(now, Duration::ZERO, blocked, || silent), expected, "at {at} s");
        }
    }

    /// Two ends of one link. What the one sends arrives only in every second heartbeat, for 130 s of 150, so that
    /// the other end asks again and again and gets no answer.
    #[test]
    fn an_hour_in_which_one_end_is_blocked_costs_no_link() {
        let began = Instant::now();
        let (mut slow, mut other) = (LinkLiveness::new(began), LinkLiveness::new(began));
        let (mut pings, mut unanswered) = (0, Vec::new());
        for beat in 1..=1440 {
            let now = began + beat * PING_INTERVAL;
            let writing = if beat % 60 < 52 { WriteState::Blocked } else { OPEN };
            if writing == WriteState::Blocked && beat % 2 == 0 {
                other.note_received();
            }
            match slow.check(now, Duration::ZERO, writing, || Some(Duration::from_secs(1))) {
                LivenessVerdict::Alive => {}
                LivenessVerdict::Ping(token) => {
                    other.note_received();
                    assert!(other.note_ping(now), "too many at beat {beat}");
                    slow.note_received();
                    slow.note_pong(token, now);
                }
                LivenessVerdict::Dead => panic!("the blocked end gives up at beat {beat}"),
            }
            match other.check(now, Duration::ZERO, OPEN, || None) {
                LivenessVerdict::Alive => {}
                LivenessVerdict::Ping(token) => {
                    pings += 1;
                    slow.note_received();
                    assert!(slow.note_ping(now), "too many at beat {beat}");
                    unanswered.push(token);
                }
                LivenessVerdict::Dead => panic!("the blocked end is given up at beat {beat}"),
            }
            if writing == OPEN {
                for token in unanswered.drain(..) {
                    other.note_received();
                    other.note_pong(token, now);
                }
            }
        }
        assert!(pings > 500, "{pings}");
    }

    #[test]
    fn a_flood_of_pings_is_too_many_for_the_time() {
        let began = Instant::now();
        let mut liveness = LinkLiveness::new(began);
        let many =
            |liveness: &mut LinkLiveness, now| (0..1000).take_while(|_| liveness.note_ping(now)).count();
        assert_eq!(many(&mut liveness, began), 64);
        assert_eq!(many(&mut liveness, began + Duration::from_secs(3)), 12);
        assert_eq!(many(&mut liveness, began + Duration::from_secs(3600)), 64, "no more than at once");
    }
}
