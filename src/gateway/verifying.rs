//! Starts a run of the checklist: reads what it needs, and opens the parts of the other mode for it. The parts of
//! another mode live only as long as the run, and no switch begins meanwhile.

use super::{
    Engine,
    audit::CommandAudit,
    halves::{DmzSide, InternalSide},
    handle::CommandAnswer,
    ports,
    state::EngineState,
    switch::{PendingSwitch, SwitchFiles},
};
use crate::{
    connect::Connector,
    profile::{Half, Mode, ServiceName},
    source::LoadedProfile,
    telemetry::{checklist::CheckStep, snapshot::PoolRow},
    verify::steps::{TrialError, TrialParts, VerifyRun},
};

impl Engine {
    /// Runs the checklist, after the files it needs have been read.
    pub(super) fn verify(&mut self, steps: Vec<CheckStep>, requester: CommandAudit) {
        let refused = match self.state() {
            EngineState::Starting | EngineState::Serving => None,
            EngineState::Loading | EngineState::Switching(_) => Some("a switch is under way"),
            EngineState::Verifying => Some("it is being verified already"),
            EngineState::Stopping(_) | EngineState::Stopped(_) => Some("the gateway is stopping"),
        };
        if let Some(why) = refused {
            return requester
                .answer(CommandAnswer::Refused(format!("{why}; verify again when that has ended")));
        }
        self.verify_progress.begin(&self.profile.name);
        self.state = EngineState::Verifying;
        let Some(mode) = self.trial_mode(&steps) else { return self.start_verify(steps, None, requester) };
        let (source, chosen) = (self.source.clone(), self.chosen.clone());
        self.read_for_operator(
            move || source.load_to_serve(&chosen, Some(mode)),
            move |engine, read| match read {
                Ok(Ok(loaded)) => engine.verify_with(loaded, steps, requester),
                // A profile that cannot be read in the other mode cannot run in it.
                Ok(Err(_)) => engine.start_verify(steps, None, requester),
                Err(error) => engine.start_verify(steps, Some(Err(TrialError::Files(error))), requester),
            },
        );
    }

    /// Opens the parts of the other mode for the run.
    fn verify_with(&mut self, loaded: LoadedProfile, steps: Vec<CheckStep>, requester: CommandAudit) {
        let wanted = self.addresses_to_bind(&loaded.profile);
        self.look_up(wanted, move |engine, found| {
            // Parts opened now would never be retired.
            let trial = match engine.is_stopping() {
                false => engine
                    .begin_switch(engine.chosen.clone(), loaded, SwitchFiles::default(), &found)
                    .map(TrialSwitch::open)
                    .map_err(TrialError::Bind),
                true => Err(TrialError::Stopping),
            };
            engine.start_verify(steps, Some(trial), requester);
        });
    }

    /// Runs the checklist in a task of its own.
    fn start_verify(
        &self,
        steps: Vec<CheckStep>,
        trial: Option<Result<Box<dyn TrialParts>, TrialError>>,
        requester: CommandAudit,
    ) {
        if self.is_stopping() {
            self.verify_progress.end();
            return requester.answer(CommandAnswer::Refused("the gateway is stopping".into()));
        }
        let run = VerifyRun {
            snapshots: self.feed.snapshots.subscribe(),
            source: self.source.clone(),
            chosen: self.chosen.clone(),
            profile: self.profile.clone(),
            locked: self.lock.locked(),
            serve: self.shared.serve.clone(),
            probes: self.shared.sessions.probes.clone(),
            entries: ports::probe_entries(&self.ports),
            admin: self.admin.clone(),
            own_ports: self.shared.own_ports.clone(),
            checks: self.verify_progress.clone(),
            files: self.reader.on_request.clone(),
            trial,
        };
        self.shared.tasks.spawn("verify", async move {
            let report = run.run(&steps).await;
            requester.answer(CommandAnswer::Verified(report));
        });
    }

    /// The other mode, whose parts are opened beside the current ones for this run only. An internal half in
    /// reverse mode opens no port, not even for that.
    fn trial_mode(&self, steps: &[CheckStep]) -> Option<Mode> {
        match self.profile.mode {
            Mode::Forward if steps.contains(&CheckStep::Reverse) => Some(Mode::Reverse),
            Mode::Reverse
                if steps.contains(&CheckStep::Forward)
                    && self.internal.is_none()
                    && self.lock.half().is_none() =>
            {
                Some(Mode::Forward)
            }
            Mode::Direct | Mode::Forward | Mode::Reverse => None,
        }
    }
}

/// A switch that is never committed: its parts are only for `verify`.
struct TrialSwitch(PendingSwitch);

impl TrialSwitch {
    fn open(switch: PendingSwitch) -> Box<dyn TrialParts> {
        Box::new(Self(switch))
    }
}

impl TrialParts for TrialSwitch {
    fn rows(&self, half: Half) -> Vec<PoolRow> {
        match half {
            Half::Dmz => self.0.dmz.as_ref().map(DmzSide::rows).unwrap_or_default(),
            Half::Internal => self.0.internal.as_ref().map(InternalSide::rows).unwrap_or_default(),
        }
    }

    fn connector(&self, service: &ServiceName) -> Option<Connector> {
        self.0.dmz.as_ref()?.connector(service, &self.0.loaded.edges)
    }
}

impl Drop for TrialSwitch {
    fn drop(&mut self) {
        self.0.retire();
    }
}
