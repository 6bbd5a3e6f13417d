//! The log: lines on standard error, written by a thread of their own.
//!
//! Whoever reads standard error may stop reading, and that must not stop the gateway. So lines go through a
//! bounded queue; those that do not fit are dropped and counted, and the snapshot and the log say so.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::io::Errno;
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, format::Writer, time::FormatTime},
};

use super::clock;

/// Lines that may wait for a slow reader.
const QUEUED_LINES_MAX: usize = 8192;
/// How long the writer waits for more lines after the first, and how many bytes it writes at once.
const GATHER: Duration = Duration::from_millis(5);
const WRITTEN_BYTES: usize = 64 * 1024;
/// Environment variable with a filter such as `debug` or `portcullis::link=trace`.
const FILTER_VARIABLE: &str = "PORTCULLIS_LOG";
/// Without it.
const LEVEL: &str = "info";
/// What libraries say: TLS has much to say of one connection, which is in our line about that, and a
/// client could have it say more. A filter that names a library has its way.
const LIBRARIES: &str = "warn,rustls=error";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Ends the log: waits a moment for queued lines to be written.
#[derive(Debug)]
pub struct LogGuard {
    lines: LogLines,
    done: Receiver<()>,
}

static LOSSES: LogLosses = LogLosses::new();
/// While a screen owns the terminal, lines are dropped; notices are kept in the snapshot.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Writes no lines while `quiet`.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

/// Lines lost so far.
pub fn lines_lost() -> u64 {
    LOSSES.lines.load(Ordering::Relaxed)
}

/// Why lines are lost, while they are: for a minute after the last.
pub fn loss_reason() -> Option<String> {
    LOSSES.reason(clock::coarse_ms())
}

/// Lines that were not written, and why.
#[derive(Debug)]
struct LogLosses {
    lines: AtomicU64,
    /// `clock::coarse_ms` of the last of them; 0: none was lost.
    at_ms: AtomicU64,
    /// The error of the write that lost it; 0: none, the queue was full.
    errno: AtomicI32,
}

impl LogLosses {
    const fn new() -> Self {
        Self { lines: AtomicU64::new(0), at_ms: AtomicU64::new(0), errno: AtomicI32::new(TOO_SLOW) }
    }

    fn lose(&self, lines: u64, errno: i32, now_ms: u64) {
        self.lines.fetch_add(lines, Ordering::Relaxed);
        self.errno.store(errno, Ordering::Relaxed);
        self.at_ms.store(now_ms, Ordering::Relaxed);
    }

    fn reason(&self, now_ms: u64) -> Option<String> {
        let at_ms = Some(self.at_ms.load(Ordering::Relaxed)).filter(|&at| at > 0)?;
        let goes_on = now_ms.saturating_sub(at_ms) < TOLD_MS;
        goes_on.then(|| describe_errno(self.errno.load(Ordering::Relaxed)))
    }
}

fn describe_errno(errno: i32) -> String {
    if errno == TOO_SLOW {
        return "standard error is read too slowly".into();
    }
    match Errno::from_raw_os_error(errno) {
        Errno::IO => "the terminal of standard error is gone".into(),
        Errno::PIPE => "nobody reads standard error any more".into(),
        _ => format!("standard error: {}", io::Error::from_raw_os_error(errno)),
    }
}

/// No error: the queue was full.
const TOO_SLOW: i32 = 0;
/// A loss is told for so long.
const TOLD_MS: u64 = 60_000;

/// Installs the process's log; call once.
pub fn init_log(format: LogFormat) -> Option<LogGuard> {
    let (sender, receiver) = sync_channel(QUEUED_LINES_MAX);
    let (finished, done) = sync_channel(1);
    let writer = thread::Builder::new().name("log".into()).spawn(move || {
        write_lines(&receiver);
        let _ = finished.send(()); // Nobody waits any more: then nobody needs to know.
    });
    writer.ok()?;
    let is_journal = is_journal();
    JOURNAL.store(is_journal, Ordering::Relaxed);
    let lines = LogLines { sender: Arc::new(sender), priority: None };
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let filter = EnvFilter::try_new(directives(&wanted)).unwrap_or_else(|_| EnvFilter::new(directives("")));
    let base = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines.clone())
        .with_target(false)
        .with_ansi(false)
        .with_timer(UtcTimer);
    // Fails only where a test has installed one before; that one serves as well.
    let _ = match (format, is_journal) {
        (LogFormat::Text, false) => base.try_init(),
        (LogFormat::Json, false) => base.json().flatten_event(true).try_init(),
        // The journal has the time of each line, and its level.
        (LogFormat::Text, true) => base.without_time().with_level(false).try_init(),
        (LogFormat::Json, true) => base.json().flatten_event(true).without_time().try_init(),
    };
    Some(LogGuard { lines, done })
}

/// Whether standard error is the journal: systemd says which file that is (systemd.exec(5), JOURNAL_STREAM).
fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let own = rustix::fs::fstat(rustix::stdio::stderr());
    own.is_ok_and(|own| named == format!("{}:{}", own.st_dev, own.st_ino))
}

/// The priorities of syslog(3), as the journal takes them before a line (sd-daemon(3)).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => WARNING,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

const WARNING: u8 = 4;
static JOURNAL: AtomicBool = AtomicBool::new(false);

/// The directives of a filter: a level alone is ours, the libraries keep theirs.
fn directives(wanted: &str) -> String {
    let parts = wanted.split(',').map(str::trim).filter(|part| !part.is_empty());
    let ours = |part: &str| match part.contains(['=', ':', '[']) || part == env!("CARGO_PKG_NAME") {
        true => part.to_owned(),
        false => format!("{}={part}", env!("CARGO_PKG_NAME")),
    };
    let parts: Vec<_> = parts.map(ours).collect();
    let level = format!("{}={LEVEL}", env!("CARGO_PKG_NAME"));
    // Of two directives for the same target the last one holds.
    [vec![LIBRARIES.to_owned(), level], parts].concat().join(",")
}

/// Now, UTC, RFC 3339 with milliseconds.
pub fn utc_now() -> String {
    format_utc(SystemTime::now())
}

/// The same of any moment that this form has room for.
pub fn format_utc(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    humantime::format_rfc3339_millis(UNIX_EPOCH + since.min(YEARS_9999)).to_string()
}

/// From 1970 to the end of the year 9999.
const YEARS_9999: Duration = Duration::from_secs(253_402_300_799);

impl Drop for LogGuard {
    fn drop(&mut self) {
        /// A stuck reader does not hold the exit up for longer.
        const FLUSH: Duration = Duration::from_millis(500);
        if self.lines.sender.try_send(LogMessage::End).is_ok() {
            let _ = self.done.recv_timeout(FLUSH); // Late lines are lost with the reader.
        }
    }
}

enum LogMessage {
    Text(Vec<u8>),
    End,
}

/// Under load lines are written many at a time: waking this thread for each would cost more than
/// the line.
fn write_lines(lines: &Receiver<LogMessage>) {
    let mut told = 0;
    let mut ended = false;
    while !ended && let Ok(LogMessage::Text(mut text)) = lines.recv() {
        thread::sleep(GATHER);
        let mut count = 1;
        while text.len() < WRITTEN_BYTES && !ended {
            match lines.try_recv() {
                Ok(LogMessage::Text(line)) => {
                    text.extend_from_slice(&line);
                    count += 1;
                }
                Ok(LogMessage::End) => ended = true,
                Err(_) => break,
            }
        }
        let mut out = io::stderr().lock();
        let lost = lines_lost();
        let result = if lost > told {
            told = lost;
            let cause = describe_errno(LOSSES.errno.load(Ordering::Relaxed));
            match JOURNAL.load(Ordering::Relaxed) {
                true => writeln!(out, "<{WARNING}>{lost} log lines lost: {cause}"),
                false => writeln!(out, "{} WARN {lost} log lines lost: {cause}", utc_now()),
            }
        } else {
            Ok(())
        };
        if let Err(error) = result.and_then(|()| out.write_all(&text)) {
            let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            LOSSES.lose(count, errno, clock::coarse_ms());
            // A terminal that has gone never comes back, and neither does whoever read the log there.
            if errno == Errno::IO.raw_os_error() {
                set_quiet(true);
            }
        }
    }
}

#[derive(Debug, Clone)]
struct LogLines {
    sender: Arc<SyncSender<LogMessage>>,
    /// Before the line, where the journal reads it.
    priority: Option<u8>,
}

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if QUIET.load(Ordering::Relaxed) {
            return Ok(line.len());
        }
        let text = match self.priority {
            Some(priority) => [format!("<{priority}>").as_bytes(), line].concat(),
            None => line.to_vec(),
        };
        if self.sender.try_send(LogMessage::Text(text)).is_err() {
            LOSSES.lose(1, TOO_SLOW, clock::coarse_ms());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Self {
        let priority = JOURNAL.load(Ordering::Relaxed).then(|| priority(*of.level()));
        Self { priority, ..self.clone() }
    }
}

struct UtcTimer;

impl FormatTime for UtcTimer {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        out.write_str(&utc_now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_with_its_cause_and_for_a_minute() {
        let losses = LogLosses::new();
        assert_eq!(losses.reason(5), None);
        for (errno, cause) in [
            (TOO_SLOW, "standard error is read too slowly"),
            (5, "the terminal of standard error is gone"),
            (32, "nobody reads standard error any more"),
            (28, "standard error: No space left on device (os error 28)"),
        ] {
            losses.lose(2, errno, 1000);
            assert_eq!(losses.reason(60_999).as_deref(), Some(cause));
            assert_eq!(losses.reason(61_000), None, "it is over");
        }
        assert_eq!(losses.lines.load(Ordering::Relaxed), 8);
    }
}
