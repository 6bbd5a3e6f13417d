//! Portcullis: a gateway pair for a trusted network without one open inbound port.

pub mod accept;
pub mod certs;
pub mod connect;
pub mod gateway;
pub mod link;
pub mod net;
pub mod profile;
pub mod proto;
pub mod tasks;
pub mod telemetry;
pub mod tui;
