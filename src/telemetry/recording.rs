//! Whether this process is recording its snapshots, and whether the recording is complete: for the screen's
//! header and for `status`.

use std::sync::{Mutex, PoisonError};

use super::snapshot::RecordingRow;

/// A process has one recording: `--record` names one file.
static STATE: Mutex<Option<RecordingRow>> = Mutex::new(None);

/// The current state; `None` if nothing is recorded.
pub fn state() -> Option<RecordingRow> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Sets the recorder's state.
pub fn set_state(row: Option<RecordingRow>) {
    *STATE.lock().unwrap_or_else(PoisonError::into_inner) = row;
}
