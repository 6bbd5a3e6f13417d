//! Dial the backend.

use std::time::Duration;

use super::{ConnectFailure, Connected};
use crate::{
    link::leg::Leg,
    net::{
        dial::{self, DialError},
        echo::Echo,
        stream::Stream,
        tcp,
    },
    profile::BackendAddress,
    proto::Refusal,
    telemetry::end::Who,
};

/// A backend answers the connection in this time or not at all. With the way over a link it stays
/// below the 5 s after which a client must have been told.
pub const BACKEND_CONNECT: Duration = Duration::from_secs(4);

pub async fn connect(backend: &BackendAddress) -> Result<Connected, ConnectFailure> {
    let stream = match backend {
        BackendAddress::Echo => Stream::Echo(Echo::default()),
        BackendAddress::Tcp(at) => {
            let stream = dial::dial(at, BACKEND_CONNECT).await.map_err(|error| failure(&error))?;
            tcp::prepare_backend(&stream).map_err(|error| ConnectFailure {
                who: Who::Backend,
                refusal: Refusal::BackendUnreachable,
                reason: format!("backend {at}: {error}"),
            })?;
            Stream::Tcp(stream)
        }
    };
    Ok(Connected { leg: Leg::Stream(stream), peer: None, seat: None, first: Vec::new() })
}

fn failure(error: &DialError) -> ConnectFailure {
    let (who, refusal) = match error {
        DialError::Refused { .. } => (Who::Backend, Refusal::BackendRefused),
        DialError::Timeout { .. } => (Who::Backend, Refusal::BackendLate),
        DialError::Resolve { .. } | DialError::Unreachable { .. } => {
            (Who::Backend, Refusal::BackendUnreachable)
        }
        DialError::Local { .. } => (Who::Internal, Refusal::Unavailable),
    };
    ConnectFailure { who, refusal, reason: format!("backend {error}") }
}
