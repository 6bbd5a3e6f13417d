//! What the engine is doing. It does one thing at a time: anything that changes something waits for `Serving`,
//! except a stop.

use std::{mem, sync::atomic::Ordering};

use super::{Engine, audit::CommandAudit, stop::PendingStop, switch::PendingSwitch};
use crate::telemetry::snapshot::GatewayPhase;

/// ```text
/// starting ─► serving ◄─► loading ─► switching ─► serving
///                │  ▲
///                ▼  │
///             verifying              any ─► stopping ─► stopped
/// ```
pub(super) enum EngineState {
    Starting,
    Serving,
    /// A profile is being read for a switch, or its names looked up.
    Loading,
    Switching(Box<PendingSwitch>),
    /// The checklist is running, in a task of its own.
    Verifying,
    Stopping(PendingStop),
    Stopped(PendingStop),
}

impl Engine {
    /// The current state: a run of the checklist ends in its own task, which is noticed here.
    pub(super) fn state(&mut self) -> &mut EngineState {
        self.notice_verify_end();
        &mut self.state
    }

    /// Ends `Verifying` after the run. Its parts of the other mode were opened from the file as it is now, which
    /// may have changed since the profile was put in force.
    pub(super) fn notice_verify_end(&mut self) {
        if matches!(self.state, EngineState::Verifying) && !self.verify_progress.is_running() {
            self.state = EngineState::Serving;
            self.restore_shared_settings();
        }
    }

    /// Why nothing can be changed now; `None` if it can.
    pub(super) fn busy_reason(&mut self) -> Option<&'static str> {
        match self.state() {
            EngineState::Starting | EngineState::Serving => None,
            EngineState::Loading | EngineState::Switching(_) => Some("a switch is under way"),
            EngineState::Verifying => Some("the checklist is running; wait until it has ended"),
            EngineState::Stopping(_) | EngineState::Stopped(_) => Some("the gateway is stopping"),
        }
    }

    /// Whether a profile is being read for a switch, or a switch is under way.
    pub(super) fn is_switching(&self) -> bool {
        match self.state {
            EngineState::Loading | EngineState::Switching(_) => true,
            EngineState::Starting
            | EngineState::Serving
            | EngineState::Verifying
            | EngineState::Stopping(_)
            | EngineState::Stopped(_) => false,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.pending_stop().is_some()
    }

    pub(super) fn pending_stop(&self) -> Option<&PendingStop> {
        match &self.state {
            EngineState::Stopping(stop) | EngineState::Stopped(stop) => Some(stop),
            EngineState::Starting
            | EngineState::Serving
            | EngineState::Loading
            | EngineState::Switching(_)
            | EngineState::Verifying => None,
        }
    }

    pub(super) fn pending_switch(&self) -> Option<&PendingSwitch> {
        match &self.state {
            EngineState::Switching(switch) => Some(switch),
            EngineState::Starting
            | EngineState::Serving
            | EngineState::Loading
            | EngineState::Verifying
            | EngineState::Stopping(_)
            | EngineState::Stopped(_) => None,
        }
    }

    /// The phase shown in snapshots: a gateway that an operator has drained serves no new sessions, whatever
    /// else it does.
    pub(super) fn phase(&self) -> GatewayPhase {
        match self.state {
            EngineState::Starting => GatewayPhase::Starting,
            EngineState::Stopping(_) => GatewayPhase::Draining,
            EngineState::Stopped(_) => GatewayPhase::Stopped,
            EngineState::Serving
            | EngineState::Loading
            | EngineState::Switching(_)
            | EngineState::Verifying => match self.shared.leaving.load(Ordering::Relaxed) {
                true => GatewayPhase::Draining,
                false => GatewayPhase::Running,
            },
        }
    }

    /// Whether it waits for something that may be ready at any moment.
    pub(super) fn is_waiting_for_parts(&self) -> bool {
        match self.state {
            EngineState::Switching(_) | EngineState::Stopping(_) | EngineState::Stopped(_) => true,
            EngineState::Starting | EngineState::Serving | EngineState::Loading | EngineState::Verifying => {
                false
            }
        }
    }

    /// Whether the gateway's health is judged: one that starts or stops is expected to lack something.
    pub(super) fn is_judged(&self) -> bool {
        match self.state {
            EngineState::Starting | EngineState::Stopping(_) | EngineState::Stopped(_) => false,
            EngineState::Serving
            | EngineState::Loading
            | EngineState::Switching(_)
            | EngineState::Verifying => true,
        }
    }

    /// Takes the switch under way, to commit it or roll it back.
    pub(super) fn take_switch(&mut self) -> Option<PendingSwitch> {
        match mem::replace(&mut self.state, EngineState::Serving) {
            EngineState::Switching(switch) => Some(*switch),
            other @ (EngineState::Starting
            | EngineState::Serving
            | EngineState::Loading
            | EngineState::Verifying
            | EngineState::Stopping(_)
            | EngineState::Stopped(_)) => {
                self.state = other;
                None
            }
        }
    }

    /// Notes that a profile has been read, or could not be.
    pub(super) fn end_loading(&mut self) {
        if matches!(self.state, EngineState::Loading) {
            self.state = EngineState::Serving;
        }
    }

    pub(super) fn mark_stopped(&mut self) {
        self.state = match mem::replace(&mut self.state, EngineState::Serving) {
            EngineState::Stopping(stop) => EngineState::Stopped(stop),
            other @ (EngineState::Starting
            | EngineState::Serving
            | EngineState::Loading
            | EngineState::Switching(_)
            | EngineState::Verifying
            | EngineState::Stopped(_)) => other,
        };
    }

    /// The requesters of the stop, who wait for its end.
    pub(super) fn into_stop_requesters(self) -> Vec<CommandAudit> {
        match self.state {
            EngineState::Stopping(stop) | EngineState::Stopped(stop) => stop.requesters,
            EngineState::Starting
            | EngineState::Serving
            | EngineState::Loading
            | EngineState::Switching(_)
            | EngineState::Verifying => Vec::new(),
        }
    }
}
