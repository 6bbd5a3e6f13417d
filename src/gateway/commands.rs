//! What each operator command does, except switch, stop and the checklist. One that needs files is answered once
//! they have been read beside the engine ([`super::reader`]).

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use super::{
    Engine,
    audit::CommandAudit,
    halves::ResizeOutcome,
    handle::{Command, CommandAnswer, PendingCommand},
    plan::{SwitchPlan, problem_lines},
    snapshot_builder::SessionRows,
};
use crate::{
    profile::ServiceName,
    telemetry::{format, log, registry::KillError, snapshot::TrafficTotals},
};

impl Engine {
    pub(super) fn handle_command(&mut self, requested: PendingCommand) {
        let (command, requester) = CommandAudit::new(requested, &self.shared, self.reloads.clone());
        if matches!(command, Command::Reload | Command::Switch { .. })
            && let Some(why) = self.busy_reason()
        {
            return requester.answer(CommandAnswer::Refused(why.into()));
        }
        let answer = match command {
            Command::Status => CommandAnswer::Status(Arc::new(self.snapshot(SessionRows::Listed))),
            Command::Drain { service } => self.drain(service.as_deref(), &requester.by),
            Command::Dismiss { peer } => self.dismiss(&peer),
            Command::Kill { session } => self.kill(&session),
            Command::KillAll(selection) => {
                CommandAnswer::Killed(self.shared.sessions.registry.kill_all(&selection))
            }
            Command::Lockdown(target) => return self.lock_down(target, requester),
            Command::Unlock(target) => return self.unlock(target, requester),
            Command::Metrics { format } => return self.publish_metrics(format, requester),
            Command::History(requested) => CommandAnswer::History(Box::new(self.history_report(requested))),
            Command::Profiles => return self.list_profiles(requester),
            Command::LogLevel { level } => set_log_level(&level),
            Command::Resize { prepared } => self.resize(prepared),
            Command::Plan { profile } => return self.answer_plan(profile, requester),
            Command::Stop => return self.stop(Some(requester)),
            Command::Verify { steps } => return self.verify(steps, requester),
            Command::Reload => {
                let chosen = self.chosen.clone();
                return self.load_and_switch(move |_| Ok(chosen), requester);
            }
            Command::Switch { profile } => {
                return self.load_and_switch(move |source| source.choose(&profile), requester);
            }
        };
        requester.answer(answer);
    }

    fn kill(&self, session: &str) -> CommandAnswer {
        match self.shared.sessions.registry.kill(session) {
            Ok(()) => CommandAnswer::Done(format!("session {session} is cut")),
            Err(KillError::None) => CommandAnswer::Refused(format!("no open session {session}")),
            Err(KillError::Several(names)) => CommandAnswer::Refused(format!(
                "{} sessions are called {session}: {}",
                names.len(),
                names.join(", ")
            )),
        }
    }

    fn answer_plan(&self, profile: String, requester: CommandAudit) {
        let (source, name) = (self.source.clone(), profile.clone());
        let load = move || source.load_to_serve(&source.choose(&name)?, None);
        self.read_for_operator(load, move |engine, read| {
            requester.answer(match read {
                Ok(Ok(loaded)) => {
                    let plan = SwitchPlan { profile, ..engine.plan_loaded(&loaded) };
                    CommandAnswer::Planned(plan.into())
                }
                Ok(Err(problems)) => CommandAnswer::Refused(problem_lines(&problems)),
                Err(error) => CommandAnswer::Refused(error.to_string()),
            });
        });
    }

    fn drain(&mut self, service: Option<&str>, by: &str) -> CommandAnswer {
        let services = self.shared.sessions.services.load_full();
        let meant = |name: &str| service.is_none_or(|service| service == name);
        let drained: Vec<_> = services.values().filter(|service| meant(service.name.as_str())).collect();
        if drained.is_empty() {
            let names: BTreeSet<_> = services.values().map(|service| service.name.as_str()).collect();
            let known = names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let asked = service.unwrap_or_default();
            return CommandAnswer::Refused(format!("no service `{asked}`; the profile has {known}"));
        }
        drained.iter().for_each(|service| service.drain(by));
        if let Some(internal) = &mut self.internal {
            internal.drain(service.and_then(ServiceName::parse).as_ref());
        }
        if service.is_none() {
            self.shared.leaving.store(true, Ordering::Relaxed);
        }
        let half = self.first_half();
        let of_services = self.shared.sessions.registry.totals();
        let of_drained = of_services.iter().filter(|((of, name), _)| *of == half && meant(name.as_str()));
        let totals = of_drained.fold(TrafficTotals::default(), |sum, (_, totals)| sum.with(totals));
        let what = service.map_or_else(|| "all services".into(), |name| format!("service `{name}`"));
        let wait = match totals.sessions_waiting {
            0 => String::new(),
            waiting => format!(", {waiting} still wait to be carried"),
        };
        let open = totals.sessions_open;
        CommandAnswer::Done(format!("{what}: no new sessions, {open} still open{wait}; `reload` undoes it"))
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

    /// Keeps this many links ready from now on. The dialling half decides.
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
                "{} kept ready; `reload` brings the profile's number back",
                format::count(prepared as u64, "link")
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
}

fn set_log_level(level: &str) -> CommandAnswer {
    match log::set_level(level) {
        Ok(()) => CommandAnswer::Done(format!("the log is written at `{level}` until this process ends")),
        Err(error) => CommandAnswer::Refused(error.to_string()),
    }
}
