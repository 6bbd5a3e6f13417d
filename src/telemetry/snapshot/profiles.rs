//! The profiles that a gateway can switch to, the switch under way, and what a run of the checklist has found.

use serde::{Deserialize, Serialize};

use crate::{
    profile::{Half, Mode},
    telemetry::checklist::{CheckStep, StepReport},
};

/// A switch that waits for its new mode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SwitchRow {
    pub profile: String,
    pub mode: Mode,
    /// What is not ready yet.
    pub missing: Option<String>,
    /// Seconds until it is rolled back.
    pub seconds_left: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyRow {
    pub profile: String,
    /// The step that is running; `None` when all are done.
    pub walking: Option<CheckStep>,
    pub steps: Vec<StepReport>,
    /// Seconds since it began or ended.
    pub age_seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckRow {
    pub profile: String,
    pub passed: bool,
    pub age_seconds: f64,
}

/// A profile that the gateway can be switched to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileRow {
    pub name: String,
    /// The file it was read from; `None` if it is built in.
    pub file: Option<String>,
    /// Whether the gateway runs it.
    pub is_current: bool,
    /// Unknown if it cannot be read.
    pub mode: Option<Mode>,
    #[serde(rename = "roles")]
    pub halves: Vec<Half>,
    pub services: Vec<String>,
    pub problems: Vec<ProblemRow>,
    /// Why this process would refuse a switch to it, although it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// A thing wrong with a profile, and the lines it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProblemRow {
    pub text: String,
    /// The line of the file with its number, and below it a mark at the column.
    pub excerpt: Vec<String>,
}
