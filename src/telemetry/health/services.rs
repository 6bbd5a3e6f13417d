//! Alerts about single services, as their clients experience them: no link, a limit, a failing backend, a
//! refusal.
//!
//! Gateways are judged by their links elsewhere. The question here is whether clients of one service reach
//! their backend.

use std::time::SystemTime;

use super::{
    Alert, AlertKind, Health, RefusalRow, ServiceProblem, Severity, is_draining, links, push_alert, severity,
};
use crate::{
    profile::{Half, Mode},
    telemetry::{
        format,
        snapshot::{PoolRow, ServicePhase, ServiceRow, Snapshot},
    },
};

/// Its health, and the worst of what its clients lack.
pub fn judge_service(snapshot: &Snapshot, row: &ServiceRow) -> (Health, Option<ServiceProblem>) {
    if row.phase == ServicePhase::Locked {
        let why = "locked".into();
        return (Health::Down, Some(ServiceProblem { kind: AlertKind::Lockdown, why }));
    }
    if row.phase == ServicePhase::Closed {
        return (Health::Down, own_lack(row));
    }
    if is_draining(row) {
        let why = drained(row);
        return (Health::Down, Some(ServiceProblem { kind: AlertKind::Drained, why }));
    }
    let found = [
        own_lack(row),
        link_lack(snapshot, row),
        limit_lack(snapshot, row),
        backend_lack(row),
        refusal_lack(row),
    ];
    // The first of those that are equally bad.
    let lack = found.into_iter().flatten().rev().max_by_key(|lack| lack.kind.severity());
    let health = match lack.as_ref().map(|lack| lack.kind) {
        None => Health::Healthy,
        Some(AlertKind::NoLink | AlertKind::PeerLost | AlertKind::ServiceDown) => Health::Down,
        Some(AlertKind::Full) => Health::Full,
        Some(_) => Health::Degraded,
    };
    (health, lack)
}

/// Alerts of services; those without a link are reported with the links.
pub fn find_alerts(snapshot: &Snapshot, now: SystemTime, alerts: &mut Vec<Alert>) {
    let since = |row: &ServiceRow| {
        let drained = row.drained.as_ref();
        drained.and_then(|drained| humantime::parse_rfc3339(&drained.since).ok()).unwrap_or(now)
    };
    for row in &snapshot.lockdown {
        let object = row.service.as_deref().or(row.peer.as_deref()).unwrap_or("*").to_owned();
        let since = humantime::parse_rfc3339(&row.since).unwrap_or(now);
        let text = format!("{row} is locked until `unlock`");
        push_alert(alerts, AlertKind::Lockdown, object, since, text);
    }
    let are_all_drained = snapshot.services.iter().all(is_draining);
    // The gateway's phase already says that it stops.
    let is_stopping = snapshot.cut_in_seconds.is_some();
    for row in snapshot.services.iter().filter(|row| is_draining(row) && !is_stopping) {
        let object = if are_all_drained { "*" } else { row.name.as_str() };
        let what = if are_all_drained { "all services" } else { row.name.as_str() };
        push_alert(
            alerts,
            AlertKind::Drained,
            object.into(),
            since(row),
            format!("{what}: {}", drained(row)),
        );
    }
    for row in snapshot.services.iter().filter(|row| !is_draining(row)) {
        for lack in [own_lack(row), limit_lack(snapshot, row), backend_lack(row), refusal_lack(row)]
            .into_iter()
            .flatten()
        {
            push_alert(alerts, lack.kind, row.name.clone(), now, format!("{}: {}", row.name, lack.why));
        }
    }
}

fn drained(row: &ServiceRow) -> String {
    match &row.drained {
        Some(drained) => format!("drained since {} by {}", drained.since, drained.by),
        None => row.reason.clone().unwrap_or_else(|| "drained".into()),
    }
}

/// A fault of its own, such as a certificate that cannot be used.
fn own_lack(row: &ServiceRow) -> Option<ServiceProblem> {
    match (row.phase, &row.reason) {
        (ServicePhase::Down, why) => {
            let why = why.clone().unwrap_or_else(|| "down".into());
            Some(ServiceProblem { kind: AlertKind::ServiceDown, why })
        }
        (ServicePhase::Closed, why) => {
            let why = why.clone().unwrap_or_else(|| "it is outside of its hours".into());
            Some(ServiceProblem { kind: AlertKind::Closed, why })
        }
        (_, Some(why)) => Some(ServiceProblem { kind: AlertKind::Fault, why: why.clone() }),
        (_, None) => None,
    }
}

/// A client that came now would be refused, or one was just refused.
fn limit_lack(snapshot: &Snapshot, row: &ServiceRow) -> Option<ServiceProblem> {
    // One client that has reached its own limit does not keep others out. Links that are all in use have an alert
    // of their own.
    let is_of_links =
        |refusal: &RefusalRow| refusal.code == "LW" && links::are_full(links::serving_pools(snapshot, row));
    let refused = recent_refusals(row, LIMIT_SECONDS)
        .find(|refusal| refusal.code.starts_with('L') && !refusal.is_of_one_client && !is_of_links(refusal));
    let is_reached = row.limit.is_some_and(|limit| row.totals.open_and_waiting() >= limit as u64);
    let why = match (refused, row.limit) {
        (Some(refusal), _) => format!("full, {} refused: {}", clients(refusal.count), refusal.reason),
        (None, Some(limit)) if is_reached => {
            format!(
                "full: the limit of {} (`sessions`) is reached",
                format::count(limit as u64, "open session")
            )
        }
        (None, _) => return None,
    };
    Some(ServiceProblem { kind: AlertKind::Full, why })
}

/// Whether the last sessions all failed at the backend.
pub fn is_backend_down(row: &ServiceRow) -> bool {
    row.failed_in_a_row >= FAILED_MIN
}

/// A single failure may be the client's bad luck.
fn backend_lack(row: &ServiceRow) -> Option<ServiceProblem> {
    let error = row.backend_error.as_deref().unwrap_or("its backend does not answer");
    let why = format!("the last {} sessions failed: {error}", row.failed_in_a_row);
    is_backend_down(row).then_some(ServiceProblem { kind: AlertKind::Backend, why })
}

/// Refusals that are our own fault, or the other gateway's. Whom a policy or an operator refuses is refused
/// rightly, and limits and backends have alerts of their own.
fn refusal_lack(row: &ServiceRow) -> Option<ServiceProblem> {
    let refusal =
        recent_refusals(row, REFUSED_SECONDS).find(|refusal| refusal.code.starts_with(['P', 'T', 'I']))?;
    let why = format!("{} refused, {}: {}", clients(refusal.count), refusal.code, refusal.reason);
    Some(ServiceProblem { kind: AlertKind::Refused, why })
}

fn recent_refusals(row: &ServiceRow, seconds: f64) -> impl Iterator<Item = &RefusalRow> {
    row.refusals.iter().filter(move |refusal| refusal.ago_seconds < seconds)
}

fn clients(count: u64) -> String {
    format::count(count, "client")
}

/// Any healthy peer can serve it, so the best of its pools counts, and whether clients wait.
fn link_lack(snapshot: &Snapshot, service: &ServiceRow) -> Option<ServiceProblem> {
    let pools: Vec<_> = links::serving_pools(snapshot, service).collect();
    let Some(best) = pools.iter().map(|pool| severity(pool)).min() else {
        let needs_links = snapshot.mode != Mode::Direct && service.half == Half::Dmz;
        let why = "no link that serves it is up".into();
        return needs_links.then_some(ServiceProblem { kind: AlertKind::NoLink, why });
    };
    let (ready, wanted) = pools.iter().fold((0, 0_usize), |sum: (usize, usize), pool| {
        (sum.0.saturating_add(pool.ready), sum.1.saturating_add(pool.target))
    });
    let waiting = links::waiting_clients(snapshot, service);
    let (kind, what) = match best {
        Severity::Lost if waiting > 0 => (AlertKind::NoLink, format!("no link, {} wait", clients(waiting))),
        Severity::Lost => (AlertKind::NoLink, "no link".to_owned()),
        _ if links::are_full(pools.iter().copied()) => {
            let carrying = pools.iter().fold(0_usize, |sum, pool| sum.saturating_add(pool.carrying));
            let why = format!("full: {AT_MAXIMUM}, {carrying} carry");
            return Some(ServiceProblem { kind: AlertKind::Full, why });
        }
        _ if pools.iter().any(|pool| links::is_waited_for(pool, service)) => {
            let waits =
                if waiting > 0 { format!("{} wait", clients(waiting)) } else { "clients wait".into() };
            (AlertKind::Starved, format!("{waits}, {ready} of {wanted} links ready"))
        }
        Severity::Starved | Severity::Short => (AlertKind::Short, format!("{ready} of {wanted} links ready")),
        Severity::Fine => return None,
    };
    let is_bad = |pool: &&&PoolRow| severity(pool) > Severity::Fine;
    let error = pools.iter().filter(is_bad).find_map(|pool| pool.last_error.as_deref());
    let why = error.map_or_else(|| what.clone(), |error| format!("{what}: {error}"));
    Some(ServiceProblem { kind, why })
}

/// The error of `link::dial_state` about such a gateway.
const AT_MAXIMUM: &str = "`maximum` links are in use";
/// A limit that has refused nobody for this long, and is not reached, refuses nobody now.
const LIMIT_SECONDS: f64 = 10.0;
/// Longer than most pauses between two clients.
const REFUSED_SECONDS: f64 = 30.0;
/// How many sessions in a row must fail at a backend before it counts as dead.
const FAILED_MIN: u64 = 3;
