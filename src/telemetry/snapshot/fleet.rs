//! The gateways of a fleet, a row each: what an operator wants to know of one before he looks closer.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CheckRow, GatewayPhase, SwitchRow, WalkRow};
use crate::{
    profile::{Half, Mode},
    telemetry::verdict::Health,
};

/// One gateway of a fleet, as far as it was heard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayRow {
    /// As the operator calls it.
    pub name: Arc<str>,
    /// Where it was called: a socket's path, or a command.
    pub target: String,
    pub reach: GatewayReach,
    /// Since it was reached, or since it was not any more.
    pub since_seconds: f64,
    /// Why it can not be reached.
    pub why: Option<String>,
    /// Since its last picture; `None` before the first.
    pub heard_seconds: Option<f64>,
    /// What its last picture said; nothing is known before that.
    pub heard: Option<GatewayFacts>,
}

/// The later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewayReach {
    /// Its pictures come.
    Reached,
    /// It is called for the first time.
    Calling,
    /// It is connected, and its pictures do not come.
    Silent,
    Unreachable,
}

/// The sums of one gateway's picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayFacts {
    pub version: String,
    pub host: String,
    pub profile: String,
    pub mode: Mode,
    pub roles: Vec<Half>,
    pub phase: GatewayPhase,
    pub health: Option<Health>,
    pub ready: Option<bool>,
    pub uptime_seconds: f64,
    pub instance: String,
    pub links_ready: usize,
    pub links_wanted: usize,
    pub sessions_open: u64,
    pub sessions_waiting: u64,
    /// Bytes a second, over its last sample.
    pub rate_up: u64,
    pub rate_down: u64,
    /// What is wrong with it, and the worst of that.
    pub alerts: usize,
    pub worst: Option<String>,
    /// The switch and the walk of the checklist that are under way, and the last forward check of each profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switching: Option<SwitchRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walk: Option<WalkRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forward_checks: Vec<CheckRow>,
}
