//! The lock: what the kernel refuses this process once its half and mode are known.
//!
//! ```text
//! unlocked ─► always ─► a half that runs alone in reverse mode, until the process ends
//! ```
//!
//! `filters` is the first lock (seccomp), in every thread: it is what "can dial and nothing else" rests on.
//! `folders` is the second one (Landlock), which can be put on only before another thread has started.
//! `attempts` tries what should be refused, and `refused_call` words what is refused later. Who takes the lock, and
//! when, is up to the command line and the engine: a gateway that runs as a library has none.
//!
//! The files here use each other: the two locks are built from the plan that is defined here.

pub mod attempts;
mod filters;
pub mod folders;
mod lock_refusal;
pub mod refused_call;
mod system_call;

use std::{fs, io, sync::Arc};

use thiserror::Error;

pub use self::lock_refusal::LockRefusal;
use self::{
    filters::FilterError,
    folders::{FolderLock, FolderLockError, LockedFolders},
};
use crate::profile::{Backend, ConfinePolicy, Half, Mode, Profile};

const ONE_PROCESS_EACH: &str = "both halves run in this process, which therefore may dial and listen; \
     the full lock needs a process for each half";
const IN_EVERY_MODE: &str = "locked as in every mode (seccomp): it starts no program and uses no sockets but TCP, UDP and \
                             Unix; a half alone is locked further in reverse mode";

/// Why `confine: required` does not start.
#[derive(Debug, Error)]
pub enum LockError {
    #[error("`confine: required`: the kernel rejected the seccomp filter: {0}")]
    Seccomp(#[from] FilterError),
    #[error("`confine: required`: {0}")]
    Folders(#[from] FolderLockError),
}

/// Whether a locked half may open Unix sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixSockets {
    Refused,
    /// A backend is one; no filter sees which path is dialled.
    ForBackends,
}

impl UnixSockets {
    fn of(profile: &Profile) -> Self {
        match unix_backend(profile).is_some() {
            true => Self::ForBackends,
            false => Self::Refused,
        }
    }
}

/// A half that is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockedHalf {
    pub half: Half,
    pub unix: UnixSockets,
}

/// The lock of this process: what the kernel was asked to refuse; nothing without [`ProcessLock::begin`].
#[derive(Debug, Default)]
pub struct ProcessLock {
    /// It was begun, so this process belongs to a gateway.
    is_begun: bool,
    /// Whether the kernel has taken the filter of what no gateway ever does; nothing before it was asked.
    always: Option<Result<(), Arc<FilterError>>>,
    half: Option<LockedHalf>,
    /// Nothing where the process has not started as a half alone in reverse mode.
    folders: Option<Result<FolderLock, Arc<FolderLockError>>>,
    /// It was reported that both halves share this process.
    is_shared_reported: bool,
    /// What has not been reported yet.
    unreported: Vec<String>,
}

impl ProcessLock {
    /// Applies what holds from the start: the filter of what no gateway does and, if a half starts alone in
    /// reverse mode, the lock of its folders. Must be called before another thread is started.
    pub fn begin(profile: &Profile, folders: &LockedFolders) -> Result<Self, LockError> {
        let mut lock = Self { is_begun: true, ..Self::default() };
        if profile.confine == ConfinePolicy::Off {
            return Ok(lock);
        }
        if let Some(half) = half_to_lock(profile) {
            let taken = folders.lock(half);
            match taken {
                Err(error) if profile.confine == ConfinePolicy::Required => return Err(error.into()),
                Err(ref error) => lock.unreported.push(error.to_string()),
                Ok(_) => {}
            }
            lock.folders = Some(taken.map_err(Arc::new));
        }
        lock.refuse_always(profile.confine)?;
        if let (Some(Err(_)), Some(abi)) = (&lock.always, lock.landlock()) {
            lock.unreported.push(format!(
                "locked by Landlock alone (ABI {abi}): files outside of its folders are refused, and no system call is"
            ));
        }
        Ok(lock)
    }

    fn refuse_always(&mut self, policy: ConfinePolicy) -> Result<(), LockError> {
        let taken = filters::refuse_always();
        match taken {
            Err(error) if policy == ConfinePolicy::Required => return Err(error.into()),
            Err(ref error) => {
                self.unreported.push(format!("the kernel rejected the seccomp filter: {error}"))
            }
            Ok(()) => {}
        }
        self.always = Some(taken.map_err(Arc::new));
        Ok(())
    }

    /// Takes the lock of the half that `profile` runs in reverse mode; returns what should be reported about
    /// it.
    pub fn enter(&mut self, profile: &Profile) -> Result<Vec<String>, LockError> {
        let mut lines = std::mem::take(&mut self.unreported);
        if !self.is_begun || profile.confine == ConfinePolicy::Off {
            return Ok(lines);
        }
        // Asked once: a kernel that has refused it will do so again.
        let is_first = self.always.is_none();
        if is_first {
            self.refuse_always(profile.confine)?;
            lines.append(&mut self.unreported);
        }
        let refuses_always = matches!(self.always, Some(Ok(())));
        let is_shared = profile.mode == Mode::Reverse && half_alone(profile).is_none();
        let was_shared = std::mem::replace(&mut self.is_shared_reported, is_shared);
        match half_to_lock(profile) {
            Some(half) if self.half.is_none() && refuses_always => {
                let unix = UnixSockets::of(profile);
                match filters::refuse_to(half, unix) {
                    Ok(()) => {
                        self.half = Some(LockedHalf { half, unix });
                        refused_call::begin(refused_calls(half));
                        lines.push(self.describe(half));
                    }
                    Err(error) if profile.confine == ConfinePolicy::Required => return Err(error.into()),
                    Err(error) => lines.push(format!("not locked: {error}")),
                }
            }
            Some(_) => {}
            None if is_shared && !was_shared => lines.push(ONE_PROCESS_EACH.into()),
            None if is_first && refuses_always => lines.push(IN_EVERY_MODE.into()),
            None => {}
        }
        Ok(lines)
    }

    /// Takes the lock when it is too late to refuse: what cannot be locked is reported.
    pub fn enter_reporting(&mut self, profile: &Profile) -> Vec<String> {
        self.enter(profile).unwrap_or_else(|error| vec![error.to_string()])
    }

    fn describe(&self, half: Half) -> String {
        let files = match &self.folders {
            Some(Ok(folders)) => format!(" (seccomp, and Landlock ABI {})", folders.abi),
            // Why is another line.
            Some(Err(_)) => " (seccomp alone)".into(),
            None => " (seccomp; Landlock is put on only where a process starts in reverse mode)".into(),
        };
        format!("locked: {}{files}", half_words(half))
    }

    /// The half that is locked.
    pub fn half(&self) -> Option<Half> {
        self.half.map(|locked| locked.half)
    }

    /// The locked half, with what it is still allowed.
    pub fn locked(&self) -> Option<LockedHalf> {
        self.half
    }

    /// The version of Landlock in force.
    pub fn landlock(&self) -> Option<u32> {
        self.folders().map(|folders| folders.abi)
    }

    /// The Landlock lock, if there is one.
    pub fn folders(&self) -> Option<&FolderLock> {
        self.folders.as_ref()?.as_ref().ok()
    }

    /// Why this process can no longer run `profile`.
    pub fn refusal(&self, profile: &Profile) -> Option<LockRefusal> {
        if let Some(LockedHalf { half, .. }) = self.half
            && half_alone(profile) != Some(half)
        {
            return Some(LockRefusal::OtherHalf { locked: half, mode: profile.mode });
        }
        if let Some(LockedHalf { unix: UnixSockets::Refused, .. }) = self.half
            && let Some(backend) = unix_backend(profile)
        {
            return Some(LockRefusal::UnixBackend(Box::new(backend.clone())));
        }
        if let Some(why) = self.folders().and_then(|folders| folders.refusal(profile)) {
            return Some(why);
        }
        if profile.confine != ConfinePolicy::Required || !self.is_begun {
            return None;
        }
        if let Some(Err(error)) = &self.always {
            return Some(LockRefusal::Seccomp(error.clone()));
        }
        half_to_lock(profile)?;
        match &self.folders {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(LockRefusal::Landlock(error.clone())),
            None => Some(LockRefusal::StartedElsewhere),
        }
    }

    /// What a switch to `profile` does to the lock, or why it is refused.
    pub fn forecast(&self, profile: &Profile) -> Option<String> {
        if let Some(why) = self.refusal(profile) {
            return Some(format!("refused: {why}"));
        }
        if self.half.is_some() {
            let is_off = profile.confine == ConfinePolicy::Off;
            return is_off.then(|| "the lock stays until this process ends".into());
        }
        let half = half_to_lock(profile).filter(|_| self.is_begun)?;
        Some(format!(
            "from then on, {} until this process ends; going back takes a restart",
            half_words(half)
        ))
    }
}

/// Locks this process like a half, to test the lock itself. `before_filters` is called when Landlock is on and
/// the filters are not.
pub fn lock_as<T>(
    half: Half,
    before_filters: impl FnOnce(Result<FolderLock, FolderLockError>) -> T,
) -> Result<T, LockError> {
    let made = before_filters(LockedFolders::default().lock(half));
    filters::refuse_always()?;
    filters::refuse_to(half, UnixSockets::Refused)?;
    Ok(made)
}

/// The first backend of the internal half that is a Unix socket.
fn unix_backend(profile: &Profile) -> Option<&Backend> {
    let services = profile.internal.iter().flat_map(|half| &half.services);
    let mut backends = services.flat_map(|service| service.connect.backends());
    backends.find(|backend| backend.remote().is_some_and(|remote| remote.at.unix().is_some()))
}

/// The half that `profile` runs alone, in reverse mode.
fn half_alone(profile: &Profile) -> Option<Half> {
    match profile.mode {
        Mode::Reverse => match (&profile.dmz, &profile.internal) {
            (Some(_), None) => Some(Half::Dmz),
            (None, Some(_)) => Some(Half::Internal),
            (Some(_), Some(_)) | (None, None) => None,
        },
        Mode::Direct | Mode::Forward => None,
    }
}

/// The half that a process running `profile` is locked as.
pub fn half_to_lock(profile: &Profile) -> Option<Half> {
    half_alone(profile).filter(|_| profile.confine != ConfinePolicy::Off)
}

fn half_words(half: Half) -> &'static str {
    match half {
        Half::Dmz => "the DMZ half can accept and nothing else",
        Half::Internal => "the internal half can dial and nothing else",
    }
}

/// The calls that a locked half is refused, with those of its half first.
pub fn refused_calls(half: Half) -> Vec<&'static str> {
    filters::refused_calls(half)
}

/// The number of threads of this process.
fn count_threads() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/task")?.count())
}
