//! The port for monitors, over HTTP: whether the gateway is alive and ready, and its numbers.
//!
//! It answers only from the last snapshot, and the numbers are written off the threads that carry bytes, so that
//! no request delays the engine or a session. Each client gets one answer within a deadline. If there are more than
//! a few at once, the oldest is closed, because the newest can be served soonest. The contents of answers are in
//! [`answers`].
//!
//! The files here use each other: answers are made of the state that is defined here, and the server gives them.

mod answers;
mod rendered_metrics;
mod server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use self::rendered_metrics::RenderedMetrics;
use crate::{
    net::{
        listen::{self, BindError, Listener, ListenerGuard},
        resolved_names::ResolvedNames,
    },
    profile::{BindPolicy, HostPort},
    tasks::Tasks,
    telemetry::{clock, notices::NoticeLog, snapshot::Snapshot},
};

/// A running engine takes a turn several times a second.
const ENGINE_TURN_MAX: Duration = Duration::from_secs(5);

/// The most descriptors of the port, including itself.
pub const DESCRIPTORS_MAX: usize = server::CONNECTIONS_MAX + 1;

/// The gateway whose state the port reports.
#[derive(Debug, Clone)]
pub struct MonitoredGateway {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    last_turn: LastTurn,
    metrics: RenderedMetrics,
}

impl MonitoredGateway {
    pub fn new(snapshots: watch::Receiver<Arc<Snapshot>>, last_turn: LastTurn) -> Self {
        Self { snapshots, last_turn, metrics: RenderedMetrics::default() }
    }
}

/// When the engine last took a turn.
#[derive(Debug, Clone, Default)]
pub struct LastTurn(Arc<AtomicU64>);

impl LastTurn {
    pub fn is_now(&self) {
        self.0.store(clock::now_us(), Ordering::Relaxed);
    }

    /// How long the engine has not taken a turn, if that is longer than a healthy one needs.
    fn stalled_for(&self, now_us: u64) -> Option<Duration> {
        let passed = Duration::from_micros(now_us.saturating_sub(self.0.load(Ordering::Relaxed)));
        (passed > ENGINE_TURN_MAX).then_some(passed)
    }
}

/// The bound port; it closes when it is dropped.
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
    fn an_engine_without_a_turn_for_too_long_hangs() {
        // Its last turn was when the clock began.
        let last_turn = LastTurn::default();
        let stalled_after = |passed: Duration| last_turn.stalled_for(passed.as_micros() as u64);
        assert_eq!(stalled_after(ENGINE_TURN_MAX - LITTLE), None);
        assert_eq!(stalled_after(ENGINE_TURN_MAX + LITTLE), Some(ENGINE_TURN_MAX + LITTLE));
    }
}
