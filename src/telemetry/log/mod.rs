//! The log: this process's lines on standard error and, if the profile says so, in a file.
//!
//! [`LogEvent`] names what can be logged, `line` makes a line of it, and `sink` writes it on a thread of its
//! own, so that nobody who logs waits for a disk or a reader. [`AccessLog`] has the requests of clients.
//!
//! The files here use each other: lines and sinks go by the forms that are defined here.

mod access;
mod events;
mod line;
mod sink;

use std::{
    path::Path,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tracing::Level;
use tracing_subscriber::{
    Registry,
    filter::{ParseError, Targets},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

pub use self::{
    access::{AccessLog, AccessRecord},
    events::{LogEvent, NoticeLine},
    sink::{keep_umask, lines_lost, loss_rows, reopen_all},
};
use self::{
    line::{ERROR, LineClock, LogLayer, PlainLine, WARNING, with_priority},
    sink::{LineSink, LossLine, SinkTarget},
};
use super::format;

/// Environment variable with a filter such as `debug` or `portcullis::link=trace`.
const FILTER_VARIABLE: &str = "PORTCULLIS_LOG";
/// The level if that is not set.
const LEVEL: &str = "info";
/// The level of libraries: TLS could say a lot about each connection, which our own line covers, and a client
/// could make it say more. A filter that names a library overrides this.
const LIBRARIES: &str = "warn,rustls=error";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// A stuck reader must not delay the exit for longer.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Ends the log: waits a moment for queued lines to be written.
#[derive(Debug)]
pub struct LogGuard {
    /// Why the environment variable is invalid.
    refused_level: Option<LogLevelError>,
}

impl LogGuard {
    /// A line for operators if the environment variable names no level; the usual level is used then.
    pub fn refused_level(&self) -> Option<NoticeLine> {
        let line = |error| format!("{FILTER_VARIABLE}: {error}; the level is `{LEVEL}`");
        self.refused_level.as_ref().map(|error| LogEvent::LevelRefused.line(line(error)))
    }
}

/// While a screen owns the terminal, lines are dropped; notices are kept in the snapshot.
static QUIET: AtomicBool = AtomicBool::new(false);
/// The sink of the profile's `log`.
static FILE: Mutex<Option<LineSink>> = Mutex::new(None);
/// The current filter, once the log is installed.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// While `quiet`, writes no lines.
pub fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Installs the process's log; call once.
pub fn init_log(format: LogFormat) -> LogGuard {
    let is_journal = is_journal();
    let stderr = LineSink::start(SinkTarget::StandardError, Some(loss_line(format, is_journal)));
    let wanted = std::env::var_os(FILTER_VARIABLE).unwrap_or_default();
    let filter = parse_filter(&wanted.to_string_lossy());
    let refused_level = filter.as_ref().err().cloned();
    let (filter, handle) = reload::Layer::new(filter.or_else(|_| parse_filter("")).unwrap_or_default());
    let layer = LogLayer { format, is_journal, stderr, file: &FILE, quiet: &QUIET };
    // This fails only if a test has installed one before, and that one will do.
    if tracing_subscriber::registry().with(filter).with(layer).try_init().is_ok() {
        let _ = FILTER.set(handle); // Nobody else sets it.
    }
    LogGuard { refused_level }
}

/// The line on standard error about missing lines.
fn loss_line(format: LogFormat, is_journal: bool) -> LossLine {
    match (format, is_journal) {
        (LogFormat::Text, false) => |lost, cause| format!("{} WARN {}", utc_now(), lost_text(lost, cause)),
        (LogFormat::Text, true) => |lost, cause| with_priority(lost_text(lost, cause), Some(WARNING)),
        (LogFormat::Json, false) => missing_lines,
        (LogFormat::Json, true) => {
            |lost, cause| with_priority(missing_lines_at(LineClock::OfJournal, lost, cause), Some(WARNING))
        }
    }
}

fn missing_lines(lost: u64, cause: &str) -> String {
    missing_lines_at(LineClock::Written, lost, cause)
}

fn missing_lines_at(time: LineClock, lost: u64, cause: &str) -> String {
    let message = &lost_text(lost, cause);
    let (level, event, field) = (Level::WARN, LogEvent::LinesLost, Some(("lines", lost)));
    PlainLine { level, event, message, field }.as_json(time)
}

/// Of a line, or of an alert.
pub fn lost_text(lost: u64, cause: &str) -> String {
    format!("{} lost: {cause}", format::count(lost, "log line"))
}

/// The line on standard error about a start that fails: as JSON, or `text` as it is, since a person waits for it. It is
/// also written to the profile's `log`.
pub fn failed_start_line(format: LogFormat, problem: &str, text: &str) -> String {
    let (level, event) = (Level::ERROR, LogEvent::StartFailed);
    let line = PlainLine { level, event, message: problem, field: None };
    if let Some(file) = &*FILE.lock().unwrap_or_else(PoisonError::into_inner) {
        file.write(line.as_json(LineClock::Written));
    }
    sink::flush_all(FLUSH_TIMEOUT);
    let is_journal = is_journal();
    let shown = match format {
        LogFormat::Text => text.to_owned(),
        LogFormat::Json => line.as_json(if is_journal { LineClock::OfJournal } else { LineClock::Written }),
    };
    with_priority(shown, is_journal.then_some(ERROR))
}

/// Also logs to this file, or to none. An open file stays open if it is the same.
pub fn set_file(path: Option<&Path>) {
    let target = path.map(|path| SinkTarget::File(path.to_owned()));
    let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let is_kept = file.as_ref().zip(target.as_ref()).is_some_and(|(file, target)| file.is_for(target));
    if !is_kept {
        *file = target.map(|target| LineSink::start(target, Some(missing_lines)));
    }
}

/// Why a level was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogLevelError {
    #[error(
        "`{0}` is not a log level; write error, warn, info, debug, trace or off, or a directive such as `portcullis::link=debug`"
    )]
    Unknown(String),
    #[error("this process writes no log; name the gateway whose level is meant with `--admin`")]
    NoLog,
}

/// Changes what is logged from now on: a level, or directives as in the environment variable.
pub fn set_level(wanted: &str) -> Result<(), LogLevelError> {
    if wanted.trim().is_empty() {
        return Err(unknown_level(wanted));
    }
    let filter = parse_filter(wanted)?;
    let handle = FILTER.get().ok_or(LogLevelError::NoLog)?;
    handle.reload(filter).map_err(|_| LogLevelError::NoLog)
}

/// Whether standard error is the journal; systemd says which file that is (systemd.exec(5), JOURNAL_STREAM).
fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let own = rustix::fs::fstat(rustix::stdio::stderr());
    own.is_ok_and(|own| named == format!("{}:{}", own.st_dev, own.st_ino))
}

fn parse_filter(wanted: &str) -> Result<Targets, LogLevelError> {
    directives(wanted).parse().map_err(|_: ParseError| unknown_level(wanted))
}

fn unknown_level(wanted: &str) -> LogLevelError {
    LogLevelError::Unknown(crate::text::clean_text(wanted, 100))
}

/// The directives of a filter: a level alone applies to us, and libraries keep theirs.
fn directives(wanted: &str) -> String {
    let parts = wanted.split(',').map(str::trim).filter(|part| !part.is_empty());
    let ours = |part: &str| match part.contains(['=', ':', '[']) || part == env!("CARGO_PKG_NAME") {
        true => part.to_owned(),
        false => format!("{}={part}", env!("CARGO_PKG_NAME")),
    };
    let parts: Vec<_> = parts.map(ours).collect();
    let level = format!("{}={LEVEL}", env!("CARGO_PKG_NAME"));
    // Of two directives for the same target, the last one counts.
    [vec![LIBRARIES.to_owned(), level], parts].concat().join(",")
}

/// The current time: UTC, RFC 3339 with milliseconds.
pub fn utc_now() -> String {
    format_utc(SystemTime::now())
}

/// A time in the form of the log, if that form can express it.
pub fn format_utc(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    humantime::format_rfc3339_millis(UNIX_EPOCH + since.min(YEARS_9999)).to_string()
}

/// From 1970 to the end of the year 9999.
const YEARS_9999: Duration = Duration::from_secs(253_402_300_799);

impl Drop for LogGuard {
    fn drop(&mut self) {
        sink::flush_all(FLUSH_TIMEOUT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_the_gateways_own_and_a_word_that_is_none_is_refused() {
        assert_eq!(directives("debug"), "warn,rustls=error,portcullis=info,portcullis=debug");
        assert!(directives("hyper=trace").ends_with(",portcullis=info,hyper=trace"));
        for wrong in ["debgu", "", " ", "portcullis=loud"] {
            assert_eq!(set_level(wrong), Err(LogLevelError::Unknown(wrong.into())));
        }
    }
}
