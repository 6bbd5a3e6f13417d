//! Combines many snapshots: the rows of all gateways, each with its gateway's name, and sums over all.
//!
//! Rows are not joined here; the screen works out which rows are one session. A gateway that cannot be reached
//! keeps its row; its last state is shown for a moment longer, and then no more.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::SystemTime,
};

use super::{
    clocks::FleetClocks,
    reach::{self, ReachEvents},
    shares,
};
use crate::{
    doctor::{self, DoctorFinding, MachineFacts},
    gateway::handle::GatewayContact,
    profile::{Half, Mode},
    telemetry::{
        health::{Alert, Health},
        log,
        snapshot::{
            GatewayFacts, GatewayPhase, GatewayReach, GatewayRow, ROWS_KEPT_SECONDS, SessionRow, Snapshot,
            TrafficSample,
        },
    },
};

/// The most session rows in one snapshot.
const SESSIONS_MAX: usize = 40_000;
const NOTICES_MAX: usize = 500;

/// The last snapshot of one gateway, and whether it can be reached.
#[derive(Debug, Clone)]
pub struct MemberSnapshot {
    pub name: Arc<str>,
    pub target: String,
    pub contact: GatewayContact,
    /// Seconds since the contact changed.
    pub contact_seconds: f64,
    /// Its last snapshot, and seconds since it arrived.
    pub latest: Option<(Arc<Snapshot>, f64)>,
}

/// State between snapshots: byte counts continue when a gateway is lost or restarted, and each loss is reported
/// once.
#[derive(Debug, Default)]
pub struct FleetMerge {
    events: ReachEvents,
    clocks: FleetClocks,
    bytes: TrafficSample,
    of_members: HashMap<Arc<str>, (String, TrafficSample)>,
}

impl FleetMerge {
    /// The combined snapshot; `uptime_seconds` counts from the first.
    pub fn next(&mut self, members: Vec<MemberSnapshot>, uptime_seconds: f64) -> Snapshot {
        let now = SystemTime::now();
        let mut merged = Snapshot::new(&fleet_name(&members), Mode::Direct);
        (merged.time, merged.uptime_seconds) = (log::format_utc(now), uptime_seconds);
        let has_outer = members.iter().any(|member| {
            member.latest.as_ref().is_some_and(|(snapshot, _)| snapshot.halves.contains(&Half::Dmz))
        });
        merged.findings = doctor::find_clock_skew(self.clocks.read(&members, now));
        let kept: Vec<_> = members.iter().map(kept_snapshot).collect();
        let mut halves = BTreeSet::new();
        for (member, listed) in members.iter().zip(shares::list_sessions(&kept, SESSIONS_MAX)) {
            let reach = reach::reach(member);
            let row = row(member, reach);
            self.events.note(&row, now, uptime_seconds);
            merged.alerts.extend(reach::alert(&row, now));
            let absence = reach::describe_absence(&row);
            merged.findings.extend(absence.clone().map(|why| doctor::find_absence(&row, why)));
            merged.gateways.push(row);
            let Some((snapshot, _)) = &member.latest else { continue };
            let counts = !has_outer || snapshot.halves.contains(&Half::Dmz);
            let moved = self.bytes_moved(&member.name, snapshot);
            if counts {
                self.bytes.up = self.bytes.up.saturating_add(moved.up);
                self.bytes.down = self.bytes.down.saturating_add(moved.down);
            }
            let Some(snapshot) = kept_snapshot(member) else { continue };
            if absence.is_none() && reach != GatewayReach::Stopped {
                merged.findings.extend(findings_of(member, snapshot));
            }
            halves.extend(snapshot.halves.iter().copied());
            add_rows(&mut merged, &member.name, snapshot, &listed);
            if counts {
                merged.totals = merged.totals.with(&snapshot.totals);
            }
        }
        self.clocks.sort_notices(&mut merged.notices, self.events.notices().cloned(), now);
        (merged.totals.bytes_up, merged.totals.bytes_down) = (self.bytes.up, self.bytes.down);
        merged.halves = halves.into_iter().collect();
        finish(&mut merged);
        merged
    }

    /// The bytes that a gateway has moved since its last snapshot. What a new or restarted one had moved before was not
    /// observed here.
    fn bytes_moved(&mut self, name: &Arc<str>, snapshot: &Snapshot) -> TrafficSample {
        let now = TrafficSample { up: snapshot.totals.bytes_up, down: snapshot.totals.bytes_down };
        let before = self.of_members.insert(Arc::clone(name), (snapshot.instance.clone(), now));
        match before.filter(|(instance, _)| *instance == snapshot.instance) {
            Some((_, before)) => TrafficSample {
                up: now.up.saturating_sub(before.up),
                down: now.down.saturating_sub(before.down),
            },
            None => TrafficSample::default(),
        }
    }
}

fn fleet_name(members: &[MemberSnapshot]) -> String {
    let reached = members.iter().filter(|member| reach::reach(member) == GatewayReach::Reached).count();
    format!("{reached} of {} gateways", members.len())
}

/// What is shown for a gateway; for a lost one, only for a short time.
fn kept_snapshot(member: &MemberSnapshot) -> Option<&Snapshot> {
    let is_away = matches!(reach::reach(member), GatewayReach::Unreachable | GatewayReach::Stopped);
    let is_gone = is_away && member.contact_seconds > ROWS_KEPT_SECONDS;
    member.latest.as_ref().map(|(snapshot, _)| &**snapshot).filter(|_| !is_gone)
}

/// What limits one gateway; nothing is known here about its machine.
fn findings_of(member: &MemberSnapshot, snapshot: &Snapshot) -> impl Iterator<Item = DoctorFinding> {
    let findings = doctor::find_limits(snapshot, &MachineFacts::default()).into_iter();
    findings.map(|finding| DoctorFinding { gateway: Some(Arc::clone(&member.name)), ..finding })
}

fn row(member: &MemberSnapshot, reach: GatewayReach) -> GatewayRow {
    let why = match &member.contact {
        GatewayContact::Lost { .. } if reach == GatewayReach::Stopped => None,
        // Its target is already in the row.
        GatewayContact::Lost { why } => {
            let why = why.strip_prefix(&format!("{}: ", member.target)).unwrap_or(why);
            Some(match reach::has_ended(member) {
                true => format!("it was stopped and has not come back: {why}"),
                false => why.to_owned(),
            })
        }
        GatewayContact::Calling | GatewayContact::There => None,
    };
    GatewayRow {
        name: Arc::clone(&member.name),
        target: member.target.clone(),
        reach,
        since_seconds: member.contact_seconds,
        why,
        heard_seconds: member.latest.as_ref().map(|(_, seconds)| *seconds),
        heard: member.latest.as_ref().map(|(snapshot, _)| facts(snapshot)),
    }
}

fn facts(snapshot: &Snapshot) -> GatewayFacts {
    // For one half only: a pair's snapshot has both ends of a link.
    let counted = snapshot.halves.first().copied().unwrap_or(Half::Dmz);
    let pools = || snapshot.pools.iter().filter(|pool| pool.half == counted);
    let rate = snapshot.traffic.last().copied().unwrap_or_default();
    GatewayFacts {
        version: snapshot.version.clone(),
        host: snapshot.host.clone(),
        profile: snapshot.profile.clone(),
        mode: snapshot.mode,
        halves: snapshot.halves.clone(),
        phase: snapshot.phase,
        health: snapshot.health,
        ready: snapshot.readiness.as_ref().map(|readiness| readiness.ready),
        uptime_seconds: snapshot.uptime_seconds,
        instance: snapshot.instance.clone(),
        links_ready: pools().fold(0, |sum: usize, pool| sum.saturating_add(pool.ready.min(pool.target))),
        links_wanted: pools().fold(0, |sum: usize, pool| sum.saturating_add(pool.target)),
        sessions_open: snapshot.totals.sessions_open,
        sessions_waiting: snapshot.totals.sessions_waiting,
        sessions: snapshot.totals.sessions,
        refused: snapshot.totals.refused,
        rate_up: rate.up,
        rate_down: rate.down,
        alerts: snapshot.alerts.len(),
        worst: snapshot.alerts.first().map(|alert| alert.text.clone()),
        switching: snapshot.switching.clone(),
        walk: snapshot.walk.clone(),
        forward_checks: snapshot.forward_checks.clone(),
    }
}

/// Adds every row of one gateway, with its name.
fn add_rows(merged: &mut Snapshot, name: &Arc<str>, snapshot: &Snapshot, listed: &[&SessionRow]) {
    macro_rules! take {
        ($rows:ident) => {
            merged.$rows.extend(snapshot.$rows.iter().cloned().map(|mut row| {
                row.gateway = Some(Arc::clone(name));
                row
            }));
        };
    }
    take!(services);
    take!(pools);
    take!(ended);
    take!(failures);
    take!(notices);
    let alerts = snapshot.alerts.iter().cloned();
    merged.alerts.extend(alerts.map(|alert| Alert {
        text: format!("{name}: {}", alert.text),
        gateway: Some(Arc::clone(name)),
        ..alert
    }));
    let left_out = snapshot.sessions_left_out.saturating_add(snapshot.sessions.len() - listed.len());
    merged.sessions.extend(listed.iter().map(|row| {
        let mut row = SessionRow::clone(row);
        row.gateway = Some(Arc::clone(name));
        row
    }));
    merged.sessions_left_out = merged.sessions_left_out.saturating_add(left_out);
    merged.failures_left_out = merged.failures_left_out.saturating_add(snapshot.failures_left_out);
    merged.log_lines_lost = merged.log_lines_lost.saturating_add(snapshot.log_lines_lost);
}

/// Adds what applies to all of them together.
fn finish(merged: &mut Snapshot) {
    merged.findings.sort_by_key(|finding| Reverse(finding.severity));
    merged.gateways.sort_by_key(|row| {
        Reverse((reach::badness(row), row.heard.as_ref().map_or(0, |facts| facts.alerts)))
    });
    let facts = || merged.gateways.iter().filter_map(|row| row.heard.as_ref());
    // If any gateway is in reverse mode, the fleet is shown in that mode.
    let mode = facts().map(|facts| facts.mode).max_by_key(|mode| match mode {
        Mode::Direct => 0,
        Mode::Forward => 1,
        Mode::Reverse => 2,
    });
    // One that was stopped is missed by nobody for a while.
    let expected = || merged.gateways.iter().filter(|row| row.reach != GatewayReach::Stopped);
    let phases: Vec<_> = expected().filter_map(|row| Some(row.heard.as_ref()?.phase)).collect();
    let reached = || merged.gateways.iter().filter(|row| row.reach == GatewayReach::Reached);
    let worst = reached().filter_map(|row| row.heard.as_ref()?.health).max();
    merged.health = match (reached().count(), worst) {
        (0, _) if expected().count() == 0 => None,
        (0, _) if merged.gateways.iter().any(|row| row.reach == GatewayReach::Calling) => None,
        (0, _) => Some(Health::Down),
        // If one gateway serves nobody, others may still do.
        (reached, worst) if reached < expected().count() => worst.max(Some(Health::Degraded)),
        (_, worst) => worst,
    };
    merged.phase = match phases.iter().all(|phase| *phase == GatewayPhase::Draining) {
        _ if expected().count() == 0 => GatewayPhase::Stopped,
        _ if phases.is_empty() => GatewayPhase::Starting,
        true => GatewayPhase::Draining,
        false => GatewayPhase::Running,
    };
    merged.mode = mode.unwrap_or(Mode::Direct);
    merged.alerts.sort_by_key(|alert| Reverse(alert.kind.severity()));
    let over = merged.notices.len().saturating_sub(NOTICES_MAX);
    merged.notices.drain(..over);
    merged.ended.sort_by(|a, b| a.ago_seconds.total_cmp(&b.ago_seconds));
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::telemetry::snapshot::{PoolRow, ServiceRow, TrafficTotals};

    pub(in crate::fleet) fn snapshot(half: Half, instance: &str, bytes_up: u64) -> Snapshot {
        let totals = TrafficTotals { sessions_open: 3, bytes_up, ..TrafficTotals::default() };
        Snapshot {
            halves: vec![half],
            phase: GatewayPhase::Running,
            health: Some(Health::Healthy),
            instance: instance.into(),
            services: vec![ServiceRow::new(half, "orders")],
            pools: vec![PoolRow::new(half, "*".into())],
            totals,
            ..Snapshot::new("shop", Mode::Reverse)
        }
    }

    pub(in crate::fleet) fn member(name: &str, latest: Option<Snapshot>) -> MemberSnapshot {
        MemberSnapshot {
            name: name.into(),
            target: format!("/run/{name}.sock"),
            contact: GatewayContact::There,
            contact_seconds: 60.0,
            latest: latest.map(|snapshot| (Arc::new(snapshot), 0.5)),
        }
    }

    pub(in crate::fleet) fn lost(name: &str, seconds: f64, latest: Option<Snapshot>) -> MemberSnapshot {
        let why = format!("/run/{name}.sock: it closed");
        let contact = GatewayContact::Lost { why };
        MemberSnapshot { contact, contact_seconds: seconds, ..member(name, latest) }
    }

    #[test]
    fn rows_carry_their_gateways_name_and_clients_are_counted_where_they_come_in() {
        let both = vec![
            member("edge", Some(snapshot(Half::Dmz, "a", 0))),
            member("inside", Some(snapshot(Half::Internal, "b", 0))),
        ];
        let merged = FleetMerge::default().next(both, 1.0);
        let names: Vec<_> = merged.services.iter().map(|row| row.gateway.as_deref().unwrap_or("-")).collect();
        assert_eq!(names, ["edge", "inside"]);
        assert_eq!((merged.totals.sessions_open, merged.mode), (3, Mode::Reverse));
        assert_eq!((merged.health, merged.profile.as_str()), (Some(Health::Healthy), "2 of 2 gateways"));
    }

    #[test]
    fn byte_counts_continue_when_a_gateway_is_lost_or_restarted() {
        let mut merge = FleetMerge::default();
        let mut up = |instance: &str, bytes| {
            let members = vec![member("edge", Some(snapshot(Half::Dmz, instance, bytes)))];
            merge.next(members, 1.0).totals.bytes_up
        };
        assert_eq!([up("a", 1000), up("a", 1500), up("b", 7), up("b", 9)], [0, 500, 500, 502]);
    }

    #[test]
    fn the_worst_stand_on_top_and_one_that_is_lost_keeps_its_row_alone() {
        let down = Snapshot { health: Some(Health::Down), ..snapshot(Half::Dmz, "c", 0) };
        let members = vec![
            member("well", Some(snapshot(Half::Dmz, "a", 0))),
            member("down", Some(down)),
            lost("gone", 30.0, Some(snapshot(Half::Dmz, "b", 0))),
            lost("blinks", 3.0, Some(snapshot(Half::Dmz, "d", 0))),
            MemberSnapshot { contact: GatewayContact::Calling, ..member("new", None) },
            member("mute", None),
        ];
        let merged = FleetMerge::default().next(members, 1.0);
        let rows: Vec<_> = merged.gateways.iter().map(|row| (&*row.name, row.reach)).collect();
        use GatewayReach::{Calling, Reached, Silent, Unreachable};
        let expected = [
            ("gone", Unreachable),
            ("blinks", Unreachable),
            ("mute", Silent),
            ("down", Reached),
            ("new", Calling),
            ("well", Reached),
        ];
        assert_eq!(rows, expected);
        assert_eq!(merged.gateways[0].why.as_deref(), Some("it closed"));
        let shown: Vec<_> = merged.pools.iter().filter_map(|row| row.gateway.as_deref()).collect();
        assert_eq!(shown, ["well", "down", "blinks"]);
        assert_eq!(merged.health, Some(Health::Down));
        assert!(merged.alerts[0].text.starts_with("gateway gone cannot be reached"), "{:?}", merged.alerts);
    }

    #[test]
    fn sums_that_overflow_stop_at_the_most() {
        let most = || {
            let totals =
                TrafficTotals { sessions_open: u64::MAX, refused: u64::MAX, ..TrafficTotals::default() };
            let pool =
                PoolRow { ready: usize::MAX, target: usize::MAX, ..PoolRow::new(Half::Dmz, "*".into()) };
            let left = usize::MAX;
            Snapshot {
                totals,
                pools: vec![pool.clone(), pool],
                sessions_left_out: left,
                ..snapshot(Half::Dmz, "a", 0)
            }
        };
        let merged =
            FleetMerge::default().next(vec![member("a", Some(most())), member("b", Some(most()))], f64::MAX);
        assert_eq!((merged.totals.sessions_open, merged.sessions_left_out), (u64::MAX, usize::MAX));
        assert_eq!(merged.gateways[0].heard.as_ref().map(|facts| facts.links_ready), Some(usize::MAX));
    }
}
