//! Why a session could not get a link. Each reason maps to one refusal, and so to one reply and one end of the
//! session.

use std::{fmt, sync::Arc, time::Duration};

use thiserror::Error;

use crate::{
    link::{dial_state::AT_MAXIMUM, grants::CarriesMismatch},
    proto::multiplex::hello::OfferState,
    telemetry::format,
};

/// Why a session could not get a link.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum TakeError {
    #[error("{} for a link already", waiting(*.0))]
    Full(usize),
    /// A client of a service of which fewer wait came to a full queue.
    #[error(
        "{0} other clients of this service wait for a link, and a client of another service needed the room"
    )]
    Displaced(usize),
    #[error("no link came within {}s", .0.as_secs_f32())]
    Late(Duration),
    /// All links that may stand are up, and none of them took the session.
    #[error("no link came within {}s: {AT_MAXIMUM}", .0.as_secs_f32())]
    AtMaximum(Duration),
    #[error(transparent)]
    CarriesMismatch(CarriesMismatch),
    #[error("the service takes no sessions: {0}")]
    ServiceClosed(ServiceClosed),
    #[error("the pool has closed")]
    Closed,
}

fn waiting(clients: usize) -> String {
    format!("{} {}", format::count(clients as u64, "client"), if clients == 1 { "waits" } else { "wait" })
}

/// The state of a service that no peer takes sessions for, as one of them has reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceClosed {
    pub state: OfferState,
    pub peer: Arc<str>,
}

impl fmt::Display for ServiceClosed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.peer, self.state.words())
    }
}
