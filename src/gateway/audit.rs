//! The audit trail of operator commands: one log line, one notice and one line of the audit file for each,
//! saying who asked for what and how it ended. The audit file also records what the gateway does by itself. How the file
//! is written, and its lines are chained, is in `telemetry::audit`.

use std::{
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    Engine,
    halves::SharedContext,
    handle::{self, Command, CommandAnswer, PendingCommand},
};
use crate::{
    profile::Profile,
    telemetry::{
        audit::{ActorOrigin, AuditActor, AuditFileInUse, AuditLog, AuditRecord, AuditTrail},
        log::LogEvent,
        notices::NoticeLog,
        snapshot::{NoticeLevel, ReloadCounts},
    },
};

/// Counts the results of reloads and switches.
#[derive(Debug, Default)]
pub struct ReloadTally {
    done: AtomicU64,
    refused: AtomicU64,
    was_last_refused: AtomicBool,
}

impl ReloadTally {
    fn add(&self, answer: &CommandAnswer) {
        let is_done = matches!(answer, CommandAnswer::Done(_) | CommandAnswer::Cut(_));
        let count = if is_done { &self.done } else { &self.refused };
        count.fetch_add(1, Ordering::Relaxed);
        self.was_last_refused.store(!is_done, Ordering::Relaxed);
    }

    pub fn now(&self) -> ReloadCounts {
        ReloadCounts {
            done: self.done.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            was_last_refused: self.was_last_refused.load(Ordering::Relaxed),
        }
    }
}

/// A command that waits for its answer. Giving the answer writes the audit line.
pub struct CommandAudit {
    pub by: String,
    /// `None` for a command that changes nothing: those are not recorded.
    kind: Option<&'static str>,
    asked: String,
    /// What the command applies to, for the audit file.
    object: String,
    actor: AuditActor,
    trail: Arc<AuditTrail>,
    began: Instant,
    notices: Arc<NoticeLog>,
    reloads: Arc<ReloadTally>,
    answer: oneshot::Sender<CommandAnswer>,
}

impl CommandAudit {
    pub fn new(
        PendingCommand { command, by, actor, answer }: PendingCommand,
        shared: &SharedContext,
        reloads: Arc<ReloadTally>,
    ) -> (Command, Self) {
        let audit = Self {
            by,
            kind: command_name(&command),
            asked: describe_command(&command),
            object: command_object(&command),
            actor,
            trail: shared.audit.clone(),
            began: Instant::now(),
            notices: shared.notices.clone(),
            reloads,
            answer,
        };
        (command, audit)
    }

    /// The sender and the name of the command, for a line of its own.
    pub fn actor(&self) -> (AuditActor, &'static str) {
        (self.actor.clone(), self.kind.unwrap_or("reload"))
    }

    pub fn answer(self, answer: CommandAnswer) {
        if matches!(self.kind, Some("reload" | "switch")) {
            self.reloads.add(&answer);
        }
        if let Some((kind, (outcome, level, text))) = self.kind.zip(describe_outcome(&answer)) {
            let seconds = (self.began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
            let (by, asked) = (&*self.by, &*self.asked);
            match level {
                NoticeLevel::Info => {
                    tracing::info!(event = %LogEvent::Operator, kind, by, asked, outcome, seconds, text, "operator")
                }
                NoticeLevel::Warn | NoticeLevel::Error => {
                    tracing::warn!(event = %LogEvent::Operator, kind, by, asked, outcome, seconds, text, "operator");
                }
            }
            let result = format!("{outcome}: {text}");
            self.trail.write(AuditRecord::new(self.actor, kind, &self.object, &result));
            self.notices.push_logged(level, format!("{asked}, asked by {by}: {text}"));
        }
        // If whoever sent the command has left, no answer is needed.
        let _ = self.answer.send(answer);
    }
}

/// Opens the audit file of a profile that is not in force yet. Returns `None` if it has none, or keeps the one
/// in use.
pub fn open_audit(
    profile: &Profile,
    in_use: Option<&Path>,
    notices: &Arc<NoticeLog>,
) -> Result<Option<AuditLog>, AuditFileInUse> {
    let is_in_use = |wanted: &Path| in_use.is_some_and(|in_use| is_same_file(in_use, wanted));
    let wanted = profile.audit.as_deref().filter(|wanted| !is_in_use(wanted));
    wanted.map(|path| AuditLog::open(path, notices.clone())).transpose()
}

/// Whether two paths lead to one file, however they are spelled.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    one == other || matches!((file(one), file(other)), (Ok(one), Ok(other)) if one == other)
}

impl Engine {
    /// Writes the audit of `profile` from now on, and records the change in the previous file.
    pub(super) fn install_audit(
        &self,
        new: Option<AuditLog>,
        profile: &Profile,
        requester: Option<&CommandAudit>,
    ) {
        if new.is_some() || profile.audit.is_none() {
            let (actor, action) =
                requester.map_or_else(|| (AuditActor::own(ActorOrigin::Start), "start"), CommandAudit::actor);
            self.shared.audit.replace(new, actor, action);
        }
    }

    pub(super) fn audit_start(&self, profile: &str, result: &str) {
        let actor = AuditActor::own(ActorOrigin::Start);
        self.shared.audit.write(AuditRecord::new(actor, "start", profile, result));
    }

    /// Records something that the gateway does by itself.
    pub(super) fn audit_own(&self, action: &'static str, object: &str, result: &str) {
        let actor = AuditActor::own(ActorOrigin::Gateway);
        self.shared.audit.write(AuditRecord::new(actor, action, object, result));
    }
}

/// The outcome in one word, how severe it is, and the full text.
fn describe_outcome(answer: &CommandAnswer) -> Option<(&'static str, NoticeLevel, String)> {
    Some(match answer {
        CommandAnswer::Status(_)
        | CommandAnswer::Profiles(_)
        | CommandAnswer::Planned(_)
        | CommandAnswer::History(_)
        | CommandAnswer::Metrics(_) => return None,
        CommandAnswer::Killed(sessions) => ("done", NoticeLevel::Info, handle::describe_killed(*sessions)),
        CommandAnswer::Done(text) => ("done", NoticeLevel::Info, text.clone()),
        CommandAnswer::Cut(text) => ("cut", NoticeLevel::Warn, text.clone()),
        CommandAnswer::NotSaved(text) => ("done", NoticeLevel::Warn, text.clone()),
        CommandAnswer::Refused(text) => ("refused", NoticeLevel::Warn, text.clone()),
        CommandAnswer::Verified(report) if report.passed => ("passed", NoticeLevel::Info, report.line()),
        CommandAnswer::Verified(report) => ("failed", NoticeLevel::Warn, report.line()),
    })
}

fn command_name(command: &Command) -> Option<&'static str> {
    Some(match command {
        Command::Status | Command::Profiles | Command::Plan { .. } => return None,
        Command::Metrics { .. } | Command::History(_) => return None,
        Command::Drain { .. } => "drain",
        Command::Lockdown(_) => "lockdown",
        Command::Unlock(_) => "unlock",
        Command::Stop => "stop",
        Command::Resize { .. } => "resize",
        Command::Reload => "reload",
        Command::Switch { .. } => "switch",
        Command::Verify { .. } => "verify",
        Command::Dismiss { .. } => "dismiss",
        Command::LogLevel { .. } => "log-level",
        Command::Kill { .. } | Command::KillAll(_) => "kill",
    })
}

/// What a command applies to.
fn command_object(command: &Command) -> String {
    match command {
        Command::Drain { service } => service.clone().unwrap_or_else(|| "all services".into()),
        Command::Resize { prepared } => prepared.to_string(),
        Command::Plan { profile } | Command::Switch { profile } => profile.clone(),
        Command::Dismiss { peer } => peer.clone(),
        Command::LogLevel { level } => level.clone(),
        Command::Kill { session } => session.clone(),
        Command::KillAll(selection) => selection.to_string(),
        Command::Lockdown(target) | Command::Unlock(target) => target.to_string(),
        Command::Status | Command::Profiles | Command::Metrics { .. } | Command::History(_) => String::new(),
        Command::Stop | Command::Reload | Command::Verify { .. } => String::new(),
    }
}

/// The command in words.
fn describe_command(command: &Command) -> String {
    match command {
        Command::Status => "status".into(),
        Command::Profiles => "profiles".into(),
        Command::Metrics { .. } => "metrics".into(),
        Command::History(_) => "history".into(),
        Command::Resize { prepared } => format!("{prepared} ready links"),
        Command::Plan { profile } => format!("plan of a switch to `{profile}`"),
        Command::Drain { service: None } => "drain".into(),
        Command::Drain { service: Some(service) } => format!("drain of `{service}`"),
        Command::Dismiss { peer } => format!("dismissal of `{peer}`"),
        Command::Lockdown(target) => format!("lockdown of {target}"),
        Command::Unlock(target) => format!("unlock of {target}"),
        Command::Stop => "stop".into(),
        Command::Reload => "reload".into(),
        Command::Switch { profile } => format!("switch to `{profile}`"),
        Command::Verify { .. } => "verify".into(),
        Command::LogLevel { level } => format!("log level `{level}`"),
        Command::Kill { session } => format!("kill of session `{session}`"),
        Command::KillAll(selection) => format!("kill of {selection}"),
    }
}
