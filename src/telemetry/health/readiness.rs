//! Whether clients should be sent to this gateway: what balancers, scripts and service managers ask.
//!
//! A gateway that serves one service is ready; a strict question demands all of it. Why a service is not served
//! is worked out with its health, and only repeated here.

pub use crate::telemetry::verdict::Readiness;

use super::{Health, is_linked};
use crate::{
    profile::Half,
    telemetry::snapshot::{GatewayPhase, PoolRow, ServiceRow, Snapshot},
};

/// A gateway that the profile names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedGateway {
    pub half: Half,
    pub by: NamedBy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedBy {
    /// The gateway dialled at this address.
    Address(String),
    /// A gateway at an address of this name.
    Name(String),
    /// The gateway that dials in with this name in its certificate.
    Certificate(String),
}

/// How much has to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadinessDemand {
    /// At least one service.
    Usual,
    /// Every service, and a link to each named gateway.
    Strict,
}

impl Readiness {
    pub fn of(snapshot: &Snapshot, named: &[NamedGateway]) -> Self {
        let phase = match snapshot.phase {
            GatewayPhase::Running => None,
            GatewayPhase::Starting => Some("the gateway is starting"),
            GatewayPhase::Draining => Some("the gateway is draining"),
            GatewayPhase::Stopped => Some("the gateway has stopped"),
        };
        if let Some(why) = phase {
            return Self { reasons: vec![why.into()], ..Self::default() };
        }
        let unlinked = named.iter().filter(|gateway| !snapshot.pools.iter().any(|pool| gateway.has(pool)));
        let mut readiness = Self {
            ready: is_ready(snapshot),
            reasons: snapshot.services.iter().filter_map(unready_reason).collect(),
            unlinked: unlinked.map(NamedGateway::line).collect(),
        };
        // In a pair, both halves may lack the same link.
        readiness.reasons.dedup();
        if !readiness.ready && readiness.reasons.is_empty() {
            readiness.reasons.push("no link is up".into());
        }
        readiness
    }

    pub fn meets(&self, demand: ReadinessDemand) -> bool {
        match demand {
            ReadinessDemand::Usual => self.ready,
            ReadinessDemand::Strict => self.ready && self.reasons.is_empty() && self.unlinked.is_empty(),
        }
    }

    /// What is not ready, according to the demand.
    pub fn unmet(&self, demand: ReadinessDemand) -> Vec<String> {
        let unlinked = match demand {
            ReadinessDemand::Usual => &[],
            ReadinessDemand::Strict => &*self.unlinked,
        };
        [&*self.reasons, unlinked].concat()
    }
}

/// The half with the client ports serves at least one service; the internal half has a link.
fn is_ready(snapshot: &Snapshot) -> bool {
    match snapshot.halves.contains(&Half::Dmz) {
        true => snapshot
            .services
            .iter()
            .filter(|row| row.half == Half::Dmz)
            .any(|row| is_service_ready(snapshot, &row.name)),
        false => snapshot.pools.iter().any(is_linked),
    }
}

/// In a pair, a service has two halves, and both must serve it.
pub fn is_service_ready(snapshot: &Snapshot, name: &str) -> bool {
    let mut rows = snapshot.services.iter().filter(|row| row.name == name).peekable();
    snapshot.phase == GatewayPhase::Running && rows.peek().is_some() && rows.all(|row| !is_down(row))
}

/// Why one half does not serve a service.
pub fn unready_reason(row: &ServiceRow) -> Option<String> {
    let why = row.lack.as_ref().map_or("it is down", |lack| &lack.why);
    is_down(row).then(|| format!("{}: {why}", row.name))
}

fn is_down(row: &ServiceRow) -> bool {
    row.health == Some(Health::Down)
}

impl NamedGateway {
    fn has(&self, pool: &PoolRow) -> bool {
        let is_it = match &self.by {
            NamedBy::Address(address) => pool.address.as_ref() == Some(address),
            NamedBy::Name(name) => pool.name.as_ref() == Some(name),
            NamedBy::Certificate(name) => pool.peer.as_ref() == Some(name),
        };
        pool.half == self.half && is_it && is_linked(pool)
    }

    fn line(&self) -> String {
        match &self.by {
            NamedBy::Address(to) | NamedBy::Name(to) => format!("no link to {to}"),
            NamedBy::Certificate(name) => format!("no link from {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{judged, orders, pool},
        *,
    };
    use crate::telemetry::snapshot::{PoolState, ServicePhase};

    fn of(services: Vec<ServiceRow>, pools: Vec<PoolRow>, named: &[NamedGateway]) -> Readiness {
        let snapshot = Snapshot { halves: vec![Half::Dmz], ..judged(services, pools) };
        Readiness::of(&snapshot, named)
    }

    #[test]
    fn one_service_that_is_served_makes_a_gateway_ready_and_all_make_it_strictly_so() {
        let chat = ServiceRow { phase: ServicePhase::Draining, ..ServiceRow::new(Half::Dmz, "chat") };
        let reported = of(vec![chat, orders()], vec![pool(PoolState::Healthy, 8)], &[]);
        assert_eq!(
            (reported.meets(ReadinessDemand::Usual), reported.meets(ReadinessDemand::Strict)),
            (true, false)
        );
        assert_eq!(reported.reasons, ["chat: drained"]);
        let reported = of(vec![orders()], vec![pool(PoolState::Down, 0)], &[]);
        assert!(!reported.meets(ReadinessDemand::Usual));
        assert_eq!(reported.reasons, ["orders: no link"]);
    }

    #[test]
    fn who_asks_strictly_wants_a_link_to_each_gateway_that_is_named() {
        let half = Half::Dmz;
        let named = |by| NamedGateway { half, by };
        let (alpha, internal) =
            (NamedBy::Certificate("alpha".into()), NamedBy::Certificate("internal".into()));
        let well = vec![pool(PoolState::Filling, 1)];
        let reported = of(vec![orders()], well.clone(), &[named(internal.clone())]);
        assert!(reported.meets(ReadinessDemand::Strict), "{reported:?}");
        let reported = of(vec![orders()], well, &[named(internal), named(alpha)]);
        assert!(reported.meets(ReadinessDemand::Usual) && !reported.meets(ReadinessDemand::Strict));
        assert_eq!(
            (reported.unmet(ReadinessDemand::Usual).len(), reported.unmet(ReadinessDemand::Strict)),
            (0, vec!["no link from alpha".into()])
        );
    }

    #[test]
    fn a_gateway_that_drains_is_not_ready_whatever_it_still_serves() {
        let drains = Snapshot {
            phase: GatewayPhase::Draining,
            halves: vec![Half::Dmz],
            ..judged(vec![orders()], vec![pool(PoolState::Healthy, 8)])
        };
        let reported = Readiness::of(&drains, &[]);
        assert_eq!(
            (reported.ready, &*reported.reasons),
            (false, &["the gateway is draining".to_owned()][..])
        );
    }

    #[test]
    fn an_internal_half_is_ready_with_one_link() {
        let link = PoolRow { half: Half::Internal, ..pool(PoolState::Filling, 1) };
        let inside = |pools| {
            let rows = vec![ServiceRow::new(Half::Internal, "orders")];
            Readiness::of(&Snapshot { halves: vec![Half::Internal], ..judged(rows, pools) }, &[])
        };
        assert!(inside(vec![link]).ready);
        let reported = inside(vec![]);
        assert_eq!((reported.ready, &*reported.reasons), (false, &["no link is up".to_owned()][..]));
    }
}
