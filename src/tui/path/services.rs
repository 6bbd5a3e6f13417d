//! Clients, services and backends on the path. The gateways and links between them are in the files beside this one.

use std::collections::{BTreeMap, BTreeSet};

use super::{PartKey, PartRows, PathBuilder, PathPart, PathStage, links::unknown_part};
use crate::{
    profile::Half,
    telemetry::{
        health::{AlertKind, Severity},
        snapshot::{BackendRow, BackendRowState, PoolRow, ServicePhase, ServiceRow, TrafficTotals},
    },
    tui::format,
};

impl PathBuilder<'_> {
    /// Services with one name are one part, at however many gateways they are.
    pub(super) fn add_services(&mut self) {
        let mut by_name: BTreeMap<&str, Vec<&ServiceRow>> = BTreeMap::new();
        for row in self.services() {
            by_name.entry(&row.name).or_default().push(row);
        }
        for (name, rows) in by_name {
            let answering: Vec<_> =
                rows.iter().copied().filter(|row| self.is_answering(row.gateway.as_ref())).collect();
            let service = self.add(match answering.as_slice() {
                [] => unknown_part(service_part(name, &rows)),
                answering => service_part(name, answering),
            });
            let outer: Vec<_> = rows.iter().filter(|row| row.half == Half::Dmz).collect();
            for row in &outer {
                let gateway = self.gateway_of(row.gateway.as_ref(), Half::Dmz);
                self.lead(&service, &gateway);
            }
            if outer.is_empty() {
                // If it is known only from the inside, it is connected to the gateways that may bring its
                // sessions.
                for pool in self.pools().filter(|pool| pool.half == Half::Internal && pool.may_serve(name)) {
                    let gateway = self.peer_of(pool);
                    self.lead(&service, &gateway);
                }
            }
        }
    }

    /// From the half that dials them. If that half is not shown, it is only known that there are some.
    pub(super) fn add_backends(&mut self) {
        let is_direct = self.is_direct();
        let dials = |row: &&ServiceRow| row.half == Half::Internal || row.connect.is_some();
        let mut named = BTreeSet::new();
        let mut rows: Vec<_> = self.services().filter(dials).collect();
        // A gateway that answers knows more about a backend than one that does not.
        rows.sort_by_key(|row| !self.is_answering(row.gateway.as_ref()));
        for row in rows {
            named.insert(row.name.as_str());
            let gateway = self.gateway_of(row.gateway.as_ref(), row.half);
            let is_answering = self.is_answering(row.gateway.as_ref());
            for part in backend_parts(row) {
                let key = (part.stage, part.key.clone());
                let backend = match is_answering {
                    true => self.add_backend(part, &row.name),
                    false if self.parts.contains_key(&key) => key,
                    false => self.add(unknown_part(part)),
                };
                if row.half == Half::Internal || is_direct {
                    self.lead(&gateway, &backend);
                }
            }
        }
        for row in self.services().filter(|row| row.half == Half::Dmz && !named.contains(row.name.as_str())) {
            let backend = self.add(unknown_backend(row));
            let serves = |pool: &&PoolRow| {
                pool.half == Half::Dmz && pool.gateway == row.gateway && pool.may_serve(&row.name)
            };
            for pool in self.pools().filter(serves) {
                let gateway = self.peer_of(pool);
                self.lead(&gateway, &backend);
            }
        }
    }

    /// A backend of several services is one part, in the worst state that any of them reports.
    fn add_backend(&mut self, part: PathPart, service: &str) -> PartKey {
        let key = (part.stage, part.key.clone());
        let Some(there) = self.parts.get_mut(&key) else {
            return self
                .add(PathPart { facts: [part.facts.clone(), vec![service.to_owned()]].concat(), ..part });
        };
        there.facts.push(service.to_owned());
        if part.severity > there.severity {
            (there.severity, there.state_severity) = (part.severity, part.state_severity);
            (there.state, there.why) = (part.state, part.why);
        }
        key
    }

    pub(super) fn add_clients(&mut self) {
        let snapshot = self.snapshot;
        // In a pair, both halves refuse a client, which counts where it came in.
        let has_outer = self.services().any(|row| row.half == Half::Dmz);
        let counted = self.services().filter(|row| (row.half == Half::Dmz) == has_outer);
        let recent = counted.flat_map(|row| &row.refusals);
        let recent = recent.filter(|row| !row.is_of_one_client && row.ago_seconds < RECENT_SECONDS);
        let refused = recent.fold(0_u64, |sum, row| sum.saturating_add(row.count));
        let waiting = snapshot.totals.sessions_waiting;
        let (state, severity) = match (refused, waiting) {
            (0, 0) => ("served", Severity::Fine),
            (0, _) => ("WAIT", Severity::Starved),
            _ => ("REFUSED", Severity::Starved),
        };
        let mut facts = counts(&snapshot.totals);
        facts.push(format!("{} in all", format::amount(snapshot.totals.sessions)));
        let part = PathPart {
            state: state.into(),
            severity,
            state_severity: severity,
            facts,
            why: (refused > 0).then(|| format!("{} refused recently", format::amount_of(refused, "client"))),
            rows: PartRows::Sessions,
            ..PathPart::new(PathStage::Clients, "", "clients")
        };
        let is_known = snapshot.services.is_empty()
            || self.services().any(|row| self.is_answering(row.gateway.as_ref()));
        let clients = self.add(if is_known { part } else { unknown_part(part) });
        let services: Vec<_> =
            self.parts.keys().filter(|(stage, _)| *stage == PathStage::Services).cloned().collect();
        for service in services {
            self.lead(&clients, &service);
        }
    }
}

/// An older refusal says nothing about clients that come now.
const RECENT_SECONDS: f64 = 10.0;

fn service_part(name: &str, rows: &[&ServiceRow]) -> PathPart {
    let has_outer = rows.iter().any(|row| row.half == Half::Dmz);
    let counted = || rows.iter().filter(move |row| (row.half == Half::Dmz) == has_outer);
    let mut totals = TrafficTotals::default();
    for row in counted() {
        totals.sessions_open = totals.sessions_open.saturating_add(row.totals.sessions_open);
        totals.sessions_waiting = totals.sessions_waiting.saturating_add(row.totals.sessions_waiting);
        totals.refused = totals.refused.saturating_add(row.totals.refused);
    }
    let worst = rows.iter().rev().max_by_key(|row| row_severity(row));
    let severity = worst.map_or(Severity::Fine, |row| row_severity(row));
    let mut accept: Vec<_> = counted().flat_map(|row| row.accept.iter().cloned()).collect();
    accept.iter_mut().for_each(|at| *at = without_scheme(at).to_owned());
    accept.dedup();
    let mut facts = counts(&totals);
    facts.extend(accept);
    PathPart {
        state: worst.map_or("-", |row| row_word(row)).into(),
        severity,
        state_severity: severity,
        facts,
        why: worst
            .and_then(|row| row.lack.as_ref().map(|lack| lack.why.clone()).or_else(|| row.reason.clone())),
        rows: PartRows::Services(name.to_owned()),
        ..PathPart::new(PathStage::Services, name, name)
    }
}

/// Host and port must be readable.
fn without_scheme(address: &str) -> &str {
    address.split_once("://").map_or(address, |(_, host)| host)
}

fn row_severity(row: &ServiceRow) -> Severity {
    let lack = row.lack.as_ref().map_or(Severity::Fine, |lack| lack.kind.severity());
    let phase = match row.phase {
        ServicePhase::Open => Severity::Fine,
        ServicePhase::Draining | ServicePhase::Locked | ServicePhase::Closed => Severity::Short,
        ServicePhase::Down => Severity::Lost,
    };
    lack.max(phase)
}

fn row_word(row: &ServiceRow) -> &'static str {
    match (row.phase, &row.lack) {
        (ServicePhase::Draining, _) => "DRAINING",
        (_, Some(lack)) => lack.kind.label(),
        (ServicePhase::Open, None) => "open",
        (ServicePhase::Locked, None) => "LOCKED",
        (ServicePhase::Down, None) => "DOWN",
        (ServicePhase::Closed, None) => "closed",
    }
}

/// Only non-zero counts, but always the open ones.
fn counts(totals: &TrafficTotals) -> Vec<String> {
    let reported =
        |number: u64, what: &str| (number > 0).then(|| format!("{} {what}", format::amount(number)));
    let open = Some(format!("{} open", format::amount(totals.sessions_open)));
    let rest = [reported(totals.sessions_waiting, "waiting"), reported(totals.refused, "refused")];
    std::iter::once(open).chain(rest).flatten().collect()
}

fn backend_parts(row: &ServiceRow) -> Vec<PathPart> {
    let part = |address: &str| {
        // The echo that is built in has no address after its scheme.
        let name = Some(without_scheme(address)).filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| address.trim_end_matches("://"));
        let rows = PartRows::Services(row.name.clone());
        PathPart { rows, ..PathPart::new(PathStage::Backends, address, name) }
    };
    let is_failing =
        row.failed_in_a_row > 0 || row.lack.as_ref().is_some_and(|lack| lack.kind == AlertKind::Backend);
    let failing = || {
        let why = row.backend_error.clone().or_else(|| row.lack.as_ref().map(|lack| lack.why.clone()));
        ("FAILING".to_owned(), Severity::Starved, why)
    };
    match row.backends.as_slice() {
        [] => {
            let (state, severity, why) =
                if is_failing { failing() } else { (String::new(), Severity::Fine, None) };
            let open = format!("{} open", format::amount(row.totals.sessions_open));
            let backend = row.connect.iter().map(|to| PathPart {
                state: state.clone(),
                severity,
                state_severity: severity,
                why: why.clone(),
                facts: vec![open.clone()],
                ..part(to)
            });
            backend.collect()
        }
        backends => backends
            .iter()
            .map(|backend| {
                let (state, severity, why) = match (backend_severity(backend), backends.len()) {
                    (Severity::Fine, 1) if is_failing => failing(),
                    (severity, _) => (backend.state.label().to_owned(), severity, backend.last_error.clone()),
                };
                let why = why.filter(|_| severity > Severity::Fine);
                let facts = vec![format!("{} open", format::amount(backend.sessions_open))];
                PathPart { state, severity, state_severity: severity, why, facts, ..part(&backend.address) }
            })
            .collect(),
    }
}

fn backend_severity(backend: &BackendRow) -> Severity {
    match backend.state {
        BackendRowState::Up | BackendRowState::Standby => Severity::Fine,
        BackendRowState::Resting => Severity::Short,
        BackendRowState::Down => Severity::Lost,
    }
}

/// A backend behind a gateway that is not shown. Its address is known only inside, but it is known whether it
/// fails.
fn unknown_backend(row: &ServiceRow) -> PathPart {
    let lack = row.lack.as_ref().filter(|lack| lack.kind == AlertKind::Backend);
    let severity = lack.map_or(Severity::Fine, |lack| lack.kind.severity());
    PathPart {
        state: if lack.is_some() { "FAILING".into() } else { "known inside".into() },
        severity,
        state_severity: severity,
        why: lack.map(|lack| lack.why.clone()),
        rows: PartRows::Services(row.name.clone()),
        ..PathPart::new(PathStage::Backends, format!("of {}", row.name), format!("of {}", row.name))
    }
}
