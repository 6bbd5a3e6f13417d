//! Notifications to the service manager, and what it has passed in (sd_notify(3),
//! sd_listen_fds(3)).
//!
//! The crate `sd-notify` opens a socket for each message. A locked gateway may not open any, so one is
//! connected at the start and kept.

pub mod notify;

use std::process::Command;

/// Not handed on, because the service manager does not mean the child process.
const OURS: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Hides from a child process what the service manager has passed to this one.
pub fn keep_from(child: &mut Command) {
    for variable in OURS {
        child.env_remove(variable);
    }
}
