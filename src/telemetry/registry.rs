//! The registry of sessions: which are open, and which have ended.
//!
//! A session's bytes are counted in its own [`SessionCounters`], which only its relay writes. The short lock of the
//! registry is taken when a session starts, when it ends, and for a snapshot; never for a byte. A
//! [`SessionGuard`] records the end once, when it is dropped.

mod ended;
mod ends;
mod kill;
mod rows;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;

use super::{
    clock,
    cuts::CutCounters,
    duration_buckets::DurationBuckets,
    end::{EndedBy, SessionEnd},
    failures::FailureGroups,
    health::RefusalRow,
    log::LogEvent,
    notices::NoticeLog,
    rate_limited::{LogKind, RateLimitedLog},
    refusals::RefusalCounts,
    snapshot::{NoticeLevel, SessionPhase, SessionRow, TrafficTotals},
};
use crate::profile::{Half, ServiceName};

use ended::{EndedSession, EndedSessions};
pub use ends::ServiceEnds;
pub use kill::{KillSelection, NotKilled, SessionMatch};

/// Rows of open sessions in one picture; the busiest, when there are more.
pub const ROWS_MAX: usize = 20_000;

/// Rates are worked out over so long, from as many ticks at most.
const RATE_OVER: Duration = Duration::from_secs(1);
const TICKS_KEPT: usize = 8;

/// Bytes of one session, written by its relay alone.
#[derive(Debug, Default)]
pub struct SessionCounters {
    up: AtomicU64,
    down: AtomicU64,
    phase: AtomicU8,
    /// When each phase was entered last, in microseconds of the process; 0: never.
    entered_us: [AtomicU64; 6],
    /// `clock::coarse_ms` of the last byte; 0: none has moved.
    moved_ms: AtomicU64,
    /// Where is counted how long it took to connect.
    connects: OnceLock<Arc<DurationBuckets>>,
    /// The link that carries it; 0: none does.
    via: AtomicU64,
}

impl SessionCounters {
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

    /// A link of this number carries it from now on.
    pub fn set_via(&self, link: u64) {
        self.via.store(link, Ordering::Relaxed);
    }

    pub fn via(&self) -> Option<u64> {
        Some(self.via.load(Ordering::Relaxed)).filter(|link| *link > 0)
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
        // A client that has finished sending is carried without ever being in the first of these.
        let was_carried = [SessionPhase::Relaying, SessionPhase::Draining].map(|phase| self.entered(phase));
        self.entered_us[phase as usize].store(clock::now_us().max(1), Ordering::Relaxed);
        if phase >= SessionPhase::Relaying
            && was_carried == [None, None]
            && let Some(connects) = self.connects.get()
            && let Some(took) = self.between(SessionPhase::Connecting, phase)
        {
            connects.add(took);
        }
    }

    /// Counts there how long it takes to connect.
    pub fn time_connects(&self, connects: Arc<DurationBuckets>) {
        // It is asked for once, when the session begins.
        let _ = self.connects.set(connects);
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

    /// Bytes up and down.
    pub fn traffic(&self) -> (u64, u64) {
        (self.up(), self.down())
    }

    pub fn down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }
}

/// What a session is in the books: a client's, or a check of the way, which counts nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    Client,
    Probe,
}

/// What is known of an open session.
#[derive(Debug)]
struct OpenSession {
    id: String,
    half: Half,
    service: ServiceName,
    client: String,
    kind: SessionKind,
    peer: Mutex<Option<Arc<str>>>,
    started: Instant,
    counters: Arc<SessionCounters>,
    kill: CancellationToken,
    /// Up and down at the last ticks, for the rates; touched by the tick alone.
    seen: [[AtomicU64; 2]; TICKS_KEPT],
    rates: [AtomicU64; 2],
}

/// The books of all sessions of one gateway.
#[derive(Debug)]
pub struct SessionRegistry {
    state: Mutex<RegistryState>,
    notices: Arc<NoticeLog>,
    tag: u16,
}

#[derive(Debug, Default)]
struct RegistryState {
    next: u64,
    open: HashMap<u64, Arc<OpenSession>>,
    closed: HashMap<(Half, ServiceName), TrafficTotals>,
    ended: EndedSessions,
    failures: FailureGroups,
    /// How many have ended how, by the two letters.
    ends: HashMap<(Half, ServiceName), BTreeMap<String, u64>>,
    /// By service: what has failed at its backend since a session reached it.
    failing: HashMap<(Half, ServiceName), BackendFailures>,
    refusals: RefusalCounts,
    cuts: CutCounters,
    ticks: u64,
    /// When the rates were worked out, with the number of the tick; oldest first.
    ticked: VecDeque<(u64, Instant)>,
}

/// Sessions that failed at one backend, one after the other.
#[derive(Debug, Clone, Default)]
pub struct BackendFailures {
    pub sessions: u64,
    pub error: String,
    /// When the last of them failed, in microseconds of the process.
    at_us: u64,
}

impl RegistryState {
    fn clients(&self) -> impl Iterator<Item = (&u64, &Arc<OpenSession>)> {
        self.open.iter().filter(|(_, session)| session.kind == SessionKind::Client)
    }

    /// A session that never came to its backend tells nothing of it.
    fn judge_backend(&mut self, session: &OpenSession, end: &SessionEnd) {
        let key = (session.half, session.service.clone());
        if session.counters.is_carried() {
            self.failing.remove(&key);
        } else if end.who == EndedBy::Backend {
            let failing = self.failing.entry(key).or_default();
            failing.sessions += 1;
            (failing.error, failing.at_us) = (end.reason.clone(), clock::now_us());
        }
    }
}

impl SessionRegistry {
    pub fn new(notices: Arc<NoticeLog>) -> Self {
        Self { state: Mutex::default(), notices, tag: fastrand::u16(..) }
    }

    /// A session starts; `id` is what the other gateway calls it, where it came from there.
    pub fn open(
        self: &Arc<Self>,
        (role, service): (Half, ServiceName),
        id: Option<String>,
        client: String,
        kind: SessionKind,
        kill: CancellationToken,
    ) -> SessionGuard {
        let mut books = self.lock();
        books.next += 1;
        let key = books.next;
        let meter = Arc::new(SessionCounters::default());
        let session = Arc::new(OpenSession {
            id: id.unwrap_or_else(|| format!("{:04x}-{key:x}", self.tag)),
            half: role,
            service,
            client,
            kind,
            peer: Mutex::default(),
            started: Instant::now(),
            counters: meter,
            kill,
            seen: Default::default(),
            rates: Default::default(),
        });
        books.open.insert(key, session.clone());
        SessionGuard { registry: self.clone(), key, session, end: None }
    }

    /// Open sessions now.
    pub fn open_count(&self) -> usize {
        self.lock().clients().count()
    }

    /// Totals of each service that has had a session, open ones included.
    pub fn totals(&self) -> HashMap<(Half, ServiceName), TrafficTotals> {
        let books = self.lock();
        let mut totals = books.closed.clone();
        for (_, session) in books.clients() {
            let of_service = totals.entry((session.half, session.service.clone())).or_default();
            let carried = u64::from(session.counters.is_carried());
            of_service.sessions_open += carried;
            of_service.sessions_waiting += 1 - carried;
            of_service.sessions += carried;
            of_service.bytes_up += session.counters.up();
            of_service.bytes_down += session.counters.down();
        }
        totals
    }

    /// The services whose last sessions all failed at the backend.
    pub fn backend_failures(&self) -> HashMap<(Half, ServiceName), BackendFailures> {
        let books = self.lock();
        let mut failing = books.failing.clone();
        if !failing.is_empty() {
            for (_, session) in books.clients() {
                let reached = session.counters.entered(SessionPhase::Relaying);
                let key = (session.half, session.service.clone());
                if failing.get(&key).is_some_and(|failing| reached.is_some_and(|at| at > failing.at_us)) {
                    failing.remove(&key);
                }
            }
        }
        failing
    }

    /// Clients of a service that were refused lately, by what for.
    pub fn refusals(&self, role: Half, service: &ServiceName) -> Vec<RefusalRow> {
        self.lock().refusals.rows_of(role, service, Instant::now())
    }

    /// Sessions that were cut when a peer's last link ended, so many seconds ago.
    pub fn cut_with(&self, role: Half, peer: &str, gone_seconds: f64) -> u64 {
        self.lock().cuts.cut_with(role, peer, gone_seconds)
    }

    /// Tells how many more were refused; to be called from time to time.
    pub fn report_refusals(&self) {
        let lines = self.lock().refusals.due_lines(Instant::now());
        lines.iter().for_each(|line| self.notices.warn(LogEvent::SessionsRefused.line(line.as_str())));
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
            for (direction, bytes) in [session.counters.up(), session.counters.down()].into_iter().enumerate()
            {
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

    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        // A panic while it was held leaves plain numbers, still the best there are.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, key: u64, session: Arc<OpenSession>, end: SessionEnd) {
        let seconds = session.started.elapsed().as_secs_f64();
        session.log(&end, seconds, &self.notices);
        let mut books = self.lock();
        books.open.remove(&key);
        if session.kind == SessionKind::Probe {
            return;
        }
        books.judge_backend(&session, &end);
        let now = Instant::now();
        if end.who == EndedBy::Peer
            && session.counters.is_carried()
            && let Some(peer) = session.peer()
        {
            books.cuts.add(session.half, peer, now);
        }
        let is_told = session.counters.is_carried()
            || books.refusals.add(session.half, &session.service, end.code(), &end.reason, now);
        let of_service = books.ends.entry((session.half, session.service.clone())).or_default();
        *of_service.entry(end.code()).or_default() += 1;
        let totals = books.closed.entry((session.half, session.service.clone())).or_default();
        // A client that left before it was carried was not refused by us.
        let carried = session.counters.is_carried() || end.who == EndedBy::Client;
        totals.sessions += u64::from(carried);
        totals.refused += u64::from(!carried);
        totals.bytes_up += session.counters.up();
        totals.bytes_down += session.counters.down();
        if end.is_failure() {
            books.failures.add(session.as_failed(&end, session.peer().as_deref()), (now, SystemTime::now()));
        }
        books.ended.add(EndedSession { session: session.clone(), end: end.clone(), at: now, seconds });
        drop(books);
        if is_told {
            session.notify_operator(&end, &self.notices);
        }
    }
}

impl OpenSession {
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
    fn log(&self, end: &SessionEnd, seconds: f64, notices: &NoticeLog) {
        let kind = match self.kind {
            SessionKind::Client => LogKind::SessionEnded(end.who),
            SessionKind::Probe => LogKind::ProbeEnded,
        };
        if notices.limited().admits(kind) {
            self.log_line(end, seconds);
        }
    }

    fn log_line(&self, end: &SessionEnd, seconds: f64) {
        let (event, what) = match self.kind {
            SessionKind::Client => (LogEvent::SessionEnded, "session ended"),
            SessionKind::Probe => (LogEvent::ProbeEnded, "probe ended"),
        };
        tracing::info!(
            %event,
            id = self.id,
            service = self.service.as_str(),
            client = self.client,
            peer = self.peer().as_deref().unwrap_or("-"),
            end = end.code(),
            seconds = (seconds * 1000.0).round() / 1000.0,
            up = self.counters.up(),
            down = self.counters.down(),
            reason = end.reason,
            "{what}"
        );
    }

    /// One more for the operator where somebody else than the client or the operator ended it.
    fn notify_operator(&self, end: &SessionEnd, notices: &NoticeLog) {
        let line = format!("{}: {end}", self.service);
        let is_refusal = !self.counters.is_carried();
        match end.who {
            EndedBy::Nobody | EndedBy::Client | EndedBy::Operator => {}
            EndedBy::Internal => notices.push_logged(NoticeLevel::Error, line),
            EndedBy::Backend | EndedBy::Peer | EndedBy::Time | EndedBy::Limit | EndedBy::Policy
                if is_refusal =>
            {
                notices.warn(LogEvent::SessionFailed.line(line))
            }
            EndedBy::Backend | EndedBy::Peer | EndedBy::Time | EndedBy::Limit | EndedBy::Policy => {
                notices.push_logged(NoticeLevel::Warn, line);
            }
        }
    }
}

/// An open session's place in the books; dropping it closes them.
#[derive(Debug)]
pub struct SessionGuard {
    registry: Arc<SessionRegistry>,
    key: u64,
    session: Arc<OpenSession>,
    end: Option<SessionEnd>,
}

impl SessionGuard {
    pub fn counters(&self) -> &Arc<SessionCounters> {
        &self.session.counters
    }

    pub fn id(&self) -> &str {
        &self.session.id
    }

    /// The limits of its gateway's log.
    pub fn log(&self) -> &Arc<RateLimitedLog> {
        self.registry.notices.limited()
    }

    /// The peer gateway that carries it is known.
    pub fn set_peer(&self, peer: &Arc<str>) {
        *self.session.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer.clone());
    }

    /// Ends the session's books with this end; without it, nobody waited for one, or a bug ended it.
    pub fn finish(mut self, end: SessionEnd) {
        self.end = Some(end);
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let phase = self.session.counters.phase();
        let let_go = || match std::thread::panicking() {
            true => {
                SessionEnd { who: EndedBy::Internal, phase, reason: "its task failed; this is a bug".into() }
            }
            // Whoever carried it has given it up: its client was gone, and the rest did not end in time.
            false => SessionEnd {
                who: EndedBy::Time,
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

    fn registry() -> Arc<SessionRegistry> {
        Arc::new(SessionRegistry::new(Arc::new(NoticeLog::default())))
    }

    fn open(registry: &Arc<SessionRegistry>) -> SessionGuard {
        let orders = ServiceName::parse("orders").expect("a name");
        let client = "192.0.2.7:50000".to_owned();
        registry.open((Half::Dmz, orders), None, client, SessionKind::Client, CancellationToken::new())
    }

    #[test]
    fn a_session_that_nobody_waits_for_any_more_is_no_bug_and_a_panic_is() {
        let registry = registry();
        let session = open(&registry);
        session.counters().enter(SessionPhase::Draining);
        drop(session);
        let panicking = open(&registry);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _session = panicking;
            panic!("a bug");
        }));
        assert!(panicked.is_err());
        let codes: Vec<_> = registry.ended().into_iter().map(|row| row.end).collect();
        assert_eq!(codes, ["IN", "TD"]);
    }

    #[test]
    fn healthy_ends_push_no_failure_out() {
        let registry = registry();
        let failed = open(&registry);
        let id = failed.id().to_owned();
        let end =
            SessionEnd { who: EndedBy::Peer, phase: SessionPhase::Relaying, reason: "it is gone".into() };
        failed.finish(end);
        (0..3 * ended::KEPT_MAX).for_each(|_| open(&registry).finish(SessionEnd::clean()));
        let ended = registry.ended();
        assert_eq!(ended.last().map(|row| (&*row.id, &*row.end)), Some((&*id, "PR")));
        assert_eq!(ended.len(), ended::KEPT_MAX + 1, "and both kinds are bounded");
        assert!(ended.is_sorted_by_key(|row| row.ago_seconds), "newest first");
    }

    #[test]
    fn a_client_that_sends_in_bursts_has_a_steady_rate() {
        let registry = registry();
        let session = open(&registry);
        session.counters().enter(SessionPhase::Relaying);
        let start = Instant::now();
        let mut rates = Vec::new();
        for quarter in 0..20_u64 {
            // 400 bytes a second, 80 of them every 200 ms.
            let sent = quarter * 250 / 200 * 80;
            let more = sent - session.counters().bytes();
            session.counters().add_up(more as usize);
            registry.tick_at(start + Duration::from_millis(quarter * 250));
            rates.extend(registry.rows().0.first().map(|row| row.rate_up));
        }
        assert!(rates[4..].iter().all(|&rate| rate == 400), "{rates:?}");
        registry.tick_at(start + Duration::from_secs(60));
        registry.tick_at(start + Duration::from_secs(61));
        assert_eq!(registry.rows().0[0].rate_up, 0, "nothing of what was a minute ago");
    }

    fn orders(registry: &Arc<SessionRegistry>) -> TrafficTotals {
        registry.totals().into_values().next().expect("one service")
    }

    #[test]
    fn a_client_that_waits_is_not_open_and_what_it_sent_may_come_back() {
        let registry = registry();
        let session = open(&registry);
        session.counters().enter(SessionPhase::Connecting);
        session.counters().add_up(500);
        let waits = TrafficTotals { sessions_waiting: 1, ..TrafficTotals::default() };
        assert_eq!(orders(&registry), waits);
        assert_eq!(registry.rows().0[0].last_byte_seconds, None);
        session.counters().take_back_up(500);
        session.counters().add_up(300);
        session.counters().enter(SessionPhase::Relaying);
        let carried =
            TrafficTotals { sessions_open: 1, sessions: 1, bytes_up: 300, ..TrafficTotals::default() };
        assert_eq!(orders(&registry), carried);
        assert!(registry.rows().0[0].last_byte_seconds.is_some());
        session.finish(SessionEnd::clean());
        assert_eq!(orders(&registry), TrafficTotals { sessions_open: 0, ..carried });
        let refused = open(&registry);
        refused.counters().add_up(500);
        refused.finish(SessionEnd {
            who: EndedBy::Backend,
            phase: SessionPhase::Connecting,
            reason: "refused".into(),
        });
        assert_eq!(orders(&registry), TrafficTotals { sessions_open: 0, refused: 1, ..carried });
        assert_eq!(registry.ended()[0].bytes_up, 0);
    }

    #[test]
    fn a_backend_fails_until_a_session_reaches_it() {
        let registry = registry();
        let refused = |phase| {
            let session = open(&registry);
            session.counters().enter(phase);
            session.finish(SessionEnd { who: EndedBy::Backend, phase, reason: "refused".into() });
        };
        let seen = || {
            registry.backend_failures().into_values().map(|of| (of.sessions, of.error)).collect::<Vec<_>>()
        };
        (0..3).for_each(|_| refused(SessionPhase::Connecting));
        assert_eq!(seen(), [(3, "refused".to_owned())]);
        let carried = open(&registry);
        assert_eq!(seen().len(), 1, "it has not come so far");
        carried.counters().enter(SessionPhase::Relaying);
        assert_eq!(seen(), [], "an open one is enough");
        carried.finish(SessionEnd::clean());
        assert_eq!(seen(), []);
    }

    #[test]
    fn a_phase_is_timed_from_its_first_moment() {
        let meter = SessionCounters::default();
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
