//! What the engine tells its service manager: that it is ready, reloads, stops, how it is, and that it turns.
//!
//! All of it is told by the engine itself between two of its turns, so that one that hangs is silent, and the
//! manager's watchdog ends it.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::Engine;
use crate::{
    profile::ReadyWhen,
    systemd::notify::{Notification, NotifySocket},
    telemetry::snapshot::{GatewayPhase, Snapshot},
};

/// A status line is told so often at most.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// A service manager, and what it knows.
#[derive(Debug)]
pub struct ServiceManager {
    socket: NotifySocket,
    told: ManagerKnows,
    status: String,
    status_at: Option<Instant>,
    fed_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ManagerKnows {
    Nothing,
    Ready,
    Reloading,
    Stopping,
}

impl Engine {
    /// Tells a service manager from now on.
    pub fn with_service_manager(self, socket: Option<NotifySocket>) -> Self {
        let manager = socket.map(|socket| ServiceManager {
            socket,
            told: ManagerKnows::Nothing,
            status: String::new(),
            status_at: None,
            fed_at: None,
        });
        Self { manager, ..self }
    }

    /// To be called at each turn.
    pub(super) fn tell_manager(&mut self) {
        let Some(mut manager) = self.manager.take() else { return };
        let snapshot = self.feed.snapshots.borrow().clone();
        let mut told = Vec::new();
        let now = Instant::now();
        let before = manager.told;
        let next = self.next_told(before, &snapshot);
        if next != before {
            told.push(match next {
                ManagerKnows::Nothing | ManagerKnows::Ready => Notification::Ready,
                ManagerKnows::Reloading => Notification::Reloading { at: monotonic() },
                ManagerKnows::Stopping => Notification::Stopping,
            });
            manager.told = next;
        }
        let status = status(&snapshot);
        let is_due = manager.status_at.is_none_or(|at| now - at >= STATUS_EVERY) || !told.is_empty();
        if is_due && status != manager.status {
            told.push(Notification::Status(status.clone()));
            (manager.status, manager.status_at) = (status, Some(now));
        }
        // Twice within its time, as sd_watchdog_enabled(3) has it.
        if let Some(within) = manager.socket.watchdog
            && manager.fed_at.is_none_or(|at| now - at >= within / 2 - within / 8)
        {
            told.push(Notification::Watchdog);
            manager.fed_at = Some(now);
        }
        if !told.is_empty() && !manager.socket.tell(&told) {
            // A manager that is busy hears it at the next turn.
            (manager.told, manager.fed_at) = (before, None);
            manager.status.clear();
        }
        self.manager = Some(manager);
    }

    fn next_told(&self, told: ManagerKnows, snapshot: &Snapshot) -> ManagerKnows {
        if self.is_stopping() {
            return ManagerKnows::Stopping;
        }
        match told {
            ManagerKnows::Nothing => {
                let is_linked = snapshot.readiness.as_ref().is_some_and(|readiness| readiness.ready);
                match self.profile.ready {
                    ReadyWhen::Links if !is_linked => ManagerKnows::Nothing,
                    ReadyWhen::Ports | ReadyWhen::Links => ManagerKnows::Ready,
                }
            }
            ManagerKnows::Ready | ManagerKnows::Reloading => match self.is_switching() {
                true => ManagerKnows::Reloading,
                false => ManagerKnows::Ready,
            },
            ManagerKnows::Stopping => ManagerKnows::Stopping,
        }
    }
}

/// `ready; 8 of 8 links ready, 3 sessions open`.
fn status(snapshot: &Snapshot) -> String {
    let links: (usize, usize) = snapshot.pools.iter().fold((0, 0), |(ready, wanted), pool| {
        (ready.saturating_add(pool.ready), wanted.saturating_add(pool.target))
    });
    let word = match (&snapshot.readiness, snapshot.phase) {
        (_, GatewayPhase::Draining) => "draining",
        (Some(readiness), _) if readiness.ready => "ready",
        (_, _) => "not ready",
    };
    let links = match snapshot.pools.is_empty() {
        true => String::new(),
        false => format!("{} of {} links ready, ", links.0, links.1),
    };
    format!("{word}; {links}{} sessions open", snapshot.totals.sessions_open)
}

fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}
