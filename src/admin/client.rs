//! Sends commands to a running gateway, through its admin socket or a program that leads there. A gateway may hang or
//! be stopped by a signal, so each wait has a deadline; a long command is waited for as long as the gateway answers
//! others meanwhile.

use std::{io, path::Path, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::{
    net::UnixStream,
    time::{Instant, timeout},
};
use tokio_util::bytes::BytesMut;

use super::{
    program::{self, AdminProgram},
    protocol::{AdminHello, AdminRequest, AdminStream, WireError, in_parts},
    target::{AdminTarget, ProgramCommand},
};
use crate::{
    gateway::handle::{Command, CommandAnswer},
    telemetry::snapshot::{self, Snapshot},
};

/// A healthy gateway reads a request within this time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most commands are answered at once. During longer ones, this is how often to check that the gateway
/// responds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("{at}: no gateway answers there: {source}; {}", connect_advice(source))]
    Connect { at: String, source: io::Error },
    #[error("{at}: this does not start: {source}; correct the command")]
    Start { at: String, source: io::Error },
    #[error("{at}: {source}")]
    Wire { at: String, source: WireError },
    /// The program that leads there has ended or hangs; it said why.
    #[error("{at}: {error_output}")]
    Program { at: String, error_output: String },
    #[error("{at}: the gateway does not answer; it hangs, or is stopped by a signal")]
    Silent { at: String },
    #[error(
        "{at}: the gateway is version {theirs}, whose snapshots this version cannot read; use the same version"
    )]
    Version { at: String, theirs: String },
    #[error("{at}: the gateway refuses: {why}")]
    Refused { at: String, why: String },
}

fn connect_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "ask as the user that runs it, or with sudo",
        _ => "start it with `portcullis --profile NAME`, or name another socket with --admin",
    }
}

/// Sends one command and returns its answer; waits as long as the command takes, while the gateway responds.
pub async fn send_command(path: &Path, command: Command) -> Result<CommandAnswer, ClientError> {
    send_command_to(&AdminTarget::from(path), command).await
}

/// Sends one command to a gateway, wherever it is. A command that is too long for one request is sent in several, and
/// answered as one.
pub async fn send_command_to(target: &AdminTarget, command: Command) -> Result<CommandAnswer, ClientError> {
    let mut killed_before = 0;
    for part in in_parts(command) {
        let answer = send_part(target, part).await?;
        let CommandAnswer::Killed(killed) = answer else { return Ok(answer) };
        killed_before += killed;
    }
    Ok(CommandAnswer::Killed(killed_before))
}

async fn send_part(target: &AdminTarget, command: Command) -> Result<CommandAnswer, ClientError> {
    let is_status = command == Command::Status;
    let mut client = AdminConnection::connect(target).await?;
    client.send(&AdminRequest::Command(command)).await?;
    loop {
        match client.receive(RESPONSE_TIMEOUT).await {
            Err(ClientError::Silent { .. }) if !is_status => check_answers(target).await?,
            answered => return answered,
        }
    }
}

/// Whether the gateway answers anybody. One that is closing its socket does not, but is about to answer.
async fn check_answers(target: &AdminTarget) -> Result<(), ClientError> {
    match Box::pin(send_part(target, Command::Status)).await {
        Err(silent @ ClientError::Silent { .. }) => Err(silent),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A connection to a gateway that has sent its hello.
#[derive(Debug)]
pub(super) struct AdminConnection {
    target: AdminTarget,
    wire: AdminStream,
    program: Option<AdminProgram>,
}

impl AdminConnection {
    pub async fn connect(target: &AdminTarget) -> Result<Self, ClientError> {
        let mut client = match target {
            AdminTarget::Socket(path) => Self::over_socket(target, path).await?,
            AdminTarget::Program(command) => Self::over_program(target, command).await?,
        };
        let hello = client.receive::<AdminHello>(target.hello_within()).await?;
        match hello.snapshot {
            snapshot::VERSION => Ok(client),
            _ => Err(ClientError::Version { at: target.to_string(), theirs: hello.portcullis }),
        }
    }

    async fn over_socket(target: &AdminTarget, path: &Path) -> Result<Self, ClientError> {
        let at = || target.to_string();
        let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
            // Its accept queue is full: the process listens but does not accept.
            io::ErrorKind::WouldBlock => ClientError::Silent { at: at() },
            _ => ClientError::Connect { at: at(), source },
        })?;
        Ok(Self { target: target.clone(), wire: AdminStream::client(stream), program: None })
    }

    async fn over_program(target: &AdminTarget, command: &ProgramCommand) -> Result<Self, ClientError> {
        let started = AdminProgram::start(command);
        let (mut program, mut child_output, child_input) =
            started.map_err(|source| ClientError::Start { at: target.to_string(), source })?;
        let read = timeout(target.hello_within(), async {
            tokio::select! {
                read = program::skip_banner(&mut child_output) => read,
                () = program.keep_errors() => Err(WireError::Closed),
            }
        });
        match read.await {
            Ok(Ok(read)) => {
                let wire = AdminStream::piped(read, child_output, child_input);
                Ok(Self { target: target.clone(), wire, program: Some(program) })
            }
            Ok(Err(error)) => Err(program_error(target, &mut program, error).await),
            Err(_) => Err(match program.exit_reason().await {
                Some(error_output) => ClientError::Program { at: target.to_string(), error_output },
                None => ClientError::Silent { at: target.to_string() },
            }),
        }
    }

    pub async fn send(&mut self, request: &AdminRequest) -> Result<(), ClientError> {
        match timeout(WRITE_TIMEOUT, self.wire.send(request)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.client_error(error).await),
            Err(_) => Err(ClientError::Silent { at: self.target.to_string() }),
        }
    }

    /// The next of the requested snapshots.
    pub async fn next_snapshot(&mut self) -> Result<Arc<Snapshot>, ClientError> {
        let at = self.target.to_string();
        match self.receive(self.target.snapshot_within()).await? {
            CommandAnswer::Status(snapshot) => Ok(snapshot),
            CommandAnswer::Profiles(_)
            | CommandAnswer::Planned(_)
            | CommandAnswer::Verified(_)
            | CommandAnswer::Killed(_)
            | CommandAnswer::History(_)
            | CommandAnswer::Metrics(_) => {
                let why = "it answered another question instead of sending a snapshot".into();
                Err(ClientError::Refused { at, why })
            }
            CommandAnswer::Done(why)
            | CommandAnswer::Cut(why)
            | CommandAnswer::NotSaved(why)
            | CommandAnswer::Refused(why) => Err(ClientError::Refused { at, why }),
        }
    }

    /// Reads snapshots until then without parsing them: those with thousands of sessions are costly. An error
    /// comes with the last one, which may say that the gateway has stopped.
    pub async fn skip_snapshots(
        &mut self,
        until: Instant,
    ) -> Result<(), (ClientError, Option<Arc<Snapshot>>)> {
        let mut skipped = None;
        while Instant::now() < until {
            match self.message(self.target.snapshot_within()).await {
                Ok(message) => skipped = Some(message),
                Err(error) => return Err((error, skipped.and_then(|message| snapshot_in(&message)))),
            }
        }
        Ok(())
    }

    async fn receive<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T, ClientError> {
        let message = self.message(within).await?;
        match serde_json::from_slice(&message) {
            Ok(received) => Ok(received),
            Err(error) => Err(self.client_error(error.into()).await),
        }
    }

    async fn message(&mut self, within: Duration) -> Result<BytesMut, ClientError> {
        let received = timeout(within, async {
            let Some(program) = &mut self.program else { return self.wire.message().await };
            tokio::select! {
                received = self.wire.message() => received,
                () = program.keep_errors() => Err(WireError::Closed),
            }
        });
        match received.await {
            Ok(Ok(received)) => Ok(received),
            Ok(Err(error)) => Err(self.client_error(error).await),
            Err(_) => Err(ClientError::Silent { at: self.target.to_string() }),
        }
    }

    async fn client_error(&mut self, source: WireError) -> ClientError {
        match &mut self.program {
            Some(program) => program_error(&self.target, program, source).await,
            None => ClientError::Wire { at: self.target.to_string(), source },
        }
    }
}

fn snapshot_in(message: &[u8]) -> Option<Arc<Snapshot>> {
    match serde_json::from_slice(message) {
        Ok(CommandAnswer::Status(snapshot)) => Some(snapshot),
        Ok(_) | Err(_) => None,
    }
}

/// The program's own message is closer to the cause than the fact that it has ended.
async fn program_error(target: &AdminTarget, program: &mut AdminProgram, source: WireError) -> ClientError {
    let at = target.to_string();
    let has_ended = matches!(source, WireError::Closed | WireError::Unfinished | WireError::Io(_));
    match program.exit_reason().await.filter(|_| has_ended) {
        Some(error_output) => ClientError::Program { at, error_output },
        None => ClientError::Wire { at, source },
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio::{io::AsyncWriteExt, net::UnixListener};

    use super::*;
    use crate::{
        admin::target::{HELLO_TIMEOUT, PROGRAM_HELLO_TIMEOUT, PROGRAM_SNAPSHOT_TIMEOUT, SNAPSHOT_TIMEOUT},
        tests::happens_after,
    };

    /// A gateway that says hello to everybody, and then neither reads nor answers.
    async fn hang(listener: UnixListener) {
        let hello = AdminHello { portcullis: "1.0.0".into(), snapshot: snapshot::VERSION };
        let hello = serde_json::to_vec(&hello).unwrap();
        let mut clients = Vec::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            client.write_u32(hello.len() as u32).await.unwrap();
            client.write_all(&hello).await.unwrap();
            clients.push(client);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_does_not_answer_is_given_up_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let gateway = hang(UnixListener::bind(&path).unwrap());
        let answer = tokio::select! {
            answer = happens_after(RESPONSE_TIMEOUT, send_command(&path, Command::Status)) => answer,
            () = gateway => unreachable!("it hangs forever"),
        };
        assert!(matches!(answer, Err(ClientError::Silent { .. })), "{answer:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_says_no_hello_is_given_up_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let _gateway = UnixListener::bind(&path).unwrap();
        let target = AdminTarget::Socket(path);
        let error = happens_after(HELLO_TIMEOUT, AdminConnection::connect(&target)).await.unwrap_err();
        assert!(matches!(error, ClientError::Silent { .. }), "{error:?}");
        assert_eq!(program().hello_within(), PROGRAM_HELLO_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_sends_no_snapshot_is_given_up_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let gateway = hang(UnixListener::bind(&path).unwrap());
        let looking = async {
            let mut client = AdminConnection::connect(&AdminTarget::Socket(path)).await.unwrap();
            happens_after(SNAPSHOT_TIMEOUT, client.next_snapshot()).await.unwrap_err()
        };
        let error = tokio::select! {
            error = looking => error,
            () = gateway => unreachable!("it hangs forever"),
        };
        assert!(matches!(error, ClientError::Silent { .. }), "{error:?}");
        assert_eq!(program().snapshot_within(), PROGRAM_SNAPSHOT_TIMEOUT);
    }

    fn program() -> AdminTarget {
        let (shown, program, arguments) = ("exec:true".into(), "true".into(), Vec::new());
        AdminTarget::Program(ProgramCommand { shown, program, arguments })
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_takes_nothing_is_given_up_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let gateway = hang(UnixListener::bind(&path).unwrap());
        let asking = async {
            let mut client = AdminConnection::connect(&AdminTarget::Socket(path)).await.unwrap();
            // The kernel accepts the first of them.
            loop {
                if let Err(error) = client.send(&AdminRequest::Watch).await {
                    return error;
                }
            }
        };
        let error = tokio::select! {
            error = happens_after(WRITE_TIMEOUT, asking) => error,
            () = gateway => unreachable!("it hangs forever"),
        };
        assert!(matches!(error, ClientError::Silent { .. }), "{error:?}");
    }
}
