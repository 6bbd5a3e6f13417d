//! Reads a recording: first the positions of its snapshots, then each of them on demand. A recording may be larger
//! than memory, so only positions are kept.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Deserialize;

use super::{LineError, RECORDING, RecordError, RecordedSnapshot, RecordingHeader};
use crate::{
    disk,
    telemetry::{
        health,
        history::{HistoryRing, HistorySample, unix_seconds},
        snapshot::{self, Snapshot, TrafficSample, TrafficTotals},
    },
};

/// A recording, open for reading, with at least one snapshot.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    file: BufReader<File>,
    offsets: Vec<SnapshotOffset>,
}

/// The position of a snapshot in the file.
#[derive(Debug)]
struct SnapshotOffset {
    offset: u64,
    line: usize,
    at: SystemTime,
}

impl Recording {
    /// Opens it and finds its snapshots. The last line may be incomplete if the gateway was killed.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let file =
            disk::open_plain(path).map_err(|source| RecordError::Open { path: path.into(), source })?;
        let mut recording = Self { path: path.into(), file: BufReader::new(file), offsets: vec![] };
        let header = recording.line()?;
        check_header(&header).map_err(|fault| recording.line_error(1, fault))?;
        let mut offset = header.len() as u64;
        for number in 2.. {
            let line = recording.line()?;
            if line.last() != Some(&b'\n') {
                break;
            }
            let at = line_time(&line).map_err(|fault| recording.line_error(number, fault))?;
            recording.offsets.push(SnapshotOffset { offset, line: number, at });
            offset += line.len() as u64;
        }
        if recording.offsets.is_empty() { Err(RecordError::Empty(path.into())) } else { Ok(recording) }
    }

    /// The number of snapshots.
    pub fn count(&self) -> usize {
        self.offsets.len()
    }

    /// The snapshot at an index below [`count`](Self::count).
    pub fn snapshot(&mut self, index: usize) -> Result<Arc<Snapshot>, RecordError> {
        let SnapshotOffset { offset, line: number, .. } = self.offsets[index];
        let sought = self.file.seek(SeekFrom::Start(offset));
        sought.map_err(|source| RecordError::Io { path: self.path.clone(), source })?;
        let line = self.line()?;
        let snapshot: RecordedSnapshot<'_> =
            serde_json::from_slice(&line).map_err(|error| self.line_error(number, error.into()))?;
        let mut snapshot = snapshot.snapshot.into_owned();
        if snapshot.health.is_none() {
            // It was recorded before gateways judged their own health.
            health::judge_snapshot(&mut snapshot, self.at(index));
        }
        Ok(Arc::new(snapshot))
    }

    /// When the snapshot at `index` was made.
    pub fn at(&self, index: usize) -> SystemTime {
        self.offsets[index].at
    }

    /// The time from one snapshot to a later one; none if the clock was set back in between.
    pub fn between(&self, earlier: usize, later: usize) -> Duration {
        self.at(later).duration_since(self.at(earlier)).unwrap_or_default()
    }

    /// What the gateway would have kept of all this time.
    pub fn history(&mut self) -> Result<HistoryRing, RecordError> {
        let mut ring = HistoryRing::default();
        let mut before: Option<Arc<Snapshot>> = None;
        for index in 0..self.count() {
            let snapshot = self.snapshot(index)?;
            let since = before.as_ref().map(|before| (&before.totals, self.between(index - 1, index)));
            ring.take_second(sample(&snapshot, unix_seconds(self.at(index)), since));
            before = Some(snapshot);
        }
        Ok(ring)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next line with its line end; empty at the end of the file.
    fn line(&mut self) -> Result<Vec<u8>, RecordError> {
        let mut line = Vec::new();
        let read = self.file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|source| RecordError::Io { path: self.path.clone(), source })?;
        Ok(line)
    }

    fn line_error(&self, line: usize, fault: LineError) -> RecordError {
        RecordError::Line { path: self.path.clone(), line, fault }
    }
}

/// `since` are the totals of the snapshot before, and how long ago that was.
fn sample(snapshot: &Snapshot, at: u64, since: Option<(&TrafficTotals, Duration)>) -> HistorySample {
    let totals = &snapshot.totals;
    let mean = |of: fn(&TrafficTotals) -> u64| {
        let (before, time) = since.unwrap_or((totals, Duration::ZERO));
        of(totals).saturating_sub(of(before)) / time.as_secs().max(1)
    };
    // The snapshot of a fleet has no rates of its own.
    let means =
        || TrafficSample { up: mean(|totals| totals.bytes_up), down: mean(|totals| totals.bytes_down) };
    let rate = snapshot.traffic.last().copied().unwrap_or_else(means);
    let refused = since.map_or(0, |(before, _)| totals.refused.saturating_sub(before.refused));
    let half = snapshot.halves.first();
    let pools = snapshot.pools.iter().filter(|pool| Some(&pool.half) == half);
    HistorySample::of_second(at, rate, refused, totals, pools)
}

fn check_header(line: &[u8]) -> Result<(), LineError> {
    match serde_json::from_slice::<RecordingHeader>(line) {
        Ok(header) if header.recording != RECORDING => Err(LineError::Foreign),
        Ok(header) if header.snapshot != snapshot::VERSION => Err(LineError::Version(header.version)),
        Ok(_) => Ok(()),
        Err(_) => Err(LineError::NoHeader),
    }
}

fn line_time(line: &[u8]) -> Result<SystemTime, LineError> {
    #[derive(Deserialize)]
    struct LineTime {
        at: String,
    }
    let moment: LineTime = serde_json::from_slice(line)?;
    Ok(humantime::parse_rfc3339(&moment.at)?)
}

/// A snapshot with all its rows is far shorter.
const LINE_BYTES_MAX: u64 = 64 * 1024 * 1024;
