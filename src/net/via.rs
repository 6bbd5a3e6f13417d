//! Dials through a proxy: HTTP's CONNECT, or SOCKS5. Only the proxy is dialled; it finds the other end itself.
//! Errors use the proxy's own words, and never contain a password.

use std::{fmt::Write, io, net::IpAddr, time::Duration};

use data_encoding::BASE64;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    dial::{self, DialError},
    exhausted::ExhaustedResource,
};
use crate::profile::{HostPort, ProxyKind, ProxyLogin, ViaProxy};

mod socks5;

/// Once connected, a proxy must answer within this time, in which it dials itself.
pub const CONNECT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest head of an answer to CONNECT.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How many interim answers may come before the one that counts.
const INTERIM_MAX: usize = 8;
/// The longest text of a proxy that is shown.
const PROXY_TEXT_CHARS_MAX: usize = 80;

/// Why a connection through a proxy failed.
#[derive(Debug, Error)]
#[error("proxy {proxy}: {failure}")]
pub struct ViaError {
    proxy: String,
    pub failure: ViaErrorKind,
}

#[derive(Debug, Error)]
pub enum ViaErrorKind {
    #[error("{0}")]
    Dial(DialError),
    #[error("no answer within {}s", CONNECT_RESPONSE_TIMEOUT.as_secs())]
    Late,
    #[error("it closed the connection before it answered")]
    Closed,
    #[error("{0}")]
    Io(io::Error),
    #[error("it requires a login ({0}); write them into a file, and name it in `via_credentials`")]
    NoLogin(String),
    #[error("it rejected the credentials in `via_credentials` ({0})")]
    BadLogin(String),
    #[error("it asks for `{0}`; `via_credentials` is for `Basic` alone")]
    OtherLogin(String),
    #[error(
        "it accepts neither the name and password of `via_credentials` nor a client without a login ({0})"
    )]
    NoMethodFits(String),
    #[error("it refuses to connect to {to}: {message}")]
    Refused { to: HostPort, message: String },
    #[error("it cannot reach {to}: {message}")]
    Unreachable { to: HostPort, message: String },
    #[error("it answered with a web page ({0}) instead of a tunnel")]
    Page(String),
    #[error("it does not speak {expected}: its answer begins with {begins}")]
    OtherProtocol { expected: &'static str, begins: String },
    #[error("the head of its answer has more than {HEAD_BYTES_MAX} bytes")]
    LongHead,
    #[error("SOCKS5 carries names of at most 255 bytes")]
    LongName,
}

impl From<io::Error> for ViaErrorKind {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                Self::Closed
            }
            _ => Self::Io(error),
        }
    }
}

impl ViaError {
    /// Why the proxy was not reached, if that is the reason.
    pub fn dial_error(&self) -> Option<&DialError> {
        match &self.failure {
            ViaErrorKind::Dial(error) => Some(error),
            ViaErrorKind::Late
            | ViaErrorKind::Closed
            | ViaErrorKind::Io(_)
            | ViaErrorKind::NoLogin(_)
            | ViaErrorKind::BadLogin(_)
            | ViaErrorKind::OtherLogin(_)
            | ViaErrorKind::NoMethodFits(_)
            | ViaErrorKind::Refused { .. }
            | ViaErrorKind::Unreachable { .. }
            | ViaErrorKind::Page(_)
            | ViaErrorKind::OtherProtocol { .. }
            | ViaErrorKind::LongHead
            | ViaErrorKind::LongName => None,
        }
    }

    /// The resource that this process or host has run out of, if that is the reason.
    pub fn exhausted(&self) -> Option<ExhaustedResource> {
        self.dial_error()?.exhausted()
    }
}

/// Connects to `to` through a proxy. The proxy is dialled `within` this time, from one of our addresses if one
/// is given.
pub async fn dial_via(
    proxy: &ViaProxy,
    source: Option<IpAddr>,
    to: &HostPort,
    within: Duration,
) -> Result<TcpStream, ViaError> {
    let failed = |failure| ViaError { proxy: proxy.to_string(), failure };
    let dialled = dial::dial_from(source, &proxy.at, within).await;
    let mut stream = dialled.map_err(|error| failed(ViaErrorKind::Dial(error)))?;
    // The request is one segment, and so is what follows it.
    stream.set_nodelay(true).map_err(|error| failed(error.into()))?;
    let login = proxy.login.as_ref();
    let request = async {
        match proxy.kind {
            ProxyKind::Http => connect(&mut stream, to, login).await,
            ProxyKind::Socks5 => socks5::connect(&mut stream, to, login).await,
        }
    };
    match timeout(CONNECT_RESPONSE_TIMEOUT, request).await {
        Ok(Ok(())) => Ok(stream),
        Ok(Err(failure)) => Err(failed(failure)),
        Err(_) => Err(failed(ViaErrorKind::Late)),
    }
}

/// Sends CONNECT (RFC 9110, section 9.3.6).
async fn connect(
    stream: &mut TcpStream,
    to: &HostPort,
    login: Option<&ProxyLogin>,
) -> Result<(), ViaErrorKind> {
    let mut head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: portcullis\r\n");
    if let Some(ProxyLogin { user, password }) = login {
        let basic = BASE64.encode(format!("{user}:{password}").as_bytes());
        // Writing to a string does not fail.
        let _ = write!(head, "Proxy-Authorization: Basic {basic}\r\n");
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    for _ in 0..=INTERIM_MAX {
        let head = read_head(stream).await?;
        if !is_interim(&head) {
            return check_answer(&head, to, login);
        }
    }
    Err(ViaErrorKind::LongHead)
}

/// Whether another answer follows (RFC 9110, section 15.2).
fn is_interim(head: &[u8]) -> bool {
    let status = head.split(|byte| *byte == b' ').nth(1);
    status.is_some_and(|status| matches!(status, [b'1', _, _]) && status != b"101")
}

/// Reads up to the empty line and not a byte more: what follows belongs to the other end.
async fn read_head(stream: &mut TcpStream) -> Result<Vec<u8>, ViaErrorKind> {
    let (mut head, mut scratch) = (Vec::new(), [0; 2048]);
    loop {
        let count = stream.peek(&mut scratch).await?;
        if count == 0 {
            return Err(match head.is_empty() {
                true => ViaErrorKind::Closed,
                false => other_protocol("HTTP", &head),
            });
        }
        let before = head.len();
        head.extend_from_slice(&scratch[..count]);
        let is_http = head.iter().zip(b"HTTP/").all(|(byte, known)| byte == known);
        if !is_http {
            return Err(other_protocol("HTTP", &head));
        }
        let end = head.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        let taken = end.map_or(count, |end| end - before);
        stream.read_exact(&mut scratch[..taken]).await?;
        if let Some(end) = end {
            head.truncate(end);
            return Ok(head);
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(ViaErrorKind::LongHead);
        }
    }
}

fn check_answer(head: &[u8], to: &HostPort, login: Option<&ProxyLogin>) -> Result<(), ViaErrorKind> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut answer = httparse::Response::new(&mut fields);
    let status = match answer.parse(head) {
        Ok(httparse::Status::Complete(_)) => answer.code.unwrap_or_default(),
        Ok(httparse::Status::Partial) | Err(_) => return Err(other_protocol("HTTP", head)),
    };
    let field = |name: &str| {
        let fields = answer.headers.iter();
        fields.filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).next()
    };
    let message =
        escape_for_display(format!("{status} {}", answer.reason.unwrap_or_default()).trim().as_bytes());
    let has_body = field("content-length").is_some_and(|length| length != b"0");
    match status {
        200..=299 if has_body || field("content-type").is_some_and(|kind| kind.starts_with(b"text/")) => {
            Err(ViaErrorKind::Page(message))
        }
        200..=299 => Ok(()),
        407 => {
            let challenges =
                answer.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("proxy-authenticate"));
            let schemes: Vec<_> = challenges.map(|field| field.value).collect();
            let is_basic = |value: &&[u8]| value.len() >= 5 && value[..5].eq_ignore_ascii_case(b"basic");
            if !schemes.is_empty() && !schemes.iter().any(is_basic) {
                return Err(ViaErrorKind::OtherLogin(escape_for_display(schemes[0])));
            }
            let realm = schemes.iter().find(|value| is_basic(value)).map(|value| escape_for_display(value));
            let detail = realm.map_or(message.clone(), |realm| format!("{message}, {realm}"));
            Err(match login {
                None => ViaErrorKind::NoLogin(detail),
                Some(_) => ViaErrorKind::BadLogin(detail),
            })
        }
        502..=504 => Err(ViaErrorKind::Unreachable { to: to.clone(), message }),
        _ => Err(ViaErrorKind::Refused { to: to.clone(), message }),
    }
}

/// What a proxy says, in a form that is safe to show.
fn escape_for_display(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(PROXY_TEXT_CHARS_MAX).collect();
    text.escape_default().to_string().replace("\\\"", "\"").replace("\\'", "'")
}

fn other_protocol(expected: &'static str, received: &[u8]) -> ViaErrorKind {
    ViaErrorKind::OtherProtocol {
        expected,
        begins: format!("`{}`", escape_for_display(&received[..received.len().min(16)])),
    }
}

#[cfg(test)]
mod tests;
