//! Alerts about missing links, and about the services that have none as a result.
//!
//! One cause is one alert: a lost gateway is reported once, with the services that have no link because of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use super::{Alert, AlertKind, Severity, is_draining, push_alert, time_before};
use crate::{
    profile::{Half, Mode},
    telemetry::{
        format, log,
        snapshot::{PoolRow, PoolState, ServiceRow, Snapshot},
    },
};

/// Whether links are up, so that sessions can be carried. A pool that dials a link for each session keeps none
/// ready, and counts as linked while it is healthy. A gap shorter than a client's patience is ignored. Links of
/// a draining gateway do not count: they take no new sessions.
pub fn is_linked(pool: &PoolRow) -> bool {
    pool.ready > 0
        || pool.carrying > 0 && !pool.left
        || pool.state == PoolState::Healthy
        || pool.gone_seconds.is_some_and(|seconds| seconds < GAP_SECONDS)
}

/// A pool that refills after a session took a link is fine: its word must not flicker under load.
pub fn severity(pool: &PoolRow) -> Severity {
    // It has no link because it should have none.
    if pool.standby {
        return Severity::Fine;
    }
    if !is_linked(pool) {
        return Severity::Lost;
    }
    match pool.shown_state() {
        PoolState::Healthy | PoolState::Down => Severity::Fine,
        PoolState::Filling if pool.retry_seconds.is_some() || pool.ready < pool.target / 2 => Severity::Short,
        PoolState::Filling if is_full(pool) || pool.leaves_unanswered() => Severity::Short,
        PoolState::Filling => Severity::Fine,
        PoolState::Starved => Severity::Starved,
    }
}

/// The pools of a service's half that may carry its sessions.
pub fn serving_pools<'a>(
    snapshot: &'a Snapshot,
    service: &'a ServiceRow,
) -> impl Iterator<Item = &'a PoolRow> {
    snapshot.pools.iter().filter(|pool| pool.half == service.half && pool.may_serve(&service.name))
}

/// Whether every link that may stand is in use.
fn is_full(pool: &PoolRow) -> bool {
    pool.at_maximum && pool.ready == 0
}

/// Whether every gateway with links has as many as it may, all in use: the next client gets none unless a
/// session ends.
pub fn are_full<'a>(pools: impl Iterator<Item = &'a PoolRow>) -> bool {
    let mut linked = pools.filter(|pool| !pool.standby && is_linked(pool)).peekable();
    linked.peek().is_some() && linked.all(is_full)
}

/// Clients of a service that wait for a link. If a pool is shared, clients of other services may be included.
pub fn waiting_clients(snapshot: &Snapshot, service: &ServiceRow) -> u64 {
    let pools = serving_pools(snapshot, service).filter(|pool| is_waited_for(pool, service));
    pools.fold(0, |sum, pool| sum.saturating_add(pool.waiting as u64))
}

pub fn is_waited_for(pool: &PoolRow, service: &ServiceRow) -> bool {
    let is_alone = pool.waited_for.is_empty() && pool.service == service.name;
    pool.waited_for.contains(&service.name) || is_alone && pool.shown_state() == PoolState::Starved
}

/// Alerts for gateways without links, for too few links, and for services that nobody offers.
pub fn find_alerts(snapshot: &Snapshot, now: SystemTime, alerts: &mut Vec<Alert>) {
    let gateways = gateways(snapshot);
    let mut unserved: Vec<_> = snapshot.services.iter().filter(|row| has_no_link(snapshot, row)).collect();
    for rows in gateways.values() {
        if rows.iter().all(|pool| severity(pool) == Severity::Lost) {
            find_lost(snapshot, rows, now, alerts);
            let may_serve = |service: &ServiceRow| rows.iter().any(|pool| serves(pool, service));
            unserved.retain(|service| !may_serve(service));
        } else {
            rows.iter().for_each(|pool| find_short(snapshot, pool, now, alerts));
        }
    }
    find_unserved(snapshot, &unserved, now, alerts);
    find_starved(snapshot, now, alerts);
}

/// Half, name, address, instance.
type GatewayKey<'a> = (Half, Option<&'a str>, Option<&'a str>, Option<&'a str>);

/// The pools of each known gateway, without those of draining services, which are expected to have no links.
/// Several gateways may share a name.
fn gateways(snapshot: &Snapshot) -> BTreeMap<GatewayKey<'_>, Vec<&PoolRow>> {
    let drains = |pool: &PoolRow, name: &str| {
        let is_it = |row: &&ServiceRow| row.half == pool.half && row.name == name;
        snapshot.services.iter().find(is_it).is_some_and(is_draining)
    };
    let is_unused = |pool: &PoolRow| match pool.serves.as_slice() {
        [] if pool.service == "*" => {
            let mut of_half = snapshot.services.iter().filter(|row| row.half == pool.half).peekable();
            of_half.peek().is_some() && of_half.all(is_draining)
        }
        [] => drains(pool, &pool.service),
        serves => serves.iter().all(|name| drains(pool, name)),
    };
    let mut gateways: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let known = snapshot.pools.iter().filter(|pool| pool.peer.is_some() || pool.address.is_some());
    for pool in known.filter(|pool| !is_unused(pool)) {
        let key = (pool.half, pool.peer.as_deref(), pool.address.as_deref(), pool.instance.as_deref());
        gateways.entry(key).or_default().push(pool);
    }
    gateways
}

fn find_lost(snapshot: &Snapshot, rows: &[&PoolRow], now: SystemTime, alerts: &mut Vec<Alert>) {
    let Some(first) = rows.first() else { return };
    let of_half = snapshot.services.iter().filter(|service| service.half == first.half);
    let affected = of_half.filter(|service| rows.iter().any(|pool| serves(pool, service)));
    let affected: Vec<_> = affected.filter(|service| has_no_link(snapshot, service)).collect();
    // A gateway that has said goodbye is not missed while others serve.
    if affected.is_empty() && rows.iter().all(|pool| pool.left) {
        return;
    }
    let away = rows.iter().filter_map(|pool| pool.gone_seconds).reduce(f64::min);
    let is_lost = away.is_some() && rows.iter().all(|pool| !pool.left);
    let kind = if is_lost { AlertKind::PeerLost } else { AlertKind::NoLink };
    let mut alert = alert_about(first, kind, away.map_or(now, |away| time_before(now, away)));
    let text = &mut alert.text;
    text.push_str(match rows.iter().any(|pool| pool.carrying > 0) {
        _ if is_lost => ": lost",
        true => ": leaving",
        false => ": no link",
    });
    match rows.iter().map(|pool| pool.cut).max() {
        Some(cut) if cut > 0 => text.push_str(&format!(", {} cut", format::count(cut, "session"))),
        _ => {}
    }
    text.push_str(&services_without_link(snapshot, &affected));
    // Last, because it may be long and the line may be cut.
    if let Some(error) = rows.iter().find_map(|pool| pool.last_error.as_deref()) {
        text.push_str(&format!(": {error}"));
    }
    alerts.push(alert);
}

/// An alert that begins with the name of the gateway behind a pool.
fn alert_about(pool: &PoolRow, kind: AlertKind, since: SystemTime) -> Alert {
    let object = pool.peer.as_ref().or(pool.address.as_ref()).cloned().unwrap_or_default();
    let address = pool.address.clone();
    let since = log::format_utc(since);
    let mut alert = Alert { gateway: None, kind, object, address, since, text: String::new() };
    alert.text = alert.ended_by();
    alert
}

/// `; no link for chat, orders; 3 clients wait`.
fn services_without_link(snapshot: &Snapshot, services: &[&ServiceRow]) -> String {
    let names = names(services);
    let mut text = if names.is_empty() { String::new() } else { format!("; no link for {names}") };
    match services.iter().map(|service| waiting_clients(snapshot, service)).max() {
        Some(1) => text.push_str("; 1 client waits"),
        Some(count) if count > 0 => text.push_str(&format!("; {count} clients wait")),
        _ => {}
    }
    text
}

/// Services that no gateway offers; those with the same reason together.
fn find_unserved(snapshot: &Snapshot, unserved: &[&ServiceRow], now: SystemTime, alerts: &mut Vec<Alert>) {
    let mut by_reason: BTreeMap<Option<&str>, Vec<&ServiceRow>> = BTreeMap::new();
    for &service in unserved {
        let reason = serving_pools(snapshot, service).find_map(|pool| pool.last_error.as_deref());
        by_reason.entry(reason).or_default().push(service);
    }
    for (reason, services) in by_reason {
        let object = names(&services);
        let mut text = services_without_link(snapshot, &services).trim_start_matches("; ").to_owned();
        if let Some(reason) = reason {
            text.push_str(&format!(": {reason}"));
        }
        push_alert(alerts, AlertKind::NoLink, object, now, text);
    }
}

fn find_short(snapshot: &Snapshot, pool: &PoolRow, now: SystemTime, alerts: &mut Vec<Alert>) {
    let is_refused =
        |service: &ServiceRow| serves(pool, service) && are_full(serving_pools(snapshot, service));
    let refuses = || snapshot.services.iter().any(is_refused);
    let (kind, what) = match severity(pool) {
        Severity::Fine => return,
        // Reported with the services whose clients wait.
        Severity::Starved if !starved_services(pool).is_empty() => return,
        Severity::Lost => (AlertKind::NoLink, "no link".to_owned()),
        Severity::Starved | Severity::Short if pool.at_maximum => {
            let PoolRow { ready, target, carrying, .. } = pool;
            let kind = if refuses() { AlertKind::Full } else { AlertKind::Short };
            (kind, format!("full, {ready} of {target} links ready and {carrying} carry"))
        }
        Severity::Starved | Severity::Short => {
            (AlertKind::Short, format!("{} of {} links ready", pool.ready, pool.target))
        }
    };
    let service = if pool.service == "*" { "any service" } else { &pool.service };
    let text = with_peer(format!("{service}: {what}"), &[pool]);
    alerts.push(Alert { text, ..alert_about(pool, kind, now) });
}

/// The services whose clients wait for a link of a pool.
fn starved_services(pool: &PoolRow) -> Vec<&str> {
    if severity(pool) != Severity::Starved {
        return Vec::new();
    }
    match pool.waited_for.as_slice() {
        [] if pool.service == "*" => Vec::new(),
        [] => vec![&pool.service],
        waited_for => waited_for.iter().map(String::as_str).collect(),
    }
}

/// Clients wait although links are up: a queue is one alert, however many gateways could serve it.
fn find_starved(snapshot: &Snapshot, now: SystemTime, alerts: &mut Vec<Alert>) {
    let mut queues: BTreeMap<(Half, &str), Vec<&PoolRow>> = BTreeMap::new();
    for pool in &snapshot.pools {
        for service in starved_services(pool) {
            queues.entry((pool.half, service)).or_default().push(pool);
        }
    }
    for ((half, service), pools) in queues {
        let sum =
            |of: fn(&PoolRow) -> usize| pools.iter().fold(0_usize, |sum, pool| sum.saturating_add(of(pool)));
        let waiting = match sum(|pool| pool.waiting) {
            0 => "short".to_owned(),
            waiting => format!("{waiting} waiting"),
        };
        let may_serve = snapshot.pools.iter().filter(|pool| pool.half == half && pool.may_serve(service));
        let (kind, full) = match are_full(may_serve) {
            true => (AlertKind::Full, ", full"),
            false => (AlertKind::Starved, ""),
        };
        let (ready, target) = (sum(|pool| pool.ready), sum(|pool| pool.target));
        let text = format!("{service}: {waiting}{full}, {ready} of {target} links ready");
        push_alert(alerts, kind, service.to_owned(), now, with_peer(text, &pools));
    }
}

/// Names the gateway if all the pools are its own, and adds the last error.
fn with_peer(mut text: String, pools: &[&PoolRow]) -> String {
    if let [pool] = pools
        && let Some(peer) = pool.peer.as_ref().or(pool.address.as_ref())
    {
        let direction = match pool.half {
            Half::Dmz => "from",
            Half::Internal => "to",
        };
        text.push_str(&format!(" {direction} {peer}"));
    }
    if let Some(error) = pools.iter().find_map(|pool| pool.last_error.as_deref()) {
        text.push_str(&format!(": {error}"));
    }
    text
}

fn serves(pool: &PoolRow, service: &ServiceRow) -> bool {
    pool.half == service.half && pool.may_serve(&service.name)
}

/// Whether its clients cannot be carried anywhere.
fn has_no_link(snapshot: &Snapshot, service: &ServiceRow) -> bool {
    let needs_links = snapshot.mode != Mode::Direct && !is_draining(service);
    let mut pools = serving_pools(snapshot, service).peekable();
    let is_offered = pools.peek().is_some();
    needs_links && (service.half == Half::Dmz || is_offered) && pools.all(|pool| !is_linked(pool))
}

fn names(services: &[&ServiceRow]) -> String {
    let names: BTreeSet<_> = services.iter().map(|service| service.name.as_str()).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Links that are being replaced may be missing for a moment.
const GAP_SECONDS: f64 = 1.0;

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Health,
            tests::{judged, noon, orders, pool, texts},
        },
        *,
    };

    #[test]
    fn a_lost_gateway_is_one_alert_with_what_it_cost() {
        let lost = PoolRow {
            gone_seconds: Some(34.0),
            cut: 12,
            last_error: Some("ready link lost: connection reset".into()),
            serves: vec!["orders".into(), "chat".into()],
            ..pool(PoolState::Down, 0)
        };
        let chat = ServiceRow::new(Half::Dmz, "chat");
        let reported = judged(vec![chat.clone(), orders()], vec![lost.clone()]);
        let expected = "internal at 10.0.0.5: lost, 12 sessions cut; no link for chat, orders: \
                        ready link lost: connection reset";
        assert_eq!(texts(&reported), [expected]);
        let alert = &reported.alerts[0];
        assert_eq!((alert.kind, &*alert.object), (AlertKind::PeerLost, "internal"));
        assert_eq!(alert.since, log::format_utc(time_before(noon(), 34.0)));
        let other = PoolRow { address: Some("10.0.0.6".into()), ..pool(PoolState::Healthy, 8) };
        let reported = judged(vec![chat, orders()], vec![lost.clone(), other]);
        assert_eq!(
            texts(&reported),
            ["internal at 10.0.0.5: lost, 12 sessions cut: ready link lost: connection reset"]
        );
        let left = PoolRow { left: true, cut: 0, last_error: Some("it drains".into()), ..lost };
        let reported = judged(vec![orders()], vec![left]);
        assert_eq!(reported.alerts[0].kind, AlertKind::NoLink);
        assert_eq!(texts(&reported), ["internal at 10.0.0.5: no link; no link for orders: it drains"]);
    }

    #[test]
    fn a_gateway_that_drains_is_missed_where_no_other_serves_though_it_carries_sessions() {
        let leaves = PoolRow {
            left: true,
            carrying: 1,
            last_error: Some("it drains".into()),
            ..pool(PoolState::Filling, 0)
        };
        let away = PoolRow { carrying: 0, ..leaves.clone() };
        let other = PoolRow { address: Some("10.0.0.6".into()), ..pool(PoolState::Healthy, 8) };
        for (row, what) in [(leaves, "leaving"), (away, "no link")] {
            let reported = judged(vec![orders()], vec![row.clone()]);
            assert_eq!(
                (reported.health, reported.services[0].health),
                (Some(Health::Down), Some(Health::Down))
            );
            let expected = format!("internal at 10.0.0.5: {what}; no link for orders: it drains");
            assert_eq!(texts(&reported), [&*expected]);
            let reported = judged(vec![orders()], vec![row, other.clone()]);
            assert_eq!((reported.health, texts(&reported).len()), (Some(Health::Healthy), 0), "{reported:?}");
        }
    }

    #[test]
    fn services_without_an_offer_share_one_alert() {
        let nobody = |service: &str| PoolRow {
            last_error: Some("no internal gateway has dialled in for this service".into()),
            ..PoolRow::new(Half::Dmz, service.into())
        };
        let waits = PoolRow { waiting: 3, waited_for: vec!["orders".into()], ..nobody("orders") };
        let services = vec![orders(), ServiceRow::new(Half::Dmz, "chat")];
        let reported = judged(services, vec![nobody("chat"), waits]);
        let expected = "no link for chat, orders; 3 clients wait: \
                        no internal gateway has dialled in for this service";
        assert_eq!(texts(&reported), [expected]);
        assert_eq!(reported.alerts[0].object, "chat, orders");
    }

    #[test]
    fn a_pool_at_its_maximum_is_full_and_not_failing_to_fill() {
        let full = PoolRow { at_maximum: true, carrying: 12, ..pool(PoolState::Filling, 0) };
        let waits = vec!["orders".to_owned()];
        let starved = PoolRow { state: PoolState::Starved, waiting: 3, waited_for: waits, ..full.clone() };
        let held = PoolRow { held: Some(PoolState::Starved), ..full.clone() };
        for (row, expected) in [
            (full, "any service: full, 0 of 8 links ready and 12 carry from internal"),
            (starved, "orders: 3 waiting, full, 0 of 8 links ready from internal"),
            (held, "any service: full, 0 of 8 links ready and 12 carry from internal"),
        ] {
            let reported = judged(vec![orders()], vec![row.clone()]);
            assert_eq!(texts(&reported), [expected]);
            assert_eq!((reported.alerts[0].kind, reported.health), (AlertKind::Full, Some(Health::Full)));
            let lack = reported.services[0].lack.as_ref().map(|lack| lack.kind);
            assert_eq!((reported.services[0].health, lack), (Some(Health::Full), Some(AlertKind::Full)));
            // While another gateway takes sessions, no client is refused.
            let other = PoolRow { address: Some("10.0.0.6".into()), ..pool(PoolState::Healthy, 8) };
            assert_ne!(judged(vec![orders()], vec![row, other]).health, Some(Health::Full));
        }
    }

    #[test]
    fn clients_that_wait_are_one_alert_however_many_gateways_might_serve_them() {
        let starved = |address: &str, waiting| PoolRow {
            address: Some(address.into()),
            waiting,
            carrying: 8,
            waited_for: vec!["orders".into()],
            ..pool(PoolState::Starved, 0)
        };
        let reported = judged(vec![orders()], vec![starved("10.0.0.5", 3), starved("10.0.0.6", 0)]);
        assert_eq!(texts(&reported), ["orders: 3 waiting, 0 of 16 links ready"]);
        let why = reported.services[0].lack.as_ref().map(|lack| &*lack.why);
        assert_eq!(why, Some("3 clients wait, 0 of 16 links ready"));
    }

    #[test]
    fn a_gap_between_links_that_are_replaced_is_no_loss() {
        let gap = |seconds| PoolRow { gone_seconds: Some(seconds), ..pool(PoolState::Down, 0) };
        assert_eq!(severity(&gap(0.2)), Severity::Fine);
        assert_eq!(severity(&gap(1.2)), Severity::Lost);
    }

    #[test]
    fn links_of_services_that_drain_are_not_missed() {
        let drained = ServiceRow { phase: crate::telemetry::snapshot::ServicePhase::Draining, ..orders() };
        let reported = judged(vec![drained], vec![pool(PoolState::Down, 0)]);
        assert_eq!(reported.alerts.iter().map(|alert| alert.kind).collect::<Vec<_>>(), [AlertKind::Drained]);
    }
}
