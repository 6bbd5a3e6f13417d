//! The engine: one task that owns the running parts and answers commands.
//!
//! In reading order: [`handle`] is its public surface. `switch` takes it from one profile to another, including
//! the first start. `halves` and `ports` are the running parts, `session` is one client from start to end, and
//! `relay` copies its bytes. `snapshot_builder` makes the snapshot.
//!
//! The files here use each other: each has the commands or duties of [`Engine`] in one matter, and the parts of a
//! session call each other.

mod attempt;
mod audit;
mod certificate_reload;
mod commands;
mod descriptors;
mod final_delivery;
mod halves;
pub mod handle;
mod history;
pub mod history_file;
mod idle_watch;
mod link_changes;
mod link_session;
mod lockdown;
pub mod lockdown_file;
mod lost_access;
mod lost_grants;
mod monitoring;
mod offers;
mod opening;
pub mod plan;
mod ports;
mod profiles;
mod reader;
mod recent_history;
pub mod relay;
mod retiring;
mod service;
pub mod service_changes;
mod service_faults;
mod service_manager;
mod session;
mod session_end;
pub mod session_permits;
mod shared_settings;
mod snapshot_builder;
mod state;
pub mod state_file;
mod stop;
mod switch;
#[cfg(test)]
mod tests;
mod unready_ports;
mod verifying;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use self::{
    audit::{ReloadTally, open_audit},
    certificate_reload::CertificateReload,
    descriptors::{DescriptorBudget, OneSessionLinks},
    halves::{DmzSide, InternalSide, SharedContext},
    handle::{CommandAnswer, GatewayHandle, HandleFeed},
    history::GatewayHistory,
    lockdown::LockdownWriter,
    offers::ClosedServices,
    ports::ClientPorts,
    reader::{EngineReader, LOOKUP_TIMEOUT},
    recent_history::RecentHistory,
    retiring::RetiringParts,
    service::ServiceTable,
    service_faults::ServiceFaults,
    service_manager::ServiceManager,
    session::SessionContext,
    snapshot_builder::{SessionRows, TrafficHistory},
    state::EngineState,
    switch::SwitchFiles,
};
use crate::{
    accept::{ServeSession, SessionRequest},
    admission::{handshakes::HandshakeLimiter, quota::DescriptorQuota},
    auth::AuthFiles,
    confine::{LockError, ProcessLock, refused_call},
    link::lockdown::Lockdown,
    monitor::{LastTurn, MonitorPort},
    net::{
        dns::DnsResolver, inherited::InheritedSockets, listen::BindError, own_ports::OwnPorts,
        resolved_names::ResolvedNames, resolver::NameResolver,
    },
    profile::Profile,
    source::{ChosenProfile, LoadedProfile, ProfileSource},
    tasks::Tasks,
    telemetry::{
        audit::{ActorOrigin, AuditActor, AuditFileInUse, AuditRecord},
        clock::{self, WallClock},
        format,
        health::alert_tracker::AlertTracker,
        log::LogEvent,
        notices::NoticeLog,
        registry::SessionRegistry,
        snapshot::{DescriptorUsage, Snapshot},
    },
    tls::{edge::EdgeTls, expiry::CertificateExpiry, revocation::ListExpiry},
    verify::progress::VerifyProgress,
};

pub use self::{history::SavedHistory, lockdown::SavedLockdown, snapshot_builder::host_name};

/// How often a snapshot is taken.
const TICK_INTERVAL: Duration = Duration::from_millis(250);
/// How often the engine takes a turn while a switch or a stop is under way.
const BUSY_TICK_INTERVAL: Duration = Duration::from_millis(20);
/// How long sessions that were cut, and links that are closing, get to end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the last lines of the audit get to be written.
const AUDIT_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineStartError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Audit(#[from] AuditFileInUse),
}

/// How a gateway ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayOutcome {
    Clean,
    /// This many sessions were cut.
    Cut(usize),
}

/// A running gateway.
pub struct Engine {
    shared: SharedContext,
    budget: DescriptorBudget,
    source: ProfileSource,
    chosen: ChosenProfile,
    /// The profile that a restart begins with.
    first: ChosenProfile,
    profile: Profile,
    /// The TLS of its edges.
    edge_tls: EdgeTls,
    auth_files: AuthFiles,
    faults: ServiceFaults,
    ports: ClientPorts,
    dmz: Option<DmzSide>,
    internal: Option<InternalSide>,
    retiring: RetiringParts,
    state: EngineState,
    started: Instant,
    traffic: TrafficHistory,
    recent: RecentHistory,
    history: GatewayHistory,
    /// Cuts every session.
    cut: CancellationToken,
    feed: HandleFeed,
    verify_progress: VerifyProgress,
    lockdown_writer: LockdownWriter,
    inherited: InheritedSockets,
    certificate_reload: CertificateReload,
    reader: EngineReader,
    /// What is wrong, and since when.
    alert_tracker: AlertTracker,
    /// Updated from time to time.
    descriptors: DescriptorUsage,
    one_session_links: OneSessionLinks,
    certificates: Vec<CertificateExpiry>,
    /// When the lists of revoked certificates have to be replaced.
    revocation_lists: Vec<ListExpiry>,
    closed_services: ClosedServices,
    wall_clock: WallClock,
    host: String,
    /// The port for monitors.
    health: Option<MonitorPort>,
    last_turn: LastTurn,
    reloads: Arc<ReloadTally>,
    manager: Option<ServiceManager>,
    /// Its admin socket, the only one that an internal half may listen on.
    admin: Option<PathBuf>,
    /// What the kernel refuses this process.
    lock: ProcessLock,
}

impl Engine {
    /// Opens everything that the profile names. After an error, nothing is open.
    pub async fn start(
        source: ProfileSource,
        chosen: ChosenProfile,
        loaded: LoadedProfile,
    ) -> Result<(GatewayHandle, Self), EngineStartError> {
        Self::start_locked(source, chosen, loaded, SavedLockdown::default()).await
    }

    /// Starts with earlier locks, which apply before the first link or session.
    pub async fn start_locked(
        source: ProfileSource,
        chosen: ChosenProfile,
        loaded: LoadedProfile,
        kept: SavedLockdown,
    ) -> Result<(GatewayHandle, Self), EngineStartError> {
        clock::tick();
        let (handle, feed) = handle::channel(
            Arc::new(Snapshot::new(&loaded.profile.name, loaded.profile.mode)),
            "this process",
        );
        let cut = CancellationToken::new();
        let mut engine = Self {
            shared: shared_context(Lockdown::new(kept.rows.clone())),
            budget: DescriptorBudget::measure(),
            source,
            chosen: chosen.clone(),
            first: chosen.clone(),
            profile: loaded.profile.clone(),
            edge_tls: EdgeTls::default(),
            auth_files: AuthFiles::default(),
            faults: ServiceFaults::default(),
            ports: ClientPorts::new(),
            dmz: None,
            internal: None,
            retiring: RetiringParts::default(),
            state: EngineState::Starting,
            started: Instant::now(),
            traffic: TrafficHistory::default(),
            recent: RecentHistory::default(),
            history: GatewayHistory::default(),
            cut,
            feed,
            verify_progress: VerifyProgress::default(),
            lockdown_writer: LockdownWriter::default(),
            certificate_reload: CertificateReload::new(loaded.files.clone()),
            reader: EngineReader::default(),
            alert_tracker: AlertTracker::default(),
            descriptors: DescriptorUsage::default(),
            one_session_links: OneSessionLinks::default(),
            certificates: loaded.certificates.clone(),
            revocation_lists: Vec::new(),
            closed_services: ClosedServices::default(),
            wall_clock: WallClock::default(),
            host: host_name(),
            health: None,
            last_turn: LastTurn::default(),
            reloads: Arc::default(),
            manager: None,
            admin: None,
            lock: ProcessLock::default(),
            inherited: InheritedSockets::default(),
        };
        let audit = open_audit(&loaded.profile, None, &engine.shared.notices)?;
        engine.take_saved_lockdown(kept);
        let wanted = engine.addresses_to_bind(&loaded.profile);
        let found = ResolvedNames::look_up(NameResolver::system(), wanted, LOOKUP_TIMEOUT).await;
        let files = SwitchFiles { audit, lockdown: None };
        let switching = engine.begin_switch(chosen, loaded, files, &found)?;
        engine.commit(switching);
        engine.count_descriptors();
        engine.publish();
        Ok((handle, engine))
    }

    /// Sets the path of its admin socket.
    pub fn with_admin_socket(self, path: Option<&Path>) -> Self {
        Self { admin: path.map(Path::to_path_buf), ..self }
    }

    /// Uses another clock for the hours of services.
    pub fn with_wall_clock(self, clock: WallClock) -> Self {
        let engine = Self { wall_clock: clock, ..self };
        engine.follow_hours();
        engine.send_offers();
        engine
    }

    /// Runs in no profile that takes none of the sockets that were handed to this process.
    pub fn with_inherited(self, inherited: InheritedSockets) -> Self {
        let warning = inherited.warning(&self.profile);
        warning.into_iter().for_each(|line| self.shared.notices.warn(LogEvent::Locked.line(line)));
        Self { inherited, ..self }
    }

    /// Locks this process as its profile says, now and with each switch. Anything that needs what is refused
    /// from then on has to be done first.
    pub fn with_lock(mut self, lock: ProcessLock) -> Result<Self, LockError> {
        self.lock = lock;
        self.lock
            .enter(&self.profile)?
            .into_iter()
            .for_each(|line| self.shared.notices.info(LogEvent::Locked.line(line)));
        Ok(self)
    }

    /// The log of lines for the operator.
    pub fn notices(&self) -> Arc<NoticeLog> {
        self.shared.notices.clone()
    }

    /// Runs until it is stopped.
    pub async fn run(mut self) -> GatewayOutcome {
        let mut unattended = false;
        loop {
            let quick_retry = self.is_waiting_for_parts() || !self.retiring.is_empty();
            let pause = if quick_retry { BUSY_TICK_INTERVAL } else { TICK_INTERVAL };
            tokio::select! {
                requested = self.feed.commands.recv(), if !unattended => match requested {
                    Some(requested) => self.handle_command(requested),
                    // Without a handle nobody can stop it any more, so it stops by itself. If it is stopping
                    // already, it does nothing: a second stop would cut.
                    None => {
                        unattended = true;
                        if !self.is_stopping() {
                            self.stop(None);
                        }
                    }
                },
                then = self.reader.next() => then(&mut self),
                () = tokio::time::sleep(pause) => {}
            }
            self.tick();
            self.notify_manager();
            self.cut_when_due();
            if let Some(outcome) = self.outcome_if_ended() {
                return self.finish(outcome).await;
            }
        }
    }

    fn tick(&mut self) {
        clock::tick();
        self.last_turn.is_now();
        self.notice_verify_end();
        self.advance_switch();
        self.close_when_due();
        self.shared.sessions.switching.store(self.pending_switch().is_some(), Ordering::SeqCst);
        self.retire_old_parts();
        self.check_certificate_files();
        self.follow_hours();
        // At each turn: descriptors that are there no more run out at once.
        self.follow_descriptor_limit();
        self.send_offers();
        self.report_refused_calls();
        self.shared.notices.limited().flush();
        self.shared.sessions.registry.report_refusals();
        let totals = self.totals();
        let last = self.feed.snapshots.borrow().uptime_seconds;
        let since = self.started.elapsed().as_secs_f64() - last;
        let is_second = self.traffic.sample(&totals);
        if is_second {
            self.count_descriptors();
            let (pools, now) = (self.pool_rows(), self.started.elapsed().as_secs_f64());
            self.sample_history(&totals, &pools);
            self.follow_links(&pools);
            self.follow_closed_services();
            self.recent.sample(&pools, &self.shared.sessions.services.load(), now);
        }
        if is_second || since >= TICK_INTERVAL.as_secs_f64() {
            self.publish();
        }
    }

    fn report_refused_calls(&self) {
        for line in refused_call::take_unreported() {
            self.shared.notices.warn(LogEvent::CallRefused.line(line));
        }
    }

    fn publish(&mut self) {
        let sessions = match self.feed.is_watched() {
            true => SessionRows::Listed,
            false => SessionRows::LeftOut,
        };
        if sessions == SessionRows::Listed {
            self.shared.sessions.registry.tick();
        }
        let mut snapshot = self.judged_snapshot(sessions);
        self.follow_readiness(&snapshot);
        self.recent.hold_states(&snapshot.pools, snapshot.uptime_seconds);
        if self.is_judged() {
            self.alert_tracker.update(&snapshot, &self.shared.notices);
        }
        self.alert_tracker.set_times(&mut snapshot);
        self.feed.snapshots.send_replace(Arc::new(snapshot));
    }

    async fn finish(mut self, outcome: GatewayOutcome) -> GatewayOutcome {
        // Its port would be waited for as well.
        self.health = None;
        self.end_tasks().await;
        self.mark_stopped();
        self.publish();
        self.keep_last_history().await;
        self.shared.notices.limited().flush_all();
        let line = match outcome {
            GatewayOutcome::Clean => "stopped; every session ended by itself".to_owned(),
            GatewayOutcome::Cut(count) => {
                let verb = if count == 1 { "was" } else { "were" };
                format!("stopped; {} {verb} cut", format::count(count as u64, "session"))
            }
        };
        tracing::info!(event = %LogEvent::Stopped, "{line}");
        let audit = self.shared.audit.clone();
        let requesters = self.into_stop_requesters();
        if requesters.is_empty() {
            let actor = AuditActor::own(ActorOrigin::Gateway);
            audit.write(AuditRecord::new(actor, "stop", "", &line));
        }
        for requester in requesters {
            requester.answer(match outcome {
                GatewayOutcome::Clean => CommandAnswer::Done(line.clone()),
                GatewayOutcome::Cut(_) => CommandAnswer::Cut(line.clone()),
            });
        }
        // A disk that does not answer must not delay the exit.
        let _ = tokio::time::timeout(AUDIT_FLUSH_TIMEOUT, audit.flush()).await;
        outcome
    }
}

impl Engine {
    /// Waits for the tasks, such as those in which links close. Those that are stuck are named, and dropped with the
    /// process.
    async fn end_tasks(&self) {
        let tasks = &self.shared.tasks;
        if tokio::time::timeout(FLUSH_TIMEOUT, tasks.all_ended()).await.is_err() {
            let (left, seconds) = (tasks.describe_running(), FLUSH_TIMEOUT.as_secs());
            tracing::warn!(
                event = %LogEvent::TasksLeft,
                tasks = left,
                "these tasks have not ended {seconds}s after the last session, and are dropped with the process: {left}; \
                 please report this"
            );
        }
    }
}

fn shared_context(lockdown: Lockdown) -> SharedContext {
    let notices = Arc::new(NoticeLog::default());
    let sessions = Arc::new(SessionContext {
        services: Arc::new(ArcSwap::from_pointee(ServiceTable::new())),
        leaving: Arc::new(ArcSwap::from_pointee(ServiceTable::new())),
        switching: Arc::default(),
        registry: Arc::new(SessionRegistry::new(notices.clone())),
        notices: notices.clone(),
        probes: Default::default(),
        gates: Arc::default(),
        logins: Arc::default(),
        backends: Arc::default(),
        lockdown,
    });
    let serving = sessions.clone();
    let serve: ServeSession =
        Arc::new(move |requested: SessionRequest| Box::pin(serving.clone().serve(Box::new(requested))));
    let clients: Arc<DescriptorQuota> = Arc::default();
    SharedContext {
        sessions,
        serve,
        tasks: Tasks::default(),
        notices,
        shares: Arc::default(),
        own_ports: OwnPorts::bounded_by(clients.clone()),
        clients,
        handshakes: Arc::new(HandshakeLimiter::new(1)),
        arrivals: Arc::default(),
        requests: Arc::default(),
        access: Arc::default(),
        audit: Arc::default(),
        leaving: Arc::default(),
        dns: DnsResolver::default(),
    }
}
