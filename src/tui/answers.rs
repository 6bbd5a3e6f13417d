//! What the screen says about a command that is under way, and about its result; and what it requests by itself. The
//! answers of several gateways to one command are joined here into one message.

use std::sync::Arc;

use crate::{
    gateway::handle::{Command, CommandAnswer, describe_killed},
    telemetry::snapshot::ProfileRow,
    tui::{
        app::{App, Overlay, ReloadState, StatusMessage},
        confirmation::Confirmation,
        screen::Screen,
        source::Attachment,
    },
};

impl App {
    pub fn take_answer(&mut self, answer: CommandAnswer) {
        let message = self.message.take();
        let is_refused = matches!(answer, CommandAnswer::Refused(_));
        if self.reload == ReloadState::Asked && is_refused {
            self.reload = ReloadState::Refused;
        } else if !matches!(answer, CommandAnswer::Profiles(_)) {
            self.reload = ReloadState::None;
        }
        // It may have been a reload or a switch.
        self.profiles_aged |= matches!(answer, CommandAnswer::Done(_));
        self.message = Some(match answer {
            CommandAnswer::Done(text) | CommandAnswer::Cut(text) => StatusMessage::Done(text),
            CommandAnswer::Planned(plan) => {
                self.message = None;
                // Another question may be open by now.
                if matches!(self.overlay, Overlay::Nothing) {
                    self.overlay = Overlay::question(Confirmation::Switch(plan));
                }
                return;
            }
            CommandAnswer::Killed(sessions) => StatusMessage::Done(describe_killed(sessions)),
            CommandAnswer::NotSaved(text) | CommandAnswer::Refused(text) => StatusMessage::Refused(text),
            CommandAnswer::Verified(report) => StatusMessage::Checked(None, report),
            CommandAnswer::Status(_) | CommandAnswer::Metrics(_) | CommandAnswer::History(_) => {
                StatusMessage::Done("the gateway sent its snapshot".into())
            }
            CommandAnswer::Profiles(profiles) => {
                self.lists.profiles = profiles;
                self.profiles_aged = false;
                self.arrange();
                // The result is visible on the screen, so no message is needed.
                self.message = message.filter(|message| !matches!(message, StatusMessage::Waiting(_)));
                return;
            }
        });
    }

    /// Several gateways were sent the same command: none of their answers may hide another's, nor one of those
    /// that are still to come from an earlier time.
    pub fn note_asked_together(&mut self, names: impl Iterator<Item = Arc<str>>) {
        let joint = self.fleet.joint.get_or_insert_default();
        for name in names {
            *joint.awaited.entry(name).or_default() += 1;
        }
    }

    /// Adds the answer of one of them, which was just taken, to those of the others; refusals come first.
    pub(super) fn join_answer(&mut self, name: &Arc<str>) {
        let Some(joint) = &mut self.fleet.joint else { return };
        let Some(awaited) = joint.awaited.get_mut(name) else { return };
        *awaited -= 1;
        joint.awaited.retain(|_, awaited| *awaited > 0);
        match self.message.take() {
            Some(StatusMessage::Refused(text)) => joint.refused.push(text),
            Some(StatusMessage::Done(text) | StatusMessage::Waiting(text)) => joint.done.push(text),
            Some(StatusMessage::Checked(..)) | None => {}
        }
        let text = joint.refused.iter().chain(&joint.done).cloned().collect::<Vec<_>>().join("; ");
        let awaited: Vec<_> = joint.awaited.keys().map(|name| &**name).collect();
        self.message = Some(match (awaited.is_empty(), joint.refused.is_empty()) {
            (false, _) => StatusMessage::Waiting(format!("{text}; no answer yet of {}", awaited.join(", "))),
            (true, true) => StatusMessage::Done(text),
            (true, false) => StatusMessage::Refused(text),
        });
        if awaited.is_empty() {
            self.fleet.joint = None;
        }
    }

    /// A command is under way.
    pub fn note_sent(&mut self, command: &Command) {
        self.reload = if *command == Command::Reload { ReloadState::Asked } else { ReloadState::None };
        self.message = Some(StatusMessage::Waiting(describe_command(command)));
    }

    /// Something outside the gateway is under way.
    pub fn note_waiting(&mut self, what: &str) {
        self.message = Some(StatusMessage::Waiting(what.into()));
    }

    /// What the screen requests by itself, so that what it shows stays true.
    pub fn background_command(&mut self) -> Option<Command> {
        // It is not known yet whose they would be.
        if self.is_fleet() && self.profiles_of().is_none() {
            return None;
        }
        let shows_profiles =
            self.screen() == Screen::Profiles && !matches!(self.attachment(), Attachment::Replay(_));
        let aged = shows_profiles && std::mem::take(&mut self.profiles_aged);
        let refused = self.reload == ReloadState::Refused;
        if refused {
            self.reload = ReloadState::Shown;
        }
        (aged || refused).then_some(Command::Profiles)
    }

    /// The profile for which a reload was refused, with the lines that are wrong.
    pub fn refused_profile(&self) -> Option<&ProfileRow> {
        let row = self.lists.profiles.iter().find(|row| row.is_current && !row.problems.is_empty());
        row.filter(|_| {
            self.reload == ReloadState::Shown && matches!(self.message, Some(StatusMessage::Refused(_)))
        })
    }

    /// Something outside the gateway is done, or has failed.
    pub fn note_result(&mut self, reported: Result<String, String>) {
        self.message = Some(match reported {
            Ok(text) => StatusMessage::Done(text),
            Err(text) => StatusMessage::Refused(text),
        });
    }
}

fn describe_command(command: &Command) -> String {
    match command {
        Command::Status => "asking for a snapshot".into(),
        Command::Metrics { .. } => "asking for its numbers".into(),
        Command::History(_) => "asking for its history".into(),
        Command::Profiles => "reading the profiles".into(),
        Command::Drain { service: Some(service) } => format!("draining {service}"),
        Command::Drain { service: None } => "draining".into(),
        Command::LogLevel { level } => format!("writing the log at {level}"),
        Command::Resize { prepared } => format!("resizing the pool to {prepared} ready links"),
        Command::Lockdown(target) => format!("locking {target}"),
        Command::Unlock(target) => format!("unlocking {target}"),
        Command::Stop => "stopping".into(),
        Command::Plan { profile } => format!("planning a switch to {profile}"),
        Command::Verify { .. } => "verifying".into(),
        Command::Reload => "reloading the profile".into(),
        Command::Switch { profile } => format!("switching to {profile}"),
        Command::Dismiss { peer } => format!("dismissing {peer}"),
        Command::Kill { session } => format!("closing session {session}"),
        Command::KillAll(selection) => format!("closing {selection}"),
    }
}
