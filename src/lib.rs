//! Portcullis: a gateway pair for a trusted network without one open inbound port.

pub mod gateway;
pub mod profile;
pub mod telemetry;
pub mod tui;
