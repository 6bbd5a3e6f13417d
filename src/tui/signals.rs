//! Signals that would leave the terminal in disorder, or end a gateway unexpectedly.

use std::io;

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::terminal;
use crate::telemetry::reopen;

/// Listens for signals from now on; the returned future does what each signal asks for, until it is dropped.
///
/// SIGTSTP and SIGQUIT do what they always do, once the terminal is restored. After a stop that left no time
/// for that, SIGCONT sets the terminal up again. SIGUSR1 reopens the files of the log. `before_quit` ends what
/// would outlive a process that SIGQUIT ends.
///
/// # Errors
///
/// A handler cannot be installed.
pub fn handle_signals(
    before_quit: impl Fn() + Send + 'static,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let of = |which: Signal| signal(SignalKind::from_raw(which.as_raw()));
    let (mut stops, mut quits) = (of(Signal::TSTP)?, of(Signal::QUIT)?);
    let (mut continues, mut user) = (of(Signal::CONT)?, of(Signal::USR1)?);
    Ok(async move {
        // Until the task is dropped, each of these may come at any time.
        loop {
            tokio::select! {
                Some(()) = stops.recv() => tokio::task::block_in_place(terminal::stop_now),
                Some(()) = quits.recv() => {
                    before_quit();
                    tokio::task::block_in_place(terminal::quit_now);
                }
                Some(()) = continues.recv() => tokio::task::block_in_place(terminal::continued),
                Some(()) = user.recv() => reopen::reopen_files(),
                else => return,
            }
        }
    })
}
