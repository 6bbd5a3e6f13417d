//! Reopens the files of the log and of the audit, because whoever rotates them has renamed them.
//!
//! The audit reports to the log what it cannot write, so neither of the two can do this for both.

use super::{
    audit,
    log::{self, LogEvent},
};

pub fn reopen_files() {
    let files = log::reopen_all() + audit::reopen_all();
    tracing::info!(event = %LogEvent::LogReopened, files, "the files of the log were reopened");
}
