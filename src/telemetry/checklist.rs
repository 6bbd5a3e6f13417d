//! The checklist of `verify`: its steps, and the result of each. It is plain data, which a snapshot carries and the
//! admin socket sends; the steps run in `verify`.

use serde::{Deserialize, Serialize};

/// The steps, in the order in which they are performed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStep {
    /// The profile can be read, and its certificates are valid.
    Profile,
    /// The backends answer.
    Basic,
    /// A probe goes over a link that the DMZ half dials.
    Forward,
    /// The pool fills, and a probe goes over a link that the internal half dials.
    Reverse,
    /// The internal half listens nowhere.
    Closed,
}

impl CheckStep {
    pub const ALL: [Self; 5] = [Self::Profile, Self::Basic, Self::Forward, Self::Reverse, Self::Closed];

    pub fn label(self) -> &'static str {
        match self {
            Self::Profile => "profile",
            Self::Basic => "basic",
            Self::Forward => "forward",
            Self::Reverse => "reverse",
            Self::Closed => "closed",
        }
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepResult {
    Pass,
    Fail,
    Skip,
}

impl StepResult {
    pub fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// One step that was performed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    pub step: CheckStep,
    pub result: StepResult,
    pub seen: String,
    /// The next thing to do after a failure.
    pub advice: Option<String>,
    pub milliseconds: u64,
    /// What is needed about a failure to merge the runs of two halves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<StepFailure>,
}

/// A failure about which another half may know more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepFailure {
    /// Its links were not up in time: the other half may have seen the reason.
    NotReady,
    /// The port of forward mode is open, and the program that holds it was seen.
    PortHolderSeen,
}

/// The result of a step's check; whoever runs the step adds the time it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepFinding {
    pub result: StepResult,
    pub seen: String,
    pub advice: Option<String>,
    pub failure: Option<StepFailure>,
}

impl StepFinding {
    pub fn pass(seen: impl Into<String>) -> Self {
        Self { result: StepResult::Pass, seen: seen.into(), advice: None, failure: None }
    }

    pub fn skip(why: impl Into<String>) -> Self {
        Self { result: StepResult::Skip, seen: why.into(), advice: None, failure: None }
    }

    pub fn fail(seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { result: StepResult::Fail, seen: seen.into(), advice: Some(advice.into()), failure: None }
    }

    /// Says which kind of failure it is.
    pub fn of(self, failure: StepFailure) -> Self {
        Self { failure: Some(failure), ..self }
    }

    pub fn at(self, step: CheckStep, took: std::time::Duration) -> StepReport {
        let Self { result, seen, advice, failure } = self;
        StepReport { step, result, seen, advice, milliseconds: took.as_millis() as u64, failure }
    }
}

/// The whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// No step failed.
    pub passed: bool,
    pub steps: Vec<StepReport>,
}

impl VerifyReport {
    pub fn new(steps: Vec<StepReport>) -> Self {
        Self { passed: steps.iter().all(|step_report| step_report.result != StepResult::Fail), steps }
    }

    /// The steps and their results in one line, with why one was skipped, and what was seen and what to do where
    /// one failed.
    pub fn line(&self) -> String {
        let word = |step_report: &StepReport| {
            let result = format!("{} {}", step_report.step.label(), step_report.result.label());
            let advice: String = step_report.advice.iter().map(|advice| format!("; do: {advice}")).collect();
            match step_report.result {
                StepResult::Pass => result,
                StepResult::Fail | StepResult::Skip => format!("{result} ({}{advice})", step_report.seen),
            }
        };
        self.steps.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    /// A line for each step, and one for what to do.
    pub fn lines(&self) -> Vec<String> {
        self.steps.iter().flat_map(StepReport::lines).collect()
    }

    /// Merges the runs of two halves: a failure takes precedence, then a pass, then a skip.
    pub fn merge(self, other: Self) -> Self {
        let mut steps = self.steps;
        for theirs in other.steps {
            match steps.iter_mut().find(|ours| ours.step == theirs.step) {
                Some(ours) => ours.take_in(theirs),
                None => steps.push(theirs),
            }
        }
        steps.sort_by_key(|step_report| step_report.step);
        Self::new(steps)
    }
}

impl StepReport {
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let result = format!("{:<8} {}  {}", self.step.label(), self.result.label(), self.seen);
        let advice = self.advice.iter().map(|advice| format!("{:<8} do: {advice}", ""));
        std::iter::once(result).chain(advice)
    }

    fn take_in(&mut self, other: Self) {
        let milliseconds = self.milliseconds.max(other.milliseconds);
        let both_reported = self.result == other.result && self.seen != other.seen;
        if both_reported {
            self.seen = format!("{}; {}", self.seen, other.seen);
            self.advice = self.advice.take().or(other.advice);
        } else if self.result == StepResult::Skip || other.result == StepResult::Fail {
            *self = other;
        }
        self.milliseconds = milliseconds;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn one(found: StepFinding) -> VerifyReport {
        VerifyReport::new(vec![found.at(CheckStep::Reverse, Duration::ZERO)])
    }

    #[test]
    fn a_skipped_step_says_why_and_a_failed_one_what_to_do() {
        let steps = [
            (CheckStep::Profile, StepFinding::pass("it is valid")),
            (CheckStep::Forward, StepFinding::skip("another half dials")),
            (CheckStep::Reverse, StepFinding::fail("no link", "look at the log")),
        ];
        let report = VerifyReport::new(steps.map(|(step, found)| found.at(step, Duration::ZERO)).to_vec());
        let line =
            "profile pass, forward skip (another half dials), reverse fail (no link; do: look at the log)";
        assert_eq!(report.line(), line);
        let lines = [
            "profile  pass  it is valid",
            "forward  skip  another half dials",
            "reverse  fail  no link",
            "         do: look at the log",
        ];
        assert_eq!(report.lines(), lines);
    }

    #[test]
    fn of_two_halves_a_failure_counts_and_a_skip_does_not() {
        let (pass, skip, fail) = (
            one(StepFinding::pass("filled")),
            one(StepFinding::skip("not here")),
            one(StepFinding::fail("empty", "look")),
        );
        for (one, other, expected) in [
            (&pass, &skip, &pass),
            (&skip, &pass, &pass),
            (&pass, &fail, &fail),
            (&fail, &pass, &fail),
            (&skip, &fail, &fail),
            (&skip, &skip, &skip),
        ] {
            assert_eq!(&one.clone().merge(other.clone()), expected);
        }
        let two = fail.merge(one(StepFinding::fail("refused", "mend")));
        assert_eq!(
            (two.steps[0].seen.as_str(), two.steps[0].advice.as_deref()),
            ("empty; refused", Some("look"))
        );
        assert!(!two.passed);
    }
}
