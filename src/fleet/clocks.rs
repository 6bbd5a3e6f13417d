//! The clocks of gateways, from the times of their snapshots: how far each is ahead of this machine's.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use super::{merge::MemberSnapshot, reach};
use crate::{
    doctor::GatewayClock,
    telemetry::snapshot::{GatewayReach, Notice},
};

/// How long a snapshot may be on its way.
const DELAY_SECONDS: f64 = 1.0;

#[derive(Debug, Default)]
pub struct FleetClocks {
    /// In seconds. A lost gateway's value is kept, because its events are still shown.
    offset: HashMap<Arc<str>, f64>,
}

impl FleetClocks {
    /// Measures them again, and returns those of the gateways that answer now.
    pub fn read(&mut self, members: &[MemberSnapshot], now: SystemTime) -> Vec<GatewayClock> {
        let mut clocks = Vec::new();
        for member in members.iter().filter(|member| reach::reach(member) == GatewayReach::Reached) {
            let Some((snapshot, heard_seconds)) = &member.latest else { continue };
            let clock = GatewayClock::of_snapshot(&member.name, snapshot, *heard_seconds, now);
            let Some(clock) = clock else { continue };
            self.offset.insert(Arc::clone(&member.name), clock.ahead_seconds);
            clocks.push(clock);
        }
        clocks
    }

    /// Sorts notices by this machine's clock, oldest first, with those that this machine made itself. Those of
    /// one gateway keep their order. An invalid time, or one that the gateway's clock has not reached yet, is
    /// ignored.
    pub fn sort_notices(
        &self,
        notices: &mut Vec<Notice>,
        made_here: impl Iterator<Item = Notice>,
        now: SystemTime,
    ) {
        let latest = seconds_since_1970(now) + DELAY_SECONDS;
        let mut before: HashMap<Option<Arc<str>>, f64> = HashMap::new();
        let mut keyed: Vec<_> = std::mem::take(notices)
            .into_iter()
            .map(|notice| {
                let offset = notice.gateway.as_ref().and_then(|name| self.offset.get(name)).copied();
                let time = parse_seconds(&notice.time).map(|time| time - offset.unwrap_or_default());
                let before = before.entry(notice.gateway.clone()).or_default();
                *before = time.filter(|time| *time <= latest).map_or(*before, |time| time.max(*before));
                (*before, notice)
            })
            .collect();
        // These name a gateway too, but neither its clock nor its order is theirs.
        keyed.extend(made_here.map(|notice| (parse_seconds(&notice.time).unwrap_or_default(), notice)));
        keyed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        notices.extend(keyed.into_iter().map(|(_, notice)| notice));
    }
}

fn parse_seconds(time: &str) -> Option<f64> {
    humantime::parse_rfc3339_weak(time).ok().map(seconds_since_1970)
}

fn seconds_since_1970(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::merge::{
            self, FleetMerge,
            tests::{member, snapshot},
        },
        *,
    };
    use crate::{
        profile::Half,
        telemetry::{
            log,
            snapshot::{NoticeLevel, Snapshot},
        },
    };

    /// A gateway whose clock is this far ahead, and how long ago its notices were.
    fn gateway(name: &str, offset: Duration, ago_seconds: &[u64]) -> MemberSnapshot {
        let clock = |ago: u64| log::format_utc(SystemTime::now() + offset - Duration::from_secs(ago));
        let notice = |&ago: &u64| Notice {
            gateway: None,
            time: clock(ago),
            level: NoticeLevel::Info,
            text: format!("{name} {ago}"),
            rejected_link: None,
        };
        let notices = ago_seconds.iter().map(notice).collect();
        member(name, Some(Snapshot { time: clock(0), notices, ..snapshot(Half::Dmz, name, 0) }))
    }

    fn texts(merged: &Snapshot) -> Vec<&str> {
        merged.notices.iter().map(|notice| notice.text.as_str()).collect()
    }

    #[test]
    fn events_stand_in_their_order_however_the_clocks_of_their_gateways_go() {
        let (none, hours) = (Duration::ZERO, Duration::from_secs(7200));
        let members = vec![gateway("right", none, &[300, 100]), gateway("ahead", hours, &[400, 200, 50])];
        let merged = FleetMerge::default().next(members, 1.0);
        assert_eq!(texts(&merged), ["ahead 400", "right 300", "ahead 200", "right 100", "ahead 50"]);
        let found: Vec<_> = merged.findings.iter().filter(|found| found.id == "clock-skew").collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].gateway.as_deref(), Some("ahead"));
        assert!(found[0].figure.ends_with("ahead of right"), "{found:?}");
    }

    #[test]
    fn an_event_of_the_screen_itself_keeps_its_place_whatever_its_gateways_clock_says() {
        let hours = Duration::from_secs(7200);
        let mut merge = FleetMerge::default();
        let away = merge::tests::lost("edge", 1.0, Some(snapshot(Half::Dmz, "edge", 0)));
        merge.next(vec![away], 1.0);
        // It is back, its clock is wrong, and it has an event that is newer than its loss.
        let mut back = gateway("edge", hours, &[400]);
        let latest =
            back.latest.as_mut().map(|(snapshot, _)| Arc::make_mut(snapshot)).expect("it has answered");
        let newer = log::format_utc(SystemTime::now() + hours + Duration::from_millis(500));
        latest.notices.push(Notice { time: newer, text: "newer".into(), ..latest.notices[0].clone() });
        let merged = merge.next(vec![back], 2.0);
        let texts = texts(&merged);
        let [first, lost, .., newest] = texts.as_slice() else { panic!("{texts:?}") };
        assert_eq!((*first, *newest), ("edge 400", "newer"), "{texts:?}");
        assert!(lost.starts_with("cannot be reached"), "{texts:?}");
    }

    #[test]
    fn a_time_that_has_not_come_does_not_stay_on_top() {
        let mut faulty = gateway("liar", Duration::ZERO, &[500, 400]);
        let snapshot =
            faulty.latest.as_mut().map(|(snapshot, _)| Arc::make_mut(snapshot)).expect("it has answered");
        for (notice, time) in snapshot.notices.iter_mut().zip(["9999-12-31T23:59:59.000Z", "no time at all"])
        {
            notice.time = time.into();
        }
        let members = vec![faulty, gateway("right", Duration::ZERO, &[300, 100])];
        let merged = FleetMerge::default().next(members, 1.0);
        assert_eq!(texts(&merged), ["liar 500", "liar 400", "right 300", "right 100"]);
        let far = Snapshot { time: "9999-12-31T23:59:59.000Z".into(), ..empty_snapshot() };
        let merged = FleetMerge::default().next(vec![member("far", Some(far))], f64::MAX);
        assert_eq!(merged.findings, [], "with whom would it differ");
    }

    fn empty_snapshot() -> Snapshot {
        snapshot(Half::Dmz, "none", 0)
    }
}
