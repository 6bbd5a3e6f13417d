//! From the rows of a snapshot to one word and to the troubles behind it, worst first.

use std::collections::BTreeMap;

use crate::{
    profile::Role,
    telemetry::snapshot::{GatewayPhase, PoolRow, PoolState, ServicePhase, ServiceRow, Snapshot},
    tui::format,
};

/// Can a client connect now?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Healthy,
    /// Some clients wait or are refused, or soon would be.
    Degraded,
    /// No pool has a link, or the gateway does not run.
    Down,
}

impl Health {
    pub fn word(self) -> &'static str {
        match self {
            Self::Healthy => "HEALTHY",
            Self::Degraded => "DEGRADED",
            Self::Down => "DOWN",
        }
    }
}

/// How bad one pool is, for the order of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Fine,
    /// Fewer links than a burst of clients may need.
    Short,
    Starved,
    Lost,
}

/// One thing that is wrong, as the alert line tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub severity: Severity,
    pub text: String,
}

/// The word for the whole gateway. Without pools (direct mode) nothing can be missing.
///
/// Draining changes nothing in it: the header tells that by a word of its own.
pub fn health(snapshot: &Snapshot) -> Health {
    match snapshot.phase {
        GatewayPhase::Starting | GatewayPhase::Stopped => Health::Down,
        GatewayPhase::Running | GatewayPhase::Draining => {
            worst_of_services(snapshot).max(health_of_pools(&pools_in_use(snapshot)))
        }
    }
}

/// Without those of services that drain: that they have no links is what was asked for.
fn pools_in_use(snapshot: &Snapshot) -> Vec<&PoolRow> {
    let drains = |pool: &PoolRow, name: &str| {
        let is_it = |row: &&ServiceRow| row.role == pool.role && row.name == name;
        snapshot.services.iter().find(is_it).is_some_and(|row| row.phase == ServicePhase::Draining)
    };
    let is_unused = |pool: &PoolRow| match pool.serves.as_slice() {
        [] => drains(pool, &pool.service),
        serves => serves.iter().all(|name| drains(pool, name)),
    };
    snapshot.pools.iter().filter(|pool| !is_unused(pool)).collect()
}

/// Some service's clients are served nothing, though links may be well.
fn worst_of_services(snapshot: &Snapshot) -> Health {
    let is_down = |service: &ServiceRow| service.phase == ServicePhase::Down;
    let services = &snapshot.services;
    match services.iter().any(|service| is_down(service) || has_dead_backend(service)) {
        true if services.iter().all(is_down) => Health::Down,
        true => Health::Degraded,
        false => Health::Healthy,
    }
}

/// One failure may be the client's misfortune.
pub fn has_dead_backend(service: &ServiceRow) -> bool {
    service.failed_in_a_row >= FAILED_MIN && service.phase == ServicePhase::Open
}

fn trouble_of_backend(service: &ServiceRow) -> Option<Trouble> {
    let why = service.backend_error.as_deref().unwrap_or("its backend does not answer");
    let text = format!("{}: the last {} sessions failed: {why}", service.name, service.failed_in_a_row);
    has_dead_backend(service).then_some(Trouble { severity: Severity::Starved, text })
}

fn health_of_pools(pools: &[&PoolRow]) -> Health {
    let worst = pools.iter().copied().map(severity).max().unwrap_or(Severity::Fine);
    match worst {
        Severity::Fine => Health::Healthy,
        Severity::Short | Severity::Starved => Health::Degraded,
        Severity::Lost if pools.iter().all(|pool| severity(pool) == Severity::Lost) => Health::Down,
        Severity::Lost => Health::Degraded,
    }
}

/// A pool that refills after a session took a link is fine: the word must not flicker under load.
pub fn severity(pool: &PoolRow) -> Severity {
    match pool.shown_state() {
        PoolState::Healthy => Severity::Fine,
        PoolState::Filling if pool.retry_seconds.is_some() || pool.ready < pool.target / 2 => Severity::Short,
        PoolState::Filling => Severity::Fine,
        PoolState::Starved => Severity::Starved,
        PoolState::Down => Severity::Lost,
    }
}

/// The other gateways that are remembered, and those of them that are linked.
#[derive(Debug, Default, PartialEq)]
pub struct Peers {
    pub linked: usize,
    pub known: usize,
    /// Since the last of them was lost.
    pub gone_seconds: Option<f64>,
}

/// Of one half, as links are. A gateway is known by its name and its address: several may share a name.
/// One that dials a link for each session keeps none ready, and is there while its pool is healthy.
pub fn peers(snapshot: &Snapshot) -> Peers {
    let counted = snapshot.roles.first().copied().unwrap_or(Role::Dmz);
    peers_of(snapshot.pools.iter().filter(|pool| pool.role == counted))
}

/// Those behind these pools.
pub fn peers_of<'a>(pools: impl Iterator<Item = &'a PoolRow>) -> Peers {
    let (mut peers, mut gone_seconds) = (BTreeMap::new(), None);
    for pool in pools.filter(|pool| pool.peer.is_some() || pool.address.is_some()) {
        let linked = pool.ready > 0 || pool.carrying > 0 || pool.state == PoolState::Healthy;
        *peers.entry((&pool.peer, &pool.address)).or_insert(false) |= linked;
        gone_seconds = [gone_seconds, pool.gone_seconds].into_iter().flatten().reduce(f64::min);
    }
    let linked = peers.values().filter(|&&linked| linked).count();
    Peers { linked, known: peers.len(), gone_seconds }
}

/// Links ready of those wanted: what one pool has too many is of no use to another. Of one half: both
/// ends of a link stand in a pair's snapshot.
pub fn links_ready(snapshot: &Snapshot) -> (usize, usize) {
    let counted = snapshot.roles.first().copied().unwrap_or(Role::Dmz);
    let pools = snapshot.pools.iter().filter(|pool| pool.role == counted);
    pools.fold((0, 0), |sum, pool| (sum.0 + pool.ready.min(pool.target), sum.1 + pool.target))
}

/// Everything that is wrong, worst first.
pub fn troubles(snapshot: &Snapshot) -> Vec<Trouble> {
    let mut found: Vec<_> = pools_in_use(snapshot).into_iter().filter_map(trouble_of_pool).collect();
    for trouble in snapshot.services.iter().filter_map(trouble_of_backend) {
        // In a pair both halves tell the same.
        if !found.contains(&trouble) {
            found.push(trouble);
        }
    }
    for trouble in snapshot.pools.iter().filter_map(trouble_of_certificate) {
        // A peer has one certificate and may have many rows.
        if !found.contains(&trouble) {
            found.push(trouble);
        }
    }
    found.extend(trouble_of_descriptors(snapshot));
    if let Some(cause) = &snapshot.log_trouble {
        let text = format!("{} log lines lost: {cause}", snapshot.log_lines_lost);
        found.push(Trouble { severity: Severity::Short, text });
    }
    found.sort_by_key(|trouble| std::cmp::Reverse(trouble.severity));
    found
}

fn trouble_of_pool(pool: &PoolRow) -> Option<Trouble> {
    let severity = severity(pool);
    let what = match severity {
        Severity::Fine => return None,
        Severity::Lost => match pool.gone_seconds {
            Some(seconds) => format!("no link for {}", format::whole_span(seconds)),
            None => "no link".to_owned(),
        },
        Severity::Starved => {
            let waiting = if pool.waiting > 0 { format!("{} waiting", pool.waiting) } else { "short".into() };
            let full = if pool.at_maximum { ", full" } else { "" };
            format!("{waiting}{full}, {} of {} links ready", pool.ready, pool.target)
        }
        Severity::Short if pool.at_maximum => {
            format!("full, {} of {} links ready and {} carry", pool.ready, pool.target, pool.carrying)
        }
        Severity::Short => format!("{} of {} links ready", pool.ready, pool.target),
    };
    let service = match pool.waited_for.as_slice() {
        [] if pool.service == "*" => "any service".to_owned(),
        [] => pool.service.clone(),
        waited_for => waited_for.join(", "),
    };
    let mut text = format!("{service}: {what}");
    if let Some(peer) = pool.peer.as_ref().or(pool.address.as_ref()) {
        let direction = match pool.role {
            Role::Dmz => "from",
            Role::Internal => "to",
        };
        text.push_str(&format!(" {direction} {peer}"));
    }
    if let Some(seconds) = pool.retry_seconds {
        text.push_str(&format!(", next dial in {}", format::whole_span(seconds)));
    }
    // Last, because it may be long and the line may be cut.
    if let Some(error) = &pool.last_error {
        text.push_str(&format!(": {error}"));
    }
    Some(Trouble { severity, text })
}

/// Soon enough to be told is late enough to be forgotten otherwise.
fn trouble_of_certificate(pool: &PoolRow) -> Option<Trouble> {
    let days = pool.certificate_days.filter(|&days| days < CERTIFICATE_SOON_DAYS)?;
    let peer = pool.peer.as_deref().unwrap_or("-");
    let text = match days {
        ..0 => format!("the certificate of {peer} has ended"),
        _ => format!("the certificate of {peer} ends in {days} days"),
    };
    Some(Trouble { severity: Severity::Short, text })
}

fn trouble_of_descriptors(snapshot: &Snapshot) -> Option<Trouble> {
    let (used, limit) = (snapshot.descriptors.used, snapshot.descriptors.limit);
    let scarce = limit > 0 && used.saturating_mul(10) >= limit.saturating_mul(9);
    let text = format!("{used} of {limit} file descriptors in use; raise the limit or lower the sessions");
    scarce.then_some(Trouble { severity: Severity::Starved, text })
}

/// Sessions in a row that fail at a backend before it counts as dead.
const FAILED_MIN: u64 = 3;
/// As long as it may take to get another.
const CERTIFICATE_SOON_DAYS: i64 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(state: PoolState, ready: usize) -> PoolRow {
        PoolRow {
            peer: Some("internal".into()),
            state,
            ready,
            target: 8,
            ..PoolRow::new(Role::Dmz, "orders".into())
        }
    }

    #[test]
    fn every_mixture_of_pools_has_a_word() {
        let (well, full) = (pool(PoolState::Healthy, 8), pool(PoolState::Filling, 6));
        let (short, starved) = (pool(PoolState::Filling, 3), pool(PoolState::Starved, 0));
        let down = pool(PoolState::Down, 0);
        let held = PoolRow { retry_seconds: Some(1.0), ..full.clone() };
        let cases: [(&[&PoolRow], Health); 9] = [
            (&[], Health::Healthy),
            (&[&well], Health::Healthy),
            (&[&well, &full], Health::Healthy),
            (&[&well, &short], Health::Degraded),
            (&[&well, &held], Health::Degraded),
            (&[&well, &starved], Health::Degraded),
            (&[&well, &down], Health::Degraded),
            (&[&starved, &down], Health::Degraded),
            (&[&down, &down], Health::Down),
        ];
        for (pools, expected) in cases {
            assert_eq!(health_of_pools(pools), expected, "{pools:?}");
        }
    }

    fn service(failed_in_a_row: u64, phase: ServicePhase) -> ServiceRow {
        ServiceRow {
            role: Role::Dmz,
            name: "orders".into(),
            accept: vec![],
            connect: None,
            phase,
            reason: None,
            totals: Default::default(),
            failed_in_a_row,
            backend_error: Some("backend 127.0.0.1:5432: connection refused".into()),
        }
    }

    fn gateway(services: Vec<ServiceRow>, pools: Vec<PoolRow>) -> Snapshot {
        let phase = GatewayPhase::Running;
        Snapshot { phase, services, pools, ..Snapshot::new("edge", crate::profile::Mode::Reverse) }
    }

    #[test]
    fn a_dead_backend_is_a_trouble() {
        for (failed, told) in [(0, false), (2, false), (3, true)] {
            let seen = gateway(vec![service(failed, ServicePhase::Open)], vec![pool(PoolState::Healthy, 8)]);
            assert_eq!(health(&seen) == Health::Degraded, told, "{failed}");
            assert_eq!(!troubles(&seen).is_empty(), told, "{failed}");
        }
        let dead = gateway(vec![service(300, ServicePhase::Open)], vec![]);
        let told = troubles(&dead).into_iter().next().map(|trouble| trouble.text);
        let expected = "orders: the last 300 sessions failed: backend 127.0.0.1:5432: connection refused";
        assert_eq!(told.as_deref(), Some(expected));
    }

    #[test]
    fn a_pool_at_its_maximum_is_full_and_not_failing_to_fill() {
        let full = PoolRow { at_maximum: true, carrying: 12, ..pool(PoolState::Filling, 0) };
        let starved = PoolRow { state: PoolState::Starved, waiting: 3, ..full.clone() };
        let held = PoolRow { held: Some(PoolState::Starved), ..full.clone() };
        for (row, expected) in [
            (full, "orders: full, 0 of 8 links ready and 12 carry from internal"),
            (starved, "orders: 3 waiting, full, 0 of 8 links ready from internal"),
            (held, "orders: short, full, 0 of 8 links ready from internal"),
        ] {
            let told: Vec<_> = troubles(&gateway(vec![], vec![row])).into_iter().map(|it| it.text).collect();
            assert_eq!(told, [expected]);
        }
    }

    #[test]
    fn peers_of_one_name_are_two_and_a_pair_has_one() {
        let at = |address: &str, ready| PoolRow {
            address: Some(address.into()),
            ..pool(PoolState::Healthy, ready)
        };
        let gone = PoolRow { gone_seconds: Some(34.0), state: PoolState::Down, ..at("10.0.0.6", 0) };
        let inner = PoolRow { role: Role::Internal, peer: Some("dmz".into()), ..at("10.0.0.1", 8) };
        let mut seen = gateway(vec![], vec![at("10.0.0.5", 8), gone, inner]);
        seen.roles = vec![Role::Dmz, Role::Internal];
        assert_eq!(peers(&seen), Peers { linked: 1, known: 2, gone_seconds: Some(34.0) });
    }

    #[test]
    fn a_service_that_drains_needs_no_links() {
        for (phase, expected) in
            [(ServicePhase::Open, Health::Down), (ServicePhase::Draining, Health::Healthy)]
        {
            let seen = gateway(vec![service(0, phase)], vec![pool(PoolState::Down, 0)]);
            assert_eq!(health(&seen), expected);
            assert_eq!(troubles(&seen).is_empty(), expected == Health::Healthy);
        }
    }

    #[test]
    fn links_that_one_pool_has_too_many_hide_no_shortage() {
        let short = PoolRow { target: 2, ..pool(PoolState::Starved, 0) };
        let pools = vec![pool(PoolState::Healthy, 9), short];
        let snapshot = Snapshot { pools, ..Snapshot::new("edge", crate::profile::Mode::Reverse) };
        assert_eq!(links_ready(&snapshot), (8, 10));
    }

    #[test]
    fn a_trouble_names_the_services_that_are_waited_for() {
        let starved = PoolRow {
            service: "*".into(),
            target: 2,
            waiting: 3,
            waited_for: vec!["mail".into()],
            ..pool(PoolState::Starved, 0)
        };
        let told = trouble_of_pool(&starved).map(|trouble| trouble.text);
        assert_eq!(told.as_deref(), Some("mail: 3 waiting, 0 of 2 links ready from internal"));
    }

    #[test]
    fn a_trouble_tells_what_where_why_and_when_next() {
        let lost = PoolRow {
            role: Role::Internal,
            last_error: Some("connection refused".into()),
            retry_seconds: Some(3.2),
            ..pool(PoolState::Down, 0)
        };
        let told = trouble_of_pool(&lost).map(|trouble| trouble.text);
        let expected = "orders: no link to internal, next dial in 3s: connection refused";
        assert_eq!(told.as_deref(), Some(expected));
    }
}
