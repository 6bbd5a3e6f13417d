//! The idle state of sessions whose clients keep their connection open between requests. A service's limit is
//! about work, so an idle session gives its permit up when another client needs it.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Context,
};

use futures_util::task::AtomicWaker;

use crate::telemetry::{log::AccessRecord, registry::SessionCounters};

const AT_WORK: u64 = 0;
const LEFT: u64 = u64::MAX;

/// Grows with each session that comes to rest, so that a smaller one has rested for longer.
static TURN: AtomicU64 = AtomicU64::new(AT_WORK + 1);

/// ```text
/// at work ⇄ at rest
///    └─────────┴──► left
/// ```
#[derive(Debug)]
pub struct IdleState {
    /// The turn at which it came to rest, or one of the other two states.
    state: AtomicU64,
    reclaim: Arc<IdleReclaim>,
    /// Times that it went to work: a request each.
    requests: Arc<AtomicU64>,
    /// Of the session, from when it begins.
    counters: OnceLock<Arc<SessionCounters>>,
    fate: Mutex<AwaitedEnd>,
}

/// How the session has ended, or whose lines in the access log wait for that.
#[derive(Debug)]
enum AwaitedEnd {
    Open(Vec<AccessRecord>),
    Ended { code: String },
}

impl IdleState {
    pub fn new_busy(reclaim: &Arc<IdleReclaim>) -> Arc<Self> {
        let fate = Mutex::new(AwaitedEnd::Open(Vec::new()));
        let (state, requests) = (AtomicU64::new(AT_WORK), Arc::new(AtomicU64::new(1)));
        Arc::new(Self { state, reclaim: reclaim.clone(), requests, counters: OnceLock::new(), fate })
    }

    fn change(&self, from: u64, to: u64) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn mark_idle(&self) {
        self.change(AT_WORK, TURN.fetch_add(1, Ordering::Relaxed));
    }

    /// Goes to work again, unless its place is somebody else's by now.
    pub fn try_mark_busy(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let is_ours = state != LEFT && self.change(state, AT_WORK);
        self.requests.fetch_add(u64::from(is_ours), Ordering::Relaxed);
        is_ours
    }

    /// The session has begun, and counts its requests from here on.
    pub fn note_session(&self, counters: &Arc<SessionCounters>) {
        counters.set_requests(self.requests.clone());
        // It begins once.
        let _ = self.counters.set(counters.clone());
    }

    /// The backend that its last request went to, where this half knows it.
    pub fn backend(&self) -> Option<Arc<str>> {
        self.counters.get()?.backend()
    }

    /// Since which turn it rests, where it does.
    pub fn idle_since(&self) -> Option<u64> {
        let state = self.state.load(Ordering::Acquire);
        (state != AT_WORK && state != LEFT).then_some(state)
    }

    /// Gives its place up, if it has rested since then; its client's connection hears of it.
    pub fn try_reclaim(&self, since: u64) -> bool {
        let gives = self.change(since, LEFT);
        if gives {
            self.reclaim.notify();
        }
        gives
    }

    pub fn is_reclaimed(&self) -> bool {
        self.state.load(Ordering::Acquire) == LEFT
    }

    /// The line of a request that ends as its session does, now or later.
    pub fn finish_with_session(&self, record: AccessRecord) {
        match &mut *self.fate.lock().unwrap_or_else(PoisonError::into_inner) {
            AwaitedEnd::Open(records) => records.push(record),
            AwaitedEnd::Ended { code } => self.finish_record(record, code),
        }
    }

    fn finish_record(&self, record: AccessRecord, code: &str) {
        let traffic = self.counters.get().map_or((0, 0), |counters| counters.traffic());
        record.finish(code, traffic, self.backend());
    }

    /// How its session has ended.
    pub fn note_end(&self, code: &str) {
        let ended = AwaitedEnd::Ended { code: code.to_owned() };
        let before = std::mem::replace(&mut *self.fate.lock().unwrap_or_else(PoisonError::into_inner), ended);
        if let AwaitedEnd::Open(records) = before {
            records.into_iter().for_each(|record| self.finish_record(record, code));
        }
    }

    /// Its session is over; whether it still had its place.
    pub fn end(&self) -> bool {
        self.state.swap(LEFT, Ordering::AcqRel) != LEFT
    }
}

/// Marks a session busy until it is dropped.
#[derive(Debug)]
pub struct BusyGuard(Arc<IdleState>);

impl BusyGuard {
    pub fn new(rest: &Arc<IdleState>) -> Self {
        Self(rest.clone())
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.mark_idle();
    }
}

/// Tells a client connection that some of its sessions were reclaimed.
#[derive(Debug, Default)]
pub struct IdleReclaim {
    is_asked: AtomicBool,
    waker: AtomicWaker,
}

impl IdleReclaim {
    fn notify(&self) {
        self.is_asked.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether some have since the last look.
    pub fn poll(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.is_asked.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_up_at_rest_alone_and_once() {
        let reclaim = Arc::default();
        let [one, other] = [IdleState::new_busy(&reclaim), IdleState::new_busy(&reclaim)];
        assert_eq!(one.idle_since(), None);
        drop(BusyGuard::new(&one));
        drop(BusyGuard::new(&other));
        let (first, second) = (one.idle_since().expect("it rests"), other.idle_since().expect("it rests"));
        assert!(first < second);
        let cx = Context::from_waker(std::task::Waker::noop());
        assert!(other.try_mark_busy() && !other.try_reclaim(second) && !reclaim.poll(&cx));
        assert!(one.try_reclaim(first) && !one.try_reclaim(first) && reclaim.poll(&cx) && !reclaim.poll(&cx));
        assert!(one.is_reclaimed() && !one.try_mark_busy() && one.idle_since().is_none());
        // What comes to its end later changes nothing.
        drop(BusyGuard::new(&one));
        assert!(one.is_reclaimed() && !one.end() && other.end());
    }
}
