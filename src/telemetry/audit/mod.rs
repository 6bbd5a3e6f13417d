//! The audit file: who has made this gateway do what, and with what result, as chained lines.
//!
//! `chain` is the format of the file, for writers and verifiers. `file` is an open file, and `writer` the
//! thread that writes it, so that nobody waits for a disk.

mod chain;
mod file;
#[cfg(test)]
mod tests;
mod writer;

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};

pub use self::{
    chain::{ChainBreak, ChainBreakKind, ChainCheck, LineHash},
    writer::{AuditFileInUse, AuditLog, reopen_all},
};
use super::log;
use crate::text::clean_text;

/// The longest text in a line.
const TEXT_CHARS_MAX: usize = 4096;

/// How an actor has reached the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActorOrigin {
    Screen,
    Socket,
    Signal,
    Start,
    Gateway,
}

/// The actor of an audited event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditActor {
    pub from: ActorOrigin,
    pub uid: Option<u32>,
    pub pid: Option<i32>,
    /// The user's name, filled in when the line is written, or the signal's.
    pub name: String,
}

impl AuditActor {
    /// This process, or whoever uses its screen.
    pub fn own(from: ActorOrigin) -> Self {
        let (uid, pid) = (rustix::process::geteuid().as_raw(), rustix::process::getpid().as_raw_pid());
        Self { from, uid: Some(uid), pid: Some(pid), name: String::new() }
    }

    /// A signal, whose sender is not known.
    pub fn signal(name: &str) -> Self {
        Self { from: ActorOrigin::Signal, uid: None, pid: None, name: name.into() }
    }

    /// The process at the other end of an admin socket, as far as the kernel tells.
    pub fn socket(uid: Option<u32>, pid: Option<i32>) -> Self {
        Self { from: ActorOrigin::Socket, uid, pid, name: String::new() }
    }
}

/// An audited event.
#[derive(Debug, Clone)]
pub struct AuditRecord {
    time: String,
    actor: AuditActor,
    action: &'static str,
    object: String,
    result: String,
}

impl AuditRecord {
    pub fn new(actor: AuditActor, action: &'static str, object: &str, result: &str) -> Self {
        let clean = |text: &str| clean_text(text, TEXT_CHARS_MAX);
        Self { time: log::utc_now(), actor, action, object: clean(object), result: clean(result) }
    }
}

/// The audit file of a gateway, if it has one; a reload may replace it.
#[derive(Debug, Default)]
pub struct AuditTrail(ArcSwapOption<AuditLog>);

impl AuditTrail {
    /// Hands a record over without waiting.
    pub fn write(&self, record: AuditRecord) {
        if let Some(log) = &*self.0.load() {
            log.write(record);
        }
    }

    /// Writes to another file from now on. A last line by `actor` in the previous file, if there is one, says
    /// so.
    pub fn replace(&self, log: Option<AuditLog>, actor: AuditActor, action: &'static str) {
        let object = log.as_ref().map_or_else(|| "none".into(), |log| crate::text::clean_path(log.path()));
        if let Some(before) = self.0.swap(log.map(Into::into)) {
            let reported = "the audit continues there; this file ends here";
            before.write(AuditRecord::new(actor, action, &object, reported));
        }
    }

    /// Waits until everything handed over is written, which may be never.
    pub async fn flush(&self) {
        let written = self.0.load().as_ref().map(|log| log.flush());
        if let Some(written) = written {
            let _ = written.await; // Where the writer has ended, there is nothing to wait for.
        }
    }
}
