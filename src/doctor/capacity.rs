//! The gateway's own limits: sessions of a service, and descriptors of the process.

use super::{
    DoctorFinding,
    FindingSeverity::{Must, Should},
};
use crate::{
    profile::{Half, Mode},
    proto::socks5,
    telemetry::{
        format,
        snapshot::{ServiceRow, Snapshot},
    },
};

/// How long refusals still count.
const RECENT_SECONDS: f64 = 60.0;

pub fn find_full_services(snapshot: &Snapshot) -> Vec<DoctorFinding> {
    // The internal half's capacity follows from its links, which have findings of their own.
    let of_clients = snapshot.services.iter().filter(|service| service.half == Half::Dmz);
    of_clients.filter_map(find_full_service).collect()
}

fn find_full_service(service: &ServiceRow) -> Option<DoctorFinding> {
    let limit = service.limit? as u64;
    let open = service.totals.sessions_open;
    let mut refusals = service.refusals.iter().filter(|row| row.ago_seconds < RECENT_SECONDS);
    let refusal = refusals.find(|row| row.code == "LA" && !row.is_of_one_client);
    let severity = match () {
        () if refusal.is_some() || open >= limit => Must,
        () if is_most(open, limit) => Should,
        () => return None,
    };
    let figure = format!("{open} of {limit} sessions open");
    let reason = match refusal {
        Some(row) => format!("{} refused: {}", format::count(row.count, "client"), row.reason),
        None => "clients past `sessions` are refused".into(),
    };
    let advice = "raise `sessions` of the service, as far as backends and descriptors allow, or end what is idle (`idle`)";
    Some(DoctorFinding::new("sessions-full", severity, figure, reason, advice).about(service.name.clone()))
}

/// Nine tenths or more.
fn is_most(used: u64, limit: u64) -> bool {
    limit > 0 && used.saturating_mul(10) >= limit.saturating_mul(9)
}

pub fn find_descriptors(snapshot: &Snapshot) -> Option<DoctorFinding> {
    let (used, limit) = (snapshot.descriptors.used, snapshot.descriptors.limit);
    let needed = needed_descriptors(snapshot);
    let advice = "raise the hard limit of open files: `LimitNOFILE` of the service, `ulimit -Hn` elsewhere; or lower `sessions`";
    if is_most(used, limit) {
        let figure = format!("{used} of {limit} descriptors open");
        let reason = "without a descriptor no client is accepted and no link is dialled";
        return Some(DoctorFinding::new("descriptors", Must, figure, reason, advice));
    }
    if limit == 0 || needed <= limit {
        return None;
    }
    let figure =
        format!("{limit} descriptors, {needed} needed for all sessions that are allowed; {used} open");
    let reason = "clients past the limit of descriptors wait, though `sessions` allows them";
    Some(DoctorFinding::new("descriptors", Should, figure, reason, advice))
}

/// What would be needed if each service had as many sessions as allowed. How many the internal half gets is up
/// to the DMZ half.
fn needed_descriptors(snapshot: &Snapshot) -> u64 {
    let mut pools = snapshot.pools.iter();
    let has_one_session_links = pools.any(|pool| pool.protocol.as_deref() == Some(socks5::PROTOCOL_NAME));
    let halves = snapshot.halves.len() as u64;
    // A client, its backend if this process dials that too, and each end of a link that is not shared.
    let ends = if snapshot.mode == Mode::Direct { 2 } else { halves.max(1) };
    let each = if has_one_session_links { ends.saturating_add(halves) } else { ends };
    let limits = snapshot.services.iter().filter(|service| service.half == Half::Dmz);
    let sessions = limits.map(|service| service.limit.unwrap_or_default() as u64);
    let links = snapshot.pools.iter().map(|pool| pool.target as u64);
    links.chain(sessions.map(|limit| limit.saturating_mul(each))).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{found, healthy, pool},
        *,
    };
    use crate::telemetry::{
        snapshot::{DescriptorUsage, PoolRow, TrafficTotals},
        verdict::RefusalRow,
    };

    fn with_sessions(sessions_open: u64, refusals: Vec<RefusalRow>) -> Snapshot {
        let mut snapshot = healthy();
        snapshot.services[0].totals = TrafficTotals { sessions_open, ..TrafficTotals::default() };
        snapshot.services[0].refusals = refusals;
        snapshot
    }

    #[test]
    fn a_service_that_is_full_or_nearly_is_reported() {
        let refused = |is_of_one_client| RefusalRow {
            code: "LA".into(),
            count: 60,
            reason: "the limit of 1000 open sessions (`sessions`) is reached".into(),
            is_of_one_client,
            ago_seconds: 2.0,
        };
        assert_eq!(found(&with_sessions(1000, vec![]), "sessions-full"), [Must]);
        assert_eq!(found(&with_sessions(900, vec![]), "sessions-full"), [Should]);
        assert_eq!(found(&with_sessions(899, vec![]), "sessions-full"), []);
        assert_eq!(found(&with_sessions(10, vec![refused(false)]), "sessions-full"), [Must]);
        assert_eq!(found(&with_sessions(10, vec![refused(true)]), "sessions-full"), [], "one client alone");
    }

    #[test]
    fn descriptors_are_held_against_what_is_open_and_what_sessions_need() {
        let of = |used, limit| Snapshot { descriptors: DescriptorUsage { used, limit }, ..healthy() };
        assert_eq!(found(&of(922, 1024), "descriptors"), [Must]);
        assert_eq!(found(&of(40, 1024), "descriptors"), [], "1000 sessions and 8 links");
        assert_eq!(found(&of(40, 1000), "descriptors"), [Should]);
        assert_eq!(found(&of(0, 0), "descriptors"), [], "unknown");
        let socks = PoolRow { protocol: Some("socks/5".into()), ..pool() };
        let socks = Snapshot { pools: vec![socks], ..of(40, 1024) };
        assert_eq!(found(&socks, "descriptors"), [Should], "each session has a link of its own");
        let inner = ServiceRow { limit: Some(262_144), ..ServiceRow::new(Half::Internal, "orders") };
        let inner = Snapshot { halves: vec![Half::Internal], services: vec![inner], ..of(40, 1024) };
        let inner = Snapshot { confined: Default::default(), ..inner };
        assert_eq!(found(&inner, "descriptors"), [], "nobody has asked for this many");
        let reported = find_descriptors(&socks).map(|reported| reported.figure);
        let figure = "1024 descriptors, 2008 needed for all sessions that are allowed; 40 open";
        assert_eq!(reported.as_deref(), Some(figure));
    }
}
