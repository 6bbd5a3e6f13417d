//! What the halves tell each other about the states of services: the internal half offers its services with
//! their states, and the DMZ half learns which ones no internal gateway takes sessions for.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use super::{Engine, service::Service};
use crate::{
    link::pool::ServiceClosed,
    profile::{Half, ServiceName},
    proto::multiplex::hello::OfferState,
    telemetry::{log::LogEvent, snapshot::ServicePhase},
};

/// The services of a DMZ half that are closed inside, with the reason last reported.
#[derive(Debug, Default)]
pub struct ClosedServices(BTreeMap<ServiceName, String>);

/// The state of a service that is announced to DMZ gateways.
fn offer_state(service: &Service) -> OfferState {
    match service.phase() {
        ServicePhase::Locked => OfferState::Locked,
        ServicePhase::Down => OfferState::Down,
        ServicePhase::Closed => OfferState::Closed,
        ServicePhase::Draining => OfferState::Draining,
        ServicePhase::Open => OfferState::Open,
    }
}

/// Why no peer takes sessions for a service of the DMZ half, though it is open here.
pub(super) fn closed_reason(service: &Service) -> Option<String> {
    closed_by_peers(service).map(|closed| closed.to_string())
}

fn closed_by_peers(service: &Service) -> Option<ServiceClosed> {
    service.connector.load().service_closed(&service.name)
}

/// The phase of a service as clients experience it.
pub(super) fn shown_phase(service: &Service) -> ServicePhase {
    match (service.phase(), closed_by_peers(service).map(|closed| closed.state)) {
        (ServicePhase::Open, Some(OfferState::Closed)) => ServicePhase::Closed,
        (ServicePhase::Open, Some(OfferState::Draining)) => ServicePhase::Draining,
        (ServicePhase::Open, Some(_)) => ServicePhase::Down,
        (phase, _) => phase,
    }
}

/// Why a service can serve nobody: because of its own backends, or those of all its peers.
pub(super) fn down_reason(service: &Service) -> Option<String> {
    service.connector.load().down_reason().or_else(|| closed_reason(service))
}

impl Engine {
    /// Opens and closes services by their hours.
    pub(super) fn follow_hours(&self) {
        let now = self.wall_clock.now();
        for ((_, name), service) in self.shared.sessions.services.load().iter() {
            if !service.follow_hours(now) {
                continue;
            }
            let line = match (service.is_closed(), &service.settings.load().hours) {
                (true, Some(hours)) => format!("service `{name}` is closed: outside of its hours, {hours}"),
                _ => format!("service `{name}` is open: within its hours"),
            };
            self.shared.notices.info(LogEvent::Hours.line(line));
        }
    }

    /// Tells DMZ gateways which services take no sessions. It is called often, and does nothing if nothing has
    /// changed.
    pub(super) fn send_offers(&self) {
        let Some(internal) = &self.internal else { return };
        // A gateway that leaves gives up its links, and another one may serve its clients in a moment.
        if self.pending_stop().is_some() || self.shared.leaving.load(Ordering::Relaxed) {
            return;
        }
        let services = self.shared.sessions.services.load();
        let of_half = services.iter().filter(|((half, _), _)| *half == Half::Internal);
        let states = of_half.map(|((_, name), service)| (name.clone(), offer_state(service)));
        internal.set_states(states.filter(|(_, state)| *state != OfferState::Open).collect());
    }

    /// Writes a line and a notice for each service that the internal gateways close or open. If both halves
    /// share a process, the internal half has reported it already.
    pub(super) fn follow_closed_services(&mut self) {
        if self.internal.is_some() {
            return;
        }
        let services = self.shared.sessions.services.load();
        let closed =
            services.iter().filter_map(|((_, name), service)| Some((name.clone(), closed_reason(service)?)));
        let now: BTreeMap<_, _> = closed.collect();
        let before = std::mem::take(&mut self.closed_services.0);
        let notices = &self.shared.notices;
        for (name, why) in now.iter().filter(|(name, why)| before.get(*name) != Some(*why)) {
            notices.warn(LogEvent::ServiceDown.line(format!("service `{name}` takes no sessions: {why}")));
        }
        for name in before.keys().filter(|name| !now.contains_key(*name)) {
            notices.info(LogEvent::ServiceUp.line(format!("service `{name}` takes sessions again")));
        }
        self.closed_services = ClosedServices(now);
    }
}
