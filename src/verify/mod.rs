//! `verify`: walks the checklist with the gateways that run, or with halves of its own.
//!
//! Each gateway walks for itself what its half can prove, and the walks are merged. Halves of our own
//! run on the profile's addresses, first in forward mode and then in reverse; the internal half is a
//! process of its own, so that what it listens on is its own.

mod half;

use std::{
    path::{Path, PathBuf},
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{
    admin::{
        client::{self, ClientError},
        place,
    },
    cli::Cli,
    commands, demo,
    disk::Pipes,
    exit,
    gateway::{
        advice,
        handle::{Answer, Command},
        walk,
    },
    output::{OutputError, note, print_line},
    profile::{Mode, Profile},
    source::{self, Chosen, Source},
    telemetry::{
        checklist::{Finding, Found, Report, Step, Walked},
        log,
    },
};

use self::half::Halves;

/// How often a gateway that walks is asked how far it is.
const LOOK: Duration = Duration::from_millis(300);

/// Walks the checklist of the profile and prints what was found.
pub async fn run(cli: &Cli, json: bool) -> anyhow::Result<ExitCode> {
    let source = commands::source(cli);
    let gateways = gateways(cli, &source).await?;
    if cli.profile.is_none() && gateways.is_empty() && !place::sockets().is_empty() {
        note(format_args!(
            "verify: the built-in profile is verified; for a gateway that runs here name its --profile"
        ));
    }
    let report = match gateways.is_empty() {
        true => Own { cli, source, json }.walk().await?,
        false => ask(&gateways, json).await?,
    };
    match json {
        true => print_line(serde_json::to_string(&report)?)?,
        false => print_line(verdict(&report))?,
    }
    Ok(if report.passed { ExitCode::SUCCESS } else { exit::FAILED.into() })
}

/// The sockets of the gateways that run the profile now, on this host.
async fn gateways(cli: &Cli, source: &Source) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(path) = cli.admin.as_ref().filter(|path| path.as_os_str() != "none") {
        return Ok(vec![path.clone()]);
    }
    let Ok(loaded) = choose(cli, source).and_then(|chosen| source.load_to_serve(&chosen, cli.mode)) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for path in place::sockets() {
        if let Ok(Answer::Status(snapshot)) = client::ask(&path, Command::Status).await
            && snapshot.profile == loaded.profile.name
            && cli.role.is_none_or(|role| snapshot.roles.contains(&role))
        {
            found.push(path);
        }
    }
    Ok(found)
}

fn choose(cli: &Cli, source: &Source) -> Result<Chosen, Vec<crate::profile::Problem>> {
    cli.profile.as_deref().map_or(Ok(Chosen::Demo(demo::free_ports())), |name| source.choose(name))
}

/// Has each of them walk, and merges what they found.
async fn ask(gateways: &[PathBuf], json: bool) -> anyhow::Result<Report> {
    let mut merged: Option<Report> = None;
    for path in gateways {
        note(format_args!("verify: the gateway at {} walks the checklist", path.display()));
        match watched(path).await? {
            Answer::Verified(report) => {
                merged = Some(match merged {
                    None => report,
                    Some(before) => before.merge(report),
                });
            }
            Answer::Refused(why) => anyhow::bail!("{}: {why}", path.display()),
            other => anyhow::bail!("{}: no walk was answered but {other:?}", path.display()),
        }
    }
    let report = merged.unwrap_or_else(|| Report::new(Vec::new()));
    report.steps.iter().try_for_each(|walked| show(walked, json))?;
    Ok(report)
}

/// Has one gateway walk, and says on standard error how far it is.
async fn watched(path: &Path) -> Result<Answer, ClientError> {
    let mut walk = pin!(client::ask(path, Command::Verify { steps: Step::ALL.to_vec() }));
    let mut told = None;
    loop {
        tokio::select! {
            answer = &mut walk => return answer,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Ok(Answer::Status(snapshot)) = client::ask(path, Command::Status).await else { continue };
        let walking = snapshot.walk.as_ref().and_then(|walk| walk.walking);
        if let Some(step) = walking.filter(|_| walking != told) {
            note(format_args!("verify: {} ...", step.word()));
        }
        told = walking;
    }
}

/// A walk with halves of its own.
struct Own<'a> {
    cli: &'a Cli,
    source: Source,
    json: bool,
}

impl Own<'_> {
    async fn walk(&self) -> Result<Report, OutputError> {
        let mut steps = Vec::new();
        let began = Instant::now();
        let loaded = choose(self.cli, &self.source)
            .and_then(|chosen| Ok((self.source.load(&chosen, self.cli.mode)?, chosen)));
        let (loaded, chosen) = match loaded {
            Ok(loaded) => loaded,
            Err(problems) => {
                self.found(&mut steps, walk::unreadable(&problems).at(Step::Profile, began.elapsed()))?;
                for step in &Step::ALL[1..] {
                    let skipped = Found::skip("the profile has to be good first");
                    self.found(&mut steps, skipped.at(*step, Default::default()))?;
                }
                return Ok(Report::new(steps));
            }
        };
        let profile = loaded.profile;
        let found = walk::profile(&self.source, &chosen, profile.mode);
        self.found(&mut steps, found.at(Step::Profile, began.elapsed()))?;
        let began = Instant::now();
        note(format_args!("verify: basic: dialling the backends"));
        let found = walk::basic(&profile, source::edges(&profile, Pipes::Refused)).await;
        self.found(&mut steps, found.at(Step::Basic, began.elapsed()))?;
        for mode in [Mode::Forward, Mode::Reverse] {
            let word = step_of(mode).word();
            note(format_args!(
                "verify: {word}: starting halves of its own and waiting for links, at most 10 s"
            ));
            for walked in self.way(&chosen, mode).await.steps {
                self.found(&mut steps, walked)?;
            }
        }
        Ok(Report::new(steps))
    }

    fn found(&self, steps: &mut Vec<Walked>, walked: Walked) -> Result<(), OutputError> {
        show(&walked, self.json)?;
        steps.push(walked);
        Ok(())
    }

    /// The step of one mode; in reverse, also `closed`.
    async fn way(&self, chosen: &Chosen, mode: Mode) -> Report {
        let began = Instant::now();
        let step = step_of(mode);
        let failed = |found: Found| {
            let mut steps = vec![found.at(step, began.elapsed())];
            if mode == Mode::Reverse {
                let skipped = Found::skip("no internal half ran in reverse mode here");
                steps.push(skipped.at(Step::Closed, Default::default()));
            }
            Report::new(steps)
        };
        let loaded = match self.source.load(chosen, Some(mode)) {
            Ok(loaded) => loaded,
            Err(problems) => return failed(Found::skip(walk::unreadable(&problems).seen)),
        };
        if let Some(skipped) = alone(&loaded.profile).await {
            return failed(skipped);
        }
        let since = log::utc_now();
        let started = Halves::start(self.cli, &self.source, chosen.clone(), loaded).await;
        let halves = match started {
            Ok(halves) => halves,
            Err(why) => return failed(Found::fail(why.clone(), advice::on_link(&why))),
        };
        let steps = if mode == Mode::Reverse { vec![step, Step::Closed] } else { vec![step] };
        let mut report = halves.walk(steps).await;
        let first = report.steps.first_mut().filter(|walked| walked.seen.starts_with(walk::NOT_READY));
        if let (Some(walked), Some(told)) = (first, halves.refused_link(&since).await) {
            walked.seen = format!("{}; the internal half says: {told}", walked.seen);
            walked.advice = Some(advice::on_link(&told));
        }
        halves.stop().await;
        report
    }
}

/// A half alone: what it can not prove here.
async fn alone(profile: &Profile) -> Option<Found> {
    if profile.dmz.is_none() && profile.mode == Mode::Forward {
        return Some(Found::skip("the DMZ half sends the probe; verify it on that host"));
    }
    walk::alone_and_unanswered(profile).await.map(Found::skip)
}

fn step_of(mode: Mode) -> Step {
    match mode {
        Mode::Direct => Step::Basic,
        Mode::Forward => Step::Forward,
        Mode::Reverse => Step::Reverse,
    }
}

/// One step, as soon as it is known; with `--json` standard output is for the report alone.
fn show(walked: &Walked, json: bool) -> Result<(), OutputError> {
    let mut text = format!("{:<8} {}  {}", walked.step.word(), walked.result.word(), walked.seen);
    if let Some(advice) = &walked.advice {
        text.push_str(&format!("\n         do    {advice}"));
    }
    match json {
        true => note(text),
        false => print_line(text)?,
    }
    Ok(())
}

fn verdict(report: &Report) -> String {
    let count = |result| report.steps.iter().filter(|walked| walked.result == result).count();
    let (passed, failed, skipped) = (count(Finding::Pass), count(Finding::Fail), count(Finding::Skip));
    let verdict = if report.passed { "verified" } else { "not verified" };
    format!("{verdict}: {passed} passed, {failed} failed, {skipped} skipped")
}
