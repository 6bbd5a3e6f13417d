//! What the engine keeps of its last 24 hours, a sample a second, and the last hour of it over a restart. The ring
//! itself is `telemetry::history`; here is when it is fed, read and saved.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout};

use super::{
    Engine,
    history_file::{HistoryFile, HistoryFileError},
};
use crate::telemetry::{
    history::{HistoryReport, HistoryRequest, HistoryRing, HistorySample, unix_seconds},
    history_rows::RowHistory,
    log::LogEvent,
    snapshot::{PoolRow, TrafficTotals},
};

/// How often the file is written, besides at exit. A killed process loses at most this much.
const WRITE_INTERVAL: Duration = Duration::from_secs(300);
/// Time to write the file at exit, so that a hanging disk cannot delay it further.
const HISTORY_FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// The ring, and the totals when its last sample was taken.
#[derive(Debug, Default)]
pub(super) struct GatewayHistory {
    ring: HistoryRing,
    /// Not kept over a restart.
    rows: RowHistory,
    refused: u64,
    file: Option<HistoryFile>,
    /// When the file was written last, or read.
    written_at: Option<Instant>,
    /// The last write failed, which has been reported.
    is_failing: bool,
}

/// The last hour of the previous process, which a gateway starts with.
#[derive(Debug, Default)]
pub struct SavedHistory {
    ring: HistoryRing,
    /// Why it could not be read.
    read_error: Option<HistoryFileError>,
    file: Option<HistoryFile>,
}

impl SavedHistory {
    pub fn read(file: Option<HistoryFile>) -> Self {
        let now = unix_seconds(SystemTime::now());
        match file.as_ref().map_or(Ok(HistoryRing::default()), |file| file.read(now)) {
            Ok(ring) => Self { ring, read_error: None, file },
            Err(error) => Self { ring: HistoryRing::default(), read_error: Some(error), file },
        }
    }
}

impl Engine {
    /// Continues the history of the previous process, and saves it from now on.
    pub fn with_saved_history(mut self, kept: SavedHistory) -> Self {
        if let Some(error) = kept.read_error {
            let line = format!("nothing is known of the hour before the start: {error}");
            self.shared.notices.warn(LogEvent::HistoryFile.line(line));
        }
        let written_at = Some(Instant::now());
        self.history = GatewayHistory { ring: kept.ring, file: kept.file, written_at, ..self.history };
        self
    }

    /// Must be called once a second.
    pub(super) fn sample_history(&mut self, totals: &TrafficTotals, pools: &[PoolRow]) {
        let (half, at) = (self.first_half(), self.unix_now());
        let rate = self.traffic.newest();
        let refused = totals.refused.saturating_sub(self.history.refused);
        self.history.refused = totals.refused;
        if self.history.rows.is_due(at) {
            self.history.rows.take(at, self.shared.sessions.registry.totals(), pools);
        }
        let pools = pools.iter().filter(|pool| pool.half == half);
        self.history.ring.take_second(HistorySample::of_second(at, rate, refused, totals, pools));
        if self.history.written_at.is_some_and(|at| at.elapsed() >= WRITE_INTERVAL) {
            self.keep_history();
        }
    }

    fn keep_history(&mut self) {
        let Some(write) = self.history_write() else { return };
        self.history.written_at = Some(Instant::now());
        self.write_state(write, |engine, written| {
            // A write that timed out is not an error; the next one reports if it fails.
            if let Ok(written) = written {
                engine.note_history_written(written);
            }
        });
    }

    /// Saves the history at exit.
    pub(super) async fn keep_last_history(&mut self) {
        let Some(write) = self.history_write() else { return };
        let files = self.reader.states.clone();
        if let Ok(Ok(written)) = timeout(HISTORY_FLUSH_TIMEOUT, files.run(write)).await {
            self.note_history_written(written);
        }
    }

    /// Returns the blocking write of the current history; `None` without a file.
    fn history_write(&self) -> Option<impl FnOnce() -> Result<(), HistoryFileError> + Send + use<>> {
        let (file, kept) = (self.history.file.clone()?, self.history.ring.last_hour(self.unix_now()));
        Some(move || file.write(kept))
    }

    fn note_history_written(&mut self, written: Result<(), HistoryFileError>) {
        let was_failing = self.history.is_failing;
        self.history.is_failing = written.is_err();
        if let Err(error) = written
            && !was_failing
        {
            let line = format!("the history is not kept over a restart: {error}");
            self.shared.notices.info(LogEvent::HistoryFile.line(line));
        }
    }

    pub(super) fn history_report(&self, requested: HistoryRequest) -> HistoryReport {
        let rows = requested.rows_at.and_then(|at| self.history.rows.at(at)).cloned();
        HistoryReport { rows, ..self.history.ring.report(requested, self.unix_now()) }
    }

    fn unix_now(&self) -> u64 {
        unix_seconds(self.wall_clock.now())
    }
}
