//! What is happening: counters, the registry of sessions, the snapshot made of them, the log.

pub mod snapshot;
pub mod text;
