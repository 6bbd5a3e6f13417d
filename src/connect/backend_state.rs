//! How one backend of a service is doing, judged by its sessions and its checks. A session that cannot reach a backend
//! lets it rest for `rest`: it is tried last (passive checking). A check that fails several times in a row takes it
//! out (active checking). Either way it comes back with a share that grows (slow start).

use std::time::Duration;

use tokio::time::Instant;

use super::backend_check::CheckError;

/// A backend that comes back has its whole share of sessions again after this time.
const SLOW_START_PERIOD: Duration = Duration::from_secs(10);
/// The smallest share of a backend that has just come back.
const SHARE_MIN: f64 = 0.1;

/// The change that an event has made to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendChange {
    None,
    /// It has failed, and had not before.
    Failed,
    /// It is back.
    Recovered,
}

/// ```text
/// good ──► resting ──► good again, with a growing share
///   └────► down, by its check ──► good again, with a growing share
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BackendHealth {
    /// Since when it is back, if it was away.
    Good { back_since: Option<Instant> },
    /// It is tried last until then, and good from then on.
    Resting { until: Instant },
    /// Only checks that succeed bring it back.
    Down,
}

/// How many checks in a row had the same result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckRun {
    Passed(u32),
    Failed(u32),
}

#[derive(Debug, Clone)]
pub struct BackendState {
    pub open: u64,
    /// Sessions that are connecting to it.
    pub dialling: u64,
    pub sessions: u64,
    /// Sessions that could not reach it, and checks that failed.
    pub failures: u64,
    pub last_error: Option<String>,
    health: BackendHealth,
    /// Its failure was reported, and that it is back was not.
    is_reported_failing: bool,
    checks: CheckRun,
}

impl Default for BackendState {
    fn default() -> Self {
        Self {
            open: 0,
            dialling: 0,
            sessions: 0,
            failures: 0,
            last_error: None,
            health: BackendHealth::Good { back_since: None },
            is_reported_failing: false,
            checks: CheckRun::Passed(0),
        }
    }
}

impl BackendState {
    pub fn is_down(&self) -> bool {
        self.health == BackendHealth::Down
    }

    pub fn is_resting(&self, now: Instant) -> bool {
        matches!(self.health, BackendHealth::Resting { until } if until > now)
    }

    /// Its share of its usual sessions. One that is down gets none, whatever its share.
    pub fn share(&self, now: Instant) -> f64 {
        let since = match self.health {
            BackendHealth::Good { back_since: None } | BackendHealth::Down => return 1.0,
            BackendHealth::Good { back_since: Some(since) } | BackendHealth::Resting { until: since } => {
                since
            }
        };
        let grown = now.saturating_duration_since(since).as_secs_f64() / SLOW_START_PERIOD.as_secs_f64();
        grown.clamp(SHARE_MIN, 1.0)
    }

    /// Notes that a session has reached it.
    pub fn note_reached(&mut self, now: Instant) -> BackendChange {
        if let BackendHealth::Resting { until } = self.health {
            // The last one left is back before its rest is over.
            self.health = BackendHealth::Good { back_since: Some(until.min(now)) };
        }
        self.recover()
    }

    /// Notes that a session could not reach it.
    pub fn note_unreached(&mut self, error: &str, rest: Duration, now: Instant) -> BackendChange {
        self.health = match self.health {
            BackendHealth::Good { .. } | BackendHealth::Resting { .. } => {
                BackendHealth::Resting { until: now + rest }
            }
            BackendHealth::Down => BackendHealth::Down,
        };
        self.note_error(error.to_owned());
        self.begin_failing()
    }

    /// Notes the result of a check.
    pub fn note_check(
        &mut self,
        outcome: Result<(), CheckError>,
        (falls, rises): (u32, u32),
        now: Instant,
    ) -> BackendChange {
        match outcome {
            Ok(()) => {
                let passed = match self.checks {
                    CheckRun::Passed(before) => before.saturating_add(1),
                    CheckRun::Failed(_) => 1,
                };
                self.checks = CheckRun::Passed(passed);
                if !self.is_down() || passed < rises {
                    return BackendChange::None;
                }
                self.health = BackendHealth::Good { back_since: Some(now) };
                self.recover()
            }
            Err(error) => {
                let failed = match self.checks {
                    CheckRun::Passed(_) => 1,
                    CheckRun::Failed(before) => before.saturating_add(1),
                };
                self.checks = CheckRun::Failed(failed);
                self.note_error(error.to_string());
                if self.is_down() || failed < falls {
                    return BackendChange::None;
                }
                self.health = BackendHealth::Down;
                self.begin_failing()
            }
        }
    }

    fn note_error(&mut self, error: String) {
        self.failures += 1;
        self.last_error = Some(error);
    }

    fn begin_failing(&mut self) -> BackendChange {
        match std::mem::replace(&mut self.is_reported_failing, true) {
            true => BackendChange::None,
            false => BackendChange::Failed,
        }
    }

    fn recover(&mut self) -> BackendChange {
        match std::mem::take(&mut self.is_reported_failing) {
            true => BackendChange::Recovered,
            false => BackendChange::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(10);
    const RUN: (u32, u32) = (3, 2);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn one_that_refuses_rests_and_comes_back_slowly() {
        let (mut state, now) = (BackendState::default(), Instant::now());
        assert_eq!((state.is_resting(now), state.share(now)), (false, 1.0));
        assert_eq!(state.note_unreached("refused", REST, now), BackendChange::Failed);
        assert!(state.is_resting(now + REST - seconds(1)) && !state.is_resting(now + REST));
        assert_eq!(state.share(now + REST), SHARE_MIN);
        assert_eq!(state.share(now + REST + seconds(5)), 0.5);
        assert_eq!(state.share(now + REST + seconds(30)), 1.0);
        // Reported once, until it is back.
        assert_eq!(state.note_unreached("refused", REST, now + REST), BackendChange::None);
        assert_eq!(state.note_reached(now + REST), BackendChange::Recovered);
        assert!(!state.is_resting(now + REST));
        assert_eq!(state.note_reached(now + REST), BackendChange::None);
        assert_eq!((state.failures, state.last_error.as_deref()), (2, Some("refused")));
    }

    #[test]
    fn one_that_is_reached_while_it_rests_comes_back_from_then_on() {
        let (mut state, now) = (BackendState::default(), Instant::now());
        state.note_unreached("refused", seconds(300), now);
        assert_eq!(state.note_reached(now + seconds(1)), BackendChange::Recovered);
        for (after, share) in [(1, SHARE_MIN), (6, 0.5), (11, 1.0)] {
            assert_eq!(state.share(now + seconds(after)), share, "{after}");
        }
        assert_eq!(state.note_reached(now + seconds(12)), BackendChange::None);
        assert_eq!(state.share(now + seconds(12)), 1.0, "it did not rest any more");
    }

    #[test]
    fn checks_take_it_down_and_bring_it_back_after_several() {
        let (mut state, now) = (BackendState::default(), Instant::now());
        let mut check = |is_good: bool| {
            let outcome = if is_good { Ok(()) } else { Err(CheckError::NoHttp) };
            let change = state.note_check(outcome, RUN, now);
            (change, state.is_down())
        };
        let (none, down) = (BackendChange::None, true);
        for (is_good, seen) in [
            (false, (none, false)),
            (false, (none, false)),
            (true, (none, false)),
            (false, (none, false)),
            (false, (none, false)),
            (false, (BackendChange::Failed, down)),
            (false, (none, down)),
            (true, (none, down)),
            (false, (none, down)),
            (true, (none, down)),
            (true, (BackendChange::Recovered, false)),
            (true, (none, false)),
        ] {
            assert_eq!(check(is_good), seen);
        }
        assert_eq!(state.share(now), SHARE_MIN, "it comes back slowly");
        // For a resting backend, checks only say whether it is down.
        state.note_unreached("refused", REST, now);
        assert_eq!(state.note_check(Ok(()), RUN, now), BackendChange::None);
        assert!(state.is_resting(now));
    }

    #[test]
    fn a_session_that_fails_or_arrives_late_changes_nothing_of_one_that_is_down() {
        let (mut state, now) = (BackendState::default(), Instant::now());
        for _ in 0..RUN.0 {
            state.note_check(Err(CheckError::NoHttp), RUN, now);
        }
        state.note_unreached("refused", REST, now);
        assert!(state.is_down() && !state.is_resting(now), "it has one state");
        state.note_reached(now);
        assert!(state.is_down(), "its checks decide");
        for _ in 0..RUN.1 {
            state.note_check(Ok(()), RUN, now + REST);
        }
        assert!(!state.is_down() && !state.is_resting(now + REST));
        assert_eq!(state.share(now + REST), SHARE_MIN);
    }
}
