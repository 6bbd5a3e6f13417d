//! The error for a timeout of ours: we gave up waiting, though neither side of the session has failed; and the
//! one time limit that all deliveries share.
//!
//! It travels inside an [`io::Error`], because the traits for streams know no other. Whoever judges the end of a session
//! finds it again by its type, never by its text.

use std::{io, time::Duration};

use thiserror::Error;

/// Once a session is over, a receiver that takes nothing for this long gets no more of what remains for it. The
/// whole delivery has no limit, since nothing new is sent.
pub const STALLED_MAX: Duration = Duration::from_secs(5);

/// What did not happen in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TimeoutError {
    #[error("its token has expired")]
    TokenExpired,
    #[error("a request, or the answer to it, did not come in time")]
    Exchange,
    #[error("the client closed; for {seconds}s the backend neither ended nor got a byte to it")]
    EndOfBackend { seconds: u64 },
}

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
