//! What limits a gateway, as data. How it is found is in `doctor`.

use std::{borrow::Cow, sync::Arc};

use serde::{Deserialize, Serialize};

/// Whether something must be done; ordered by urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FindingSeverity {
    /// Clients may feel it some day.
    Should,
    /// Clients feel it now, or will for certain.
    Must,
}

impl FindingSeverity {
    pub fn label(self) -> &'static str {
        match self {
            Self::Should => "should",
            Self::Must => "must",
        }
    }
}

/// A thing that limits the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoctorFinding {
    /// Its gateway in a fleet; `None` for a single gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    /// The kind of finding; it never changes, so that scripts may look for it.
    pub id: Cow<'static, str>,
    pub severity: FindingSeverity,
    /// What it is about, if there may be several of a kind: a peer, a service, a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What was measured.
    pub figure: String,
    /// Why that is a limit.
    pub reason: String,
    /// What to change.
    pub advice: String,
}
