//! A client's connection that a backend has upgraded. If it is a WebSocket and the proof of its client's identity
//! expires, the client gets a close frame with the reason before it is cut.
//!
//! Frames are passed on as they are, whatever extensions the two ends have agreed on. Only where those towards the
//! client end is followed, since the close frame has to stand between two of them. A control frame may stand
//! between the parts of a message (RFC 6455, section 5.5).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    prefixed::PrefixedStream,
    stream::NetStream,
    timeout::TimeoutError,
    ws::{CLOSE_REASON_GRACE_PERIOD, DISCARD_BUFFER_BYTES},
};
use crate::proto::frame_boundary::FrameBoundary;

/// A close frame with the code 1008: the client may not continue.
const CLOSE_FRAME: [u8; 4] = [0x88, 2, 0x03, 0xf0];

#[derive(Debug)]
pub struct ExpiringStream {
    stream: PrefixedStream,
    expiry: Option<Box<SocketExpiry>>,
}

#[derive(Debug)]
struct SocketExpiry {
    /// Follows what is sent to the client.
    frames: FrameBoundary,
    has_ended: bool,
    timer: Pin<Box<Sleep>>,
    step: ExpiryStep,
}

/// ```text
/// open ─► expired, within a frame ─► closing ─► over
///     └───────────────────────────┘
/// ```
#[derive(Debug, Clone, Copy)]
enum ExpiryStep {
    Open,
    /// The rest of a frame is still to be sent, within the time of the timer.
    WithinFrame,
    /// This much of the close frame is still to be sent; then the client has the time of the timer to read it.
    Closing(&'static [u8]),
    Over,
}

impl ExpiringStream {
    /// A connection that is closed at `expires`, if it is a WebSocket and has to be.
    pub fn new(stream: NetStream, expires: Option<Instant>) -> Self {
        let expiry = expires.map(|at| {
            Box::new(SocketExpiry {
                frames: FrameBoundary::default(),
                has_ended: false,
                timer: Box::pin(sleep_until(at)),
                step: ExpiryStep::Open,
            })
        });
        Self { stream: PrefixedStream { prefix: Bytes::new(), stream }, expiry }
    }

    /// Puts bytes that were read already in front.
    pub fn with_prefix(mut self, prefix: Bytes) -> Self {
        self.stream.prefix = prefix;
        self
    }

    /// Puts more bytes before those that were read already.
    pub fn add_prefix(&mut self, earlier: &[u8]) {
        self.stream.prefix = [earlier, &self.stream.prefix[..]].concat().into();
    }

    pub fn inner(&self) -> &NetStream {
        &self.stream.stream
    }
}

impl SocketExpiry {
    /// Closes the client when its time is over; the result is the error that ends the session.
    fn poll_close(&mut self, stream: &mut PrefixedStream, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            match self.step {
                ExpiryStep::Open => {
                    ready!(self.timer.as_mut().poll(cx));
                    self.timer.as_mut().reset(Instant::now() + CLOSE_REASON_GRACE_PERIOD);
                    self.step = ExpiryStep::WithinFrame;
                }
                ExpiryStep::WithinFrame if self.frames.is_between() => {
                    self.timer.as_mut().reset(Instant::now() + CLOSE_REASON_GRACE_PERIOD);
                    let may_send = !self.has_ended && !self.frames.has_closed();
                    self.step = ExpiryStep::Closing(if may_send { &CLOSE_FRAME } else { &[] });
                }
                ExpiryStep::WithinFrame => {
                    ready!(self.timer.as_mut().poll(cx));
                    self.step = ExpiryStep::Over;
                    return Poll::Ready(expired());
                }
                ExpiryStep::Closing(left) => {
                    let is_late = self.timer.as_mut().poll(cx).is_ready();
                    if !is_late && self.poll_close_frame(left, stream, cx).is_pending() {
                        return Poll::Pending;
                    }
                    stream.stream.let_close_cleanly();
                    self.step = ExpiryStep::Over;
                    return Poll::Ready(expired());
                }
                ExpiryStep::Over => return Poll::Ready(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Sends the rest of the close frame, then reads and discards, so that no reset overtakes it. An error ends it too.
    fn poll_close_frame(
        &mut self,
        mut left: &'static [u8],
        stream: &mut PrefixedStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !left.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, left))?;
            left = &left[written..];
            self.step = ExpiryStep::Closing(left);
        }
        ready!(Pin::new(&mut *stream).poll_flush(cx))?;
        ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        let mut discard_buffer = [0; DISCARD_BUFFER_BYTES];
        loop {
            let mut buf = ReadBuf::new(&mut discard_buffer);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

fn expired() -> io::Error {
    TimeoutError::TokenExpired.into()
}

impl AsyncRead for ExpiringStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, expiry } = self.get_mut();
        if let Some(expiry) = expiry {
            if let Poll::Ready(error) = expiry.poll_close(stream, cx) {
                return Poll::Ready(Err(error));
            }
            if matches!(expiry.step, ExpiryStep::Closing(_)) {
                return Poll::Pending;
            }
        }
        Pin::new(stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ExpiringStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, expiry } = self.get_mut();
        let Some(expiry) = expiry else { return Pin::new(stream).poll_write(cx, bytes) };
        if let Poll::Ready(error) = expiry.poll_close(stream, cx) {
            return Poll::Ready(Err(error));
        }
        let allowed = match expiry.step {
            ExpiryStep::Open => bytes.len(),
            ExpiryStep::WithinFrame => {
                // A copy looks ahead: no other frame may begin.
                let mut copy = expiry.frames;
                copy.advance(bytes)
            }
            ExpiryStep::Closing(_) | ExpiryStep::Over => return Poll::Pending,
        };
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, &bytes[..allowed]))?;
        expiry.frames.feed(&bytes[..written]);
        if matches!(expiry.step, ExpiryStep::WithinFrame) && expiry.frames.is_between() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.expiry.is_none() {
            return Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| &**buf);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        self.expiry.is_none() && self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, expiry } = self.get_mut();
        expiry.iter_mut().for_each(|expiry| expiry.has_ended = true);
        Pin::new(stream).poll_shutdown(cx)
    }
}

impl From<NetStream> for ExpiringStream {
    fn from(stream: NetStream) -> Self {
        Self::new(stream, None)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::tests::happens_after;

    const LIFETIME: Duration = Duration::from_secs(60);

    async fn connected() -> (TcpStream, ExpiringStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(at), listener.accept());
        let stream = NetStream::Tcp(accepted.expect("it connects").0);
        (client.expect("it connects"), ExpiringStream::new(stream, Some(Instant::now() + LIFETIME)))
    }

    async fn is_silent(socket: &mut ExpiringStream) -> bool {
        let mut bytes = [0; 8];
        poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut bytes);
            Poll::Ready(Pin::new(&mut *socket).poll_read(cx, &mut buf).is_pending())
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_whose_time_is_over_is_closed_between_two_frames() {
        let (mut client, mut socket) = connected().await;
        socket.write_all(b"\x81\x01a\x82\x03bc").await.expect("it is taken");
        assert!(is_silent(&mut socket).await);
        tokio::time::advance(LIFETIME).await;
        assert!(is_silent(&mut socket).await, "a frame is under way");
        assert_eq!(
            socket.write(b"d\x82\x01x").await.expect("it is taken"),
            1,
            "the rest of that frame alone"
        );
        let error = happens_after(CLOSE_REASON_GRACE_PERIOD, socket.read_u8()).await.expect_err("it is over");
        assert!(TimeoutError::is_cause_of(&error), "{error}");
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("a clean end");
        assert_eq!(received, b"\x81\x01a\x82\x03bcd\x88\x02\x03\xf0");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_does_not_end_is_not_waited_for_longer() {
        let (_client, mut socket) = connected().await;
        socket.write_all(b"\x82\x03bc").await.expect("it is taken");
        let error = happens_after(LIFETIME + CLOSE_REASON_GRACE_PERIOD, socket.read_u8())
            .await
            .expect_err("it is over");
        assert!(TimeoutError::is_cause_of(&error), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_behind_the_close_frame_of_the_backend() {
        let (mut client, mut socket) = connected().await;
        socket.write_all(b"\x88\x02\x03\xe8").await.expect("it is taken");
        client.shutdown().await.expect("it is open");
        assert_eq!(socket.read(&mut [0; 8]).await.expect("an end"), 0);
        tokio::time::advance(LIFETIME).await;
        socket.read_u8().await.expect_err("it is over");
        drop(socket);
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("a clean end");
        assert_eq!(received, b"\x88\x02\x03\xe8");
    }
}
