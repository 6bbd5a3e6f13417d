//! `doctor`: what limits a gateway, and what to change.
//!
//! Each finding is a pure function of a snapshot and of [`MachineFacts`]; nothing is requested or changed here.
//!
//! The files here use each other: findings are defined here and made by the others.

mod availability;
mod backends;
mod capacity;
mod clocks;
mod kernel;
mod last_hour;
mod links;
mod machine;
mod protection;
mod unanswering;

pub use availability::{find_absence, find_own_absence};
pub use clocks::{GatewayClock, find_clock_skew};
pub use last_hour::{LAST_HOUR, find_in_last_hour};
pub use links::last_rejected_link;
pub use machine::MachineFacts;

pub use crate::telemetry::snapshot::{DoctorFinding, FindingSeverity};
use crate::{telemetry::snapshot::Snapshot, text};

/// The longest foreign text in a line.
const FIELD_CHARS_MAX: usize = 240;

impl DoctorFinding {
    fn new(
        id: &'static str,
        severity: FindingSeverity,
        figure: String,
        reason: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            gateway: None,
            id: id.into(),
            severity,
            object: None,
            figure,
            reason: reason.into(),
            advice: advice.into(),
        }
    }

    fn about(self, object: impl Into<String>) -> Self {
        Self { object: Some(object.into()), ..self }
    }
}

/// Everything that was found, the most urgent first.
pub fn find_limits(snapshot: &Snapshot, machine: &MachineFacts) -> Vec<DoctorFinding> {
    let mut findings = links::find_limits_of_links(snapshot);
    findings.extend(backends::find_limits_of_backends(snapshot));
    findings.extend(capacity::find_full_services(snapshot));
    findings.extend(capacity::find_descriptors(snapshot));
    findings.extend(kernel::find_limits_of_kernel(snapshot, machine));
    findings.extend(protection::find_certificates(snapshot));
    findings.extend(protection::find_open_locks(snapshot));
    findings.extend(availability::find_unexplained_outage(snapshot, &findings));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// Whether one of them is urgent.
pub fn must_act(findings: &[DoctorFinding]) -> bool {
    findings.iter().any(|finding| finding.severity == FindingSeverity::Must)
}

/// The findings in lines, for people; `whom` says of what there is none.
pub fn findings_text(findings: &[DoctorFinding], whom: &str) -> String {
    if findings.is_empty() {
        return format!("nothing limits {whom}");
    }
    let blocks = findings.iter().map(|finding| {
        let DoctorFinding { gateway, id, severity, object, figure, reason, advice } = finding;
        let about: String = [gateway.as_deref(), object.as_deref()]
            .into_iter()
            .flatten()
            .map(|name| format!("{name}: "))
            .collect();
        let line = text::clean_text(&format!("{about}{figure}"), FIELD_CHARS_MAX);
        let reason = text::clean_text(reason, FIELD_CHARS_MAX);
        let advice = text::clean_text(advice, FIELD_CHARS_MAX);
        format!("{:<6}  {id}  {line}\n        why: {reason}\n        do:  {advice}", severity.label())
    });
    let mut lines: Vec<_> = blocks.collect();
    if !must_act(findings) {
        lines.push("nothing must be done".into());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        profile::{Half, Mode},
        telemetry::{
            snapshot::{ConfinedRow, DescriptorUsage, GatewayPhase, PoolRow, PoolState, ServiceRow},
            verdict::CertificateRow,
        },
    };

    /// A DMZ half in reverse mode that lacks nothing.
    pub(super) fn healthy() -> Snapshot {
        let lock = ConfinedRow { seccomp: true, landlock: Some(4), refuses: Vec::new(), unix: None };
        Snapshot {
            phase: GatewayPhase::Running,
            halves: vec![Half::Dmz],
            confined: [(Half::Dmz, Some(lock))].into(),
            services: vec![ServiceRow { limit: Some(1000), ..ServiceRow::new(Half::Dmz, "orders") }],
            pools: vec![pool()],
            descriptors: DescriptorUsage { used: 40, limit: 65_536 },
            certificates: vec![certificate(400)],
            ..Snapshot::new("edge", Mode::Reverse)
        }
    }

    pub(super) fn pool() -> PoolRow {
        PoolRow {
            peer: Some("internal".into()),
            address: Some("10.0.0.5".into()),
            state: PoolState::Healthy,
            ready: 8,
            target: 8,
            protocol: Some("portcullis/2".into()),
            ..PoolRow::new(Half::Dmz, "*".into())
        }
    }

    pub(super) fn certificate(days: i64) -> CertificateRow {
        let object = "pki/dmz.pem".into();
        CertificateRow { half: Half::Dmz, used: "link".into(), object, ends: String::new(), days }
    }

    pub(super) fn spacious() -> MachineFacts {
        MachineFacts {
            accept_backlog: Some(4096),
            accept_overflows: Some(0),
            handshake_backlog: Some(4096),
            syn_cookies: Some(true),
            local_ports: Some(28_232),
            memory_bytes: Some(8 << 30),
            free_memory_bytes: Some(4 << 30),
        }
    }

    /// The findings of a kind, as severities.
    #[track_caller]
    pub(super) fn found(snapshot: &Snapshot, id: &str) -> Vec<FindingSeverity> {
        found_on(snapshot, &spacious(), id)
    }

    #[track_caller]
    pub(super) fn found_on(snapshot: &Snapshot, machine: &MachineFacts, id: &str) -> Vec<FindingSeverity> {
        let findings = find_limits(snapshot, machine);
        let other = findings.iter().find(|finding| finding.id != id);
        assert_eq!(other, None, "something else is found as well");
        findings.iter().map(|finding| finding.severity).collect()
    }

    #[test]
    fn a_healthy_gateway_has_no_findings() {
        let findings = find_limits(&healthy(), &spacious());
        assert_eq!(findings, []);
        assert!(!must_act(&findings));
        assert_eq!(findings_text(&findings, "this gateway"), "nothing limits this gateway");
        let unknown = find_limits(&healthy(), &MachineFacts::default());
        assert_eq!(unknown, [], "of what cannot be read nothing is said");
    }

    #[test]
    fn findings_are_sorted_by_urgency_and_formatted_in_lines() {
        let other = CertificateRow { object: "pki/www.pem".into(), ..certificate(20) };
        let certificates = vec![other, certificate(3)];
        let findings = find_limits(&Snapshot { certificates, ..healthy() }, &spacious());
        assert!(must_act(&findings));
        let text = findings_text(&findings, "this gateway");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert_eq!(lines[0], "must    certificate-ends  pki/dmz.pem: expires in 3 days");
        assert!(lines[1].starts_with("        why: ") && lines[2].starts_with("        do:  "), "{text}");
        assert_eq!(lines[3], "should  certificate-ends  pki/www.pem: expires in 20 days");
        let less = findings_text(&findings[1..], "this gateway");
        assert!(less.ends_with("\nnothing must be done"), "{less}");
    }

    #[test]
    fn names_from_outside_stay_on_their_line() {
        let row = CertificateRow { object: "a\nmust  b\u{1b}[2J".into(), ..certificate(3) };
        let findings = find_limits(&Snapshot { certificates: vec![row], ..healthy() }, &spacious());
        let text = findings_text(&findings, "this gateway");
        assert!(text.lines().count() == 3 && !text.contains('\u{1b}'), "{text:?}");
    }
}
