//! The checklist, as a running gateway performs it on itself: [`steps`] are the checks, [`probe`] is the session that
//! they send through the gateway, [`probe_failure`] why it did not come back, [`progress`] is how far a run has come, [`advice`] what to do about a failure.
//!
//! The steps and results as data are `telemetry::checklist`. The command `verify`, which merges the results of two
//! gateways and starts halves of its own where none are running, is `commands::verify`.

pub mod advice;
pub mod closed;
pub mod probe;
pub mod probe_failure;
pub mod progress;
pub mod steps;
