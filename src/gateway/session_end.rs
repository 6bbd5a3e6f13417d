//! Turns the outcome of a session into its end: who ended it, and why in words. Both halves report the same end,
//! so a cut crosses the link with its cause ([`cut_cause`]).

use std::{io, time::Duration};

use super::relay::{RelayOutcome, WhichSide};
use crate::{
    link::multiplex::{handle::SessionFate, timing::OPEN_TIMEOUT},
    net::{
        exhausted::ExhaustedResource,
        pipe::{FailureOrigin, PipeFailure},
        stream::NetStream,
        timeout::TimeoutError,
        ws::NotUtf8,
    },
    proto::multiplex::frame::CutCause,
    telemetry::{
        end::{EndedBy, REVOKED, SessionEnd},
        snapshot::SessionPhase,
    },
    tls::{error::TlsError, party::TlsParty},
};

/// The reason when a client leaves before its session is connected.
pub(super) const CLIENT_LEFT: &str = "the client left";

/// The end of a session between two streams; `socks_link` is the side that is a SOCKS5 link, if one is.
pub(super) fn report_end(
    relayed: RelayOutcome,
    socks_link: Option<WhichSide>,
    phase: SessionPhase,
    idle: Option<Duration>,
) -> SessionEnd {
    let (ended_by, reason) = match relayed {
        RelayOutcome::Clean => return SessionEnd::clean(),
        RelayOutcome::Idle => idle_end(idle),
        RelayOutcome::Failed(side, error) => stream_failure(side, socks_link, &error),
    };
    SessionEnd { ended_by, phase, reason }
}

/// The end of a session whose other side is on a link; `local` explains a failure of its own stream.
pub(super) fn report_fate(
    fate: SessionFate,
    local: WhichSide,
    phase: SessionPhase,
    idle: Option<Duration>,
) -> SessionEnd {
    let (ended_by, reason) = match fate {
        SessionFate::Clean => return SessionEnd::clean(),
        SessionFate::StreamFailed(error) => stream_failure(local, None, &error),
        SessionFate::Idle => idle_end(idle),
        SessionFate::Unanswered => (EndedBy::Time, unanswered_reason()),
        SessionFate::Reset(cause) => (ended_by(cause), describe_cause(cause).into()),
        SessionFate::LinkLost(loss) => (EndedBy::Peer, format!("the link failed: {loss}")),
        // Both are tried elsewhere, and do not end a session.
        SessionFate::Refused(refusal) => (EndedBy::Peer, refusal.words().into()),
        SessionFate::Unsent => (EndedBy::Peer, "the link was lost before anything was sent".into()),
    };
    SessionEnd { ended_by, phase, reason }
}

/// Reports a session that ended on its link before its own stream was attached there.
pub(super) fn report_unattached(
    fate: SessionFate,
    local: WhichSide,
    phase: SessionPhase,
    idle: Option<Duration>,
) -> SessionEnd {
    let (ended_by, reason) = match fate {
        SessionFate::Reset(CutCause::Client) => (EndedBy::Client, CLIENT_LEFT),
        fate @ SessionFate::Reset(_) => return report_fate(fate, local, phase, idle),
        SessionFate::Clean
        | SessionFate::StreamFailed(_)
        | SessionFate::Refused(_)
        | SessionFate::Unsent
        | SessionFate::LinkLost(_)
        | SessionFate::Idle
        | SessionFate::Unanswered => (EndedBy::Peer, "the link was lost"),
    };
    SessionEnd { ended_by, phase, reason: reason.into() }
}

fn idle_end(idle: Option<Duration>) -> (EndedBy, String) {
    let limit = idle.unwrap_or_default();
    (EndedBy::Time, format!("no byte either way for {}", humantime::format_duration(limit)))
}

fn stream_failure(side: WhichSide, socks_link: Option<WhichSide>, error: &io::Error) -> (EndedBy, String) {
    match side {
        _ if ExhaustedResource::of(error).is_some() => (EndedBy::Limit, ExhaustedResource::describe(error)),
        WhichSide::Downstream if TimeoutError::is_cause_of(error) => (EndedBy::Time, error.to_string()),
        WhichSide::Downstream if NotUtf8::is_cause_of(error) => (EndedBy::Backend, error.to_string()),
        WhichSide::Downstream if socks_link != Some(side) => {
            (EndedBy::Client, format!("the client failed: {error}"))
        }
        // The DMZ half passes a client's cut on as a reset of a SOCKS5 link.
        WhichSide::Downstream if is_cut(error) => {
            (EndedBy::Client, format!("the client or its link was cut: {error}"))
        }
        WhichSide::Upstream if socks_link != Some(side) => {
            let alert = TlsError::alert(error, TlsParty::Backend);
            let reason = alert.map_or_else(|| error.to_string(), |alert| alert.to_string());
            (EndedBy::Backend, format!("the backend failed: {reason}"))
        }
        WhichSide::Upstream if is_cut(error) => {
            (EndedBy::Peer, format!("the link was cut, by the internal gateway or on the way: {error}"))
        }
        WhichSide::Downstream | WhichSide::Upstream => (EndedBy::Peer, format!("the link failed: {error}")),
    }
}

pub(super) fn unanswered_reason() -> String {
    format!("the other gateway did not answer within {}s", OPEN_TIMEOUT.as_secs())
}

fn describe_cause(cause: CutCause) -> &'static str {
    match cause {
        CutCause::Client => "the client failed",
        CutCause::Backend => "the backend failed",
        CutCause::Time => "a timeout at the other gateway; see its log",
        CutCause::Operator => "cut by the operator of the other gateway",
        CutCause::Other => "the other gateway ended it; its log has the reason under this id",
        CutCause::Policy => REVOKED,
    }
}

/// The party that cut a session, as the other gateway reports it.
fn ended_by(cause: CutCause) -> EndedBy {
    match cause {
        CutCause::Client => EndedBy::Client,
        CutCause::Backend => EndedBy::Backend,
        CutCause::Time => EndedBy::Time,
        CutCause::Operator => EndedBy::Operator,
        CutCause::Other => EndedBy::Peer,
        CutCause::Policy => EndedBy::Policy,
    }
}

fn is_cut(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | UnexpectedEof | BrokenPipe)
}

/// The cause that is sent to the other gateway for such an end.
pub(super) fn cut_cause(ended_by: EndedBy) -> CutCause {
    match ended_by {
        EndedBy::Client => CutCause::Client,
        EndedBy::Backend => CutCause::Backend,
        EndedBy::Time => CutCause::Time,
        EndedBy::Operator => CutCause::Operator,
        EndedBy::Policy => CutCause::Policy,
        EndedBy::Nobody | EndedBy::Peer | EndedBy::Limit | EndedBy::ClientLimit | EndedBy::Internal => {
            CutCause::Other
        }
    }
}

/// The failure of the protocol at the other end of a pipe; its bytes may have ended well.
pub(super) fn pipe_failure(stream: &NetStream) -> Option<SessionEnd> {
    let PipeFailure { party, reason } = stream.pipe()?.failure()?;
    let ended_by = match party {
        FailureOrigin::Backend => EndedBy::Backend,
        FailureOrigin::Timeout => EndedBy::Time,
    };
    Some(SessionEnd { ended_by, phase: SessionPhase::Relaying, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::multiplex::handle::LinkLoss;

    #[test]
    fn a_client_that_leaves_while_its_backend_is_connected_is_no_lost_link() {
        for (fate, code, reason) in [
            (SessionFate::Reset(CutCause::Client), "CC", CLIENT_LEFT),
            (SessionFate::Reset(CutCause::Operator), "OC", "cut by the operator of the other gateway"),
            (SessionFate::Reset(CutCause::Time), "TC", "a timeout at the other gateway; see its log"),
            (SessionFate::LinkLost(LinkLoss::Cut), "PC", "the link was lost"),
        ] {
            let end = report_unattached(fate, WhichSide::Upstream, SessionPhase::Connecting, None);
            assert_eq!((end.code(), end.reason.as_str()), (code.into(), reason));
        }
    }
}
