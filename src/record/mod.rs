//! Recordings: the state of a gateway, snapshot after snapshot, in a file to keep and to replay.
//!
//! JSON lines. The first one describes the file; each of the others is one snapshot and the time at which it
//! was made:
//!
//! ```text
//! {"recording":"portcullis","version":"0.1.0","snapshot":1}
//! {"at":"2026-11-24T21:50:18.392Z","snapshot":{"version":"0.1.0","profile":"demo",…}}
//! ```
//!
//! [`Recorder`] writes one, [`Recording`] reads one, [`RecordingPlayer`] moves through it in time.

mod file;
mod player;
mod reader;
mod writer;

use std::{borrow::Cow, path::PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use player::{PlayerAction, PlayerState, RecordingPlayer, ReplayProgress};
pub use reader::Recording;
pub use writer::{Recorder, RecorderEnd};

use crate::{
    disk::ReadError,
    tasks::BlockedWork,
    telemetry::snapshot::{self, Snapshot},
};

#[derive(Debug, Error)]
pub enum RecordError {
    #[error("recording {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("recording {}: {source}; name a file that `--record` has written", path.display())]
    Open { path: PathBuf, source: ReadError },
    #[error("recording {}: something else, or a recording of another version, is there; choose another name", .0.display())]
    Other(PathBuf),
    #[error("recording {}: another process records to it; choose another name", .0.display())]
    Taken(PathBuf),
    #[error("recording {}, line {line}: {fault}", path.display())]
    Line { path: PathBuf, line: usize, fault: LineError },
    #[error("recording {}: the last snapshots were not written within {seconds}s", path.display())]
    Late { path: PathBuf, seconds: u64 },
    #[error("recording {}: its history could not be read: {source}", path.display())]
    History { path: PathBuf, source: BlockedWork },
    #[error("recording {}: it contains no snapshot", .0.display())]
    Empty(PathBuf),
}

/// Why a line of a file is invalid.
#[derive(Debug, Error)]
pub enum LineError {
    #[error("not a recording; `--record` makes one")]
    NoHeader,
    #[error("a recording of something else")]
    Foreign,
    #[error("version {0} made it, whose snapshots this version cannot read; use that version")]
    Version(String),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("at: {0}")]
    Time(#[from] humantime::TimestampError),
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct RecordingHeader {
    /// Always [`RECORDING`]: other files of JSON lines do not have this field.
    recording: String,
    version: String,
    snapshot: u32,
}

/// Any other line. The time comes first, and nothing else is read to find a position.
#[derive(Debug, Serialize, Deserialize)]
struct RecordedSnapshot<'a> {
    at: String,
    snapshot: Cow<'a, Snapshot>,
}

impl RecordingHeader {
    fn current() -> Self {
        let version = env!("CARGO_PKG_VERSION").into();
        Self { recording: RECORDING.into(), version, snapshot: snapshot::VERSION }
    }

    /// Whether snapshots of this version may follow it.
    fn is_ours(&self) -> bool {
        self.recording == RECORDING && self.snapshot == snapshot::VERSION
    }
}

const RECORDING: &str = "portcullis";
