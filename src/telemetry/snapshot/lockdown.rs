//! What operators of an internal half have locked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A lock: of a service, of a gateway, of a service for a gateway, or of everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockdownRow {
    /// The gateway that it is for; `None` means all of them.
    pub peer: Option<String>,
    /// `None` means all services, and the links.
    pub service: Option<String>,
    /// UTC, RFC 3339.
    pub since: String,
}

impl fmt::Display for LockdownRow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.service, &self.peer) {
            (None, None) => out.write_str("everything"),
            (Some(service), None) => write!(out, "service `{service}`"),
            (None, Some(peer)) => write!(out, "gateway `{peer}`"),
            (Some(service), Some(peer)) => write!(out, "service `{service}` for gateway `{peer}`"),
        }
    }
}
