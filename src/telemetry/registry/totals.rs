//! The totals of a service's sessions, updated as things happen: a snapshot with thousands of sessions costs no
//! more than one with none.
//!
//! Bytes are added where they move. Each thread has its own part of the sum, so no session waits for another's
//! cache line. Probes are not counted.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
};

use crate::telemetry::{clock, snapshot::TrafficTotals};

/// If there are more threads than this, they share parts.
const PARTS: usize = 16;

/// The totals of one service at one half.
#[derive(Debug, Default)]
pub struct ServiceTotals {
    parts: [ByteTotals; PARTS],
    /// Clients accepted so far.
    begun: AtomicU64,
    /// How many of them were carried so far.
    carried: AtomicU64,
    /// Clients whose sessions have ended: carried, gone before that, or refused.
    ended: AtomicU64,
    left: AtomicU64,
    refused: AtomicU64,
    /// When a session was last carried, in microseconds of the process; 0 if none was.
    reached_us: AtomicU64,
}

/// Alone on its cache lines; some processors fetch two at a time.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ByteTotals {
    up: AtomicU64,
    down: AtomicU64,
}

/// The end of a client whose session was never carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedEnd {
    /// It went by itself.
    Left,
    Refused,
}

impl ServiceTotals {
    pub fn read(&self) -> TrafficTotals {
        let read = |of: &AtomicU64| of.load(Ordering::Relaxed);
        let sum = |of: fn(&ByteTotals) -> &AtomicU64| self.parts.iter().map(|part| read(of(part))).sum();
        // A session may become carried at any moment; everything else changes under the registry's lock.
        let (carried, ended, left, refused) =
            (read(&self.carried), read(&self.ended), read(&self.left), read(&self.refused));
        let sessions_open = carried.saturating_sub(ended);
        TrafficTotals {
            sessions_open,
            sessions_waiting: read(&self.begun).saturating_sub(ended + left + refused + sessions_open),
            sessions: carried + left,
            refused,
            bytes_up: sum(|part| &part.up),
            bytes_down: sum(|part| &part.down),
        }
    }

    /// Clients whose sessions have not ended.
    pub fn open(&self) -> u64 {
        let totals = self.read();
        totals.sessions_open + totals.sessions_waiting
    }

    pub fn reached_us(&self) -> u64 {
        self.reached_us.load(Ordering::Relaxed)
    }

    fn part(&self) -> &ByteTotals {
        &self.parts[own_part()]
    }
}

/// The part of this thread.
fn own_part() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % PARTS);
    }
    OWN.get()
}

/// The part of its service's totals that one client's session adds.
///
/// ```text
/// waiting ─► carried ─► ended
///    └──────────────────► ended
/// ```
#[derive(Debug)]
pub struct SessionTally {
    totals: Arc<ServiceTotals>,
    /// Where it counts as well.
    also: Option<Arc<ServiceTotals>>,
    state: AtomicU8,
    /// Bytes of the client that are not in any total yet: before the session is carried, they may come back.
    pending_up: AtomicU64,
}

const WAITING: u8 = 0;
const CARRIED: u8 = 1;
const ENDED: u8 = 2;

impl SessionTally {
    /// Notes that a client was accepted.
    pub fn begin(totals: Arc<ServiceTotals>, also: Option<Arc<ServiceTotals>>) -> Self {
        let tally = Self { totals, also, state: AtomicU8::new(WAITING), pending_up: AtomicU64::new(0) };
        tally.each(|totals| _ = totals.begun.fetch_add(1, Ordering::Relaxed));
        tally
    }

    fn each(&self, count: impl Fn(&ServiceTotals)) {
        count(&self.totals);
        self.also.iter().for_each(|also| count(also));
    }

    pub fn add_up(&self, bytes: u64) {
        match self.state.load(Ordering::Relaxed) {
            CARRIED => self.each(|totals| _ = totals.part().up.fetch_add(bytes, Ordering::Relaxed)),
            WAITING => {
                self.pending_up.fetch_add(bytes, Ordering::SeqCst);
                // It may have become carried since the check; whoever comes second then adds what is pending.
                if self.state.load(Ordering::SeqCst) == CARRIED {
                    self.add_pending();
                }
            }
            // What moves after the end of a session is in no total, since its end has been counted already.
            _ => {}
        }
    }

    pub fn take_back_up(&self, bytes: u64) {
        self.pending_up.fetch_sub(bytes, Ordering::SeqCst);
    }

    pub fn add_down(&self, bytes: u64) {
        if self.state.load(Ordering::Relaxed) != ENDED {
            self.each(|totals| _ = totals.part().down.fetch_add(bytes, Ordering::Relaxed));
        }
    }

    /// Notes that a backend was reached; only the first call counts.
    pub fn note_carried(&self) {
        self.totals.reached_us.fetch_max(clock::now_us().max(1), Ordering::Relaxed);
        // Counted first, so that an end right afterwards sees it.
        self.each(|totals| _ = totals.carried.fetch_add(1, Ordering::Relaxed));
        match self.state.compare_exchange(WAITING, CARRIED, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => self.add_pending(),
            Err(_) => self.each(|totals| _ = totals.carried.fetch_sub(1, Ordering::Relaxed)),
        }
    }

    /// Notes that its session has ended; `otherwise` says how, if it was never carried. Only the first call
    /// counts.
    pub fn end(&self, otherwise: CountedEnd) {
        let counter: fn(&ServiceTotals) -> &AtomicU64 =
            match (self.state.swap(ENDED, Ordering::SeqCst), otherwise) {
                (CARRIED, _) => |totals| &totals.ended,
                (WAITING, CountedEnd::Left) => |totals| &totals.left,
                (WAITING, CountedEnd::Refused) => |totals| &totals.refused,
                (_, CountedEnd::Left | CountedEnd::Refused) => return,
            };
        self.each(|totals| _ = counter(totals).fetch_add(1, Ordering::Relaxed));
    }

    fn add_pending(&self) {
        let bytes = self.pending_up.swap(0, Ordering::SeqCst);
        self.each(|totals| _ = totals.part().up.fetch_add(bytes, Ordering::Relaxed));
    }
}
