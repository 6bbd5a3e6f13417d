//! Gateways that serve nobody, and those of a fleet that do not answer.

use std::sync::Arc;

use super::{DoctorFinding, FindingSeverity::Must};
use crate::telemetry::{
    health::Health,
    snapshot::{GatewayPhase, GatewayRow, ServicePhase, Snapshot},
};

/// A gateway that is down although no other finding says why: it must never look as if all were well.
pub fn find_unexplained_outage(snapshot: &Snapshot, findings: &[DoctorFinding]) -> Option<DoctorFinding> {
    let is_wanted = snapshot.services.is_empty()
        || snapshot
            .services
            .iter()
            .any(|service| !matches!(service.phase, ServicePhase::Draining | ServicePhase::Closed));
    let is_down = snapshot.phase == GatewayPhase::Running && snapshot.health == Some(Health::Down);
    if !is_down || !is_wanted || super::must_act(findings) {
        return None;
    }
    let reason = match snapshot.alerts.first() {
        Some(alert) => alert.text.clone(),
        None => "no service can be reached by a client".into(),
    };
    let advice = "run `verify`, which names the step that fails, and look at the log";
    Some(DoctorFinding::new("serves-nobody", Must, "no client is served".into(), reason, advice))
}

/// A gateway of a fleet of which nothing is known now; `absence` says why.
pub fn find_absence(row: &GatewayRow, absence: String) -> DoctorFinding {
    let reason = "nothing is known of it: whether it serves clients, and what limits it";
    let advice = format!("see that it runs, and that it is asked in the right place: {}", row.target);
    let gateway = Some(Arc::clone(&row.name));
    DoctorFinding { gateway, ..DoctorFinding::new("gateway-away", Must, absence, reason, advice) }
}

/// The gateway whose screen this is does not answer any more; `absence` says why.
pub fn find_own_absence(absence: &str) -> DoctorFinding {
    let reason =
        "nothing is known of it now: all that is shown is from before, and its clients may be refused";
    let advice = "see on its host that it runs, and look at its log";
    DoctorFinding::new("gateway-away", Must, absence.to_owned(), reason, advice)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            find_limits,
            tests::{found, healthy, spacious},
        },
        *,
    };

    #[test]
    fn a_gateway_that_is_down_always_has_a_finding() {
        let down = Snapshot { health: Some(Health::Down), ..healthy() };
        assert_eq!(found(&down, "serves-nobody"), [Must]);
        let mut drained = down.clone();
        drained.services[0].phase = ServicePhase::Draining;
        assert_eq!(found(&drained, "serves-nobody"), [], "nobody is to come");
        let stopping = Snapshot { phase: GatewayPhase::Draining, ..down.clone() };
        assert_eq!(found(&stopping, "serves-nobody"), []);
        let explained = Snapshot { certificates: vec![super::super::tests::certificate(3)], ..down };
        let findings = find_limits(&explained, &spacious());
        assert_eq!(findings.iter().map(|it| &*it.id).collect::<Vec<_>>(), ["certificate-ends"]);
    }
}
