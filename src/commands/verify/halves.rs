//! Halves for `verify`: the DMZ half in this process, the internal half in a child process. They are only for the
//! checklist: they keep no locks and write no history, and end with it.

use std::{
    io::{self, Read},
    path::PathBuf,
    process::{Child, Command as Process, Stdio},
    time::Duration,
};

use thiserror::Error;
use tokio::time::{sleep, timeout};

use crate::{
    admin::{
        client,
        socket_path::{self, SocketPathError},
    },
    cli::Cli,
    gateway::{
        Engine, EngineStartError,
        handle::{AnswerMismatch, Command, CommandAnswer, GatewayHandle},
    },
    profile::{Half, HealthPort, Mode, Problem},
    source::{ChosenProfile, LoadedProfile, ProfileSource},
    systemd,
    tasks::Tasks,
    telemetry::{
        checklist::{CheckStep, StepFinding, VerifyReport},
        link_cause::{LinkCause, LinkFault},
    },
    verify::{advice, steps},
};

/// A half must answer, and end, within this time.
const HALF_RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
const HALF_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why the halves could not be started.
#[derive(Debug, Error)]
pub enum TrialHalvesError {
    /// The DMZ half alone cannot be loaded.
    #[error("{}", steps::unreadable_profile(.0).seen)]
    Profile(Vec<Problem>),
    #[error(transparent)]
    Bind(EngineStartError),
    #[error(transparent)]
    Socket(SocketPathError),
    #[error("this program is not found: {0}")]
    Program(io::Error),
    #[error("the internal half could not be started: {0}")]
    Spawn(io::Error),
    /// It has ended, with this last output.
    #[error("the internal half ended before it was ready: {0}")]
    Ended(String),
    #[error("the internal half does not answer within {}s", HALF_RESPONSE_TIMEOUT.as_secs())]
    Silent,
}

impl TrialHalvesError {
    /// How to fix it.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Bind(EngineStartError::Bind(error)) => advice::advise_on_link(error.into()),
            // The last output of a process is only text.
            Self::Ended(_) => "correct what that line names, or stop the program that holds it",
            Self::Bind(EngineStartError::Audit(_))
            | Self::Profile(_)
            | Self::Socket(_)
            | Self::Program(_)
            | Self::Spawn(_)
            | Self::Silent => advice::advise_on_link(LinkCause::Other),
        }
    }
}

/// The running halves of a profile.
pub struct TrialHalves {
    /// The DMZ half, or both for the built-in profile, whose CA is only in memory.
    here: Option<GatewayHandle>,
    tasks: Tasks,
    child: Option<InternalProcess>,
}

impl TrialHalves {
    /// Starts the halves that the profile has; in each mode the listening half starts first.
    pub async fn start(
        cli: &Cli,
        source: &ProfileSource,
        chosen: ChosenProfile,
        loaded: LoadedProfile,
    ) -> Result<Self, TrialHalvesError> {
        let mode = loaded.profile.mode;
        let mut halves = Self { here: None, tasks: Tasks::default(), child: None };
        if matches!(chosen, ChosenProfile::Demo(_)) {
            halves.start_here(source.clone(), chosen, loaded).await?;
            return Ok(halves);
        }
        let (has_dmz, has_internal) = (loaded.profile.dmz.is_some(), loaded.profile.internal.is_some());
        if has_internal && mode == Mode::Forward {
            halves.child = Some(InternalProcess::start(cli, &chosen, mode).await?);
        }
        if has_dmz {
            let outside = ProfileSource { half: Some(Half::Dmz), ..source.clone() };
            let loaded = outside.load(&chosen, Some(mode)).map_err(TrialHalvesError::Profile)?;
            halves.start_here(outside, chosen.clone(), loaded).await?;
        }
        if has_internal && mode != Mode::Forward {
            halves.child = Some(InternalProcess::start(cli, &chosen, mode).await?);
        }
        Ok(halves)
    }

    async fn start_here(
        &mut self,
        source: ProfileSource,
        chosen: ChosenProfile,
        mut loaded: LoadedProfile,
    ) -> Result<(), TrialHalvesError> {
        // Monitors connect to the gateway that serves.
        loaded.profile.health = HealthPort::Closed;
        (loaded.profile.log, loaded.profile.access_log, loaded.profile.audit) = (None, None, None);
        let started = Engine::start(source, chosen, loaded).await;
        let (handle, engine) = started.map_err(TrialHalvesError::Bind)?;
        self.tasks.spawn("gateway", async move {
            // Its run of the checklist shows how it ended.
            let _ = engine.run().await;
        });
        self.here = Some(handle.for_actor("verify"));
        Ok(())
    }

    /// Both run the checklist at once, each as far as it can.
    pub async fn verify(&self, steps: Vec<CheckStep>) -> VerifyReport {
        let inside = steps.clone();
        let all = steps.clone();
        let here = async {
            match &self.here {
                Some(handle) => Some(handle.send_and_wait(Command::Verify { steps }).await),
                None => None,
            }
        };
        let there = async {
            match &self.child {
                Some(child) => Some(child.send_and_wait(Command::Verify { steps: inside }).await),
                None => None,
            }
        };
        let (here, there) = tokio::join!(here, there);
        let mut reports = [here, there].into_iter().flatten().map(|answer| report(answer, &all));
        let first = reports.next().unwrap_or_else(|| VerifyReport::new(Vec::new()));
        reports.fold(first, VerifyReport::merge)
    }

    /// The last link that the internal half has rejected or lost since then.
    pub async fn refused_link(&self, since: &str) -> Option<LinkFault> {
        let answer = self.child.as_ref()?.send_and_wait(Command::Status).await;
        let snapshot = answer.into_status().ok()?;
        steps::refused_link(&snapshot, since)
    }

    pub async fn stop(self) {
        if let Some(child) = self.child {
            child.stop().await;
        }
        if let Some(handle) = self.here {
            handle.send_and_wait(Command::Stop).await;
            drop(handle);
            // One that hangs is dropped with the process.
            let _ = timeout(HALF_RESPONSE_TIMEOUT, self.tasks.all_ended()).await;
        }
    }
}

fn report(answer: CommandAnswer, steps: &[CheckStep]) -> VerifyReport {
    let why = match answer.into_verified() {
        Ok(report) => return report,
        Err(AnswerMismatch::Refused(why)) => why,
        Err(AnswerMismatch::OtherQuestion) => "a half did not run the checklist".into(),
    };
    let failed =
        |step: &CheckStep| StepFinding::fail(why.clone(), "run `verify` again").at(*step, Duration::ZERO);
    VerifyReport::new(steps.iter().map(failed).collect())
}

/// The internal half as a separate process; dropping it kills the process.
struct InternalProcess {
    process: Child,
    socket: PathBuf,
}

impl InternalProcess {
    async fn start(cli: &Cli, chosen: &ChosenProfile, mode: Mode) -> Result<Self, TrialHalvesError> {
        let socket = socket_path::private_socket(&format!("verify-{}.half", std::process::id()))
            .map_err(TrialHalvesError::Socket)?;
        let program = std::env::current_exe().map_err(TrialHalvesError::Program)?;
        let mut command = Process::new(program);
        systemd::keep_from(&mut command);
        command.args(["--no-ui", "--role", "internal", "--mode", mode.label()]);
        command.arg("--admin").arg(&socket).arg("--profile");
        command.args(chosen.file().map(std::path::absolute).into_iter().flatten());
        command.args(["--ends-with", &std::process::id().to_string()]);
        if let Some(folder) = &cli.profiles {
            command.arg("--profiles").arg(folder);
        }
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let process = spawned.map_err(TrialHalvesError::Spawn)?;
        let mut inside = Self { process, socket };
        inside.wait_until_answers().await.map(|()| inside)
    }

    async fn wait_until_answers(&mut self) -> Result<(), TrialHalvesError> {
        let answers = async {
            // A connection is not enough: the socket exists before the ports do.
            while !matches!(
                client::send_command(&self.socket, Command::Status).await,
                Ok(CommandAnswer::Status(_))
            ) {
                if let Ok(Some(_)) = self.process.try_wait() {
                    return Err(TrialHalvesError::Ended(self.last_output()));
                }
                sleep(HALF_POLL_INTERVAL).await;
            }
            Ok(())
        };
        timeout(HALF_RESPONSE_TIMEOUT, answers).await.unwrap_or(Err(TrialHalvesError::Silent))
    }

    /// The last output of a child that has ended.
    fn last_output(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.process.stderr.take() {
            // An error here only means that there is no more output.
            let _ = stderr.read_to_string(&mut text);
        }
        text.lines()
            .rev()
            .find_map(|line| line.strip_prefix("portcullis: "))
            .unwrap_or(text.trim())
            .to_owned()
    }

    async fn send_and_wait(&self, command: Command) -> CommandAnswer {
        client::send_command(&self.socket, command)
            .await
            .unwrap_or_else(|error| CommandAnswer::Refused(error.to_string()))
    }

    async fn stop(mut self) {
        let ended = async {
            self.send_and_wait(Command::Stop).await;
            while !matches!(self.process.try_wait(), Ok(Some(_))) {
                sleep(HALF_POLL_INTERVAL).await;
            }
        };
        // One that hangs is killed.
        let _ = timeout(HALF_RESPONSE_TIMEOUT, ended).await;
    }
}

impl Drop for InternalProcess {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::tests::happens_after;

    /// Accepts every connection and sends nothing.
    #[tokio::test(start_paused = true)]
    async fn a_half_that_does_not_answer_is_given_up_in_time_and_is_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("half.sock");
        let _silent = UnixListener::bind(&socket).expect("a socket");
        let process = Process::new("sleep").arg("600").spawn().expect("it starts");
        let mut inside = InternalProcess { process, socket };
        let answered = happens_after(HALF_RESPONSE_TIMEOUT, inside.wait_until_answers()).await;
        assert!(matches!(answered, Err(TrialHalvesError::Silent)), "{answered:?}");
        happens_after(HALF_RESPONSE_TIMEOUT, inside.stop()).await;
    }
}
