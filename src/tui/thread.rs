//! The thread of the screen, as the process around it sees it. A screen that hangs, or whose terminal is gone, must
//! not keep the gateway from running or from ending.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError, mpsc as sync_mpsc},
    time::Duration,
};

use crossterm::event::EventStream;
use ratatui::{
    Terminal, TerminalOptions, Viewport,
    backend::CrosstermBackend,
    layout::{Position, Rect},
};
use tokio::sync::mpsc;

use crate::{
    tasks,
    tui::{
        ScreenEnd,
        run::ScreenLoop,
        source::ScreenSource,
        style::ScreenStyle,
        summary,
        terminal::{self, FrameBuffer, TerminalGuard},
    },
};

/// A running screen.
#[derive(Debug)]
pub struct Dashboard {
    end_sender: mpsc::Sender<ScreenEnd>,
    ended: Mutex<sync_mpsc::Receiver<ScreenEnd>>,
}

/// Opens the screen on a thread of its own. `on_end` is called on that thread, once the terminal is restored
/// and the summary is printed.
///
/// # Errors
///
/// The terminal or the thread is not available; the terminal is then unchanged.
pub fn spawn(source: ScreenSource, on_end: impl FnOnce(ScreenEnd) + Send + 'static) -> io::Result<Dashboard> {
    open(move |entered, end_receiver| show_screen(entered, source, end_receiver), on_end, print_closing)
}

/// Opens a thread for anything that owns the terminal: `show` uses it until it ends or panics, and `show_summary` gets
/// what it leaves behind.
fn open<T, F: Future<Output = (ScreenEnd, T)>, G: Future<Output = ()>>(
    show: impl FnOnce(TerminalGuard, mpsc::Receiver<ScreenEnd>) -> F + Send + 'static,
    on_end: impl FnOnce(ScreenEnd) + Send + 'static,
    show_summary: impl FnOnce(ScreenEnd, T) -> G + Send + 'static,
) -> io::Result<Dashboard> {
    terminal::check_terminal().map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let (end_sender, end_receiver) = mpsc::channel(REPORTS_MAX);
    let (opened, has_opened) = sync_mpsc::sync_channel(1);
    let (ends, ended) = sync_mpsc::sync_channel(1);
    let run = move || {
        let entered = match terminal::enter_terminal() {
            Ok(entered) => entered,
            // The caller waits for this message, see below.
            Err(error) => return drop(opened.send(Err(error))),
        };
        drop(opened.send(Ok(())));
        let shown = catch_unwind(AssertUnwindSafe(|| runtime.block_on(show(entered, end_receiver))));
        // The hook has reported the panic and restored the terminal.
        let (ended, left) =
            shown.map_or((ScreenEnd::TerminalGone, None), |(ended, left)| (ended, Some(left)));
        if matches!(ended, ScreenEnd::TerminalGone | ScreenEnd::LeftHeadless) {
            terminal::park_input();
        }
        let show_summary = || {
            if let Some(left) = left {
                runtime.block_on(show_summary(ended, left));
            }
        };
        // A stop is followed only after it was requested; otherwise the process may end as soon as it learns
        // of the stop.
        if ended == ScreenEnd::Quit {
            on_end(ended);
            show_summary();
        } else {
            show_summary();
            on_end(ended);
        }
        // Nobody may be waiting for the end.
        let _ = ends.send(ended);
        // A file that is being written may never be finished.
        runtime.shutdown_background();
    };
    tasks::spawn_thread("screen", run)?;
    has_opened.recv().map_err(io::Error::other)??;
    Ok(Dashboard { end_sender, ended: Mutex::new(ended) })
}

impl Dashboard {
    /// Handles a hang-up of the terminal (SIGHUP): the screen closes it and ends. If somebody sent the
    /// signal by hand, the terminal is still there and is restored first.
    pub fn terminal_gone(&self) {
        // Done here and at once, since the screen itself may be stuck in reading or writing it.
        tokio::task::block_in_place(terminal::leave_terminal);
        terminal::abandon();
        self.end(ScreenEnd::TerminalGone);
    }

    /// Waits for the end of the screen, but no longer than `longest`: a terminal that nobody reads may hold it
    /// forever. Returns `None` if it has not ended, or was waited for before.
    pub fn wait(&self, longest: Duration) -> Option<ScreenEnd> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(longest).ok()
    }

    /// Ends the screen from outside: it restores the terminal and prints its summary.
    pub fn end(&self, why: ScreenEnd) {
        // If the channel is full or closed, the screen was already asked to end.
        let _ = self.end_sender.try_send(why);
    }
}

/// Shows the gateway until the screen ends, and restores the terminal.
async fn show_screen(
    entered: TerminalGuard,
    source: ScreenSource,
    end_receiver: mpsc::Receiver<ScreenEnd>,
) -> (ScreenEnd, Option<TerminalScreen>) {
    // The stream watches for changes of size from here on, so that none is missed after `size`.
    let input = EventStream::new();
    let area = Rect::from((Position::ORIGIN, terminal::size()));
    // With a fixed viewport, the terminal is never asked for its size; changes arrive as events.
    let options = TerminalOptions { viewport: Viewport::Fixed(area) };
    let backend = CrosstermBackend::new(FrameBuffer::default());
    let Ok(terminal) = Terminal::with_options(backend, options) else {
        return (ScreenEnd::TerminalGone, None);
    };
    let mut screen = ScreenLoop::new(terminal, area, source, ScreenStyle::from_environment());
    let ended = screen.run(input, end_receiver).await;
    terminal::stop_drawing();
    drop(entered);
    (ended, Some(screen))
}

/// On the restored terminal: the progress of a stop, and then the summary, which stays visible.
async fn print_closing(ended: ScreenEnd, screen: Option<TerminalScreen>) {
    let Some(mut screen) = screen else { return };
    if ended == ScreenEnd::Quit {
        screen.follow_stop(summary::print_stopping).await;
    }
    summary::print(ended, screen.app());
}

type TerminalScreen = ScreenLoop<CrosstermBackend<FrameBuffer>>;

/// One message of each kind, and one more.
const REPORTS_MAX: usize = 3;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{io::Read, sync::mpsc::channel};

    use portable_pty::{CommandBuilder, PtySize, native_pty_system};
    use rustix::termios::{LocalModes, tcgetattr};

    use super::*;

    /// Set in the process that has the terminal, where the test starts itself.
    const INSIDE: &str = "PORTCULLIS_TEST_IN_TERMINAL";
    const SOON: Duration = Duration::from_secs(10);

    fn is_cooked() -> bool {
        tcgetattr(io::stdout()).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Runs the test with this name once more in a terminal; returns its final contents.
    fn in_terminal(test: &str) -> vt100::Parser {
        let pair =
            native_pty_system().openpty(PtySize { rows: 50, cols: 200, ..PtySize::default() }).unwrap();
        let mut command = CommandBuilder::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]);
        for (name, value) in [(INSIDE, "1"), ("TERM", "xterm"), ("RUST_BACKTRACE", "0")] {
            command.env(name, value);
        }
        let mut child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader().unwrap();
        let [rows, columns] = [50, 200].map(|cells| std::num::NonZeroU16::new(cells).unwrap());
        let mut screen = vt100::Parser::new(rows, columns, 0);
        let mut chunk = [0; 4096];
        // Reading from a terminal fails when its last program has ended.
        while let Ok(count @ 1..) = reader.read(&mut chunk) {
            screen.process(&chunk[..count]);
        }
        let status = child.wait().unwrap();
        assert!(status.success(), "{status:?}\n{}", screen.screen().contents());
        screen
    }

    #[test]
    fn a_screen_that_panics_gives_the_terminal_back() {
        if std::env::var_os(INSIDE).is_none() {
            let seen = in_terminal("tui::thread::tests::a_screen_that_panics_gives_the_terminal_back");
            let (screen, shown) = (seen.screen(), seen.screen().contents());
            assert!(!screen.alternate_screen() && !screen.hide_cursor(), "{shown}");
            assert!(
                shown.contains("a view that fails"),
                "the panic is reported on the restored screen\n{shown}"
            );
            return;
        }
        let (end_sender, end_receiver) = channel();
        let show = |entered: TerminalGuard, _| async move {
            let _entered = entered;
            assert!(!is_cooked(), "it has the terminal");
            panic!("a view that fails");
            #[expect(unreachable_code, reason = "it says what would be left behind")]
            (ScreenEnd::Left, ())
        };
        let on_end = move |ended| end_sender.send((ended, is_cooked())).unwrap();
        let screen = open(show, on_end, |_, ()| async {}).unwrap();
        assert_eq!(end_receiver.recv_timeout(SOON).unwrap(), (ScreenEnd::TerminalGone, true), "as it was");
        assert_eq!(screen.wait(SOON), Some(ScreenEnd::TerminalGone));
    }

    #[test]
    fn a_task_that_panics_leaves_the_living_screen_alone() {
        if std::env::var_os(INSIDE).is_none() {
            let seen = in_terminal("tui::thread::tests::a_task_that_panics_leaves_the_living_screen_alone");
            let shown = seen.screen().contents();
            assert!(!seen.screen().alternate_screen(), "{shown}");
            assert!(!shown.contains("a task that fails"), "{shown}");
            return;
        }
        let show = |entered: TerminalGuard, mut end_receiver: mpsc::Receiver<ScreenEnd>| async move {
            let _entered = entered;
            (end_receiver.recv().await.unwrap(), ())
        };
        let screen = open(show, |_| (), |_, ()| async {}).unwrap();
        assert!(!terminal::take_needs_redraw());
        let panicked = std::thread::spawn(|| panic!("a task that fails")).join();
        assert!(panicked.is_err() && terminal::is_entered() && !is_cooked(), "the screen has its terminal");
        assert!(terminal::take_needs_redraw(), "the next frame draws every cell");
        screen.end(ScreenEnd::Quit);
        assert_eq!(screen.wait(SOON), Some(ScreenEnd::Quit));
        assert!(is_cooked() && !terminal::is_entered());
    }
}
