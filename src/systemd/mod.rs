//! What a service manager is told, and what it has passed (sd_notify(3), sd_listen_fds(3)).
//!
//! The crate `sd-notify` opens a socket for each message; a locked gateway may open none, so one is connected at
//! the start and kept.

pub mod notify;

use std::process::Command;

/// Not handed on: a child is not who the service manager means.
const OURS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Keeps from a child what the service manager has told this process.
pub fn keep_from(child: &mut Command) {
    for variable in OURS {
        child.env_remove(variable);
    }
}
