//! The first message of TLS, read before it is known who answers it: the name that the client asks
//! for decides. What was read is kept, so that the connection can be passed on as it came.

use std::io;

use rustls::server::{Accepted, Acceptor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::StartHandshake;

use super::{ahead::ReadAhead, tcp};

/// A ClientHello is at most 64 KiB (rustls's bound), and its records add five bytes each; a client
/// that cuts it into records of a byte each is no client.
const HELLO_BYTES_MAX: usize = 72 * 1024;
/// One with a post-quantum key share has about 1,800 bytes.
const READ_BYTES: usize = 4 * 1024;
/// The first byte of a record that a handshake begins with (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// A fatal alert, `unrecognized_name` (RFC 6066, section 3).
const UNRECOGNISED: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A ClientHello.
pub struct Hello {
    accepted: Accepted,
    said: Vec<u8>,
}

impl Hello {
    /// Reads one, over however many segments and records it comes.
    /// Some of it may be `said` already.
    pub async fn read(stream: &mut TcpStream, mut said: Vec<u8>) -> Result<Self, String> {
        let mut acceptor = Acceptor::default();
        let mut before = 0;
        loop {
            if said.len() == before {
                said.reserve(READ_BYTES);
                match stream.read_buf(&mut said).await {
                    Ok(0) => return Err("it left before it had said hello".into()),
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            match take(&mut acceptor, &said[before..]) {
                Ok(Some(accepted)) => return Ok(Self { accepted, said }),
                Ok(None) if said.len() < HELLO_BYTES_MAX => before = said.len(),
                Ok(None) => return Err(format!("its hello is longer than {HELLO_BYTES_MAX} bytes")),
                Err((why, alert)) => {
                    tell(stream, &alert).await;
                    return Err(match said[0] {
                        HANDSHAKE => why,
                        first => format!("it does not speak TLS: its first byte is {first:#04x}"),
                    });
                }
            }
        }
    }

    /// The name that the client asks for, in lower case.
    pub fn name(&self) -> Option<String> {
        self.accepted.client_hello().server_name().map(str::to_ascii_lowercase)
    }

    /// The bytes as they came, and perhaps some behind them.
    pub fn into_said(self) -> Vec<u8> {
        self.said
    }

    pub(super) fn begin(self, stream: TcpStream) -> StartHandshake<ReadAhead> {
        StartHandshake::from_parts(self.accepted, ReadAhead::new(stream))
    }
}

/// Hands the acceptor what was read; the alert of a failure.
fn take(acceptor: &mut Acceptor, mut bytes: &[u8]) -> Result<Option<Accepted>, (String, Vec<u8>)> {
    while !bytes.is_empty() {
        acceptor.read_tls(&mut bytes).map_err(|error: io::Error| (error.to_string(), Vec::new()))?;
        match acceptor.accept() {
            Ok(None) => {}
            Ok(accepted) => return Ok(accepted),
            Err((error, mut alert)) => {
                let mut told = Vec::new();
                // Writing to memory can not fail.
                let _ = alert.write_all(&mut told);
                return Err((error.to_string(), told));
            }
        }
    }
    Ok(None)
}

/// Tells a client that nobody here has the name it asks for.
pub async fn refuse_name(stream: &mut TcpStream) {
    tell(stream, &UNRECOGNISED).await;
}

/// A last word to a client that is not served; whether it is heard is the client's affair.
async fn tell(stream: &mut TcpStream, alert: &[u8]) {
    tcp::let_close_cleanly(stream);
    let _ = stream.write_all(alert).await;
}
