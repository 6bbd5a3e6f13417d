//! Writes a recording: a snapshot a second, and the last one when a gateway ends. It never holds up the gateway: a
//! snapshot that the disk is too slow for is left out and counted.

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{RecordError, RecordedSnapshot, file::RecordingFile};
use crate::{
    gateway::handle::SnapshotWatch,
    tasks::Tasks,
    telemetry::{
        log::LogEvent,
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
    /// Begins a recording, or continues an existing one.
    pub async fn open(path: &Path) -> Result<Self, RecordError> {
        let file = RecordingFile::open(path).await?;
        let row = RecordingRow { file: path.display().to_string(), left_out: 0, trouble: None };
        recording::set_state(Some(row.clone()));
        Ok(Self { file, row })
    }

    /// Records in a task of its own: if the file cannot be written, only the recording suffers.
    pub fn start(self, watch: SnapshotWatch, tasks: &Tasks, notices: Arc<NoticeLog>) -> RecorderEnd {
        let (ends, ended) = oneshot::channel();
        let path = self.file.path.clone();
        tasks.spawn("recorder", async move {
            // If nobody waits for the end any more, the notices have reported it.
            let _ = ends.send(self.record(watch, &notices).await);
        });
        RecorderEnd { path, ended }
    }

    /// Writes until the gateway ends. If a write takes long, snapshots are skipped and counted, and the newest
    /// one is written afterwards. After an error, each snapshot is a new attempt.
    async fn record(mut self, mut watch: SnapshotWatch, notices: &NoticeLog) -> Result<(), RecordError> {
        let (mut last, mut result): (Option<Instant>, io::Result<()>) = (None, Ok(()));
        while let Some(snapshot) = watch.next().await {
            let due = last.is_none_or(|last| last.elapsed() >= SNAPSHOT_INTERVAL);
            if due || snapshot.phase == GatewayPhase::Stopped {
                last = Some(Instant::now());
                result = self.append(&snapshot, notices).await;
                self.report_write(&result, notices);
            }
        }
        recording::set_state(None);
        result.map_err(|source| RecordError::Io { path: self.file.path.clone(), source })
    }

    /// One write for each line: a killed process leaves only complete lines and at most a part of one. A disk that hangs
    /// is waited for: snapshots are left out meanwhile, and counted.
    async fn append(&mut self, snapshot: &Snapshot, notices: &NoticeLog) -> io::Result<()> {
        let mut line = serde_json::to_vec(&RecordedSnapshot { at: utc_now(), snapshot: snapshot.brief() })?;
        line.push(b'\n');
        count_while(self.file.write(&line), &mut self.row, notices).await
    }

    /// Reports once when the file cannot be written, and once when it can again.
    fn report_write(&mut self, result: &io::Result<()>, notices: &NoticeLog) {
        let file = &self.row.file;
        match (result, &self.row.trouble) {
            (Ok(()), None) => return,
            (Ok(()), Some(_)) => {
                let left_out = self.row.left_out;
                notices.info(
                    LogEvent::Recording
                        .line(format!("recording {file}: goes on; {left_out} snapshots are missing in all")),
                );
                self.row.trouble = None;
            }
            (Err(error), None) => {
                notices.warn(
                    LogEvent::Recording
                        .line(format!("recording {file}: {error}; it is tried again every second")),
                );
                self.row.trouble = Some(error.to_string());
                self.row.left_out += 1;
            }
            (Err(_), Some(_)) => self.row.left_out += 1,
        }
        recording::set_state(Some(self.row.clone()));
    }
}

/// Waits for a write, which may never end on a disk that hangs; counts the snapshots that are skipped
/// meanwhile.
async fn count_while(
    write: impl Future<Output = io::Result<()>>,
    row: &mut RecordingRow,
    notices: &NoticeLog,
) -> io::Result<()> {
    let mut write = pin!(write);
    let mut missed = 0;
    loop {
        if let Ok(written) = timeout(SNAPSHOT_INTERVAL, write.as_mut()).await {
            return written;
        }
        (missed, row.left_out) = (missed + 1, row.left_out + 1);
        if missed == SKIPPED_REPORT_MIN && row.trouble.is_none() {
            let error_text = "writes to the disk are stalled".to_owned();
            notices.warn(LogEvent::Recording.line(format!(
                "recording {}: {error_text}; snapshots are left out until they resume",
                row.file
            )));
            row.trouble = Some(error_text);
        }
        recording::set_state(Some(row.clone()));
    }
}

/// A recording under way.
#[derive(Debug)]
pub struct RecorderEnd {
    path: PathBuf,
    ended: oneshot::Receiver<Result<(), RecordError>>,
}

impl RecorderEnd {
    /// Waits for the last snapshot, but no longer than `longest`; an error if it was not written.
    pub async fn wait(self, longest: Duration) -> Result<(), RecordError> {
        match timeout(longest, self.ended).await {
            // If its task has panicked, that is in the log already.
            Ok(ended) => ended.unwrap_or(Ok(())),
            Err(_) => Err(RecordError::Late { path: self.path, seconds: longest.as_secs() }),
        }
    }
}

/// A little less than a second, since snapshots do not come exactly at quarters.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(900);
/// From this many skipped snapshots on, a notice is written; fewer only mean a busy disk.
const SKIPPED_REPORT_MIN: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hanging_disk_is_reported_and_its_skipped_snapshots_counted() {
        let notices = NoticeLog::default();
        let mut row = RecordingRow { file: "r.rec".into(), left_out: 0, trouble: None };
        let hangs = async {
            tokio::time::sleep(SNAPSHOT_INTERVAL * 10 + SNAPSHOT_INTERVAL / 2).await;
            Ok(())
        };
        assert!(count_while(hangs, &mut row, &notices).await.is_ok());
        assert_eq!(row.left_out, 10);
        assert_eq!(row.trouble.as_deref(), Some("writes to the disk are stalled"));
        // A pause that costs two snapshots is not reported.
        row.trouble = None;
        let slow = async {
            tokio::time::sleep(SNAPSHOT_INTERVAL * 2 + SNAPSHOT_INTERVAL / 2).await;
            Ok(())
        };
        assert!(count_while(slow, &mut row, &notices).await.is_ok());
        assert_eq!((row.left_out, row.trouble), (12, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_last_snapshot_that_the_disk_does_not_take_in_time_is_an_error() {
        let (_ends, ended) = oneshot::channel();
        let recorded = RecorderEnd { path: "r.rec".into(), ended };
        let reported = recorded.wait(Duration::from_secs(1)).await.expect_err("it is late").to_string();
        assert_eq!(reported, "recording r.rec: the last snapshots were not written within 1s");
    }
}
