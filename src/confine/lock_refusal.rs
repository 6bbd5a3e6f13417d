//! Why this process, as it is locked or could not be, does not run a profile.
//!
//! No lock can be undone, so each of these is over only with the process. The words are made where a refusal is shown:
//! in the answer to a switch, in a plan, and in the list of profiles.

use std::{path::PathBuf, sync::Arc};

use thiserror::Error;

use super::{filters::FilterError, folders::FolderLockError, half_words};
use crate::profile::{Backend, Half, Mode};

#[derive(Debug, Clone, Error)]
pub enum LockRefusal {
    #[error(
        "this process is locked: {}; {} takes a restart with that profile",
        half_words(*locked), change_words(*mode)
    )]
    OtherHalf { locked: Half, mode: Mode },
    #[error("this process is locked, and opens no Unix socket: {0} takes a restart with that profile")]
    UnixBackend(Box<Backend>),
    #[error(
        "this process is locked, and writes in the folders that it knew at its start: {} takes a restart with that \
         profile",
        .0.display()
    )]
    Folder(PathBuf),
    #[error("`confine: required`: the kernel rejected the seccomp filter: {0}")]
    Seccomp(Arc<FilterError>),
    #[error("`confine: required`: {0}")]
    Landlock(Arc<FolderLockError>),
    #[error(
        "`confine: required` needs Landlock, which is put on only where a process starts in reverse mode; restart it \
         with that profile"
    )]
    StartedElsewhere,
}

/// What a switch from a locked half to another mode would be.
fn change_words(mode: Mode) -> &'static str {
    match mode {
        Mode::Reverse => "to another half",
        Mode::Direct | Mode::Forward => "out of reverse mode",
    }
}
