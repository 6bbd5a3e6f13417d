//! What the kernel refuses a half.

use serde::{Deserialize, Serialize};

/// The lock of a half that can do only its own part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfinedRow {
    pub seccomp: bool,
    /// The version of Landlock in force.
    pub landlock: Option<u32>,
    /// System calls that are refused, always or with certain arguments.
    pub refuses: Vec<String>,
    /// `any` if a backend is a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<String>,
}
