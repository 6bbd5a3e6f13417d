//! The engine's whole public surface: a snapshot to watch and commands to send.
//!
//! The screen, the headless front end, the admin socket and the tests hold a [`GatewayHandle`] and nothing
//! else of the engine. An attached screen holds one that is connected to a socket instead.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::plan::SwitchPlan;
use crate::telemetry::{
    audit::{ActorOrigin, AuditActor},
    checklist::{CheckStep, VerifyReport},
    format,
    history::{HistoryReport, HistoryRequest},
    metrics::MetricsFormat,
    registry::KillSelection,
    snapshot::{GatewayPhase, ProfileRow, Snapshot},
};

/// How many commands may wait for the engine at once.
pub const COMMANDS_MAX: usize = 64;

/// The target of a lock or unlock; everything, if it names nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockdownTarget {
    #[serde(default)]
    pub peer: Option<String>,
    #[serde(default)]
    pub service: Option<String>,
}

impl fmt::Display for LockdownTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.service, &self.peer) {
            (None, None) => out.write_str("everything"),
            (Some(service), None) => write!(out, "service {service}"),
            (None, Some(peer)) => write!(out, "gateway {peer}"),
            (Some(service), Some(peer)) => write!(out, "service {service} for gateway {peer}"),
        }
    }
}

/// A command of an operator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// A snapshot of this moment, with all its rows.
    Status,
    /// Take no new sessions, of one service or of all; open ones go on.
    Drain { service: Option<String> },
    /// Drain with the deadline, then exit.
    Stop,
    /// Read the profile and the certificates again.
    Reload,
    /// Move to another profile: a name or an absolute file name.
    Switch { profile: String },
    /// Report what a switch to that profile would change, without changing anything.
    Plan { profile: String },
    /// Run these steps of the checklist, as far as this gateway can.
    Verify { steps: Vec<CheckStep> },
    /// Keep this many links ready, until the next reload or switch.
    Resize { prepared: usize },
    /// The numbers for monitors.
    Metrics { format: MetricsFormat },
    /// What was transferred, carried and refused in the last hours.
    History(HistoryRequest),
    /// The profiles that `switch` finds by name, each read and checked.
    Profiles,
    /// Forget a gateway that was lost, by its name or its address.
    Dismiss { peer: String },
    /// Change how much is written to the log.
    #[serde(rename = "log-level")]
    LogLevel { level: String },
    /// Cut and refuse, and stop offering, even after a restart, until it is unlocked.
    Lockdown(LockdownTarget),
    /// Lift one lock, or all.
    Unlock(LockdownTarget),
    /// End one session.
    Kill { session: String },
    /// End all sessions of a selection.
    KillAll(KillSelection),
}

impl Command {
    /// Whether it changes anything; commands that change nothing are allowed with read-only access.
    pub fn changes_gateway(&self) -> bool {
        match self {
            Self::Status | Self::Profiles | Self::Plan { .. } | Self::Metrics { .. } | Self::History(_) => {
                false
            }
            Self::Drain { .. } | Self::Stop | Self::Reload | Self::Switch { .. } => true,
            Self::Resize { .. } | Self::LogLevel { .. } | Self::Dismiss { .. } | Self::Verify { .. } => true,
            Self::Kill { .. } | Self::KillAll(_) | Self::Lockdown(_) | Self::Unlock(_) => true,
        }
    }
}

/// The engine's answer to a [`Command`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandAnswer {
    Status(Arc<Snapshot>),
    Profiles(Vec<ProfileRow>),
    Metrics(String),
    History(Box<HistoryReport>),
    /// This many sessions are cut.
    Killed(u64),
    /// It was done; the text says what.
    Done(String),
    /// It was done, and sessions were cut for it.
    Cut(String),
    Planned(Box<SwitchPlan>),
    /// The result of a run of the checklist.
    Verified(VerifyReport),
    /// It was done, but holds only until this process ends.
    #[serde(rename = "unkept")]
    NotSaved(String),
    /// It was not done; the text says why, and nothing changed.
    Refused(String),
}

/// Why an answer is not the one that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AnswerMismatch {
    #[error("{0}")]
    Refused(String),
    #[error("the gateway answered another question; if both are the same version, please report this")]
    OtherQuestion,
}

impl CommandAnswer {
    pub fn into_status(self) -> Result<Arc<Snapshot>, AnswerMismatch> {
        let Self::Status(snapshot) = self else { return Err(self.mismatch()) };
        Ok(snapshot)
    }

    pub fn into_metrics(self) -> Result<String, AnswerMismatch> {
        let Self::Metrics(text) = self else { return Err(self.mismatch()) };
        Ok(text)
    }

    pub fn into_history(self) -> Result<HistoryReport, AnswerMismatch> {
        let Self::History(report) = self else { return Err(self.mismatch()) };
        Ok(*report)
    }

    pub fn into_verified(self) -> Result<VerifyReport, AnswerMismatch> {
        let Self::Verified(report) = self else { return Err(self.mismatch()) };
        Ok(report)
    }

    fn mismatch(self) -> AnswerMismatch {
        match self {
            Self::Refused(why) => AnswerMismatch::Refused(why),
            Self::Status(_) | Self::Profiles(_) | Self::Metrics(_) | Self::History(_) => {
                AnswerMismatch::OtherQuestion
            }
            Self::Killed(_) | Self::Done(_) | Self::Cut(_) | Self::NotSaved(_) => {
                AnswerMismatch::OtherQuestion
            }
            Self::Planned(_) | Self::Verified(_) => AnswerMismatch::OtherQuestion,
        }
    }

    /// Adds the name of the gateway that answered where the answer is a text.
    pub fn of_gateway(self, name: &str) -> Self {
        match self {
            Self::Done(text) => Self::Done(format!("{name}: {text}")),
            Self::Cut(text) => Self::Cut(format!("{name}: {text}")),
            Self::NotSaved(text) => Self::NotSaved(format!("{name}: {text}")),
            Self::Refused(text) => Self::Refused(format!("{name}: {text}")),
            Self::Killed(sessions) => Self::Done(format!("{name}: {}", describe_killed(sessions))),
            Self::Status(_) | Self::Profiles(_) | Self::Metrics(_) => self,
            Self::History(_) | Self::Planned(_) | Self::Verified(_) => self,
        }
    }
}

/// `1 session is cut`, `12 sessions are cut`.
pub fn describe_killed(sessions: u64) -> String {
    format!("{} {} cut", format::count(sessions, "session"), if sessions == 1 { "is" } else { "are" })
}

/// A command on its way to the engine, and where its answer goes.
#[derive(Debug)]
pub struct PendingCommand {
    pub command: Command,
    /// Who asked, for the log: `dashboard`, `SIGHUP`, or the admin socket's peer.
    pub by: String,
    /// Who asked, for the audit file.
    pub actor: AuditActor,
    pub answer: oneshot::Sender<CommandAnswer>,
}

/// Makes a handle and the end that feeds it, with a first snapshot.
pub fn channel(first: Arc<Snapshot>, by: &str) -> (GatewayHandle, HandleFeed) {
    let (publish, snapshots) = watch::channel(first);
    let (ask, commands) = mpsc::channel(COMMANDS_MAX);
    let watches = Arc::new(AtomicUsize::new(0));
    let handle = GatewayHandle {
        snapshots,
        watches: watches.clone(),
        commands: ask,
        by: by.into(),
        actor: AuditActor::own(ActorOrigin::Gateway),
    };
    (handle, HandleFeed { snapshots: publish, watches, commands })
}

/// The other end of every [`GatewayHandle`], held by the engine or by whatever stands in for it.
#[derive(Debug)]
pub struct HandleFeed {
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    watches: Arc<AtomicUsize>,
    pub commands: mpsc::Receiver<PendingCommand>,
}

impl HandleFeed {
    /// Whether anybody watches: session rows are built only for watchers.
    pub fn is_watched(&self) -> bool {
        self.watches.load(Ordering::Relaxed) > 0
    }
}

/// Shows the gateway's snapshots and sends it commands.
#[derive(Debug, Clone)]
pub struct GatewayHandle {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// How many [`SnapshotWatch`]es live.
    watches: Arc<AtomicUsize>,
    commands: mpsc::Sender<PendingCommand>,
    by: Arc<str>,
    actor: AuditActor,
}

impl GatewayHandle {
    /// A handle with another name in the log.
    pub fn for_actor(&self, by: &str) -> Self {
        Self { by: by.into(), ..self.clone() }
    }

    /// A handle with another actor in the audit file.
    pub fn acting_for(self, actor: AuditActor) -> Self {
        Self { actor, ..self }
    }

    /// The latest snapshot; it has session rows only while somebody watches.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Watches all snapshots from the next one on.
    pub fn watch(&self) -> SnapshotWatch {
        self.watches.fetch_add(1, Ordering::Relaxed);
        let mut snapshots = self.snapshots.clone();
        snapshots.mark_unchanged();
        SnapshotWatch { snapshots, watches: self.watches.clone() }
    }

    fn pending(&self, command: Command, answer: oneshot::Sender<CommandAnswer>) -> PendingCommand {
        PendingCommand { command, by: self.by.to_string(), actor: self.actor.clone(), answer }
    }

    /// Sends one command from outside the runtime, without an answer; waits if the engine has too many commands
    /// already.
    pub fn send(&self, command: Command) -> Result<(), EngineStopped> {
        let (answer, _) = oneshot::channel();
        let requested = self.pending(command, answer);
        self.commands.blocking_send(requested).map_err(|_| EngineStopped)
    }

    /// Sends one command and waits for its answer.
    pub async fn send_and_wait(&self, command: Command) -> CommandAnswer {
        let (answer, answered) = oneshot::channel();
        let requested = self.pending(command, answer);
        if self.commands.send(requested).await.is_err() {
            return CommandAnswer::Refused("the gateway has stopped".into());
        }
        answered
            .await
            .unwrap_or_else(|_| CommandAnswer::Refused("the gateway stopped before it answered".into()))
    }
}

/// The gateways of a fleet, by their names.
pub type FleetHandles = BTreeMap<Arc<str>, GatewayHandle>;

/// The engine has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gateway has stopped")]
pub struct EngineStopped;

/// While one of these exists, every snapshot has all its rows. A slow reader skips snapshots but never gets an
/// older one, and delays nobody.
#[derive(Debug)]
pub struct SnapshotWatch {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    watches: Arc<AtomicUsize>,
}

impl SnapshotWatch {
    /// Waits for the next snapshot; `None` when the engine has ended.
    pub async fn next(&mut self) -> Option<Arc<Snapshot>> {
        self.snapshots.changed().await.ok()?;
        Some(self.snapshots.borrow_and_update().clone())
    }

    /// Returns when the engine has made its last snapshot, which [`SnapshotWatch::next`] may not have returned yet.
    pub async fn until_stopped(&self) {
        let mut snapshots = self.snapshots.clone();
        // An engine that ended otherwise makes none either.
        let _ = snapshots.wait_for(|snapshot| snapshot.phase == GatewayPhase::Stopped).await;
    }
}

impl Drop for SnapshotWatch {
    fn drop(&mut self) {
        self.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether the gateway behind an attached handle can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatewayContact {
    /// The first connection is being made.
    Calling,
    There,
    Lost {
        why: String,
    },
}

/// The access that an attached handle has to its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminAccess {
    Full,
    ReadOnly,
}
