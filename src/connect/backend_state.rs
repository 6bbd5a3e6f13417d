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
#[derive(Debug, Clone, Default)]
pub struct BackendState {
    pub open: u64,
    /// Sessions that are connecting to it.
    pub dialling: u64,
    pub sessions: u64,
    /// Sessions that could not reach it, and checks that failed.
    pub failures: u64,
    pub last_error: Option<String>,
    rests_until: Option<Instant>,
    is_down: bool,
    /// It has failed, and nothing has reached it since.
    is_failing: bool,
    returned_at: Option<Instant>,
    /// Number of checks in a row with the same result.
    failed_checks: u32,
    passed_checks: u32,
}

impl BackendState {
    pub fn is_down(&self) -> bool {
        self.is_down
    }

    pub fn is_resting(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| until > now)
    }

    /// Its share of its usual sessions.
    pub fn share(&self, now: Instant) -> f64 {
        let Some(since) = self.returned_at else { return 1.0 };
        let grown = now.saturating_duration_since(since).as_secs_f64() / SLOW_START_PERIOD.as_secs_f64();
        grown.clamp(SHARE_MIN, 1.0)
    }

    /// Notes that a session has reached it.
    pub fn note_reached(&mut self) -> BackendChange {
        self.rests_until = None;
        self.recover()
    }

    /// Notes that a session could not reach it.
    pub fn note_unreached(&mut self, error: &str, rest: Duration, now: Instant) -> BackendChange {
        self.rests_until = Some(now + rest);
        self.returned_at = Some(now + rest);
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
                self.failed_checks = 0;
                self.passed_checks = self.passed_checks.saturating_add(1);
                if !self.is_down || self.passed_checks < rises {
                    return BackendChange::None;
                }
                self.is_down = false;
                self.rests_until = None;
                self.returned_at = Some(now);
                self.recover()
            }
            Err(error) => {
                self.passed_checks = 0;
                self.failed_checks = self.failed_checks.saturating_add(1);
                self.note_error(error.to_string());
                if self.is_down || self.failed_checks < falls {
                    return BackendChange::None;
                }
                self.is_down = true;
                self.begin_failing()
            }
        }
    }

    fn note_error(&mut self, error: String) {
        self.failures += 1;
        self.last_error = Some(error);
    }

    fn begin_failing(&mut self) -> BackendChange {
        match std::mem::replace(&mut self.is_failing, true) {
            true => BackendChange::None,
            false => BackendChange::Failed,
        }
    }

    fn recover(&mut self) -> BackendChange {
        match std::mem::take(&mut self.is_failing) {
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
        assert_eq!(state.note_reached(), BackendChange::Recovered);
        assert!(!state.is_resting(now + REST));
        assert_eq!(state.note_reached(), BackendChange::None);
        assert_eq!((state.failures, state.last_error.as_deref()), (2, Some("refused")));
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
}
