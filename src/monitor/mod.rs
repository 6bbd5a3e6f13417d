//! The port that monitors ask at, over HTTP: whether the gateway lives and is ready, and its numbers.
//!
//! It answers from the last picture alone, so that nothing that is asked here holds up the engine or a
//! session. Whoever comes gets one answer and is done within a deadline; of more than a few at once the
//! oldest gives way, since the newest is who may be served soonest. What the answers say is in [`answers`].

mod answers;
mod server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    net::{
        listen::{self, BindError, Listener, ListenerGuard},
        resolved_names::ResolvedNames,
    },
    profile::{BindPolicy, HostPort},
    tasks::Tasks,
    telemetry::{clock, notices::NoticeLog, snapshot::Snapshot},
};

/// An engine that turns does so several times a second.
const TURNS_WITHIN: Duration = Duration::from_secs(5);

/// What the port may have open at once, itself included.
pub const DESCRIPTORS_MAX: usize = server::CONNECTIONS_MAX + 1;

/// What the port answers from.
#[derive(Debug, Clone)]
pub struct MonitoredGateway {
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub last_turn: LastTurn,
}

/// When the engine turned last.
#[derive(Debug, Clone, Default)]
pub struct LastTurn(Arc<AtomicU64>);

impl LastTurn {
    pub fn is_now(&self) {
        self.0.store(clock::now_us(), Ordering::Relaxed);
    }

    /// For how long it has not turned, where that is longer than it takes one that is well.
    fn stalled_for(&self, now_us: u64) -> Option<Duration> {
        let passed = Duration::from_micros(now_us.saturating_sub(self.0.load(Ordering::Relaxed)));
        (passed > TURNS_WITHIN).then_some(passed)
    }
}

/// The port, bound; it closes when it is dropped.
#[derive(Debug)]
pub struct MonitorPort {
    pub at: HostPort,
    /// Until it is started.
    listener: Option<Arc<Listener>>,
    closer: ListenerGuard,
}

impl MonitorPort {
    pub fn bind(at: &HostPort, found: &ResolvedNames) -> Result<Self, BindError> {
        let listener = listen::bind(at, found.addresses(at), BindPolicy::Now)?;
        Ok(Self { at: at.clone(), closer: listener.closer(), listener: Some(listener) })
    }

    pub fn start(&mut self, watched: &MonitoredGateway, tasks: &Tasks, notices: &Arc<NoticeLog>) {
        let Some(listener) = self.listener.take() else { return };
        let run = server::run(listener, watched.clone(), tasks.clone(), notices.clone());
        tasks.spawn("monitor port", run);
    }

    /// Where it listens, with the real port.
    pub fn listening(&self) -> Vec<String> {
        self.closer.describe().into_iter().map(|at| format!("http://{at}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::LITTLE;

    #[test]
    fn an_engine_hangs_that_has_not_turned_for_so_long() {
        // It has turned when the clock began, and not since.
        let last_turn = LastTurn::default();
        let stalled_after = |passed: Duration| last_turn.stalled_for(passed.as_micros() as u64);
        assert_eq!(stalled_after(TURNS_WITHIN - LITTLE), None);
        assert_eq!(stalled_after(TURNS_WITHIN + LITTLE), Some(TURNS_WITHIN + LITTLE));
    }
}
