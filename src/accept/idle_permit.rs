//! The idle state of sessions whose clients keep their connection open between requests. A service's limit
//! applies to sessions at work, so an idle one gives up its permit when another client needs it.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Context,
};

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::telemetry::{log::AccessRecord, registry::SessionCounters};

const BUSY: u64 = 0;
const RECLAIMED: u64 = u64::MAX;

/// Grows with each session that becomes idle, so a smaller number means idle for longer.
static IDLE_SEQUENCE: AtomicU64 = AtomicU64::new(BUSY + 1);

/// ```text
/// busy ⇄ idle
///   └──────┴──► reclaimed or ended
/// ```
#[derive(Debug)]
pub struct IdleState {
    /// The turn at which it became idle, or one of the other two states.
    state: AtomicU64,
    reclaim: Arc<IdleReclaim>,
    /// How often it went to work: once for each request.
    requests: Arc<AtomicU64>,
    /// The counters of the session, from when it begins.
    counters: OnceLock<Arc<SessionCounters>>,
    end: Mutex<AwaitedEnd>,
    /// Notified when the session has ended.
    ended: Notify,
}

/// How the session has ended, or which lines of the access log wait for that.
#[derive(Debug)]
enum AwaitedEnd {
    Open(Vec<AccessRecord>),
    Ended { code: String },
}

impl IdleState {
    pub fn new_busy(reclaim: &Arc<IdleReclaim>) -> Arc<Self> {
        let end = Mutex::new(AwaitedEnd::Open(Vec::new()));
        let (state, requests) = (AtomicU64::new(BUSY), Arc::new(AtomicU64::new(1)));
        let (reclaim, counters, ended) = (reclaim.clone(), OnceLock::new(), Notify::new());
        Arc::new(Self { state, reclaim, requests, counters, end, ended })
    }

    fn change(&self, from: u64, to: u64) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn mark_idle(&self) {
        self.change(BUSY, IDLE_SEQUENCE.fetch_add(1, Ordering::Relaxed));
    }

    /// Marks it busy again, unless its permit has been reclaimed.
    pub fn try_mark_busy(&self) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let is_ours = state != RECLAIMED && self.change(state, BUSY);
        self.requests.fetch_add(u64::from(is_ours), Ordering::Relaxed);
        is_ours
    }

    /// Notes that the session has begun; its requests are counted from here on.
    pub fn note_session(&self, counters: &Arc<SessionCounters>) {
        counters.set_requests(self.requests.clone());
        // A session begins only once.
        let _ = self.counters.set(counters.clone());
    }

    /// The backend that its last request went to, if this half knows it.
    pub fn backend(&self) -> Option<Arc<str>> {
        self.counters.get()?.backend()
    }

    /// The turn since which it is idle, if it is.
    pub fn idle_since(&self) -> Option<u64> {
        let state = self.state.load(Ordering::Acquire);
        (state != BUSY && state != RECLAIMED).then_some(state)
    }

    /// Takes the permit back from a session that has been idle since then, and notifies the client's connection.
    pub fn try_reclaim(&self, since: u64) -> bool {
        let is_reclaimed = self.change(since, RECLAIMED);
        if is_reclaimed {
            self.reclaim.notify();
        }
        is_reclaimed
    }

    pub fn is_reclaimed(&self) -> bool {
        self.state.load(Ordering::Acquire) == RECLAIMED
    }

    /// Writes the line of a request that ends together with its session, now or later.
    pub fn finish_with_session(&self, record: AccessRecord) {
        match &mut *self.end.lock().unwrap_or_else(PoisonError::into_inner) {
            AwaitedEnd::Open(records) => records.push(record),
            AwaitedEnd::Ended { code } => self.finish_record(record, code),
        }
    }

    fn finish_record(&self, record: AccessRecord, code: &str) {
        let traffic = self.counters.get().map_or((0, 0), |counters| counters.traffic());
        record.finish(code, traffic, self.backend());
    }

    /// Notes how its session has ended.
    pub fn note_end(&self, code: &str) {
        let ended = AwaitedEnd::Ended { code: code.to_owned() };
        let before = std::mem::replace(&mut *self.end.lock().unwrap_or_else(PoisonError::into_inner), ended);
        if let AwaitedEnd::Open(records) = before {
            records.into_iter().for_each(|record| self.finish_record(record, code));
        }
    }

    /// Waits until its session has ended, for the one who has reclaimed it.
    pub async fn until_ended(&self) {
        self.ended.notified().await;
    }

    /// Notes that its session has ended; returns whether it still had its permit.
    pub fn end(&self) -> bool {
        // Here and not where the end is noted: a session that is dropped midway ends here alone.
        self.ended.notify_one();
        self.state.swap(RECLAIMED, Ordering::AcqRel) != RECLAIMED
    }
}

/// Marks a session busy until it is dropped.
#[derive(Debug)]
pub struct BusyGuard(Arc<IdleState>);

impl BusyGuard {
    pub fn new(state: &Arc<IdleState>) -> Self {
        Self(state.clone())
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
    is_pending: AtomicBool,
    waker: AtomicWaker,
}

impl IdleReclaim {
    fn notify(&self) {
        self.is_pending.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether any were reclaimed since the last check.
    pub fn poll(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.is_pending.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_reclaimed_once_and_only_from_an_idle_session() {
        let reclaim = Arc::default();
        let [one, other] = [IdleState::new_busy(&reclaim), IdleState::new_busy(&reclaim)];
        assert_eq!(one.idle_since(), None);
        drop(BusyGuard::new(&one));
        drop(BusyGuard::new(&other));
        let (first, second) =
            (one.idle_since().expect("it is idle"), other.idle_since().expect("it is idle"));
        assert!(first < second);
        let cx = Context::from_waker(std::task::Waker::noop());
        assert!(other.try_mark_busy() && !other.try_reclaim(second) && !reclaim.poll(&cx));
        assert!(one.try_reclaim(first) && !one.try_reclaim(first) && reclaim.poll(&cx) && !reclaim.poll(&cx));
        assert!(one.is_reclaimed() && !one.try_mark_busy() && one.idle_since().is_none());
        // A guard that is dropped later changes nothing.
        drop(BusyGuard::new(&one));
        assert!(one.is_reclaimed() && !one.end() && other.end());
    }
}
