//! Where a backend listens: at a port, or at a Unix socket of its own machine.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    HostPort,
    problem::{ValueProblem, quote_for_problem},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    Network(HostPort),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl ServerAddress {
    pub fn network(&self) -> Option<&HostPort> {
        match self {
            Self::Network(at) => Some(at),
            Self::Unix(_) => None,
        }
    }

    pub fn unix(&self) -> Option<&Path> {
        match self {
            Self::Network(_) => None,
            Self::Unix(file) => Some(file),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(at) => at.fmt(out),
            Self::Unix(file) => write!(out, "unix://{}", file.display()),
        }
    }
}

/// The kernel stores a path in this many bytes, followed by a zero (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// The path of a Unix socket, as written after `unix://`.
pub(super) fn socket_path(text: &str) -> Result<PathBuf, ValueProblem> {
    let advice = "write the whole path, `unix:///run/app/app.sock`";
    let fault = |what: String| Err(ValueProblem::new(what, advice));
    let written = quote_for_problem(text);
    if !text.starts_with('/') {
        return fault(format!("`{written}` is not an absolute path"));
    }
    if text.ends_with('/') {
        return fault(format!("`{written}` names no socket"));
    }
    if text.chars().any(char::is_control) {
        return fault(format!("`{written}` has a sign that no path of a socket has"));
    }
    if text.len() > PATH_BYTES_MAX {
        return fault(format!("the path is longer than a Unix socket's can be, {PATH_BYTES_MAX} bytes"));
    }
    Ok(PathBuf::from(text))
}
