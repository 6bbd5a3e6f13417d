//! Follows alerts from one snapshot to the next: when each began, and an event when it begins or ends.
//!
//! A better state is believed only after it has lasted for a moment. An event is reported only after its cause
//! has lasted, so that what comes and goes within a second or two shows on the screen but leaves no log line.

use std::time::Duration;

use super::{Alert, AlertKind, Health, certificate_ends, expiry_reminders::ExpiryReminders};
use crate::telemetry::{health::is_linked, log::LogEvent, notices::NoticeLog, snapshot::Snapshot};

/// The alerts of previous snapshots, and since when they hold.
#[derive(Debug, Default)]
pub struct AlertTracker {
    active: Vec<ActiveAlert>,
    health: ReportedHealth,
    reminders: ExpiryReminders,
}

#[derive(Debug)]
struct ActiveAlert {
    alert: Alert,
    /// In seconds of the gateway.
    began: f64,
    seen: f64,
    is_reported: bool,
}

/// The health reported last, and a new one that has yet to last.
#[derive(Debug, Default)]
struct ReportedHealth {
    /// Unknown until the first has lasted.
    health: Option<Health>,
    next: Option<(Health, f64)>,
}

impl AlertTracker {
    /// Sets the start times of the alerts in a judged snapshot, and adds alerts that ended too recently to be
    /// dropped.
    pub fn set_times(&self, snapshot: &mut Snapshot) {
        let now = snapshot.uptime_seconds;
        for alert in &mut snapshot.alerts {
            if let Some(active) = self.active.iter().find(|active| is_same(&active.alert, alert)) {
                alert.since.clone_from(&active.alert.since);
            }
        }
        let is_held = |active: &&ActiveAlert| {
            now - active.seen < HOLD_SECONDS
                && !snapshot.alerts.iter().any(|alert| is_same(&active.alert, alert))
        };
        let held: Vec<_> = self.active.iter().filter(is_held).map(|active| active.alert.clone()).collect();
        if snapshot.health == Some(Health::Healthy)
            && let Some(worst) = held.iter().map(|alert| alert.kind.health()).max()
        {
            snapshot.health = Some(worst);
        }
        snapshot.alerts.extend(held);
        snapshot.alerts.sort_by_key(|alert| std::cmp::Reverse(alert.kind.severity()));
    }

    /// Must be called with each snapshot, in order, before it is shown.
    pub fn update(&mut self, snapshot: &Snapshot, notices: &NoticeLog) {
        let now = snapshot.uptime_seconds;
        for alert in &snapshot.alerts {
            match self.active.iter_mut().find(|active| is_same(&active.alert, alert)) {
                Some(active) => {
                    active.alert.text.clone_from(&alert.text);
                    active.seen = now;
                }
                None => {
                    let alert = alert.clone();
                    self.active.push(ActiveAlert { alert, began: now, seen: now, is_reported: false });
                }
            }
        }
        self.active.sort_by_key(|active| std::cmp::Reverse(active.alert.kind.severity()));
        for active in &mut self.active {
            let is_due = now - active.began >= active.alert.kind.reported_after() && !active.is_reported;
            if is_due && active.seen == now {
                active.is_reported = true;
                if !active.alert.kind.is_reported_elsewhere() {
                    notices.warn(LogEvent::AlertRaised.line(active.alert.text.as_str()));
                }
            }
        }
        let over: Vec<_> = self.active.extract_if(.., |active| now - active.seen >= HOLD_SECONDS).collect();
        for active in over.iter().filter(|active| active.is_reported) {
            notices.info(LogEvent::AlertOver.line(over_line(snapshot, active)));
        }
        for line in self.reminders.due(&certificate_ends(snapshot)) {
            notices.warn(LogEvent::CertificateEnds.line(line));
        }
        self.report_health(snapshot, notices);
    }

    fn report_health(&mut self, snapshot: &Snapshot, notices: &NoticeLog) {
        let now = snapshot.uptime_seconds;
        let Some(health) = snapshot.health else { return };
        if Some(health) == self.health.health {
            self.health.next = None;
            return;
        }
        match self.health.next {
            Some((next, since)) if next == health && now - since >= SETTLED_SECONDS => {
                let reported = ReportedHealth { health: Some(health), next: None };
                let word = health.label();
                match std::mem::replace(&mut self.health, reported).health {
                    None if health == Health::Healthy => {}
                    None => notices.warn(LogEvent::AlertRaised.line(format!("health: {word}"))),
                    Some(before) => {
                        let line = format!("health: {word}, was {}", before.label());
                        match health > before {
                            true => notices.warn(LogEvent::AlertRaised.line(line)),
                            false => notices.info(LogEvent::AlertOver.line(line)),
                        }
                    }
                }
            }
            Some((next, _)) if next == health => {}
            _ => self.health.next = Some((health, now)),
        }
    }
}

fn is_same(one: &Alert, other: &Alert) -> bool {
    (one.kind, &one.object, &one.address) == (other.kind, &other.object, &other.address)
}

impl AlertKind {
    /// A lost gateway has been away for a while by the time that is noticed.
    fn reported_after(self) -> f64 {
        match self {
            Self::PeerLost => 0.0,
            Self::Unreachable
            | Self::NoLink
            | Self::ServiceDown
            | Self::Full
            | Self::Starved
            | Self::Backend
            | Self::Refused
            | Self::Fault
            | Self::Expired
            | Self::Descriptors
            | Self::Short
            | Self::Drained
            | Self::Lockdown
            | Self::Closed
            | Self::Certificate
            | Self::ExpiredList
            | Self::Log => SETTLED_SECONDS,
        }
    }

    /// Operators' actions, refusals and approaching expiry dates have lines of their own.
    fn is_reported_elsewhere(self) -> bool {
        matches!(
            self,
            Self::Drained
                | Self::Lockdown
                | Self::Certificate
                | Self::Closed
                | Self::Full
                | Self::Refused
                | Self::ServiceDown
                | Self::Fault
        )
    }
}

/// A gateway that is no longer lost may be back, or may have been forgotten.
fn over_line(snapshot: &Snapshot, active: &ActiveAlert) -> String {
    let Alert { kind, object, address, text, .. } = &active.alert;
    let seconds = (active.seen - active.began).max(0.0) as u64;
    let span = humantime::format_duration(Duration::from_secs(seconds));
    let mut pools = snapshot.pools.iter();
    let is_back =
        pools.any(|pool| pool.peer.as_ref() == Some(object) && pool.address == *address && is_linked(pool));
    if is_back && matches!(kind, AlertKind::PeerLost | AlertKind::NoLink) {
        return format!("{}: back after {span}", active.alert.ended_by());
    }
    if *kind == AlertKind::PeerLost {
        return format!("{}: not waited for any more", active.alert.ended_by());
    }
    format!("over after {span}: {text}")
}

/// How long a better state must last before it is shown.
const HOLD_SECONDS: f64 = 1.0;
/// Anything that has lasted this long is an event.
const SETTLED_SECONDS: f64 = 2.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{
        health::tests::{judged, orders, pool},
        snapshot::{NoticeLevel, PoolRow, PoolState},
    };

    /// What is reported over some seconds, with a snapshot of these pools every quarter of a second.
    #[derive(Default)]
    struct AlertTrace {
        alarms: AlertTracker,
        notices: NoticeLog,
        now: f64,
    }

    impl AlertTrace {
        fn over(&mut self, seconds: f64, pools: &[PoolRow]) -> Snapshot {
            let mut last = Snapshot::new("edge", crate::profile::Mode::Reverse);
            for _ in 0..(seconds * 4.0) as usize {
                self.now += 0.25;
                last = judged(vec![orders()], pools.to_vec());
                last.uptime_seconds = self.now;
                self.alarms.update(&last, &self.notices);
                self.alarms.set_times(&mut last);
            }
            last
        }

        fn lines(&self) -> Vec<String> {
            let reported = self.notices.all();
            let level = |level| if level == NoticeLevel::Warn { "WARN" } else { "INFO" };
            reported.into_iter().map(|notice| format!("{} {}", level(notice.level), notice.text)).collect()
        }
    }

    #[test]
    fn a_lost_gateway_its_return_and_the_health_are_each_reported_once() {
        let well = pool(PoolState::Healthy, 8);
        let lost = PoolRow { gone_seconds: Some(2.0), cut: 3, ..pool(PoolState::Down, 0) };
        let mut reported = AlertTrace::default();
        reported.over(5.0, std::slice::from_ref(&well));
        let seen = reported.over(70.0, &[lost]);
        assert_eq!(seen.health, Some(Health::Down));
        let seen = reported.over(5.0, &[well]);
        assert_eq!((seen.health, seen.alerts.len()), (Some(Health::Healthy), 0));
        let expected = [
            "WARN internal at 10.0.0.5: lost, 3 sessions cut; no link for orders",
            "WARN health: DOWN, was HEALTHY",
            "INFO internal at 10.0.0.5: back after 1m 9s",
            "INFO health: HEALTHY, was DOWN",
        ];
        assert_eq!(reported.lines(), expected);
    }

    #[test]
    fn a_gateway_that_starts_without_a_link_was_never_healthy() {
        let mut reported = AlertTrace::default();
        reported.over(5.0, &[pool(PoolState::Down, 0)]);
        reported.over(5.0, &[pool(PoolState::Healthy, 8)]);
        let lines = reported.lines();
        let of_health: Vec<_> = lines.iter().filter(|line| line.contains("health: ")).collect();
        assert_eq!(of_health, ["WARN health: DOWN", "INFO health: HEALTHY, was DOWN"]);
    }

    #[test]
    fn what_comes_and_goes_is_seen_and_leaves_no_line() {
        let (well, short) = (pool(PoolState::Healthy, 8), pool(PoolState::Filling, 2));
        let mut reported = AlertTrace::default();
        for _ in 0..20 {
            let seen = reported.over(1.0, std::slice::from_ref(&short));
            assert_eq!(seen.health, Some(Health::Degraded));
            reported.over(2.0, std::slice::from_ref(&well));
        }
        assert_eq!(reported.lines(), [""; 0]);
    }

    #[test]
    fn an_alert_keeps_the_time_at_which_it_began() {
        let mut reported = AlertTrace::default();
        let first = reported.over(1.0, &[pool(PoolState::Filling, 2)]).alerts[0].clone();
        let error = Some("connection refused".to_owned());
        let worse = PoolRow { last_error: error, ..pool(PoolState::Filling, 1) };
        let later = reported.over(9.0, &[worse]).alerts[0].clone();
        assert_eq!(first.since, later.since);
        assert_eq!(later.text, "any service: 1 of 8 links ready from internal: connection refused");
    }

    #[test]
    fn an_expiring_certificate_is_reminded_at_its_marks_and_is_no_alert() {
        let ends_in = |days| PoolRow { certificate_days: Some(days), ..pool(PoolState::Healthy, 8) };
        let mut reported = AlertTrace::default();
        for days in [31, 30, 29, 8, 7] {
            reported.over(5.0, &[ends_in(days)]);
        }
        let seen = reported.over(5.0, &[ends_in(7)]);
        assert_eq!(seen.alerts.len(), 1, "it is still an alert: {:?}", seen.alerts);
        let lines = reported.lines();
        let of_certificates: Vec<_> = lines.iter().filter(|line| line.contains("certificate")).collect();
        // At 30, 8 and 7 days; such lines within a short time are shown as one.
        assert_eq!(of_certificates, ["WARN the certificate of internal expires in 7 days (3x)"]);
    }
}
