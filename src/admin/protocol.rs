//! The protocol of the admin socket: a hello from the server, then one answer for each command. Each is a JSON
//! text, preceded by its length in four bytes. The answers to `watch` are snapshots without end;
//! `{"watch":{"every_ms":1000}}` asks for no more than one in that time.

use std::{
    io::{self, Cursor},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, Chain},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf, pipe},
    },
};
use tokio_util::{
    bytes::{Bytes, BytesMut},
    codec::{FramedRead, FramedWrite, LengthDelimitedCodec, LengthDelimitedCodecError},
    either::Either,
};

use crate::{
    gateway::handle::Command,
    telemetry::registry::{KillSelection, ListedSessions},
    text,
};

/// A snapshot with all its rows fits; a longer message is not an answer of ours.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A longer message is not a request, and is not waited for. Only a list of sessions comes near this, and is
/// sent [in parts](in_parts).
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// The limit for the names of sessions in one request.
const LIST_BYTES_MAX: usize = REQUEST_BYTES_MAX / 2;
/// The slowest pace that may be requested: callers give up on a gateway that sends nothing for longer.
const PACE_MAX: Duration = Duration::from_secs(5);
/// The longest error message that repeats a request.
const FAULT_CHARS_MAX: usize = 200;

/// The server's first message.
#[derive(Debug, Serialize, Deserialize)]
pub struct AdminHello {
    pub portcullis: String,
    /// `telemetry::snapshot::VERSION`.
    pub snapshot: u32,
}

/// A client's request.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdminRequest {
    /// Every snapshot from now on; one that is not read in time is replaced by a newer one.
    Watch,
    /// Snapshots as for `Watch`, but no faster than this.
    #[serde(rename = "watch")]
    WatchEvery(WatchPace),
    #[serde(untagged)]
    Command(Command),
}

/// Commands with the same effect, each short enough for a request.
pub fn in_parts(command: Command) -> Vec<Command> {
    let Command::KillAll(KillSelection::Listed(listed)) = command else { return vec![command] };
    let (mut lists, mut list, mut bytes) = (Vec::new(), Vec::new(), 0);
    for session in listed.sessions {
        // In its escaped form, which is longer.
        let more = serde_json::to_string(&session).map_or(session.len(), |text| text.len()) + 1;
        if bytes + more > LIST_BYTES_MAX {
            lists.push(std::mem::take(&mut list));
            bytes = 0;
        }
        bytes += more;
        list.push(session);
    }
    lists.push(list);
    let part = |sessions| ListedSessions { sessions, by: listed.by.clone() };
    lists.into_iter().map(|list| Command::KillAll(KillSelection::Listed(part(list)))).collect()
}

/// How fast snapshots may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchPace {
    every_ms: u64,
}

impl WatchPace {
    pub fn new(every: Duration) -> Self {
        Self { every_ms: u64::try_from(every.as_millis()).unwrap_or(u64::MAX) }
    }

    pub fn every(self) -> Duration {
        Duration::from_millis(self.every_ms).min(PACE_MAX)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PacedWatch {
    watch: WatchPace,
}

impl AdminRequest {
    /// Parsed by hand: if neither kind fits, serde could not say what is wrong.
    pub fn parse(message: &[u8]) -> Result<Self, RequestParseError> {
        if serde_json::from_slice::<String>(message).is_ok_and(|word| word == "watch") {
            return Ok(Self::Watch);
        }
        if let Ok(PacedWatch { watch }) = serde_json::from_slice(message) {
            return Ok(Self::WatchEvery(watch));
        }
        serde_json::from_slice(message)
            .map(Self::Command)
            .map_err(|error| RequestParseError::from_json(&error))
    }
}

/// Why a request is invalid, in one line.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("not a valid request: {0}")]
pub struct RequestParseError(String);

impl RequestParseError {
    fn from_json(error: &serde_json::Error) -> Self {
        Self(text::clean_text(&error.to_string(), FAULT_CHARS_MAX))
    }
}

#[derive(Debug, Error)]
pub enum WireError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not a Portcullis admin socket: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Unclear(#[from] RequestParseError),
    #[error("a message is longer than {bytes_max} bytes")]
    TooLong { bytes_max: usize },
    #[error("it closed without an answer")]
    Closed,
    #[error("it closed in the middle of a message, or is not a Portcullis admin socket")]
    Unfinished,
    #[error("not a Portcullis admin socket: it says {0}")]
    Banner(String),
}

/// The bytes already read from a pipe, and the rest of it.
type ReadOnPipe = Chain<Cursor<BytesMut>, pipe::Receiver>;

/// An end of the socket.
#[derive(Debug)]
pub struct AdminStream {
    incoming: FramedRead<Either<OwnedReadHalf, ReadOnPipe>, LengthDelimitedCodec>,
    outgoing: FramedWrite<Either<OwnedWriteHalf, pipe::Sender>, LengthDelimitedCodec>,
}

impl AdminStream {
    /// The gateway's end, which receives requests.
    pub fn server(stream: UnixStream) -> Self {
        Self::new(stream, REQUEST_BYTES_MAX)
    }

    /// The client's end, which receives answers.
    pub fn client(stream: UnixStream) -> Self {
        Self::new(stream, ANSWER_BYTES_MAX)
    }

    /// The stream over the pipes of a program, from which some of the answer was already read.
    pub(super) fn piped(read: BytesMut, reader: pipe::Receiver, writer: pipe::Sender) -> Self {
        let reader = Cursor::new(read).chain(reader);
        Self::over(Either::Right(reader), Either::Right(writer), ANSWER_BYTES_MAX)
    }

    fn new(stream: UnixStream, bytes_max: usize) -> Self {
        let (reader, writer) = stream.into_split();
        Self::over(Either::Left(reader), Either::Left(writer), bytes_max)
    }

    fn over(
        reader: Either<OwnedReadHalf, ReadOnPipe>,
        writer: Either<OwnedWriteHalf, pipe::Sender>,
        bytes_max: usize,
    ) -> Self {
        let codec = |bytes_max| LengthDelimitedCodec::builder().max_frame_length(bytes_max).new_codec();
        Self {
            incoming: FramedRead::new(reader, codec(bytes_max)),
            outgoing: FramedWrite::new(writer, codec(ANSWER_BYTES_MAX)),
        }
    }

    pub async fn send(&mut self, message: &impl Serialize) -> Result<(), WireError> {
        Ok(self.outgoing.send(Bytes::from(serde_json::to_vec(message)?)).await?)
    }

    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, WireError> {
        Ok(serde_json::from_slice(&self.message().await?)?)
    }

    pub async fn request(&mut self) -> Result<AdminRequest, WireError> {
        Ok(AdminRequest::parse(&self.message().await?)?)
    }

    /// One message, whatever it says.
    pub async fn message(&mut self) -> Result<BytesMut, WireError> {
        self.incoming.next().await.ok_or(WireError::Closed)?.map_err(|error| {
            match error.get_ref().is_some_and(|inner| inner.is::<LengthDelimitedCodecError>()) {
                true => WireError::TooLong { bytes_max: self.incoming.decoder().max_frame_length() },
                // What the codec itself reports at the end of the stream.
                false if error.kind() == io::ErrorKind::Other => WireError::Unfinished,
                false => WireError::Io(error),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_that_ends_early_is_reported_as_such() {
        let (client, gateway) = UnixStream::pair().expect("two ends");
        let mut gateway = gateway.into_std().expect("one end");
        std::io::Write::write_all(&mut gateway, b"\0\0\0\x09half").expect("it is sent");
        drop(gateway);
        let received = AdminStream::client(client).message().await;
        assert!(matches!(received, Err(WireError::Unfinished)), "{received:?}");
    }

    #[test]
    fn a_list_of_every_session_is_split_into_valid_requests() {
        let peer = "a-gateway-with-a-rather-long-name.inside.example";
        let all: Vec<_> = (0..20_000).map(|number| format!("{peer}/1f2e-{number:x}\u{1b}")).collect();
        let by = "that passed `web`".to_owned();
        let listed = ListedSessions { sessions: all.clone(), by: by.clone() };
        let parts = in_parts(Command::KillAll(KillSelection::Listed(listed)));
        assert!(parts.len() > 1);
        let mut sent = Vec::new();
        for part in parts {
            let bytes = serde_json::to_vec(&AdminRequest::Command(part.clone())).expect("it is JSON");
            assert!(bytes.len() <= REQUEST_BYTES_MAX, "{} bytes", bytes.len());
            let Command::KillAll(KillSelection::Listed(listed)) = part else { panic!("another command") };
            assert_eq!(listed.by, by);
            sent.extend(listed.sessions);
        }
        assert!(sent == all);
        let none = Command::KillAll(KillSelection::Listed(ListedSessions::default()));
        assert_eq!(in_parts(none.clone()), [none]);
        assert_eq!(in_parts(Command::Reload), [Command::Reload]);
    }
}
