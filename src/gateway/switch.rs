//! Switches from one profile to another: open what is new, wait until it is ready, send new sessions there,
//! then close what is no longer used. What changes is worked out in `plan`; renewed certificates alone are taken over in
//! `certificate_reload`.
//!
//! ```text
//! begin ─► waiting ─► commit        the new parts are ready
//!                └──► roll back     not ready in time: what was opened is closed, nothing has changed
//! ```
//!
//! The first start is a switch from nothing, and does not wait.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{
    Engine,
    audit::{CommandAudit, open_audit},
    certificate_reload::CertificateReload,
    halves::{DmzSide, InternalSide, SharedContext},
    handle::CommandAnswer,
    lockdown::SavedLockdown,
    plan::{SwitchPlan, SwitchRefusal},
    ports::{self, ClientPorts},
    service::{Service, ServiceSettings, ServiceTable},
    service_faults::ServiceFaults,
    state::EngineState,
};
use crate::{
    connect::{Connector, backend_group::BackendGroup},
    monitor::MonitorPort,
    net::{listen::BindError, resolved_names::ResolvedNames},
    profile::{Half, Problem, Profile, ServiceName},
    source::{ChosenProfile, LoadedProfile, ProfileSource},
    telemetry::{audit::AuditLog, log::LogEvent, snapshot::SwitchRow},
    tls::{edge::EdgeTls, link::LinkIdentity},
};

/// How long the new parts may take to become ready; the other half has to follow within that time.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// Ready links of the old mode can still be taken for this long: the other half may learn a moment later that
/// new sessions use the new mode.
const OLD_PARTS_GRACE_PERIOD: Duration = Duration::from_secs(1);

/// A switch that has begun.
pub struct PendingSwitch {
    plan: SwitchPlan,
    chosen: ChosenProfile,
    pub(super) loaded: LoadedProfile,
    ports: ClientPorts,
    /// The new sides; `None` if the running one stays, or the profile has none.
    pub(super) dmz: Option<DmzSide>,
    pub(super) internal: Option<InternalSide>,
    health: Option<MonitorPort>,
    files: SwitchFiles,
    deadline: Instant,
    requester: Option<CommandAudit>,
}

/// The files that a switch has opened and read beside the profile.
#[derive(Default)]
pub struct SwitchFiles {
    /// The new audit file, if it changes.
    pub audit: Option<AuditLog>,
    /// What the profile has locked, if it was not in force before in this process.
    pub lockdown: Option<SavedLockdown>,
}

impl Engine {
    /// Binds and starts what the new profile needs and the running one lacks.
    pub(super) fn begin_switch(
        &self,
        chosen: ChosenProfile,
        loaded: LoadedProfile,
        files: SwitchFiles,
        found: &ResolvedNames,
    ) -> Result<PendingSwitch, BindError> {
        self.apply_shared_settings(&loaded.profile);
        self.open_parts(chosen, loaded, files, found).inspect_err(|_| self.restore_shared_settings())
    }

    fn open_parts(
        &self,
        chosen: ChosenProfile,
        loaded: LoadedProfile,
        files: SwitchFiles,
        found: &ResolvedNames,
    ) -> Result<PendingSwitch, BindError> {
        let plan = self.plan_loaded(&loaded);
        let new_dmz = loaded.profile.dmz.as_ref().filter(|_| plan.dmz.opens());
        let new_internal = loaded.profile.internal.as_ref().filter(|_| plan.internal.opens());
        // Everything is bound before anything runs.
        let mut ports = ports::bind_missing(&loaded.profile, &self.ports, found)?;
        let health = self.bind_health(&loaded.profile, found)?;
        let (edges, common) = (&loaded.edges, &self.shared);
        let security = (loaded.dmz.clone(), edges);
        let mut dmz = new_dmz
            .map(|half| DmzSide::prepare(half, security, self.dmz.as_ref(), found, common))
            .transpose()?;
        let security = (loaded.internal.clone(), edges);
        let mut internal = new_internal
            .map(|half| InternalSide::prepare(half, security, self.internal.as_ref(), found, common))
            .transpose()?;
        dmz.iter_mut().zip(new_dmz).for_each(|(side, half)| side.start(half, common));
        internal.iter_mut().zip(new_internal).for_each(|(side, half)| side.start(half, common));
        let sides = (dmz.as_ref(), internal.as_ref());
        ports::open_endpoints(sides, (&self.ports, &mut ports), (&loaded.profile, edges), common);
        let deadline = Instant::now() + READY_TIMEOUT;
        Ok(PendingSwitch {
            chosen,
            loaded,
            ports,
            dmz,
            internal,
            health,
            files,
            deadline,
            requester: None,
            plan,
        })
    }

    /// Reads a profile, and begins a switch to it that an operator requested.
    pub(super) fn load_and_switch(
        &mut self,
        choose: impl FnOnce(&ProfileSource) -> Result<ChosenProfile, Vec<Problem>> + Send + 'static,
        requester: CommandAudit,
    ) {
        self.state = EngineState::Loading;
        let source = self.source.clone();
        let (in_use, notices) = (self.profile.audit.clone(), self.shared.notices.clone());
        let (folders, locks) = (self.lock.folders().cloned(), self.lockdown_writer.clone());
        let load = move || {
            let chosen = choose(&source)?;
            let loaded = source.load_to_serve(&chosen, None)?;
            SwitchRefusal::check_lock(folders.as_ref(), &loaded.profile)?;
            let audit = open_audit(&loaded.profile, in_use.as_deref(), &notices)?;
            let lockdown = locks.read_new(&loaded.profile);
            Ok::<_, SwitchRefusal>((loaded, chosen, SwitchFiles { audit, lockdown }))
        };
        self.read_for_operator(load, move |engine, read| {
            let why = match read {
                Ok(Ok((loaded, chosen, files))) => {
                    return engine.look_up_and_switch(chosen, loaded, files, requester);
                }
                Ok(Err(refusal)) => refusal.to_string(),
                Err(error) => error.to_string(),
            };
            engine.end_loading();
            requester.answer(CommandAnswer::Refused(format!("{why}; nothing was changed")));
        });
    }

    fn look_up_and_switch(
        &mut self,
        chosen: ChosenProfile,
        loaded: LoadedProfile,
        files: SwitchFiles,
        requester: CommandAudit,
    ) {
        let wanted = self.addresses_to_bind(&loaded.profile);
        self.look_up(wanted, move |engine, found| {
            engine.end_loading();
            match engine.is_stopping() {
                false => engine.switch(chosen, loaded, files, &found, requester),
                true => {
                    let why = "the gateway is stopping; nothing was changed";
                    requester.answer(CommandAnswer::Refused(why.into()));
                }
            }
        });
    }

    /// Why this process cannot run `profile`, because of how it was started or locked.
    pub(super) fn process_refusal(&self, profile: &Profile) -> Option<String> {
        let by_lock = self.lock.refusal(profile).map(|why| why.to_string());
        by_lock.or_else(|| self.inherited.refusal(profile))
    }

    /// Begins a switch; the answer follows when it has ended.
    fn switch(
        &mut self,
        chosen: ChosenProfile,
        loaded: LoadedProfile,
        files: SwitchFiles,
        found: &ResolvedNames,
        requester: CommandAudit,
    ) {
        if let Some(why) = self.process_refusal(&loaded.profile) {
            return requester.answer(CommandAnswer::Refused(format!("{why}; nothing was changed")));
        }
        match self.begin_switch(chosen, loaded, files, found) {
            Ok(switching) => {
                let plan = switching.plan.to_string();
                let plan: Vec<_> =
                    plan.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
                self.shared.notices.info(LogEvent::SwitchBegun.line(format!(
                    "switch begun, asked by {}: {}",
                    requester.by,
                    plan.join("; ")
                )));
                self.state = EngineState::Switching(Box::new(PendingSwitch {
                    requester: Some(requester),
                    ..switching
                }));
                self.shared.sessions.switching.store(true, Ordering::SeqCst);
                self.advance_switch();
            }
            Err(error) => requester.answer(CommandAnswer::Refused(format!("{error}; nothing was changed"))),
        }
    }

    /// Commits a switch that is ready, and rolls back one that is late.
    pub(super) fn advance_switch(&mut self) {
        let has_time = |pending: &PendingSwitch| Instant::now() < pending.deadline;
        if self.pending_switch().is_some_and(|it| it.missing_reason().is_some() && has_time(it)) {
            return;
        }
        let Some(switching) = self.take_switch() else { return };
        let Some(missing) = switching.missing_reason() else { return self.commit(switching) };
        if switching.can_serve_all() {
            self.shared.notices.warn(
                LogEvent::SwitchUnready
                    .line(format!("switched, although not everything is ready: {missing}")),
            );
            self.commit(switching);
        } else {
            self.roll_back(switching, &format!("not ready within {}s: {missing}", READY_TIMEOUT.as_secs()));
        }
    }

    /// Closes what a switch has opened; the gateway goes on as before.
    pub(super) fn roll_back(&mut self, switching: PendingSwitch, why: &str) {
        switching.retire();
        self.restore_shared_settings();
        let line = format!("switch to `{}` rolled back: {why}", switching.loaded.profile.name);
        match switching.requester {
            Some(requester) => {
                requester.answer(CommandAnswer::Refused(format!("{line}; nothing was changed")))
            }
            None => self.shared.notices.warn(LogEvent::SwitchRefused.line(line)),
        }
    }

    /// Sends new sessions to the new parts, and retires the old ones.
    pub(super) fn commit(&mut self, switching: PendingSwitch) {
        let PendingSwitch {
            chosen,
            loaded,
            ports: new_ports,
            dmz,
            internal,
            health,
            files: opened,
            requester,
            ..
        } = switching;
        let lost = self.lost_access(&loaded);
        let LoadedProfile {
            profile,
            dmz: dmz_identity,
            internal: internal_identity,
            edges,
            auth,
            files,
            certificates,
            ..
        } = loaded;
        self.certificate_reload = CertificateReload::new(files);
        self.share_descriptors(&profile);
        self.certificates = certificates;
        // Before anything can use what is locked.
        opened.lockdown.into_iter().for_each(|kept| self.add_saved_lockdown(kept));
        self.install_dmz(dmz, &profile, dmz_identity);
        self.install_internal(internal, &profile, internal_identity);
        let edges = edges.falling_back_to(&self.edge_tls);
        let auth = auth.falling_back_to(&self.auth_files);
        self.shared.sessions.logins.update(&auth);
        self.set_outer_tls(&edges);
        self.install_services(&profile, &edges);
        self.follow_hours();
        self.follow_lockdown();
        ports::replace_ports(&mut self.ports, new_ports, &profile, &edges, &self.shared);
        self.install_health(health, &profile);
        self.install_logs(&profile);
        self.install_audit(opened.audit, &profile, requester.as_ref());
        let reported = self.take_over_faults(ServiceFaults::find(&profile, &edges, &auth));
        self.send_offers();
        (self.edge_tls, self.auth_files) = (edges, auth);
        self.enforce_revocations();
        self.state = EngineState::Serving;
        self.shared.leaving.store(false, Ordering::Relaxed);
        let mut sentences =
            vec![format!("profile `{}` is in force, mode {}", profile.name, profile.mode.label())];
        sentences.extend(self.lost_grants(&profile));
        sentences.extend(lost);
        sentences.extend(reported);
        sentences.extend(self.lock.enter_reporting(&profile));
        let was_warned = self.inherited.warning(&self.profile).is_some();
        sentences.extend(self.inherited.warning(&profile).filter(|_| !was_warned));
        (self.profile, self.chosen) = (profile, chosen);
        self.report_in_force(sentences.join("; "), requester);
    }

    /// Answers the operator who asked for the switch; a start is a line of the audit and of the log.
    fn report_in_force(&self, line: String, requester: Option<CommandAudit>) {
        let Some(requester) = requester else {
            self.audit_start(&self.profile.name, &line);
            self.shared.notices.info(LogEvent::ProfileInForce.line(line));
            return;
        };
        let duration = match self.chosen == self.first {
            true => String::new(),
            false => {
                format!("; it lasts until this process ends: a restart begins with {}", self.first.describe())
            }
        };
        requester.answer(CommandAnswer::Done(line + &duration));
    }

    fn install_dmz(&mut self, new: Option<DmzSide>, profile: &Profile, identity: Option<LinkIdentity>) {
        match (new, &profile.dmz) {
            (None, Some(half)) => {
                if let Some(side) = &mut self.dmz {
                    side.update(half, identity);
                }
            }
            (new, half) => {
                if let (Some(side), Some(half)) = (&new, half) {
                    side.use_normal_retry(half);
                }
                let old = std::mem::replace(&mut self.dmz, new);
                self.retiring.dmz.extend(old.map(|side| {
                    side.close_port();
                    (side, Instant::now() + OLD_PARTS_GRACE_PERIOD)
                }));
            }
        }
    }

    fn install_internal(
        &mut self,
        new: Option<InternalSide>,
        profile: &Profile,
        identity: Option<LinkIdentity>,
    ) {
        if new.is_some() || profile.internal.is_none() {
            let old = std::mem::replace(&mut self.internal, new);
            self.retiring.internal.extend(old.map(|side| {
                side.close_port();
                (side, Instant::now() + OLD_PARTS_GRACE_PERIOD)
            }));
        }
        if let (Some(side), Some(half)) = (&mut self.internal, &profile.internal) {
            side.update(half, identity, &self.shared);
        }
    }

    fn install_services(&mut self, profile: &Profile, edges: &EdgeTls) {
        let clients = profile.dmz.iter().flat_map(|half| &half.services);
        let clients = clients.map(|service| (service.name.clone(), service.clients.clone()));
        self.shared.sessions.gates.update(clients);
        let before = self.shared.sessions.services.load_full();
        let services: ServiceTable = self
            .wanted_services(profile, edges)
            .map(|((half, name), settings, connector)| {
                let service = match before.get(&(half, name.clone())) {
                    Some(service) => {
                        service.set_settings(settings);
                        service.replace_connector(connector);
                        service.undrain();
                        service.clone()
                    }
                    None => Service::new(name.clone(), settings, connector, self.cut.child_token()),
                };
                let SharedContext { notices, dns, own_ports, .. } = &self.shared;
                service.connector.load().watch(notices, dns, own_ports);
                ((half, name), service)
            })
            .collect();
        let deadline = Instant::now() + profile.drain;
        // If the new mode does not need a half, nothing is cut: its service goes on elsewhere.
        let is_missing = |name: &ServiceName| !services.keys().any(|(_, kept)| kept == name);
        let removed = before.iter().filter(|((_, name), _)| is_missing(name));
        self.retiring.services.extend(removed.map(|(_, service)| (service.clone(), deadline)));
        // A link may have opened a session a moment ago, which is still served.
        let of_links = |half: Half| half == Half::Internal && !services.keys().any(|(kept, _)| *kept == half);
        let removed = before.iter().filter(|((half, _), _)| of_links(*half));
        let removed = removed.map(|(key, service)| (key.clone(), service.clone())).collect::<ServiceTable>();
        self.shared.sessions.leaving.store(removed.into());
        self.shared.sessions.services.store(services.into());
    }

    pub(super) fn wanted_services<'a>(
        &'a self,
        profile: &'a Profile,
        edges: &'a EdgeTls,
    ) -> impl Iterator<Item = ((Half, ServiceName), ServiceSettings, Connector)> + 'a {
        let of_dmz = profile.dmz.iter().flat_map(|half| &half.services).filter_map(|service| {
            let connector = self.dmz.as_ref()?.connector(&service.name, edges)?;
            let settings = ServiceSettings {
                sessions: service.sessions,
                idle: service.idle,
                peers: service.peers.clone(),
                session_limit: service.clients.session_limit,
                rate: service.clients.rate,
                hours: service.hours.clone(),
                per_peer: None,
            };
            Some(((Half::Dmz, service.name.clone()), settings, connector))
        });
        let of_internal = profile.internal.iter().flat_map(|half| {
            half.services.iter().map(|service| {
                let carried = half.maximum.saturating_mul(half.sessions_per_link);
                let sessions = service.sessions.unwrap_or(carried);
                let settings = ServiceSettings {
                    sessions,
                    peers: service.peers.clone(),
                    hours: service.hours.clone(),
                    per_peer: service.per_peer,
                    ..ServiceSettings::default()
                };
                let group = BackendGroup::new(&service.name, &service.connect, edges);
                let connector = Connector::Direct(group.into());
                ((Half::Internal, service.name.clone()), settings, connector)
            })
        });
        of_dmz.chain(of_internal)
    }
}

impl PendingSwitch {
    fn missing_reason(&self) -> Option<String> {
        let dmz = self.dmz.as_ref().and_then(DmzSide::missing_reason);
        dmz.or_else(|| self.internal.as_ref().and_then(InternalSide::missing_reason))
    }

    pub fn row(&self) -> SwitchRow {
        let profile = &self.loaded.profile;
        let left = self.deadline.saturating_duration_since(Instant::now());
        SwitchRow {
            profile: profile.name.clone(),
            mode: profile.mode,
            missing: self.missing_reason(),
            seconds_left: left.as_secs_f64(),
        }
    }

    /// Closes what it has opened.
    pub(super) fn retire(&self) {
        self.dmz.iter().for_each(DmzSide::retire);
        self.internal.iter().for_each(InternalSide::retire);
    }

    /// The new link ports; old and new ones both serve while a switch waits.
    pub fn listening(&self) -> impl Iterator<Item = String> {
        let of_dmz = self.dmz.as_ref().map(DmzSide::listening).unwrap_or_default();
        of_dmz.into_iter().chain(self.internal.as_ref().map(InternalSide::listening).unwrap_or_default())
    }

    fn can_serve_all(&self) -> bool {
        self.dmz.as_ref().is_none_or(DmzSide::can_serve_all)
            && self.internal.as_ref().is_none_or(InternalSide::can_serve_all)
    }
}
