//! Which gateways can be reached: a word for each, an alert for one that cannot, and an event when that changes. A
//! gateway that is silent keeps its last rows, which the screen shows as unknown.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::merge::MemberSnapshot;
use crate::{
    gateway::handle::GatewayContact,
    telemetry::{
        format,
        health::{Alert, AlertKind, Health},
        log,
        snapshot::{GatewayPhase, GatewayReach, GatewayRow, Notice, NoticeLevel},
    },
};

/// A connected gateway sends its snapshots every second.
const SILENT_SECONDS: f64 = 5.0;
/// How long a gateway that was stopped is missed by nobody: a restart takes less.
const STOPPED_SECONDS: f64 = 60.0;
/// How many recent losses and returns are shown.
const EVENTS_MAX: usize = 100;

pub fn reach(member: &MemberSnapshot) -> GatewayReach {
    let heard_seconds = member.latest.as_ref().map(|(_, seconds)| *seconds);
    match &member.contact {
        GatewayContact::Calling => GatewayReach::Calling,
        GatewayContact::Lost { .. } if has_ended(member) && member.contact_seconds <= STOPPED_SECONDS => {
            GatewayReach::Stopped
        }
        GatewayContact::Lost { .. } => GatewayReach::Unreachable,
        GatewayContact::There if heard_seconds.is_some_and(|seconds| seconds < SILENT_SECONDS) => {
            GatewayReach::Reached
        }
        // Its first snapshot is on its way.
        GatewayContact::There if member.contact_seconds < SILENT_SECONDS => GatewayReach::Calling,
        GatewayContact::There => GatewayReach::Silent,
    }
}

/// Whether it said that it has stopped. One that vanished while it was about to may have crashed.
pub fn has_ended(member: &MemberSnapshot) -> bool {
    member.latest.as_ref().is_some_and(|(last, _)| last.phase == GatewayPhase::Stopped)
}

/// The worse, the higher up; those that were stopped come last.
pub fn badness(row: &GatewayRow) -> u8 {
    let health = row.heard.as_ref().and_then(|facts| facts.health);
    match (row.reach, health) {
        (GatewayReach::Unreachable, _) => 7,
        (GatewayReach::Silent, _) => 6,
        (GatewayReach::Reached, Some(Health::Down)) => 5,
        (GatewayReach::Reached, Some(Health::Full)) => 4,
        (GatewayReach::Reached, Some(Health::Degraded)) => 3,
        (GatewayReach::Calling, _) | (GatewayReach::Reached, None) => 2,
        (GatewayReach::Reached, Some(Health::Healthy)) => 1,
        (GatewayReach::Stopped, _) => 0,
    }
}

/// The alert while its state is unknown.
pub fn alert(row: &GatewayRow, now: SystemTime) -> Option<Alert> {
    let absence = describe_absence(row)?;
    let away_seconds = match row.reach {
        GatewayReach::Silent => row.heard_seconds.unwrap_or(row.since_seconds),
        GatewayReach::Unreachable | GatewayReach::Calling | GatewayReach::Reached | GatewayReach::Stopped => {
            row.since_seconds
        }
    };
    let since = Duration::try_from_secs_f64(away_seconds).ok().and_then(|away| now.checked_sub(away));
    Some(Alert {
        gateway: Some(Arc::clone(&row.name)),
        kind: AlertKind::Unreachable,
        object: row.name.to_string(),
        address: None,
        since: log::format_utc(since.unwrap_or(now)),
        text: format!("gateway {} {absence}", row.name),
    })
}

/// Why nothing is known of a gateway that should be there, if so.
pub fn describe_absence(row: &GatewayRow) -> Option<String> {
    match row.reach {
        GatewayReach::Silent => Some("is silent: it is connected, and sends no snapshot".into()),
        GatewayReach::Unreachable => {
            Some(format!("cannot be reached: {}", row.why.as_deref().unwrap_or("it does not answer")))
        }
        GatewayReach::Reached | GatewayReach::Calling | GatewayReach::Stopped => None,
    }
}

/// The state of each gateway, and an event for each change.
#[derive(Debug, Default)]
pub struct ReachEvents {
    known: HashMap<Arc<str>, KnownReach>,
    notices: VecDeque<Notice>,
}

#[derive(Debug, Clone, Copy)]
struct KnownReach {
    reach: GatewayReach,
    /// Since when it is away, by the uptime of the screen.
    away_at_seconds: Option<f64>,
}

impl ReachEvents {
    pub fn note(&mut self, row: &GatewayRow, now: SystemTime, uptime_seconds: f64) {
        let before = self.known.get(&row.name).copied();
        let away_at_seconds = before.and_then(|before| before.away_at_seconds);
        let (level, text, away_at_seconds) = match (row.reach, before.map(|before| before.reach)) {
            // A call is reported only when it has succeeded or failed.
            (GatewayReach::Calling, _) => return,
            (reach, Some(before)) if reach == before => return,
            (GatewayReach::Reached, _) => {
                let reported = away_at_seconds
                    .map(|at| format!("is reached again after {}", format::whole_span(uptime_seconds - at)));
                (NoticeLevel::Info, reported, None)
            }
            (GatewayReach::Stopped, _) => {
                let away_at_seconds = away_at_seconds.or(Some(uptime_seconds));
                (NoticeLevel::Info, Some("was stopped".to_owned()), away_at_seconds)
            }
            (GatewayReach::Silent | GatewayReach::Unreachable, _) => {
                (NoticeLevel::Warn, describe_absence(row), away_at_seconds.or(Some(uptime_seconds)))
            }
        };
        self.known.insert(Arc::clone(&row.name), KnownReach { reach: row.reach, away_at_seconds });
        let Some(text) = text else { return };
        if self.notices.len() == EVENTS_MAX {
            self.notices.pop_front();
        }
        let gateway = Some(Arc::clone(&row.name));
        self.notices.push_back(Notice {
            gateway,
            time: log::format_utc(now),
            level,
            text,
            rejected_link: None,
        });
    }

    /// Oldest first.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.notices.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::merge::{
            FleetMerge,
            tests::{lost, member, snapshot},
        },
        *,
    };
    use crate::{
        profile::Half,
        telemetry::snapshot::{DoctorFinding, FindingSeverity, Snapshot},
    };

    fn silent(seconds: f64) -> MemberSnapshot {
        let mut member = member("edge", Some(snapshot(Half::Dmz, "a", 0)));
        member.latest.iter_mut().for_each(|(_, facts)| *facts = seconds);
        member
    }

    #[test]
    fn each_loss_and_each_return_is_one_event() {
        let there = || member("edge", Some(snapshot(Half::Dmz, "a", 0)));
        let away = |seconds| lost("edge", seconds, Some(snapshot(Half::Dmz, "a", 0)));
        let mut merge = FleetMerge::default();
        let mut events = Vec::new();
        for (second, now) in
            [there(), away(0.1), away(60.0), there(), silent(6.0), silent(7.0), away(0.0), there()]
                .into_iter()
                .enumerate()
        {
            let merged = merge.next(vec![now], 100.0 * second as f64);
            events = merged.notices.iter().map(|notice| notice.text.clone()).collect();
            assert!(merged.notices.iter().all(|notice| notice.gateway.as_deref() == Some("edge")));
        }
        let expected = [
            "cannot be reached: it closed",
            "is reached again after 3m",
            "is silent: it is connected, and sends no snapshot",
            "cannot be reached: it closed",
            "is reached again after 5m",
        ];
        assert_eq!(events.len(), expected.len(), "{events:?}");
        for (event, expected) in events.iter().zip(expected) {
            assert!(event.starts_with(expected), "{events:?}");
        }
    }

    #[test]
    fn a_gateway_is_back_when_its_first_snapshot_arrives() {
        let calls =
            |contact_seconds, heard_seconds| MemberSnapshot { contact_seconds, ..silent(heard_seconds) };
        assert_eq!(reach(&calls(0.1, 40.0)), GatewayReach::Calling, "what is known is from before the loss");
        assert_eq!(reach(&calls(0.1, 0.05)), GatewayReach::Reached);
        assert_eq!(reach(&calls(9.0, 40.0)), GatewayReach::Silent);
    }

    #[test]
    fn a_gateway_that_is_silent_is_an_alert() {
        let merged = FleetMerge::default().next(vec![silent(6.0)], 1.0);
        let reported: Vec<_> = merged.alerts.iter().map(|alert| alert.text.as_str()).collect();
        assert_eq!(reported, ["gateway edge is silent: it is connected, and sends no snapshot"]);
    }

    /// Its peers' rows show what is missing without it.
    #[test]
    fn a_gateway_that_was_stopped_is_shown_as_that_and_is_no_fault() {
        let with = |change: fn(&mut Snapshot)| {
            let mut last = snapshot(Half::Dmz, "a", 0);
            change(&mut last);
            vec![lost("edge", 30.0, Some(last)), member("other", Some(snapshot(Half::Dmz, "b", 0)))]
        };
        let judged = |merged: &Snapshot| (merged.alerts.len(), merged.findings.clone(), merged.health);
        let stopped = with(|last| last.phase = GatewayPhase::Stopped);
        let other = FleetMerge::default().next(vec![stopped[1].clone()], 1.0);
        let merged = FleetMerge::default().next(stopped, 1.0);
        let row = merged.gateways.last().expect("its row is the last");
        assert_eq!((&*row.name, row.reach, &row.why), ("edge", GatewayReach::Stopped, &None));
        assert_eq!(judged(&merged), judged(&other));
        let reported: Vec<_> = merged.notices.iter().map(|event| (event.level, &*event.text)).collect();
        assert_eq!(reported, [(NoticeLevel::Info, "was stopped")]);
        for vanished in [
            with(|last| last.phase = GatewayPhase::Draining),
            with(|last| (last.phase, last.cut_in_seconds) = (GatewayPhase::Draining, Some(3.0))),
        ] {
            let merged = FleetMerge::default().next(vanished, 1.0);
            assert_eq!(merged.gateways[0].reach, GatewayReach::Unreachable, "it never said that it ended");
        }
    }

    #[test]
    fn a_gateway_that_was_stopped_and_does_not_come_back_is_an_alert() {
        let mut merge = FleetMerge::default();
        let mut away = |seconds| {
            let last = Snapshot { phase: GatewayPhase::Stopped, ..snapshot(Half::Dmz, "a", 0) };
            merge.next(vec![lost("edge", seconds, Some(last))], seconds)
        };
        assert!(away(59.0).alerts.is_empty());
        let merged = away(61.0);
        assert_eq!(
            (merged.gateways[0].reach, merged.health),
            (GatewayReach::Unreachable, Some(Health::Down))
        );
        let text = "cannot be reached: it was stopped and has not come back: it closed";
        let alerts: Vec<_> = merged.alerts.iter().map(|alert| alert.text.clone()).collect();
        assert_eq!(alerts, [format!("gateway edge {text}")]);
        let events: Vec<_> = merged.notices.iter().map(|event| (event.level, &*event.text)).collect();
        assert_eq!(events, [(NoticeLevel::Info, "was stopped"), (NoticeLevel::Warn, text)]);
    }

    #[test]
    fn doctor_names_each_gateway_of_which_nothing_is_known() {
        let merged = FleetMerge::default().next(vec![silent(6.0), lost("gone", 60.0, None)], 1.0);
        let named = |gateway: &str| {
            let of_gateway = |finding: &&DoctorFinding| finding.gateway.as_deref() == Some(gateway);
            let found: Vec<_> = merged.findings.iter().filter(of_gateway).collect();
            let [finding] = found[..] else { panic!("{found:?}") };
            assert_eq!((&*finding.id, finding.severity), ("gateway-away", FindingSeverity::Must));
            finding.figure.clone()
        };
        assert_eq!(named("gone"), "cannot be reached: it closed");
        assert_eq!(named("edge"), "is silent: it is connected, and sends no snapshot");
        let there = FleetMerge::default().next(vec![member("edge", Some(snapshot(Half::Dmz, "a", 0)))], 1.0);
        assert!(there.findings.iter().all(|finding| finding.id != "gateway-away"));
    }
}
