//! Signals that would leave the terminal in the screen's hands, or end a gateway by surprise.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::terminal;
use crate::telemetry::reopen;

/// Listens from now on; the answer does what each signal asks for, until it is dropped.
///
/// SIGTSTP and SIGQUIT do what they always do, once the terminal is restored. SIGCONT after a stop that
/// left no time for that sets the terminal up anew. SIGUSR1 opens the files of the log anew.
///
/// # Errors
///
/// A handler can not be installed.
pub fn handle_signals() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let of = |which: Signal| signal(SignalKind::from_raw(which.as_raw()));
    let (mut stops, mut quits) = (of(Signal::TSTP)?, of(Signal::QUIT)?);
    let (mut continues, mut user) = (of(Signal::CONT)?, of(Signal::USR1)?);
    Ok(async move {
        // Until the task is dropped: each of these may come at any time.
        loop {
            tokio::select! {
                Some(()) = stops.recv() => tokio::task::block_in_place(terminal::stop_now),
                Some(()) = quits.recv() => tokio::task::block_in_place(terminal::quit_now),
                Some(()) = continues.recv() => terminal::continued(),
                Some(()) = user.recv() => reopen::reopen_files(),
                else => return,
            }
        }
    })
}
