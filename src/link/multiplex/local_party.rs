//! Whose stream a link's task has: that of a client or that of a backend, and the cause that the other gateway gets when
//! it fails. The end of the session in words is made where it is served, in `gateway::session_end`.

use std::io;

use crate::{
    net::{
        exhausted::ExhaustedResource, pipe::FailureOrigin, stream::NetStream, timeout::TimeoutError,
        ws::NotUtf8,
    },
    proto::multiplex::frame::CutCause,
};

/// Who is behind the local stream of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalParty {
    Client,
    Backend,
}

impl LocalParty {
    /// The cause to report to the other gateway when its stream has failed.
    pub fn cause_of(self, stream: &NetStream, error: &io::Error) -> CutCause {
        match self {
            Self::Client => cause_of_client(stream, error),
            Self::Backend if ExhaustedResource::of(error).is_some() => CutCause::Other,
            Self::Backend => CutCause::Backend,
        }
    }
}

/// A client's stream may be a pipe from its requests, or a WebSocket: what failed there is not always the client.
fn cause_of_client(stream: &NetStream, error: &io::Error) -> CutCause {
    match stream.pipe().and_then(|pipe| pipe.failure()).map(|failure| failure.party) {
        Some(FailureOrigin::Backend) => CutCause::Backend,
        Some(FailureOrigin::Timeout) => CutCause::Time,
        None if ExhaustedResource::of(error).is_some() => CutCause::Other,
        None if TimeoutError::is_cause_of(error) => CutCause::Time,
        None if NotUtf8::is_cause_of(error) => CutCause::Backend,
        None => CutCause::Client,
    }
}
