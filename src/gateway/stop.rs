//! How a gateway stops: it is not ready for a while, then accepts no new clients, and cuts what is open when
//! its time is up. What is done behind the last session is in the engine's `finish`.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::{
    Engine, FLUSH_TIMEOUT, GatewayOutcome,
    audit::CommandAudit,
    halves::{DmzSide, InternalSide},
    state::EngineState,
};
use crate::telemetry::{format, log::LogEvent};

/// A stop under way.
pub struct PendingStop {
    stage: StopStage,
    /// What is still open then is cut.
    deadline: Instant,
    by: String,
    pub(super) requesters: Vec<CommandAudit>,
}

/// ```text
/// open ─► closed ─► draining ─► cut
/// ```
#[derive(Debug, Clone, Copy)]
enum StopStage {
    /// Clients are served as before until then, while monitors see that it is not ready.
    Open { until: Instant },
    /// No new client is accepted. Those who came before get their sessions.
    Closed { since: Instant },
    /// No new sessions are opened.
    Draining,
    /// Every open session was cut, these of them of clients. What has not ended by then is left to the process's end.
    Cut { sessions: usize, until: Instant },
}

impl Engine {
    /// The first stop drains, the second cuts.
    pub(super) fn stop(&mut self, requester: Option<CommandAudit>) {
        if let EngineState::Stopping(stopping) = &mut self.state {
            stopping.deadline = Instant::now();
            stopping.requesters.extend(requester);
            self.close_when_due();
            return;
        }
        if let Some(switching) = self.take_switch() {
            self.roll_back(switching, "the gateway stops");
        }
        // Clients that keep sending requests are sent elsewhere.
        self.shared.leaving.store(true, Ordering::Relaxed);
        let by = requester.as_ref().map_or("this process", |requester| requester.by.as_str()).to_owned();
        let (delay, now) = (self.profile.drain_delay, Instant::now());
        let deadline = now + delay + self.profile.drain;
        let requesters = requester.into_iter().collect();
        let stage = StopStage::Open { until: now + delay };
        self.state = EngineState::Stopping(PendingStop { stage, deadline, by, requesters });
        if !delay.is_zero() {
            let delay = humantime::format_duration(delay);
            self.shared.notices.info(
                LogEvent::Stopping.line(format!("stopping: reporting not ready, closing ports in {delay}")),
            );
        }
        self.close_when_due();
    }

    /// Closes the ports of a gateway that stops, once balancers have had time to see it.
    pub(super) fn close_when_due(&mut self) {
        let EngineState::Stopping(stopping) = &mut self.state else { return };
        let now = Instant::now();
        // A second stop does not wait.
        let is_late = stopping.deadline <= now;
        if let StopStage::Open { until } = stopping.stage
            && (until <= now || is_late)
        {
            stopping.stage = StopStage::Closed { since: now };
            self.ports.clear();
        }
        if let StopStage::Closed { since } = stopping.stage
            && (is_late
                || !(self.shared.arrivals.are_awaited(since) || self.shared.sessions.registry.is_opening()))
        {
            stopping.stage = StopStage::Draining;
            self.drain_all();
        }
    }

    /// Stops opening sessions: peers are asked to open none, and each link closes after its last session.
    fn drain_all(&mut self) {
        let EngineState::Stopping(stopping) = &self.state else { return };
        let by = stopping.by.clone();
        self.shared.arrivals.end();
        self.retiring.retire();
        for service in self.shared.sessions.services.load().values() {
            service.drain(&by);
            service.leave.cancel();
        }
        // The dialling half goes first: in a pair it would take the other's goodbye for a loss.
        if let Some(side) = &self.internal {
            side.retire();
        }
        if let Some(side) = &self.dmz {
            side.retire();
        }
        let open = format::count(self.totals().open_and_waiting(), "session");
        let drain = humantime::format_duration(self.profile.drain);
        self.shared
            .notices
            .info(LogEvent::Stopping.line(format!("stopping: draining {open}, for at most {drain}")));
    }

    /// While it stops: how long until everything open is cut.
    pub(super) fn time_until_cut(&self) -> Option<Duration> {
        let stopping = self.pending_stop()?;
        match stopping.stage {
            StopStage::Cut { .. } => None,
            StopStage::Open { .. } | StopStage::Closed { .. } | StopStage::Draining => {
                Some(stopping.deadline.saturating_duration_since(Instant::now()))
            }
        }
    }

    /// Cuts what is open when the time to drain is up.
    pub(super) fn cut_when_due(&mut self) {
        let EngineState::Stopping(stopping) = &mut self.state else { return };
        let (now, registry) = (Instant::now(), &self.shared.sessions.registry);
        let is_draining = matches!(stopping.stage, StopStage::Draining);
        if !is_draining || now < stopping.deadline || registry.open_count() == 0 {
            return;
        }
        let sessions = registry.clients_open();
        stopping.stage = StopStage::Cut { sessions, until: now + FLUSH_TIMEOUT };
        let line = format!("stopping: {} cut", format::count(sessions as u64, "session"));
        self.shared.notices.warn(LogEvent::SessionsCut.line(line));
        self.cut.cancel();
    }

    /// The outcome, once a stop has finished.
    pub(super) fn outcome_if_ended(&self) -> Option<GatewayOutcome> {
        let EngineState::Stopping(stopping) = &self.state else { return None };
        let (now, open) = (Instant::now(), self.shared.sessions.registry.open_count());
        // A link may still carry the last bytes of a session, and must stay open for them.
        let links = || {
            self.dmz.as_ref().map_or(0, DmzSide::links)
                + self.internal.as_ref().map_or(0, InternalSide::links)
        };
        match stopping.stage {
            StopStage::Draining if open == 0 && (now >= stopping.deadline || links() == 0) => {
                Some(GatewayOutcome::Clean)
            }
            StopStage::Cut { sessions, until } if open == 0 || now >= until => {
                Some(GatewayOutcome::Cut(sessions))
            }
            StopStage::Open { .. }
            | StopStage::Closed { .. }
            | StopStage::Draining
            | StopStage::Cut { .. } => None,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        time::pause,
    };

    use crate::{
        disk::PipePolicy,
        gateway::{
            Engine, GatewayOutcome,
            handle::{Command, GatewayHandle},
        },
        profile::defaults::DRAIN,
        source::{ChosenProfile, ProfileSource},
        tests::LITTLE,
    };

    use super::*;

    /// The built-in echo at a port, and the profile's other keys.
    async fn start(folder: &std::path::Path, keys: &str) -> (GatewayHandle, Engine) {
        let file = folder.join("direct.yaml");
        let services = "{ echo: { accept: ['tcp://127.0.0.1:0'], connect: 'echo://' } }";
        std::fs::write(&file, format!("mode: direct\n{keys}dmz: {{ services: {services} }}\n")).unwrap();
        let source = ProfileSource { folders: vec![folder.into()], half: None, pipes: PipePolicy::Refused };
        let chosen = ChosenProfile::File(file);
        let loaded = source.load(&chosen, None).unwrap();
        Engine::start(source, chosen, loaded).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_port_for_monitors_holds_up_no_stop() {
        let folder = tempfile::tempdir().unwrap();
        let (handle, engine) = start(folder.path(), "health: '127.0.0.1:0'\n").await;
        let began = Instant::now();
        let (_, outcome) = tokio::join!(handle.send_and_wait(Command::Stop), engine.run());
        assert_eq!(outcome, GatewayOutcome::Clean);
        assert!(began.elapsed() < FLUSH_TIMEOUT, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_session_that_does_not_end_is_cut_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let (handle, engine) = start(folder.path(), "").await;
        let port = handle.latest().services[0].accept[0].trim_start_matches("tcp://").to_owned();
        let session = async {
            let mut client = TcpStream::connect(port).await.unwrap();
            client.write_all(b"a").await.unwrap();
            client.read_exact(&mut [0; 1]).await.unwrap();
            pause();
            let stopped = Instant::now();
            let requested = async { handle.send_and_wait(Command::Stop).await };
            let cut = async {
                let received = client.read(&mut [0; 1]).await;
                (received, stopped.elapsed())
            };
            tokio::join!(cut, requested).0
        };
        let ((received, took), outcome) = tokio::join!(session, engine.run());
        assert!(matches!(received, Ok(0) | Err(_)), "{received:?}");
        // The engine checks only from time to time.
        assert!(took >= DRAIN && took <= DRAIN + 2 * LITTLE, "{took:?}");
        assert_eq!(outcome, GatewayOutcome::Cut(1));
    }
}
