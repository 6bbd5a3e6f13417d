//! Where lines go: standard error or a file, each written by a thread of its own with a bounded queue.
//!
//! The reader may stop reading, the disk may be full, and the folder may disappear. In each case lines are lost
//! and counted with their cause, and nothing else happens. A file that cannot be written is tried again with later
//! lines, and every second while a loss is to be reported. One that was deleted is made again with the next line. One
//! that was renamed is written to until [`reopen_all`]. A line that was written only in part is ended before the next
//! one.

use std::{
    fmt,
    fs::{File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat},
    io::Errno,
};

use crate::{
    disk, tasks,
    telemetry::{clock, verdict::LogLossRow},
    text,
};

/// How many lines may wait for a slow reader.
const QUEUED_LINES_MAX: usize = 8192;
/// How long the writer waits for more lines after the first, and how many bytes it writes at once.
const BATCH_DELAY: Duration = Duration::from_millis(5);
const WRITTEN_BYTES: usize = 64 * 1024;
/// How long until a file that cannot be opened is tried again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);
/// How long a loss is shown after its last line.
const LOSS_SHOWN_MS: u64 = 60_000;
/// A Landlock rule covers the folder itself, not its name.
const LOCKED_OUT: &str = "; the lock of this gateway (`confine`) covers no folder that was made after the start: a restart \
                          does";
/// The mode of a new file, before the umask.
const FILE_MODE: u32 = 0o640;
/// Not an error: the queue was full.
const TOO_SLOW: i32 = 0;

/// Lines that any sink has failed to write so far.
static LINES_LOST: AtomicU64 = AtomicU64::new(0);
/// The umask with which the process began, once it has another one.
static FIRST_UMASK: OnceLock<u32> = OnceLock::new();
/// Every sink that is in use, or still has lines to write.
static SINKS: Mutex<Vec<OpenSink>> = Mutex::new(Vec::new());

#[derive(Debug, Clone)]
struct OpenSink {
    handle: Weak<SinkHandle>,
    /// Its thread keeps this until it ends.
    state: Weak<SinkState>,
}

/// The target of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkTarget {
    StandardError,
    File(PathBuf),
}

/// Makes the text for a sink in which lines are missing, from their number and the reason.
pub type LossLine = fn(u64, &str) -> String;

/// Accepts lines without waiting. When the last clone is dropped, its thread writes what is waiting, and ends.
#[derive(Debug, Clone)]
pub struct LineSink(Arc<SinkHandle>);

#[derive(Debug)]
struct SinkHandle {
    state: Arc<SinkState>,
    queue: SyncSender<SinkMessage>,
}

/// State shared by the sink and its thread.
#[derive(Debug)]
struct SinkState {
    target: SinkTarget,
    loss: Mutex<SinkLoss>,
    /// The error with which its thread could not be started.
    no_thread: OnceLock<i32>,
    /// A signal asks for the file to be reopened.
    reopens: AtomicBool,
}

/// Lines that were not written.
#[derive(Debug, Default)]
struct SinkLoss {
    /// Since the start.
    lines: u64,
    /// Since the first one that was not followed by a minute without any.
    recent: u64,
    /// The error of the last one, or [`TOO_SLOW`].
    errno: i32,
    /// The time of the last one, by `clock::coarse_ms`.
    at_ms: Option<u64>,
    /// The file still misses them, since it could not be written again so far. Otherwise an alert would end, write a
    /// line about that, and lose it.
    goes_on: bool,
}

#[derive(Debug)]
enum SinkMessage {
    Line(Vec<u8>),
    Reopen,
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

impl LineSink {
    /// Starts the thread that writes. If none can be started, each line counts as lost.
    pub fn start(target: SinkTarget, loss_line: Option<LossLine>) -> Self {
        let (queue, lines) = sync_channel(QUEUED_LINES_MAX);
        let state = Arc::new(SinkState::new(target));
        let writer = SinkWriter {
            state: state.clone(),
            lines,
            loss_line,
            file: None,
            tried: None,
            torn: None,
            reported: 0,
        };
        if let Err(error) = tasks::spawn_thread("log", move || writer.run()) {
            state.no_thread.get_or_init(|| error.raw_os_error().unwrap_or(Errno::AGAIN.raw_os_error()));
        }
        let open = Arc::downgrade(&state);
        let handle = Arc::new(SinkHandle { state, queue });
        let mut sinks = SINKS.lock().unwrap_or_else(PoisonError::into_inner);
        sinks.retain(|sink| sink.state.strong_count() > 0);
        sinks.push(OpenSink { handle: Arc::downgrade(&handle), state: open });
        Self(handle)
    }

    /// Whether it writes to this target, and has a thread that does.
    pub fn is_for(&self, target: &SinkTarget) -> bool {
        self.0.state.target == *target && self.0.state.no_thread.get().is_none()
    }

    /// Hands over a line without its end; if there is no room, it is counted as lost.
    pub fn write(&self, mut line: String) {
        line.push('\n');
        if self.0.queue.try_send(SinkMessage::Line(line.into_bytes())).is_err() {
            self.0.state.lose(1, TOO_SLOW);
        }
    }

    /// Waits until everything handed over is written, but no longer than `within`.
    pub fn flush(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let (written, all_written) = sync_channel(1);
        let mut message = SinkMessage::Flush(written);
        // A full queue has room again when its reader continues.
        while let Err(refused) = self.0.queue.try_send(message) {
            let TrySendError::Full(again) = refused else { return };
            if Instant::now() >= deadline {
                return;
            }
            message = again;
            thread::sleep(BATCH_DELAY);
        }
        // Lines that are still waiting are lost with the reader.
        let _ = all_written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Waits until every sink has written what was handed over, but no longer than `within`. One that is stuck takes no
/// time from the others.
pub(super) fn flush_all(within: Duration) {
    let deadline = Instant::now() + within;
    let (written, all_written) = sync_channel::<()>(0);
    for sink in SINKS.lock().unwrap_or_else(PoisonError::into_inner).clone() {
        let written = written.clone();
        // If no thread can be started, its last lines may be lost.
        let _ = tasks::spawn_thread("log end", move || drop((sink.finish_writing(deadline), written)));
    }
    drop(written);
    // It fails when the last of them has ended.
    let _ = all_written.recv_timeout(within);
}

impl OpenSink {
    fn finish_writing(&self, deadline: Instant) {
        if let Some(handle) = self.handle.upgrade() {
            return LineSink(handle).flush(deadline.saturating_duration_since(Instant::now()));
        }
        // Nobody writes to it any more, and its thread ends when it is done.
        while self.state.strong_count() > 0 && Instant::now() < deadline {
            thread::sleep(BATCH_DELAY);
        }
    }
}

/// Lines that were not written so far.
pub fn lines_lost() -> u64 {
    LINES_LOST.load(Ordering::Relaxed)
}

/// Where lines are being lost; each is shown for a minute after the last one, and as long as it cannot be reported
/// there.
pub fn loss_rows() -> Vec<LogLossRow> {
    let sinks = SINKS.lock().unwrap_or_else(PoisonError::into_inner);
    let sinks = sinks.iter().filter_map(|sink| sink.handle.upgrade());
    sinks.filter_map(|sink| sink.state.loss_row(clock::coarse_ms())).collect()
}

/// Reopens every file, and returns how many there are. Signals that arrive faster than a file is opened count
/// as one.
pub fn reopen_all() -> usize {
    let sinks = SINKS.lock().unwrap_or_else(PoisonError::into_inner);
    let files = sinks.iter().filter_map(|sink| sink.handle.upgrade());
    let files = files.filter(|sink| sink.state.target != SinkTarget::StandardError);
    let reopen = |sink: &Arc<SinkHandle>| {
        if !sink.state.reopens.swap(true, Ordering::AcqRel) {
            // If there is no room, a waiting line makes the thread check.
            let _ = sink.queue.try_send(SinkMessage::Reopen);
        }
    };
    files.inspect(reopen).count()
}

impl SinkState {
    fn new(target: SinkTarget) -> Self {
        Self { target, loss: Mutex::default(), no_thread: OnceLock::new(), reopens: AtomicBool::new(false) }
    }

    fn lose(&self, lines: u64, errno: i32) {
        if lines == 0 {
            return;
        }
        LINES_LOST.fetch_add(lines, Ordering::Relaxed);
        let (now_ms, mut loss) = (clock::coarse_ms(), self.loss());
        if !loss.is_shown(now_ms) {
            loss.recent = 0;
        }
        loss.lines = loss.lines.saturating_add(lines);
        loss.recent = loss.recent.saturating_add(lines);
        (loss.errno, loss.at_ms) = (errno, Some(now_ms));
    }

    fn loss(&self) -> MutexGuard<'_, SinkLoss> {
        self.loss.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loss_row(&self, now_ms: u64) -> Option<LogLossRow> {
        let loss = self.loss();
        let cause = || self.describe_loss(loss.errno);
        loss.is_shown(now_ms).then(|| LogLossRow {
            target: self.target.to_string(),
            lost: loss.recent,
            cause: cause(),
        })
    }

    fn describe_loss(&self, errno: i32) -> String {
        if let Some(errno) = self.no_thread.get() {
            let error = io::Error::from_raw_os_error(*errno);
            return format!("{}: no thread that writes it could be started: {error}", self.target);
        }
        let error = io::Error::from_raw_os_error(errno);
        match &self.target {
            SinkTarget::StandardError => match errno {
                TOO_SLOW => "standard error is read too slowly".into(),
                libc::EIO => "the terminal of standard error is gone".into(),
                libc::EPIPE => "nobody reads standard error any more".into(),
                _ => format!("standard error: {error}"),
            },
            SinkTarget::File(_) if errno == TOO_SLOW => format!("{} is written too slowly", self.target),
            SinkTarget::File(_) if errno == libc::EACCES && disk::is_locked() => {
                format!("{}: {error}{LOCKED_OUT}", self.target)
            }
            SinkTarget::File(_) if errno == libc::ENXIO => {
                format!("{} is a pipe that nobody reads", self.target)
            }
            SinkTarget::File(_) => format!("{}: {error}", self.target),
        }
    }
}

impl SinkLoss {
    fn is_shown(&self, now_ms: u64) -> bool {
        self.goes_on || self.at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < LOSS_SHOWN_MS)
    }
}

impl fmt::Display for SinkTarget {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardError => out.write_str("standard error"),
            Self::File(path) => out.write_str(&text::clean_path(path)),
        }
    }
}

/// The thread of a sink.
struct SinkWriter {
    state: Arc<SinkState>,
    lines: Receiver<SinkMessage>,
    loss_line: Option<LossLine>,
    file: Option<File>,
    /// When opening the file last failed, and with which error.
    tried: Option<(Instant, i32)>,
    /// The file in which the last line was written only in part.
    torn: Option<FileIdentity>,
    /// The number of losses that have a line.
    reported: u64,
}

/// Device and inode.
type FileIdentity = (u64, u64);

/// A batch that was not written completely.
struct CutBatch {
    written: usize,
    error: io::Error,
}

impl SinkWriter {
    /// Writes many lines at a time under load: waking this thread for each would cost more than the line
    /// itself.
    fn run(mut self) {
        // The file exists from the start, even if nothing is logged for a long time.
        self.open_if_due();
        while let Some(first) = self.next_message() {
            thread::sleep(BATCH_DELAY);
            let (mut text, mut count, mut flushes) = (Vec::new(), 0, Vec::new());
            let mut message = Some(first);
            while let Some(next) = message {
                match next {
                    SinkMessage::Line(line) => {
                        text.extend_from_slice(&line);
                        count += 1;
                    }
                    SinkMessage::Reopen => {}
                    SinkMessage::Flush(written) => flushes.push(written),
                }
                message = if text.len() < WRITTEN_BYTES { self.lines.try_recv().ok() } else { None };
            }
            self.write_batch(&text, count);
            for written in flushes {
                let _ = written.try_send(()); // Who does not wait any more need not know.
            }
        }
    }

    /// The next message; while lines are missing, the file is tried again meanwhile.
    fn next_message(&mut self) -> Option<SinkMessage> {
        while self.state.loss().goes_on {
            match self.lines.recv_timeout(REOPEN_INTERVAL) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Timeout) => self.write_batch(&[], 0),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        self.lines.recv().ok()
    }

    fn write_batch(&mut self, text: &[u8], count: u64) {
        self.open_if_due();
        let (lost, errno) = {
            let loss = self.state.loss();
            (loss.lines, loss.errno)
        };
        let missing = self.loss_line.filter(|_| lost > self.reported);
        // Lines missing after the last one have no line to go with.
        if text.is_empty() && missing.is_none() {
            return;
        }
        let missing =
            missing.map(|line| line(lost, &self.state.describe_loss(errno)) + "\n").unwrap_or_default();
        let end = if self.torn.is_some() && self.torn == self.identity() { "\n" } else { "" };
        let batch = [end.as_bytes(), missing.as_bytes(), text].concat();
        match self.write_all(&batch) {
            Ok(()) => {
                (self.reported, self.torn) = (lost, None);
                self.state.loss().goes_on = false;
            }
            Err(CutBatch { written, error }) => {
                let before = end.len() + missing.len();
                if written > 0 {
                    self.torn = self.identity().filter(|_| batch[written - 1] != b'\n');
                }
                if written >= before {
                    self.reported = lost;
                }
                let whole = batch[before.min(written)..written].iter().filter(|byte| **byte == b'\n').count();
                let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
                self.file = None;
                self.state.lose(count.saturating_sub(whole as u64), errno);
                // Only a line about the loss shows that it is over.
                self.state.loss().goes_on =
                    self.loss_line.is_some() && self.state.target != SinkTarget::StandardError;
                // A terminal that has gone never comes back, and neither does whoever read the log there.
                if self.state.target == SinkTarget::StandardError && errno == Errno::IO.raw_os_error() {
                    super::set_quiet(true);
                }
            }
        }
    }

    fn write_all(&mut self, batch: &[u8]) -> Result<(), CutBatch> {
        let nothing = |error| Err(CutBatch { written: 0, error });
        match (&self.state.target, &mut self.file, self.tried) {
            (SinkTarget::StandardError, _, _) => write_counted(&mut io::stderr().lock(), batch),
            (SinkTarget::File(_), Some(file), _) => write_counted(file, batch),
            (SinkTarget::File(_), None, Some((_, errno))) => nothing(io::Error::from_raw_os_error(errno)),
            (SinkTarget::File(_), None, None) => nothing(Errno::IO.into()),
        }
    }

    /// The regular file that is written to. What a pipe or device has taken is past.
    fn identity(&self) -> Option<FileIdentity> {
        let facts = match (&self.state.target, &self.file) {
            (SinkTarget::StandardError, _) => fstat(io::stderr()),
            (SinkTarget::File(_), file) => fstat(file.as_ref()?),
        };
        // One that was emptied has no line to end.
        let facts = facts.ok().filter(|facts| {
            FileType::from_raw_mode(facts.st_mode) == FileType::RegularFile && facts.st_size > 0
        })?;
        Some((facts.st_dev, facts.st_ino))
    }

    /// Opens the file if it is not open, has to be reopened, or was deleted.
    fn open_if_due(&mut self) {
        let SinkTarget::File(path) = &self.state.target else { return };
        if self.state.reopens.swap(false, Ordering::AcqRel) {
            (self.file, self.tried) = (None, None);
        }
        if self.file.as_ref().is_some_and(|file| file.metadata().is_ok_and(|facts| facts.nlink() == 0)) {
            self.file = None;
        }
        let is_due = self.tried.is_none_or(|(at, _)| at.elapsed() >= REOPEN_INTERVAL);
        if self.file.is_none() && is_due {
            match open(path) {
                Ok(file) => (self.file, self.tried) = (Some(file), None),
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
                    self.tried = Some((Instant::now(), errno));
                }
            }
        }
    }
}

/// Writes everything, or says how much of it was written.
fn write_counted(to: &mut impl Write, batch: &[u8]) -> Result<(), CutBatch> {
    let mut written = 0;
    while written < batch.len() {
        match to.write(&batch[written..]) {
            Ok(0) => return Err(CutBatch { written, error: io::ErrorKind::WriteZero.into() }),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CutBatch { written, error }),
        }
    }
    Ok(())
}

/// New files keep to the umask with which the process began, whatever it is now: one that is made after a rotation is
/// for the same readers.
pub fn keep_umask(umask: u32) {
    FIRST_UMASK.get_or_init(|| umask);
}

/// Opens without waiting, then writes normally: a slow reader delays only this thread.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let mut options = OpenOptions::new();
    options.append(true).mode(FILE_MODE).custom_flags(flags);
    let file = match options.create_new(true).open(path) {
        Ok(file) => {
            if let Some(umask) = FIRST_UMASK.get() {
                file.set_permissions(Permissions::from_mode(FILE_MODE & !umask))?;
            }
            file
        }
        // It is there, or is a symbolic link to somewhere.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.create_new(false).create(true).open(path)?
        }
        Err(error) => return Err(error),
    };
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests;
