//! The backends of a service, as known by the half that dials them; the other half learns only whether the service can be
//! served. The states are worked out in `connect::backend_member`.

use serde::{Deserialize, Serialize};

/// A backend of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendRow {
    pub address: String,
    /// The name that this address belongs to, if each address is a backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub state: BackendRowState,
    pub sessions_open: u64,
    pub sessions: u64,
    /// Sessions that could not reach it, and checks that failed.
    pub failures: u64,
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendRowState {
    Up,
    /// Its checks fail.
    Down,
    /// It has refused a session, or was late, and is not used for a while.
    Resting,
    /// It is well, and not needed now.
    Standby,
}

impl BackendRowState {
    pub const ALL: [Self; 4] = [Self::Up, Self::Down, Self::Resting, Self::Standby];

    pub fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Resting => "resting",
            Self::Standby => "standby",
        }
    }
}
