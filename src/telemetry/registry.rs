//! Who is alive, and what has been: the books of all sessions.
//!
//! A session's bytes are counted in its own [`Meter`], which the relay alone writes. The short
//! lock of the registry is taken when a session starts, when it ends, and for a picture; never
//! for a byte. A [`Record`] closes its books once, when it is dropped.

mod rows;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    clock,
    cuts::Cuts,
    end::{End, Who},
    health::RefusalRow,
    notices::Notices,
    rate_limited::{LogKind, RateLimitedLog},
    refusals::Refusals,
    snapshot::{EndedRow, NoticeLevel, SessionPhase, SessionRow, Totals},
};
use crate::profile::{Role, ServiceName};

/// Ended sessions kept for the picture.
const ENDED_MAX: usize = 512;
/// Rows of open sessions in one picture; the busiest, when there are more.
pub const ROWS_MAX: usize = 20_000;

/// Rates are worked out over so long, from as many ticks at most.
const RATE_OVER: Duration = Duration::from_secs(1);
const TICKS_KEPT: usize = 8;

/// Bytes of one session, written by its relay alone.
#[derive(Debug, Default)]
pub struct Meter {
    up: AtomicU64,
    down: AtomicU64,
    phase: AtomicU8,
    /// When each phase was entered last, in microseconds of the process; 0: never.
    entered_us: [AtomicU64; 6],
    /// `clock::coarse_ms` of the last byte; 0: none has moved.
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
        self.up.load(Ordering::Relaxed) + self.down()
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

    /// Whether a backend has been reached; before that, bytes that went to a gateway may come back.
    fn is_carried(&self) -> bool {
        self.phase() >= SessionPhase::Relaying
    }

    fn up(&self) -> u64 {
        if self.is_carried() { self.up.load(Ordering::Relaxed) } else { 0 }
    }

    pub fn down(&self) -> u64 {
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
    /// Up and down at the last ticks, for the rates; touched by the tick alone.
    seen: [[AtomicU64; 2]; TICKS_KEPT],
    rates: [AtomicU64; 2],
}

/// Why no session was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotKilled {
    None,
    /// These all have the id.
    Several(Vec<String>),
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
    /// By service: what has failed at its backend since a session reached it.
    failing: HashMap<(Role, ServiceName), Failing>,
    refusals: Refusals,
    cuts: Cuts,
    ticks: u64,
    /// When the rates were worked out, with the number of the tick; oldest first.
    ticked: VecDeque<(u64, Instant)>,
}

/// Sessions that failed at one backend, one after the other.
#[derive(Debug, Clone, Default)]
pub struct Failing {
    pub sessions: u64,
    pub error: String,
    /// When the last of them failed, in microseconds of the process.
    at_us: u64,
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

    /// A session that never came to its backend tells nothing of it.
    fn judge_backend(&mut self, session: &Session, end: &End) {
        let key = (session.role, session.service.clone());
        if session.meter.is_carried() {
            self.failing.remove(&key);
        } else if end.who == Who::Backend {
            let failing = self.failing.entry(key).or_default();
            failing.sessions += 1;
            (failing.error, failing.at_us) = (end.reason.clone(), clock::now_us());
        }
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
            seen: Default::default(),
            rates: Default::default(),
        });
        books.open.insert(key, session.clone());
        Record { registry: self.clone(), key, session, end: None }
    }

    /// Ends a session by its id, in a pair run by one process on both halves; or by `PEER/ID`, since two
    /// peers may use the same.
    pub fn kill(&self, named: &str) -> Result<(), NotKilled> {
        let books = self.lock();
        let sessions = || books.open.values();
        let mut found: Vec<_> =
            sessions().filter(|session| session.peer().is_some() && session.full_name() == named).collect();
        if found.is_empty() {
            found = sessions().filter(|session| session.id == named).collect();
        }
        for role in [Role::Dmz, Role::Internal] {
            let of_half = found.iter().filter(|session| session.role == role);
            let names: BTreeSet<_> = of_half.map(|session| session.full_name()).collect();
            if names.len() > 1 {
                return Err(NotKilled::Several(names.into_iter().collect()));
            }
        }
        found.iter().for_each(|session| session.kill.cancel());
        if found.is_empty() { Err(NotKilled::None) } else { Ok(()) }
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
            let carried = u64::from(session.meter.is_carried());
            of_service.sessions_open += carried;
            of_service.sessions_waiting += 1 - carried;
            of_service.sessions += carried;
            of_service.bytes_up += session.meter.up();
            of_service.bytes_down += session.meter.down();
        }
        totals
    }

    /// The services whose last sessions all failed at the backend.
    pub fn failing(&self) -> HashMap<(Role, ServiceName), Failing> {
        let books = self.lock();
        let mut failing = books.failing.clone();
        if !failing.is_empty() {
            for (_, session) in books.clients() {
                let reached = session.meter.entered(SessionPhase::Relaying);
                let key = (session.role, session.service.clone());
                if failing.get(&key).is_some_and(|failing| reached.is_some_and(|at| at > failing.at_us)) {
                    failing.remove(&key);
                }
            }
        }
        failing
    }

    /// Clients of a service that were refused lately, by what for.
    pub fn refusals(&self, role: Role, service: &ServiceName) -> Vec<RefusalRow> {
        self.lock().refusals.of(role, service, Instant::now())
    }

    /// Sessions that were cut when a peer's last link ended, so many seconds ago.
    pub fn cut_with(&self, role: Role, peer: &str, gone_seconds: f64) -> u64 {
        self.lock().cuts.with(role, peer, gone_seconds)
    }

    /// Tells how many more were refused; to be called from time to time.
    pub fn tell_refusals(&self) {
        let lines = self.lock().refusals.due(Instant::now());
        lines.iter().for_each(|line| self.notices.warn(line));
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

    /// Works out the rates over the last second, as those of services and of all traffic are: over
    /// less, a client that sends in bursts would seem to race and to rest by turns.
    pub fn tick(&self) {
        self.tick_at(Instant::now());
    }

    fn tick_at(&self, now: Instant) {
        let mut books = self.lock();
        let is_old = |at: Instant| now.saturating_duration_since(at) >= RATE_OVER;
        while books.ticked.len() >= TICKS_KEPT || books.ticked.get(1).is_some_and(|(_, at)| is_old(*at)) {
            books.ticked.pop_front();
        }
        let slot = |tick: u64| (tick % TICKS_KEPT as u64) as usize;
        let from = books.ticked.front().map(|&(tick, at)| (slot(tick), now.saturating_duration_since(at)));
        let tick = books.ticks;
        for session in books.open.values() {
            for (direction, bytes) in [session.meter.up(), session.meter.down()].into_iter().enumerate() {
                let rate = from.map_or(0.0, |(slot, passed)| {
                    let before = session.seen[slot][direction].load(Ordering::Relaxed);
                    bytes.saturating_sub(before) as f64 / passed.as_secs_f64().max(0.001)
                });
                session.seen[slot(tick)][direction].store(bytes, Ordering::Relaxed);
                session.rates[direction].store(rate as u64, Ordering::Relaxed);
            }
        }
        books.ticks += 1;
        books.ticked.push_back((tick, now));
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
        books.judge_backend(&session, &end);
        let now = Instant::now();
        if end.who == Who::Peer
            && session.meter.is_carried()
            && let Some(peer) = session.peer()
        {
            books.cuts.add(session.role, peer, now);
        }
        let is_told = session.meter.is_carried()
            || books.refusals.add(session.role, &session.service, end.code(), &end.reason, now);
        let totals = books.closed.entry((session.role, session.service.clone())).or_default();
        // A client that left before it was carried was not refused by us.
        let carried = session.meter.is_carried() || end.who == Who::Client;
        totals.sessions += u64::from(carried);
        totals.refused += u64::from(!carried);
        totals.bytes_up += session.meter.up();
        totals.bytes_down += session.meter.down();
        books.ended.push_back(Ended { session: session.clone(), end: end.clone(), at: now, seconds });
        if books.ended.len() > ENDED_MAX {
            books.ended.pop_front();
        }
        drop(books);
        if is_told {
            session.tell(&end, &self.notices);
        }
    }
}

impl Session {
    /// The gateway it came through or goes to, the last one that was tried.
    fn peer(&self) -> Option<Arc<str>> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its id with its peer's name, which no other peer has.
    fn full_name(&self) -> String {
        match self.peer() {
            Some(peer) => format!("{peer}/{}", self.id),
            None => self.id.clone(),
        }
    }

    /// One line for each session, unless there are too many.
    fn log(&self, end: &End, seconds: f64, notices: &Notices) {
        let kind = match self.kind {
            Kind::Client => LogKind::SessionEnded(end.who),
            Kind::Probe => LogKind::ProbeEnded,
        };
        if notices.limited().admits(kind) {
            self.log_line(end, seconds);
        }
    }

    fn log_line(&self, end: &End, seconds: f64) {
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
    }

    /// One more for the operator where somebody else than the client or the operator ended it.
    fn tell(&self, end: &End, notices: &Notices) {
        let line = format!("{}: {end}", self.service);
        let is_refusal = !self.meter.is_carried();
        match end.who {
            Who::Nobody | Who::Client | Who::Operator => {}
            Who::Internal => notices.keep(NoticeLevel::Error, line),
            Who::Backend | Who::Peer | Who::Time | Who::Limit | Who::Policy if is_refusal => {
                notices.warn(line)
            }
            Who::Backend | Who::Peer | Who::Time | Who::Limit | Who::Policy => {
                notices.keep(NoticeLevel::Warn, line);
            }
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

    /// The limits of its gateway's log.
    pub fn log(&self) -> &Arc<RateLimitedLog> {
        self.registry.notices.limited()
    }

    /// The peer gateway that carries it is known.
    pub fn carried_by(&self, peer: &Arc<str>) {
        *self.session.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer.clone());
    }

    /// Ends the session's books with this end; without it, nobody waited for one, or a bug ended it.
    pub fn finish(mut self, end: End) {
        self.end = Some(end);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let phase = self.session.meter.phase();
        let let_go = || match std::thread::panicking() {
            true => End { who: Who::Internal, phase, reason: "its task failed; this is a bug".into() },
            // Whoever carried it has given it up: its client was gone, and the rest did not end in time.
            false => End {
                who: Who::Time,
                phase,
                reason: "its client had gone, and the rest did not end in time".into(),
            },
        };
        let end = self.end.take().unwrap_or_else(let_go);
        self.registry.close(self.key, self.session.clone(), end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Arc<Registry> {
        Arc::new(Registry::new(Arc::new(Notices::default())))
    }

    fn open(registry: &Arc<Registry>) -> Record {
        let orders = ServiceName::parse("orders").expect("a name");
        let client = "192.0.2.7:50000".to_owned();
        registry.open((Role::Dmz, orders), None, client, Kind::Client, CancellationToken::new())
    }

    #[test]
    fn a_session_that_nobody_waits_for_any_more_is_no_bug_and_a_panic_is() {
        let registry = registry();
        let session = open(&registry);
        session.meter().enter(SessionPhase::Draining);
        drop(session);
        let panicking = open(&registry);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _session = panicking;
            panic!("a bug");
        }));
        assert!(panicked.is_err());
        let codes: Vec<_> = registry.lock().ended.iter().map(|ended| ended.end.code()).collect();
        assert_eq!(codes, ["TD", "IN"]);
    }

    #[test]
    fn a_client_that_sends_in_bursts_has_a_steady_rate() {
        let registry = registry();
        let session = open(&registry);
        session.meter().enter(SessionPhase::Relaying);
        let start = Instant::now();
        let mut rates = Vec::new();
        for quarter in 0..20_u64 {
            // 400 bytes a second, 80 of them every 200 ms.
            let sent = quarter * 250 / 200 * 80;
            let more = sent - session.meter().bytes();
            session.meter().add_up(more as usize);
            registry.tick_at(start + Duration::from_millis(quarter * 250));
            rates.extend(registry.rows().0.first().map(|row| row.rate_up));
        }
        assert!(rates[4..].iter().all(|&rate| rate == 400), "{rates:?}");
        registry.tick_at(start + Duration::from_secs(60));
        registry.tick_at(start + Duration::from_secs(61));
        assert_eq!(registry.rows().0[0].rate_up, 0, "nothing of what was a minute ago");
    }

    fn orders(registry: &Arc<Registry>) -> Totals {
        registry.totals().into_values().next().expect("one service")
    }

    #[test]
    fn a_client_that_waits_is_not_open_and_what_it_sent_may_come_back() {
        let registry = registry();
        let session = open(&registry);
        session.meter().enter(SessionPhase::Connecting);
        session.meter().add_up(500);
        let waits = Totals { sessions_waiting: 1, ..Totals::default() };
        assert_eq!(orders(&registry), waits);
        assert_eq!(registry.rows().0[0].last_byte_seconds, None);
        session.meter().take_back_up(500);
        session.meter().add_up(300);
        session.meter().enter(SessionPhase::Relaying);
        let carried = Totals { sessions_open: 1, sessions: 1, bytes_up: 300, ..Totals::default() };
        assert_eq!(orders(&registry), carried);
        assert!(registry.rows().0[0].last_byte_seconds.is_some());
        session.finish(End::clean());
        assert_eq!(orders(&registry), Totals { sessions_open: 0, ..carried });
        let refused = open(&registry);
        refused.meter().add_up(500);
        refused.finish(End { who: Who::Backend, phase: SessionPhase::Connecting, reason: "refused".into() });
        assert_eq!(orders(&registry), Totals { sessions_open: 0, refused: 1, ..carried });
        assert_eq!(registry.ended()[0].bytes_up, 0);
    }

    #[test]
    fn a_backend_fails_until_a_session_reaches_it() {
        let registry = registry();
        let refused = |phase| {
            let session = open(&registry);
            session.meter().enter(phase);
            session.finish(End { who: Who::Backend, phase, reason: "refused".into() });
        };
        let seen = || registry.failing().into_values().map(|of| (of.sessions, of.error)).collect::<Vec<_>>();
        (0..3).for_each(|_| refused(SessionPhase::Connecting));
        assert_eq!(seen(), [(3, "refused".to_owned())]);
        let carried = open(&registry);
        assert_eq!(seen().len(), 1, "it has not come so far");
        carried.meter().enter(SessionPhase::Relaying);
        assert_eq!(seen(), [], "an open one is enough");
        carried.finish(End::clean());
        assert_eq!(seen(), []);
    }

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
