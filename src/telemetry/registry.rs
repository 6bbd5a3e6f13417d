//! The registry of sessions: which are open, and which have ended.
//!
//! A session's bytes are counted in its own [`SessionCounters`], which only its relay writes. The short lock of the
//! registry is taken when a session starts, when it ends, and for a snapshot; never for a byte. A
//! [`SessionGuard`] records the end once, when it is dropped.
//!
//! This file and its parts use each other: its parts are in files of their own, and count its sessions.

mod backend_failures;
mod counters;
mod ended;
mod ending;
mod ends;
mod kill;
mod recent_bytes;
mod rows;
mod session_peer;
mod totals;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::{
    clock,
    cuts::CutCounters,
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

pub use backend_failures::BackendFailures;
pub use counters::SessionCounters;
use ended::{EndedSession, EndedSessions};
pub use ending::{SessionStopper, StopReason};
pub use ends::ServiceEnds;
pub use kill::{KillError, KillSelection, ListedSessions, OpenClient, SessionMatch};
use recent_bytes::RecentBytes;
use session_peer::ForeignIds;
pub use session_peer::SessionPeer;
use totals::{CountedEnd, ServiceTotals, SessionTally};

/// How many rows of open sessions a snapshot has; if there are more, those that wait, then the busiest.
pub const ROWS_MAX: usize = 20_000;

/// The time over which rates are calculated, and from how many ticks at most.
const RATE_WINDOW: Duration = Duration::from_secs(1);
const TICKS_KEPT: usize = 8;

/// The kind of a session: a client's, or a probe, which is not counted anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    Client,
    /// A client of another DMZ gateway: the DMZ half of this process, if it has one, has no part in it.
    ClientElsewhere,
    Probe,
}

impl SessionKind {
    pub fn is_client(self) -> bool {
        match self {
            Self::Client | Self::ClientElsewhere => true,
            Self::Probe => false,
        }
    }
}

/// A client in the words of logs and rows.
pub fn client_name(client: Option<SocketAddr>) -> String {
    client.map_or_else(|| "unknown".into(), |client| client.to_string())
}

/// An open session.
#[derive(Debug)]
struct OpenSession {
    id: Box<str>,
    half: Half,
    service: ServiceName,
    /// Its address, if that is known.
    client: Option<SocketAddr>,
    kind: SessionKind,
    parties: Mutex<SessionParties>,
    /// In microseconds of the process.
    started_us: u64,
    counters: Arc<SessionCounters>,
    /// Gives back its id, if another gateway has given it.
    foreign_id: Option<NonZeroU64>,
    stopper: SessionStopper,
    /// Used only by the tick.
    recent: Mutex<RecentBytes>,
    rates: [AtomicU64; 2],
}

/// The peer and the user of a session, once known.
#[derive(Debug, Default)]
struct SessionParties {
    /// The gateway it came through or goes to; the last one that was tried.
    peer: Option<Arc<SessionPeer>>,
    /// The proven name of its client.
    user: Option<Arc<str>>,
}

/// All sessions of one gateway.
#[derive(Debug)]
pub struct SessionRegistry {
    state: Mutex<RegistryState>,
    notices: Arc<NoticeLog>,
    tag: u16,
}

#[derive(Debug, Default)]
struct RegistryState {
    next: u64,
    open: foldhash::HashMap<u64, Arc<OpenSession>>,
    foreign_ids: ForeignIds,
    /// For each service that has had a session; a service that is gone keeps its totals.
    totals: HashMap<(Half, ServiceName), Arc<ServiceTotals>>,
    /// Totals of clients elsewhere, once more and of all services together.
    elsewhere: Arc<ServiceTotals>,
    ended: EndedSessions,
    failures: FailureGroups,
    /// How many sessions have ended in which way, by the two letters.
    ends: HashMap<(Half, ServiceName), BTreeMap<String, u64>>,
    /// By service: failures at its backend since a session last reached it.
    failing: HashMap<(Half, ServiceName), BackendFailures>,
    refusals: RefusalCounts,
    cuts: CutCounters,
    ticks: u64,
    /// When the rates were calculated, with the number of the tick; oldest first.
    ticked: VecDeque<(u64, Instant)>,
}

impl RegistryState {
    fn clients(&self) -> impl Iterator<Item = (&u64, &Arc<OpenSession>)> + Clone {
        self.open.iter().filter(|(_, session)| session.kind.is_client())
    }

    /// A session that never reached its backend says nothing about it, unless the backend caused that.
    fn judge_backend(&mut self, session: &OpenSession, end: &SessionEnd) {
        if session.counters.is_carried() || end.ended_by != EndedBy::Backend {
            return;
        }
        let key = (session.half, session.service.clone());
        let reached_us = self.totals.get(&key).map_or(0, |totals| totals.reached_us());
        self.failing.entry(key).or_default().note_failure(reached_us, &end.reason);
    }
}

impl SessionRegistry {
    pub fn new(notices: Arc<NoticeLog>) -> Self {
        Self { state: Mutex::default(), notices, tag: fastrand::u16(..) }
    }

    /// Registers a session; `peer` is the gateway that it came from, and `id` what that calls it.
    pub fn open(
        self: &Arc<Self>,
        (half, service): (Half, ServiceName),
        id: Option<String>,
        peer: Option<SessionPeer>,
        client: Option<SocketAddr>,
        kind: SessionKind,
        stopper: SessionStopper,
    ) -> SessionGuard {
        let mut state = self.lock();
        state.next += 1;
        let key = state.next;
        let also = (kind == SessionKind::ClientElsewhere).then(|| state.elsewhere.clone());
        let counters = match kind.is_client() {
            true => {
                let totals = state.totals.entry((half, service.clone())).or_default().clone();
                SessionCounters::adding_to(SessionTally::begin(totals, also))
            }
            false => SessionCounters::default(),
        };
        let own = || format!("{:04x}-{key:x}", self.tag);
        let (id, foreign_id) = state.foreign_ids.name_session(half, peer.as_ref(), id, own);
        let session = Arc::new(OpenSession {
            id: id.into(),
            half,
            service,
            client,
            kind,
            parties: Mutex::new(SessionParties { peer: peer.map(Arc::new), user: None }),
            started_us: clock::now_us(),
            counters: Arc::new(counters),
            foreign_id,
            stopper,
            recent: Mutex::default(),
            rates: Default::default(),
        });
        state.open.insert(key, session.clone());
        SessionGuard { registry: self.clone(), key, session, end: None }
    }

    pub fn open_count(&self) -> usize {
        let open: u64 = self.lock().totals.values().map(|totals| totals.open()).sum();
        usize::try_from(open).unwrap_or(usize::MAX)
    }

    /// Whether any client's session is still connecting to its backend.
    pub fn is_opening(&self) -> bool {
        let state = self.lock();
        state.clients().any(|(_, session)| session.half == Half::Dmz && !session.counters.is_carried())
    }

    /// Totals of each service that has had a session, including open ones.
    pub fn totals(&self) -> HashMap<(Half, ServiceName), TrafficTotals> {
        self.lock().totals.iter().map(|(key, totals)| (key.clone(), totals.read())).collect()
    }

    /// Totals of all clients of other DMZ gateways.
    pub fn totals_elsewhere(&self) -> TrafficTotals {
        self.lock().elsewhere.read()
    }

    /// The services whose last sessions all failed at the backend.
    pub fn backend_failures(&self) -> HashMap<(Half, ServiceName), BackendFailures> {
        let mut state = self.lock();
        let RegistryState { failing, totals, .. } = &mut *state;
        failing.retain(|key, failing| {
            let reached_us = totals.get(key).map_or(0, |totals| totals.reached_us());
            failing.at_us >= reached_us
        });
        failing.clone()
    }

    /// Clients of a service that were refused recently, by reason.
    pub fn refusals(&self, half: Half, service: &ServiceName) -> Vec<RefusalRow> {
        self.lock().refusals.rows_of(half, service, Instant::now())
    }

    /// Sessions that were cut when a peer's last link ended, this many seconds ago.
    pub fn cut_with(&self, half: Half, peer: &str, gone_seconds: f64) -> u64 {
        self.lock().cuts.cut_with(half, peer, gone_seconds)
    }

    /// Reports how many more clients were refused; must be called from time to time.
    pub fn report_refusals(&self) {
        let lines = self.lock().refusals.due_lines(Instant::now());
        lines.iter().for_each(|line| self.notices.warn(LogEvent::SessionsRefused.line(line.as_str())));
    }

    /// Rows of open sessions, and how many were left out.
    pub fn rows(&self) -> (Vec<SessionRow>, usize) {
        // Sessions go on meanwhile, so that each is ranked once.
        let ranked = |(key, session): (&u64, &Arc<OpenSession>)| {
            let waits = session.counters.phase() == SessionPhase::Waiting;
            let [up, down] = [0, 1].map(|direction| session.rates[direction].load(Ordering::Relaxed));
            (Reverse((waits, up.saturating_add(down))), *key, session.clone())
        };
        let mut open: Vec<_> = self.lock().clients().map(ranked).collect();
        let left_out = open.len().saturating_sub(ROWS_MAX);
        if left_out > 0 {
            // Of equals, both halves keep the same sessions, which have one id.
            open.select_nth_unstable_by(ROWS_MAX, |(rank, _, session), (other_rank, _, other)| {
                rank.cmp(other_rank).then_with(|| session.id.cmp(&other.id))
            });
            open.truncate(ROWS_MAX);
        }
        open.sort_unstable_by_key(|(_, key, _)| *key);
        (open.iter().map(|(.., session)| session.row()).collect(), left_out)
    }

    /// Calculates the rates over the last second, as for services and for all traffic. Over a shorter time, a
    /// client that sends in bursts would seem to alternate between fast and idle.
    pub fn tick(&self) {
        self.tick_at(Instant::now());
    }

    fn tick_at(&self, now: Instant) {
        let mut state = self.lock();
        let is_old = |at: Instant| now.saturating_duration_since(at) >= RATE_WINDOW;
        while state.ticked.len() >= TICKS_KEPT || state.ticked.get(1).is_some_and(|(_, at)| is_old(*at)) {
            state.ticked.pop_front();
        }
        let from = state.ticked.front().map(|&(tick, at)| (tick, now.saturating_duration_since(at)));
        let tick = state.ticks;
        for session in state.open.values() {
            let bytes = [session.counters.up(), session.counters.down()];
            let mut recent = session.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let before = from.map(|(tick, passed)| (recent.at(tick), passed.as_secs_f64().max(0.001)));
            for (direction, bytes) in bytes.into_iter().enumerate() {
                let rate = before
                    .map_or(0.0, |(before, passed)| bytes.saturating_sub(before[direction]) as f64 / passed);
                session.rates[direction].store(rate as u64, Ordering::Relaxed);
            }
            recent.note(tick, bytes);
        }
        state.ticks += 1;
        state.ticked.push_back((tick, now));
    }

    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        // After a panic under the lock there are only plain numbers in it, still the best available.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, key: u64, session: Arc<OpenSession>, end: SessionEnd) {
        let seconds = session.age_seconds();
        session.log(&end, seconds, &self.notices);
        let mut state = self.lock();
        state.open.remove(&key);
        if let Some(taken) = session.foreign_id {
            state.foreign_ids.give_back(taken);
        }
        if session.kind == SessionKind::Probe {
            return;
        }
        state.judge_backend(&session, &end);
        let now = Instant::now();
        if end.ended_by == EndedBy::Peer
            && session.counters.is_carried()
            && let Some(peer) = session.peer()
        {
            state.cuts.add(session.half, peer, now);
        }
        // Nobody has refused a client that left.
        let is_reported = session.counters.is_carried()
            || end.ended_by != EndedBy::Client
                && state.refusals.add(session.half, &session.service, &end, now);
        let of_service = state.ends.entry((session.half, session.service.clone())).or_default();
        *of_service.entry(end.code()).or_default() += 1;
        let otherwise = if end.ended_by == EndedBy::Client { CountedEnd::Left } else { CountedEnd::Refused };
        session.counters.tally.iter().for_each(|tally| tally.end(otherwise));
        if end.is_failure() {
            let (client, peer) = (client_name(session.client), session.peer());
            state.failures.add(session.as_failed(&end, &client, peer.as_deref()), (now, SystemTime::now()));
        }
        state.ended.add(EndedSession { session: session.clone(), end: end.clone(), at: now, seconds });
        drop(state);
        if is_reported {
            session.notify_operator(&end, &self.notices);
        }
    }
}

impl OpenSession {
    fn age_seconds(&self) -> f64 {
        Duration::from_micros(clock::now_us().saturating_sub(self.started_us)).as_secs_f64()
    }

    fn parties(&self) -> MutexGuard<'_, SessionParties> {
        self.parties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peer(&self) -> Option<Arc<str>> {
        self.parties().peer.as_ref().map(|peer| peer.name.clone())
    }

    fn user(&self) -> Option<Arc<str>> {
        self.parties().user.clone()
    }

    /// One log line for each session, unless there are too many.
    fn log(&self, end: &SessionEnd, seconds: f64, notices: &NoticeLog) {
        let kind = match self.kind {
            SessionKind::Client | SessionKind::ClientElsewhere => LogKind::SessionEnded(end.ended_by),
            SessionKind::Probe => LogKind::ProbeEnded,
        };
        if notices.limited().admits(kind) {
            self.log_line(end, seconds);
        }
    }

    fn log_line(&self, end: &SessionEnd, seconds: f64) {
        let (event, what) = match self.kind {
            SessionKind::Client | SessionKind::ClientElsewhere => (LogEvent::SessionEnded, "session ended"),
            SessionKind::Probe => (LogEvent::ProbeEnded, "probe ended"),
        };
        tracing::info!(
            %event,
            id = self.id,
            service = self.service.as_str(),
            client = client_name(self.client),
            peer = self.peer().as_deref().unwrap_or("-"),
            user = self.user().as_deref().unwrap_or("-"),
            backend = self.counters.backend().as_deref().unwrap_or("-"),
            end = end.code(),
            seconds = (seconds * 1000.0).round() / 1000.0,
            up = self.counters.up(),
            down = self.counters.down(),
            reason = end.reason,
            "{what}"
        );
    }

    /// Adds the end to the notices, unless the client or the operator ended it.
    fn notify_operator(&self, end: &SessionEnd, notices: &NoticeLog) {
        let line = format!("{}: {end}", self.service);
        let is_refusal = !self.counters.is_carried();
        match end.ended_by {
            EndedBy::Nobody | EndedBy::Client | EndedBy::Operator => {}
            EndedBy::Internal => notices.push_logged(NoticeLevel::Error, line),
            EndedBy::Backend
            | EndedBy::Peer
            | EndedBy::Time
            | EndedBy::Limit
            | EndedBy::ClientLimit
            | EndedBy::Policy
                if is_refusal =>
            {
                notices.warn(LogEvent::SessionFailed.line(line))
            }
            EndedBy::Backend
            | EndedBy::Peer
            | EndedBy::Time
            | EndedBy::Limit
            | EndedBy::ClientLimit
            | EndedBy::Policy => {
                notices.push_logged(NoticeLevel::Warn, line);
            }
        }
    }
}

/// An open session's entry; dropping it records the end.
#[derive(Debug)]
pub struct SessionGuard {
    registry: Arc<SessionRegistry>,
    key: u64,
    session: Arc<OpenSession>,
    end: Option<Box<SessionEnd>>,
}

impl SessionGuard {
    pub fn counters(&self) -> &Arc<SessionCounters> {
        &self.session.counters
    }

    pub fn id(&self) -> &str {
        &self.session.id
    }

    pub fn stopper(&self) -> &SessionStopper {
        &self.session.stopper
    }

    /// The rate limits of its gateway's log.
    pub fn log(&self) -> &Arc<RateLimitedLog> {
        self.registry.notices.limited()
    }

    /// Sets the peer gateway that carries it.
    pub fn set_peer(&self, peer: SessionPeer) {
        self.session.parties().peer = Some(Arc::new(peer));
    }

    /// Sets the name that the client has proven.
    pub fn set_user(&self, user: &str) {
        self.session.parties().user = Some(user.into());
    }

    /// Records this end. Without this call, nobody waited for the session, or a bug ended it.
    pub fn finish(mut self, end: SessionEnd) {
        self.end = Some(Box::new(end));
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let phase = self.session.counters.phase();
        let closed = || match std::thread::panicking() {
            true => SessionEnd {
                ended_by: EndedBy::Internal,
                phase,
                reason: "its task failed; this is a bug".into(),
            },
            // Whoever carried it has given it up: its client was gone, and the rest did not end in time.
            false => SessionEnd {
                ended_by: EndedBy::Time,
                phase,
                reason: "its client had gone, and the rest did not end in time".into(),
            },
        };
        let end = self.end.take().map_or_else(closed, |end| *end);
        self.registry.close(self.key, self.session.clone(), end);
    }
}

#[cfg(test)]
mod tests;
