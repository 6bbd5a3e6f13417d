//! The engine: one task that owns the running parts and answers commands.
//!
//! In reading order: [`handle`] is its public surface, `switch` takes it from one profile to another (the
//! first start included), `halves` and `ports` are the running parts, `session` is one client from start to
//! end, `relay` copies its bytes, `snapshot_builder` makes the snapshot.

mod attempt;
mod audit;
mod certificate_reload;
#[cfg(test)]
mod deadlines;
mod descriptors;
mod final_delivery;
mod halves;
pub mod handle;
mod link_session;
mod monitoring;
pub mod plan;
mod ports;
mod profiles;
mod reader;
mod relay;
mod service;
pub mod service_changes;
mod service_faults;
mod service_manager;
mod session;
mod session_end;
mod snapshot_builder;
mod stop;
mod switch;
mod unready_ports;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use self::{
    audit::{CommandAudit, ReloadTally},
    certificate_reload::CertificateReload,
    descriptors::{DescriptorBudget, OneSessionLinks},
    halves::{DmzSide, InternalSide, ResizeOutcome, SharedContext},
    handle::{Command, CommandAnswer, GatewayHandle, HandleFeed, PendingCommand},
    plan::SwitchPlan,
    ports::ClientPorts,
    reader::{EngineReader, LOOK_UP},
    service::ServiceTable,
    service_faults::ServiceFaults,
    service_manager::ServiceManager,
    session::SessionContext,
    snapshot_builder::{RecentHistory, TrafficHistory, host_name},
    stop::PendingStop,
    switch::{PendingSwitch, RetiringParts, TrialSwitch},
};
use crate::{
    accept::{ServeSession, SessionRequest},
    admission::handshakes::HandshakeLimiter,
    monitor::{LastTurn, MonitorPort},
    net::{
        listen::BindError,
        resolver::{NameResolver, ResolvedNames},
    },
    profile::{Mode, Problem, Profile},
    source::{ChosenProfile, LoadedProfile, ProfileSource},
    tasks::Tasks,
    telemetry::{
        checklist::CheckStep,
        clock,
        health::alert_tracker::AlertTracker,
        log::{self, LogEvent},
        notices::NoticeLog,
        registry::{NotKilled, SessionRegistry},
        snapshot::{DescriptorUsage, GatewayPhase, Snapshot, TrafficTotals},
    },
    tls::{edge::EdgeTls, expiry::CertificateExpiry},
    verify::{
        probe,
        progress::VerifyProgress,
        steps::{TrialError, TrialParts, VerifyRun},
    },
};

/// How often a snapshot is taken.
const TICK: Duration = Duration::from_millis(250);
/// The same while a switch or a stop is under way.
const TICK_HURRIED: Duration = Duration::from_millis(20);
/// Sessions that were cut, and links that say farewell, get so long to end.
const FLUSH: Duration = Duration::from_secs(2);

/// How a gateway ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayOutcome {
    Clean,
    /// So many sessions were cut.
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
    /// How TLS is spoken at its edges.
    edge_tls: EdgeTls,
    faults: ServiceFaults,
    ports: ClientPorts,
    dmz: Option<DmzSide>,
    internal: Option<InternalSide>,
    retiring: RetiringParts,
    switching: Option<PendingSwitch>,
    /// A profile is being read, for a switch.
    is_loading: bool,
    stopping: Option<PendingStop>,
    phase: GatewayPhase,
    started: Instant,
    traffic: TrafficHistory,
    recent: RecentHistory,
    /// Cuts every session.
    cut: CancellationToken,
    feed: HandleFeed,
    verify_progress: VerifyProgress,
    certificate_reload: CertificateReload,
    reader: EngineReader,
    /// What is wrong, and since when.
    alert_tracker: AlertTracker,
    /// Looked at from time to time.
    descriptors: DescriptorUsage,
    one_session_links: OneSessionLinks,
    certificates: Vec<CertificateExpiry>,
    host: String,
    /// Where monitors ask.
    health: Option<MonitorPort>,
    turned: LastTurn,
    reloads: Arc<ReloadTally>,
    manager: Option<ServiceManager>,
    /// Its admin socket, the only one that an internal half may listen on.
    admin: Option<PathBuf>,
}

impl Engine {
    /// Opens everything the profile names; an error means that nothing is open.
    pub async fn start(
        source: ProfileSource,
        chosen: ChosenProfile,
        loaded: LoadedProfile,
    ) -> Result<(GatewayHandle, Self), BindError> {
        clock::tick();
        let (handle, feed) = handle::channel(
            Arc::new(Snapshot::new(&loaded.profile.name, loaded.profile.mode)),
            "this process",
        );
        let cut = CancellationToken::new();
        let mut engine = Self {
            shared: shared_context(),
            budget: DescriptorBudget::measure(),
            source,
            chosen: chosen.clone(),
            first: chosen.clone(),
            profile: loaded.profile.clone(),
            edge_tls: EdgeTls::default(),
            faults: ServiceFaults::default(),
            ports: ClientPorts::new(),
            dmz: None,
            internal: None,
            retiring: RetiringParts::default(),
            switching: None,
            is_loading: false,
            stopping: None,
            phase: GatewayPhase::Starting,
            started: Instant::now(),
            traffic: TrafficHistory::default(),
            recent: RecentHistory::default(),
            cut,
            feed,
            verify_progress: VerifyProgress::default(),
            certificate_reload: CertificateReload::new(loaded.files.clone()),
            reader: EngineReader::default(),
            alert_tracker: AlertTracker::default(),
            descriptors: DescriptorUsage::default(),
            one_session_links: OneSessionLinks::default(),
            certificates: loaded.certificates.clone(),
            host: host_name(),
            health: None,
            turned: LastTurn::default(),
            reloads: Arc::default(),
            manager: None,
            admin: None,
        };
        let wanted = engine.addresses_to_bind(&loaded.profile);
        let found = ResolvedNames::look_up(NameResolver::system(), wanted, LOOK_UP).await;
        let switching = engine.begin_switch(chosen, loaded, &found)?;
        engine.commit(switching);
        engine.publish();
        Ok((handle, engine))
    }

    /// Says where its admin socket is.
    pub fn with_admin_socket(self, path: Option<&Path>) -> Self {
        Self { admin: path.map(Path::to_path_buf), ..self }
    }

    /// Where lines for the operator go.
    pub fn notices(&self) -> Arc<NoticeLog> {
        self.shared.notices.clone()
    }

    /// Runs until it is stopped.
    pub async fn run(mut self) -> GatewayOutcome {
        let mut unattended = false;
        loop {
            let hurried = self.switching.is_some() || self.stopping.is_some() || !self.retiring.is_empty();
            let pause = if hurried { TICK_HURRIED } else { TICK };
            tokio::select! {
                asked = self.feed.commands.recv(), if !unattended => match asked {
                    Some(asked) => self.handle_command(asked),
                    // Without a handle nobody can stop it any more, so it stops by itself, unless
                    // it does already: a second stop would cut.
                    None => {
                        unattended = true;
                        if self.stopping.is_none() {
                            self.stop(None);
                        }
                    }
                },
                then = self.reader.next() => then(&mut self),
                () = tokio::time::sleep(pause) => {}
            }
            self.tick();
            self.tell_manager();
            if let Some(outcome) = self.outcome_if_ended() {
                return self.finish(outcome).await;
            }
        }
    }

    fn tick(&mut self) {
        clock::tick();
        self.turned.is_now();
        self.advance_switch();
        self.close_when_due();
        self.shared.sessions.switching.store(self.switching.is_some(), Ordering::SeqCst);
        self.retire_old_parts();
        self.check_certificate_files();
        self.shared.notices.limited().flush();
        self.shared.sessions.registry.report_refusals();
        let totals = self.totals();
        let last = self.feed.snapshots.borrow().uptime_seconds;
        let since = self.started.elapsed().as_secs_f64() - last;
        let is_second = self.traffic.sample(&totals);
        if is_second {
            self.count_descriptors();
            let (pools, now) = (self.pool_rows(), self.started.elapsed().as_secs_f64());
            self.follow_links(&pools);
            self.recent.sample(&pools, &self.shared.sessions.services.load(), now);
        }
        if is_second || since >= TICK.as_secs_f64() {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let with_rows = self.feed.is_watched();
        if with_rows {
            self.shared.sessions.registry.tick();
        }
        let mut snapshot = self.judged_snapshot(with_rows);
        self.follow_readiness(&snapshot);
        self.recent.hold_states(&snapshot.pools, snapshot.uptime_seconds);
        if self.stopping.is_none() && self.phase != GatewayPhase::Starting {
            self.alert_tracker.update(&snapshot, &self.shared.notices);
        }
        self.alert_tracker.set_times(&mut snapshot);
        self.feed.snapshots.send_replace(Arc::new(snapshot));
    }

    fn handle_command(&mut self, asked: PendingCommand) {
        let PendingCommand { command, by, answer } = asked;
        let asker =
            CommandAudit::new(&command, by, self.shared.notices.clone(), self.reloads.clone(), answer);
        let answer = match command {
            Command::Status => CommandAnswer::Status(Arc::new(self.snapshot(true))),
            Command::Drain { service } => self.drain(service.as_deref(), &asker.by),
            Command::Dismiss { peer } => self.dismiss(&peer),
            Command::Kill { session } => match self.shared.sessions.registry.kill(&session) {
                Ok(()) => CommandAnswer::Done(format!("session {session} is cut")),
                Err(NotKilled::None) => CommandAnswer::Refused(format!("no open session {session}")),
                Err(NotKilled::Several(names)) => CommandAnswer::Refused(format!(
                    "{} sessions are called {session}: {}",
                    names.len(),
                    names.join(", ")
                )),
            },
            Command::KillAll(selection) => {
                CommandAnswer::Killed(self.shared.sessions.registry.kill_all(&selection))
            }
            Command::Metrics { format } => return self.tell_metrics(format, asker),
            Command::Profiles => return self.list_profiles(asker),
            Command::LogLevel { level } => set_log_level(&level),
            Command::Resize { prepared } => self.resize(prepared),
            Command::Plan { profile } => return self.answer_plan(profile, asker),
            Command::Stop => return self.stop(Some(asker)),
            Command::Reload | Command::Switch { .. } if self.stopping.is_some() => {
                CommandAnswer::Refused("the gateway is stopping".into())
            }
            Command::Reload | Command::Switch { .. } if self.is_switching() => {
                CommandAnswer::Refused("a switch is under way".into())
            }
            Command::Reload | Command::Switch { .. } if self.verify_progress.is_running() => {
                CommandAnswer::Refused("the checklist is being walked; wait until that has ended".into())
            }
            Command::Verify { steps } => return self.verify(steps, asker),
            Command::Reload => {
                let chosen = self.chosen.clone();
                return self.load_and_switch(move |_| Ok(chosen), asker);
            }
            Command::Switch { profile } => {
                return self.load_and_switch(move |source| source.choose(&profile), asker);
            }
        };
        asker.answer(answer);
    }

    /// Whether a profile is being read for a switch, or a switch is under way.
    fn is_switching(&self) -> bool {
        self.is_loading || self.switching.is_some()
    }

    fn answer_plan(&self, profile: String, asker: CommandAudit) {
        let (source, name) = (self.source.clone(), profile.clone());
        let load = move || source.load_to_serve(&source.choose(&name)?, None);
        self.read_for_operator(load, move |engine, read| {
            asker.answer(match read {
                Ok(Ok(loaded)) => {
                    let plan = SwitchPlan { profile, ..engine.plan_switch(&loaded.profile) };
                    CommandAnswer::Planned(plan.into())
                }
                Ok(Err(problems)) => refuse_problems(&problems),
                Err(error) => CommandAnswer::Refused(error.to_string()),
            });
        });
    }

    /// Runs the checklist, after the files it needs have been read.
    fn verify(&self, steps: Vec<CheckStep>, asker: CommandAudit) {
        let refused = match &self.stopping {
            _ if self.is_switching() => Some("a switch is under way"),
            Some(_) => Some("the gateway is stopping"),
            None => {
                (!self.verify_progress.begin(&self.profile.name)).then_some("it is being verified already")
            }
        };
        if let Some(why) = refused {
            return asker.answer(CommandAnswer::Refused(format!("{why}; verify again when that has ended")));
        }
        let Some(mode) = self.trial_mode(&steps) else { return self.start_verify(steps, None, asker) };
        let (source, chosen) = (self.source.clone(), self.chosen.clone());
        self.read_for_operator(
            move || source.load_to_serve(&chosen, Some(mode)),
            move |engine, read| match read {
                Ok(Ok(loaded)) => engine.verify_with(loaded, steps, asker),
                // A profile that does not read in the other mode has no such way.
                Ok(Err(_)) => engine.start_verify(steps, None, asker),
                Err(error) => engine.start_verify(steps, Some(Err(TrialError::Files(error))), asker),
            },
        );
    }

    /// Opens the other mode's parts for the run.
    fn verify_with(&mut self, loaded: LoadedProfile, steps: Vec<CheckStep>, asker: CommandAudit) {
        let wanted = self.addresses_to_bind(&loaded.profile);
        self.look_up(wanted, move |engine, found| {
            // Another one would never be retired.
            let trial = match engine.stopping {
                None => engine
                    .begin_switch(engine.chosen.clone(), loaded, &found)
                    .map(TrialSwitch::open)
                    .map_err(TrialError::Bind),
                Some(_) => Err(TrialError::Stopping),
            };
            engine.start_verify(steps, Some(trial), asker);
        });
    }

    /// Runs the checklist in a task of its own.
    fn start_verify(
        &self,
        steps: Vec<CheckStep>,
        trial: Option<Result<Box<dyn TrialParts>, TrialError>>,
        asker: CommandAudit,
    ) {
        if self.stopping.is_some() {
            self.verify_progress.end();
            return asker.answer(CommandAnswer::Refused("the gateway is stopping".into()));
        }
        let walk = VerifyRun {
            snapshots: self.feed.snapshots.subscribe(),
            source: self.source.clone(),
            chosen: self.chosen.clone(),
            profile: self.profile.clone(),
            probes: self.shared.sessions.probes.clone(),
            entries: ports::probe_entries(&self.ports),
            admin: self.admin.clone(),
            checks: self.verify_progress.clone(),
            files: self.reader.asked.clone(),
            trial,
        };
        self.shared.tasks.spawn("verify", async move {
            let report = walk.run(&steps).await;
            asker.answer(CommandAnswer::Verified(report));
        });
    }

    /// The other mode, whose way is opened beside the one in force, for a walk alone. An internal half in
    /// reverse mode opens no port, not even for that.
    fn trial_mode(&self, steps: &[CheckStep]) -> Option<Mode> {
        match self.profile.mode {
            Mode::Forward if steps.contains(&CheckStep::Reverse) => Some(Mode::Reverse),
            Mode::Reverse if steps.contains(&CheckStep::Forward) && self.internal.is_none() => {
                Some(Mode::Forward)
            }
            Mode::Direct | Mode::Forward | Mode::Reverse => None,
        }
    }

    fn drain(&mut self, service: Option<&str>, by: &str) -> CommandAnswer {
        let services = self.shared.sessions.services.load_full();
        let meant = |name: &str| service.is_none_or(|service| service == name);
        let drained: Vec<_> = services.values().filter(|service| meant(service.name.as_str())).collect();
        if drained.is_empty() {
            return CommandAnswer::Refused(format!("no service `{}`", service.unwrap_or_default()));
        }
        drained.iter().for_each(|service| service.drain(by));
        if let Some(internal) = &mut self.internal {
            internal.drain(service.and_then(crate::profile::ServiceName::parse).as_ref());
        }
        if service.is_none() {
            self.phase = GatewayPhase::Draining;
            self.shared.leaving.store(true, Ordering::Relaxed);
        }
        let role = self.first_role();
        let of_services = self.shared.sessions.registry.totals();
        let of_drained = of_services.iter().filter(|((of, name), _)| *of == role && meant(name.as_str()));
        let totals = of_drained.fold(TrafficTotals::default(), |sum, (_, totals)| sum.with(totals));
        let what = service.map_or_else(|| "all services".into(), |name| format!("service `{name}`"));
        let wait = match totals.sessions_waiting {
            0 => String::new(),
            waiting => format!(", {waiting} still wait to be carried"),
        };
        let open = totals.sessions_open;
        CommandAnswer::Done(format!("{what}: no new sessions, {open} go on{wait}; `reload` undoes it"))
    }

    /// Forgets a gateway that was lost.
    fn dismiss(&mut self, peer: &str) -> CommandAnswer {
        let of_dmz = self.dmz.as_ref().map_or(0, |side| side.dismiss(peer));
        let of_internal = self.internal.as_ref().map_or(0, |side| side.dismiss(peer));
        match of_dmz + of_internal {
            0 => CommandAnswer::Refused(format!(
                "no lost gateway `{peer}` to dismiss; one that is dialled goes with its address in the profile"
            )),
            _ => CommandAnswer::Done(format!("gateway `{peer}` is not waited for any more")),
        }
    }

    /// Keeps so many links ready from now on. The half that dials decides.
    fn resize(&mut self, prepared: usize) -> CommandAnswer {
        let of_internal = self.internal.as_mut().map(|half| half.resize(prepared));
        let resized = match of_internal {
            Some(resized @ (ResizeOutcome::Done | ResizeOutcome::None | ResizeOutcome::Beyond { .. })) => {
                resized
            }
            Some(ResizeOutcome::DialsNone) | None => {
                self.dmz.as_mut().map_or(ResizeOutcome::DialsNone, |half| half.resize(prepared))
            }
        };
        match resized {
            ResizeOutcome::Done => CommandAnswer::Done(format!(
                "{prepared} links are kept ready; `reload` brings the profile's number back"
            )),
            ResizeOutcome::None => CommandAnswer::Refused(
                "no ready link would serve nobody; ask for one at least, or `drain` the gateway".into(),
            ),
            ResizeOutcome::DialsNone => CommandAnswer::Refused(
                "no links are dialled from here: the half that dials decides how many are ready".into(),
            ),
            ResizeOutcome::Beyond { links, maximum } => CommandAnswer::Refused(format!(
                "{links} links in all would be more than the internal half's `maximum`, {maximum}; \
                 ask for fewer, or raise `internal.link.maximum`"
            )),
        }
    }

    async fn finish(mut self, outcome: GatewayOutcome) -> GatewayOutcome {
        // Links say farewell in tasks of their own; a stuck one is dropped with the process.
        let _ = tokio::time::timeout(FLUSH, self.shared.tasks.all_ended()).await;
        self.phase = GatewayPhase::Stopped;
        self.publish();
        self.shared.notices.limited().flush_all();
        let line = match outcome {
            GatewayOutcome::Clean => "stopped; every session ended by itself".to_owned(),
            GatewayOutcome::Cut(count) => format!("stopped; {count} sessions were cut"),
        };
        tracing::info!(event = %LogEvent::Stopped, "{line}");
        for asker in self.stopping.into_iter().flat_map(|stopping| stopping.askers) {
            asker.answer(match outcome {
                GatewayOutcome::Clean => CommandAnswer::Done(line.clone()),
                GatewayOutcome::Cut(_) => CommandAnswer::Cut(line.clone()),
            });
        }
        outcome
    }
}

fn set_log_level(level: &str) -> CommandAnswer {
    match log::set_level(level) {
        Ok(()) => CommandAnswer::Done(format!("the log is written at `{level}` until this process ends")),
        Err(error) => CommandAnswer::Refused(error.to_string()),
    }
}

fn refuse_problems(problems: &[Problem]) -> CommandAnswer {
    CommandAnswer::Refused(switch::problem_lines(problems))
}

fn shared_context() -> SharedContext {
    let notices = Arc::new(NoticeLog::default());
    let sessions = SessionContext {
        services: Arc::new(ArcSwap::from_pointee(ServiceTable::new())),
        leaving: Arc::new(ArcSwap::from_pointee(ServiceTable::new())),
        switching: Arc::default(),
        registry: Arc::new(SessionRegistry::new(notices.clone())),
        notices: notices.clone(),
        probes: Default::default(),
        backends: Arc::default(),
    };
    let serving = sessions.clone();
    let serve: ServeSession =
        Arc::new(move |asked: SessionRequest| Box::pin(serving.clone().serve(Box::new(asked))));
    SharedContext {
        sessions,
        serve,
        tasks: Tasks::default(),
        notices,
        shares: Arc::default(),
        clients: Arc::default(),
        handshakes: Arc::new(HandshakeLimiter::new(1)),
        requests: Arc::default(),
        access: Arc::default(),
        leaving: Arc::default(),
    }
}
