//! The checklist, as a running gateway performs it on itself: [`steps`] are the checks, and [`probe`] is the
//! session that they send through the gateway. [`probe_failure`] says why it did not come back, [`progress`]
//! how far a run is, and [`advice`] what to do about a failure.
//!
//! The steps and results as data are in `telemetry::checklist`. The command `verify`, which merges the results
//! of two gateways and starts halves of its own where none are running, is `commands::verify`.

pub mod advice;
pub mod closed;
pub mod probe;
pub mod probe_failure;
pub mod progress;
pub mod steps;
