//! The engine: one task that owns the running parts and answers commands.
//!
//! In reading order: [`handle`] is its surface, `switch` how it gets from one profile to another
//! (the first start included), `ways` and `ports` the parts, `session` one client from start to
//! end, `relay` its bytes, `observer` the picture of it all.

pub mod advice;
mod checks;
#[cfg(test)]
mod deadlines;
mod descriptors;
pub mod differences;
mod failing;
mod faults;
pub mod handle;
mod history;
mod monitoring;
mod observer;
pub mod plan;
mod ports;
mod probe;
mod profiles;
mod reading;
mod relay;
mod renewal;
mod service;
mod session;
mod switch;
pub mod walk;
mod ways;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

pub use self::switch::mode_word;
use self::{
    checks::Checks,
    descriptors::Budget,
    faults::Faults,
    handle::{Answer, Asked, Command, Feed, Handle},
    history::Asker,
    observer::{Minute, Traffic, host},
    plan::Plan,
    ports::Ports,
    reading::{LOOK_UP, Reading},
    renewal::Renewal,
    service::Services,
    session::Sessions,
    switch::{Leaving, Switching},
    walk::Walk,
    ways::{Common, DmzSide, InternalSide, Resized},
};
use crate::{
    accept::{Negotiated, Serve},
    link::listener::Greetings,
    monitor::{LastTurn, MonitorPort},
    net::{
        edges::Edges,
        expiry::Expiry,
        listen::BindError,
        names::{Found, Names},
    },
    profile::{Mode, Problem, Profile},
    source::{Chosen, Loaded, Source},
    tasks::Tasks,
    telemetry::{
        checklist::Step,
        clock,
        health::alarms::Alarms,
        notices::Notices,
        registry::{NotKilled, Registry},
        snapshot::{Descriptors, GatewayPhase, Snapshot, Totals},
    },
};

/// How often the picture is taken.
const TICK: Duration = Duration::from_millis(250);
/// The same while a switch or a stop is under way.
const TICK_HURRIED: Duration = Duration::from_millis(20);
/// Sessions that were cut, and links that say farewell, get so long to end.
const FLUSH: Duration = Duration::from_secs(2);

/// How a gateway ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Clean,
    /// So many sessions were cut.
    Cut(usize),
}

/// A running gateway.
pub struct Engine {
    common: Common,
    budget: Budget,
    source: Source,
    chosen: Chosen,
    /// What a restart begins with.
    first: Chosen,
    profile: Profile,
    /// How TLS is spoken at its edges.
    edges: Edges,
    faults: Faults,
    ports: Ports,
    dmz: Option<DmzSide>,
    internal: Option<InternalSide>,
    leaving: Leaving,
    switching: Option<Switching>,
    /// A profile is being read, for a switch.
    is_loading: bool,
    stopping: Option<Stopping>,
    phase: GatewayPhase,
    started: Instant,
    traffic: Traffic,
    minute: Minute,
    /// Cuts every session.
    cut: CancellationToken,
    feed: Feed,
    checks: Checks,
    renewal: Renewal,
    reading: Reading,
    /// What is wrong, and since when.
    alarms: Alarms,
    /// Looked at from time to time.
    descriptors: Descriptors,
    certificates: Vec<Expiry>,
    host: String,
    /// Where monitors ask.
    health: Option<MonitorPort>,
    turned: LastTurn,
    /// Its admin socket, the one door that an internal half may have.
    admin: Option<PathBuf>,
}

/// A stop under way.
struct Stopping {
    deadline: Instant,
    cut: Option<usize>,
    askers: Vec<Asker>,
}

impl Engine {
    /// Opens everything the profile names; an error means that nothing is open.
    pub async fn start(source: Source, chosen: Chosen, loaded: Loaded) -> Result<(Handle, Self), BindError> {
        clock::tick();
        let (handle, feed) = handle::channel(
            Arc::new(Snapshot::new(&loaded.profile.name, loaded.profile.mode)),
            "this process",
        );
        let cut = CancellationToken::new();
        let mut engine = Self {
            common: common(),
            budget: Budget::at_start(),
            source,
            chosen: chosen.clone(),
            first: chosen.clone(),
            profile: loaded.profile.clone(),
            edges: Edges::default(),
            faults: Faults::default(),
            ports: Ports::new(),
            dmz: None,
            internal: None,
            leaving: Leaving::default(),
            switching: None,
            is_loading: false,
            stopping: None,
            phase: GatewayPhase::Starting,
            started: Instant::now(),
            traffic: Traffic::default(),
            minute: Minute::default(),
            cut,
            feed,
            checks: Checks::default(),
            renewal: Renewal::new(loaded.files.clone()),
            reading: Reading::default(),
            alarms: Alarms::default(),
            descriptors: Descriptors::default(),
            certificates: loaded.certificates.clone(),
            host: host(),
            health: None,
            turned: LastTurn::default(),
            admin: None,
        };
        let wanted = engine.to_bind(&loaded.profile);
        let found = Found::look_up(Names::of_host(), wanted, LOOK_UP).await;
        let switching = engine.begin(chosen, loaded, &found)?;
        engine.commit(switching);
        engine.publish();
        Ok((handle, engine))
    }

    /// Says where its admin socket is.
    pub fn with_admin_socket(self, path: Option<&Path>) -> Self {
        Self { admin: path.map(Path::to_path_buf), ..self }
    }

    /// Where lines for the operator go.
    pub fn notices(&self) -> Arc<Notices> {
        self.common.notices.clone()
    }

    /// Runs until it is stopped.
    pub async fn run(mut self) -> Outcome {
        let mut unattended = false;
        loop {
            let hurried = self.switching.is_some() || self.stopping.is_some() || !self.leaving.is_empty();
            let pause = if hurried { TICK_HURRIED } else { TICK };
            tokio::select! {
                asked = self.feed.commands.recv(), if !unattended => match asked {
                    Some(asked) => self.obey(asked),
                    // Without a handle nobody can stop it any more, so it stops by itself, unless
                    // it does already: a second stop would cut.
                    None => {
                        unattended = true;
                        if self.stopping.is_none() {
                            self.stop(None);
                        }
                    }
                },
                then = self.reading.next() => then(&mut self),
                () = tokio::time::sleep(pause) => {}
            }
            self.look();
            if let Some(outcome) = self.ended() {
                return self.finish(outcome).await;
            }
        }
    }

    fn look(&mut self) {
        clock::tick();
        self.turned.is_now();
        self.advance_switch();
        self.common.sessions.switching.store(self.switching.is_some(), Ordering::SeqCst);
        self.let_go();
        self.renew();
        self.common.notices.limited().flush();
        self.common.sessions.registry.tell_refusals();
        let totals = self.totals();
        let last = self.feed.snapshots.borrow().uptime_seconds;
        let since = self.started.elapsed().as_secs_f64() - last;
        let is_second = self.traffic.sample(&totals);
        if is_second {
            self.count_descriptors();
            let (pools, now) = (self.pool_rows(), self.started.elapsed().as_secs_f64());
            self.minute.look(&pools, &self.common.sessions.services.load(), now);
        }
        if is_second || since >= TICK.as_secs_f64() {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let with_rows = self.feed.is_watched();
        if with_rows {
            self.common.sessions.registry.tick();
        }
        let mut snapshot = self.judged(with_rows);
        self.minute.hold(&snapshot.pools, snapshot.uptime_seconds);
        if self.stopping.is_none() && self.phase != GatewayPhase::Starting {
            self.alarms.look(&snapshot, &self.common.notices);
        }
        self.alarms.show(&mut snapshot);
        self.feed.snapshots.send_replace(Arc::new(snapshot));
    }

    fn obey(&mut self, asked: Asked) {
        let Asked { command, by, answer } = asked;
        let asker = Asker::new(&command, by, self.common.notices.clone(), answer);
        let answer = match command {
            Command::Status => Answer::Status(Arc::new(self.snapshot(true))),
            Command::Drain { service } => self.drain(service.as_deref(), &asker.by),
            Command::Dismiss { peer } => self.dismiss(&peer),
            Command::Kill { session } => match self.common.sessions.registry.kill(&session) {
                Ok(()) => Answer::Done(format!("session {session} is cut")),
                Err(NotKilled::None) => Answer::Refused(format!("no open session {session}")),
                Err(NotKilled::Several(names)) => Answer::Refused(format!(
                    "{} sessions are called {session}: {}",
                    names.len(),
                    names.join(", ")
                )),
            },
            Command::Profiles => return self.list_profiles(asker),
            Command::Resize { prepared } => self.resize(prepared),
            Command::Plan { profile } => return self.plan_for(profile, asker),
            Command::Stop => return self.stop(Some(asker)),
            Command::Reload | Command::Switch { .. } if self.stopping.is_some() => {
                Answer::Refused("the gateway is stopping".into())
            }
            Command::Reload | Command::Switch { .. } if self.is_switching() => {
                Answer::Refused("a switch is under way".into())
            }
            Command::Reload | Command::Switch { .. } if self.checks.is_walking() => {
                Answer::Refused("the checklist is being walked; wait until that has ended".into())
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

    /// A profile is being read for a switch, or the new way opens.
    fn is_switching(&self) -> bool {
        self.is_loading || self.switching.is_some()
    }

    fn plan_for(&self, profile: String, asker: Asker) {
        let (source, name) = (self.source.clone(), profile.clone());
        let load = move || source.load_to_serve(&source.choose(&name)?, None);
        self.read(load, move |engine, read| {
            asker.answer(match read {
                Ok(Ok(loaded)) => {
                    let plan = Plan { profile, ..engine.plan(&loaded.profile) };
                    Answer::Planned(plan.into())
                }
                Ok(Err(problems)) => refused(&problems),
                Err(error) => Answer::Refused(error.to_string()),
            });
        });
    }

    /// Walks the checklist, after what it takes has been read.
    fn verify(&self, steps: Vec<Step>, asker: Asker) {
        let refused = match &self.stopping {
            _ if self.is_switching() => Some("a switch is under way"),
            Some(_) => Some("the gateway is stopping"),
            None => (!self.checks.begin(&self.profile.name)).then_some("it is being verified already"),
        };
        if let Some(why) = refused {
            return asker.answer(Answer::Refused(format!("{why}; verify again when that has ended")));
        }
        let Some(mode) = self.trial_mode(&steps) else { return self.walk(steps, None, asker) };
        let (source, chosen) = (self.source.clone(), self.chosen.clone());
        self.read(
            move || source.load_to_serve(&chosen, Some(mode)),
            move |engine, read| match read {
                Ok(Ok(loaded)) => engine.walk_with(loaded, steps, asker),
                // A profile that does not read in the other mode has no such way.
                Ok(Err(_)) => engine.walk(steps, None, asker),
                Err(error) => engine.walk(steps, Some(Err(error.to_string())), asker),
            },
        );
    }

    /// Opens the way of the other mode for the walk.
    fn walk_with(&mut self, loaded: Loaded, steps: Vec<Step>, asker: Asker) {
        let wanted = self.to_bind(&loaded.profile);
        self.look_up(wanted, move |engine, found| {
            // Another one would never be retired.
            let trial = match engine.stopping {
                None => {
                    engine.begin(engine.chosen.clone(), loaded, &found).map_err(|error| error.to_string())
                }
                Some(_) => Err("the gateway is stopping".into()),
            };
            engine.walk(steps, Some(trial), asker);
        });
    }

    /// In a task of its own.
    fn walk(&self, steps: Vec<Step>, trial: Option<Result<Switching, String>>, asker: Asker) {
        if self.stopping.is_some() {
            self.checks.end();
            return asker.answer(Answer::Refused("the gateway is stopping".into()));
        }
        let walk = Walk {
            snapshots: self.feed.snapshots.subscribe(),
            source: self.source.clone(),
            chosen: self.chosen.clone(),
            profile: self.profile.clone(),
            probes: self.common.sessions.probes.clone(),
            entries: ports::entries(&self.ports),
            admin: self.admin.clone(),
            checks: self.checks.clone(),
            files: self.reading.asked.clone(),
            trial,
        };
        self.common.tasks.spawn("verify", async move {
            let report = walk.run(&steps).await;
            asker.answer(Answer::Verified(report));
        });
    }

    /// The other mode, whose way is opened beside the one in force, for a walk alone. An internal half in
    /// reverse mode opens no port, not even for that.
    fn trial_mode(&self, steps: &[Step]) -> Option<Mode> {
        match self.profile.mode {
            Mode::Forward if steps.contains(&Step::Reverse) => Some(Mode::Reverse),
            Mode::Reverse if steps.contains(&Step::Forward) && self.internal.is_none() => Some(Mode::Forward),
            Mode::Direct | Mode::Forward | Mode::Reverse => None,
        }
    }

    fn drain(&mut self, service: Option<&str>, by: &str) -> Answer {
        let services = self.common.sessions.services.load_full();
        let meant = |name: &str| service.is_none_or(|service| service == name);
        let drained: Vec<_> = services.values().filter(|service| meant(service.name.as_str())).collect();
        if drained.is_empty() {
            return Answer::Refused(format!("no service `{}`", service.unwrap_or_default()));
        }
        drained.iter().for_each(|service| service.drain(by));
        if let Some(internal) = &mut self.internal {
            internal.drain(service.and_then(crate::profile::ServiceName::parse).as_ref());
        }
        if service.is_none() {
            self.phase = GatewayPhase::Draining;
        }
        let role = self.first_role();
        let of_services = self.common.sessions.registry.totals();
        let of_drained = of_services.iter().filter(|((of, name), _)| *of == role && meant(name.as_str()));
        let totals = of_drained.fold(Totals::default(), |sum, (_, totals)| sum.with(totals));
        let what = service.map_or_else(|| "all services".into(), |name| format!("service `{name}`"));
        let wait = match totals.sessions_waiting {
            0 => String::new(),
            waiting => format!(", {waiting} still wait to be carried"),
        };
        let open = totals.sessions_open;
        Answer::Done(format!("{what}: no new sessions, {open} go on{wait}; `reload` undoes it"))
    }

    /// Forgets a gateway that was lost.
    fn dismiss(&mut self, peer: &str) -> Answer {
        let of_dmz = self.dmz.as_ref().map_or(0, |side| side.dismiss(peer));
        let of_internal = self.internal.as_ref().map_or(0, |side| side.dismiss(peer));
        match of_dmz + of_internal {
            0 => Answer::Refused(format!(
                "no lost gateway `{peer}` to dismiss; one that is dialled goes with its address in the profile"
            )),
            _ => Answer::Done(format!("gateway `{peer}` is not waited for any more")),
        }
    }

    /// Keeps so many links ready from now on. The half that dials decides.
    fn resize(&mut self, prepared: usize) -> Answer {
        let of_internal = self.internal.as_mut().map(|half| half.resize(prepared));
        let resized = match of_internal {
            Some(resized @ (Resized::Done | Resized::None | Resized::Beyond { .. })) => resized,
            Some(Resized::DialsNone) | None => {
                self.dmz.as_mut().map_or(Resized::DialsNone, |half| half.resize(prepared))
            }
        };
        match resized {
            Resized::Done => Answer::Done(format!(
                "{prepared} links are kept ready; `reload` brings the profile's number back"
            )),
            Resized::None => Answer::Refused(
                "no ready link would serve nobody; ask for one at least, or `drain` the gateway".into(),
            ),
            Resized::DialsNone => Answer::Refused(
                "no links are dialled from here: the half that dials decides how many are ready".into(),
            ),
            Resized::Beyond { links, maximum } => Answer::Refused(format!(
                "{links} links in all would be more than the internal half's `maximum`, {maximum}; \
                 ask for fewer, or raise `internal.link.maximum`"
            )),
        }
    }

    /// The first stop drains, the second cuts.
    fn stop(&mut self, asker: Option<Asker>) {
        if let Some(stopping) = &mut self.stopping {
            stopping.deadline = Instant::now();
            stopping.askers.extend(asker);
            return;
        }
        if let Some(switching) = self.switching.take() {
            self.roll_back(switching, "the gateway stops");
        }
        self.phase = GatewayPhase::Draining;
        self.ports.clear();
        self.leaving.retire();
        let by = asker.as_ref().map_or("this process", |asker| asker.by.as_str());
        for service in self.common.sessions.services.load().values() {
            service.drain(by);
            service.leave.cancel();
        }
        // The dialling half first: in a pair it would take the other's farewell for a loss.
        if let Some(side) = &self.internal {
            side.retire();
        }
        if let Some(side) = &self.dmz {
            side.retire();
        }
        let open = self.totals().clients();
        let drain = humantime::format_duration(self.profile.drain);
        self.common.notices.info(format!("stopping: {open} sessions get {drain} to end"));
        let deadline = Instant::now() + self.profile.drain;
        self.stopping = Some(Stopping { deadline, cut: None, askers: asker.into_iter().collect() });
    }

    /// While it stops: until what is open then is cut.
    fn cut_in(&self) -> Option<Duration> {
        let stopping = self.stopping.as_ref().filter(|stopping| stopping.cut.is_none())?;
        Some(stopping.deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether a stop has come to its end.
    fn ended(&mut self) -> Option<Outcome> {
        let open = self.common.sessions.registry.open_count();
        // The last bytes of a session may be on their way within a link that has to stand for them.
        let links = self.dmz.as_ref().map_or(0, DmzSide::links)
            + self.internal.as_ref().map_or(0, InternalSide::links);
        let stopping = self.stopping.as_mut()?;
        let now = Instant::now();
        match stopping.cut {
            None if open == 0 && (links == 0 || now >= stopping.deadline) => Some(Outcome::Clean),
            None if now >= stopping.deadline => {
                stopping.cut = Some(open);
                stopping.deadline = now + FLUSH;
                self.common.notices.warn(format!("stopping: {open} sessions cut"));
                self.cut.cancel();
                None
            }
            Some(cut) if open == 0 || now >= stopping.deadline => Some(Outcome::Cut(cut)),
            _ => None,
        }
    }

    async fn finish(mut self, outcome: Outcome) -> Outcome {
        // Links say farewell in tasks of their own; a stuck one is dropped with the process.
        let _ = tokio::time::timeout(FLUSH, self.common.tasks.ended()).await;
        self.phase = GatewayPhase::Stopped;
        self.publish();
        self.common.notices.limited().flush_all();
        let line = match outcome {
            Outcome::Clean => "stopped; every session ended by itself".to_owned(),
            Outcome::Cut(count) => format!("stopped; {count} sessions were cut"),
        };
        tracing::info!("{line}");
        for asker in self.stopping.into_iter().flat_map(|stopping| stopping.askers) {
            asker.answer(match outcome {
                Outcome::Clean => Answer::Done(line.clone()),
                Outcome::Cut(_) => Answer::Cut(line.clone()),
            });
        }
        outcome
    }
}

fn refused(problems: &[Problem]) -> Answer {
    Answer::Refused(switch::lines(problems))
}

fn common() -> Common {
    let notices = Arc::new(Notices::default());
    let sessions = Sessions {
        services: Arc::new(ArcSwap::from_pointee(Services::new())),
        leaving: Arc::new(ArcSwap::from_pointee(Services::new())),
        switching: Arc::default(),
        registry: Arc::new(Registry::new(notices.clone())),
        notices: notices.clone(),
        probes: Default::default(),
    };
    let serving = sessions.clone();
    let serve: Serve = Arc::new(move |asked: Negotiated| Box::pin(serving.clone().serve(Box::new(asked))));
    Common {
        sessions,
        serve,
        tasks: Tasks::default(),
        notices,
        shares: Arc::default(),
        clients: Arc::default(),
        greetings: Arc::new(Greetings::of(1)),
    }
}
