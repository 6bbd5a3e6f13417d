//! Backends that are down or slow, and services that cannot be served.

use super::{
    DoctorFinding,
    FindingSeverity::{Must, Should},
};
use crate::telemetry::{
    format,
    health::is_backend_down,
    snapshot::{BackendRow, BackendRowState, ServicePhase, ServiceRow, Snapshot},
};

/// How many sessions must show the same.
const SLOW_SESSIONS_MIN: usize = 3;
/// Connecting within one network takes far less.
const SLOW_MS: f64 = 500.0;

pub fn find_limits_of_backends(snapshot: &Snapshot) -> Vec<DoctorFinding> {
    let of_service = |service| {
        let rows = find_backends_down(service);
        let others = [find_service_down(service), find_failing(service), find_slow(snapshot, service)];
        rows.into_iter().chain(others.into_iter().flatten())
    };
    snapshot.services.iter().flat_map(of_service).collect()
}

fn find_backends_down(service: &ServiceRow) -> Vec<DoctorFinding> {
    service.backends.iter().filter_map(|backend| find_backend_down(service, backend)).collect()
}

fn find_backend_down(service: &ServiceRow, backend: &BackendRow) -> Option<DoctorFinding> {
    let (severity, reason) = match backend.state {
        BackendRowState::Up | BackendRowState::Standby => return None,
        BackendRowState::Down => (Must, "its checks fail"),
        BackendRowState::Resting => {
            (Should, "it refused a session or was slow, and is tried last for a while")
        }
    };
    let error =
        backend.last_error.as_ref().map_or(String::new(), |error| format!("; the last error: {error}"));
    let failures = format::count(backend.failures, "failure");
    let figure = format!("backend {} is {}, {failures}", backend.address, backend.state.label());
    let advice = "start it, or take it out of `connect`; it must be reachable from this host";
    let reason = format!("{reason}{error}");
    Some(DoctorFinding::new("backend-down", severity, figure, reason, advice).about(service.name.clone()))
}

fn find_service_down(service: &ServiceRow) -> Option<DoctorFinding> {
    let is_reported = service.backends.iter().any(|backend| backend.state == BackendRowState::Down);
    if service.phase != ServicePhase::Down || is_reported {
        return None;
    }
    let reason = service.reason.clone().unwrap_or_else(|| "it can serve nobody".into());
    let figure = "the service is down".to_owned();
    let advice = "fix what the reason names, then `reload`; a lock ends with `unlock` on the host of the internal gateway";
    Some(DoctorFinding::new("service-down", Must, figure, reason, advice).about(service.name.clone()))
}

fn find_failing(service: &ServiceRow) -> Option<DoctorFinding> {
    if !is_backend_down(service) {
        return None;
    }
    let figure = format!("the last {} sessions failed at the backend", service.failed_in_a_row);
    let reason = service.backend_error.clone().unwrap_or_else(|| "none of them reached it".into());
    let advice = "start the backend, or fix the address or the certificate that `connect` names";
    Some(DoctorFinding::new("backend-failing", Must, figure, reason, advice).about(service.name.clone()))
}

/// According to the open sessions, on the half that dials.
fn find_slow(snapshot: &Snapshot, service: &ServiceRow) -> Option<DoctorFinding> {
    let to = service.connect.as_ref()?;
    let of_service =
        snapshot.sessions.iter().filter(|row| row.half == service.half && row.service == service.name);
    let mut times: Vec<_> = of_service.filter_map(|row| row.connected_ms).collect();
    times.sort_unstable_by(f64::total_cmp);
    let middle = *times.get(times.len() / 2)?;
    if times.len() < SLOW_SESSIONS_MIN || middle < SLOW_MS {
        return None;
    }
    let figure =
        format!("half of {} open sessions took {} or more to connect", times.len(), format::wait(middle));
    let reason = format!("clients wait that long for {to}");
    let advice = "look at the backend's load and its accept backlog, and at the name server where `connect` has a name";
    Some(DoctorFinding::new("backend-slow", Should, figure, reason, advice).about(service.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{found, healthy},
        *,
    };
    use crate::{
        profile::Half,
        telemetry::snapshot::{SessionPhase, SessionRow},
    };

    fn of(change: impl FnOnce(&mut ServiceRow)) -> Snapshot {
        let mut snapshot = healthy();
        change(&mut snapshot.services[0]);
        snapshot
    }

    fn backend(state: BackendRowState) -> BackendRow {
        let last_error = Some("connection refused".into());
        BackendRow {
            address: "tcp://10.1.0.7:80".into(),
            name: None,
            state,
            sessions_open: 0,
            sessions: 3,
            failures: 2,
            last_error,
        }
    }

    #[test]
    fn a_backend_that_is_down_or_resting_is_found() {
        for (state, expected) in [
            (BackendRowState::Down, &[Must][..]),
            (BackendRowState::Resting, &[Should]),
            (BackendRowState::Up, &[]),
            (BackendRowState::Standby, &[]),
        ] {
            assert_eq!(
                found(&of(|row| row.backends = vec![backend(state)]), "backend-down"),
                expected,
                "{state:?}"
            );
        }
    }

    #[test]
    fn a_service_that_is_down_is_one_finding() {
        let reason = Some("pki/www.pem: no such file".to_owned());
        let down = of(|row| (row.phase, row.reason) = (ServicePhase::Down, reason));
        assert_eq!(found(&down, "service-down"), [Must]);
        let of_backend = of(|row| {
            (row.phase, row.backends) = (ServicePhase::Down, vec![backend(BackendRowState::Down)]);
        });
        assert_eq!(found(&of_backend, "backend-down"), [Must]);
        assert_eq!(found(&of(|row| row.phase = ServicePhase::Draining), "service-down"), []);
    }

    #[test]
    fn sessions_that_fail_in_a_row_are_reported() {
        assert_eq!(found(&of(|row| row.failed_in_a_row = 40), "backend-failing"), [Must]);
        assert_eq!(found(&of(|row| row.failed_in_a_row = 1), "backend-failing"), []);
    }

    #[test]
    fn a_backend_that_is_slow_to_connect_is_reported() {
        let sessions = |times: &[f64]| {
            let row = |connected_ms: &f64| SessionRow {
                gateway: None,
                id: "0a1b".into(),
                half: Half::Dmz,
                service: "orders".into(),
                client: "192.0.2.7:50000".into(),
                peer: None,
                phase: SessionPhase::Relaying,
                age_seconds: 9.0,
                idle_seconds: 1.0,
                last_byte_seconds: None,
                bytes_up: 0,
                bytes_down: 0,
                rate_up: 0,
                rate_down: 0,
                waited_ms: None,
                connected_ms: Some(*connected_ms),
                via: None,
                user: None,
                requests: 0,
                backend: None,
            };
            let sessions = times.iter().map(row).collect();
            Snapshot { sessions, ..of(|row| row.connect = Some("tcp://10.1.0.7:80".into())) }
        };
        assert_eq!(found(&sessions(&[2.0, 800.0, 900.0]), "backend-slow"), [Should]);
        assert_eq!(found(&sessions(&[2.0, 3.0, 900.0]), "backend-slow"), [], "one alone is slow");
        assert_eq!(found(&sessions(&[900.0]), "backend-slow"), [], "of one session nothing is concluded");
        let elsewhere = sessions(&[900.0; 4]);
        let elsewhere = Snapshot { services: healthy().services, ..elsewhere };
        assert_eq!(found(&elsewhere, "backend-slow"), [], "another half dials");
    }
}
