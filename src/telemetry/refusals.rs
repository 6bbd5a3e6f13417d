//! Counts clients that were refused, by reason.
//!
//! The first refusal of a kind is reported at once. While more follow, their number is reported once a minute,
//! so that a flood of them makes one line a minute.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    end::{EndedBy, SessionEnd},
    health::RefusalRow,
};
use crate::profile::{Half, ServiceName};

/// Half, service, who refused and the end code; services come from the profile, and codes are few.
type RefusalKey = (Half, ServiceName, EndedBy, String);

#[derive(Debug, Default)]
pub struct RefusalCounts(HashMap<RefusalKey, RefusalEntry>);

#[derive(Debug)]
struct RefusalEntry {
    count: u64,
    /// How many of `count` were reported.
    reported: u64,
    reported_at: Instant,
    last: Instant,
    reason: String,
}

impl RefusalCounts {
    /// Counts one. Returns whether it is the first of its kind for a while, and should be reported.
    pub fn add(&mut self, half: Half, service: &ServiceName, end: &SessionEnd, now: Instant) -> bool {
        let kind = (half, service.clone(), end.ended_by, end.code());
        let fresh =
            RefusalEntry { count: 0, reported: 1, reported_at: now, last: now, reason: String::new() };
        let refused = self.0.entry(kind).or_insert(fresh);
        if now.saturating_duration_since(refused.last) >= QUIET_PERIOD {
            (refused.count, refused.reported, refused.reported_at) = (0, 1, now);
        }
        refused.count += 1;
        refused.last = now;
        end.reason.clone_into(&mut refused.reason);
        refused.count == 1
    }

    /// Returns the lines that are due, and forgets what has not happened for long.
    pub fn due_lines(&mut self, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for ((_, service, _, code), refused) in &mut self.0 {
            let since = now.saturating_duration_since(refused.reported_at);
            let more = refused.count - refused.reported;
            if more > 0 && since >= REPORT_INTERVAL {
                let (seconds, reason) = (since.as_secs(), &refused.reason);
                lines.push(format!("{service}: {code} {more} more refused within {seconds}s: {reason}"));
                (refused.reported, refused.reported_at) = (refused.count, now);
            }
        }
        self.0.retain(|_, refused| {
            refused.count > refused.reported || now.saturating_duration_since(refused.last) < QUIET_PERIOD
        });
        lines
    }

    /// The refusals of one service, the latest first.
    pub fn rows_of(&self, half: Half, service: &ServiceName, now: Instant) -> Vec<RefusalRow> {
        let of_service = self.0.iter().filter(|((of, name, ..), _)| (*of, name) == (half, service));
        let mut rows: Vec<_> = of_service
            .map(|((_, _, ended_by, code), refused)| RefusalRow {
                code: code.clone(),
                count: refused.count,
                reason: refused.reason.clone(),
                is_of_one_client: *ended_by == EndedBy::ClientLimit,
                ago_seconds: now.saturating_duration_since(refused.last).as_secs_f64(),
            })
            .collect();
        rows.sort_by(|one, other| one.ago_seconds.total_cmp(&other.ago_seconds));
        rows
    }
}

const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// After a pause this long, the next refusal is a first one again.
const QUIET_PERIOD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::snapshot::SessionPhase;

    #[test]
    fn the_first_refusal_is_logged_and_the_rest_are_counted() {
        let (mut refusals, start) = (RefusalCounts::default(), Instant::now());
        let orders = ServiceName::parse("orders").expect("a name");
        let at = |seconds| start + Duration::from_secs(seconds);
        let add = |refusals: &mut RefusalCounts, code: &str, seconds| {
            let (ended_by, phase) = match code {
                "LA" => (EndedBy::Limit, SessionPhase::Authorising),
                _ => (EndedBy::Time, SessionPhase::Waiting),
            };
            let end = SessionEnd { ended_by, phase, reason: "the limit is reached".into() };
            refusals.add(Half::Dmz, &orders, &end, at(seconds))
        };
        assert!(add(&mut refusals, "LA", 0), "the first");
        assert!((1..60).all(|second| !add(&mut refusals, "LA", second)), "not each");
        assert!(add(&mut refusals, "TW", 2), "of another kind");
        assert_eq!(refusals.due_lines(at(59)), [""; 0]);
        assert_eq!(
            refusals.due_lines(at(60)),
            ["orders: LA 59 more refused within 60s: the limit is reached"]
        );
        assert_eq!(refusals.due_lines(at(61)), [""; 0], "reported once");
        let rows = refusals.rows_of(Half::Dmz, &ServiceName::parse("orders").expect("a name"), at(61));
        assert_eq!(
            rows.iter().map(|row| (&*row.code, row.count)).collect::<Vec<_>>(),
            [("LA", 60), ("TW", 1)]
        );
        assert_eq!(refusals.due_lines(at(200)), [""; 0]);
        assert!(add(&mut refusals, "LA", 201), "the first again");
    }
}
