//! Reads the first message of TLS before it is known who will answer it, because the server name in it decides.
//! The bytes are kept, so that the connection can be passed on exactly as it came.

use std::io;

use rustls::server::Acceptor;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::{
    net::{read_ahead::ReadAhead, tcp},
    proto::client_hello::{ClientHelloError, RecordReader},
};

/// A ClientHello has at most 64 KiB (rustls's limit), and each of its records adds five bytes. No real client
/// cuts it into records of a byte each.
const HELLO_BYTES_MAX: usize = 72 * 1024;
/// A ClientHello with a post-quantum key share has about 1,800 bytes.
const READ_BYTES: usize = 4 * 1024;
/// Fatal alerts: `unrecognized_name` (RFC 6066, section 3) and `decode_error` (RFC 8446, section 6.2).
const UNRECOGNISED: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
const UNREADABLE: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];
/// The alert `internal_error` (RFC 8446, section 6.2).
const INTERNAL: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Why a client's hello could not be read.
#[derive(Debug, Error)]
pub enum HelloReadError {
    #[error("it left before it had said hello")]
    Left,
    #[error("its hello is longer than {HELLO_BYTES_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Malformed(#[from] ClientHelloError),
    #[error(transparent)]
    Io(io::Error),
}

/// A ClientHello.
pub struct ClientHello {
    name: Option<String>,
    bytes: Vec<u8>,
}

impl ClientHello {
    /// Reads one, from however many segments and records. Some of its `bytes` may have been read already.
    pub async fn read(stream: &mut TcpStream, bytes: Vec<u8>) -> Result<Self, HelloReadError> {
        let (mut reader, mut more) = (ClientHelloReader::default(), bytes);
        loop {
            match reader.feed(&more) {
                Ok(Some(hello)) => return Ok(hello),
                Ok(None) => {}
                Err(error) => {
                    send_alert(stream, &UNREADABLE).await;
                    return Err(error);
                }
            }
            more.clear();
            more.reserve(READ_BYTES);
            match stream.read_buf(&mut more).await {
                Ok(0) => return Err(HelloReadError::Left),
                Ok(_) => {}
                Err(error) => return Err(HelloReadError::Io(error)),
            }
        }
    }

    /// The name that the client asks for, in lower case.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The bytes as they came, perhaps with some that follow.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Begins to answer it. rustls reads it itself, and tells the client if it cannot serve it.
    pub(super) async fn start_handshake(self, stream: TcpStream) -> io::Result<StartHandshake<ReadAhead>> {
        let read_ahead = ReadAhead::with_prefix(self.bytes, stream);
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), read_ahead);
        let begun = (&mut acceptor).await;
        if let Some(stream) = acceptor.take_io() {
            stream.tcp().into_iter().for_each(tcp::let_close_cleanly);
        }
        begun
    }
}

/// Collects a ClientHello as it arrives.
#[derive(Default)]
pub struct ClientHelloReader {
    reader: RecordReader,
    bytes: Vec<u8>,
}

impl ClientHelloReader {
    /// Takes the bytes that have arrived; `None` while the hello is incomplete.
    pub fn feed(&mut self, more: &[u8]) -> Result<Option<ClientHello>, HelloReadError> {
        self.bytes.extend_from_slice(more);
        if self.bytes.len() >= HELLO_BYTES_MAX {
            return Err(HelloReadError::TooLong);
        }
        let name = self.reader.feed(more)?;
        Ok(name.map(|name| ClientHello { name, bytes: std::mem::take(&mut self.bytes) }))
    }
}

/// Tells a client that no service here has the name it asks for.
pub async fn refuse_name(stream: &mut TcpStream) {
    send_alert(stream, &UNRECOGNISED).await;
}

/// Tells a client that the service it asks for is not available now.
pub async fn refuse_service(stream: &mut TcpStream) {
    send_alert(stream, &INTERNAL).await;
}

/// Sends a last alert to a client that is not served, without waiting for it to be read.
async fn send_alert(stream: &mut TcpStream, alert: &[u8]) {
    tcp::let_close_cleanly(stream);
    let _ = stream.write_all(alert).await;
}
