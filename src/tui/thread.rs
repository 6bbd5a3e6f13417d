//! The thread of the screen, as the process around it sees it.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError, mpsc as sync_mpsc},
    thread,
    time::Duration,
};

use crossterm::event::EventStream;
use ratatui::{
    Terminal, TerminalOptions, Viewport,
    backend::CrosstermBackend,
    layout::{Position, Rect},
};
use tokio::sync::mpsc;

use crate::tui::{
    Ended,
    look::Look,
    run::Screen,
    source::Source,
    summary,
    terminal::{self, Entered, WholeFrames},
};

/// A running screen.
#[derive(Debug)]
pub struct Dashboard {
    told: mpsc::Sender<Ended>,
    ended: Mutex<sync_mpsc::Receiver<Ended>>,
}

/// Opens the screen on a thread of its own. `gone` is called on that thread, once the terminal is
/// restored and the summary is printed.
///
/// # Errors
///
/// The terminal or the thread cannot be had; the terminal is then as it was.
pub fn spawn(source: Source, gone: impl FnOnce(Ended) + Send + 'static) -> io::Result<Dashboard> {
    terminal::can_open().map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (told, hears) = mpsc::channel(TOLD_MAX);
    let (opened, has_opened) = sync_mpsc::sync_channel(1);
    let (ends, ended) = sync_mpsc::sync_channel(1);
    let show = move || {
        let entered = match terminal::enter() {
            Ok(entered) => entered,
            // The caller waits for this word, see below.
            Err(error) => return drop(opened.send(Err(error))),
        };
        drop(opened.send(Ok(())));
        let shown = catch_unwind(AssertUnwindSafe(|| runtime.block_on(show(entered, source, hears))));
        // The hook has told of the panic and restored the terminal.
        let ended = shown.unwrap_or(Ended::TerminalGone);
        if matches!(ended, Ended::TerminalGone | Ended::LeftHeadless) {
            terminal::park_input();
        }
        gone(ended);
        // Nobody may be waiting for the end.
        let _ = ends.send(ended);
    };
    thread::Builder::new().name("screen".into()).spawn(show)?;
    has_opened.recv().map_err(io::Error::other)??;
    Ok(Dashboard { told, ended: Mutex::new(ended) })
}

impl Dashboard {
    /// The terminal has hung up (SIGHUP): the screen lets go of it and ends.
    pub fn terminal_gone(&self) {
        // At once and from here: the screen itself may be caught in reading or writing it.
        terminal::abandon();
        self.end(Ended::TerminalGone);
    }

    /// Waits for the end of the screen, but no longer than `longest`: a terminal that nobody
    /// reads may hold it for ever. `None` when it has not ended, or was waited for before.
    pub fn wait(&self, longest: Duration) -> Option<Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(longest).ok()
    }

    /// Ends the screen from outside: it restores the terminal and prints its summary.
    pub fn end(&self, why: Ended) {
        // Full or closed, the screen has been told to end already.
        let _ = self.told.try_send(why);
    }
}

/// Shows the gateway until the screen ends, leaves the terminal and prints the summary.
async fn show(entered: Entered, source: Source, told: mpsc::Receiver<Ended>) -> Ended {
    // The stream watches for changes of size from here on, so that none is missed after `size`.
    let input = EventStream::new();
    let area = Rect::from((Position::ORIGIN, terminal::size()));
    // A fixed viewport asks the terminal for its size never again; changes come as events.
    let options = TerminalOptions { viewport: Viewport::Fixed(area) };
    let backend = CrosstermBackend::new(WholeFrames::default());
    let Ok(terminal) = Terminal::with_options(backend, options) else { return Ended::TerminalGone };
    let mut screen = Screen::new(terminal, area, source, Look::of_environment());
    let ended = screen.run(input, told).await;
    terminal::stop_drawing();
    drop(entered);
    summary::print(ended, screen.app());
    ended
}

/// One word of each kind, and one more.
const TOLD_MAX: usize = 3;
