//! The gateways on the path: those on the screen, and those known only by their links. A gateway that only a link has
//! named is drawn as well, without figures of its own.

use std::sync::Arc;

use super::{PartKey, PartRows, PathBuilder, PathPart, PathStage, PeerAddress};
use crate::{
    profile::Half,
    telemetry::{
        health::{Alert, AlertKind, Health, Severity},
        snapshot::{GatewayPhase, GatewayReach, GatewayRow, PoolRow},
    },
    tui::format,
};

/// The key of the gateway on the screen, if there is only one.
const OWN: &str = "";

impl PathBuilder<'_> {
    pub(super) fn add_own_gateways(&mut self) {
        let snapshot = self.snapshot;
        if snapshot.gateways.is_empty() {
            for &half in &snapshot.halves {
                self.add(self.own_part(half));
            }
            return;
        }
        // A snapshot narrowed to one gateway uses its name as the profile.
        let scope = snapshot.gateways.iter().find(|row| *row.name == *snapshot.profile);
        for row in snapshot.gateways.iter().filter(|row| scope.is_none_or(|scope| scope.name == row.name)) {
            // A gateway that never answered is put where most are.
            let halves = row.heard.as_ref().map_or(&[Half::Dmz][..], |facts| facts.halves.as_slice());
            for &half in halves {
                self.add(self.member_part(row, half));
            }
        }
    }

    fn own_part(&self, half: Half) -> PathPart {
        let snapshot = self.snapshot;
        let name = if snapshot.host.is_empty() { &snapshot.profile } else { &snapshot.host };
        let (severity, why) = self.own_state(None);
        let (state, state_severity) = health_word(snapshot.health, snapshot.phase);
        PathPart {
            state: state.into(),
            severity,
            state_severity: state_severity.max(severity),
            facts: vec![format!("up {}", format::age(snapshot.uptime_seconds)), "this gateway".into()],
            why,
            rows: PartRows::Own,
            ..PathPart::new(PathStage::of_gateways(half), OWN, name.as_str())
        }
    }

    fn member_part(&self, row: &GatewayRow, half: Half) -> PathPart {
        let no_data = |state, severity| (state, severity, severity, row.why.clone());
        let (state, state_severity, severity, why) = match row.reach {
            GatewayReach::Unreachable => no_data("UNREACHABLE", Severity::Lost),
            GatewayReach::Silent => no_data("SILENT", Severity::Starved),
            GatewayReach::Stopped => no_data("STOPPED", Severity::Fine),
            GatewayReach::Calling => no_data("calling", Severity::Fine),
            GatewayReach::Reached => {
                let (severity, why) = self.own_state(Some(&row.name));
                let facts = row.heard.as_ref();
                let phase = facts.map_or(GatewayPhase::Starting, |facts| facts.phase);
                let (state, of_state) = health_word(facts.and_then(|facts| facts.health), phase);
                (state, of_state.max(severity), severity, why)
            }
        };
        let sessions = row.heard.as_ref().filter(|_| row.reach == GatewayReach::Reached);
        PathPart {
            state: state.into(),
            severity,
            state_severity,
            facts: sessions
                .map(|facts| format!("{} open", format::amount(facts.sessions_open)))
                .into_iter()
                .collect(),
            why,
            rows: PartRows::Gateway(Arc::clone(&row.name)),
            ..PathPart::new(PathStage::of_gateways(half), &*row.name, &*row.name)
        }
    }

    /// The problem of a gateway itself; problems of links, services and backends are shown there.
    fn own_state(&self, gateway: Option<&Arc<str>>) -> (Severity, Option<String>) {
        let is_service = |name: &str| self.snapshot.services.iter().any(|row| row.name == name);
        let is_own = |alert: &&Alert| {
            matches!(
                alert.kind,
                AlertKind::Descriptors
                    | AlertKind::Expired
                    | AlertKind::Certificate
                    | AlertKind::ExpiredList
                    | AlertKind::Lockdown
                    | AlertKind::Log
            ) || alert.kind == AlertKind::Fault && !is_service(&alert.object)
        };
        let alerts = self.snapshot.alerts.iter();
        let own = alerts.filter(|alert| alert.gateway.as_ref() == gateway).filter(is_own);
        let worst = own.rev().max_by_key(|alert| alert.kind.severity());
        worst.map_or((Severity::Fine, None), |alert| (alert.kind.severity(), Some(alert.text.clone())))
    }

    /// The gateway that a row belongs to.
    pub(super) fn gateway_of(&mut self, gateway: Option<&Arc<str>>, half: Half) -> PartKey {
        let stage = PathStage::of_gateways(half);
        let name = gateway.map_or(OWN, |name| &**name);
        self.add(PathPart::new(stage, name, if name.is_empty() { "-" } else { name }))
    }

    /// The gateway at the other end of a pool's links.
    pub(super) fn peer_of(&mut self, pool: &PoolRow) -> PartKey {
        let half = match pool.half {
            Half::Dmz => Half::Internal,
            Half::Internal => Half::Dmz,
        };
        let instance = self.instance_of_peer(pool);
        if let Some(part) = self.known_gateway(half, instance.as_deref()) {
            return self.add(part);
        }
        let name = pool.peer.as_deref().or(pool.address.as_deref()).unwrap_or("-");
        let address = pool.address.as_deref().unwrap_or("-");
        let key = format!("{name} at {address} {}", instance.as_deref().unwrap_or("-"));
        let facts = pool.peer.as_ref().and(pool.address.clone()).into_iter().collect();
        let pools = super::links::rows_of(pool);
        self.add(PathPart { facts, rows: pools, ..PathPart::new(PathStage::of_gateways(half), key, name) })
    }

    /// A pool without links may not know it; another pool to the same address may.
    fn instance_of_peer(&self, pool: &PoolRow) -> Option<String> {
        let alike = || {
            let mut others = self.known_peers.get(&peer_address(pool))?.iter();
            let other = others.find(|other| pool.peer.is_none() || other.peer == pool.peer)?;
            other.instance.clone()
        };
        pool.instance.clone().or_else(alike)
    }

    pub(super) fn note_known_peers(&mut self) {
        for pool in self.pools().filter(|pool| pool.instance.is_some()) {
            self.known_peers.entry(peer_address(pool)).or_default().push(pool);
        }
    }

    /// A gateway that the snapshot has a row of, by its process; while one gateway is shown alone, it may be
    /// another.
    fn known_gateway(&self, half: Half, instance: Option<&str>) -> Option<PathPart> {
        let snapshot = self.snapshot;
        if snapshot.gateways.is_empty() {
            let is_own = instance.is_none_or(|instance| instance == snapshot.instance);
            return (snapshot.halves.len() > 1 && is_own).then(|| self.own_part(half));
        }
        let is_it = |row: &&GatewayRow| {
            row.heard.as_ref().is_some_and(|facts| {
                facts.halves.contains(&half)
                    && !facts.instance.is_empty()
                    && Some(facts.instance.as_str()) == instance
            })
        };
        snapshot.gateways.iter().find(is_it).map(|row| self.member_part(row, half))
    }

    /// Removes what was shown for a gateway whose links are unknown.
    pub(super) fn clear_unknown(&mut self, gateway: &PartKey) {
        let part = self.parts.get_mut(gateway).filter(|part| part.state.is_empty());
        if let Some(part) = part {
            (part.state, part.severity, part.state_severity) =
                ("not known".into(), Severity::Short, Severity::Short);
        }
    }

    /// A gateway that is known only by its links has their state.
    pub(super) fn show_by_link(&mut self, gateway: &PartKey, link: &PathPart) {
        let Some(part) = self.parts.get_mut(gateway) else { return };
        if matches!(part.rows, PartRows::Own | PartRows::Gateway(_)) {
            return;
        }
        let is_first = part.state.is_empty() || part.state_severity == Severity::Short;
        // One link that is up is enough.
        if is_first || link.severity < Severity::Lost {
            let is_linked = link.severity < Severity::Lost;
            part.severity = if is_linked { Severity::Fine } else { Severity::Lost };
            part.state_severity = part.severity;
            part.state = if is_linked { "linked".into() } else { "NO LINK".into() };
            part.why = if is_linked { None } else { link.why.clone() };
        }
        if is_first {
            part.facts.push("seen by links".into());
        }
    }
}

fn peer_address(pool: &PoolRow) -> PeerAddress<'_> {
    (pool.gateway.as_ref(), pool.half, pool.address.as_deref())
}

/// The word, and how bad it is.
fn health_word(health: Option<Health>, phase: GatewayPhase) -> (&'static str, Severity) {
    match (phase, health) {
        (GatewayPhase::Starting, _) => ("starting", Severity::Fine),
        (GatewayPhase::Draining, _) => ("DRAINING", Severity::Short),
        (GatewayPhase::Stopped, _) => ("STOPPED", Severity::Lost),
        (GatewayPhase::Running, None) => ("unknown", Severity::Fine),
        (GatewayPhase::Running, Some(health)) => {
            let severity = match health {
                Health::Healthy => Severity::Fine,
                Health::Degraded => Severity::Short,
                Health::Full => Severity::Starved,
                Health::Down => Severity::Lost,
            };
            (health.label(), severity)
        }
    }
}
