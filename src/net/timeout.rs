//! The error for a timeout of ours: we gave up waiting, though neither side of the session has failed; and the
//! one time limit that all deliveries share.

use std::{io, time::Duration};

use thiserror::Error;

/// Once a session is over, a receiver that takes nothing for this long gets no more of what remains for it. The
/// whole delivery has no limit, since nothing new is sent.
pub const STALLED_MAX: Duration = Duration::from_secs(5);

/// Says what we waited for. It is the cause inside an [`io::Error`].
#[derive(Debug, Error)]
#[error("{0}")]
pub struct TimeoutError(pub String);

impl TimeoutError {
    pub fn is_cause_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|cause| cause.is::<Self>())
    }
}

impl From<TimeoutError> for io::Error {
    fn from(elapsed: TimeoutError) -> Self {
        Self::new(io::ErrorKind::TimedOut, elapsed)
    }
}
