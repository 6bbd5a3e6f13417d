//! The engine.

pub mod handle;
