//! The lock that operators set from the inside: whatever is locked is cut, refused and no longer offered, even after a
//! restart, until it is unlocked. The rule for one session or link is `link::lockdown`, and the file that keeps it is
//! `lockdown_file`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use thiserror::Error;

use super::{
    Engine,
    audit::CommandAudit,
    halves::InternalSide,
    handle::{CommandAnswer, LockdownTarget},
    lockdown_file::{LockdownFile, LockdownFileError},
};
use crate::{
    link::lockdown::Lockdown,
    profile::{Half, Profile},
    proto::certificate::is_same_name,
    telemetry::{
        format,
        log::{self, LogEvent},
        snapshot::LockdownRow,
    },
};

/// The locks of a profile from an earlier process, as its file says.
#[derive(Debug, Default)]
pub struct SavedLockdown {
    pub(super) rows: Vec<LockdownRow>,
    /// Why they could not be read, in which case everything is locked.
    file_error: Option<LockdownFileError>,
    file: Option<LockdownFile>,
    /// Whether this process keeps its locks; what `verify` starts does not.
    is_persisted: bool,
}

impl SavedLockdown {
    /// Reads the file; a file that cannot be read locks everything.
    pub fn read(file: Option<LockdownFile>) -> Self {
        let (rows, file_error) = match file.as_ref().map_or(Ok(Vec::new()), LockdownFile::read) {
            Ok(rows) => (rows, None),
            Err(error) => {
                (vec![LockdownRow { peer: None, service: None, since: log::utc_now() }], Some(error))
            }
        };
        Self { rows, file_error, file, is_persisted: true }
    }
}

/// Writes what is locked, one write after another, always with the latest state. It goes to the file of each
/// profile that was in force: the next process may start with any of them.
#[derive(Debug, Clone, Default)]
pub struct LockdownWriter {
    files: Arc<Mutex<Vec<LockdownFile>>>,
    /// Held for as long as a write takes, which may be long.
    turn: Arc<Mutex<()>>,
    is_persisted: bool,
}

impl LockdownWriter {
    /// What a profile that is not in force yet has locked; `None` if that is known already.
    pub fn read_new(&self, profile: &Profile) -> Option<SavedLockdown> {
        let file = LockdownFile::of_profile(profile).filter(|_| self.is_persisted)?;
        let is_known = self.lock().iter().any(|known| known.state_file().path() == file.state_file().path());
        (!is_known).then(|| SavedLockdown::read(Some(file)))
    }

    fn write(&self, lockdown: &Lockdown) -> Result<(), LockdownFileError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (files, rows) = (self.lock().clone(), lockdown.rows());
        if files.is_empty() {
            return Err(LockdownFileError::NoFolder);
        }
        // All of them, whatever happens to one.
        files.iter().map(|file| file.write(&rows)).fold(Ok(()), Result::and)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LockdownFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Reports what is locked at the start, and prepares to write later changes.
    pub(super) fn take_saved_lockdown(&mut self, kept: SavedLockdown) {
        self.lockdown_writer.is_persisted = kept.is_persisted;
        self.report_saved_lockdown(&kept);
        self.lockdown_writer.lock().extend(kept.file);
    }

    /// Adds what the profile of a switch has locked. Locks that were in force go on, and are kept for it as well.
    pub(super) fn add_saved_lockdown(&mut self, kept: SavedLockdown) {
        let lockdown = self.shared.sessions.lockdown.clone();
        let mut rows = lockdown.rows();
        let added = kept.rows.iter().filter(|row| !rows.iter().any(|held| is_same(held, row)));
        let added: Vec<_> = added.cloned().collect();
        rows.extend(added);
        lockdown.set_rows(rows);
        self.cut_locked();
        self.report_saved_lockdown(&kept);
        self.lockdown_writer.lock().extend(kept.file);
        // A file that cannot be read stays as it is until `unlock`.
        if lockdown.rows().is_empty() || kept.file_error.is_some() {
            return;
        }
        let writer = self.lockdown_writer.clone();
        self.read_for_operator(
            move || writer.write(&lockdown),
            |engine, written| {
                let why = match written {
                    Ok(Ok(())) => return,
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                let line = format!("the lockdown could not be saved for this profile: {why}");
                engine.shared.notices.warn(LogEvent::Lockdown.line(line));
            },
        );
    }

    fn report_saved_lockdown(&self, kept: &SavedLockdown) {
        let notices = &self.shared.notices;
        if let Some(error) = &kept.file_error {
            let line = format!("{error}; so everything is locked until `unlock`");
            return notices.warn(LogEvent::Lockdown.line(line));
        }
        for row in &kept.rows {
            let line = format!("{row} is locked since {}, until `unlock`", row.since);
            notices.warn(LogEvent::Lockdown.line(line));
        }
    }

    /// Cuts the sessions of what is locked now; returns how many.
    fn cut_locked(&self) -> u64 {
        let lockdown = &self.shared.sessions.lockdown;
        self.shared.sessions.registry.cut_inside(|peer, service| lockdown.locks_session(peer, service))
    }

    pub(super) fn lock_down(&mut self, target: LockdownTarget, requester: CommandAudit) {
        if let Some(why) = self.lockdown_refusal(&target) {
            return requester.answer(CommandAnswer::Refused(why.to_string()));
        }
        let lockdown = self.shared.sessions.lockdown.clone();
        let mut rows = lockdown.rows();
        let row = LockdownRow { peer: target.peer, service: target.service, since: log::utc_now() };
        if !rows.iter().any(|held| is_same(held, &row)) {
            rows.push(row.clone());
        }
        // Set before anything is cut, so that nothing can come back in between.
        lockdown.set_rows(rows);
        let cut = format::count(self.cut_locked(), "session");
        self.follow_lockdown();
        self.keep_lockdown(format!("{row} is locked, {cut} cut; `unlock` lifts it"), requester);
    }

    pub(super) fn unlock(&mut self, target: LockdownTarget, requester: CommandAudit) {
        let lockdown = self.shared.sessions.lockdown.clone();
        let mut rows = lockdown.rows();
        let row = LockdownRow { peer: target.peer, service: target.service, since: String::new() };
        let is_all = row.peer.is_none() && row.service.is_none();
        if self.internal.is_none() && rows.is_empty() {
            return requester.answer(CommandAnswer::Refused(LockdownRefusal::NoInternalHalf.to_string()));
        }
        let before = rows.len();
        rows.retain(|held| !is_all && !is_same(held, &row));
        if rows.len() == before && !is_all {
            let why = LockdownRefusal::NotLocked(row.to_string());
            return requester.answer(CommandAnswer::Refused(why.to_string()));
        }
        lockdown.set_rows(rows);
        self.follow_lockdown();
        self.keep_lockdown(format!("{row} is unlocked"), requester);
    }

    fn lockdown_refusal(&self, target: &LockdownTarget) -> Option<LockdownRefusal> {
        let Some(internal) = &self.internal else { return Some(LockdownRefusal::NoInternalHalf) };
        if let Some(why) = target.peer.as_deref().and_then(|peer| self.peer_refusal(internal, peer)) {
            return Some(why);
        }
        let service = target.service.as_deref()?;
        let services = self.shared.sessions.services.load();
        let is_known =
            services.keys().any(|(half, name)| *half == Half::Internal && name.as_str() == service);
        (!is_known).then(|| LockdownRefusal::UnknownService(service.to_owned()))
    }

    /// A gateway may be locked before its first link, but a misspelt name would lock nobody. A peer on a plain link
    /// has no certificate, so its name cannot be known in advance.
    fn peer_refusal(&self, internal: &InternalSide, peer: &str) -> Option<LockdownRefusal> {
        let listed = &self.profile.internal.as_ref()?.link_tls()?.peers;
        let rows = internal.rows();
        let linked = rows.iter().filter_map(|row| row.peer.as_ref());
        let known: BTreeSet<_> = listed.iter().chain(linked).map(String::as_str).collect();
        let is_known = known.iter().any(|name| is_same_name(name, peer));
        let known = known.into_iter().map(ToOwned::to_owned).collect();
        (!is_known).then(|| LockdownRefusal::UnknownPeer { peer: peer.to_owned(), known })
    }

    /// Answers when the file is written. A lock that cannot be written still applies.
    fn keep_lockdown(&self, done: String, requester: CommandAudit) {
        let (writer, lockdown) = (self.lockdown_writer.clone(), self.shared.sessions.lockdown.clone());
        self.read_for_operator(
            move || writer.write(&lockdown),
            move |_, written| {
                let why = match written {
                    Ok(Ok(())) => return requester.answer(CommandAnswer::Done(done)),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                requester.answer(CommandAnswer::NotSaved(format!(
                    "{done}, but only until this process ends: the lockdown file cannot be written: {why}"
                )));
            },
        );
    }

    /// Applies the current locks to services, offers and links.
    pub(super) fn follow_lockdown(&self) {
        let lockdown = &self.shared.sessions.lockdown;
        for ((half, name), service) in self.shared.sessions.services.load().iter() {
            match *half == Half::Internal && lockdown.locks_service(name) {
                true => service.lock(),
                false => service.unlock(),
            }
        }
        self.send_offers();
        if let Some(internal) = &self.internal {
            // A lock for one gateway alone does not change the state of a service.
            internal.send_offers();
        }
    }
}

fn is_same(one: &LockdownRow, other: &LockdownRow) -> bool {
    (&one.peer, &one.service) == (&other.peer, &other.service)
}

/// Why nothing is locked or unlocked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
enum LockdownRefusal {
    #[error("only an internal half can lock; run this on the internal gateway")]
    NoInternalHalf,
    #[error("no service `{0}`")]
    UnknownService(String),
    #[error("no gateway `{peer}`: the link's `peers` has {}", quoted(known))]
    UnknownPeer { peer: String, known: Vec<String> },
    #[error("{0} is not locked by itself")]
    NotLocked(String),
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
