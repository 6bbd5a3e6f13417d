//! The checklist of `verify`: its steps, and what was found at each.

use serde::{Deserialize, Serialize};

/// The steps, in the order in which they are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// It reads, and its certificates are good.
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

impl Step {
    pub const ALL: [Self; 5] = [Self::Profile, Self::Basic, Self::Forward, Self::Reverse, Self::Closed];

    pub fn word(self) -> &'static str {
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
pub enum Finding {
    Pass,
    Fail,
    Skip,
}

impl Finding {
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// One step that was walked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walked {
    pub step: Step,
    pub result: Finding,
    pub seen: String,
    /// The one thing to do next, on a failure.
    pub advice: Option<String>,
    pub milliseconds: u64,
}

/// What a step's check says; the time it took is added by whoever walks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub result: Finding,
    pub seen: String,
    pub advice: Option<String>,
}

impl Found {
    pub fn pass(seen: impl Into<String>) -> Self {
        Self { result: Finding::Pass, seen: seen.into(), advice: None }
    }

    pub fn skip(why: impl Into<String>) -> Self {
        Self { result: Finding::Skip, seen: why.into(), advice: None }
    }

    pub fn fail(seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { result: Finding::Fail, seen: seen.into(), advice: Some(advice.into()) }
    }

    pub fn at(self, step: Step, took: std::time::Duration) -> Walked {
        let Self { result, seen, advice } = self;
        Walked { step, result, seen, advice, milliseconds: took.as_millis() as u64 }
    }
}

/// The whole walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// No step failed.
    pub passed: bool,
    pub steps: Vec<Walked>,
}

impl Report {
    pub fn new(steps: Vec<Walked>) -> Self {
        Self { passed: steps.iter().all(|walked| walked.result != Finding::Fail), steps }
    }

    /// The steps and their results in one line, with what was seen where one failed.
    pub fn line(&self) -> String {
        let word = |walked: &Walked| match walked.result {
            Finding::Fail => format!("{} fail ({})", walked.step.word(), walked.seen),
            Finding::Pass | Finding::Skip => format!("{} {}", walked.step.word(), walked.result.word()),
        };
        self.steps.iter().map(word).collect::<Vec<_>>().join(", ")
    }

    /// The walks of two halves as one: a failure counts, then a pass, and a step that both skip.
    pub fn merge(self, other: Self) -> Self {
        let mut steps = self.steps;
        for theirs in other.steps {
            match steps.iter_mut().find(|ours| ours.step == theirs.step) {
                Some(ours) => ours.take_in(theirs),
                None => steps.push(theirs),
            }
        }
        steps.sort_by_key(|walked| walked.step);
        Self::new(steps)
    }
}

impl Walked {
    fn take_in(&mut self, other: Self) {
        let milliseconds = self.milliseconds.max(other.milliseconds);
        let both_said = self.result == other.result && self.seen != other.seen;
        if both_said {
            self.seen = format!("{}; {}", self.seen, other.seen);
            self.advice = self.advice.take().or(other.advice);
        } else if self.result == Finding::Skip || other.result == Finding::Fail {
            *self = other;
        }
        self.milliseconds = milliseconds;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn one(found: Found) -> Report {
        Report::new(vec![found.at(Step::Reverse, Duration::ZERO)])
    }

    #[test]
    fn of_two_halves_a_failure_counts_and_a_skip_does_not() {
        let (pass, skip, fail) =
            (one(Found::pass("filled")), one(Found::skip("not here")), one(Found::fail("empty", "look")));
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
        let two = fail.merge(one(Found::fail("refused", "mend")));
        assert_eq!(
            (two.steps[0].seen.as_str(), two.steps[0].advice.as_deref()),
            ("empty; refused", Some("look"))
        );
        assert!(!two.passed);
    }
}
