//! What the engine reports to its service manager: that it is ready, reloads or stops, how it is, and that it
//! is running.
//!
//! The engine itself reports all of it between two of its turns. An engine that hangs is therefore silent, and
//! the manager's watchdog ends it.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::Engine;
use crate::{
    profile::ReadyWhen,
    systemd::notify::{Notification, NotifySocket},
    telemetry::{
        format,
        snapshot::{GatewayPhase, Snapshot},
    },
};

/// A status line is sent at most this often.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Until the gateway is ready, and while it drains, it asks for this much more time, this often.
const TIMEOUT_EXTENSION_PERIOD: Duration = Duration::from_secs(30);
const TIMEOUT_EXTENSION_INTERVAL: Duration = Duration::from_secs(10);

/// A service manager, and what was sent to it.
#[derive(Debug)]
pub struct ServiceManager {
    socket: NotifySocket,
    reported: ReportedStatus,
    status: String,
    status_at: Option<Instant>,
    fed_at: Option<Instant>,
    extended_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReportedStatus {
    Nothing,
    Ready,
    Reloading,
    Stopping,
}

impl Engine {
    /// Reports to a service manager from now on.
    pub fn with_service_manager(self, socket: Option<NotifySocket>) -> Self {
        let manager = socket.map(ServiceManager::new);
        Self { manager, ..self }
    }

    /// Must be called at each turn.
    pub(super) fn notify_manager(&mut self) {
        let Some(mut manager) = self.manager.take() else { return };
        let snapshot = self.feed.snapshots.borrow().clone();
        let next = self.next_report(manager.reported, &snapshot);
        manager.notify(next, status(&snapshot), Instant::now());
        self.manager = Some(manager);
    }

    fn next_report(&self, reported: ReportedStatus, snapshot: &Snapshot) -> ReportedStatus {
        if self.is_stopping() {
            return ReportedStatus::Stopping;
        }
        match reported {
            ReportedStatus::Nothing => {
                let is_linked = snapshot.readiness.as_ref().is_some_and(|readiness| readiness.ready);
                match self.profile.ready {
                    ReadyWhen::Links if !is_linked => ReportedStatus::Nothing,
                    ReadyWhen::Ports | ReadyWhen::Links => ReportedStatus::Ready,
                }
            }
            ReportedStatus::Ready | ReportedStatus::Reloading => match self.is_switching() {
                true => ReportedStatus::Reloading,
                false => ReportedStatus::Ready,
            },
            ReportedStatus::Stopping => ReportedStatus::Stopping,
        }
    }
}

impl ServiceManager {
    fn new(socket: NotifySocket) -> Self {
        let reported = ReportedStatus::Nothing;
        Self { socket, reported, status: String::new(), status_at: None, fed_at: None, extended_at: None }
    }

    /// Sends what the manager does not know yet.
    fn notify(&mut self, next: ReportedStatus, status: String, now: Instant) {
        let before = self.reported;
        let notifications = self.notifications(next, status, now);
        if !notifications.is_empty() && !self.socket.notify(&notifications) {
            // A busy manager is notified at the next turn.
            (self.reported, self.fed_at, self.extended_at) = (before, None, None);
            self.status.clear();
        }
    }

    fn notifications(&mut self, next: ReportedStatus, status: String, now: Instant) -> Vec<Notification> {
        let is_due = |at: Option<Instant>, every: Duration| at.is_none_or(|at| now - at >= every);
        let mut notifications = Vec::new();
        if next != self.reported {
            notifications.push(match next {
                ReportedStatus::Nothing | ReportedStatus::Ready => Notification::Ready,
                ReportedStatus::Reloading => Notification::Reloading { at: monotonic() },
                ReportedStatus::Stopping => Notification::Stopping,
            });
            self.reported = next;
            self.extended_at = None;
        }
        // Otherwise the manager would end the start of a gateway whose other half is away, and cut the sessions
        // that a stop waits for.
        let takes_long = matches!(next, ReportedStatus::Nothing | ReportedStatus::Stopping);
        if takes_long && is_due(self.extended_at, TIMEOUT_EXTENSION_INTERVAL) {
            notifications.push(Notification::ExtendTimeout { by: TIMEOUT_EXTENSION_PERIOD });
            self.extended_at = Some(now);
        }
        let has_news = is_due(self.status_at, STATUS_INTERVAL) || !notifications.is_empty();
        if has_news && status != self.status {
            notifications.push(Notification::Status(status.clone()));
            (self.status, self.status_at) = (status, Some(now));
        }
        // Twice within its time, as sd_watchdog_enabled(3) recommends.
        if let Some(within) = self.socket.watchdog
            && is_due(self.fed_at, within / 2 - within / 8)
        {
            notifications.push(Notification::Watchdog);
            self.fed_at = Some(now);
        }
        notifications
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
    format!("{word}; {links}{} open", format::count(snapshot.totals.sessions_open, "session"))
}

fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use tokio::time::sleep;

    use super::*;
    use crate::{
        disk::PipePolicy,
        gateway::handle::{Command, GatewayHandle},
        source::{ChosenProfile, ProfileSource},
        tasks::Tasks,
    };

    const WATCHDOG: Duration = Duration::from_millis(400);

    struct ManagerEnd {
        socket: UnixDatagram,
        folder: tempfile::TempDir,
    }

    impl ManagerEnd {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self { socket, folder }
        }

        fn connect(&self) -> NotifySocket {
            NotifySocket::connect(self.folder.path().join("notify").as_os_str(), Some(WATCHDOG)).unwrap()
        }

        /// Everything that was sent so far.
        fn received(&self) -> String {
            let mut received = Vec::new();
            let mut message = [0; 4096];
            while let Ok(length) = self.socket.recv(&mut message) {
                received.extend_from_slice(&message[..length]);
            }
            String::from_utf8(received).unwrap()
        }
    }

    #[test]
    fn a_start_and_a_stop_that_take_long_ask_for_more_time() {
        let end = ManagerEnd::new();
        let mut manager = ServiceManager::new(end.connect());
        let began = Instant::now();
        let mut received_at = |seconds: u64, next| {
            manager.notify(next, "not ready".into(), began + Duration::from_secs(seconds));
            end.received().contains("EXTEND_TIMEOUT_USEC=30000000\n")
        };
        let reported = [0, 1, 9, 10, 11, 20].map(|second| received_at(second, ReportedStatus::Nothing));
        assert_eq!(reported, [true, false, false, true, false, true]);
        assert!(!received_at(30, ReportedStatus::Ready) && !received_at(60, ReportedStatus::Ready));
        let reported = [61, 62, 70, 71, 72, 81].map(|second| received_at(second, ReportedStatus::Stopping));
        assert_eq!(reported, [true, false, false, true, false, true]);
    }

    /// A gateway, and what runs it once the test says so.
    async fn engine(socket: NotifySocket) -> (GatewayHandle, Engine) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("direct.yaml");
        let services = "{ echo: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' } }";
        std::fs::write(&file, format!("mode: direct\ndmz: {{ services: {services} }}\n")).unwrap();
        let source = ProfileSource { folders: Vec::new(), half: None, pipes: PipePolicy::Refused };
        let chosen = ChosenProfile::File(file);
        let loaded = source.load(&chosen, None).unwrap();
        let (handle, engine) = Engine::start(source, chosen, loaded).await.unwrap();
        (handle, engine.with_service_manager(Some(socket)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_by_the_turns_of_the_engine_and_by_nothing_else() {
        let end = ManagerEnd::new();
        let (handle, engine) = engine(end.connect()).await;
        // Everything else runs: the runtime with its timers, and the tasks that the engine has started.
        sleep(100 * WATCHDOG).await;
        assert_eq!(end.received(), "");
        let tasks = Tasks::default();
        tasks.spawn("gateway", async move {
            // It ends when it is asked to.
            let _ = engine.run().await;
        });
        let mut received = String::new();
        while received.matches("WATCHDOG=1\n").count() < 3 {
            sleep(WATCHDOG / 8).await;
            received += &end.received();
        }
        assert!(received.starts_with("READY=1\n"), "{received}");
        handle.send_and_wait(Command::Stop).await;
        tasks.all_ended().await;
    }
}
