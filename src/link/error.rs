//! What can go wrong with a link of our own, as the error that its session sees.

use std::io;

use thiserror::Error;

use crate::proto::{
    Refusal,
    link::{ProtocolViolation, frame::ResetCause},
};

/// Why a link's session, or the link, ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkError {
    /// No byte reached a backend.
    #[error("{}", .0.words())]
    Refused(Refusal),
    /// The link was cut for an earlier session before this one was looked at.
    #[error("the link was cut before it looked at this session")]
    Unseen,
    #[error("{}", describe_cause(*.0))]
    Reset(ResetCause),
    #[error("it broke the protocol: {0}")]
    Broken(#[from] ProtocolViolation),
    #[error("it does not answer any more")]
    Silent,
    #[error("it was cut")]
    Cut,
}

fn describe_cause(cause: ResetCause) -> &'static str {
    match cause {
        ResetCause::Client => "the client failed",
        ResetCause::Backend => "the backend failed",
        ResetCause::Time => "a time limit of the other gateway",
        ResetCause::Operator => "cut by the operator of the other gateway",
        ResetCause::Other => "the other gateway had to give it up",
    }
}

impl LinkError {
    /// Whether the other gateway has said it, and it is not concluded here.
    pub fn is_reported_by_peer(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unseen | Self::Reset(_) => true,
            Self::Broken(_) | Self::Silent | Self::Cut => false,
        }
    }

    /// What an error of a leg's says of a link, if it came from one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}

impl From<LinkError> for io::Error {
    fn from(trouble: LinkError) -> Self {
        Self::other(trouble)
    }
}
