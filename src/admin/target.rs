//! Where a gateway's admin protocol is spoken: at a socket of this host, or by a program that carries it.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// One gateway's admin socket, or the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminTarget {
    Socket(PathBuf),
    Program(CarrierCommand),
}

/// A program whose standard input and output are the gateway's, such as `ssh`. No shell reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrierCommand {
    /// As the operator named it.
    pub shown: String,
    pub program: String,
    pub arguments: Vec<String>,
}

impl AdminTarget {
    /// A socket says hello at once; a program may have to find its way through a network first.
    pub(super) fn hello_within(&self) -> Duration {
        match self {
            Self::Socket(_) => Duration::from_secs(5),
            Self::Program(_) => Duration::from_secs(20),
        }
    }

    /// Pictures come several times a second; through a network a large one may take its time.
    pub(super) fn snapshot_within(&self) -> Duration {
        match self {
            Self::Socket(_) => Duration::from_secs(10),
            Self::Program(_) => Duration::from_secs(30),
        }
    }

    /// How long to wait before it is called again, after so many calls in a row that came to nothing. What
    /// stands behind a program, such as a guard against guessed passwords, is not to be knocked at often.
    pub(super) fn wait_before_call(&self, failed_in_a_row: u32) -> Duration {
        match self {
            Self::Socket(_) => Duration::from_millis(500),
            Self::Program(_) => Duration::from_secs(1 << failed_in_a_row.min(5)).min(Duration::from_secs(30)),
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
