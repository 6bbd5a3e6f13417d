//! Halves of our own: the DMZ half in this process, the internal half in a child.

use std::{
    io::Read,
    path::PathBuf,
    process::{Child, Command as Process, Stdio},
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use crate::{
    admin::{client, place},
    cli::Cli,
    gateway::{
        Engine,
        handle::{Answer, Command, Handle},
        walk,
    },
    profile::{HealthPort, Mode, Role},
    source::{Chosen, Loaded, Source},
    tasks::Tasks,
    telemetry::checklist::{Found, Report, Step},
};

/// A half answers, and ends, within this time.
const PROMPT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// What runs of a profile.
pub struct Halves {
    /// The DMZ half, or both where the profile is the built-in one, whose CA lives in memory.
    here: Option<Handle>,
    tasks: Tasks,
    child: Option<Inside>,
}

impl Halves {
    /// Starts what the profile has; in each mode the half that listens goes first.
    pub async fn start(cli: &Cli, source: &Source, chosen: Chosen, loaded: Loaded) -> Result<Self, String> {
        let mode = loaded.profile.mode;
        let mut halves = Self { here: None, tasks: Tasks::default(), child: None };
        if matches!(chosen, Chosen::Demo(_)) {
            halves.start_here(source.clone(), chosen, loaded).await?;
            return Ok(halves);
        }
        let (has_dmz, has_internal) = (loaded.profile.dmz.is_some(), loaded.profile.internal.is_some());
        if has_internal && mode == Mode::Forward {
            halves.child = Some(Inside::start(cli, &chosen, mode).await?);
        }
        if has_dmz {
            let outside = Source { role: Some(Role::Dmz), ..source.clone() };
            let loaded =
                outside.load(&chosen, Some(mode)).map_err(|problems| walk::unreadable(&problems).seen)?;
            halves.start_here(outside, chosen.clone(), loaded).await?;
        }
        if has_internal && mode != Mode::Forward {
            halves.child = Some(Inside::start(cli, &chosen, mode).await?);
        }
        Ok(halves)
    }

    async fn start_here(&mut self, source: Source, chosen: Chosen, mut loaded: Loaded) -> Result<(), String> {
        // Monitors ask the gateway that serves.
        loaded.profile.health = HealthPort::Closed;
        let started = Engine::start(source, chosen, loaded).await;
        let (handle, engine) = started.map_err(|error| error.to_string())?;
        self.tasks.spawn("gateway", async move {
            // How it ended is seen by its walk.
            let _ = engine.run().await;
        });
        self.here = Some(handle.for_asker("verify"));
        Ok(())
    }

    /// Both walk at once, each what it can prove.
    pub async fn walk(&self, steps: Vec<Step>) -> Report {
        let inside = steps.clone();
        let all = steps.clone();
        let here = async {
            match &self.here {
                Some(handle) => Some(handle.ask(Command::Verify { steps }).await),
                None => None,
            }
        };
        let there = async {
            match &self.child {
                Some(child) => Some(child.ask(Command::Verify { steps: inside }).await),
                None => None,
            }
        };
        let (here, there) = tokio::join!(here, there);
        let mut reports = [here, there].into_iter().flatten().map(|answer| report(answer, &all));
        let first = reports.next().unwrap_or_else(|| Report::new(Vec::new()));
        reports.fold(first, Report::merge)
    }

    /// The last link that the internal half has turned away or lost since then.
    pub async fn refused_link(&self, since: &str) -> Option<String> {
        match self.child.as_ref()?.ask(Command::Status).await {
            Answer::Status(snapshot) => walk::refused_link(&snapshot, since),
            _ => None,
        }
    }

    pub async fn stop(self) {
        if let Some(child) = self.child {
            child.stop().await;
        }
        if let Some(handle) = self.here {
            handle.ask(Command::Stop).await;
            drop(handle);
            // One that hangs is dropped with the process.
            let _ = timeout(PROMPT, self.tasks.ended()).await;
        }
    }
}

fn report(answer: Answer, steps: &[Step]) -> Report {
    let why = match answer {
        Answer::Verified(report) => return report,
        Answer::Refused(why) => why,
        other => format!("a half has not walked: {other:?}"),
    };
    let failed = |step: &Step| Found::fail(why.clone(), "walk again").at(*step, Duration::ZERO);
    Report::new(steps.iter().map(failed).collect())
}

/// The internal half as a process of its own; dropping it kills it.
struct Inside {
    process: Child,
    socket: PathBuf,
}

impl Inside {
    async fn start(cli: &Cli, chosen: &Chosen, mode: Mode) -> Result<Self, String> {
        let socket = place::private(&format!("verify-{}.half", std::process::id()))
            .map_err(|error| error.to_string())?;
        let program =
            std::env::current_exe().map_err(|error| format!("this program is not found: {error}"))?;
        let mut command = Process::new(program);
        command.args(["--no-ui", "--role", "internal", "--mode", crate::gateway::mode_word(mode)]);
        command.arg("--admin").arg(&socket).arg("--profile");
        command.args(chosen.file().map(std::path::absolute).into_iter().flatten());
        command.args(["--ends-with", &std::process::id().to_string()]);
        if let Some(folder) = &cli.profiles {
            command.arg("--profiles").arg(folder);
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let process = spawned.map_err(|error| format!("the internal half does not start: {error}"))?;
        let mut inside = Self { process, socket };
        let began = Instant::now();
        // An answer, not a connection: the socket is there before the ports are.
        while !matches!(client::ask(&inside.socket, Command::Status).await, Ok(Answer::Status(_))) {
            if let Ok(Some(_)) = inside.process.try_wait() {
                return Err(inside.last_words());
            }
            if began.elapsed() >= PROMPT {
                return Err(format!("the internal half does not answer within {}s", PROMPT.as_secs()));
            }
            sleep(LOOK).await;
        }
        Ok(inside)
    }

    /// What a child that has ended has said last.
    fn last_words(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            // Nothing more to say is what it says then.
            let _ = stderr.read_to_string(&mut text);
        }
        let last =
            text.lines().rev().find_map(|line| line.strip_prefix("portcullis: ")).unwrap_or(text.trim());
        format!("the internal half does not start: {last}")
    }

    async fn ask(&self, command: Command) -> Answer {
        client::ask(&self.socket, command).await.unwrap_or_else(|error| Answer::Refused(error.to_string()))
    }

    async fn stop(mut self) {
        self.ask(Command::Stop).await;
        let began = Instant::now();
        while began.elapsed() < PROMPT && !matches!(self.process.try_wait(), Ok(Some(_))) {
            sleep(LOOK).await;
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}
