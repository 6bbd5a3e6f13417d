//! Turns the outcome of a relay into the end of its session: who ended it, and why in words.

use std::{io, time::Duration};

use super::relay::{ANSWER, LinkSides, RelayOutcome, WhichSide};
use crate::{
    link::{error::LinkError, session_side::SessionSide},
    net::{
        exhausted::ExhaustedResource,
        pipe::{FailedParty, PipeFailure},
        stream::NetStream,
        timeout::TimeoutError,
        ws::NotUtf8,
    },
    proto::link::frame::ResetCause,
    telemetry::{
        end::{EndedBy, SessionEnd},
        snapshot::SessionPhase,
    },
    tls::{error::TlsError, party::TlsParty},
};

pub(super) fn report_end(
    relayed: RelayOutcome,
    links: LinkSides,
    is_framed: bool,
    phase: SessionPhase,
    idle: Option<Duration>,
) -> SessionEnd {
    let (who, reason) = match relayed {
        RelayOutcome::Clean => return SessionEnd::clean(),
        RelayOutcome::Idle => {
            let limit = idle.unwrap_or_default();
            (EndedBy::Time, format!("no byte either way for {}", humantime::format_duration(limit)))
        }
        RelayOutcome::Unanswered => (EndedBy::Time, unanswered_reason()),
        RelayOutcome::Failed(side, error) => match (side, LinkError::of(&error)) {
            (_, Some(LinkError::Reset(cause))) => (ended_by(*cause), error.to_string()),
            (_, Some(_)) => (EndedBy::Peer, format!("the link failed: {error}")),
            (_, None) if ExhaustedResource::of(&error).is_some() => {
                (EndedBy::Limit, ExhaustedResource::describe(&error))
            }
            (WhichSide::Downstream, None) if TimeoutError::is_cause_of(&error) => {
                (EndedBy::Time, error.to_string())
            }
            (WhichSide::Downstream, None) if NotUtf8::is_cause_of(&error) => {
                (EndedBy::Backend, error.to_string())
            }
            (WhichSide::Downstream, None) if !links.downstream => {
                (EndedBy::Client, format!("the client failed: {error}"))
            }
            // The DMZ half passes a client's cut on as a reset of a SOCKS5 link.
            (WhichSide::Downstream, None) if is_cut(&error) && !is_framed => {
                (EndedBy::Client, format!("the client or its link was cut: {error}"))
            }
            (WhichSide::Upstream, None) if !links.upstream => {
                let alert = TlsError::alert(&error, TlsParty::Backend);
                let reason = alert.map_or_else(|| error.to_string(), |alert| alert.to_string());
                (EndedBy::Backend, format!("the backend failed: {reason}"))
            }
            (WhichSide::Upstream, None) if is_cut(&error) => {
                (EndedBy::Peer, format!("the inside or the link was cut: {error}"))
            }
            (WhichSide::Downstream | WhichSide::Upstream, None) => {
                (EndedBy::Peer, format!("the link failed: {error}"))
            }
        },
    };
    SessionEnd { who, phase, reason }
}

pub(super) fn unanswered_reason() -> String {
    format!("the other gateway did not answer within {}s", ANSWER.as_secs())
}

/// Who cut a session, as the other gateway reports it.
fn ended_by(cause: ResetCause) -> EndedBy {
    match cause {
        ResetCause::Client => EndedBy::Client,
        ResetCause::Backend => EndedBy::Backend,
        ResetCause::Time => EndedBy::Time,
        ResetCause::Operator => EndedBy::Operator,
        ResetCause::Other => EndedBy::Peer,
    }
}

fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | UnexpectedEof | BrokenPipe)
}

pub(super) fn reset_cause(who: EndedBy) -> ResetCause {
    match who {
        EndedBy::Client => ResetCause::Client,
        EndedBy::Backend => ResetCause::Backend,
        EndedBy::Time => ResetCause::Time,
        EndedBy::Operator => ResetCause::Operator,
        EndedBy::Nobody | EndedBy::Peer | EndedBy::Limit | EndedBy::Policy | EndedBy::Internal => {
            ResetCause::Other
        }
    }
}

/// What has failed in what is spoken at the other end of a pipe; its bytes may have ended well.
pub(super) fn pipe_failure(side: &SessionSide) -> Option<SessionEnd> {
    let SessionSide::Stream(NetStream::Pipe(pipe)) = side else { return None };
    let PipeFailure { of, reason } = pipe.failure()?;
    let who = match of {
        FailedParty::Backend => EndedBy::Backend,
        FailedParty::Time => EndedBy::Time,
    };
    Some(SessionEnd { who, phase: SessionPhase::Relaying, reason })
}
