//! The file that keeps an internal half locked across a restart.

use std::path::PathBuf;

use thiserror::Error;

use super::state_file::{StateFile, StateFileError};
use crate::{profile::Profile, telemetry::snapshot::LockdownRow};

/// Larger than any list that operators would lock by hand.
const BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Error)]
pub enum LockdownFileError {
    #[error("there is no state folder; set STATE_DIRECTORY, XDG_STATE_HOME or HOME")]
    NoFolder,
    #[error(transparent)]
    File(#[from] StateFileError),
    #[error("{}: {source}", path.display())]
    Form { path: PathBuf, source: serde_json::Error },
}

/// The file with the locks of one profile's internal half.
#[derive(Debug, Clone)]
pub struct LockdownFile(StateFile);

impl LockdownFile {
    /// None where there is no internal half, or no state folder.
    pub fn of_profile(profile: &Profile) -> Option<Self> {
        profile.internal.as_ref()?;
        StateFile::named(format!("{}-internal.lockdown", profile.name)).map(Self)
    }

    pub fn state_file(&self) -> &StateFile {
        &self.0
    }

    /// The stored locks; empty if there is no file.
    pub fn read(&self) -> Result<Vec<LockdownRow>, LockdownFileError> {
        let Some(bytes) = self.0.read(BYTES_MAX)? else { return Ok(Vec::new()) };
        let form = |source| LockdownFileError::Form { path: self.0.path(), source };
        serde_json::from_slice(&bytes).map_err(form)
    }

    /// Stores these locks: either all of them, or the previous ones stay.
    pub fn write(&self, rows: &[LockdownRow]) -> Result<(), LockdownFileError> {
        if rows.is_empty() {
            return Ok(self.0.remove()?);
        }
        let form = |source| LockdownFileError::Form { path: self.0.path(), source };
        let mut text = serde_json::to_vec_pretty(rows).map_err(form)?;
        text.push(b'\n');
        Ok(self.0.replace(&text)?)
    }
}
