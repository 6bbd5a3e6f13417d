//! Writes a recording: a picture a second, and the last one of a gateway that ends.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt,
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{Header, Picture, RecordError};
use crate::{
    gateway::handle::Watch,
    tasks::Tasks,
    telemetry::{
        log::utc_now,
        snapshot::{GatewayPhase, Snapshot},
    },
};

/// A new recording, open for writing.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    file: File,
}

impl Recorder {
    /// Makes the file; never overwrites. Only its owner can read it: clients' addresses are in it.
    pub async fn create(path: &Path) -> Result<Self, RecordError> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await;
        let file = opened.map_err(|source| match source.kind() {
            ErrorKind::AlreadyExists => RecordError::Exists(path.into()),
            _ => RecordError::Io { path: path.into(), source },
        })?;
        let mut recorder = Self { path: path.into(), file };
        recorder.write(serde_json::to_vec(&Header::ours())).await?;
        Ok(recorder)
    }

    /// Records in a task of its own: a file that takes no more costs the recording and nothing else.
    pub fn start(self, watch: Watch, tasks: &Tasks) -> Recorded {
        let (ends, ended) = oneshot::channel();
        tasks.spawn("recorder", async move {
            let result = self.record(watch).await;
            if let Err(error) = &result {
                tracing::warn!("{error}; nothing more is recorded");
            }
            // Where nobody waits for the end any more, the log has told.
            let _ = ends.send(result);
        });
        Recorded(ended)
    }

    /// Writes until the gateway ends. A file that takes long costs pictures: the newest is written
    /// when it is done.
    async fn record(mut self, mut watch: Watch) -> Result<(), RecordError> {
        let mut last: Option<Instant> = None;
        while let Some(snapshot) = watch.next().await {
            let due = last.is_none_or(|last| last.elapsed() >= PACE);
            if due || snapshot.phase == GatewayPhase::Stopped {
                last = Some(Instant::now());
                self.picture(&snapshot).await?;
            }
        }
        Ok(())
    }

    async fn picture(&mut self, snapshot: &Snapshot) -> Result<(), RecordError> {
        let picture = Picture { at: utc_now(), snapshot: snapshot.brief() };
        self.write(serde_json::to_vec(&picture)).await
    }

    /// One write for each line: what a killed process leaves behind is whole lines and a part of
    /// one at most.
    async fn write(&mut self, line: serde_json::Result<Vec<u8>>) -> Result<(), RecordError> {
        let written = async {
            let mut line = line?;
            line.push(b'\n');
            self.file.write_all(&line).await?;
            self.file.flush().await
        };
        written.await.map_err(|source| RecordError::Io { path: self.path.clone(), source })
    }
}

/// A recording under way.
#[derive(Debug)]
pub struct Recorded(oneshot::Receiver<Result<(), RecordError>>);

impl Recorded {
    /// Waits for the last picture, but no longer than `longest`; an error where it had stopped.
    pub async fn ended(self, longest: Duration) -> Result<(), RecordError> {
        // Late, or its task has panicked, which is in the log: there is nothing to tell here.
        timeout(longest, self.0).await.ok().and_then(Result::ok).unwrap_or(Ok(()))
    }
}

/// A little less than a second: pictures come at quarters, not quite.
const PACE: Duration = Duration::from_millis(900);
