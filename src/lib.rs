//! Portcullis: a gateway pair for a trusted network without one open inbound port.

pub mod accept;
pub mod admin;
pub mod attach;
pub mod certs;
pub mod cli;
pub mod commands;
pub mod connect;
pub mod demo;
pub mod disk;
pub mod gateway;
pub mod headless;
pub mod link;
pub mod net;
pub mod profile;
pub mod proto;
pub mod record;
pub mod run;
pub mod source;
pub mod status;
pub mod tasks;
pub mod telemetry;
pub mod text;
pub mod tui;
pub mod verify;
