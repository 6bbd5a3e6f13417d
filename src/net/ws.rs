//! A client's WebSocket as a stream of bytes (RFC 6455). Towards the backend go the payloads of its messages,
//! whatever their type and fragmentation. Towards the client, bytes are sent in binary messages, or in text
//! messages if the profile says so.
//!
//! The client's close frame ends its direction. Ours is sent when the backend's direction has ended, after
//! everything the backend has sent. A client that breaks the protocol gets a close code with the reason
//! before its connection is closed.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, sleep_until},
};

use super::{certificate_watch::RevocationSignal, prefixed::PrefixedStream, tcp, timeout::TimeoutError};
use crate::{
    profile::MessageKind,
    proto::ws::{
        FramePosition, FrameSource, Masking, Opcode, Utf8Check, WebSocketDecoder, WebSocketEnd,
        WebSocketFrameHead, push_frame,
    },
};

/// The longest message to the client.
const MESSAGE: usize = 64 * 1024;
/// While this many bytes wait for the client, nothing is read that might need an answer.
const OUT_MAX: usize = 2 * MESSAGE;
/// The client must answer a close frame within this time, or send more meanwhile. The same applies to the
/// backend's end after the client's close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client gets to read the reason why it is closed.
pub(super) const CLOSE_REASON_GRACE_PERIOD: Duration = Duration::from_secs(1);
/// How much is read at once from a client whose bytes are discarded.
pub(super) const DISCARD_BUFFER_BYTES: usize = 4 * 1024;
/// Codes of our close frames: a normal end; and the backend did not end.
const NORMAL: u16 = 1000;
const AWAY: u16 = 1001;
/// The client may not continue (RFC 6455, section 7.4.1).
const POLICY: u16 = 1008;
/// We cannot continue.
const INTERNAL: u16 = 1011;

/// The limits and settings of one service's WebSockets.
#[derive(Debug, Clone, Copy)]
pub struct WebSocketLimits {
    pub message: usize,
    pub inactivity: Option<Duration>,
    /// The kind of messages to the client.
    pub frames: MessageKind,
    /// When the client is closed, because the proof of its identity expires.
    pub expires: Option<Instant>,
}

/// The error for backend bytes that are not text where they must be.
#[derive(Debug, Error)]
#[error("the backend's bytes are not UTF-8, but `frames` is `text`")]
pub struct NotUtf8;

impl NotUtf8 {
    pub fn is_cause_of(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Self>())
    }
}

/// The kind of frame that comes next towards the client.
#[derive(Debug, Clone)]
enum NextFrame {
    /// Each is a whole message.
    Binary,
    /// Part of a message that lasts to the end of a character.
    Text(Utf8Check),
}

impl NextFrame {
    /// The kind of a frame with these bytes, its place in its message, and what comes next.
    fn frame(&self, bytes: &[u8]) -> Result<(Opcode, FramePosition, Self), NotUtf8> {
        match self {
            Self::Binary => Ok((Opcode::Binary, FramePosition::Last, Self::Binary)),
            Self::Text(text) => {
                let kind = if text.is_cut() { Opcode::More } else { Opcode::Text };
                let mut text = text.clone();
                text.feed(bytes).map_err(|_| NotUtf8)?;
                let position = if text.is_cut() { FramePosition::BeforeLast } else { FramePosition::Last };
                Ok((kind, position, Self::Text(text)))
            }
        }
    }

    fn is_cut(&self) -> bool {
        matches!(self, Self::Text(text) if text.is_cut())
    }
}

#[derive(Debug)]
pub struct WebSocket {
    /// With the bytes that were read after the request.
    stream: PrefixedStream,
    decoder: WebSocketDecoder,
    /// Frames, or the rest of one, that the client has yet to take, and how much of that it has taken.
    out: Vec<u8>,
    taken: usize,
    /// Whether something of our own, which no writer knows about, still has to be sent.
    answers: bool,
    watch: Option<Box<InactivityTimer>>,
    expiry: Option<Pin<Box<Sleep>>>,
    step: WebSocketState,
    next: NextFrame,
}

/// ```text
/// open ─► we closed ─────► both closed
///      └► they closed ─┘
/// any  ─► failing ─► failed
/// ```
#[derive(Debug)]
enum WebSocketState {
    Open,
    /// We have said that no more comes from the backend.
    WeClosed,
    /// The client has said that no more comes from it, with this code.
    TheyClosed(Option<u16>),
    BothClosed,
    /// The client gets the reason for the close, and time to read it.
    Failing(Option<io::Error>),
    Failed,
}

/// When to check for inactivity, and since when there is a reason to.
#[derive(Debug)]
struct InactivityTimer {
    patience: Duration,
    since: Instant,
    is_asked: bool,
    timer: Pin<Box<Sleep>>,
}

impl InactivityTimer {
    fn new(patience: Duration, first: Duration) -> Box<Self> {
        Box::new(Self { patience, since: Instant::now(), is_asked: false, timer: Box::pin(sleep(first)) })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().poll(cx)
    }

    fn set(&mut self, at: Instant) {
        self.timer.as_mut().reset(at);
    }
}

impl WebSocket {
    /// Takes over a connection whose upgrade was granted, with the bytes that were read after the request.
    pub fn new(stream: PrefixedStream, limits: WebSocketLimits) -> Self {
        let watch = limits.inactivity.map(|inactivity| InactivityTimer::new(inactivity, inactivity / 2));
        let decoder = WebSocketDecoder::new(FrameSource::Client { message_max: limits.message });
        let next = match limits.frames {
            MessageKind::Binary => NextFrame::Binary,
            MessageKind::Text => NextFrame::Text(Utf8Check::default()),
        };
        Self {
            stream,
            decoder,
            out: Vec::new(),
            taken: 0,
            answers: false,
            watch,
            expiry: limits.expires.map(|at| Box::pin(sleep_until(at))),
            step: WebSocketState::Open,
            next,
        }
    }

    /// The socket below, if there is one.
    pub fn tcp(&self) -> Option<&TcpStream> {
        self.stream.stream.tcp()
    }

    pub fn revocation(&self) -> RevocationSignal {
        self.stream.stream.revocation()
    }

    /// Continues while the client has closed and is no longer read: discards what it sends, and does not wait
    /// forever for the backend, or for the client to take what the backend has sent.
    pub fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let (WebSocketState::TheyClosed(_) | WebSocketState::BothClosed, Some(watch)) =
            (&self.step, &mut self.watch)
        {
            if watch.poll(cx).is_pending() {
                return match self.poll_discard(cx) {
                    // Only TCP has ended; the client may still read.
                    Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                        Poll::Ready(error)
                    }
                    Poll::Ready(_) | Poll::Pending => Poll::Pending,
                };
            }
            let seconds = CLOSE_TIMEOUT.as_secs();
            self.fail(AWAY, TimeoutError::EndOfBackend { seconds }.into());
        }
        if matches!(self.step, WebSocketState::Failing(_)) {
            self.poll_lingering_close(cx)
        } else {
            Poll::Pending
        }
    }

    /// Reads until messages have produced bytes; if none, the client has closed.
    fn poll_data(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        self.check_expiry(cx);
        loop {
            match self.step {
                WebSocketState::TheyClosed(_) | WebSocketState::BothClosed => return Poll::Ready(Ok(())),
                WebSocketState::Failed => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                WebSocketState::Failing(_) => return self.poll_lingering_close(cx).map(Err),
                WebSocketState::Open | WebSocketState::WeClosed => {}
            }
            if self.answers {
                let sent = self.poll_flushed(cx);
                self.answers = sent.is_pending();
                if let Poll::Ready(Err(_)) = sent {
                    // The error appears with somebody else's next write, and here after everything there is to
                    // read.
                    (self.out, self.taken) = (Vec::new(), 0);
                }
                if self.answers && self.out.len() >= OUT_MAX {
                    return Poll::Pending;
                }
            }
            match Pin::new(&mut self.stream).poll_read(cx, buf)? {
                Poll::Ready(()) if buf.filled().len() == before => return Poll::Ready(Err(without_close())),
                Poll::Ready(()) => {}
                Poll::Pending => match self.poll_inactivity(cx)? {
                    Poll::Ready(()) => continue,
                    Poll::Pending => return Poll::Pending,
                },
            }
            if let Some(watch) = &mut self.watch {
                (watch.since, watch.is_asked) = (Instant::now(), false);
            }
            let (staged, wire) = (self.out.len(), &mut buf.filled_mut()[before..]);
            let received = self.decoder.decode(wire, &mut self.out);
            buf.set_filled(before + received);
            self.answers |= self.out.len() > staged;
            match self.decoder.end() {
                Some(WebSocketEnd::Closed(code)) => self.handle_close(cx, code),
                Some(WebSocketEnd::Broken(breach)) => {
                    let why = io::Error::new(io::ErrorKind::InvalidData, format!("WebSocket: {breach}"));
                    self.fail(breach.code(), why);
                }
                None => {}
            }
            if received > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Closes a client whose time is over, unless it is already being closed.
    fn check_expiry(&mut self, cx: &mut Context<'_>) {
        let is_over = self.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(cx).is_ready());
        if is_over {
            self.expiry = None;
            if matches!(self.step, WebSocketState::Open | WebSocketState::WeClosed) {
                self.fail(POLICY, TimeoutError::TokenExpired.into());
            }
        }
    }

    fn handle_close(&mut self, cx: &mut Context<'_>, code: Option<u16>) {
        if matches!(self.step, WebSocketState::WeClosed) {
            (self.step, self.watch) = (WebSocketState::BothClosed, None);
            // Ends TLS; whether the client notices is up to it.
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
            return;
        }
        self.step = WebSocketState::TheyClosed(code);
        self.start_close_timer(cx);
    }

    /// From now on the other side has to end as well.
    fn start_close_timer(&mut self, cx: &mut Context<'_>) {
        let watch = self.watch.insert(InactivityTimer::new(CLOSE_TIMEOUT, CLOSE_TIMEOUT));
        // This registers the new timer, so that it wakes the session.
        let _ = watch.poll(cx);
    }

    /// When it is time, asks a silent client whether it is there, and gives it up.
    fn poll_inactivity(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(watch) = &mut self.watch else { return Poll::Pending };
        ready!(watch.poll(cx));
        let now = Instant::now();
        let (ask_at, end_at) = (watch.since + watch.patience / 2, watch.since + watch.patience);
        if now >= end_at {
            let what = format!("nothing was heard for {}", humantime::format_duration(watch.patience));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)));
        }
        // After a close frame, nothing more is sent.
        let may_ask = matches!(self.step, WebSocketState::Open) && !watch.is_asked;
        let is_due = may_ask && now >= ask_at;
        watch.is_asked |= is_due;
        watch.set(if may_ask && !is_due { ask_at } else { end_at });
        if is_due {
            push_frame(&mut self.out, Opcode::Ping, b"", Masking::None);
            self.answers = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the client why it is closed.
    fn fail(&mut self, code: u16, why: io::Error) {
        push_frame(&mut self.out, Opcode::Close, &code.to_be_bytes(), Masking::None);
        self.watch = Some(InactivityTimer::new(CLOSE_REASON_GRACE_PERIOD, CLOSE_REASON_GRACE_PERIOD));
        self.step = WebSocketState::Failing(Some(why));
    }

    fn fail_text(&mut self, cx: &mut Context<'_>, why: NotUtf8) -> Poll<io::Error> {
        self.fail(INTERNAL, io::Error::new(io::ErrorKind::InvalidData, why));
        self.poll_lingering_close(cx)
    }

    /// Sends what there is to send, then reads and discards, so that no reset overtakes it.
    fn poll_lingering_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let is_late = self.watch.as_mut().is_none_or(|watch| watch.poll(cx).is_ready());
        if !is_late {
            if self.poll_flushed(cx).is_pending() || Pin::new(&mut self.stream).poll_shutdown(cx).is_pending()
            {
                return Poll::Pending;
            }
            if self.poll_discard(cx).is_pending() {
                return Poll::Pending;
            }
        }
        if let Some(socket) = self.tcp() {
            tcp::let_close_cleanly(socket);
        }
        let WebSocketState::Failing(Some(why)) = std::mem::replace(&mut self.step, WebSocketState::Failed)
        else {
            return Poll::Ready(io::ErrorKind::BrokenPipe.into());
        };
        Poll::Ready(why)
    }

    /// Reads to the end of the connection.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut discard_buffer = [0; DISCARD_BUFFER_BYTES];
        loop {
            let mut buf = ReadBuf::new(&mut discard_buffer);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Writes what waits here, and frees the memory.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.out.len() {
            let written = Pin::new(&mut self.stream).poll_write(cx, &self.out[self.taken..]);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.taken += count,
            }
        }
        (self.out, self.taken) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

fn without_close() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without a close frame")
}

impl AsyncRead for WebSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_data(cx, buf)
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match this.step {
            WebSocketState::WeClosed | WebSocketState::BothClosed | WebSocketState::Failed => {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            WebSocketState::Failing(_) => return this.poll_lingering_close(cx).map(Err),
            WebSocketState::Open | WebSocketState::TheyClosed(_) => {}
        }
        ready!(this.poll_out(cx))?;
        let bytes = &bytes[..bytes.len().min(MESSAGE)];
        let (kind, position, next) = match this.next.frame(bytes) {
            Ok(frame) => frame,
            Err(why) => return this.fail_text(cx, why).map(Err),
        };
        let head = WebSocketFrameHead::new(kind, position, bytes.len(), Masking::None);
        let (head, length) = (head.as_bytes(), head.as_bytes().len());
        let frame = [IoSlice::new(head), IoSlice::new(bytes)];
        let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, &frame))?;
        this.next = next;
        // What was begun is kept; the next write waits until it has been sent.
        this.out.extend_from_slice(&head[written.min(length)..]);
        this.out.extend_from_slice(&bytes[written.saturating_sub(length)..]);
        if let (WebSocketState::TheyClosed(_), Some(watch)) = (&this.step, &mut this.watch) {
            watch.set(Instant::now() + CLOSE_TIMEOUT);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.step, WebSocketState::Failing(_)) {
            this.poll_lingering_close(cx).map(Err)
        } else {
            this.poll_flushed(cx)
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.step, WebSocketState::Open | WebSocketState::TheyClosed(_)) && this.next.is_cut() {
            return this.fail_text(cx, NotUtf8).map(Err);
        }
        match this.step {
            WebSocketState::Open => {
                push_frame(&mut this.out, Opcode::Close, &NORMAL.to_be_bytes(), Masking::None);
                this.step = WebSocketState::WeClosed;
                this.start_close_timer(cx);
            }
            WebSocketState::TheyClosed(code) => {
                let body = code.map(u16::to_be_bytes);
                push_frame(
                    &mut this.out,
                    Opcode::Close,
                    body.as_ref().map_or(&[], |code| code),
                    Masking::None,
                );
                this.step = WebSocketState::BothClosed;
            }
            WebSocketState::Failing(_) => return this.poll_lingering_close(cx).map(Err),
            WebSocketState::WeClosed | WebSocketState::BothClosed | WebSocketState::Failed => {}
        }
        ready!(this.poll_flushed(cx))?;
        match this.step {
            WebSocketState::BothClosed => Pin::new(&mut this.stream).poll_shutdown(cx),
            WebSocketState::Open
            | WebSocketState::WeClosed
            | WebSocketState::TheyClosed(_)
            | WebSocketState::Failing(_)
            | WebSocketState::Failed => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::{net::stream::NetStream, tests::happens_after};

    #[tokio::test(start_paused = true)]
    async fn behind_a_close_the_backend_may_go_on_and_not_be_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let mut client = client.expect("it connects");
        let limits =
            WebSocketLimits { message: 1024, inactivity: None, frames: MessageKind::Binary, expires: None };
        let stream = NetStream::Tcp(accepted.expect("it connects").0);
        let mut socket = WebSocket::new(PrefixedStream { prefix: b"\x88"[..].into(), stream }, limits);
        client.write_all(b"\x80\0\0\0\0").await.expect("it is taken");
        assert_eq!(socket.read(&mut [0; 8]).await.expect("an end"), 0);
        for _ in 0..4 {
            tokio::time::advance(CLOSE_TIMEOUT * 3 / 4).await;
            assert!(poll_fn(|cx| Poll::Ready(socket.poll_control(cx).is_pending())).await);
            socket.write_all(b"more").await.expect("it is taken");
        }
        // Then the client gets a close frame, which does not wait for it either.
        let failing = poll_fn(|cx| socket.poll_control(cx));
        let error = happens_after(CLOSE_TIMEOUT + CLOSE_REASON_GRACE_PERIOD, failing).await;
        assert!(error.get_ref().is_some_and(|inner| inner.is::<TimeoutError>()), "{error}");
    }
}
