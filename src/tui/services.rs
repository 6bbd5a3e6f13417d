//! What is wrong with one service: a word, how bad it is, and why.
//!
//! A pool is judged by its links and a gateway by its pools; here it is whether clients of this service
//! reach their backend.

use crate::{
    profile::{Mode, Role},
    telemetry::snapshot::{PoolRow, ServicePhase, ServiceRow, SessionPhase, Snapshot},
    tui::health::{Severity, has_dead_backend, severity},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    pub severity: Severity,
    pub word: &'static str,
    pub why: String,
}

/// The worst of it; a service that drains lacks nothing.
pub fn lack(snapshot: &Snapshot, service: &ServiceRow) -> Option<Lack> {
    if service.phase == ServicePhase::Draining {
        return None;
    }
    [of_itself(service), of_backend(service), of_links(snapshot, service)]
        .into_iter()
        .flatten()
        .max_by_key(|lack| lack.severity)
}

fn of_itself(service: &ServiceRow) -> Option<Lack> {
    let why = service.reason.clone().unwrap_or_default();
    (service.phase == ServicePhase::Down).then_some(Lack { severity: Severity::Lost, word: "DOWN", why })
}

fn of_backend(service: &ServiceRow) -> Option<Lack> {
    let error = service.backend_error.as_deref().unwrap_or("its backend does not answer");
    let why = format!("the last {} sessions failed: {error}", service.failed_in_a_row);
    has_dead_backend(service).then_some(Lack { severity: Severity::Starved, word: "FAILING", why })
}

/// Any peer that is well serves it: the best of its pools counts, and whether somebody waits.
fn of_links(snapshot: &Snapshot, service: &ServiceRow) -> Option<Lack> {
    let serves = |pool: &&PoolRow| pool.role == service.role && pool.may_serve(&service.name);
    let pools: Vec<_> = snapshot.pools.iter().filter(serves).collect();
    let Some(best) = pools.iter().map(|pool| severity(pool)).min() else {
        let needs_links = snapshot.mode != Mode::Direct && service.role == Role::Dmz;
        let why = "no link stands that serves it".into();
        return needs_links.then_some(Lack { severity: Severity::Lost, word: "NO LINK", why });
    };
    let (ready, wanted) = pools.iter().fold((0, 0_usize), |sum: (usize, usize), pool| {
        (sum.0.saturating_add(pool.ready), sum.1.saturating_add(pool.target))
    });
    let is_waited_for = pools.iter().any(|pool| is_waited_for(pool, service));
    let (severity, word, what) = match best {
        Severity::Lost => (Severity::Lost, "NO LINK", "no link".to_owned()),
        _ if is_waited_for => (
            Severity::Starved,
            "STARVED",
            format!("{}, {ready} of {wanted} links ready", waiting(snapshot, service)),
        ),
        Severity::Starved | Severity::Short => {
            (Severity::Short, "short", format!("{ready} of {wanted} links ready"))
        }
        Severity::Fine => return None,
    };
    let error = pools.iter().filter(|pool| self::severity(pool) > Severity::Fine);
    let error = error.filter_map(|pool| pool.last_error.as_deref()).next();
    let why = error.map_or_else(|| what.clone(), |error| format!("{what}: {error}"));
    Some(Lack { severity, word, why })
}

fn is_waited_for(pool: &PoolRow, service: &ServiceRow) -> bool {
    let alone = pool.waited_for.is_empty() && pool.service == service.name;
    pool.waited_for.contains(&service.name) || alone && severity(pool) == Severity::Starved
}

fn waiting(snapshot: &Snapshot, service: &ServiceRow) -> String {
    let waits = snapshot.sessions.iter().filter(|row| {
        (row.phase, row.role, &row.service) == (SessionPhase::Waiting, service.role, &service.name)
    });
    match waits.count() {
        // Sessions are listed only while somebody looks, and the longest lists are cut.
        0 => "clients wait".into(),
        1 => "1 client waits".into(),
        count => format!("{count} clients wait"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::snapshot::PoolState;

    fn service(name: &str, failed_in_a_row: u64) -> ServiceRow {
        ServiceRow {
            role: Role::Dmz,
            name: name.into(),
            accept: vec![],
            connect: None,
            phase: ServicePhase::Open,
            reason: None,
            totals: Default::default(),
            failed_in_a_row,
            backend_error: Some("backend 10.0.0.8:9000: connection refused".into()),
        }
    }

    fn pool(state: PoolState, ready: usize) -> PoolRow {
        let last_error = Some("peer does not answer".into());
        PoolRow { state, ready, target: 8, last_error, ..PoolRow::new(Role::Dmz, "*".into()) }
    }

    fn told(pools: Vec<PoolRow>, service: &ServiceRow) -> Option<(&'static str, String)> {
        let snapshot = Snapshot { pools, ..Snapshot::new("edge", Mode::Reverse) };
        lack(&snapshot, service).map(|lack| (lack.word, lack.why))
    }

    #[test]
    fn a_service_lacks_what_its_clients_lack() {
        let (well, down) = (pool(PoolState::Healthy, 8), pool(PoolState::Down, 0));
        let starved = PoolRow { waited_for: vec!["orders".into()], ..pool(PoolState::Starved, 0) };
        let other = PoolRow { serves: vec!["chat".into()], ..well.clone() };
        let orders = service("orders", 0);
        let cases = [
            (vec![well.clone()], None),
            (vec![well.clone(), down.clone()], None),
            (vec![], Some(("NO LINK", "no link stands that serves it"))),
            (vec![other], Some(("NO LINK", "no link stands that serves it"))),
            (vec![down], Some(("NO LINK", "no link: peer does not answer"))),
            (vec![pool(PoolState::Filling, 3)], Some(("short", "3 of 8 links ready: peer does not answer"))),
            (
                vec![starved.clone()],
                Some(("STARVED", "clients wait, 0 of 8 links ready: peer does not answer")),
            ),
        ];
        for (pools, expected) in cases {
            let expected = expected.map(|(word, why): (_, &str)| (word, why.to_owned()));
            assert_eq!(told(pools.clone(), &orders), expected, "{pools:?}");
        }
        let expected = Some(("short", "0 of 8 links ready: peer does not answer".to_owned()));
        assert_eq!(told(vec![starved], &service("chat", 0)), expected, "another service waits");
    }

    #[test]
    fn a_dead_backend_is_told_unless_the_service_drains() {
        let why = "the last 12 sessions failed: backend 10.0.0.8:9000: connection refused".to_owned();
        let dead = service("orders", 12);
        assert_eq!(told(vec![pool(PoolState::Healthy, 8)], &dead), Some(("FAILING", why)));
        assert_eq!(told(vec![], &ServiceRow { phase: ServicePhase::Draining, ..dead }), None);
    }
}
