//! Asks a running gateway over its admin socket.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::{net::UnixStream, time::timeout};

use super::wire::{Hello, Wire, WireError};
use crate::{
    gateway::handle::{Answer, Command},
    telemetry::snapshot,
};

/// A gateway that is well says hello at once.
const HELLO: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("{}: no gateway answers there: {source}", path.display())]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Wire { path: PathBuf, source: WireError },
    #[error("{}: the gateway says nothing; it may hang, or be stopped by a signal", path.display())]
    Silent { path: PathBuf },
    #[error("{}: the gateway is version {theirs}, whose pictures this version can not read; use the same version", path.display())]
    Version { path: PathBuf, theirs: String },
}

/// Sends one command and returns its answer; waits as long as the command takes.
pub async fn ask(path: &Path, command: Command) -> Result<Answer, ClientError> {
    let at = || path.to_path_buf();
    let stream =
        UnixStream::connect(path).await.map_err(|source| ClientError::Connect { path: at(), source })?;
    let mut wire = Wire::new(stream);
    let wire_error = |source| ClientError::Wire { path: at(), source };
    let hello: Hello = match timeout(HELLO, wire.receive()).await {
        Ok(hello) => hello.map_err(wire_error)?,
        Err(_) => return Err(ClientError::Silent { path: at() }),
    };
    if hello.snapshot != snapshot::VERSION {
        return Err(ClientError::Version { path: at(), theirs: hello.portcullis });
    }
    wire.send(&command).await.map_err(wire_error)?;
    wire.receive().await.map_err(wire_error)
}
