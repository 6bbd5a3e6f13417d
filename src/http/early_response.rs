//! A connection whose other end may stop reading before we have sent everything (RFC 9112, section 9.5): a
//! server that answers early reads no more of the request's body. A failed write is no reason to drop what has
//! already arrived, so only reads decide how the connection ended.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::HEAD_BYTES_MAX;
use crate::net::{pipe::PipeEnd, stream::NetStream};

/// A stream that can tell whether it holds unread bytes.
pub trait UnreadBytes {
    /// Whether something waits to be read, even if only an end. A socket itself is asked, since the runtime may
    /// not have noticed yet what has just arrived.
    fn has_unread(&self) -> bool;
}

pub struct EarlyResponseStream<S> {
    stream: S,
    capture: Arc<ResponseCapture>,
}

/// The state of such a connection, shared with whoever sends requests on it.
#[derive(Debug, Default)]
pub struct ResponseCapture {
    /// A write has failed: everything written from now on is discarded.
    write_failed: AtomicBool,
    /// The error, unless it was an end: a socket reports its error once, and then shows an end to its reader.
    failure: Mutex<Option<io::ErrorKind>>,
    /// The bytes of an answer, until its head was read.
    head: Mutex<Option<Vec<u8>>>,
    /// No request is under way, so anything that arrives ends the connection.
    expects_silence: AtomicBool,
}

/// No readable head is longer, together with what may come before it.
const RECEIVED_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;

impl ResponseCapture {
    pub fn has_peer_stopped_reading(&self) -> bool {
        self.write_failed.load(Ordering::Relaxed)
    }

    /// Polls the connection with `look`, during which nothing may arrive on it.
    pub fn during_silence<T>(&self, look: impl FnOnce() -> T) -> T {
        self.expects_silence.store(true, Ordering::Relaxed);
        let seen = look();
        self.expects_silence.store(false, Ordering::Relaxed);
        seen
    }

    /// Starts collecting an answer.
    pub fn start(&self) {
        *self.head() = Some(Vec::new());
    }

    /// Takes what was collected, after the head was read or could not be.
    pub fn take(&self) -> Vec<u8> {
        self.head().take().unwrap_or_default()
    }

    fn head(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<io::ErrorKind>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, bytes: &[u8]) {
        if let Some(head) = &mut *self.head() {
            head.extend_from_slice(&bytes[..bytes.len().min(RECEIVED_BYTES_MAX - head.len())]);
        }
    }
}

impl<S> EarlyResponseStream<S> {
    pub fn new(stream: S, capture: Arc<ResponseCapture>) -> Self {
        Self { stream, capture }
    }

    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Pretends that `count` bytes were taken after a failed write; they are discarded.
    fn forget_failed_write(&self, written: Poll<io::Result<usize>>, count: usize) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error)) => {
                if error.kind() != io::ErrorKind::BrokenPipe {
                    *self.capture.failure() = Some(error.kind());
                }
                self.capture.write_failed.store(true, Ordering::Relaxed);
                Poll::Ready(Ok(count))
            }
            written => written,
        }
    }
}

impl UnreadBytes for NetStream {
    fn has_unread(&self) -> bool {
        self.has_unread()
    }
}

impl UnreadBytes for PipeEnd {
    fn has_unread(&self) -> bool {
        self.has_unread()
    }
}

impl<S: AsyncRead + UnreadBytes + Unpin> AsyncRead for EarlyResponseStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.capture.expects_silence.load(Ordering::Relaxed) && this.stream.has_unread() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let fresh = &buf.filled()[before..];
        this.capture.keep(fresh);
        match *this.capture.failure() {
            Some(failure) if fresh.is_empty() => Poll::Ready(Err(failure.into())),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for EarlyResponseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.capture.has_peer_stopped_reading() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.forget_failed_write(written, bytes.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = bufs.iter().map(|buf| buf.len()).sum();
        if this.capture.has_peer_stopped_reading() {
            return Poll::Ready(Ok(count));
        }
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.forget_failed_write(written, count)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.capture.has_peer_stopped_reading() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.forget_failed_write(flushed.map_ok(|()| 0), 0).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.capture.has_peer_stopped_reading() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::net::pipe::pipe;

    #[tokio::test]
    async fn bytes_received_before_a_failed_write_are_read() {
        let (ours, mut theirs) = pipe();
        theirs.write_all(b"said").await.expect("it is taken");
        drop(theirs);
        let received = Arc::<ResponseCapture>::default();
        received.start();
        let mut ours = EarlyResponseStream::new(ours, received.clone());
        ours.write_all(&[0; 100_000]).await.expect("nobody reads it, and nobody minds");
        assert!(received.has_peer_stopped_reading());
        let mut sent = Vec::new();
        let error = ours.read_to_end(&mut sent).await.expect_err("a cut");
        assert_eq!((sent.as_slice(), error.kind()), (&b"said"[..], io::ErrorKind::ConnectionReset));
        assert_eq!(received.take(), b"said");
    }

    /// A socket that was reset: it reports its error to whoever writes first, and then shows an end to its
    /// reader.
    struct ErrorOnce;

    impl UnreadBytes for ErrorOnce {
        fn has_unread(&self) -> bool {
            false
        }
    }

    impl AsyncRead for ErrorOnce {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for ErrorOnce {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_read_reports_the_write_error_instead_of_an_end() {
        let mut unreported = EarlyResponseStream::new(ErrorOnce, Arc::default());
        assert_eq!(unreported.read(&mut [0]).await.expect("an end"), 0, "nothing was written");
        let mut stream = EarlyResponseStream::new(ErrorOnce, Arc::default());
        stream.write_all(b"a request").await.expect("it is taken, and forgotten");
        let error = stream.read(&mut [0]).await.expect_err("no end, which would be a whole answer");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
