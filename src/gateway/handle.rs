//! The engine's whole surface: a snapshot to watch and commands to send.
//!
//! The screen, the headless front end, the admin socket and the tests hold a [`Handle`] and
//! nothing else of the engine. An attached screen holds one whose other end is a socket.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::plan::Plan;
use crate::telemetry::{
    checklist::{Report, Step},
    snapshot::Snapshot,
};

/// Commands that may wait for the engine at once.
pub const COMMANDS_MAX: usize = 64;

/// One thing an operator asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// A snapshot of this very moment, with all its rows.
    Status,
    /// No new sessions, of one service or of all; those open go on.
    Drain { service: Option<String> },
    /// Drain with the deadline, then exit.
    Stop,
    /// Read the profile and the certificates again.
    Reload,
    /// Move to another profile: a name or an absolute file name.
    Switch { profile: String },
    /// What a switch to that profile would change; nothing does.
    Plan { profile: String },
    /// Walk these steps of the checklist, as far as this gateway can.
    Verify { steps: Vec<Step> },
    /// End one session.
    Kill { session: String },
}

/// What the engine says to a [`Command`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Status(Arc<Snapshot>),
    /// It was done; the text says what.
    Done(String),
    /// It was done, and sessions were cut for it.
    Cut(String),
    Planned(Plan),
    /// What a walk has found.
    Verified(Report),
    /// It was not done; the text says why, and nothing changed.
    Refused(String),
}

/// A command on its way to the engine, with the place for its answer.
#[derive(Debug)]
pub struct Asked {
    pub command: Command,
    /// Who asked, for the log: `dashboard`, `SIGHUP`, or the admin socket's peer.
    pub by: String,
    pub answer: oneshot::Sender<Answer>,
}

/// A watch on the gateway and a way to command it.
#[derive(Debug, Clone)]
pub struct Handle {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Set by each read, taken by the engine at each tick: it builds rows only for readers.
    read: Arc<AtomicBool>,
    commands: mpsc::Sender<Asked>,
    by: Arc<str>,
}

impl Handle {
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        read: Arc<AtomicBool>,
        commands: mpsc::Sender<Asked>,
        by: &str,
    ) -> Self {
        Self { snapshots, read, commands, by: by.into() }
    }

    /// The same surface, for another asker.
    pub fn for_asker(&self, by: &str) -> Self {
        Self { by: by.into(), ..self.clone() }
    }

    /// The latest picture; rows of sessions are in it while somebody watches.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.read.store(true, Ordering::Relaxed);
        self.snapshots.borrow().clone()
    }

    /// Waits for the next picture; `None` when the engine has ended.
    pub async fn next(&mut self) -> Option<Arc<Snapshot>> {
        self.read.store(true, Ordering::Relaxed);
        self.snapshots.changed().await.ok()?;
        Some(self.snapshots.borrow_and_update().clone())
    }

    /// Sends one command and waits for its answer.
    pub async fn ask(&self, command: Command) -> Answer {
        let (answer, answered) = oneshot::channel();
        let asked = Asked { command, by: self.by.to_string(), answer };
        if self.commands.send(asked).await.is_err() {
            return Answer::Refused("the gateway has stopped".into());
        }
        answered.await.unwrap_or_else(|_| Answer::Refused("the gateway stopped before it answered".into()))
    }
}
