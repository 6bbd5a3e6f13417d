//! Links: too few, full, or unstable, and clients that wait for one. Each finding names its figure and its remedy;
//! `telemetry::health` judges the same rows for alerts.

use super::{
    DoctorFinding,
    FindingSeverity::{Must, Should},
    unanswering::find_unanswering,
};
use crate::{
    profile::Half,
    proto::{certificate::is_same_name, socks5},
    telemetry::{
        format,
        health::is_linked,
        link_cause::LinkCause,
        snapshot::{
            EndedRow, GatewayPhase, LinkRow, LinkState, LockdownRow, Notice, PoolRow, PoolState,
            ServicePhase, ServiceRow, Snapshot,
        },
    },
};

/// This many failures of one peer's links within a minute are not an accident.
const FLAPS_MIN: u64 = 3;
/// A wait that people notice.
const LONG_WAIT_MS: f64 = 1000.0;
/// How long refusals still count.
const RECENT_SECONDS: f64 = 60.0;

pub fn find_limits_of_links(snapshot: &Snapshot) -> Vec<DoctorFinding> {
    // A gateway that drains or starts has fewer links on purpose.
    if snapshot.phase != GatewayPhase::Running {
        return Vec::new();
    }
    let drains = |pool: &&PoolRow| {
        let is_it = |row: &ServiceRow| row.half == pool.half && row.name == pool.service;
        snapshot.services.iter().any(|row| is_it(row) && row.phase == ServicePhase::Draining)
    };
    let of_pools = snapshot.pools.iter().filter(|pool| !drains(pool)).flat_map(|pool| {
        let found = [
            find_missing(snapshot, pool),
            find_full(snapshot, pool),
            find_flapping(pool),
            find_unanswering(pool, object(pool)),
            find_long_waits(pool),
        ];
        found.into_iter().flatten().chain(find_loss(pool))
    });
    let of_services = snapshot.services.iter().flat_map(|service| {
        [find_hopeless_waits(service), find_impatient_clients(snapshot, service)].into_iter().flatten()
    });
    snapshot.lockdown.iter().map(find_locks).chain(of_pools).chain(of_services).collect()
}

/// `any service from internal at 10.0.0.5`.
fn object(pool: &PoolRow) -> String {
    let service = if pool.service == "*" { "any service" } else { &pool.service };
    let direction = match pool.half {
        Half::Dmz => "from",
        Half::Internal => "to",
    };
    match (&pool.peer, &pool.address) {
        (Some(peer), Some(address)) => format!("{service}, {direction} {peer} at {address}"),
        (Some(one), None) | (None, Some(one)) => format!("{service}, {direction} {one}"),
        (None, None) => service.to_owned(),
    }
}

fn last_error(pool: &PoolRow) -> String {
    pool.last_error.as_ref().map_or(String::new(), |error| format!("; the last error: {error}"))
}

fn find_missing(snapshot: &Snapshot, pool: &PoolRow) -> Option<DoctorFinding> {
    let up = pool.ready.saturating_add(pool.carrying);
    // A half that is to be dialled does not know how many links there should be before the first one.
    let is_kept_away = up == 0 && pool.last_error.is_some();
    let is_kept_few = pool.state != PoolState::Healthy && (up < pool.target || is_kept_away);
    let is_short = is_kept_few && !pool.standby && (!is_linked(pool) || pool.last_error.is_some());
    if !is_short || is_locked(snapshot, pool) || pool.left && is_replaced(snapshot, pool) {
        return None;
    }
    let figure = match pool.target {
        0 => "no link".into(),
        target => format!("{up} of {target} links up"),
    };
    let (severity, reason) = match is_linked(pool) {
        false => (Must, "without a link no client can be carried over this peer"),
        true => (Should, "with fewer links than wanted, the loss of one ends more sessions"),
    };
    let rejected = last_rejected_link(snapshot).filter(|_| !is_linked(pool));
    let reason = match &rejected {
        Some(rejected) => format!("{reason}; the last link that came was rejected: {}", rejected.text),
        None => format!("{reason}{}", last_error(pool)),
    };
    let advice = advice_on_missing(pool, rejected.is_some());
    Some(DoctorFinding::new("links-missing", severity, figure, reason, advice).about(object(pool)))
}

fn advice_on_missing(pool: &PoolRow, has_rejected: bool) -> &'static str {
    let is_awaited = matches!(pool.last_cause, Some(LinkCause::NoInternalGateway | LinkCause::NoDmzGateway));
    match pool.half {
        _ if has_rejected => {
            "correct what was rejected, on this half or on the other: names, certificates and services are compared by `check` of both profiles"
        }
        _ if pool.left => {
            "that gateway has stopped in good order: start it again, or add another one that serves as well"
        }
        _ if is_awaited => {
            "start the gateway that dials this one; if it runs, see that both are in the same mode, and look at its log"
        }
        Half::Dmz => {
            "look at the log of the gateway at the other end, and at what lies between; `verify` names the step that fails"
        }
        Half::Internal => {
            "see that the address answers and that both halves trust each other's certificates; `verify` names the step that fails"
        }
    }
}

/// Whether another peer serves what this one did.
fn is_replaced(snapshot: &Snapshot, pool: &PoolRow) -> bool {
    let may_replace = |other: &&PoolRow| {
        let has_service = |name: &String| other.may_serve(name);
        other.half == pool.half
            && match (pool.serves.as_slice(), pool.service.as_str()) {
                ([], "*") => true,
                ([], service) => other.may_serve(service),
                (serves, _) => serves.iter().all(has_service),
            }
    };
    let is_other = |other: &&PoolRow| !std::ptr::eq(*other, pool);
    snapshot.pools.iter().filter(is_other).filter(may_replace).any(is_linked)
}

/// The last link that this gateway rejected, if one of its peers has no link.
pub fn last_rejected_link(snapshot: &Snapshot) -> Option<&Notice> {
    let is_awaited = snapshot.pools.iter().any(|pool| !pool.standby && !is_linked(pool));
    if snapshot.listening.is_empty() || !is_awaited {
        return None;
    }
    snapshot.notices.iter().rev().find(|notice| notice.rejected_link.is_some())
}

/// Whether an operator has locked the links of this peer.
fn is_locked(snapshot: &Snapshot, pool: &PoolRow) -> bool {
    let is_of_peer = |row: &LockdownRow| {
        row.peer
            .as_ref()
            .is_none_or(|locked| pool.peer.as_ref().is_some_and(|peer| is_same_name(locked, peer)))
    };
    let is_of_links = |row: &&LockdownRow| row.service.is_none() && is_of_peer(row);
    pool.half == Half::Internal && snapshot.lockdown.iter().any(|row| is_of_links(&row))
}

/// What the inside has locked serves nobody until it is unlocked, which may be what is wanted.
fn find_locks(row: &LockdownRow) -> DoctorFinding {
    let reason = "`lockdown` was given: what is locked is cut, refused and no longer offered";
    let unlock = ["portcullis unlock".to_owned()]
        .into_iter()
        .chain(row.peer.iter().map(|peer| format!("--peer {peer}")))
        .chain(row.service.clone())
        .collect::<Vec<_>>()
        .join(" ");
    let advice = format!("leave it, if it is wanted; `{unlock}` lifts it");
    DoctorFinding::new("locked", Must, format!("locked since {}", row.since), reason, advice)
        .about(row.to_string())
}

/// Links are up, and none of them takes a session.
fn find_full(snapshot: &Snapshot, pool: &PoolRow) -> Option<DoctorFinding> {
    if pool.ready > 0 || pool.carrying == 0 || pool.left || is_leaving(pool) {
        return None;
    }
    if is_relieved_at_address(snapshot, pool) {
        return None;
    }
    let clients = format::count(pool.waiting as u64, "client");
    let figure = format!("0 of {} links ready, {clients} waiting", pool.carrying);
    let severity = if pool.waiting > 0 || pool.at_maximum { Must } else { Should };
    let is_single = pool.protocol.as_deref() == Some(socks5::PROTOCOL_NAME);
    let (reason, advice) = match is_single {
        true => (
            "a link that speaks SOCKS5 carries one session, and all of them do",
            "raise `prepared` and `maximum` of the half that dials, or let both halves speak portcullis/2",
        ),
        false => (
            "every link carries as many sessions as `sessions_per_link` allows",
            "raise `sessions_per_link` on the internal half, or `prepared` and `maximum` of the half that dials",
        ),
    };
    Some(DoctorFinding::new("links-full", severity, figure, reason, advice).about(object(pool)))
}

/// Whether all of its links are leaving: they take no session for that, however few they carry. One of several
/// gateways at an address drains without the address having said goodbye.
fn is_leaving(pool: &PoolRow) -> bool {
    let is_known_whole = pool.links.len() >= pool.carrying;
    is_known_whole && pool.links.iter().all(|link| link.state == LinkState::Leaving)
}

/// Whether another gateway at the same address takes the sessions. A DMZ half gives them to any of these; on an
/// internal half each gateway there has clients of its own, which its own links must carry.
fn is_relieved_at_address(snapshot: &Snapshot, pool: &PoolRow) -> bool {
    let shares_address = |other: &&PoolRow| {
        (other.half, &other.service, &other.address) == (pool.half, &pool.service, &pool.address)
            && other.instance != pool.instance
    };
    pool.half == Half::Dmz
        && pool.address.is_some()
        && snapshot.pools.iter().filter(shares_address).any(|other| other.ready > 0)
}

fn find_flapping(pool: &PoolRow) -> Option<DoctorFinding> {
    let up = pool.ready.saturating_add(pool.carrying);
    // A peer that has just died counts as linked for a second more, and has only died once.
    if pool.failures_minute < FLAPS_MIN || !is_linked(pool) || up == 0 {
        return None;
    }
    let figure = format!("{} links failed within a minute, {up} up", pool.failures_minute);
    let reason = format!("each link that is lost ends the sessions on it{}", last_error(pool));
    let advice = "look for a firewall or proxy that ends connections, for packets that are lost, and for a peer that starts again and again";
    Some(DoctorFinding::new("peer-flaps", Must, figure, reason, advice).about(object(pool)))
}

/// Measured over the whole life of the links that are up; a SOCKS5 link lasts for one session.
fn find_loss(pool: &PoolRow) -> Option<DoctorFinding> {
    let sum = |of: fn(&LinkRow) -> u32| pool.links.iter().map(|link| u64::from(of(link))).sum::<u64>();
    let (sent, resent) = (sum(|link| link.segments_sent), sum(|link| link.segments_resent));
    let severity = match () {
        () if sent < SEGMENTS_MIN => return None,
        () if resent.saturating_mul(20) >= sent => Must,
        () if resent.saturating_mul(100) >= sent => Should,
        () => return None,
    };
    let figure =
        format!("{resent} of {sent} segments were sent again, {:.1} %", 100.0 * resent as f64 / sent as f64);
    let reason = "all sessions of a link wait for what was lost on it";
    let advice = "look for what drops packets between the gateways: a full line, a policer, a bad cable, a smaller MTU on the way";
    Some(DoctorFinding::new("link-loss", severity, figure, reason, advice).about(object(pool)))
}

/// With fewer segments, the loss cannot be judged.
const SEGMENTS_MIN: u64 = 1000;

fn find_long_waits(pool: &PoolRow) -> Option<DoctorFinding> {
    // Without any link, more of them would help nobody: that they are missing is found by itself.
    let longest = pool.wait_p99_ms.filter(|&wait| wait >= LONG_WAIT_MS && is_linked(pool))?;
    let half = pool.wait_p50_ms.unwrap_or_default();
    let figure = format!(
        "of the last minute's clients half waited up to {}, 99 of a hundred up to {}",
        format::wait(half),
        format::wait(longest)
    );
    let reason = "clients wait for a link before their first byte is carried";
    let advice = "raise `prepared`, so that links are up before clients come; see the round trip to the peer in `status`";
    let severity = if half >= LONG_WAIT_MS { Must } else { Should };
    Some(DoctorFinding::new("waits-long", severity, figure, reason, advice).about(object(pool)))
}

/// Clients that were refused at the end of `wait`, or because too many waited.
fn find_hopeless_waits(service: &ServiceRow) -> Option<DoctorFinding> {
    let is_recent = |code: &str, ago: f64| matches!(code, "TW" | "LW") && ago < RECENT_SECONDS;
    let mut refusals = service.refusals.iter().filter(|row| is_recent(&row.code, row.ago_seconds)).peekable();
    let reason = refusals.peek()?.reason.clone();
    let refused = refusals.fold(0_u64, |sum, row| sum.saturating_add(row.count));
    let clients = format::count(refused, "client");
    let figure = format!("{clients} refused after waiting for a link");
    let advice = "fix what prevents links; else raise `prepared` and `maximum` of the half that dials, and then `wait` or `waiters`";
    let reason = format!("no link became ready in time: {reason}");
    Some(DoctorFinding::new("wait-in-vain", Must, figure, reason, advice).about(service.name.clone()))
}

/// Clients that left by themselves before `wait` was over.
fn find_impatient_clients(snapshot: &Snapshot, service: &ServiceRow) -> Option<DoctorFinding> {
    let is_one = |row: &&EndedRow| {
        row.end == "CW"
            && row.half == service.half
            && row.service == service.name
            && row.ago_seconds < RECENT_SECONDS
    };
    let mut waits: Vec<_> = snapshot.ended.iter().filter(is_one).map(|row| row.seconds).collect();
    if waits.len() < LEFT_EARLY_MIN {
        return None;
    }
    waits.sort_by(f64::total_cmp);
    let half = waits[waits.len() / 2];
    let figure = format!(
        "{} clients left within a minute while they waited, half of them before {}",
        waits.len(),
        format::span(half)
    );
    let reason = "`wait` is longer than clients stay: clients leave before they get an answer";
    let advice = "fix what prevents links, or raise `prepared`; a `wait` shorter than the clients' patience lets them see the error";
    Some(DoctorFinding::new("wait-outlasts", Should, figure, reason, advice).about(service.name.clone()))
}

/// Fewer may have left for other reasons.
const LEFT_EARLY_MIN: usize = 3;

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{found, healthy, pool},
        *,
    };
    use crate::telemetry::{snapshot::NoticeLevel, verdict::RefusalRow};

    fn of(pool: PoolRow) -> Snapshot {
        Snapshot { pools: vec![pool], ..healthy() }
    }

    fn link(state: &str, segments_sent: u32, segments_resent: u32) -> LinkRow {
        let row = serde_json::json!({
            "age_seconds": 60.0, "state": state, "sessions": 1, "address": null, "tls": null, "group": null,
            "segments_sent": segments_sent, "segments_resent": segments_resent,
        });
        serde_json::from_value(row).expect("it has every field that has no default")
    }

    #[test]
    fn links_that_are_missing_are_reported_where_something_keeps_them_away() {
        let down = PoolRow { state: PoolState::Down, ready: 0, gone_seconds: Some(5.0), ..pool() };
        assert_eq!(found(&of(down.clone()), "links-missing"), [Must]);
        let error = Some("connection refused".to_owned());
        let few = PoolRow { state: PoolState::Filling, ready: 2, ..pool() };
        let failing = PoolRow { last_error: error, ..few.clone() };
        assert_eq!(found(&of(failing.clone()), "links-missing"), [Should]);
        assert_eq!(found(&of(few), "links-missing"), [], "it fills, and nothing failed");
        let left = PoolRow { left: true, ..down.clone() };
        let served = Snapshot { pools: vec![left.clone(), pool()], ..healthy() };
        assert_eq!(found(&served, "links-missing"), [], "it said goodbye, and another serves");
        assert_eq!(found(&of(left), "links-missing"), [Must], "it was the last one");
        let nobody = Some("no DMZ gateway has dialled in".to_owned());
        let unknown = PoolRow { target: 0, last_error: nobody, ..down.clone() };
        assert_eq!(found(&of(unknown), "links-missing"), [Must], "none has ever come");
        assert_eq!(found(&of(PoolRow { standby: true, ..down.clone() }), "links-missing"), []);
        let of_orders = PoolRow { service: "orders".into(), ..down.clone() };
        let mut drained = of(of_orders);
        assert_eq!(found(&drained, "links-missing"), [Must]);
        drained.services[0].phase = ServicePhase::Draining;
        assert_eq!(found(&drained, "links-missing"), [], "nobody is to come");
        let draining = Snapshot { phase: GatewayPhase::Draining, ..of(down) };
        assert_eq!(found(&draining, "links-missing"), []);
        let reported = find_missing(&healthy(), &failing).expect("it is found");
        assert_eq!(reported.figure, "2 of 8 links up");
        assert_eq!(reported.object.as_deref(), Some("any service, from internal at 10.0.0.5"));
        assert!(reported.reason.ends_with("the last error: connection refused"), "{}", reported.reason);
    }

    #[test]
    fn a_rejected_link_is_the_reason_for_a_missing_one() {
        let down = PoolRow { state: PoolState::Down, ready: 0, gone_seconds: Some(5.0), ..pool() };
        let text = "link from 192.0.2.7: its certificate is for other".to_owned();
        let rejected_link = Some(LinkCause::PeerNotListed);
        let notice =
            Notice { gateway: None, time: String::new(), level: NoticeLevel::Warn, text, rejected_link };
        let snapshot =
            Snapshot { notices: vec![notice], listening: vec!["192.0.2.1:1443".into()], ..of(down.clone()) };
        let reported = find_missing(&snapshot, &down).expect("it is found");
        assert!(reported.reason.ends_with("its certificate is for other"), "{}", reported.reason);
        assert!(reported.advice.starts_with("correct what was rejected"), "{}", reported.advice);
        let reported = find_missing(&of(down.clone()), &down).expect("it is found");
        assert!(!reported.reason.contains("rejected"), "{}", reported.reason);
    }

    #[test]
    fn a_lock_is_reported_instead_of_the_links_that_it_closed() {
        let down = PoolRow {
            half: Half::Internal,
            state: PoolState::Down,
            ready: 0,
            peer: Some("dmz".into()),
            ..pool()
        };
        let lock = |peer: Option<&str>| LockdownRow {
            peer: peer.map(Into::into),
            service: None,
            since: "2026-11-30T04:00:00Z".into(),
        };
        let locked = |lockdown| Snapshot { lockdown, ..of(down.clone()) };
        assert_eq!(found(&locked(vec![lock(None)]), "locked"), [Must]);
        assert_eq!(found(&locked(vec![lock(Some("dmz"))]), "locked"), [Must]);
        let other = find_limits_of_links(&locked(vec![lock(Some("other"))]));
        assert_eq!(other.iter().map(|it| &*it.id).collect::<Vec<_>>(), ["locked", "links-missing"]);
        assert_eq!(other[0].advice, "leave it, if it is wanted; `portcullis unlock --peer other` lifts it");
    }

    #[test]
    fn links_that_take_no_more_are_reported() {
        let full = PoolRow { ready: 0, carrying: 8, ..pool() };
        assert_eq!(found(&of(full.clone()), "links-full"), [Should]);
        assert_eq!(found(&of(PoolRow { waiting: 1, ..full.clone() }), "links-full"), [Must]);
        assert_eq!(found(&of(PoolRow { at_maximum: true, ..full.clone() }), "links-full"), [Must]);
        assert_eq!(found(&of(PoolRow { ready: 1, carrying: 7, ..pool() }), "links-full"), []);
        let single = PoolRow { protocol: Some("socks/5".into()), ..full };
        let reported = find_full(&healthy(), &single);
        assert!(reported.is_some_and(|reported| reported.reason.contains("SOCKS5")));
    }

    #[test]
    fn a_gateway_of_a_shared_address_is_full_only_where_its_own_links_are_needed() {
        let of_instance = |instance: &str| PoolRow { instance: Some(instance.into()), ..pool() };
        let links = |state: &str| vec![link(state, 60, 0), link(state, 60, 0)];
        let full = PoolRow { ready: 0, carrying: 2, target: 0, links: links("carrying"), ..of_instance("a") };
        let beside = |full: &PoolRow, other: PoolRow| Snapshot {
            pools: vec![full.clone(), PoolRow { half: full.half, ..other }],
            ..healthy()
        };
        let takes = of_instance("b");
        assert_eq!(found(&beside(&full, takes.clone()), "links-full"), [], "the other takes what comes");
        let elsewhere = PoolRow { address: Some("10.0.0.6".into()), ..takes.clone() };
        assert_eq!(found(&beside(&full, elsewhere), "links-full"), [Should]);
        let both = PoolRow { ready: 0, carrying: 2, links: links("carrying"), ..takes.clone() };
        assert_eq!(found(&beside(&full, both), "links-full"), [Should, Should]);
        let inside = PoolRow { half: Half::Internal, ..full };
        assert_eq!(found(&beside(&inside, takes.clone()), "links-full"), [Should], "each has its clients");
        let drains = PoolRow { links: links("leaving"), ..inside };
        assert_eq!(found(&beside(&drains, takes), "links-full"), [], "they are leaving, not full");
    }

    #[test]
    fn a_peer_whose_links_come_and_go_is_reported() {
        assert_eq!(found(&of(PoolRow { failures_minute: 3, ..pool() }), "peer-flaps"), [Must]);
        assert_eq!(found(&of(PoolRow { failures_minute: 2, failures: 900, ..pool() }), "peer-flaps"), []);
        let gone = PoolRow { state: PoolState::Down, ready: 0, gone_seconds: Some(0.1), ..pool() };
        let just_died = PoolRow { failures_minute: 8, ..gone };
        assert!(is_linked(&just_died) && find_flapping(&just_died).is_none());
    }

    #[test]
    fn links_that_lose_packets_are_reported() {
        let link = |sent, resent| link("ready", sent, resent);
        let lost = |links: Vec<LinkRow>| found(&of(PoolRow { links, ..pool() }), "link-loss");
        assert_eq!(lost(vec![link(900, 90)]), [], "too few to say");
        assert_eq!(lost(vec![link(600, 3), link(600, 3)]), []);
        assert_eq!(lost(vec![link(600, 3), link(600, 13)]), [Should]);
        assert_eq!(lost(vec![link(u32::MAX, u32::MAX), link(u32::MAX, 0)]), [Must]);
    }

    #[test]
    fn long_waits_are_reported() {
        let waits = |half, most| of(PoolRow { wait_p50_ms: Some(half), wait_p99_ms: Some(most), ..pool() });
        assert_eq!(found(&waits(1.0, 1500.0), "waits-long"), [Should]);
        assert_eq!(found(&waits(1200.0, 1500.0), "waits-long"), [Must]);
        assert_eq!(found(&waits(1.0, 20.0), "waits-long"), []);
        let down = PoolRow {
            state: PoolState::Down,
            ready: 0,
            wait_p50_ms: Some(3e3),
            wait_p99_ms: Some(3e3),
            ..pool()
        };
        assert_eq!(found(&of(down), "links-missing"), [Must], "no link is there to be waited for");
    }

    #[test]
    fn clients_that_leave_before_their_wait_is_over_are_reported() {
        let left = |seconds: f64, ago_seconds: f64, end: &str| -> EndedRow {
            let row = serde_json::json!({
                "id": "1", "role": "dmz", "service": "orders", "client": "192.0.2.7:50000", "peer": null,
                "end": end, "reason": "the client left", "seconds": seconds, "ago_seconds": ago_seconds,
                "bytes_up": 0, "bytes_down": 0,
            });
            serde_json::from_value(row).expect("it has every field that has no default")
        };
        let mut snapshot = healthy();
        snapshot.ended =
            vec![left(3.0, 1.0, "CW"), left(4.0, 2.0, "CW"), left(9.0, 3.0, "--"), left(9.0, 90.0, "CW")];
        assert_eq!(found(&snapshot, "wait-outlasts"), [], "two may have changed their mind");
        snapshot.ended.push(left(5.0, 4.0, "CW"));
        assert_eq!(found(&snapshot, "wait-outlasts"), [Should]);
        let reported = find_limits_of_links(&snapshot);
        assert!(
            reported[0].figure.starts_with("3 clients left") && reported[0].figure.ends_with("before 4s"),
            "{reported:?}"
        );
    }

    #[test]
    fn clients_refused_after_waiting_are_reported() {
        let refused = |code: &str, ago_seconds| {
            let reason = "no link was ready within 3s".into();
            let row =
                RefusalRow { code: code.into(), count: 7, reason, is_of_one_client: false, ago_seconds };
            let mut snapshot = healthy();
            snapshot.services[0].refusals = vec![row];
            snapshot
        };
        assert_eq!(found(&refused("TW", 1.0), "wait-in-vain"), [Must]);
        assert_eq!(found(&refused("LW", 1.0), "wait-in-vain"), [Must]);
        assert_eq!(found(&refused("TW", 300.0), "wait-in-vain"), [], "that is over");
        assert_eq!(found(&refused("XA", 1.0), "wait-in-vain"), []);
    }
}
