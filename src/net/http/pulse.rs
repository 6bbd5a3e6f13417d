//! What is under way on a client's connection, and for how long.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::payload::Held;

/// A head is complete so long after its first byte.
const HEAD: Duration = Duration::from_secs(10);
/// A connection without a request stays open for so long.
const IDLE: Duration = Duration::from_secs(75);

/// Whether anything is under way on a connection.
#[derive(Default)]
pub struct Pulse {
    exchanges: AtomicUsize,
    /// Whether something has been heard since the last request.
    heard: AtomicBool,
}

/// idle → head → exchange → idle
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Idle,
    Head,
    Exchange,
}

impl Phase {
    /// How long it may last; an exchange has deadlines of its own.
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Idle => Some(IDLE),
            Self::Head => Some(HEAD),
            Self::Exchange => None,
        }
    }
}

impl Pulse {
    /// A request has come.
    pub fn begin(self: &Arc<Self>) -> Exchange {
        self.heard.store(false, Ordering::Relaxed);
        self.exchange()
    }

    fn exchange(self: &Arc<Self>) -> Exchange {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        Exchange(self.clone())
    }

    /// Something has come.
    pub fn heard(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    pub fn phase(&self) -> Phase {
        match (self.exchanges.load(Ordering::Relaxed), self.heard.load(Ordering::Relaxed)) {
            (0, false) => Phase::Idle,
            (0, true) => Phase::Head,
            (1.., _) => Phase::Exchange,
        }
    }
}

/// A request that has been read and not been answered yet.
pub struct Exchange(Arc<Pulse>);

impl Exchange {
    /// Until the last of a response is on its way.
    pub fn held(&self) -> Held {
        Box::new(self.0.exchange())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.exchanges.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long a connection has been in its phase. The timer is moved only where it would fire too late, so
/// that a busy connection never touches it.
pub struct Watch {
    phase: Phase,
    since: Instant,
    fires: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Watch {
    pub fn begin() -> Self {
        let since = Instant::now();
        let fires = since + HEAD;
        // A connection that says nothing at all is as late as one that says too little.
        Self { phase: Phase::Head, since, fires, timer: Box::pin(sleep_until(fires)) }
    }

    /// Ready when a phase has lasted too long.
    pub fn poll(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<Phase> {
        let is_first = self.phase == Phase::Head && phase == Phase::Idle;
        if phase != self.phase && !is_first {
            self.phase = phase;
            self.since = Instant::now();
            let due = phase.limit().map(|limit| self.since + limit);
            if let Some(due) = due.filter(|due| *due < self.fires) {
                self.arm(due);
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.phase.limit().map(|limit| self.since + limit) {
                Some(due) if due <= Instant::now() => return Poll::Ready(self.phase),
                Some(due) => self.arm(due),
                None => self.arm(Instant::now() + IDLE),
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

    /// How long a connection may stay as `pulse` has it.
    async fn lasts(watch: &mut Watch, pulse: &Pulse) -> (Phase, Duration) {
        let since = Instant::now();
        let phase = poll_fn(|cx| watch.poll(pulse.phase(), cx)).await;
        (phase, Duration::from_secs(since.elapsed().as_secs()))
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_of_a_connection_has_its_time() {
        let pulse = Arc::new(Pulse::default());
        assert_eq!(lasts(&mut Watch::begin(), &pulse).await, (Phase::Head, HEAD), "nothing is said at all");
        let mut watch = Watch::begin();
        let exchange = pulse.begin();
        let asked = tokio::time::timeout(IDLE * 10, lasts(&mut watch, &pulse)).await;
        assert!(asked.is_err(), "an exchange ends by deadlines of its own");
        let held = exchange.held();
        drop(exchange);
        assert_eq!(pulse.phase(), Phase::Exchange, "its response is on its way");
        drop(held);
        assert_eq!(lasts(&mut watch, &pulse).await, (Phase::Idle, IDLE));
        let mut watch = Watch::begin();
        drop(pulse.begin());
        for phase in [Phase::Exchange, pulse.phase()] {
            assert!(poll_fn(|cx| Poll::Ready(watch.poll(phase, cx))).await.is_pending());
        }
        tokio::time::advance(IDLE / 2).await;
        pulse.heard();
        assert_eq!(lasts(&mut watch, &pulse).await, (Phase::Head, HEAD), "a next head has begun");
    }
}
