//! What a session counts: its bytes, its phases, and when each phase was entered. They are relaxed atomics, so that
//! the byte path takes no lock.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::totals::SessionTally;
use crate::telemetry::{clock, duration_histogram::DurationHistogram, snapshot::SessionPhase};

/// Bytes of one session, written only by its relay.
#[derive(Debug, Default)]
pub struct SessionCounters {
    up: AtomicU64,
    down: AtomicU64,
    phase: AtomicU8,
    /// When each phase was last entered, in microseconds of the process; 0 means never.
    entered_us: [AtomicU64; 6],
    /// The time of the last byte, by `clock::coarse_ms`; 0 if none has moved.
    pub(super) moved_ms: AtomicU64,
    /// The link that carries it; 0 if none does.
    via: AtomicU64,
    /// Requests that were sent over it, if it carries requests.
    requests: OnceLock<Arc<AtomicU64>>,
    backend: Mutex<BackendContact>,
    /// Its part of its service's totals; a probe has none.
    pub(super) tally: Option<SessionTally>,
}

/// A session's contact with its backend.
#[derive(Debug, Default)]
struct BackendContact {
    /// Where it is, if this half knows it. A session that carries requests may change backends.
    address: Option<Arc<str>>,
    /// Where the time to connect to it is recorded, until it is.
    connects: Option<Arc<DurationHistogram>>,
}

impl SessionCounters {
    /// The counters of a client's session.
    pub(super) fn adding_to(tally: SessionTally) -> Self {
        Self { tally: Some(tally), ..Self::default() }
    }

    pub fn add_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tally.iter().for_each(|tally| tally.add_up(bytes as u64));
        self.moved_ms.store(clock::coarse_ms(), Ordering::Relaxed);
    }

    pub fn add_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tally.iter().for_each(|tally| tally.add_down(bytes as u64));
        self.moved_ms.store(clock::coarse_ms(), Ordering::Relaxed);
    }

    /// Subtracts bytes that were sent to a gateway which refused them, and that will be sent again.
    pub fn take_back_up(&self, bytes: usize) {
        self.up.fetch_sub(bytes as u64, Ordering::Relaxed);
        self.tally.iter().for_each(|tally| tally.take_back_up(bytes as u64));
    }

    /// Sets the number of the link that carries it.
    pub fn set_via(&self, link: u64) {
        self.via.store(link, Ordering::Relaxed);
    }

    pub fn via(&self) -> Option<u64> {
        Some(self.via.load(Ordering::Relaxed)).filter(|link| *link > 0)
    }

    /// Uses the request counter of whoever reads its requests.
    pub fn set_requests(&self, requests: Arc<AtomicU64>) {
        // This is set once, when the session begins.
        let _ = self.requests.set(requests);
    }

    /// Where its requests are to be counted. If a counter is already in use, returns a detached
    /// one.
    pub fn count_requests(&self) -> Arc<AtomicU64> {
        let requests = Arc::<AtomicU64>::default();
        let _ = self.requests.set(requests.clone());
        requests
    }

    pub fn requests(&self) -> u64 {
        self.requests.get().map_or(0, |requests| requests.load(Ordering::Relaxed))
    }

    /// Sets its backend.
    pub fn set_backend(&self, address: &Arc<str>) {
        self.contact().address = Some(address.clone());
    }

    pub fn backend(&self) -> Option<Arc<str>> {
        self.contact().address.clone()
    }

    fn contact(&self) -> MutexGuard<'_, BackendContact> {
        self.backend.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes in both directions; they do not change while nothing moves.
    pub fn bytes(&self) -> u64 {
        self.up.load(Ordering::Relaxed) + self.down()
    }

    pub fn enter(&self, phase: SessionPhase) {
        // The relay reports its phase at every turn; the clock is read only if it is new.
        if self.phase.load(Ordering::Relaxed) == phase as u8 && self.entered(phase).is_some() {
            return;
        }
        self.phase.store(phase as u8, Ordering::Relaxed);
        // A client that has finished sending is carried without ever being in the first of these.
        let was_carried = [SessionPhase::Relaying, SessionPhase::Draining].map(|phase| self.entered(phase));
        self.entered_us[phase as usize].store(clock::now_us().max(1), Ordering::Relaxed);
        if phase >= SessionPhase::Relaying && was_carried == [None, None] {
            self.tally.iter().for_each(SessionTally::note_carried);
            let connects = self.contact().connects.take();
            if let Some(connects) = connects
                && let Some(took) = self.between(SessionPhase::Connecting, phase)
            {
                connects.add(took);
            }
        }
    }

    /// Sets where the time to connect is recorded.
    pub fn time_connects(&self, connects: Arc<DurationHistogram>) {
        self.contact().connects = Some(connects);
    }

    /// How long the client waited for a link, or has waited so far; `None` if it needs none.
    pub fn waited(&self) -> Option<Duration> {
        self.between(SessionPhase::Waiting, SessionPhase::Connecting).or_else(|| {
            Some(Duration::from_micros(clock::now_us().saturating_sub(self.entered(SessionPhase::Waiting)?)))
        })
    }

    pub(super) fn entered(&self, phase: SessionPhase) -> Option<u64> {
        Some(self.entered_us[phase as usize].load(Ordering::Relaxed)).filter(|&at| at > 0)
    }

    /// The time from the start of one phase to the start of the next.
    pub(super) fn between(&self, from: SessionPhase, to: SessionPhase) -> Option<Duration> {
        self.entered(to)?.checked_sub(self.entered(from)?).map(Duration::from_micros)
    }

    pub fn phase(&self) -> SessionPhase {
        use SessionPhase::{Authorising, Connecting, Draining, Negotiating, Relaying, Waiting};
        let phases = [Negotiating, Authorising, Waiting, Connecting, Relaying, Draining];
        phases[usize::from(self.phase.load(Ordering::Relaxed)).min(phases.len() - 1)]
    }

    /// Whether a backend has been reached. Before that, bytes that went to a gateway may come back.
    pub(super) fn is_carried(&self) -> bool {
        self.phase() >= SessionPhase::Relaying
    }

    /// Bytes up and down.
    pub fn traffic(&self) -> (u64, u64) {
        (self.up(), self.down())
    }

    pub(super) fn up(&self) -> u64 {
        if self.is_carried() { self.up.load(Ordering::Relaxed) } else { 0 }
    }

    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}
