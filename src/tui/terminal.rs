//! The terminal: set up once and restored once, by whoever comes first.
//!
//! The guard of the screen, the panic hook and the process around it all call [`leave_terminal`]. After the
//! terminal has gone away, nothing is written to it, and its input is replaced by an empty pipe: crossterm's
//! reader would otherwise spin on it (crossterm-rs/crossterm#793).

use std::{
    cell::Cell,
    io::{self, IsTerminal, Write},
    os::fd::OwnedFd,
    panic,
    sync::{
        Once, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use crossterm::{
    cursor::{Hide, Show},
    event::{DisableBracketedPaste, EnableBracketedPaste},
    execute, style, terminal as tty,
};
use ratatui::layout::Size;
use rustix::process::Signal;

use super::app::MouseCapture;
use crate::{tasks, telemetry::log::LogEvent};

/// The screen is in raw mode on its alternate screen.
static ENTERED: AtomicBool = AtomicBool::new(false);
/// Something else may have written to the screen, so the next frame draws every cell.
static NEEDS_FULL_REDRAW: AtomicBool = AtomicBool::new(false);

/// The shell has the terminal for a moment: what is drawn meanwhile is discarded.
static LENT: AtomicBool = AtomicBool::new(false);

/// The terminal is being taken back from the shell.
static TAKEN_BACK: AtomicBool = AtomicBool::new(false);

/// The screen has the mouse.
static MOUSE: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread draws the screen: its panics are the screen's.
    static DRAWS: Cell<bool> = const { Cell::new(false) };
}

/// Holds the terminal for the screen; restored on drop.
#[derive(Debug)]
pub struct TerminalGuard(());

/// Whether the dashboard can open here, or why not.
pub fn check_terminal() -> Result<(), &'static str> {
    if !io::stdin().is_terminal() {
        return Err("standard input is not a terminal");
    }
    if !io::stdout().is_terminal() {
        return Err("standard output is not a terminal");
    }
    match std::env::var_os("TERM") {
        Some(term) if term == "dumb" => Err("the terminal is dumb (TERM=dumb)"),
        _ => Ok(()),
    }
}

/// Raw mode, alternate screen, no cursor. The terminal keeps the mouse, which selects text there.
pub fn enter_terminal() -> io::Result<TerminalGuard> {
    DRAWS.set(true);
    hook_panics();
    // With NO_COLOR, crossterm turns "set colour" into a reset, which also removes bold and reverse. The `mono`
    // theme sets no colour, so nothing has to be suppressed.
    style::force_color_output(true);
    let entered = TerminalGuard(());
    take_over()?;
    Ok(entered)
}

fn take_over() -> io::Result<()> {
    ENTERED.store(true, Ordering::SeqCst);
    tty::enable_raw_mode()?;
    // Pasted text arrives as one event: letter by letter it would be read as keys.
    execute!(io::stdout(), tty::EnterAlternateScreen, EnableBracketedPaste, Hide)?;
    if MOUSE.load(Ordering::SeqCst) {
        execute!(io::stdout(), style::Print(MOUSE_ON))?;
    }
    Ok(())
}

/// Captures the mouse, or gives it back to the terminal.
pub fn capture_mouse(mouse: MouseCapture) -> io::Result<()> {
    if !is_entered() {
        return Ok(());
    }
    MOUSE.store(mouse == MouseCapture::On, Ordering::SeqCst);
    let sequence = match mouse {
        MouseCapture::On => MOUSE_ON,
        MouseCapture::Off => MOUSE_OFF,
    };
    execute!(io::stdout(), style::Print(sequence))
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        leave_now();
    }
}

/// Called after the screen's loop. Whatever ratatui still writes while it is dropped is discarded: it would
/// report a failure on standard error, in the middle of the restored terminal.
pub fn stop_drawing() {
    DRAWS.set(false);
}

/// Restores the terminal, once; any thread may call it at any time.
///
/// A terminal that nobody reads blocks whoever writes, so the write has a time limit: a process that stops must
/// not wait for its terminal.
pub fn leave_terminal() {
    if !ENTERED.load(Ordering::SeqCst) {
        return;
    }
    let (left, has_left) = mpsc::sync_channel(1);
    let thread = tasks::spawn_thread("leave-terminal", move || {
        leave_now();
        // If the terminal took too long, nobody waits any more.
        let _ = left.send(());
    });
    if thread.is_ok() {
        // Late or not, the caller goes on.
        let _ = has_left.recv_timeout(LEAVE_TIMEOUT);
    }
}

fn leave_now() {
    if !ENTERED.swap(false, Ordering::SeqCst) {
        return;
    }
    // A terminal that cannot be restored is gone: there is nothing left to restore.
    if MOUSE.load(Ordering::SeqCst) {
        let _ = execute!(io::stdout(), style::Print(MOUSE_OFF));
    }
    let _ = tty::disable_raw_mode();
    let _ = execute!(io::stdout(), DisableBracketedPaste, tty::LeaveAlternateScreen, Show);
}

/// SIGTSTP: the terminal is the shell's until it continues this process.
pub fn stop_now() {
    // By default this stops the process as SIGTSTP does, unless its group is orphaned: no shell could continue that
    // one, so the kernel does not stop it. `emulate_default_handler` would raise SIGSTOP, which always stops.
    let stop = || {
        // This fails only for numbers that are not a signal.
        let _ = signal_hook::low_level::raise(Signal::TTIN.as_raw());
    };
    if is_entered() && !is_held() { lend_terminal(stop) } else { stop() }
}

/// Restores the terminal, and takes it again after `meanwhile`.
fn lend_terminal(meanwhile: impl FnOnce()) {
    LENT.store(true, Ordering::SeqCst);
    leave_terminal();
    meanwhile();
    take_back();
}

/// Sets the terminal up again, on a thread of its own: a terminal whose output is held (Ctrl-S, a stalled
/// connection) blocks whoever writes to it, for as long as it likes.
fn take_back() {
    TAKEN_BACK.store(true, Ordering::SeqCst);
    let taken = || {
        // If the terminal is no longer available, the next frame fails too, which ends the screen.
        let _ = take_over();
        NEEDS_FULL_REDRAW.store(true, Ordering::SeqCst);
        LENT.store(false, Ordering::SeqCst);
        TAKEN_BACK.store(false, Ordering::SeqCst);
    };
    if tasks::spawn_thread("take-terminal", taken).is_err() {
        taken();
    }
}

/// Whether it is being taken back, and whoever holds its output keeps that waiting.
fn is_held() -> bool {
    TAKEN_BACK.load(Ordering::SeqCst)
}

/// SIGQUIT ends the process with a core dump; the terminal is restored first.
pub fn quit_now() {
    leave_terminal();
    let _ = signal_hook::low_level::emulate_default_handler(Signal::QUIT.as_raw());
}

/// Ctrl-Z: stops this process, and those the shell started with it, until the shell continues them.
pub fn suspend() -> io::Result<()> {
    if is_entered() {
        // Ours arrives at [`stop_now`].
        rustix::process::kill_current_process_group(Signal::TSTP)?;
    }
    Ok(())
}

/// Continues after a stop from outside that left no time to restore the terminal: the shell has used it
/// meanwhile, so it is set up again and every cell is drawn. May wait for [`LEAVE_TIMEOUT`].
pub fn continued() {
    // Whoever takes it back sets it up.
    if is_entered() && !is_held() {
        lend_terminal(|| {});
    }
}

/// The terminal has gone: nothing is written to it any more, and nothing is read from it.
pub fn abandon() {
    ENTERED.store(false, Ordering::SeqCst);
    park_input();
}

/// Whether the screen still has its terminal.
pub fn is_entered() -> bool {
    ENTERED.load(Ordering::SeqCst)
}

/// Replaces standard input by a pipe in which nothing ever arrives.
///
/// The pipe does not block: a reader inside crossterm goes back to waiting and can be ended.
pub fn park_input() {
    static WRITING_END: OnceLock<OwnedFd> = OnceLock::new();
    if WRITING_END.get().is_some() {
        return;
    }
    let parked = rustix::pipe::pipe().and_then(|(reading, writing)| {
        rustix::io::ioctl_fionbio(&reading, true)?;
        rustix::stdio::dup2_stdin(&reading)?;
        Ok(writing)
    });
    match parked {
        // Kept forever: a pipe without a writing end would report its end, and make the reader spin too. A
        // second caller at the same moment has replaced the input as well, and its pipe must also stay.
        Ok(writing) => {
            if let Err(second) = WRITING_END.set(writing) {
                std::mem::forget(second);
            }
        }
        Err(error) => {
            tracing::warn!(event = %LogEvent::TerminalInput, %error, "could not replace the lost terminal's input")
        }
    }
}

/// The size of the terminal, without crossterm's fallback to a child process.
pub fn size() -> Size {
    tty::window_size().map_or(FALLBACK, |size| sane_size(size.columns, size.rows))
}

/// Some terminals say 0 while they do not know.
pub fn sane_size(width: u16, height: u16) -> Size {
    if width == 0 || height == 0 { FALLBACK } else { Size::new(width, height) }
}

/// Whether everything has to be drawn again; true only once.
pub fn take_needs_redraw() -> bool {
    NEEDS_FULL_REDRAW.swap(false, Ordering::SeqCst)
}

/// Only a panic of the screen gives the terminal back. One elsewhere is logged, and the dashboard keeps its
/// screen.
fn hook_panics() {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if DRAWS.get() {
                leave_now();
                stop_drawing();
                before(panic);
            } else if is_entered() {
                tracing::error!(event = %LogEvent::Panic, %panic, "a thread panicked; this is a bug");
                NEEDS_FULL_REDRAW.store(true, Ordering::SeqCst);
            } else {
                before(panic);
            }
        }));
    });
}

/// Sends each frame to the terminal in one write, as a synchronised update, so that it does not tear.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    frame: Vec<u8>,
}

impl Write for FrameBuffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.frame.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.frame.is_empty() || !DRAWS.get() {
            return Ok(());
        }
        if !is_entered() {
            return if LENT.load(Ordering::SeqCst) {
                self.frame.clear();
                Ok(())
            } else {
                Err(io::ErrorKind::NotConnected.into())
            };
        }
        let mut whole = Vec::with_capacity(self.frame.len() + BEGIN.len() + END.len());
        whole.extend_from_slice(BEGIN);
        whole.append(&mut self.frame);
        whole.extend_from_slice(END);
        let mut stdout = io::stdout().lock();
        stdout.write_all(&whole)?;
        stdout.flush()
    }
}

/// Only presses and the wheel, with coordinates of any size; movements are not needed.
const MOUSE_ON: &str = "\x1b[?1000h\x1b[?1006h";
const MOUSE_OFF: &str = "\x1b[?1006l\x1b[?1000l";
const BEGIN: &[u8] = b"\x1b[?2026h";
const END: &[u8] = b"\x1b[?2026l";
/// The size that most screens have at least.
const FALLBACK: Size = Size::new(80, 24);
/// A hundred times longer than a working terminal takes.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
