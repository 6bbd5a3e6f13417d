//! The progress of `verify` in this gateway: the run that is under way, and the result of the last forward
//! check of each profile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::telemetry::{
    checklist::{CheckStep, StepReport, StepResult},
    snapshot::{CheckRow, VerifyRow},
};

/// How many profiles' forward checks are remembered.
const PROFILES_MAX: usize = 256;

#[derive(Debug, Clone, Default)]
pub struct VerifyProgress(Arc<Mutex<ProgressState>>);

#[derive(Debug, Default)]
struct ProgressState {
    run: Option<RunProgress>,
    forward: BTreeMap<String, (bool, Instant)>,
}

#[derive(Debug)]
struct RunProgress {
    profile: String,
    running_step: Option<CheckStep>,
    steps: Vec<StepReport>,
    at: Instant,
}

impl VerifyProgress {
    /// Begins a run. The engine ensures that there is only one at a time.
    pub fn begin(&self, profile: &str) {
        let running_step = Some(CheckStep::Profile);
        let run =
            RunProgress { profile: profile.into(), running_step, steps: Vec::new(), at: Instant::now() };
        self.lock().run = Some(run);
    }

    pub fn start_step(&self, step: CheckStep) {
        if let Some(run) = &mut self.lock().run {
            run.running_step = Some(step);
        }
    }

    pub fn finish_step(&self, report: &StepReport) {
        let mut kept = self.lock();
        let Some(run) = &mut kept.run else { return };
        run.steps.push(report.clone());
        let name = run.profile.clone();
        let is_reported = report.step == CheckStep::Forward && report.result != StepResult::Skip;
        if is_reported && (kept.forward.len() < PROFILES_MAX || kept.forward.contains_key(&name)) {
            kept.forward.insert(name, (report.result == StepResult::Pass, Instant::now()));
        }
    }

    pub fn end(&self) {
        if let Some(run) = &mut self.lock().run {
            (run.running_step, run.at) = (None, Instant::now());
        }
    }

    pub fn is_running(&self) -> bool {
        self.lock().run.as_ref().is_some_and(|run| run.running_step.is_some())
    }

    pub fn row(&self) -> Option<VerifyRow> {
        self.lock().run.as_ref().map(|run| VerifyRow {
            profile: run.profile.clone(),
            walking: run.running_step,
            steps: run.steps.clone(),
            age_seconds: run.at.elapsed().as_secs_f64(),
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
