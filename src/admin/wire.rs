//! What the admin socket says: a hello from the server, then one answer for each command, each a
//! JSON text behind its length in four bytes. To `watch` the answers are pictures, without end.

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio_util::{
    bytes::Bytes,
    codec::{Framed, LengthDelimitedCodec},
};

use crate::gateway::handle::Command;

/// A snapshot with all its rows fits; a length beyond it is no message of ours.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The server's first message.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    pub portcullis: String,
    /// `telemetry::snapshot::VERSION`.
    pub snapshot: u32,
}

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Request {
    /// Every picture from now on; one that is not read in time is left out for a newer one.
    Watch,
    #[serde(untagged)]
    Command(Command),
}

#[derive(Debug, Error)]
pub enum WireError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("it does not speak as a gateway does: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it closed without an answer")]
    Closed,
}

/// One end of the socket.
#[derive(Debug)]
pub struct Wire(Framed<UnixStream, LengthDelimitedCodec>);

impl Wire {
    pub fn new(stream: UnixStream) -> Self {
        let codec = LengthDelimitedCodec::builder().max_frame_length(MESSAGE_BYTES_MAX).new_codec();
        Self(Framed::new(stream, codec))
    }

    pub async fn send(&mut self, message: &impl Serialize) -> Result<(), WireError> {
        Ok(self.0.send(Bytes::from(serde_json::to_vec(message)?)).await?)
    }

    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, WireError> {
        let message = self.0.next().await.ok_or(WireError::Closed)??;
        Ok(serde_json::from_slice(&message)?)
    }
}
