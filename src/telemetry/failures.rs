//! Sessions that failed, grouped by cause and kept as long as the gateway runs: what broke at night is still
//! shown in the morning, however many sessions ended well since.
//!
//! Reasons may contain text from outside. So one kind of end has only a few groups, and whoever causes failures
//! with ever new reasons displaces only groups of that kind.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{end::SessionEnd, log};
use crate::{
    profile::{Half, ServiceName},
    text,
};

/// The most groups in all, and of one half, service and end code.
const GROUPS_MAX: usize = 64;
const GROUPS_OF_KIND_MAX: usize = 8;
/// The longest reason of a group.
const REASON_CHARS_MAX: usize = 400;

/// Sessions that failed for one cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FailureRow {
    /// Its gateway in a fleet; `None` in a snapshot of a single gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    #[serde(rename = "role")]
    pub half: Half,
    pub service: String,
    /// Who ended them and when: two letters, see `telemetry::end`.
    pub end: String,
    /// The reason of the last one; the others differ only in numbers and times.
    pub reason: String,
    pub count: u64,
    /// When the first and the last of them ended: UTC, RFC 3339.
    pub first: String,
    pub last: String,
    /// Seconds since the last one.
    pub ago_seconds: f64,
    /// The last of them, as an example.
    pub session: String,
    pub client: String,
    pub peer: Option<String>,
}

/// A session that has failed.
#[derive(Debug, Clone, Copy)]
pub struct FailedSession<'a> {
    pub half: Half,
    pub service: &'a ServiceName,
    pub end: &'a SessionEnd,
    pub id: &'a str,
    pub client: &'a str,
    pub peer: Option<&'a str>,
}

#[derive(Debug, Default)]
pub struct FailureGroups {
    groups: Vec<FailureGroup>,
    /// Sessions of groups that gave way to newer ones.
    left_out: u64,
}

#[derive(Debug)]
struct FailureGroup {
    half: Half,
    service: ServiceName,
    code: String,
    /// The reason without its numbers and times.
    cause: String,
    reason: String,
    count: u64,
    first: SystemTime,
    last: SystemTime,
    at: Instant,
    session: String,
    client: String,
    peer: Option<String>,
}

impl FailureGroups {
    pub fn add(&mut self, failed: FailedSession<'_>, now: (Instant, SystemTime)) {
        let reason = text::clean_text(&failed.end.reason, REASON_CHARS_MAX);
        let (code, cause) = (failed.end.code(), text::cause(&reason));
        let known =
            self.groups.iter_mut().find(|group| group.is_of_kind(failed, &code) && group.cause == cause);
        let group = match known {
            Some(group) => group,
            None => {
                self.make_room(failed, &code);
                self.groups.push(FailureGroup::new(failed, code, cause, now));
                let last = self.groups.len() - 1;
                &mut self.groups[last]
            }
        };
        group.count += 1;
        (group.at, group.last) = now;
        group.reason = reason;
        failed.id.clone_into(&mut group.session);
        failed.client.clone_into(&mut group.client);
        group.peer = failed.peer.map(str::to_owned);
    }

    /// Removes the group that has not grown for longest: one of the same kind if that kind has its full share,
    /// else one of all.
    fn make_room(&mut self, failed: FailedSession<'_>, code: &str) {
        let of_kind = self.groups.iter().filter(|group| group.is_of_kind(failed, code)).count();
        let is_kind_full = of_kind >= GROUPS_OF_KIND_MAX;
        if !is_kind_full && self.groups.len() < GROUPS_MAX {
            return;
        }
        let may_go = |index: &usize| !is_kind_full || self.groups[*index].is_of_kind(failed, code);
        let indexes = (0..self.groups.len()).filter(may_go);
        let oldest = indexes.min_by_key(|&index| self.groups[index].at);
        if let Some(index) = oldest {
            self.left_out += self.groups.swap_remove(index).count;
        }
    }

    /// The group that grew last comes first.
    pub fn rows(&self, now: Instant) -> Vec<FailureRow> {
        let mut groups: Vec<_> = self.groups.iter().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.at));
        groups.into_iter().map(|group| group.row(now)).collect()
    }

    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

impl FailureGroup {
    fn new(failed: FailedSession<'_>, code: String, cause: String, now: (Instant, SystemTime)) -> Self {
        let (at, first) = now;
        let (half, service) = (failed.half, failed.service.clone());
        let nothing = String::new;
        Self {
            half,
            service,
            code,
            cause,
            reason: nothing(),
            count: 0,
            first,
            last: first,
            at,
            session: nothing(),
            client: nothing(),
            peer: None,
        }
    }

    fn is_of_kind(&self, failed: FailedSession<'_>, code: &str) -> bool {
        self.half == failed.half && self.service == *failed.service && self.code == code
    }

    fn row(&self, now: Instant) -> FailureRow {
        FailureRow {
            gateway: None,
            half: self.half,
            service: self.service.to_string(),
            end: self.code.clone(),
            reason: self.reason.clone(),
            count: self.count,
            first: log::format_utc(self.first),
            last: log::format_utc(self.last),
            ago_seconds: now.saturating_duration_since(self.at).as_secs_f64(),
            session: self.session.clone(),
            client: self.client.clone(),
            peer: self.peer.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::{end::EndedBy, snapshot::SessionPhase};

    fn end(ended_by: EndedBy, reason: &str) -> SessionEnd {
        SessionEnd { ended_by, phase: SessionPhase::Connecting, reason: reason.into() }
    }

    fn service(name: &str) -> ServiceName {
        ServiceName::parse(name).expect("a name")
    }

    #[test]
    fn failures_of_one_cause_are_one_group_with_its_first_and_its_last() {
        let (mut groups, start) = (FailureGroups::default(), Instant::now());
        let orders = service("orders");
        let mut fail = |ended_by, reason: &str, id: &str, seconds| {
            let end = end(ended_by, reason);
            let failed = FailedSession {
                half: Half::Dmz,
                service: &orders,
                end: &end,
                id,
                client: "192.0.2.7:50000",
                peer: Some("internal"),
            };
            let after = Duration::from_secs(seconds);
            groups.add(failed, (start + after, SystemTime::UNIX_EPOCH + after));
        };
        fail(EndedBy::Backend, "10.0.0.8:9000 did not answer within 4s", "a", 1);
        fail(EndedBy::Time, "10.0.0.8:9000 did not answer within 4s", "b", 2);
        fail(EndedBy::Backend, "10.0.0.9:9000 did not answer within 4s", "c", 3);
        fail(EndedBy::Backend, "10.0.0.8:9000 did not answer within 3.9s", "d", 9);
        let rows = groups.rows(start + Duration::from_secs(10));
        let reported: Vec<_> =
            rows.iter().map(|row| (&*row.end, row.count, &*row.session, row.ago_seconds)).collect();
        assert_eq!(reported, [("BC", 2, "d", 1.0), ("BC", 1, "c", 7.0), ("TC", 1, "b", 8.0)]);
        assert_eq!(
            (&*rows[0].first, &*rows[0].last),
            ("1970-01-01T00:00:01.000Z", "1970-01-01T00:00:09.000Z")
        );
        assert_eq!(rows[0].reason, "10.0.0.8:9000 did not answer within 3.9s");
        assert_eq!(groups.left_out(), 0);
    }

    #[test]
    fn a_flood_of_reasons_pushes_out_its_own_kind_alone() {
        let (mut groups, start) = (FailureGroups::default(), Instant::now());
        let fail = |groups: &mut FailureGroups, name: &str, reason: &str, number: u64| {
            let end = end(EndedBy::Policy, reason);
            let service = service(name);
            let failed = FailedSession {
                half: Half::Dmz,
                service: &service,
                end: &end,
                id: "a",
                client: "-",
                peer: None,
            };
            groups.add(failed, (start + Duration::from_millis(number), SystemTime::UNIX_EPOCH));
        };
        fail(&mut groups, "orders", "no certificate", 0);
        for number in 1..1000 {
            fail(&mut groups, "chat", &format!("no route for host-{number}x.example"), number);
        }
        let rows = groups.rows(start);
        let of = |name: &str| rows.iter().filter(|row| row.service == name).count();
        assert_eq!((of("orders"), of("chat")), (1, GROUPS_OF_KIND_MAX));
        assert_eq!(groups.left_out(), 999 - GROUPS_OF_KIND_MAX as u64, "what gave way is counted");
        for number in 0..100 {
            fail(&mut groups, &format!("service-{number}"), "no certificate", 2000 + number);
        }
        let rows = groups.rows(start);
        assert_eq!(rows.len(), GROUPS_MAX);
        assert!(rows.iter().all(|row| row.service.starts_with("service-")), "those that grew last stay");
    }
}
