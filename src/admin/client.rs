//! Asks a running gateway over its admin socket.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

use super::protocol::{AdminHello, AdminRequest, AdminStream, WireError};
use crate::{
    gateway::handle::{Command, CommandAnswer},
    telemetry::snapshot::{self, Snapshot},
};

/// A gateway that is well says hello at once, and takes what it is asked.
const HELLO: Duration = Duration::from_secs(5);
/// It answers most commands at once; of those that take longer, whether it turns is asked so often.
const ANSWER: Duration = Duration::from_secs(8);
/// It sends several pictures a second to those who watch.
const PICTURE: Duration = Duration::from_secs(10);

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("{}: no gateway answers there: {source}", path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Wire { path: PathBuf, source: WireError },
    #[error("{}: the gateway does not answer; it hangs, or is stopped by a signal", path.display())]
    Silent { path: PathBuf },
    #[error("{}: the gateway is version {theirs}, whose pictures this version can not read; use the same version", path.display())]
    Version { path: PathBuf, theirs: String },
    #[error("{}: the gateway refuses: {why}", path.display())]
    Refused { path: PathBuf, why: String },
}

/// Sends one command and returns its answer; waits as long as the command takes, while the gateway turns.
pub async fn send_command(path: &Path, command: Command) -> Result<CommandAnswer, ClientError> {
    let is_look = command == Command::Status;
    let mut client = AdminConnection::connect(path).await?;
    client.send(&AdminRequest::Command(command)).await?;
    loop {
        match client.receive(ANSWER).await {
            Err(ClientError::Silent { .. }) if !is_look => check_answers(path).await?,
            answered => return answered,
        }
    }
}

/// Whether the gateway answers anybody. One that is closing its socket does not, and is about to answer.
async fn check_answers(path: &Path) -> Result<(), ClientError> {
    match Box::pin(send_command(path, Command::Status)).await {
        Err(silent @ ClientError::Silent { .. }) => Err(silent),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A connection to a gateway that has said hello.
#[derive(Debug)]
pub(super) struct AdminConnection {
    path: PathBuf,
    wire: AdminStream,
}

impl AdminConnection {
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).await.map_err(|source| match source.kind() {
            // Its queue is full: it listens, and takes nobody in.
            io::ErrorKind::WouldBlock => ClientError::Silent { path: path.into() },
            _ => ClientError::Connect { path: path.into(), source },
        })?;
        let mut client = Self { path: path.into(), wire: AdminStream::client(stream) };
        let hello = client.receive::<AdminHello>(HELLO).await?;
        match hello.snapshot {
            snapshot::VERSION => Ok(client),
            _ => Err(ClientError::Version { path: client.path, theirs: hello.portcullis }),
        }
    }

    pub async fn send(&mut self, request: &AdminRequest) -> Result<(), ClientError> {
        match timeout(HELLO, self.wire.send(request)).await {
            Ok(sent) => sent.map_err(|error| self.client_error(error)),
            Err(_) => Err(ClientError::Silent { path: self.path.clone() }),
        }
    }

    /// The next of the pictures that were asked for.
    pub async fn next_snapshot(&mut self) -> Result<Arc<Snapshot>, ClientError> {
        match self.receive(PICTURE).await? {
            CommandAnswer::Status(snapshot) => Ok(snapshot),
            CommandAnswer::Profiles(_)
            | CommandAnswer::Planned(_)
            | CommandAnswer::Verified(_)
            | CommandAnswer::Killed(_)
            | CommandAnswer::Metrics(_) => {
                let why = "it answered another question instead of sending a picture".into();
                Err(ClientError::Refused { path: self.path.clone(), why })
            }
            CommandAnswer::Done(why) | CommandAnswer::Cut(why) | CommandAnswer::Refused(why) => {
                Err(ClientError::Refused { path: self.path.clone(), why })
            }
        }
    }

    async fn receive<T: DeserializeOwned>(&mut self, within: Duration) -> Result<T, ClientError> {
        match timeout(within, self.wire.receive()).await {
            Ok(received) => received.map_err(|error| self.client_error(error)),
            Err(_) => Err(ClientError::Silent { path: self.path.clone() }),
        }
    }

    fn client_error(&self, source: WireError) -> ClientError {
        ClientError::Wire { path: self.path.clone(), source }
    }
}
