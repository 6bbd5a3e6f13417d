//! The health of the gateway from a client's point of view: one word for the gateway, one for each service, and
//! the alerts behind them.
//!
//! [`judge_snapshot`] looks at the rows of one snapshot and writes its verdict into it, so that the screen, `status`
//! and the log all say the same. [`alert_tracker`] goes from one snapshot to the next: it keeps the time at which
//! each alert began, holds what would flicker, and makes an event of each that begins or ends. Counting, and
//! building the rows, is not done here.
//!
//! The files here use each other: each judges one kind of rows, by the thresholds and with the alerts of this one.

use std::time::{Duration, SystemTime};

pub mod alert_tracker;
mod expiry_reminders;
mod links;
pub mod readiness;
mod services;

pub use links::{is_linked, severity};
pub use services::is_backend_down;

pub use super::verdict::{
    Alert, AlertKind, CertificateRow, DrainRequest, FileFaultRow, Health, LogLossRow, RefusalRow,
    RevocationListRow, ServiceProblem, Severity,
};

use super::{
    log,
    snapshot::{GatewayPhase, ServicePhase, ServiceRow, Snapshot},
};

/// Judges what the rows of a snapshot mean for clients; `now` is when they were made.
pub fn judge_snapshot(snapshot: &mut Snapshot, now: SystemTime) {
    let verdicts: Vec<_> =
        snapshot.services.iter().map(|row| services::judge_service(snapshot, row)).collect();
    for (row, (health, lack)) in snapshot.services.iter_mut().zip(verdicts) {
        (row.health, row.lack) = (Some(health), lack);
    }
    let mut alerts = Vec::new();
    links::find_alerts(snapshot, now, &mut alerts);
    services::find_alerts(snapshot, now, &mut alerts);
    find_others(snapshot, now, &mut alerts);
    alerts.sort_by_key(|alert| std::cmp::Reverse(alert.kind.severity()));
    snapshot.health = Some(health(snapshot, &alerts));
    snapshot.alerts = alerts;
}

fn health(snapshot: &Snapshot, alerts: &[Alert]) -> Health {
    if matches!(snapshot.phase, GatewayPhase::Starting | GatewayPhase::Stopped) || serves_nobody(snapshot) {
        return Health::Down;
    }
    alerts.iter().map(|alert| alert.kind.health()).max().unwrap_or(Health::Healthy)
}

/// In a pair, a service has two halves, and is served when both are well.
fn serves_nobody(snapshot: &Snapshot) -> bool {
    if snapshot.services.is_empty() {
        let mut pools = snapshot.pools.iter();
        return !snapshot.pools.is_empty() && pools.all(|pool| !is_linked(pool));
    }
    let is_down = |row: &&ServiceRow| row.health == Some(Health::Down);
    let is_served =
        |name: &str| !snapshot.services.iter().filter(|row| row.name == name).any(|row| is_down(&row));
    !snapshot.services.iter().any(|row| is_served(&row.name))
}

fn find_others(snapshot: &Snapshot, now: SystemTime, alerts: &mut Vec<Alert>) {
    for end in certificate_ends(snapshot) {
        push_certificate(&end, now, alerts);
    }
    for row in snapshot.revocation_lists.iter().filter(|row| row.has_expired) {
        let what = format!("the list of revoked certificates {} has expired on {}", row.object, row.ends);
        let (kind, text) = match row.refuses {
            true => (AlertKind::Expired, format!("{what}: new handshakes are refused")),
            false => (AlertKind::ExpiredList, format!("{what}, and is still accepted")),
        };
        push_alert(alerts, kind, row.object.clone(), now, text);
    }
    let (used, limit) = (snapshot.descriptors.used, snapshot.descriptors.limit);
    if limit > 0 && used.saturating_mul(10) >= limit.saturating_mul(9) {
        let text =
            format!("{used} of {limit} file descriptors in use; raise the limit or lower the sessions");
        push_alert(alerts, AlertKind::Descriptors, "descriptors".into(), now, text);
    }
    for row in &snapshot.log_losses {
        push_alert(alerts, AlertKind::Log, row.target.clone(), now, log::lost_text(row.lost, &row.cause));
    }
    for row in &snapshot.file_faults {
        let text = format!("{}; what was read before stays in force", row.what);
        push_alert(alerts, AlertKind::Fault, row.object.clone(), now, text);
    }
}

/// When a certificate of this gateway or of a peer expires.
#[derive(Debug, Clone)]
pub struct CertificateEnd {
    what: String,
    object: String,
    days: i64,
}

/// The ends of all known certificates. A peer has one certificate and may have many rows.
pub fn certificate_ends(snapshot: &Snapshot) -> Vec<CertificateEnd> {
    let own = snapshot.certificates.iter().map(|row| CertificateEnd {
        what: format!("the {} certificate {}", row.used, row.object),
        object: row.object.clone(),
        days: row.days,
    });
    let of_peers = snapshot.pools.iter().filter_map(|pool| {
        let (days, peer) = (pool.certificate_days?, pool.peer.as_ref()?);
        Some(CertificateEnd { what: format!("the certificate of {peer}"), object: peer.clone(), days })
    });
    own.chain(of_peers).collect()
}

fn days_left(days: i64) -> String {
    match days {
        ..0 => "has expired".into(),
        0 => "expires within a day".into(),
        1 => "expires in 1 day".into(),
        days => format!("expires in {days} days"),
    }
}

fn push_certificate(end: &CertificateEnd, now: SystemTime, alerts: &mut Vec<Alert>) {
    let CertificateEnd { what, object, days } = end;
    let kind = match days {
        ..0 => AlertKind::Expired,
        0..=RENEWAL_ALERT_DAYS => AlertKind::Certificate,
        _ => return,
    };
    push_alert(alerts, kind, object.clone(), now, format!("{what} {}", days_left(*days)));
}

/// One cause is one alert: in a pair, both halves report the same.
fn push_alert(alerts: &mut Vec<Alert>, kind: AlertKind, object: String, since: SystemTime, text: String) {
    if !alerts.iter().any(|alert| alert.kind == kind && alert.object == object && alert.text == text) {
        alerts.push(Alert {
            gateway: None,
            kind,
            object,
            address: None,
            since: log::format_utc(since),
            text,
        });
    }
}

/// The time this many seconds before `now`.
fn time_before(now: SystemTime, seconds: f64) -> SystemTime {
    let passed = Duration::try_from_secs_f64(seconds).ok();
    passed.and_then(|passed| now.checked_sub(passed)).unwrap_or(now)
}

/// Whether a service takes no new sessions because of a drain.
fn is_draining(row: &ServiceRow) -> bool {
    row.phase == ServicePhase::Draining
}

/// A certificate that ends within this many days is an alert: getting another one may take that long.
const RENEWAL_ALERT_DAYS: i64 = 14;

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::{
        profile::{Half, Mode},
        telemetry::snapshot::{PoolRow, PoolState, TrafficTotals},
    };

    pub(super) fn noon() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_769_860_800)
    }

    pub(super) fn pool(state: PoolState, ready: usize) -> PoolRow {
        PoolRow {
            peer: Some("internal".into()),
            address: Some("10.0.0.5".into()),
            state,
            ready,
            target: 8,
            ..PoolRow::new(Half::Dmz, "*".into())
        }
    }

    pub(super) fn orders() -> ServiceRow {
        ServiceRow::new(Half::Dmz, "orders")
    }

    pub(super) fn judged(services: Vec<ServiceRow>, pools: Vec<PoolRow>) -> Snapshot {
        let phase = GatewayPhase::Running;
        let mut snapshot = Snapshot { phase, services, pools, ..Snapshot::new("edge", Mode::Reverse) };
        judge_snapshot(&mut snapshot, noon());
        snapshot
    }

    pub(super) fn texts(snapshot: &Snapshot) -> Vec<&str> {
        snapshot.alerts.iter().map(|alert| &*alert.text).collect()
    }

    fn refused(code: &str, ago_seconds: f64) -> ServiceRow {
        let reason = "the limit of 60 open sessions (`sessions`) is reached".into();
        let refusals =
            vec![RefusalRow { code: code.into(), count: 60, reason, is_of_one_client: false, ago_seconds }];
        ServiceRow { refusals, ..orders() }
    }

    #[test]
    fn the_word_is_what_clients_get() {
        let (well, down) = (pool(PoolState::Healthy, 8), pool(PoolState::Down, 0));
        let starved = PoolRow { waiting: 1, carrying: 8, ..pool(PoolState::Starved, 0) };
        let waits_without_any = PoolRow { waiting: 1, ..pool(PoolState::Starved, 0) };
        let chat = ServiceRow::new(Half::Dmz, "chat");
        let drained = ServiceRow { phase: ServicePhase::Draining, ..chat.clone() };
        let at_limit = ServiceRow {
            limit: Some(60),
            totals: TrafficTotals { sessions_open: 60, ..TrafficTotals::default() },
            ..orders()
        };
        let cases = [
            (vec![orders()], vec![well.clone()], Health::Healthy),
            (vec![orders()], vec![pool(PoolState::Filling, 6)], Health::Healthy),
            (vec![orders()], vec![pool(PoolState::Filling, 3)], Health::Degraded),
            (vec![orders()], vec![well.clone(), down.clone()], Health::Degraded),
            (vec![orders()], vec![starved], Health::Degraded),
            (vec![orders()], vec![waits_without_any], Health::Down),
            (vec![orders()], vec![down], Health::Down),
            (vec![orders()], vec![], Health::Down),
            (vec![refused("LA", 1.0)], vec![well.clone()], Health::Full),
            (vec![refused("LA", 60.0)], vec![well.clone()], Health::Healthy),
            (vec![at_limit], vec![well.clone()], Health::Full),
            (vec![refused("TW", 1.0)], vec![well.clone()], Health::Degraded),
            (vec![refused("XA", 1.0)], vec![well.clone()], Health::Healthy),
            (vec![orders(), drained.clone()], vec![well.clone()], Health::Degraded),
            (vec![drained], vec![well], Health::Down),
        ];
        for (services, pools, expected) in cases {
            let reported = judged(services.clone(), pools.clone());
            assert_eq!(reported.health, Some(expected), "{services:?} {pools:?}");
            assert_eq!(reported.alerts.is_empty(), expected == Health::Healthy, "{:?}", reported.alerts);
        }
    }

    #[test]
    fn a_service_without_a_link_is_down_and_the_others_are_not() {
        let serves_chat = PoolRow { serves: vec!["chat".into()], ..pool(PoolState::Healthy, 8) };
        let reported = judged(vec![ServiceRow::new(Half::Dmz, "chat"), orders()], vec![serves_chat]);
        let of_services: Vec<_> = reported.services.iter().map(|row| row.health).collect();
        assert_eq!(of_services, [Some(Health::Healthy), Some(Health::Down)]);
        assert_eq!(reported.health, Some(Health::Degraded));
        assert_eq!(reported.alerts[0].object, "orders");
    }

    #[test]
    fn certificates_are_alerted_from_two_weeks_on() {
        let reported = |days| {
            let row = CertificateRow {
                half: Half::Dmz,
                used: "accept".into(),
                object: "pki/www.pem".into(),
                ends: String::new(),
                days,
            };
            let mut snapshot = judged(vec![], vec![]);
            snapshot.certificates = vec![row];
            judge_snapshot(&mut snapshot, noon());
            (snapshot.health, snapshot.alerts.first().map(|alert| (alert.kind, alert.text.clone())))
        };
        let (healthy, degraded) = (Some(Health::Healthy), Some(Health::Degraded));
        assert_eq!(reported(15), (healthy, None));
        let text = |text: &str| format!("the accept certificate pki/www.pem {text}");
        assert_eq!(reported(14), (degraded, Some((AlertKind::Certificate, text("expires in 14 days")))));
        assert_eq!(reported(0), (degraded, Some((AlertKind::Certificate, text("expires within a day")))));
        assert_eq!(reported(-1), (degraded, Some((AlertKind::Expired, text("has expired")))));
    }

    #[test]
    fn a_drained_service_shows_since_when_and_by_whom() {
        let drained = DrainRequest { since: "2026-01-31T14:01:58.000Z".into(), by: "uid 0".into() };
        let row = ServiceRow { phase: ServicePhase::Draining, drained: Some(drained), ..orders() };
        let reported =
            judged(vec![ServiceRow::new(Half::Dmz, "chat"), row], vec![pool(PoolState::Healthy, 8)]);
        assert_eq!(texts(&reported), ["orders: drained since 2026-01-31T14:01:58.000Z by uid 0"]);
        assert_eq!(reported.alerts[0].since, "2026-01-31T14:01:58.000Z");
    }

    #[test]
    fn a_service_outside_its_hours_is_shown_as_not_served() {
        let closed = |reason: Option<&str>| ServiceRow {
            phase: ServicePhase::Closed,
            reason: reason.map(Into::into),
            ..orders()
        };
        let well = pool(PoolState::Healthy, 8);
        let reported = judged(vec![closed(None), ServiceRow::new(Half::Dmz, "chat")], vec![well.clone()]);
        assert_eq!(
            (reported.health, reported.services[0].health),
            (Some(Health::Degraded), Some(Health::Down))
        );
        assert_eq!(texts(&reported), ["orders: it is outside of its hours"]);
        assert_eq!(reported.alerts[0].kind, AlertKind::Closed);
        let reported = judged(vec![closed(Some("alpha: it is outside of its hours"))], vec![well]);
        assert_eq!(
            (reported.health, texts(&reported)),
            (Some(Health::Down), vec!["orders: alpha: it is outside of its hours"])
        );
    }

    #[test]
    fn a_dead_backend_is_an_alert() {
        let backend_error = Some("backend 127.0.0.1:5432: connection refused".to_owned());
        let failing = |failed_in_a_row| ServiceRow {
            failed_in_a_row,
            backend_error: backend_error.clone(),
            ..orders()
        };
        let well = pool(PoolState::Healthy, 8);
        assert!(judged(vec![failing(2)], vec![well.clone()]).alerts.is_empty());
        let reported = judged(vec![failing(300)], vec![well]);
        let expected = "orders: the last 300 sessions failed: backend 127.0.0.1:5432: connection refused";
        assert_eq!(texts(&reported), [expected]);
        let word = reported.services[0].lack.as_ref().map(|lack| lack.kind.label());
        assert_eq!(word, Some("FAILING"));
    }
}
