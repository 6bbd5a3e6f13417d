//! The gateways of a fleet, one row each: what an operator wants to know about one before looking closer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CheckRow, GatewayPhase, SwitchRow, VerifyRow};
use crate::{
    profile::{Half, Mode},
    telemetry::verdict::Health,
};

/// A gateway of a fleet, as far as it has answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayRow {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// Where it is called: a socket's path, or a command.
    pub target: String,
    pub reach: GatewayReach,
    /// Seconds since it was reached, or since it was lost.
    pub since_seconds: f64,
    /// Why it cannot be reached.
    pub why: Option<String>,
    /// Seconds since its last snapshot; `None` before the first.
    pub heard_seconds: Option<f64>,
    /// The summary of its last snapshot; `None` before the first.
    pub heard: Option<GatewayFacts>,
}

/// Ordered from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayReach {
    /// Its snapshots arrive.
    Reached,
    /// The first connection is being made.
    Calling,
    /// It is gone, and its last snapshot said that it had ended, at most a minute ago.
    Stopped,
    /// It is connected, but its snapshots do not arrive.
    Silent,
    Unreachable,
}

/// How long rows of a lost gateway stay: it may only be reloading, or restarting.
pub const ROWS_KEPT_SECONDS: f64 = 10.0;

/// A summary of one gateway's snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayFacts {
    pub version: String,
    pub host: String,
    pub profile: String,
    pub mode: Mode,
    #[serde(rename = "roles")]
    pub halves: Vec<Half>,
    pub phase: GatewayPhase,
    pub health: Option<Health>,
    pub ready: Option<bool>,
    pub uptime_seconds: f64,
    pub instance: String,
    pub links_ready: usize,
    pub links_wanted: usize,
    pub sessions_open: u64,
    pub sessions_waiting: u64,
    /// Since it started.
    #[serde(default)]
    pub sessions: u64,
    #[serde(default)]
    pub refused: u64,
    /// Bytes a second, over its last sample.
    pub rate_up: u64,
    pub rate_down: u64,
    /// How many alerts it has, and the worst of them.
    pub alerts: usize,
    pub worst: Option<String>,
    /// The switch and the run of the checklist under way, and the last forward check of each profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switching: Option<SwitchRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walk: Option<VerifyRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forward_checks: Vec<CheckRow>,
}
