//! The progress of `verify` in this gateway: the run that is under way, and the result of the last forward
//! check of each profile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::telemetry::{
    checklist::{CheckStep, StepReport, StepResult},
    snapshot::{CheckRow, WalkRow},
};

/// Profiles whose forward check is remembered.
const PROFILES_MAX: usize = 256;

#[derive(Debug, Clone, Default)]
pub struct VerifyProgress(Arc<Mutex<ProgressState>>);

#[derive(Debug, Default)]
struct ProgressState {
    walk: Option<RunProgress>,
    forward: BTreeMap<String, (bool, Instant)>,
}

#[derive(Debug)]
struct RunProgress {
    profile: String,
    walking: Option<CheckStep>,
    steps: Vec<StepReport>,
    at: Instant,
}

impl VerifyProgress {
    /// Begins a run. The engine sees to it that there is one at a time.
    pub fn begin(&self, profile: &str) {
        let walking = Some(CheckStep::Profile);
        let walk = RunProgress { profile: profile.into(), walking, steps: Vec::new(), at: Instant::now() };
        self.lock().walk = Some(walk);
    }

    pub fn start_step(&self, step: CheckStep) {
        if let Some(walk) = &mut self.lock().walk {
            walk.walking = Some(step);
        }
    }

    pub fn finish_step(&self, walked: &StepReport) {
        let mut kept = self.lock();
        let Some(walk) = &mut kept.walk else { return };
        walk.steps.push(walked.clone());
        let name = walk.profile.clone();
        let is_told = walked.step == CheckStep::Forward && walked.result != StepResult::Skip;
        if is_told && (kept.forward.len() < PROFILES_MAX || kept.forward.contains_key(&name)) {
            kept.forward.insert(name, (walked.result == StepResult::Pass, Instant::now()));
        }
    }

    pub fn end(&self) {
        if let Some(walk) = &mut self.lock().walk {
            (walk.walking, walk.at) = (None, Instant::now());
        }
    }

    pub fn is_running(&self) -> bool {
        self.lock().walk.as_ref().is_some_and(|walk| walk.walking.is_some())
    }

    pub fn walk_row(&self) -> Option<WalkRow> {
        self.lock().walk.as_ref().map(|walk| WalkRow {
            profile: walk.profile.clone(),
            walking: walk.walking,
            steps: walk.steps.clone(),
            age_seconds: walk.at.elapsed().as_secs_f64(),
        })
    }

    pub fn forward_rows(&self) -> Vec<CheckRow> {
        let row = |(profile, (passed, at)): (&String, &(bool, Instant))| CheckRow {
            profile: profile.clone(),
            passed: *passed,
            age_seconds: at.elapsed().as_secs_f64(),
        };
        self.lock().forward.iter().map(row).collect()
    }

    fn lock(&self) -> MutexGuard<'_, ProgressState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
