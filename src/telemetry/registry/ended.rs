//! The last sessions that have ended. Failures are kept apart: there are many more healthy ends, and they must
//! not displace what somebody will ask about.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use super::{OpenSession, SessionRegistry};
use crate::telemetry::{
    end::SessionEnd,
    failures::{FailedSession, FailureRow},
    snapshot::EndedRow,
};

/// How many are kept for snapshots, of each of the two kinds.
pub(super) const KEPT_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct EndedSession {
    pub session: Arc<OpenSession>,
    pub end: SessionEnd,
    pub at: Instant,
    pub seconds: f64,
}

/// Each list has the oldest first.
#[derive(Debug, Default)]
pub(super) struct EndedSessions {
    healthy: VecDeque<EndedSession>,
    failed: VecDeque<EndedSession>,
}

impl EndedSessions {
    pub fn add(&mut self, ended: EndedSession) {
        let queue = if ended.end.is_failure() { &mut self.failed } else { &mut self.healthy };
        if queue.len() >= KEPT_MAX {
            queue.pop_front();
        }
        queue.push_back(ended);
    }

    pub fn newest_first(&self) -> Vec<&EndedSession> {
        let mut all: Vec<_> = self.healthy.iter().chain(&self.failed).collect();
        all.sort_by_key(|ended| std::cmp::Reverse(ended.at));
        all
    }
}

impl SessionRegistry {
    /// Rows of ended sessions, newest first.
    pub fn ended(&self) -> Vec<EndedRow> {
        self.lock().ended.newest_first().into_iter().map(EndedSession::row).collect()
    }

    /// The failed ones, grouped by cause, and how many are no longer in any group.
    pub fn failures(&self) -> (Vec<FailureRow>, u64) {
        let state = self.lock();
        (state.failures.rows(Instant::now()), state.failures.left_out())
    }
}

impl OpenSession {
    pub(super) fn as_failed<'a>(
        &'a self,
        end: &'a SessionEnd,
        client: &'a str,
        peer: Option<&'a str>,
    ) -> FailedSession<'a> {
        let (service, id) = (&self.service, &*self.id);
        FailedSession { half: self.half, service, end, id, client, peer }
    }
}
