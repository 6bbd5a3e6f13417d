//! Why a probe did not come back, and what that means for an operator. The same failure is worded for each step in
//! `advice`.

use crate::{
    connect::{RefusedAt, SessionRefusal},
    proto::Refusal,
    telemetry::{
        end::{EndedBy, SessionEnd},
        link_cause::LinkCause,
    },
};

/// How the session of a probe has ended, and where it was refused if it was.
#[derive(Debug, Clone)]
pub struct ProbeEnd {
    pub end: SessionEnd,
    pub refused: Option<SessionRefusal>,
}

/// Why a probe did not come back.
#[derive(Debug)]
pub struct ProbeFailure {
    pub end: SessionEnd,
    pub cause: ProbeCause,
}

/// The cause of a failed probe: what must be changed before it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeCause {
    /// The TLS of this half's accept.
    ClientTls,
    /// The client port cannot be reached from this host.
    ClientPort,
    Backend,
    /// The other half does not know the service.
    ServiceUnknown,
    /// The other half does not allow this gateway to use it.
    GatewayNotAllowed,
    /// This half does not allow the other gateway to serve it.
    PeerNotAllowed,
    ServiceDrains,
    PeerDrains,
    SessionsFull,
    PeerFull,
    Link(LinkCause),
}

impl From<ProbeEnd> for ProbeFailure {
    fn from(ended: ProbeEnd) -> Self {
        Self { cause: (&ended).into(), end: ended.end }
    }
}

impl From<&ProbeEnd> for ProbeCause {
    fn from(ended: &ProbeEnd) -> Self {
        match ended.refused {
            Some(SessionRefusal { at: RefusedAt::Link(cause), .. }) => Self::Link(cause),
            Some(SessionRefusal { at: RefusedAt::Peer, refusal }) => Self::refused_by_peer(refusal),
            Some(SessionRefusal { at: RefusedAt::Here, refusal }) => Self::refused_here(refusal),
            None if ended.end.ended_by == EndedBy::Backend => Self::Backend,
            None => Self::Link(LinkCause::Other),
        }
    }
}

impl ProbeCause {
    fn refused_by_peer(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownService => Self::ServiceUnknown,
            Refusal::NotAllowed => Self::GatewayNotAllowed,
            Refusal::BackendRefused
            | Refusal::BackendLate
            | Refusal::BackendUnreachable
            | Refusal::ServiceDown => Self::Backend,
            Refusal::Full => Self::PeerFull,
            Refusal::Draining => Self::PeerDrains,
            Refusal::Unavailable | Refusal::OtherLink => Self::Link(LinkCause::Other),
        }
    }

    fn refused_here(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownService => Self::ServiceUnknown,
            Refusal::NotAllowed => Self::PeerNotAllowed,
            Refusal::BackendRefused
            | Refusal::BackendLate
            | Refusal::BackendUnreachable
            | Refusal::ServiceDown => Self::Backend,
            Refusal::Full => Self::SessionsFull,
            Refusal::Draining => Self::ServiceDrains,
            Refusal::Unavailable | Refusal::OtherLink => Self::Link(LinkCause::Other),
        }
    }
}
