//! Writes a recording: a snapshot a second, and the last one of a gateway that ends.

use std::{io, path::Path, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{RecordError, RecordedSnapshot, file::RecordingFile};
use crate::{
    gateway::handle::SnapshotWatch,
    tasks::Tasks,
    telemetry::{
        log::utc_now,
        notices::NoticeLog,
        recording,
        snapshot::{GatewayPhase, RecordingRow, Snapshot},
    },
};

/// A recording, open for writing.
#[derive(Debug)]
pub struct Recorder {
    file: RecordingFile,
    row: RecordingRow,
}

impl Recorder {
    /// Begins a recording, or goes on with the one that is there.
    pub async fn open(path: &Path) -> Result<Self, RecordError> {
        let file = RecordingFile::open(path).await?;
        let row = RecordingRow { file: path.display().to_string(), left_out: 0, trouble: None };
        recording::set_state(Some(row.clone()));
        Ok(Self { file, row })
    }

    /// Records in a task of its own: a file that takes no more costs the recording and nothing else.
    pub fn start(self, watch: SnapshotWatch, tasks: &Tasks, notices: Arc<NoticeLog>) -> RecorderEnd {
        let (ends, ended) = oneshot::channel();
        tasks.spawn("recorder", async move {
            // Where nobody waits for the end any more, the notices have told.
            let _ = ends.send(self.record(watch, &notices).await);
        });
        RecorderEnd(ended)
    }

    /// Writes until the gateway ends. A file that takes long costs snapshots: the newest is written
    /// when it is done. One that takes none is tried again with each.
    async fn record(mut self, mut watch: SnapshotWatch, notices: &NoticeLog) -> Result<(), RecordError> {
        let (mut last, mut result): (Option<Instant>, io::Result<()>) = (None, Ok(()));
        while let Some(snapshot) = watch.next().await {
            let due = last.is_none_or(|last| last.elapsed() >= PACE);
            if due || snapshot.phase == GatewayPhase::Stopped {
                last = Some(Instant::now());
                result = self.append(&snapshot).await;
                self.report_write(&result, notices);
            }
        }
        recording::set_state(None);
        result.map_err(|source| RecordError::Io { path: self.file.path.clone(), source })
    }

    /// One write for each line: what a killed process leaves behind is whole lines and a part of
    /// one at most.
    async fn append(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let mut line = serde_json::to_vec(&RecordedSnapshot { at: utc_now(), snapshot: snapshot.brief() })?;
        line.push(b'\n');
        self.file.write(&line).await
    }

    /// Tells when the file stops taking snapshots and when it goes on, each once.
    fn report_write(&mut self, result: &io::Result<()>, notices: &NoticeLog) {
        let file = &self.row.file;
        match (result, &self.row.trouble) {
            (Ok(()), None) => return,
            (Ok(()), Some(_)) => {
                let left_out = self.row.left_out;
                notices.info(format!("recording {file}: goes on; {left_out} snapshots are missing in all"));
                self.row.trouble = None;
            }
            (Err(error), None) => {
                notices.warn(format!("recording {file}: {error}; it is tried again every second"));
                self.row.trouble = Some(error.to_string());
                self.row.left_out += 1;
            }
            (Err(_), Some(_)) => self.row.left_out += 1,
        }
        recording::set_state(Some(self.row.clone()));
    }
}

/// A recording under way.
#[derive(Debug)]
pub struct RecorderEnd(oneshot::Receiver<Result<(), RecordError>>);

impl RecorderEnd {
    /// Waits for the last snapshot, but no longer than `longest`; an error where it was not kept.
    pub async fn wait(self, longest: Duration) -> Result<(), RecordError> {
        // Late, or its task has panicked, which is in the log: there is nothing to tell here.
        timeout(longest, self.0).await.ok().and_then(Result::ok).unwrap_or(Ok(()))
    }
}

/// A little less than a second: snapshots come at quarters, not quite.
const PACE: Duration = Duration::from_millis(900);
