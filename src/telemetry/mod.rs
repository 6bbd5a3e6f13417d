//! What is happening: the registry of sessions, the snapshot made from it, the log.
//!
//! In reading order: [`end`] is how a session ended, [`registry`] knows the open sessions, and [`notices`]
//! holds what an operator should see. [`rate_limited`] limits what outsiders can write to the log. [`snapshot`]
//! is the plain data about the whole gateway, and [`health`] what that data means. [`log`] has the lines on
//! standard error.

pub mod audit;
pub mod checklist;
pub mod clock;
mod cuts;
pub mod duration_histogram;
pub mod end;
pub mod failures;
pub mod format;
pub mod health;
pub mod history;
pub mod history_rows;
pub mod link_cause;
pub mod log;
pub mod metrics;
pub mod notices;
pub mod rate_limited;
pub mod recording;
pub mod refusals;
pub mod registry;
pub mod reopen;
pub mod requests;
mod rows;
pub mod snapshot;
pub mod verdict;
pub mod wait_histogram;
