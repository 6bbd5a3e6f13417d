//! How fast the bytes of a service and of each of its sessions may go: `rate` of the profile.
//!
//! A [`PaceClock`] is a single atomic number, so sessions share one without a lock. Each caller books bytes and
//! waits until they are earned. Later callers book after that, so each has its turn. Unused time is saved up
//! for [`BURST_WINDOW`] and no longer, which limits a burst.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// No burst has more bytes than this time is worth.
const BURST_WINDOW: Duration = Duration::from_millis(80);
/// The least time that a session books, so that a fast one does not wake up for a few bytes.
const SESSION_QUANTUM_NS: u64 = 10_000_000;
/// What a session books of its service's rate is worth at least this time; the others wait for their turn.
const SERVICE_TURN_NS: u64 = 2_000_000;

const BURST_WINDOW_NS: u64 = BURST_WINDOW.as_nanos() as u64;
const SECOND_NS: u128 = 1_000_000_000;

/// The direction of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaceDirection {
    Up,
    Down,
}

/// The time at which everything booked so far is earned.
#[derive(Debug, Default)]
pub struct PaceClock {
    next_free_ns: AtomicU64,
    /// The rate under which that was booked.
    rate: AtomicU64,
}

/// The limits of one service, and what its sessions together have used of them.
#[derive(Debug)]
pub struct ServicePace {
    start: Instant,
    /// Bytes a second; 0 means no limit.
    session: AtomicU64,
    service: AtomicU64,
    clocks: [PaceClock; 2],
}

/// A direction of one session.
#[derive(Debug)]
pub struct SessionPace {
    of: Arc<ServicePace>,
    direction: PaceDirection,
    own: PaceClock,
}

/// Bytes that may go after a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaceBooking {
    pub bytes: usize,
    pub wait: Duration,
}

impl Default for ServicePace {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            session: AtomicU64::new(0),
            service: AtomicU64::new(0),
            clocks: Default::default(),
        }
    }
}

impl ServicePace {
    /// Sets the limits in bytes a second, also for open sessions.
    pub fn set(&self, session: Option<u64>, service: Option<u64>) {
        self.session.store(session.unwrap_or(0), Ordering::Relaxed);
        self.service.store(service.unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether anything is limited.
    pub fn is_bounded(&self) -> bool {
        self.rates() != (0, 0)
    }

    fn rates(&self) -> (u64, u64) {
        (self.session.load(Ordering::Relaxed), self.service.load(Ordering::Relaxed))
    }

    fn direction(&self, direction: PaceDirection) -> &PaceClock {
        &self.clocks[direction as usize]
    }

    fn now_ns(&self) -> u64 {
        // Ahead by what may be saved up, so that nothing lies before the start.
        self.start.elapsed().as_nanos() as u64 + BURST_WINDOW_NS
    }
}

impl SessionPace {
    pub fn new(of: Arc<ServicePace>, direction: PaceDirection) -> Self {
        Self { of, direction, own: PaceClock::default() }
    }

    /// The limits in force: what was booked under others is no longer waited for.
    pub fn limits(&self) -> (u64, u64) {
        self.of.rates()
    }

    /// Books some of `wanted` bytes. What is not sent must be given back.
    pub fn reserve(&self, wanted: usize) -> PaceBooking {
        let (session, service) = self.of.rates();
        let now_ns = self.of.now_ns();
        let own = self.own.reserve(session, now_ns, wanted, SESSION_QUANTUM_NS);
        let shared = self.of.direction(self.direction).reserve(service, now_ns, own.bytes, SERVICE_TURN_NS);
        self.own.give_back(session, own.bytes - shared.bytes);
        PaceBooking { bytes: shared.bytes, wait: own.wait.max(shared.wait) }
    }

    /// Gives back bytes that were not sent.
    pub fn give_back(&self, bytes: usize) {
        let (session, service) = self.of.rates();
        self.own.give_back(session, bytes);
        self.of.direction(self.direction).give_back(service, bytes);
    }
}

impl PaceClock {
    /// Books what is saved up, or one turn, after everything booked before.
    fn reserve(&self, rate: u64, now_ns: u64, wanted: usize, turn_ns: u64) -> PaceBooking {
        let mut booking = PaceBooking { bytes: wanted, wait: Duration::ZERO };
        if self.rate.load(Ordering::Relaxed) != rate {
            self.rate.store(rate, Ordering::Relaxed);
            self.next_free_ns.store(0, Ordering::Relaxed);
        }
        if rate == 0 {
            return booking;
        }
        // If somebody else has booked in between, this is calculated again.
        let _ = self.next_free_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |earned| {
            let from = earned.max(now_ns.saturating_sub(BURST_WINDOW_NS));
            let worth = now_ns.saturating_sub(from).max(turn_ns);
            let bytes = bytes_in(rate, worth).clamp(1, wanted.max(1));
            let until = from.saturating_add(cost_ns(rate, bytes));
            booking = PaceBooking { bytes, wait: Duration::from_nanos(until.saturating_sub(now_ns)) };
            Some(until)
        });
        booking
    }

    fn give_back(&self, rate: u64, bytes: usize) {
        if rate > 0 && bytes > 0 {
            // A profile may have changed the rate since they were booked.
            let cost = cost_ns(rate, bytes);
            let less = |earned: u64| Some(earned.saturating_sub(cost));
            let _ = self.next_free_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// How long this many bytes take.
fn cost_ns(rate: u64, bytes: usize) -> u64 {
    u64::try_from(bytes as u128 * SECOND_NS / u128::from(rate)).unwrap_or(u64::MAX / 4)
}

/// How many bytes this time is worth.
fn bytes_in(rate: u64, ns: u64) -> usize {
    usize::try_from(u128::from(ns) * u128::from(rate) / SECOND_NS).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    /// Takes what it gets, in chunks of this size, for this long; returns the bytes by the time they went.
    async fn take(pace: SessionPace, chunk: usize, lasting: Duration) -> Vec<(Duration, usize)> {
        let (start, mut taken) = (Instant::now(), Vec::new());
        while start.elapsed() < lasting {
            let PaceBooking { bytes, wait } = pace.reserve(chunk);
            if !wait.is_zero() {
                sleep(wait).await;
            }
            taken.push((start.elapsed(), bytes));
        }
        taken
    }

    fn total(taken: &[(Duration, usize)]) -> f64 {
        taken.iter().map(|(_, bytes)| *bytes as f64).sum()
    }

    fn paced(session: Option<u64>, service: Option<u64>) -> Arc<ServicePace> {
        let pace = ServicePace::default();
        pace.set(session, service);
        Arc::new(pace)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_keeps_its_rate_and_bursts_no_longer_than_a_tenth_of_a_second() {
        for rate in [10, 1_000, 1_000_000, 50_000_000] {
            let pace = paced(Some(rate), None);
            // Time that was not used meanwhile is not saved up any further.
            advance(Duration::from_secs(60)).await;
            let own = SessionPace::new(pace, PaceDirection::Up);
            let taken = take(own, 128 * 1024, Duration::from_secs(10)).await;
            let expected = rate as f64 * 10.0;
            assert!((total(&taken) / expected - 1.0).abs() < 0.05, "{rate}: {}", total(&taken));
            assert_no_burst(&taken, rate);
        }
    }

    /// Over no time did more go than its rate allows, and a tenth of a second more.
    fn assert_no_burst(taken: &[(Duration, usize)], rate: u64) {
        let (rate, mut ahead, mut before) = (rate as f64, 0.0, Duration::ZERO);
        for (at, bytes) in taken {
            ahead = f64::max(0.0, ahead - (*at - before).as_secs_f64() * rate) + *bytes as f64;
            before = *at;
            assert!(ahead <= rate * 0.1 + 1.0, "{rate} a second: {ahead} ahead at {at:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_share_the_rate_of_their_service() {
        let pace = paced(None, Some(1_000_000));
        let each = (0..10).map(|_| {
            take(SessionPace::new(pace.clone(), PaceDirection::Down), 64 * 1024, Duration::from_secs(10))
        });
        let taken = futures_util::future::join_all(each).await;
        let all: f64 = taken.iter().map(|one| total(one)).sum();
        assert!((all / 10_000_000.0 - 1.0).abs() < 0.05, "{all}");
        for one in &taken {
            assert!((900_000.0..1_200_000.0).contains(&total(one)), "one of ten gets {}", total(one));
        }
        let mut together = taken.concat();
        together.sort_unstable();
        assert_no_burst(&together, 1_000_000);
        let other = SessionPace::new(pace, PaceDirection::Up);
        assert!(other.reserve(50_000).wait.is_zero(), "the other direction has its own");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_booked_under_a_lower_rate_holds_up_nobody() {
        let pace = paced(None, Some(10));
        let session = || SessionPace::new(pace.clone(), PaceDirection::Up);
        let waits: Vec<_> = (0..50).map(|_| session().reserve(1).wait).collect();
        assert!(waits[49] > Duration::from_secs(4), "{waits:?}");
        pace.set(None, Some(1_000_000));
        assert_eq!(session().reserve(1_000), PaceBooking { bytes: 1_000, wait: Duration::ZERO });
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_go_is_given_back() {
        let pace = paced(Some(1_000), Some(1_000));
        let own = SessionPace::new(pace.clone(), PaceDirection::Up);
        for _ in 0..1000 {
            let booking = own.reserve(80);
            assert!(booking.wait.is_zero(), "nothing was used");
            own.give_back(booking.bytes);
        }
        assert_eq!(own.reserve(80), PaceBooking { bytes: 80, wait: Duration::ZERO });
        assert!(!own.reserve(80).wait.is_zero());
        // A service without a limit limits nothing from then on.
        pace.set(None, None);
        assert_eq!(own.reserve(1 << 20), PaceBooking { bytes: 1 << 20, wait: Duration::ZERO });
    }
}
