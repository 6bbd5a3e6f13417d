//! The log: lines on standard error, written by a thread of their own.
//!
//! A reader of standard error that stops reading must not stop the gateway, so lines go through a
//! bounded queue; what does not fit is lost, counted, and told in the snapshot and in the log.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
};

/// Lines that may wait for a slow reader.
const QUEUED_LINES_MAX: usize = 8192;
/// How long the writer waits for more lines after the first, and how many bytes it writes at once.
const GATHER: Duration = Duration::from_millis(5);
const WRITTEN_BYTES: usize = 64 * 1024;
/// Environment variable with a filter such as `debug` or `portcullis::link=trace`.
const FILTER_VARIABLE: &str = "PORTCULLIS_LOG";
/// Without it. What TLS has to say of one connection is in our line about that, and a client could
/// have it say more.
const FILTER: &str = "info,rustls=error";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Ends the log: waits a moment for queued lines to be written.
#[derive(Debug)]
pub struct LogGuard {
    lines: Lines,
    done: Receiver<()>,
}

static LOST: AtomicU64 = AtomicU64::new(0);
/// While a screen owns the terminal, lines are dropped; notices are kept in the snapshot.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Writes no lines while `quiet`.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Lines lost so far.
pub fn lines_lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Installs the process's log; call once.
pub fn init(format: LogFormat) -> Option<LogGuard> {
    let (sender, receiver) = sync_channel(QUEUED_LINES_MAX);
    let (finished, done) = sync_channel(1);
    let writer = thread::Builder::new().name("log".into()).spawn(move || {
        write_lines(&receiver);
        let _ = finished.send(()); // Nobody waits any more: then nobody needs to know.
    });
    writer.ok()?;
    let lines = Lines { sender: Arc::new(sender) };
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(FILTER));
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines.clone())
        .with_target(false)
        .with_ansi(false)
        .with_timer(Utc);
    // Fails only where a test has installed one before; that one serves as well.
    let _ = match format {
        LogFormat::Text => base.try_init(),
        LogFormat::Json => base.json().flatten_event(true).try_init(),
    };
    Some(LogGuard { lines, done })
}

/// Now, UTC, RFC 3339 with milliseconds.
pub fn utc_now() -> String {
    humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string()
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        /// A stuck reader does not hold the exit up for longer.
        const FLUSH: Duration = Duration::from_millis(500);
        if self.lines.sender.try_send(Line::End).is_ok() {
            let _ = self.done.recv_timeout(FLUSH); // Late lines are lost with the reader.
        }
    }
}

enum Line {
    Text(Vec<u8>),
    End,
}

/// Under load lines are written many at a time: waking this thread for each would cost more than
/// the line.
fn write_lines(lines: &Receiver<Line>) {
    let mut told = 0;
    let mut ended = false;
    while !ended && let Ok(Line::Text(mut text)) = lines.recv() {
        thread::sleep(GATHER);
        let mut count = 1;
        while text.len() < WRITTEN_BYTES && !ended {
            match lines.try_recv() {
                Ok(Line::Text(line)) => {
                    text.extend_from_slice(&line);
                    count += 1;
                }
                Ok(Line::End) => ended = true,
                Err(_) => break,
            }
        }
        let mut out = io::stderr().lock();
        let lost = lines_lost();
        let result = if lost > told {
            told = lost;
            writeln!(out, "{} WARN {lost} log lines lost: standard error is read too slowly", utc_now())
        } else {
            Ok(())
        };
        if result.and_then(|()| out.write_all(&text)).is_err() {
            LOST.fetch_add(count, Ordering::Relaxed);
        }
    }
}

#[derive(Debug, Clone)]
struct Lines {
    sender: Arc<SyncSender<Line>>,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if QUIET.load(Ordering::Relaxed) {
            return Ok(line.len());
        }
        if self.sender.try_send(Line::Text(line.to_vec())).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

struct Utc;

impl FormatTime for Utc {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        out.write_str(&utc_now())
    }
}
