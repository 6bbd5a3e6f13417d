//! Tracks what is happening on a client's connection, and how long it may stay open. hyper has one timeout, for
//! reading a head. This tracks three phases with a time each, and knows when the last bytes of an answer have really
//! been written.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::body::BodyGuard;

/// A head must be complete this long after its first byte.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Tracks whether anything is happening on a connection.
#[derive(Default)]
pub struct KeepAliveTracker {
    exchanges: AtomicUsize,
    /// Whether anything has arrived since the last request.
    has_input: AtomicBool,
    /// The number of requests that have been read, and which of them is refused because of its target.
    requests: AtomicU64,
    refused: AtomicU64,
    /// An exchange has ended whose last bytes may not be written yet.
    unflushed: AtomicBool,
    /// A request asked for an upgrade, and the connection was not upgraded.
    stays_open: AtomicBool,
    /// Reads again when no exchange is under way, or when it is known that the connection stays HTTP.
    reader: Mutex<Option<Waker>>,
}

/// idle → head → exchange → idle
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionPhase {
    Idle,
    Head,
    Exchange,
}

impl ConnectionPhase {
    /// How long this phase may last; an exchange has deadlines of its own. A connection without a request stays
    /// open for `idle`.
    fn limit(self, idle: Duration) -> Option<Duration> {
        match self {
            Self::Idle => Some(idle),
            Self::Head => Some(HEADER_READ_TIMEOUT),
            Self::Exchange => None,
        }
    }
}

impl KeepAliveTracker {
    /// Notes a request.
    pub fn begin_exchange(self: &Arc<Self>) -> ExchangeGuard {
        self.has_input.store(false, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.exchange()
    }

    /// Whether one of this many requests is under way, or has yet to be taken.
    pub fn has_pending(&self, requests: u64) -> bool {
        self.requests.load(Ordering::Relaxed) < requests || self.phase() == ConnectionPhase::Exchange
    }

    /// Notes that the request with this number is refused because of characters in its target.
    pub fn refuse_request(&self, number: u64) {
        self.refused.store(number, Ordering::Relaxed);
    }

    /// Whether the last request is one that was refused.
    pub fn is_refused(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == self.refused.load(Ordering::Relaxed)
    }

    /// Notes that a request asks for an upgrade.
    pub fn note_upgrade_request(&self) {
        self.stays_open.store(false, Ordering::Relaxed);
    }

    /// Notes that a request was answered without an upgrade.
    pub fn note_not_upgraded(&self) {
        self.stays_open.store(true, Ordering::Relaxed);
        self.wake();
    }

    pub fn is_not_upgraded(&self) -> bool {
        self.stays_open.load(Ordering::Relaxed)
    }

    /// Registers the reader, which is polled again when an exchange has ended.
    pub fn register_reader(&self, cx: &Context<'_>) {
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
    }

    fn wake(&self) {
        if let Some(reader) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reader.wake();
        }
    }

    fn exchange(self: &Arc<Self>) -> ExchangeGuard {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        ExchangeGuard(self.clone())
    }

    /// Notes that something has arrived.
    pub fn note_received(&self) {
        self.has_input.store(true, Ordering::Relaxed);
    }

    /// Whether an answer is under way, or not completely written yet.
    pub fn is_answering(&self) -> bool {
        self.exchanges.load(Ordering::Relaxed) > 0 || self.unflushed.load(Ordering::Relaxed)
    }

    /// Notes that everything has been written.
    pub fn note_flushed(&self) {
        self.unflushed.store(false, Ordering::Relaxed);
    }

    pub fn phase(&self) -> ConnectionPhase {
        match (self.exchanges.load(Ordering::Relaxed), self.has_input.load(Ordering::Relaxed)) {
            (0, false) => ConnectionPhase::Idle,
            (0, true) => ConnectionPhase::Head,
            (1.., _) => ConnectionPhase::Exchange,
        }
    }
}

/// A request that has been read and not yet answered.
pub struct ExchangeGuard(Arc<KeepAliveTracker>);

impl ExchangeGuard {
    /// Holds the exchange until the last byte of a response is on its way.
    pub fn into_body_guard(&self) -> BodyGuard {
        Box::new(self.0.exchange())
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        self.0.unflushed.store(true, Ordering::Relaxed);
        if self.0.exchanges.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.wake();
        }
    }
}

/// Measures how long a connection has been in its phase. The timer is moved only when it would fire too late,
/// so a busy connection never touches it.
pub struct PhaseTimer {
    phase: ConnectionPhase,
    /// How many requests had been read. One may be answered between two looks.
    requests: u64,
    since: Instant,
    fires: Instant,
    timer: Pin<Box<Sleep>>,
}

impl PhaseTimer {
    pub fn begin() -> Self {
        let since = Instant::now();
        let fires = since + HEADER_READ_TIMEOUT;
        // A connection that sends nothing at all is as late as one that sends too little.
        Self { phase: ConnectionPhase::Head, requests: 0, since, fires, timer: Box::pin(sleep_until(fires)) }
    }

    /// Ready when a phase has lasted too long.
    pub fn poll(
        &mut self,
        tracker: &KeepAliveTracker,
        idle: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionPhase> {
        let requests = tracker.requests.load(Ordering::Relaxed);
        let phase = if requests == 0 { ConnectionPhase::Head } else { tracker.phase() };
        if (phase, requests) != (self.phase, self.requests) {
            (self.phase, self.requests) = (phase, requests);
            self.since = Instant::now();
            let due = phase.limit(idle).map(|limit| self.since + limit);
            if let Some(due) = due.filter(|due| *due < self.fires) {
                self.arm(due);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.phase.limit(idle).map(|limit| self.since + limit) {
                Some(due) if due <= Instant::now() => return Poll::Ready(self.phase),
                Some(due) => self.arm(due),
                None => self.arm(Instant::now() + idle),
            }
        }
        Poll::Pending
    }

    fn arm(&mut self, due: Instant) {
        self.fires = due;
        self.timer.as_mut().reset(due);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const IDLE: Duration = Duration::from_secs(75);

    /// How long a connection may stay open, according to `tracker`.
    async fn time_phase(watch: &mut PhaseTimer, tracker: &KeepAliveTracker) -> (ConnectionPhase, Duration) {
        let since = Instant::now();
        let phase = poll_fn(|cx| watch.poll(tracker, IDLE, cx)).await;
        (phase, Duration::from_secs(since.elapsed().as_secs()))
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_of_a_connection_has_its_time() {
        let tracker = Arc::new(KeepAliveTracker::default());
        assert_eq!(
            time_phase(&mut PhaseTimer::begin(), &tracker).await,
            (ConnectionPhase::Head, HEADER_READ_TIMEOUT),
            "nothing is said at all"
        );
        let mut watch = PhaseTimer::begin();
        let exchange = tracker.begin_exchange();
        let requested = tokio::time::timeout(IDLE * 10, time_phase(&mut watch, &tracker)).await;
        assert!(requested.is_err(), "an exchange ends by deadlines of its own");
        let held = exchange.into_body_guard();
        drop(exchange);
        assert_eq!(tracker.phase(), ConnectionPhase::Exchange, "its response is on its way");
        drop(held);
        assert_eq!(time_phase(&mut watch, &tracker).await, (ConnectionPhase::Idle, IDLE));
        let mut watch = PhaseTimer::begin();
        let exchange = tracker.begin_exchange();
        assert!(poll_fn(|cx| Poll::Ready(watch.poll(&tracker, IDLE, cx))).await.is_pending());
        drop(exchange);
        assert!(poll_fn(|cx| Poll::Ready(watch.poll(&tracker, IDLE, cx))).await.is_pending());
        tokio::time::advance(IDLE / 2).await;
        tracker.note_received();
        assert_eq!(
            time_phase(&mut watch, &tracker).await,
            (ConnectionPhase::Head, HEADER_READ_TIMEOUT),
            "a next head has begun"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_answered_at_once_is_a_request() {
        let tracker = Arc::new(KeepAliveTracker::default());
        let mut watch = PhaseTimer::begin();
        assert!(poll_fn(|cx| Poll::Ready(watch.poll(&tracker, IDLE, cx))).await.is_pending());
        drop(tracker.begin_exchange());
        assert_eq!(time_phase(&mut watch, &tracker).await, (ConnectionPhase::Idle, IDLE));
        let mut watch = PhaseTimer::begin();
        tracker.note_received();
        assert!(poll_fn(|cx| Poll::Ready(watch.poll(&tracker, IDLE, cx))).await.is_pending());
        tokio::time::advance(HEADER_READ_TIMEOUT / 2).await;
        drop(tracker.begin_exchange());
        tracker.note_received();
        assert_eq!(
            time_phase(&mut watch, &tracker).await,
            (ConnectionPhase::Head, HEADER_READ_TIMEOUT),
            "the next head has a time of its own"
        );
    }
}
