//! The snapshot rows of a session, while it is open and after it has ended. They are made only while somebody watches.

use std::{sync::atomic::Ordering, time::Duration};

use super::{OpenSession, client_name, ended::EndedSession};
use crate::telemetry::{
    clock,
    snapshot::{EndedRow, SessionPhase, SessionRow},
};

impl OpenSession {
    pub(super) fn row(&self) -> SessionRow {
        let age_seconds = self.age_seconds();
        let moved_ms = Some(self.counters.moved_ms.load(Ordering::Relaxed)).filter(|&at| at > 0);
        let still = |at| clock::coarse_ms().saturating_sub(at) as f64 / 1000.0;
        let last_byte_seconds = moved_ms.filter(|_| self.counters.is_carried()).map(still);
        SessionRow {
            gateway: None,
            id: self.id.to_string(),
            half: self.half,
            service: self.service.to_string(),
            client: client_name(self.client),
            peer: self.peer().map(|peer| peer.to_string()),
            phase: self.counters.phase(),
            age_seconds,
            idle_seconds: last_byte_seconds.unwrap_or(age_seconds),
            last_byte_seconds,
            bytes_up: self.counters.up(),
            bytes_down: self.counters.down(),
            rate_up: self.rates[0].load(Ordering::Relaxed),
            rate_down: self.rates[1].load(Ordering::Relaxed),
            waited_ms: self.counters.between(SessionPhase::Waiting, SessionPhase::Connecting).map(ms),
            connected_ms: self.counters.between(SessionPhase::Connecting, SessionPhase::Relaying).map(ms),
            via: self.counters.via(),
            user: self.user().map(|user| user.to_string()),
            requests: self.counters.requests(),
            backend: self.counters.backend(),
        }
    }
}

impl EndedSession {
    pub(super) fn row(&self) -> EndedRow {
        EndedRow {
            gateway: None,
            id: self.session.id.to_string(),
            half: self.session.half,
            service: self.session.service.to_string(),
            client: client_name(self.session.client),
            peer: self.session.peer().map(|peer| peer.to_string()),
            end: self.end.code(),
            reason: self.end.reason.clone(),
            seconds: self.seconds,
            ago_seconds: self.at.elapsed().as_secs_f64(),
            bytes_up: self.session.counters.up(),
            bytes_down: self.session.counters.down(),
            user: self.session.user().map(|user| user.to_string()),
            requests: self.session.counters.requests(),
            backend: self.session.counters.backend(),
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}
