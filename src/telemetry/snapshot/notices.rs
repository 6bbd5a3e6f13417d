//! Events, one line each, as a screen lists them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::telemetry::link_cause::LinkCause;

/// One line worth an operator's eye.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Its gateway in a fleet; `None` in a snapshot of a single gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    /// UTC, RFC 3339 with milliseconds.
    pub time: String,
    pub level: NoticeLevel,
    pub text: String,
    /// For a rejected link: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_link: Option<LinkCause>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeLevel {
    Info,
    Warn,
    Error,
}
