//! A WebSocket with a client, seen as a stream of bytes (RFC 6455): what its messages hold goes up,
//! whatever their kind and cut; what comes down goes in binary messages.
//!
//! The client's close frame is an end of its direction, and ours is sent at the end of the other. A
//! client that breaks the rules is told why by a close code before the connection goes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Sink, Stream as _};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Bytes, Error, Message,
        error::{CapacityError, ProtocolError},
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{stream::Stream, tcp};

/// Allocated at once for each WebSocket; most are idle.
const READ_BUFFER: usize = 4 * 1024;
/// The longest message that goes down.
const MESSAGE: usize = 64 * 1024;
/// A message that could not be written, and frames that answer the client's.
const WRITE_BUFFER_MAX: usize = 2 * MESSAGE;
/// A client answers a close frame in this time, or brings more meanwhile.
const CLOSE: Duration = Duration::from_secs(5);
/// A client that has been told why it is closed gets so long to hear it.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a WebSocket of one service may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub message: usize,
    pub inactivity: Option<Duration>,
}

#[derive(Debug)]
pub struct WebSocket {
    inner: WebSocketStream<Stream>,
    /// What is left of a message that was read.
    left: Bytes,
    watch: Option<Watch>,
    step: Step,
}

/// open → heard the client's close; or open → failing → failed
#[derive(Debug)]
enum Step {
    Open,
    /// We have said that no more comes from the backend.
    Ended,
    /// The client has closed.
    Closed,
    /// The client is told why it is closed, and given time to hear it.
    Failing {
        why: String,
        until: Pin<Box<Sleep>>,
    },
    Failed,
}

/// Asks a silent client whether it is there, and knows when it is not.
#[derive(Debug)]
struct Watch {
    inactivity: Duration,
    heard: Instant,
    is_asked: bool,
    timer: Pin<Box<Sleep>>,
}

impl Watch {
    fn new(inactivity: Duration) -> Self {
        Self { inactivity, heard: Instant::now(), is_asked: false, timer: Box::pin(sleep(inactivity / 2)) }
    }
}

impl WebSocket {
    /// Takes over a connection whose upgrade was granted; `read` was read behind the request.
    pub async fn begin(stream: Stream, read: Vec<u8>, limits: Limits) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER_MAX)
            .max_message_size(Some(limits.message))
            .max_frame_size(Some(limits.message));
        let inner = WebSocketStream::from_partially_read(stream, read, Role::Server, Some(config)).await;
        let watch = limits.inactivity.map(Watch::new);
        Self { inner, left: Bytes::new(), watch, step: Step::Open }
    }

    /// The socket below, where there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        self.inner.get_ref().tcp()
    }

    /// Reads until a message has brought bytes; none: the client has closed.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        loop {
            match &mut self.step {
                Step::Closed => return Poll::Ready(Ok(Bytes::new())),
                Step::Failed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Step::Failing { .. } => return self.poll_farewell(cx).map(Err),
                Step::Open | Step::Ended => {}
            }
            if let Some(watch) = &mut self.watch
                && watch.timer.as_mut().poll(cx).is_ready()
            {
                self.look()?;
                continue;
            }
            let message = match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    self.fail(error)?;
                    continue;
                }
                None => return Poll::Ready(Err(without_close())),
            };
            if let Some(watch) = &mut self.watch {
                watch.heard = Instant::now();
                watch.is_asked = false;
            }
            match message {
                Message::Binary(bytes) if !bytes.is_empty() => return Poll::Ready(Ok(bytes)),
                Message::Text(text) if !text.is_empty() => return Poll::Ready(Ok(text.into())),
                Message::Close(_) => {
                    // The answer goes out with the next poll; what it meets is of no interest any more.
                    let _ = Pin::new(&mut self.inner).poll_flush(cx);
                    self.step = Step::Closed;
                }
                Message::Binary(_)
                | Message::Text(_)
                | Message::Ping(_)
                | Message::Pong(_)
                | Message::Frame(_) => {}
            }
        }
    }

    /// The time to ask, or to give up, has come, unless something was heard meanwhile.
    fn look(&mut self) -> io::Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let now = Instant::now();
        let (ask_at, end_at) = (watch.heard + watch.inactivity / 2, watch.heard + watch.inactivity);
        if now >= end_at {
            let what = format!("nothing was heard for {}", humantime::format_duration(watch.inactivity));
            return Err(io::Error::new(io::ErrorKind::TimedOut, what));
        }
        // Behind a close frame nothing is sent any more.
        let may_ask = matches!(self.step, Step::Open) && !watch.is_asked;
        let is_due = may_ask && now >= ask_at;
        watch.is_asked |= is_due;
        watch.timer.as_mut().reset(if may_ask && !is_due { ask_at } else { end_at });
        if is_due {
            self.send(Message::Ping(Bytes::new()))?;
        }
        Ok(())
    }

    fn send(&mut self, message: Message) -> io::Result<()> {
        Pin::new(&mut self.inner).start_send(message).map_err(io_error)
    }

    /// Tells the client why it is closed, where it is the client that broke a rule.
    fn fail(&mut self, error: Error) -> io::Result<()> {
        let code = match &error {
            Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseCode::Size,
            Error::Utf8(_) => CloseCode::Invalid,
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return Err(without_close()),
            Error::Protocol(_) => CloseCode::Protocol,
            _ => return Err(io_error(error)),
        };
        let frame = CloseFrame { code, reason: "".into() };
        // Where it can not be told any more, it need not be.
        let _ = self.send(Message::Close(Some(frame)));
        let why = format!("WebSocket: {error}");
        self.step = Step::Failing { why, until: Box::pin(sleep(FAREWELL)) };
        Ok(())
    }

    /// Sends what there is to send, then reads and forgets, so that no reset overtakes it.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Step::Failing { why, until } = &mut self.step else { return Poll::Pending };
        let is_late = until.as_mut().poll(cx).is_ready();
        if !is_late {
            if Pin::new(&mut self.inner).poll_flush(cx).is_pending() {
                return Poll::Pending;
            }
            let socket = self.inner.get_mut();
            if Pin::new(&mut *socket).poll_shutdown(cx).is_pending() {
                return Poll::Pending;
            }
            let mut scratch = [0; READ_BUFFER];
            loop {
                let mut buf = ReadBuf::new(&mut scratch);
                match Pin::new(&mut *socket).poll_read(cx, &mut buf) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                    Poll::Ready(_) => break,
                }
            }
        }
        let error = io::Error::new(io::ErrorKind::InvalidData, std::mem::take(why));
        if let Some(socket) = self.tcp() {
            tcp::let_close_cleanly(socket);
        }
        self.step = Step::Failed;
        Poll::Ready(error)
    }
}

fn without_close() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without a close frame")
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::other(other),
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            this.left = ready!(this.poll_message(cx))?;
        }
        let count = this.left.len().min(buf.remaining());
        buf.put_slice(&this.left.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if matches!(this.step, Step::Closed | Step::Failing { .. } | Step::Failed) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(Pin::new(&mut this.inner).poll_ready(cx)).map_err(io_error)?;
        let count = bytes.len().min(MESSAGE);
        this.send(Message::Binary(Bytes::copy_from_slice(&bytes[..count])))?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.step, Step::Open) {
            ready!(Pin::new(&mut this.inner).poll_ready(cx)).map_err(io_error)?;
            this.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })))?;
            this.step = Step::Ended;
            let watch = this.watch.insert(Watch::new(CLOSE));
            // So that it wakes the session; it is new.
            let _ = watch.timer.as_mut().poll(cx);
        }
        // An answered close frame leaves nothing to be said.
        match ready!(Pin::new(&mut this.inner).poll_flush(cx)) {
            Err(Error::ConnectionClosed) | Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(io_error(error))),
        }
    }
}
