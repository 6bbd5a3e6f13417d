//! What can go wrong with a link of our own, as an error of the leg that a session sees.

use std::io;

use thiserror::Error;

use crate::proto::{
    Refusal,
    link::{Violation, frame::Cause},
};

/// Why a link's session, or the link, ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Trouble {
    /// No byte reached a backend.
    #[error("{}", .0.words())]
    Refused(Refusal),
    /// The link was cut for an earlier session before this one was looked at.
    #[error("the link was cut before it looked at this session")]
    Unseen,
    #[error("{}", told(*.0))]
    Reset(Cause),
    #[error("it broke the protocol: {0}")]
    Broken(#[from] Violation),
    #[error("it does not answer any more")]
    Silent,
    #[error("it was cut")]
    Cut,
}

fn told(cause: Cause) -> &'static str {
    match cause {
        Cause::Client => "the client failed",
        Cause::Backend => "the backend failed",
        Cause::Time => "a time limit of the other gateway",
        Cause::Operator => "cut by the operator of the other gateway",
        Cause::Other => "the other gateway had to give it up",
    }
}

impl Trouble {
    /// Whether the other gateway has said it, and it is not concluded here.
    pub fn is_told(&self) -> bool {
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

impl From<Trouble> for io::Error {
    fn from(trouble: Trouble) -> Self {
        Self::other(trouble)
    }
}
