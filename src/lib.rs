//! Portcullis: a gateway pair for a trusted network that has no open inbound port.
#![deny(clippy::print_stdout, clippy::print_stderr)] // They panic when nobody reads: see `output`.

pub mod accept;
pub mod admin;
pub mod admission;
pub mod attach;
pub mod auth;
pub mod certs;
pub mod check;
pub mod cli;
pub mod commands;
pub mod confine;
pub mod connect;
pub mod demo;
pub mod disk;
pub mod doctor;
pub mod exit;
pub mod fleet;
pub mod gateway;
pub mod headless;
pub mod http;
pub mod init;
pub mod link;
pub mod manual;
pub mod monitor;
pub mod net;
pub mod output;
pub mod profile;
pub mod proto;
pub mod record;
pub mod run;
pub mod selftest;
pub mod signals;
pub mod source;
pub mod status;
pub mod systemd;
pub mod tasks;
pub mod telemetry;
#[cfg(test)]
mod tests;
pub mod text;
pub mod tls;
pub mod tui;
pub mod verify;
