//! The first message of TLS, read before it is known who answers it: the name that the client asks
//! for decides. What was read is kept, so that the connection can be passed on as it came.

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
/// The same, `internal_error` (RFC 8446, section 6.2).
const INTERNAL: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// A ClientHello.
pub struct Hello {
    accepted: Accepted,
    said: Vec<u8>,
}

impl Hello {
    /// Reads one, over however many segments and records it comes.
    /// Some of it may be `said` already.
    pub async fn read(stream: &mut TcpStream, said: Vec<u8>) -> Result<Self, String> {
        let (mut reader, mut more) = (Reader::default(), said);
        loop {
            match reader.hear(&more) {
                Ok(Some(hello)) => return Ok(hello),
                Ok(None) => {}
                Err(Refused { why, alert }) => {
                    tell(stream, &alert).await;
                    return Err(why);
                }
            }
            more.clear();
            more.reserve(READ_BYTES);
            match stream.read_buf(&mut more).await {
                Ok(0) => return Err("it left before it had said hello".into()),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
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

/// Takes a ClientHello in, as it comes.
#[derive(Default)]
pub struct Reader {
    acceptor: Acceptor,
    said: Vec<u8>,
}

/// Why what was said is no ClientHello, and the alert that tells so.
#[derive(Debug)]
pub struct Refused {
    pub why: String,
    pub alert: Vec<u8>,
}

impl Reader {
    /// Hears what has come; `None` while a hello is not complete.
    pub fn hear(&mut self, mut more: &[u8]) -> Result<Option<Hello>, Refused> {
        self.said.extend_from_slice(more);
        if self.said.len() >= HELLO_BYTES_MAX {
            let why = format!("its hello is longer than {HELLO_BYTES_MAX} bytes");
            return Err(Refused { why, alert: Vec::new() });
        }
        while !more.is_empty() {
            let read = self.acceptor.read_tls(&mut more);
            read.map_err(|error| Refused { why: error.to_string(), alert: Vec::new() })?;
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    return Ok(Some(Hello { accepted, said: std::mem::take(&mut self.said) }));
                }
                Err((error, mut alert)) => {
                    let mut told = Vec::new();
                    // Writing to memory can not fail.
                    let _ = alert.write_all(&mut told);
                    let why = match self.said[0] {
                        HANDSHAKE => error.to_string(),
                        first => format!("it does not speak TLS: its first byte is {first:#04x}"),
                    };
                    return Err(Refused { why, alert: told });
                }
            }
        }
        Ok(None)
    }
}

/// Tells a client that nobody here has the name it asks for.
pub async fn refuse_name(stream: &mut TcpStream) {
    tell(stream, &UNRECOGNISED).await;
}

/// Tells a client that the service it asks for can not be served now.
pub async fn refuse_service(stream: &mut TcpStream) {
    tell(stream, &INTERNAL).await;
}

/// A last word to a client that is not served; whether it is heard is the client's affair.
async fn tell(stream: &mut TcpStream, alert: &[u8]) {
    tcp::let_close_cleanly(stream);
    let _ = stream.write_all(alert).await;
}
