//! The engine.

pub mod handle;
mod relay;
mod service;
mod session;
