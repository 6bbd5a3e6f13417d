//! Clocks that differ, which can be found only by comparing several gateways.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    DoctorFinding,
    FindingSeverity::{Must, Should},
};
use crate::telemetry::{format, snapshot::Snapshot};

/// A smaller difference may be a snapshot's time on the way.
const SKEW_SECONDS: f64 = 5.0;
/// Certificates, tokens and revocation lists are issued with less tolerance than this.
const LONG_SKEW_SECONDS: f64 = 60.0;

/// One gateway's clock, compared with a clock that is the same for all.
#[derive(Debug, Clone, PartialEq)]
pub struct GatewayClock {
    pub name: Arc<str>,
    pub ahead_seconds: f64,
}

impl GatewayClock {
    /// Reads the clock from a snapshot that arrived this long before `now`; `None` if its time is
    /// invalid.
    pub fn of_snapshot(
        name: &Arc<str>,
        snapshot: &Snapshot,
        heard_seconds: f64,
        now: SystemTime,
    ) -> Option<Self> {
        let time = humantime::parse_rfc3339_weak(&snapshot.time).ok()?;
        let [time, now] =
            [time, now].map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        Some(Self { name: Arc::clone(name), ahead_seconds: time + heard_seconds - now })
    }
}

/// Each clock that differs from the median: most of many are right.
pub fn find_clock_skew(mut clocks: Vec<GatewayClock>) -> Vec<DoctorFinding> {
    clocks.sort_by(|a, b| a.ahead_seconds.total_cmp(&b.ahead_seconds));
    let Some(middle) = clocks.get(clocks.len().saturating_sub(1) / 2) else { return Vec::new() };
    clocks.iter().filter_map(|clock| find_skew(clock, middle)).collect()
}

fn find_skew(clock: &GatewayClock, middle: &GatewayClock) -> Option<DoctorFinding> {
    let offset = clock.ahead_seconds - middle.ahead_seconds;
    let severity = match offset.abs() {
        LONG_SKEW_SECONDS.. => Must,
        SKEW_SECONDS.. => Should,
        _ => return None,
    };
    let direction = if offset > 0.0 { "ahead of" } else { "behind" };
    let figure = format!("its clock is {} {direction} {}", format::uptime(offset.abs()), middle.name);
    let reason = "certificates, tokens and revocation lists are valid at different times on each host, and the logs cannot be compared";
    let advice =
        "let chronyd or systemd-timesyncd set the clocks of both, and see that it reaches its servers";
    let found = DoctorFinding::new("clock-skew", severity, figure, reason, advice);
    Some(DoctorFinding { gateway: Some(Arc::clone(&clock.name)), ..found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(clocks: &[(&str, f64)]) -> Vec<String> {
        let clock = |&(name, ahead_seconds): &(&str, f64)| GatewayClock { name: name.into(), ahead_seconds };
        let found = find_clock_skew(clocks.iter().map(clock).collect());
        found
            .iter()
            .map(|found| {
                let name = found.gateway.as_deref().unwrap_or("-");
                format!("{} {name}: {}", found.severity.label(), found.figure)
            })
            .collect()
    }

    #[test]
    fn a_clock_that_differs_from_most_is_reported_with_the_difference() {
        assert_eq!(found(&[]), [""; 0]);
        assert_eq!(
            found(&[("edge", 400.0)]),
            [""; 0],
            "the clock of this machine may be the one that is wrong"
        );
        assert_eq!(found(&[("edge", 1.0), ("inside", -2.0)]), [""; 0]);
        assert_eq!(
            found(&[("edge", 312.0), ("inside", 0.0)]),
            ["must edge: its clock is 5m 12s ahead of inside"]
        );
        assert_eq!(
            found(&[("a", 900.0), ("b", 890.0), ("c", 900.5), ("d", 899.0)]),
            ["should b: its clock is 9s behind d"]
        );
        assert_eq!(found(&[("edge", f64::MAX), ("inside", f64::MIN)]).len(), 1);
    }
}
