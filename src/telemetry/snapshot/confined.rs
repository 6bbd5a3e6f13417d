//! What the kernel refuses a half.

use serde::{Deserialize, Serialize};

/// The lock of a half that can not do what is not its part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfinedRow {
    pub seccomp: bool,
    /// The version of Landlock that is in force.
    pub landlock: Option<u32>,
    /// System calls that are refused, wholly or where they are given what is not allowed.
    pub refuses: Vec<String>,
    /// `any`, where a backend is a Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix: Option<String>,
}
