//! Who is alive, and what has been: the books of all sessions.
//!
//! A session's bytes are counted in its own [`Meter`], which the relay alone writes. The short
//! lock of the registry is taken when a session starts, when it ends, and for a picture; never
//! for a byte. A [`Record`] closes its books once, when it is dropped.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    clock,
    end::{End, Who},
    notices::Notices,
    snapshot::{EndedRow, NoticeLevel, SessionPhase, SessionRow, Totals},
};
use crate::profile::{Role, ServiceName};

/// Ended sessions kept for the picture.
const ENDED_MAX: usize = 512;
/// Rows of open sessions in one picture; the busiest, when there are more.
pub const ROWS_MAX: usize = 20_000;

/// Bytes of one session, written by its relay alone.
#[derive(Debug, Default)]
pub struct Meter {
    up: AtomicU64,
    down: AtomicU64,
    phase: AtomicU8,
    /// When each phase was entered last, in microseconds of the process; 0: never.
    entered_us: [AtomicU64; 6],
    /// `clock::coarse_ms` of the last byte.
    moved_ms: AtomicU64,
}

impl Meter {
    pub fn add_up(&self, bytes: usize) {
        self.up.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved_ms.store(clock::coarse_ms(), Ordering::Relaxed);
    }

    pub fn add_down(&self, bytes: usize) {
        self.down.fetch_add(bytes as u64, Ordering::Relaxed);
        self.moved_ms.store(clock::coarse_ms(), Ordering::Relaxed);
    }

    /// Bytes that were sent to a gateway which refused them, and will be sent again.
    pub fn take_back_up(&self, bytes: usize) {
        self.up.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes both ways: it stands still while nothing moves.
    pub fn bytes(&self) -> u64 {
        self.up() + self.down()
    }

    pub fn enter(&self, phase: SessionPhase) {
        // The relay says where it is at every turn; the clock is read when that is new.
        if self.phase.load(Ordering::Relaxed) == phase as u8 && self.entered(phase).is_some() {
            return;
        }
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.entered_us[phase as usize].store(clock::now_us().max(1), Ordering::Relaxed);
    }

    /// How long the client waited for a link, or has waited up to now; `None` where none is needed.
    pub fn waited(&self) -> Option<Duration> {
        self.between(SessionPhase::Waiting, SessionPhase::Connecting).or_else(|| {
            Some(Duration::from_micros(clock::now_us().saturating_sub(self.entered(SessionPhase::Waiting)?)))
        })
    }

    fn entered(&self, phase: SessionPhase) -> Option<u64> {
        Some(self.entered_us[phase as usize].load(Ordering::Relaxed)).filter(|&at| at > 0)
    }

    /// From the start of one phase to the start of the next.
    fn between(&self, from: SessionPhase, to: SessionPhase) -> Option<Duration> {
        self.entered(to)?.checked_sub(self.entered(from)?).map(Duration::from_micros)
    }

    pub fn phase(&self) -> SessionPhase {
        use SessionPhase::{Authorising, Connecting, Draining, Negotiating, Relaying, Waiting};
        let phases = [Negotiating, Authorising, Waiting, Connecting, Relaying, Draining];
        phases[usize::from(self.phase.load(Ordering::Relaxed)).min(phases.len() - 1)]
    }

    fn up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

/// What a session is in the books: a client's, or a check of the way, which counts nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Client,
    Probe,
}

/// What is known of an open session.
#[derive(Debug)]
struct Session {
    id: String,
    role: Role,
    service: ServiceName,
    client: String,
    kind: Kind,
    peer: Mutex<Option<Arc<str>>>,
    started: Instant,
    meter: Arc<Meter>,
    kill: CancellationToken,
    /// Up and down at the last tick, for the rates; touched by the tick alone.
    last: [AtomicU64; 2],
    rates: [AtomicU64; 2],
}

/// The books of all sessions of one gateway.
#[derive(Debug)]
pub struct Registry {
    books: Mutex<Books>,
    notices: Arc<Notices>,
    tag: u16,
}

#[derive(Debug, Default)]
struct Books {
    next: u64,
    open: HashMap<u64, Arc<Session>>,
    closed: HashMap<(Role, ServiceName), Totals>,
    ended: VecDeque<Ended>,
    /// When the rates were worked out last.
    ticked: Option<Instant>,
}

#[derive(Debug)]
struct Ended {
    session: Arc<Session>,
    end: End,
    at: Instant,
    seconds: f64,
}

impl Books {
    fn clients(&self) -> impl Iterator<Item = (&u64, &Arc<Session>)> {
        self.open.iter().filter(|(_, session)| session.kind == Kind::Client)
    }
}

impl Registry {
    pub fn new(notices: Arc<Notices>) -> Self {
        Self { books: Mutex::default(), notices, tag: fastrand::u16(..) }
    }

    /// A session starts; `id` is what the other gateway calls it, where it came from there.
    pub fn open(
        self: &Arc<Self>,
        (role, service): (Role, ServiceName),
        id: Option<String>,
        client: String,
        kind: Kind,
        kill: CancellationToken,
    ) -> Record {
        let mut books = self.lock();
        books.next += 1;
        let key = books.next;
        let meter = Arc::new(Meter::default());
        meter.moved_ms.store(clock::coarse_ms(), Ordering::Relaxed);
        let session = Arc::new(Session {
            id: id.unwrap_or_else(|| format!("{:04x}-{key:x}", self.tag)),
            role,
            service,
            client,
            kind,
            peer: Mutex::default(),
            started: Instant::now(),
            meter,
            kill,
            last: Default::default(),
            rates: Default::default(),
        });
        books.open.insert(key, session.clone());
        Record { registry: self.clone(), key, session, end: None }
    }

    /// Ends a session by its id, in a pair run by one process on both halves; false if there is none.
    pub fn kill(&self, id: &str) -> bool {
        let books = self.lock();
        let found = books.open.values().filter(|session| session.id == id);
        found.inspect(|session| session.kill.cancel()).count() > 0
    }

    /// Open sessions now.
    pub fn open_count(&self) -> usize {
        self.lock().clients().count()
    }

    /// Totals of each service that has had a session, open ones included.
    pub fn totals(&self) -> HashMap<(Role, ServiceName), Totals> {
        let books = self.lock();
        let mut totals = books.closed.clone();
        for (_, session) in books.clients() {
            let of_service = totals.entry((session.role, session.service.clone())).or_default();
            of_service.sessions_open += 1;
            of_service.sessions += u64::from(session.meter.phase() >= SessionPhase::Relaying);
            of_service.bytes_up += session.meter.up();
            of_service.bytes_down += session.meter.down();
        }
        totals
    }

    /// Rows of open sessions, and how many were left out.
    pub fn rows(&self) -> (Vec<SessionRow>, usize) {
        let mut open: Vec<_> = self.lock().clients().map(|(key, session)| (*key, session.clone())).collect();
        let left_out = open.len().saturating_sub(ROWS_MAX);
        if left_out > 0 {
            open.sort_by_key(|(_, session)| {
                std::cmp::Reverse(
                    session.rates[0].load(Ordering::Relaxed) + session.rates[1].load(Ordering::Relaxed),
                )
            });
            open.truncate(ROWS_MAX);
        }
        open.sort_by_key(|(key, _)| *key);
        (open.iter().map(|(_, session)| session.row()).collect(), left_out)
    }

    /// Rows of ended sessions, newest first.
    pub fn ended(&self) -> Vec<EndedRow> {
        self.lock().ended.iter().rev().map(Ended::row).collect()
    }

    /// Works out the rates since the last call.
    pub fn tick(&self) {
        let mut books = self.lock();
        let seconds = books.ticked.replace(Instant::now()).map_or(f64::MAX, |at| at.elapsed().as_secs_f64());
        for session in books.open.values() {
            let now = [session.meter.up(), session.meter.down()];
            for (direction, bytes) in now.into_iter().enumerate() {
                let before = session.last[direction].swap(bytes, Ordering::Relaxed);
                let rate = bytes.saturating_sub(before) as f64 / seconds.max(0.001);
                session.rates[direction].store(rate as u64, Ordering::Relaxed);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        // A panic while it was held leaves plain numbers, still the best there are.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, key: u64, session: Arc<Session>, end: End) {
        let seconds = session.started.elapsed().as_secs_f64();
        session.log(&end, seconds, &self.notices);
        let mut books = self.lock();
        books.open.remove(&key);
        if session.kind == Kind::Probe {
            return;
        }
        let totals = books.closed.entry((session.role, session.service.clone())).or_default();
        // A client that left before it was carried was not refused by us.
        let carried = session.meter.phase() >= SessionPhase::Relaying || end.who == Who::Client;
        totals.sessions += u64::from(carried);
        totals.refused += u64::from(!carried);
        totals.bytes_up += session.meter.up();
        totals.bytes_down += session.meter.down();
        books.ended.push_back(Ended { session, end, at: Instant::now(), seconds });
        if books.ended.len() > ENDED_MAX {
            books.ended.pop_front();
        }
    }
}

impl Session {
    /// The gateway it came through or goes to, the last one that was tried.
    fn peer(&self) -> Option<Arc<str>> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn row(&self) -> SessionRow {
        let still_ms = clock::coarse_ms().saturating_sub(self.meter.moved_ms.load(Ordering::Relaxed));
        SessionRow {
            id: self.id.clone(),
            role: self.role,
            service: self.service.to_string(),
            client: self.client.clone(),
            peer: self.peer().map(|peer| peer.to_string()),
            phase: self.meter.phase(),
            age_seconds: self.started.elapsed().as_secs_f64(),
            idle_seconds: still_ms as f64 / 1000.0,
            bytes_up: self.meter.up(),
            bytes_down: self.meter.down(),
            rate_up: self.rates[0].load(Ordering::Relaxed),
            rate_down: self.rates[1].load(Ordering::Relaxed),
            waited_ms: self.meter.between(SessionPhase::Waiting, SessionPhase::Connecting).map(ms),
            connected_ms: self.meter.between(SessionPhase::Connecting, SessionPhase::Relaying).map(ms),
        }
    }

    /// One line for each session; one more for the operator where somebody else than the client
    /// or the operator ended it.
    fn log(&self, end: &End, seconds: f64, notices: &Notices) {
        tracing::info!(
            id = self.id,
            service = self.service.as_str(),
            client = self.client,
            peer = self.peer().as_deref().unwrap_or("-"),
            end = end.code(),
            seconds = (seconds * 1000.0).round() / 1000.0,
            up = self.meter.up(),
            down = self.meter.down(),
            reason = end.reason,
            "{}",
            match self.kind {
                Kind::Client => "session ended",
                Kind::Probe => "probe ended",
            }
        );
        if self.kind == Kind::Probe {
            return;
        }
        match end.who {
            Who::Nobody | Who::Client | Who::Operator => {}
            Who::Internal => notices.keep(NoticeLevel::Error, format!("{}: {end}", self.service)),
            Who::Backend | Who::Peer | Who::Time | Who::Limit | Who::Policy => {
                notices.keep(NoticeLevel::Warn, format!("{}: {end}", self.service));
            }
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

impl Ended {
    fn row(&self) -> EndedRow {
        EndedRow {
            id: self.session.id.clone(),
            role: self.session.role,
            service: self.session.service.to_string(),
            client: self.session.client.clone(),
            peer: self.session.peer().map(|peer| peer.to_string()),
            end: self.end.code(),
            reason: self.end.reason.clone(),
            seconds: self.seconds,
            ago_seconds: self.at.elapsed().as_secs_f64(),
            bytes_up: self.session.meter.up(),
            bytes_down: self.session.meter.down(),
        }
    }
}

/// An open session's place in the books; dropping it closes them.
#[derive(Debug)]
pub struct Record {
    registry: Arc<Registry>,
    key: u64,
    session: Arc<Session>,
    end: Option<End>,
}

impl Record {
    pub fn meter(&self) -> &Arc<Meter> {
        &self.session.meter
    }

    pub fn id(&self) -> &str {
        &self.session.id
    }

    /// The peer gateway that carries it is known.
    pub fn carried_by(&self, peer: &Arc<str>) {
        *self.session.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer.clone());
    }

    /// Ends the session's books with this end; without it, a bug ended it.
    pub fn finish(mut self, end: End) {
        self.end = Some(end);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let phase = self.session.meter.phase();
        let bug = || End { who: Who::Internal, phase, reason: "its task failed; this is a bug".into() };
        let end = self.end.take().unwrap_or_else(bug);
        self.registry.close(self.key, self.session.clone(), end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_is_timed_from_its_first_moment() {
        let meter = Meter::default();
        assert_eq!(meter.waited(), None, "a session that needs no link");
        meter.enter(SessionPhase::Waiting);
        assert!(meter.waited().is_some(), "while it waits");
        std::thread::sleep(Duration::from_millis(3));
        meter.enter(SessionPhase::Connecting);
        meter.enter(SessionPhase::Relaying);
        let before = (meter.waited(), meter.between(SessionPhase::Connecting, SessionPhase::Relaying));
        assert!(before.0.is_some_and(|wait| wait >= Duration::from_millis(3)));
        std::thread::sleep(Duration::from_millis(3));
        // As the relay does at every turn.
        meter.enter(SessionPhase::Relaying);
        let after = (meter.waited(), meter.between(SessionPhase::Connecting, SessionPhase::Relaying));
        assert_eq!(before, after);
    }
}
