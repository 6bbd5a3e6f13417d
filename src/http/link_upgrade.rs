//! The request that turns a connection into the WebSocket of a link (RFC 6455, section 4): both sending and
//! answering it.

use std::io;

use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use super::{
    body::MessageBody,
    error_response::{self, ErrorResponse},
    request, websocket,
};
use crate::net::{prefixed::PrefixedStream, stream::NetStream};

/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest text of the other end that is shown.
const ANSWER_TEXT_CHARS_MAX: usize = 80;

/// Why a connection did not become a link's WebSocket.
#[derive(Debug, Error)]
pub enum UpgradeError {
    #[error("it closed the connection before it answered")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(
        "it answers {answer} where a WebSocket was asked for: is it the path of the other gateway's `listen`?"
    )]
    Refused { answer: String },
    /// RFC 9110, sections 15.6.3 to 15.6.5: none of our gateways answers like this.
    #[error("it answers {answer}: a proxy on the way cannot reach the other gateway")]
    OfNobody { answer: String },
    #[error("it does not speak HTTP: its answer begins with `{0}`")]
    OtherProtocol(String),
    #[error("it answers 101 without the right {0}")]
    NoWebSocket(&'static str),
    #[error("the head of its answer has more than {HEAD_BYTES_MAX} bytes")]
    LongHead,
}

impl UpgradeError {
    /// Whether a proxy or a balancer says that there is no gateway behind it.
    pub fn has_no_gateway_behind(&self) -> bool {
        matches!(self, Self::OfNobody { .. })
    }
}

/// Asks the other end of a connection to turn it into a WebSocket.
pub async fn ask_upgrade(
    mut stream: NetStream,
    authority: &str,
    path: &str,
) -> Result<PrefixedStream, UpgradeError> {
    let key = generate_key();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: portcullis\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let (head, remainder) = read_head(&mut stream).await?;
    check_answer(&head, &key)?;
    Ok(PrefixedStream { prefix: remainder, stream })
}

/// Reads the head of an answer, and returns it with the bytes after it.
async fn read_head(stream: &mut NetStream) -> Result<(Vec<u8>, Bytes), UpgradeError> {
    let mut head = Vec::new();
    loop {
        match stream.read_buf(&mut head).await {
            Ok(0) if head.is_empty() => return Err(UpgradeError::Closed),
            Ok(0) => return Err(other_protocol(&head)),
            Ok(_) => {}
            Err(error) if head.is_empty() && error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(UpgradeError::Closed);
            }
            Err(error) => return Err(error.into()),
        }
        if head.iter().zip(b"HTTP/").any(|(byte, known)| byte != known) {
            return Err(other_protocol(&head));
        }
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            let remainder = head.split_off(end + 4);
            return Ok((head, remainder.into()));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(UpgradeError::LongHead);
        }
    }
}

fn check_answer(head: &[u8], key: &str) -> Result<(), UpgradeError> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut fields);
    let status = match answer.parse(head) {
        Ok(httparse::Status::Complete(_)) => answer.code.unwrap_or_default(),
        Ok(httparse::Status::Partial) | Err(_) => return Err(other_protocol(head)),
    };
    if status != 101 {
        let sent = format!("{status} {}", answer.reason.unwrap_or_default());
        let answer = escape_for_display(sent.trim().as_bytes());
        return Err(match status {
            502..=504 => UpgradeError::OfNobody { answer },
            _ => UpgradeError::Refused { answer },
        });
    }
    let field = |name: &str| {
        let fields = answer.headers.iter();
        fields.filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).next()
    };
    if !field("upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket")) {
        return Err(UpgradeError::NoWebSocket("Upgrade"));
    }
    if field("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
        return Err(UpgradeError::NoWebSocket("Sec-WebSocket-Accept"));
    }
    Ok(())
}

/// What the other end says, in a form that is safe to show.
fn escape_for_display(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(ANSWER_TEXT_CHARS_MAX).collect();
    text.escape_default().to_string()
}

fn other_protocol(received: &[u8]) -> UpgradeError {
    UpgradeError::OtherProtocol(escape_for_display(&received[..received.len().min(16)]))
}

/// Answers a request for a link's path: anything but a WebSocket request gets "not found".
pub fn grant_upgrade(request: &Request<Incoming>) -> Result<Response<MessageBody>, ErrorResponse> {
    let wanted = request::requested_upgrade(request.headers(), request.version());
    match request::is_websocket(wanted.as_ref()) {
        true => websocket::grant_upgrade(request, None),
        false => Err(error_response::no_such_service()),
    }
}
