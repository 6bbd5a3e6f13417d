//! The parts of a snapshot that are needed by whoever reads one after another.

use std::borrow::Cow;

use super::{EndedRow, Snapshot};
use crate::telemetry::end::EndSeverity;

/// Longer than a screen lists a session that has ended.
const FRESH_SECONDS: f64 = 10.0;
const FRESH_FAILURE_SECONDS: f64 = 70.0;
/// How many older failures a brief snapshot has, newest first; more than a screen can show.
const BRIEF_FAILURES_MAX: usize = 64;

impl Snapshot {
    /// Without the sessions that ended long ago: whoever reads one snapshot after another has seen them.
    pub fn brief(&self) -> Cow<'_, Self> {
        let mut failures = 0;
        let mut is_kept = |row: &EndedRow| {
            let is_failure = EndSeverity::of_code(&row.end).is_failure();
            failures += usize::from(is_failure);
            row.ago_seconds <= FRESH_SECONDS
                || (is_failure && failures <= BRIEF_FAILURES_MAX && row.ago_seconds <= FRESH_FAILURE_SECONDS)
        };
        let kept: Vec<_> = self.ended.iter().map(&mut is_kept).collect();
        if kept.iter().all(|&is_kept| is_kept) {
            return Cow::Borrowed(self);
        }
        let mut brief = self.clone();
        let mut kept = kept.into_iter();
        brief.ended.retain(|_| kept.next().unwrap_or(false));
        Cow::Owned(brief)
    }
}
