//! What is happening: the books of sessions, the snapshot made of them, the log.
//!
//! In reading order: [`end`] is how a session ends, [`registry`] who is alive, [`notices`] what an
//! operator should see, [`rate_limited`] what outsiders may make of the log, [`snapshot`] the plain picture of it all,
//! [`health`] what it means, [`log`] the lines on standard
//! error.

pub mod checklist;
pub mod clock;
mod cuts;
pub mod end;
pub mod format;
pub mod health;
pub mod histogram;
pub mod log;
pub mod notices;
pub mod rate_limited;
pub mod recording;
pub mod refusals;
pub mod registry;
mod rows;
pub mod snapshot;
