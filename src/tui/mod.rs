//! The screen: a terminal dashboard over a [`GatewayHandle`](crate::gateway::handle::GatewayHandle).
//!
//! It runs on a thread of its own with a runtime of its own, because a terminal that nobody reads blocks
//! whoever draws. It draws only snapshots and changes things only by commands, so it works the same for a
//! gateway in this process and for one behind the admin socket.
//!
//! ```text
//! keys ───────► app ──► commands ──► Handle
//! snapshots ──► app ──► view ──────► terminal
//! ```
//!
//! The files here use each other: `App` consists of states that are worked out from each other.

mod alerts;
mod answers;
pub mod app;
mod changes;
mod clients;
mod closing;
mod command_line;
mod confirmation;
mod export;
mod export_writer;
mod filter;
mod findings;
pub mod fleet;
mod frame_pacing;
pub mod health;
mod history;
pub mod keys;
mod lists;
mod lockdown;
mod mouse;
mod order;
mod past_rows;
mod path;
pub mod privacy;
mod progress;
mod run;
pub mod screen;
mod session_join;
pub mod signals;
pub mod source;
pub mod style;
mod suggest;
mod summary;
pub mod symbols;
mod terminal;
pub mod theme;
mod thread;
mod trends;
mod typing;
mod update;
pub mod view;

pub use crate::telemetry::format;
pub use terminal::{check_terminal, leave_terminal};
pub use thread::{Dashboard, spawn};

/// Why the screen has ended; this decides what the process does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScreenEnd {
    /// The operator quits: the process should stop.
    Quit,
    /// The operator leaves the gateway running without a screen.
    LeftHeadless,
    /// The operator leaves an attached screen, or a recording.
    Left,
    /// Hang-up, a failed draw or a panic of the screen: the gateway goes on headless.
    TerminalGone,
    /// The gateway has ended by itself, or by a signal.
    GatewayStopped,
}
