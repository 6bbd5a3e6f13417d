//! The file that preserves the last hour of the history across a restart.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::state_file::{StateFile, StateFileError};
use crate::{
    profile::Profile,
    telemetry::history::{HistoryRing, HistorySample, SavedHistoryError},
};

/// Several times what an hour takes.
const BYTES_MAX: u64 = 1 << 20;
/// The version of the file format; other versions are not read.
const VERSION: u32 = 1;

#[derive(Debug, Error)]
pub enum HistoryFileError {
    #[error(transparent)]
    File(#[from] StateFileError),
    #[error("{}: {source}", path.display())]
    Form { path: PathBuf, source: serde_json::Error },
    #[error("{}: it is of another version of this program", path.display())]
    Version { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Contents { path: PathBuf, source: SavedHistoryError },
}

#[derive(Serialize, Deserialize)]
struct HistoryContents {
    tiers: Vec<Vec<HistorySample>>,
}

/// The part that every version of the format has.
#[derive(Serialize, Deserialize)]
struct HistoryVersion {
    version: u32,
}

#[derive(Serialize)]
struct VersionedHistory {
    #[serde(flatten)]
    version: HistoryVersion,
    #[serde(flatten)]
    contents: HistoryContents,
}

/// The history file of one profile; each combination of running halves has its own.
#[derive(Debug, Clone)]
pub struct HistoryFile(StateFile);

impl HistoryFile {
    pub fn of_profile(profile: &Profile) -> Option<Self> {
        let half = match (&profile.dmz, &profile.internal) {
            (Some(_), None) => "-dmz",
            (None, Some(_)) => "-internal",
            (Some(_), Some(_)) | (None, None) => "",
        };
        StateFile::named(format!("{}{half}.history", profile.name)).map(Self)
    }

    pub fn state_file(&self) -> &StateFile {
        &self.0
    }

    /// What is kept, as seen at `now`; an empty ring where there is no file.
    pub fn read(&self, now: u64) -> Result<HistoryRing, HistoryFileError> {
        let Some(bytes) = self.0.read(BYTES_MAX)? else { return Ok(HistoryRing::default()) };
        let path = || self.0.path();
        let form = |source| HistoryFileError::Form { path: path(), source };
        let HistoryVersion { version } = serde_json::from_slice(&bytes).map_err(form)?;
        if version != VERSION {
            return Err(HistoryFileError::Version { path: path() });
        }
        let HistoryContents { tiers } = serde_json::from_slice(&bytes).map_err(form)?;
        let contents = |source| HistoryFileError::Contents { path: path(), source };
        HistoryRing::from_kept(tiers, now).map_err(contents)
    }

    pub fn write(&self, tiers: Vec<Vec<HistorySample>>) -> Result<(), HistoryFileError> {
        let version = HistoryVersion { version: VERSION };
        let contents = VersionedHistory { version, contents: HistoryContents { tiers } };
        let form = |source| HistoryFileError::Form { path: self.0.path(), source };
        Ok(self.0.replace(&serde_json::to_vec(&contents).map_err(form)?)?)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, path::Path};

    use super::*;
    use crate::telemetry::history::HistoryRequest;

    const NOW: u64 = 1_769_868_120;
    const HOUR: HistoryRequest = HistoryRequest { step_seconds: 10, steps: 360, rows_at: None };

    fn file(folder: &Path) -> HistoryFile {
        HistoryFile(StateFile::in_folder(folder, "edge-dmz.history"))
    }

    fn ring() -> HistoryRing {
        let mut ring = HistoryRing::default();
        for at in NOW - 7200..=NOW {
            ring.take_second(HistorySample { at, up: 7, wait_ms: Some(1.5), ..HistorySample::default() });
        }
        ring
    }

    #[test]
    fn the_last_hour_is_read_as_it_was_written_and_nothing_older() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        assert_eq!(file.read(NOW).unwrap().report(HOUR, NOW).samples, [], "there is no file yet");
        let ring = ring();
        file.write(ring.last_hour(NOW)).unwrap();
        let read = file.read(NOW + 30).unwrap();
        assert_eq!(read.report(HOUR, NOW), ring.report(HOUR, NOW));
        for step_seconds in [1, 10, 60] {
            let all = HistoryRequest { step_seconds, steps: 600, rows_at: None };
            let report = read.report(all, NOW);
            assert!(report.samples.len() > 10, "{step_seconds}");
            assert!(report.samples.iter().all(|sample| sample.at + 3660 >= NOW), "{step_seconds}");
        }
        let bytes = fs::metadata(file.0.path()).unwrap().len();
        assert!(bytes < BYTES_MAX / 4, "{bytes}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_damaged_foreign_or_future_history_file_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = file(folder.path());
        file.write(ring().last_hour(NOW)).unwrap();
        let whole = fs::read_to_string(file.0.path()).unwrap();
        let sample = |at: u64| format!(r#"{{"version":1,"tiers":[[{{"at":{at}}}],[],[]]}}"#);
        for (text, now, why) in [
            (whole[..whole.len() / 2].to_owned(), NOW, "line 1 column"),
            (String::new(), NOW, "line 1 column"),
            ("\0".repeat(4096), NOW, "line 1 column"),
            (whole.replace("\"version\":1", "\"version\":2"), NOW, "another version"),
            (r#"{"version":9,"samples":"packed"}"#.into(), NOW, "another version"),
            (r#"{"version":1,"tiers":[[],[]]}"#.into(), NOW, "damaged"),
            (whole.replace("\"at\":17698681", "\"at\":17698671"), NOW, "damaged"),
            (sample(u64::MAX), NOW, "future"),
            (whole.clone(), NOW - 7200, "future"),
            ("x".repeat(BYTES_MAX as usize + 1), NOW, "larger than 1 MiB"),
        ] {
            fs::write(file.0.path(), &text).unwrap();
            let error = file.read(now).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("edge-dmz.history"), "{why}: {error}");
        }
        fs::write(file.0.path(), whole).unwrap();
        fs::set_permissions(file.0.path(), fs::Permissions::from_mode(0o666)).unwrap();
        let error = file.read(NOW).unwrap_err().to_string();
        assert!(error.contains("others may write"), "{error}");
    }
}
