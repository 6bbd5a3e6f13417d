//! The thread that writes the audit file, with a bounded queue. What it cannot write is counted and reported,
//! and one line records the count as soon as a file is available again. Nothing else stops because of that.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use thiserror::Error;
use tokio::sync::oneshot;

use super::{
    ActorOrigin, AuditActor, AuditRecord,
    file::{AuditFile, AuditFileError},
};
use crate::{
    tasks,
    telemetry::{format, log::LogEvent, notices::NoticeLog},
    text::clean_path,
};

/// How many records may wait for a slow disk.
const QUEUED_MAX: usize = 1024;
/// While lines are being lost, how often the file is tried again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(2);

/// Every audit log that is in use.
static LOGS: Mutex<Vec<Weak<AuditHandle>>> = Mutex::new(Vec::new());

/// The error for a file that already has a writer.
#[derive(Debug, Error)]
#[error("audit: another gateway writes {}; each needs a file of its own", clean_path(.0))]
pub struct AuditFileInUse(PathBuf);

/// Accepts records without waiting. When it is dropped, its thread writes what is waiting, and ends.
#[derive(Debug)]
pub struct AuditLog(Arc<AuditHandle>);

#[derive(Debug)]
struct AuditHandle {
    path: PathBuf,
    queue: SyncSender<AuditMessage>,
    state: Arc<AuditState>,
}

/// State shared by the log and its thread.
#[derive(Debug, Default)]
struct AuditState {
    /// Records for which there is no line.
    lost: AtomicU64,
    /// A signal asks for the file to be reopened.
    reopens: AtomicBool,
}

#[derive(Debug)]
enum AuditMessage {
    Record(Box<AuditRecord>),
    Reopen,
    Flush(oneshot::Sender<()>),
}

impl AuditLog {
    /// Opens the file and starts its thread. It fails only if another process writes the file.
    pub fn open(path: &Path, notices: Arc<NoticeLog>) -> Result<Self, AuditFileInUse> {
        let (queue, messages) = sync_channel(QUEUED_MAX);
        let state = Arc::new(AuditState::default());
        let mut writer = AuditWriter {
            path: path.to_owned(),
            messages,
            state: state.clone(),
            file: None,
            is_failing: false,
            notices: notices.clone(),
        };
        match AuditFile::open(path) {
            Ok(file) => writer.file = Some(file),
            Err(AuditFileError::Taken) => return Err(AuditFileInUse(path.to_owned())),
            Err(error) => writer.report_failure(&error),
        }
        if let Err(error) = tasks::spawn_thread("audit", move || writer.run()) {
            // Records that come now are lost, because nobody takes them.
            notices.warn(
                LogEvent::AuditFile
                    .line(format!("audit: cannot start the writer thread: {error}; nothing is audited")),
            );
        }
        let handle = Arc::new(AuditHandle { path: path.to_owned(), queue, state });
        let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
        logs.retain(|log| log.strong_count() > 0);
        logs.push(Arc::downgrade(&handle));
        Ok(Self(handle))
    }

    pub fn path(&self) -> &Path {
        &self.0.path
    }

    pub(super) fn write(&self, record: AuditRecord) {
        if self.0.queue.try_send(AuditMessage::Record(Box::new(record))).is_err() {
            self.0.state.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Resolves when everything before it is written.
    pub(super) fn flush(&self) -> oneshot::Receiver<()> {
        let (written, all_written) = oneshot::channel();
        // A full queue means a disk for which nobody should wait.
        let _ = self.0.queue.try_send(AuditMessage::Flush(written));
        all_written
    }
}

/// Reopens every audit file, and returns how many there are.
pub fn reopen_all() -> usize {
    let logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
    let reopen = |log: &Arc<AuditHandle>| {
        if !log.state.reopens.swap(true, Ordering::AcqRel) {
            // If there is no room, a waiting record makes the thread check.
            let _ = log.queue.try_send(AuditMessage::Reopen);
        }
    };
    logs.iter().filter_map(Weak::upgrade).inspect(reopen).count()
}

struct AuditWriter {
    path: PathBuf,
    messages: Receiver<AuditMessage>,
    state: Arc<AuditState>,
    file: Option<AuditFile>,
    /// The file cannot be written, and that was reported.
    is_failing: bool,
    notices: Arc<NoticeLog>,
}

impl AuditWriter {
    fn run(mut self) {
        loop {
            let next = match self.state.lost.load(Ordering::Relaxed) {
                0 => self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                _ => self.messages.recv_timeout(REOPEN_INTERVAL),
            };
            match next {
                Ok(AuditMessage::Record(record)) => self.write(Some(*record)),
                Ok(AuditMessage::Reopen) => {}
                Ok(AuditMessage::Flush(written)) => drop(written.send(())),
                Err(RecvTimeoutError::Timeout) => self.write(None),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // What was handed over before the signal belongs in the old file.
            if self.state.reopens.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
        }
    }

    /// Writes a record, after a line about lost ones if there are any.
    fn write(&mut self, record: Option<AuditRecord>) {
        let count = record.iter().count() as u64;
        let lost = self.state.lost.load(Ordering::Relaxed);
        let reported = (lost > 0).then(|| {
            let actor = AuditActor::own(ActorOrigin::Gateway);
            AuditRecord::new(actor, "lost", &lost.to_string(), "lines that could not be written")
        });
        match self.append(reported.into_iter().chain(record).collect()) {
            Ok(()) => {
                self.state.lost.fetch_sub(lost, Ordering::Relaxed);
                if std::mem::take(&mut self.is_failing) {
                    let path = clean_path(&self.path);
                    let line =
                        format!("audit: {path} is written again; {} lost", format::count(lost, "line"));
                    self.notices.info(LogEvent::AuditFile.line(line));
                }
            }
            Err(error) => {
                self.file = None;
                self.state.lost.fetch_add(count, Ordering::Relaxed);
                self.report_failure(&error);
            }
        }
    }

    fn append(&mut self, records: Vec<AuditRecord>) -> Result<(), AuditFileError> {
        if self.file.as_ref().is_some_and(AuditFile::is_removed) {
            self.file = None;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(AuditFile::open(&self.path)?),
        };
        Ok(file.append(records)?)
    }

    /// The first line of a new file names the last line of the previous one, which was renamed.
    fn reopen(&mut self) {
        let before = self.file.take().map(|file| (file.lines, file.last));
        let reported = before.map_or_else(
            || "the file was reopened".into(),
            |(lines, last)| {
                let lines = format::count(lines, "line");
                format!("the file was reopened; before it had {lines}, the last is {last}")
            },
        );
        self.write(Some(AuditRecord::new(AuditActor::signal("SIGUSR1"), "signal", "SIGUSR1", &reported)));
    }

    /// Reports a failure once, until writing works again.
    fn report_failure(&mut self, error: &AuditFileError) {
        if !std::mem::replace(&mut self.is_failing, true) {
            let path = clean_path(&self.path);
            let line = format!(
                "audit: {path} cannot be written: {error}; the gateway continues, but audit lines are lost"
            );
            self.notices.warn(LogEvent::AuditFile.line(line));
        }
    }
}
