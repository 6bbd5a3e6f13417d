//! Problems with the certificates of single services, and with the files of their users. Such a problem does
//! not stop the profile: the other services are served, and this one is served again as soon as the problem is
//! fixed.

use std::{collections::BTreeMap, fmt};

use super::Engine;
use crate::{
    auth::{AuthFileError, AuthFiles},
    profile::{Backend, BackendSet, DmzHalf, DmzMode, DmzService, Half, Problem, Profile, ServiceName},
    telemetry::log::LogEvent,
    tls::edge::{EdgeTls, EdgeTlsError},
};

/// By half and service.
#[derive(Debug, Default, PartialEq)]
pub struct ServiceFaults(BTreeMap<(Half, ServiceName), ServiceFault>);

#[derive(Debug, Clone, PartialEq)]
struct ServiceFault {
    effect: FaultEffect,
    files: FaultyFiles,
    problem: Problem,
}

/// The files that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultyFiles {
    Certificates,
    Users,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum FaultEffect {
    /// The previous files are still in force.
    Kept,
    /// One of its accepts is down, and others serve.
    Partly,
    Down,
}

impl fmt::Display for ServiceFault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match (self.effect, self.files) {
            (FaultEffect::Kept, FaultyFiles::Certificates) => "goes on with the certificates it had",
            (FaultEffect::Kept, FaultyFiles::Users) => "goes on with the users it had",
            (FaultEffect::Partly, _) => "is down on one of its ports",
            (FaultEffect::Down, _) => "is down",
        };
        write!(out, "{effect}: {}", self.problem)
    }
}

impl ServiceFaults {
    pub fn find(profile: &Profile, edges: &EdgeTls, auth: &AuthFiles) -> Self {
        let mut faults = Self::default();
        if let Some(half) = &profile.dmz {
            for service in &half.services {
                let both = [fault_of_accepts(service, edges, auth), fault_of_direct(half, service, edges)];
                let worst = both.into_iter().flatten().max_by_key(|fault| fault.effect);
                faults.add(Half::Dmz, &service.name, worst);
            }
        }
        for service in profile.internal.iter().flat_map(|half| &half.services) {
            faults.add(Half::Internal, &service.name, fault_of_backends(&service.connect, edges));
        }
        faults
    }

    fn add(&mut self, half: Half, service: &ServiceName, fault: Option<ServiceFault>) {
        self.0.extend(fault.map(|fault| ((half, service.clone()), fault)));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it is a fault of any service.
    pub fn has(&self, problem: &Problem) -> bool {
        self.0.values().any(|fault| fault.problem == *problem)
    }

    pub fn reason(&self, half: Half, service: &ServiceName) -> Option<String> {
        self.0.get(&(half, service.clone())).map(|fault| fault.problem.to_string())
    }
}

fn fault_of_edge(fault: EdgeTlsError<'_>) -> ServiceFault {
    let effect = if fault.is_kept { FaultEffect::Kept } else { FaultEffect::Down };
    ServiceFault { effect, files: FaultyFiles::Certificates, problem: fault.problem.clone() }
}

fn fault_of_auth(fault: AuthFileError<'_>) -> ServiceFault {
    let effect = if fault.is_kept { FaultEffect::Kept } else { FaultEffect::Down };
    ServiceFault { effect, files: FaultyFiles::Users, problem: fault.problem.clone() }
}

/// A service with one accept that can be used is not down.
fn fault_of_accepts(service: &DmzService, edges: &EdgeTls, auth: &AuthFiles) -> Option<ServiceFault> {
    let faults = service.accept.iter().map(|accept| {
        let of_tls = accept.tls.as_ref().and_then(|tls| edges.fault_of_accept(tls)).map(fault_of_edge);
        let of_auth = accept.auth_source().and_then(|source| auth.fault_of(source)).map(fault_of_auth);
        of_tls.into_iter().chain(of_auth).max_by_key(|fault| fault.effect)
    });
    worst_fault(faults.collect())
}

/// The worst fault among backends that stand in for each other.
fn worst_fault(faults: Vec<Option<ServiceFault>>) -> Option<ServiceFault> {
    let serves =
        |fault: &Option<ServiceFault>| fault.as_ref().is_none_or(|fault| fault.effect == FaultEffect::Kept);
    let any_serves = faults.iter().any(serves);
    let worst = faults.into_iter().flatten().max_by_key(|fault| fault.effect)?;
    let effect =
        if any_serves && worst.effect == FaultEffect::Down { FaultEffect::Partly } else { worst.effect };
    Some(ServiceFault { effect, ..worst })
}

/// In direct mode the DMZ half reaches the backends itself.
fn fault_of_direct(half: &DmzHalf, service: &DmzService, edges: &EdgeTls) -> Option<ServiceFault> {
    let DmzMode::Direct(backends) = &half.mode else { return None };
    fault_of_backends(backends.get(&service.name)?, edges)
}

/// One backend whose TLS can be used is enough.
fn fault_of_backends(backends: &BackendSet, edges: &EdgeTls) -> Option<ServiceFault> {
    let fault = |backend: &Backend| {
        let tls = backend.remote()?.tls.as_deref()?;
        edges.fault_of_connect(tls).map(fault_of_edge)
    };
    worst_fault(backends.backends().map(fault).collect())
}

impl Engine {
    /// Marks services as down or up again. For each change there is a line, which is also a notice.
    pub(super) fn take_over_faults(&mut self, faults: ServiceFaults) -> Vec<String> {
        for (key, service) in self.shared.sessions.services.load().iter() {
            let fault = faults.0.get(key).filter(|fault| fault.effect == FaultEffect::Down);
            service.set_down(fault.map(|fault| fault.problem.to_string()));
        }
        let before = std::mem::replace(&mut self.faults, faults);
        let mut reported = Vec::new();
        for (key @ (_, name), fault) in &self.faults.0 {
            if before.0.get(key) != Some(fault) {
                let line = format!("service `{name}` {fault}");
                if fault.effect > FaultEffect::Kept {
                    self.shared.notices.warn(LogEvent::ServiceDown.line(line.clone()));
                }
                reported.push(line);
            }
        }
        for ((half, name), _) in before.0.iter().filter(|(_, fault)| fault.effect > FaultEffect::Kept) {
            let continues = self.shared.sessions.services.load().contains_key(&(*half, name.clone()));
            if continues && !self.faults.0.contains_key(&(*half, name.clone())) {
                self.shared
                    .notices
                    .info(LogEvent::ServiceUp.line(format!("service `{name}` is served again")));
            }
        }
        reported
    }
}
