//! The engine's part in monitoring: the port for monitors, and the gateways that the profile names.

use std::sync::Arc;

use super::{
    Engine, audit::CommandAudit, handle::CommandAnswer, plan::HalfChange, snapshot_builder::SessionRows,
};
use crate::{
    monitor::{MonitorPort, MonitoredGateway},
    net::{listen::BindError, resolved_names::ResolvedNames},
    profile::{DmzMode, Half, HealthPort, HostPort, InternalMode, LinkAddress, LinkTls, Profile},
    telemetry::{
        health::readiness::{NamedBy, NamedGateway, Readiness},
        log::{self, LogEvent},
        metrics::{self, MetricsFormat},
        snapshot::Snapshot,
    },
};

impl Engine {
    /// Sets up the log files that the profile names.
    pub(super) fn install_logs(&self, profile: &Profile) {
        log::set_file(profile.log.as_deref());
        self.shared.access.configure(profile.access_log.as_ref());
    }

    /// The port for monitors that `profile` asks for and that is not open.
    pub(super) fn missing_health<'a>(&self, profile: &'a Profile) -> Option<&'a HostPort> {
        let open = self.health.as_ref().map(|port| &port.at);
        profile.health.address().filter(|at| Some(*at) != open)
    }

    pub(super) fn bind_health(
        &self,
        profile: &Profile,
        found: &ResolvedNames,
    ) -> Result<Option<MonitorPort>, BindError> {
        self.missing_health(profile).map(|at| MonitorPort::bind(at, found)).transpose()
    }

    /// Opens the new port, or closes one that is no longer wanted.
    pub(super) fn install_health(&mut self, new: Option<MonitorPort>, profile: &Profile) {
        if let Some(mut port) = new {
            let watched = MonitoredGateway::new(self.feed.snapshots.subscribe(), self.last_turn.clone());
            port.start(&watched, &self.shared.tasks, &self.shared.notices);
            self.health = Some(port);
        } else if profile.health.address().is_none() {
            self.health = None;
        }
        if profile.health == HealthPort::LeftOut {
            self.shared.notices.info(
                LogEvent::HealthLeftOut.line(
                    "health: ignored, because this half opens no port for monitors; use `status --ready`",
                ),
            );
        }
    }

    /// Which port for monitors a plan opens, and which it closes.
    pub(super) fn health_changes(&self, profile: &Profile) -> (Option<String>, Option<String>) {
        let opens = self.missing_health(profile).map(|at| format!("http://{at} for monitors"));
        let wanted = profile.health.address();
        let change = HalfChange::between(self.health.as_ref(), wanted.as_ref(), |_, _| opens.is_none());
        let closes = self.health.as_ref().filter(|_| change.closes());
        (opens, closes.map(|port| format!("{} for monitors", port.listening().join(" and "))))
    }

    /// Formatted beside the engine, so that it does not wait.
    pub(super) fn publish_metrics(&self, format: MetricsFormat, requester: CommandAudit) {
        let snapshot = Arc::new(self.snapshot(SessionRows::LeftOut));
        let write = move || metrics::render(snapshot, format);
        self.read_for_operator(write, move |_, written| {
            requester.answer(match written {
                Ok(text) => CommandAnswer::Metrics(text),
                Err(error) => CommandAnswer::Refused(error.to_string()),
            });
        });
    }

    /// Whether it is ready, according to a snapshot that has been judged.
    pub(super) fn readiness(&self, snapshot: &Snapshot) -> Readiness {
        Readiness::of(snapshot, &named_gateways(&self.profile))
    }
}

/// The gateways at the other end of its links: those that a half dials, and those that may dial it.
fn named_gateways(profile: &Profile) -> Vec<NamedGateway> {
    let dialled = |address: &LinkAddress| match address.is_followed() {
        true => NamedBy::Name(address.at.host.clone()),
        false => NamedBy::Address(address.to_string()),
    };
    let of_dmz = profile.dmz.iter().flat_map(|half| match &half.mode {
        DmzMode::Direct(_) => Vec::new(),
        DmzMode::Forward { connect, .. } => connect.iter().map(dialled).collect(),
        DmzMode::Reverse { .. } => certificates(half.link_tls()),
    });
    let of_internal = profile.internal.iter().flat_map(|half| match &half.mode {
        InternalMode::Forward { .. } => certificates(half.link_tls()),
        InternalMode::Reverse { connect, .. } => connect.iter().map(dialled).collect(),
    });
    let of = |half| move |by| NamedGateway { half, by };
    of_dmz.map(of(Half::Dmz)).chain(of_internal.map(of(Half::Internal))).collect()
}

fn certificates(tls: Option<&LinkTls>) -> Vec<NamedBy> {
    tls.into_iter().flat_map(|tls| tls.peers.iter().cloned().map(NamedBy::Certificate)).collect()
}
