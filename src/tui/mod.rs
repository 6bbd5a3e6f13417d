//! The screen: a terminal dashboard over a [`Handle`](crate::gateway::handle::Handle).

pub mod app;
pub mod format;
pub mod health;
pub mod keys;
pub mod look;
mod order;
pub mod privacy;
pub mod symbols;
pub mod theme;
pub mod view;

/// Why the screen has ended, which says what the process does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The operator quits: the process should stop.
    Quit,
    /// The operator leaves the gateway running headless.
    LeftHeadless,
    /// Hang-up, a failed draw or a panic of the screen: the gateway goes on headless.
    TerminalGone,
    /// The gateway has ended by itself, or by a signal.
    GatewayStopped,
}
