//! A wait of ours that is over, though neither end of a session has failed.

use std::io;

use thiserror::Error;

/// What was waited for, in words; the cause of an [`io::Error`].
#[derive(Debug, Error)]
#[error("{0}")]
pub struct TimeoutError(pub String);

impl TimeoutError {
    pub fn is_cause_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|cause| cause.is::<Self>())
    }
}

impl From<TimeoutError> for io::Error {
    fn from(late: TimeoutError) -> Self {
        Self::new(io::ErrorKind::TimedOut, late)
    }
}
