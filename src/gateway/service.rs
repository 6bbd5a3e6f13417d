//! A service while it runs: its accept → connect pairing, its limits and its open sessions. Its routes and its
//! backends are not here: they change with a switch, while a service and its sessions stay.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio_util::sync::CancellationToken;

use crate::{
    accept::idle_permit::IdleState,
    admission::{pace::ServicePace, usage_table::UsageTable},
    connect::Connector,
    profile::{ByteRates, Half, OpeningHours, ServiceName, SessionLimits},
    telemetry::{
        clock, duration_histogram::DurationHistogram, health::DrainRequest, log, notices::ReportOnce,
        snapshot::ServicePhase, wait_histogram::WaitHistogram,
    },
};

/// The services of a gateway, by half and name.
pub type ServiceTable = HashMap<(Half, ServiceName), Arc<Service>>;

/// A service for as long as profiles keep it; everything that a switch may change can be replaced.
#[derive(Debug)]
pub struct Service {
    pub name: ServiceName,
    pub settings: ArcSwap<ServiceSettings>,
    /// Where new sessions go.
    pub connector: ArcSwap<Connector>,
    /// Cuts the service's sessions.
    pub cut: CancellationToken,
    /// Cancelled at a stop: what is under way ends, and nothing follows it.
    pub leave: CancellationToken,
    /// The speed limit of its clients' bytes.
    pub pace: Arc<ServicePace>,
    /// What DMZ gateways use of it, by the names in their certificates.
    pub peer_usage: Arc<UsageTable<Arc<str>>>,
    /// Response fields already reported to contain one of the backend's own names.
    pub reported: Arc<ReportOnce>,
    /// How long its clients waited for a link.
    pub waits: WaitHistogram,
    /// How long clients waited, and how long it took to open sessions, for monitors.
    pub wait_times: DurationHistogram,
    pub connect_times: Arc<DurationHistogram>,
    /// Why it cannot serve anybody, if it cannot.
    down: ArcSwapOption<String>,
    drained: ArcSwapOption<DrainRequest>,
    locked: AtomicBool,
    /// It is outside its hours.
    closed: AtomicBool,
    open: AtomicUsize,
    /// Sessions that can become idle, keyed by their address in memory.
    idle_states: Mutex<HashMap<usize, Arc<IdleState>>>,
    /// Until when no idle session is closed to make room elsewhere, in microseconds of the process.
    no_room_until_us: AtomicU64,
}

/// A service's settings in the profile.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceSettings {
    pub sessions: usize,
    pub idle: Option<Duration>,
    pub peers: Option<Vec<String>>,
    /// The longest duration of a session.
    pub session_limit: Option<Duration>,
    pub rate: ByteRates,
    /// When it takes new sessions; `None` means always.
    pub hours: Option<OpeningHours>,
    /// The limits of each DMZ gateway.
    pub per_peer: Option<SessionLimits>,
}

impl Service {
    pub fn new(
        name: ServiceName,
        settings: ServiceSettings,
        connector: Connector,
        cut: CancellationToken,
    ) -> Arc<Self> {
        let service = Self {
            name,
            settings: ArcSwap::default(),
            connector: ArcSwap::from_pointee(connector),
            cut,
            leave: CancellationToken::new(),
            pace: Arc::default(),
            peer_usage: Arc::default(),
            reported: Arc::default(),
            waits: WaitHistogram::default(),
            wait_times: DurationHistogram::default(),
            connect_times: Arc::default(),
            down: ArcSwapOption::empty(),
            drained: ArcSwapOption::empty(),
            locked: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            idle_states: Mutex::default(),
            no_room_until_us: AtomicU64::new(0),
        };
        service.set_settings(settings);
        Arc::new(service)
    }

    /// Applies new settings. The speed limit also changes in open sessions.
    pub fn set_settings(&self, settings: ServiceSettings) {
        let ByteRates { session, service } = settings.rate;
        self.pace.set(session.map(|rate| rate.0), service.map(|rate| rate.0));
        self.settings.store(Arc::new(settings));
    }

    /// Sends new sessions to another `connector`, if it has changed.
    pub fn replace_connector(&self, mut connector: Connector) {
        let before = self.connector.load();
        if !before.is_same_as(&connector) {
            connector.inherit(&before);
            self.connector.store(connector.into());
        }
    }

    /// A permit for one more session: a free one or, if the limit is reached, that of the session that has been
    /// idle for longest.
    pub fn admit(self: &Arc<Self>, idle_state: Option<Arc<IdleState>>) -> Result<SessionPermit, usize> {
        let limit = self.settings.load().sessions;
        let one_more = |open: usize| (open < limit).then_some(open + 1);
        let is_free = self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok();
        if !is_free && self.reclaim_longest_idle().is_none() {
            return Err(limit);
        }
        if let Some(state) = &idle_state {
            self.lock_idle_states().insert(Arc::as_ptr(state).addr(), state.clone());
        }
        Ok(SessionPermit { service: self.clone(), idle_state })
    }

    /// Closes the session that has been idle for longest, since another gateway counts it among those at work.
    /// Pauses after an attempt that did not help: the other gateway may have reached another limit.
    pub fn close_longest_idle_session(&self) -> Option<Arc<IdleState>> {
        let until = self.no_room_until_us.load(Ordering::Relaxed);
        let closed = if clock::now_us() < until { None } else { self.reclaim_longest_idle() }?;
        // Nobody takes its permit over.
        self.open.fetch_sub(1, Ordering::Relaxed);
        Some(closed)
    }

    /// Notes that another gateway had no room though an idle session was closed for it.
    pub fn note_no_room(&self, pause: Duration) {
        let until = clock::now_us().saturating_add(pause.as_micros() as u64);
        self.no_room_until_us.store(until, Ordering::Relaxed);
    }

    /// Reclaims the permit of the session that has been idle for longest.
    fn reclaim_longest_idle(&self) -> Option<Arc<IdleState>> {
        let states = self.lock_idle_states();
        loop {
            let idle = states.values().filter_map(|state| Some((state.idle_since()?, state)));
            match idle.min_by_key(|(since, _)| *since) {
                None => return None,
                Some((since, state)) if state.try_reclaim(since) => return Some(state.clone()),
                // It is no longer idle.
                Some(_) => {}
            }
        }
    }

    fn lock_idle_states(&self) -> MutexGuard<'_, HashMap<usize, Arc<IdleState>>> {
        self.idle_states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no new sessions from now on. The first drain request is the one that is shown.
    pub fn drain(&self, by: &str) {
        let drained = Arc::new(DrainRequest { since: log::utc_now(), by: by.into() });
        self.drained.compare_and_swap(&None::<Arc<DrainRequest>>, Some(drained));
    }

    /// Takes new sessions again.
    pub fn undrain(&self) {
        self.drained.store(None);
    }

    /// The drain of this service, if it was drained: by whom, and since when.
    pub fn drain_request(&self) -> Option<DrainRequest> {
        self.drained.load().as_deref().cloned()
    }

    /// The inside has locked it.
    pub fn lock(&self) {
        self.locked.store(true, Ordering::Relaxed);
    }

    /// The inside has unlocked it.
    pub fn unlock(&self) {
        self.locked.store(false, Ordering::Relaxed);
    }

    /// Opens or closes it by its hours; returns whether that has changed.
    pub fn follow_hours(&self, now: SystemTime) -> bool {
        let hours = self.settings.load();
        let is_closed = hours.hours.as_ref().is_some_and(|hours| !hours.is_open_at(now));
        self.closed.swap(is_closed, Ordering::Relaxed) != is_closed
    }

    /// Whether it is outside its hours.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub fn set_down(&self, why: Option<String>) {
        self.down.store(why.map(Arc::new));
    }

    pub fn down_reason(&self) -> Option<Arc<String>> {
        self.down.load_full().or_else(|| self.connector.load().down_reason().map(Arc::new))
    }

    pub fn phase(&self) -> ServicePhase {
        match self.drained.load().is_some() {
            _ if self.locked.load(Ordering::Relaxed) => ServicePhase::Locked,
            true => ServicePhase::Draining,
            false if self.is_closed() => ServicePhase::Closed,
            false if self.down_reason().is_some() => ServicePhase::Down,
            false => ServicePhase::Open,
        }
    }

    pub fn open_sessions(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

/// A session's permit within its service's limit, unless it was reclaimed for another session.
#[derive(Debug)]
pub struct SessionPermit {
    service: Arc<Service>,
    /// Of a session that can become idle.
    idle_state: Option<Arc<IdleState>>,
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        if let Some(state) = &self.idle_state {
            self.service.lock_idle_states().remove(&Arc::as_ptr(state).addr());
            if !state.end() {
                return;
            }
        }
        self.service.open.fetch_sub(1, Ordering::Relaxed);
    }
}
