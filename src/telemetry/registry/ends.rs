//! How many sessions have ended in which way, for monitors. They are totals since the start; the recent ones with
//! their reasons are in `ended`.

use std::collections::HashMap;

use super::SessionRegistry;
use crate::{
    profile::{Half, ServiceName},
    telemetry::snapshot::SessionPhase,
};

/// How many sessions of one service have ended in which way, by the two letters, and how many clients wait for
/// a link.
#[derive(Debug, Clone, Default)]
pub struct ServiceEnds {
    pub ended: Vec<(String, u64)>,
    pub waiting: u64,
}

impl SessionRegistry {
    /// The ends of each service so far, and how many clients wait for a link.
    pub fn ends(&self) -> HashMap<(Half, ServiceName), ServiceEnds> {
        let state = self.lock();
        let ended = state.ends.iter().map(|(key, ended)| {
            (key.clone(), ServiceEnds { ended: ended.clone().into_iter().collect(), waiting: 0 })
        });
        let mut ends: HashMap<_, _> = ended.collect();
        // Asked several times a second: sessions are gone through only while there is one that could wait.
        if state.totals.values().all(|totals| totals.read().sessions_waiting == 0) {
            return ends;
        }
        for (_, session) in
            state.clients().filter(|(_, session)| session.counters.phase() == SessionPhase::Waiting)
        {
            ends.entry((session.half, session.service.clone())).or_default().waiting += 1;
        }
        ends
    }
}
