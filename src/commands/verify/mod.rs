//! `verify`: runs the checklist with the running gateways, or with halves of its own.
//!
//! Each gateway checks what its half can prove, and the results are merged. Halves of our own use the profile's
//! addresses, first in forward mode and then in reverse. The internal half is a separate process, so that
//! whatever it listens on is its own.

mod halves;

use std::{
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    admin::{
        client::{self, ClientError},
        socket_path,
    },
    cli::Cli,
    commands::profile_folders::profile_source,
    demo,
    disk::PipePolicy,
    exit,
    gateway::handle::{Command, CommandAnswer},
    net::own_ports::OwnPorts,
    output::{OutputError, OutputForm, print_line, print_note},
    profile::Mode,
    source::{self, ChosenProfile, LoadedProfile, ProfileSource},
    telemetry::{
        checklist::{CheckStep, StepFailure, StepFinding, StepReport, StepResult, VerifyReport},
        log,
    },
    verify::{advice, closed, steps},
};

use self::halves::TrialHalves;

/// How often a gateway is asked about its progress.
const PROGRESS_POLL_INTERVAL: Duration = Duration::from_millis(300);

/// Runs the checklist of the profile and prints the results.
pub async fn run(cli: &Cli, form: OutputForm) -> anyhow::Result<ExitCode> {
    let source = profile_source(cli);
    let gateways = running_gateways(cli, &source).await?;
    if cli.profile.is_none() && gateways.is_empty() && !socket_path::sockets().is_empty() {
        print_note(format_args!(
            "verify: the built-in profile is verified; for a gateway that runs here name its --profile"
        ));
    }
    let report = match gateways.is_empty() {
        true => LocalVerifyRun { cli, source: source.clone(), form }.run().await?,
        false => verify_running(cli, &source, &gateways, form).await?,
    };
    match form {
        OutputForm::Json => print_line(serde_json::to_string(&report)?)?,
        OutputForm::Text => print_line(describe_result(&report))?,
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { exit::FAILED.into() })
}

/// The sockets of the gateways on this host that run the profile now.
async fn running_gateways(cli: &Cli, source: &ProfileSource) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(path) = cli.admin.as_ref().filter(|path| path.as_os_str() != "none") {
        return Ok(vec![path.clone()]);
    }
    let Ok(loaded) = choose(cli, source).and_then(|chosen| source.load_to_serve(&chosen, cli.mode)) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for path in socket_path::sockets() {
        if let Ok(CommandAnswer::Status(snapshot)) = client::send_command(&path, Command::Status).await
            && snapshot.profile == loaded.profile.name
            && cli.half.is_none_or(|half| snapshot.halves.contains(&half))
        {
            found.push(path);
        }
    }
    Ok(found)
}

fn choose(cli: &Cli, source: &ProfileSource) -> Result<ChosenProfile, Vec<crate::profile::Problem>> {
    cli.profile.as_deref().map_or(Ok(ChosenProfile::Demo(demo::free_ports())), |name| source.choose(name))
}

/// Lets each of them run the checklist, and merges the results.
async fn verify_running(
    cli: &Cli,
    source: &ProfileSource,
    gateways: &[PathBuf],
    form: OutputForm,
) -> anyhow::Result<VerifyReport> {
    let mut merged: Option<VerifyReport> = None;
    for path in gateways {
        print_note(format_args!("verify: the gateway at {} runs the checklist", path.display()));
        let answer = verify_with_progress(path).await?;
        let report =
            answer.into_verified().map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        merged = Some(match merged {
            None => report,
            Some(before) => before.merge(report),
        });
    }
    let mut report = merged.unwrap_or_else(|| VerifyReport::new(Vec::new()));
    if let Ok(chosen) = choose(cli, source) {
        name_port_holder(&mut report, source, &chosen);
    }
    report.steps.iter().try_for_each(|step_report| print_step(step_report, form))?;
    Ok(report)
}

/// Lets one gateway run the checklist, and reports the progress on standard error.
async fn verify_with_progress(path: &Path) -> Result<CommandAnswer, ClientError> {
    let mut verify_run = pin!(client::send_command(path, Command::Verify { steps: CheckStep::ALL.to_vec() }));
    let mut reported = None;
    loop {
        tokio::select! {
            answer = &mut verify_run => return answer,
            () = tokio::time::sleep(PROGRESS_POLL_INTERVAL) => {}
        }
        let Ok(CommandAnswer::Status(snapshot)) = client::send_command(path, Command::Status).await else {
            continue;
        };
        let running_step = snapshot.walk.as_ref().and_then(|verify_run| verify_run.walking);
        if let Some(step) = running_step.filter(|_| running_step != reported) {
            print_note(format_args!("verify: {} ...", step.label()));
        }
        reported = running_step;
    }
}

/// A run with halves of its own.
struct LocalVerifyRun<'a> {
    cli: &'a Cli,
    source: ProfileSource,
    form: OutputForm,
}

impl LocalVerifyRun<'_> {
    async fn run(&self) -> Result<VerifyReport, OutputError> {
        let mut steps = Vec::new();
        let began = Instant::now();
        let loaded = choose(self.cli, &self.source)
            .and_then(|chosen| Ok((self.source.load(&chosen, self.cli.mode)?, chosen)));
        let (loaded, chosen) = match loaded {
            Ok(loaded) => loaded,
            Err(problems) => {
                self.add_step(
                    &mut steps,
                    steps::unreadable_profile(&problems).at(CheckStep::Profile, began.elapsed()),
                )?;
                for step in &CheckStep::ALL[1..] {
                    let skipped = StepFinding::skip("the profile has to be good first");
                    self.add_step(&mut steps, skipped.at(*step, Default::default()))?;
                }
                return Ok(VerifyReport::new(steps));
            }
        };
        let profile = loaded.profile;
        let found = steps::check_profile(&self.source, &chosen, profile.mode);
        self.add_step(&mut steps, found.at(CheckStep::Profile, began.elapsed()))?;
        let began = Instant::now();
        print_note(format_args!("verify: basic: dialling the backends"));
        let edges = source::load_edges(&profile, PipePolicy::Refused);
        // Nobody listens for clients here yet.
        let found = steps::check_basic(&profile, edges, &OwnPorts::default()).await;
        self.add_step(&mut steps, found.at(CheckStep::Basic, began.elapsed()))?;
        for mode in [Mode::Forward, Mode::Reverse] {
            let word = step_of(mode).label();
            print_note(format_args!(
                "verify: {word}: starting halves of its own and waiting for links, at most 10 s"
            ));
            for step_report in self.check_mode(&chosen, mode).await.steps {
                self.add_step(&mut steps, step_report)?;
            }
        }
        Ok(VerifyReport::new(steps))
    }

    fn add_step(&self, steps: &mut Vec<StepReport>, step_report: StepReport) -> Result<(), OutputError> {
        print_step(&step_report, self.form)?;
        steps.push(step_report);
        Ok(())
    }

    /// The step of one mode; in reverse mode, also `closed`.
    async fn check_mode(&self, chosen: &ChosenProfile, mode: Mode) -> VerifyReport {
        let began = Instant::now();
        let step = step_of(mode);
        let failed = |found: StepFinding| {
            let mut steps = vec![found.at(step, began.elapsed())];
            if mode == Mode::Reverse {
                let skipped = StepFinding::skip("no internal half ran in reverse mode here");
                steps.push(skipped.at(CheckStep::Closed, Default::default()));
            }
            VerifyReport::new(steps)
        };
        let loaded = match self.source.load(chosen, Some(mode)) {
            Ok(loaded) => loaded,
            Err(problems) => {
                return failed(StepFinding::skip(steps::unreadable_profile(&problems).seen));
            }
        };
        if let Some(skipped) = lone_half_finding(&loaded).await {
            return failed(skipped);
        }
        let since = log::utc_now();
        let started = TrialHalves::start(self.cli, &self.source, chosen.clone(), loaded).await;
        let halves = match started {
            Ok(halves) => halves,
            Err(error) => {
                return failed(StepFinding::fail(error.to_string(), error.advice()));
            }
        };
        let steps = if mode == Mode::Reverse { vec![step, CheckStep::Closed] } else { vec![step] };
        let mut report = halves.verify(steps).await;
        let first =
            report.steps.first_mut().filter(|step_report| step_report.failure == Some(StepFailure::NotReady));
        if let (Some(step_report), Some(refused)) = (first, halves.refused_link(&since).await) {
            step_report.seen = format!("{}; the internal half says: {}", step_report.seen, refused.words);
            step_report.advice = Some(advice::advise_on_link(refused.cause).into());
        }
        halves.stop().await;
        name_port_holder(&mut report, &self.source, chosen);
        report
    }
}

/// Finds who holds the port of forward mode: a locked half sees no other process, but this one does.
fn name_port_holder(report: &mut VerifyReport, source: &ProfileSource, chosen: &ChosenProfile) {
    let is_unexplained = |step_report: &&mut StepReport| {
        let is_failed = step_report.step == CheckStep::Closed && step_report.result == StepResult::Fail;
        is_failed && step_report.failure != Some(StepFailure::PortHolderSeen)
    };
    let Some(step_report) = report.steps.iter_mut().find(is_unexplained) else { return };
    if let Some(holder) = closed::forward_port_holder(source, chosen) {
        step_report.seen = format!("{}; the port of forward mode is held by {holder}", step_report.seen);
    }
}

/// For a single half: what it cannot prove here.
async fn lone_half_finding(loaded: &LoadedProfile) -> Option<StepFinding> {
    let profile = &loaded.profile;
    if profile.dmz.is_none() && profile.mode == Mode::Forward {
        return Some(StepFinding::skip("the DMZ half sends the probe; verify it on that host"));
    }
    steps::unanswered_alone(loaded).await.map(StepFinding::skip)
}

fn step_of(mode: Mode) -> CheckStep {
    match mode {
        Mode::Direct => CheckStep::Basic,
        Mode::Forward => CheckStep::Forward,
        Mode::Reverse => CheckStep::Reverse,
    }
}

/// Prints one step as soon as it is known; with `--json`, standard output is only for the report.
fn print_step(step_report: &StepReport, form: OutputForm) -> Result<(), OutputError> {
    let mut text =
        format!("{:<8} {}  {}", step_report.step.label(), step_report.result.label(), step_report.seen);
    if let Some(advice) = &step_report.advice {
        text.push_str(&format!("\n         do    {advice}"));
    }
    match form {
        OutputForm::Json => print_note(text),
        OutputForm::Text => print_line(text)?,
    }
    Ok(())
}

fn describe_result(report: &VerifyReport) -> String {
    let count = |result| report.steps.iter().filter(|step_report| step_report.result == result).count();
    let (passed, failed, skipped) =
        (count(StepResult::Pass), count(StepResult::Fail), count(StepResult::Skip));
    let verdict = if report.passed { "verified" } else { "not verified" };
    format!("{verdict}: {passed} passed, {failed} failed, {skipped} skipped")
}
