//! Sessions: open ones, and those that have ended.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::profile::Half;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    /// Its gateway in a fleet; `None` in a snapshot of a single gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    pub id: String,
    #[serde(rename = "role")]
    pub half: Half,
    pub service: String,
    pub client: String,
    pub peer: Option<String>,
    pub phase: SessionPhase,
    pub age_seconds: f64,
    /// Seconds since the last byte, or since it began.
    pub idle_seconds: f64,
    /// Seconds since the last byte; `None` before the first.
    #[serde(default)]
    pub last_byte_seconds: Option<f64>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Bytes a second over the last sample.
    pub rate_up: u64,
    pub rate_down: u64,
    /// How long it waited for a link, and how long opening it took then; `None` if unknown.
    #[serde(default)]
    pub waited_ms: Option<f64>,
    #[serde(default)]
    pub connected_ms: Option<f64>,
    /// The link that carries it, by its `id` in the pool.
    #[serde(default)]
    pub via: Option<u64>,
    /// The proven name of its client, and how many requests it has sent, if it uses HTTP.
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub requests: u64,
    /// The backend that it is at, on the half that has dialled it.
    #[serde(default)]
    pub backend: Option<Arc<str>>,
}

/// The phase of a session: the steps of `gateway::session`, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum SessionPhase {
    Negotiating,
    Authorising,
    Waiting,
    Connecting,
    Relaying,
    /// One side has finished; the other still sends.
    Draining,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndedRow {
    /// Its gateway in a fleet; `None` in a snapshot of a single gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    pub id: String,
    #[serde(rename = "role")]
    pub half: Half,
    pub service: String,
    pub client: String,
    pub peer: Option<String>,
    /// Who ended it and when: two letters, see `telemetry::end`.
    pub end: String,
    /// How it ended in words, with the cause.
    pub reason: String,
    pub seconds: f64,
    /// Seconds since it ended.
    pub ago_seconds: f64,
    pub bytes_up: u64,
    pub bytes_down: u64,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub requests: u64,
    /// The backend that it is at, on the half that has dialled it.
    #[serde(default)]
    pub backend: Option<Arc<str>>,
}
