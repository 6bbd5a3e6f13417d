//! Where to reach a gateway's admin protocol: at a socket of this host, or through a program.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// One gateway's admin socket, or the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminTarget {
    Socket(PathBuf),
    Program(ProgramCommand),
}

/// A program whose standard input and output are the gateway's, such as `ssh`. No shell reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramCommand {
    /// In the operator's words.
    pub shown: String,
    pub program: String,
    pub arguments: Vec<String>,
}

/// A socket sends its hello at once; a program may have to go through a network first.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const PROGRAM_HELLO_TIMEOUT: Duration = Duration::from_secs(20);
/// Snapshots come several times a second; a large one may take its time through a network.
pub(super) const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const PROGRAM_SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);
const RECONNECT_DELAY: Duration = Duration::from_millis(500);
const PROGRAM_RECONNECT_DELAY_MAX: Duration = Duration::from_secs(30);

impl AdminTarget {
    pub(super) fn hello_within(&self) -> Duration {
        match self {
            Self::Socket(_) => HELLO_TIMEOUT,
            Self::Program(_) => PROGRAM_HELLO_TIMEOUT,
        }
    }

    pub(super) fn snapshot_within(&self) -> Duration {
        match self {
            Self::Socket(_) => SNAPSHOT_TIMEOUT,
            Self::Program(_) => PROGRAM_SNAPSHOT_TIMEOUT,
        }
    }

    /// How long to wait before the next call, after this many failed calls in a row. What is behind a program,
    /// such as a guard against guessed passwords, must not be called too often.
    pub(super) fn wait_before_call(&self, failed_in_a_row: u32) -> Duration {
        match self {
            Self::Socket(_) => RECONNECT_DELAY,
            Self::Program(_) => {
                Duration::from_secs(1 << failed_in_a_row.min(5)).min(PROGRAM_RECONNECT_DELAY_MAX)
            }
        }
    }
}

impl From<&Path> for AdminTarget {
    fn from(path: &Path) -> Self {
        Self::Socket(path.to_path_buf())
    }
}

impl fmt::Display for AdminTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(out, "{}", path.display()),
            Self::Program(command) => out.write_str(&command.shown),
        }
    }
}
