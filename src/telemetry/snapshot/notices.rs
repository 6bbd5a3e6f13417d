//! What has happened, a line each, as a screen lists it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::telemetry::link_cause::LinkCause;

/// One line worth an operator's eye.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Which gateway of a fleet it is of; `None` in a picture of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    /// UTC, RFC 3339 with milliseconds.
    pub time: String,
    pub level: NoticeLevel,
    pub text: String,
    /// Of a link that was rejected: why.
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
