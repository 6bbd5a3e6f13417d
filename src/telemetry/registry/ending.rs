//! Ends an open session from outside, with a reason. The first reason counts, whatever else stops the session a moment
//! later.

use std::{sync::OnceLock, time::Duration};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::telemetry::{
    end::{EndedBy, REVOKED, SessionEnd},
    snapshot::SessionPhase,
};

/// Ends one session. The first caller's reason counts.
#[derive(Debug, Default)]
pub struct SessionStopper {
    token: CancellationToken,
    /// Boxed, because most sessions are not stopped.
    why: OnceLock<Box<StopReason>>,
}

/// Why an open session is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A kill, a stop, or a profile without its service.
    Operator,
    /// It has reached its service's `session_limit`.
    SessionLimit(Duration),
    /// A probe that another gateway has sent and not ended in time.
    ProbeLate(Duration),
    /// The certificate of its client, or of its SOCKS5 link, was revoked.
    Revoked,
    /// The proof of its client's identity has expired.
    TokenExpired,
}

impl SessionStopper {
    /// A stopper that also stops when `all` does.
    pub fn within(all: &CancellationToken) -> Self {
        Self { token: all.child_token(), why: OnceLock::new() }
    }

    pub fn stop(&self, why: StopReason) {
        // The first reason counts.
        let _ = self.why.set(Box::new(why));
        self.token.cancel();
    }

    /// Returns when it is stopped. Not an async function, whose state would be larger.
    pub fn until_stopped(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    pub fn is_stopped(&self) -> bool {
        self.token.is_cancelled()
    }

    fn why(&self) -> StopReason {
        self.why.get().map_or(StopReason::Operator, |why| **why)
    }

    /// The end of a session that was stopped in this phase.
    pub fn end(&self, phase: SessionPhase) -> SessionEnd {
        let (ended_by, reason) = match self.why() {
            StopReason::Operator => (EndedBy::Operator, "cut by the operator".to_owned()),
            StopReason::Revoked => (EndedBy::Policy, REVOKED.to_owned()),
            StopReason::TokenExpired => (EndedBy::Time, "its token has expired".to_owned()),
            StopReason::ProbeLate(within) => {
                let within = humantime::format_duration(within);
                (EndedBy::Time, format!("a probe that was not over within {within}"))
            }
            StopReason::SessionLimit(limit) => {
                let limit = humantime::format_duration(limit);
                (EndedBy::Time, format!("the session reached `session_limit` ({limit})"))
            }
        };
        SessionEnd { ended_by, phase, reason }
    }
}
