//! Sessions in a row that failed at one backend.

use crate::telemetry::clock;

#[derive(Debug, Clone, Default)]
pub struct BackendFailures {
    pub sessions: u64,
    pub error: String,
    /// When the last one failed, in microseconds of the process.
    pub(super) at_us: u64,
}

impl BackendFailures {
    /// Notes one more; the backend was last reached at `reached_us`.
    pub(super) fn note_failure(&mut self, reached_us: u64, error: &str) {
        if self.at_us < reached_us {
            self.sessions = 0;
        }
        self.sessions += 1;
        (self.error, self.at_us) = (error.to_owned(), clock::now_us());
    }
}
