//! Problems within the last hour that are over now: links that were away, and clients that waited.

use super::{DoctorFinding, FindingSeverity::Should};
use crate::telemetry::{
    format,
    history::{HistoryReport, HistoryRequest, HistorySample},
};

/// The last hour, by the minute.
pub const LAST_HOUR: HistoryRequest = HistoryRequest { step_seconds: 60, steps: 60, rows_at: None };
/// A single minute is what a start takes.
const MINUTES_MIN: usize = 2;
/// A wait that people notice.
const LONG_WAIT_MS: f64 = 1000.0;

/// What is still true now is found in the snapshot.
pub fn find_in_last_hour(report: &HistoryReport) -> Vec<DoctorFinding> {
    [find_links_away(report), find_long_waits(report)].into_iter().flatten().collect()
}

fn find_links_away(report: &HistoryReport) -> Option<DoctorFinding> {
    let is_away = |sample: &&HistorySample| sample.links_wanted > 0 && sample.links == 0;
    let minutes = report.samples.iter().filter(is_away).count();
    if minutes < MINUTES_MIN || report.samples.last().as_ref().is_some_and(is_away) {
        return None;
    }
    let figure = format!("no link took a session in {minutes} minutes of the last hour");
    let reason = "clients that came then waited for a link, or were refused";
    let advice = "see screen `H` for when that was, and the log of both halves at that time";
    Some(DoctorFinding::new("links-were-away", Should, figure, reason, advice))
}

fn find_long_waits(report: &HistoryReport) -> Option<DoctorFinding> {
    let waits = report.samples.iter().filter_map(|sample| sample.wait_ms);
    let long: Vec<_> = waits.filter(|&wait| wait >= LONG_WAIT_MS).collect();
    let longest = long.iter().copied().reduce(f64::max).filter(|_| long.len() >= MINUTES_MIN)?;
    let figure = format!(
        "one in a hundred clients waited up to {} for a link in {} minutes of the last hour",
        format::wait(longest),
        long.len()
    );
    let reason = "more clients came at once than links had room for, or links were away";
    let advice = "raise `prepared`; see screen `H` for when that was";
    Some(DoctorFinding::new("waits-were-long", Should, figure, reason, advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(samples: &[(u64, Option<f64>)]) -> Vec<String> {
        let sample = |&(links, wait_ms): &(u64, Option<f64>)| HistorySample {
            links,
            links_wanted: 8,
            wait_ms,
            ..HistorySample::default()
        };
        let samples = samples.iter().map(sample).collect();
        let report = HistoryReport { step_seconds: 60, samples, ..HistoryReport::default() };
        find_in_last_hour(&report)
            .into_iter()
            .map(|found| format!("{}: {}", found.id, found.figure))
            .collect()
    }

    #[test]
    fn links_that_were_away_are_reported_when_they_are_back() {
        let (away, there) = ((0, None), (8, None));
        assert_eq!(found(&[]), [""; 0]);
        assert_eq!(found(&[away, there, there]), [""; 0], "it had only begun");
        let reported = ["links-were-away: no link took a session in 3 minutes of the last hour"];
        assert_eq!(found(&[there, away, away, there, away, there]), reported);
        assert_eq!(found(&[there, away, away]), [""; 0], "another finding reports that they are away now");
    }

    #[test]
    fn long_waits_of_the_last_hour_are_reported() {
        let waited = |ms| (8, Some(ms));
        assert_eq!(found(&[waited(20.0), waited(1500.0)]), [""; 0]);
        let reported = found(&[waited(2900.0), waited(20.0), waited(1500.0), (8, None)]);
        assert_eq!(reported.len(), 1, "{reported:?}");
        assert!(reported[0].starts_with("waits-were-long: ") && reported[0].contains("2.9s"), "{reported:?}");
    }
}
