//! The HTTP request that a WebSocket begins with, read strictly by hyper and granted or turned away.

use std::{
    convert::Infallible,
    future::ready,
    io,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use hyper::{
    Request, Response, StatusCode, Version,
    body::{Bytes, Incoming},
    header::{self, HeaderMap, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use super::stream::Stream;

/// A request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What a request says of whom it means.
#[derive(Debug)]
pub struct Asked<'a> {
    /// In lower case, without its port.
    pub host: &'a str,
    pub path: &'a str,
    pub origin: Option<&'a str>,
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    NotFound,
    /// Its page may not open a WebSocket here.
    Origin,
}

/// Reads one request for a WebSocket; what `pick` makes of it, and the connection behind it.
pub async fn upgrade<T: Send>(
    stream: Stream,
    said: Vec<u8>,
    pick: impl Fn(&Asked<'_>) -> Result<T, Turned>,
) -> Result<(T, Stream, Vec<u8>), String> {
    let granted: Mutex<Option<(T, OnUpgrade)>> = Mutex::new(None);
    let why = Mutex::new("it left before it had asked for a WebSocket".to_owned());
    let service = service_fn(|mut request: Request<Incoming>| {
        let response = match answer(&request, &pick) {
            Ok((picked, response)) => {
                let upgraded = hyper::upgrade::on(&mut request);
                *granted.lock().unwrap_or_else(PoisonError::into_inner) = Some((picked, upgraded));
                response
            }
            Err((status, told)) => {
                *why.lock().unwrap_or_else(PoisonError::into_inner) = format!("{status}: {told}");
                refusal(status, told)
            }
        };
        ready(Ok::<_, Infallible>(response))
    });
    let served = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Rewound { said: said.into(), stream }), service)
        .with_upgrades()
        .await;
    let granted = granted.into_inner().unwrap_or_else(PoisonError::into_inner);
    let Some((picked, upgraded)) = granted else {
        let why = why.into_inner().unwrap_or_else(PoisonError::into_inner);
        return Err(served.err().map_or(why, |error| format!("its request is none: {error}")));
    };
    let upgraded = upgraded.await.map_err(|error| error.to_string())?;
    let parts = upgraded.downcast::<TokioIo<Rewound>>().map_err(|_| "its connection was lost".to_owned())?;
    let Rewound { said, stream } = parts.io.into_inner();
    Ok((picked, stream, [parts.read_buf, said].concat()))
}

/// A connection of which some has been read already.
#[derive(Debug)]
struct Rewound {
    said: Bytes,
    stream: Stream,
}

impl AsyncRead for Rewound {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.said.is_empty() {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let count = this.said.len().min(buf.remaining());
        buf.put_slice(&this.said.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

type Answer = Response<String>;

fn answer<T>(
    request: &Request<Incoming>,
    pick: &impl Fn(&Asked<'_>) -> Result<T, Turned>,
) -> Result<(T, Answer), (StatusCode, &'static str)> {
    let bad = |told| (StatusCode::BAD_REQUEST, told);
    let headers = request.headers();
    let host = one(headers, header::HOST).map_err(bad)?.ok_or(bad("there is no Host"))?;
    let host = without_port(host).to_ascii_lowercase();
    let origin = one(headers, header::ORIGIN).map_err(bad)?;
    let asked = Asked { host: &host, path: request.uri().path(), origin };
    let picked = pick(&asked).map_err(|turned| match turned {
        Turned::NotFound => (StatusCode::NOT_FOUND, "there is no such service"),
        Turned::Origin => (StatusCode::FORBIDDEN, "this page may not open a WebSocket here"),
    })?;
    if headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(bad("a WebSocket begins without a body"));
    }
    if request.uri().authority().is_some() || request.version() != Version::HTTP_11 {
        return Err(bad("a WebSocket begins with a path and HTTP/1.1"));
    }
    let version = one(headers, header::SEC_WEBSOCKET_VERSION).map_err(bad)?;
    if version != Some("13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "a WebSocket of version 13 is served here"));
    }
    let key = one(headers, header::SEC_WEBSOCKET_KEY).map_err(bad)?;
    if key.is_none_or(|key| key.len() != 24) {
        return Err(bad("Sec-WebSocket-Key is none"));
    }
    let protocol = protocol(headers).map_err(bad)?;
    let mut response = create_response_with_body(request, String::new)
        .map_err(|_| bad("the request is none for a WebSocket"))?;
    if let Some(protocol) = protocol {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok((picked, response))
}

/// The only value of a header that may stand once.
fn one(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, &'static str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(|value| value.to_str().map_err(|_| "a header is no text")).transpose()?;
    if values.next().is_some() { Err("a header stands there twice") } else { Ok(value) }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// The first subprotocol that the client offers: the backend's bytes are of whatever it speaks.
fn protocol(headers: &HeaderMap) -> Result<Option<HeaderValue>, &'static str> {
    let Some(offered) = headers.get(header::SEC_WEBSOCKET_PROTOCOL) else { return Ok(None) };
    let offered = offered.to_str().map_err(|_| "a header is no text")?;
    let first = offered.split(',').next().unwrap_or_default().trim();
    let is_token = !first.is_empty()
        && first.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    match HeaderValue::from_str(first) {
        Ok(first) if is_token => Ok(Some(first)),
        _ => Err("Sec-WebSocket-Protocol is no list of names"),
    }
}

fn refusal(status: StatusCode, told: &str) -> Answer {
    let mut response = Response::new(format!("{told}\n"));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}
