//! Forwards a backend's interim responses (1xx; RFC 9110, section 15.2) as they arrive. hyper can read them but
//! not write them, so they are written here, beneath it. That happens in `poll_flush`, after everything that
//! hyper has written, and before the final response is handed to hyper. That is why
//! [`InterimResponses::flushed`] is awaited.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use hyper::{
    Request, StatusCode, Version,
    ext::on_informational,
    header::{self, HeaderMap},
    http::request,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    fields::{self, HeadOrigin},
    flushed::FlushTracker,
};

/// The most bytes that may wait to be written; a client that does not read gets no more interim responses.
const WAITING_MAX: usize = 64 * 1024;

/// Heads to be written before an answer.
#[derive(Debug, Clone, Default)]
pub struct InterimResponses(Arc<Mutex<InterimQueue>>);

#[derive(Debug, Default)]
struct InterimQueue {
    bytes: Vec<u8>,
    written: usize,
    /// Who writes them, and who waits until they are written.
    writer: Option<Waker>,
    sender: Option<Waker>,
}

impl InterimResponses {
    /// Passes on what a backend sends before it answers a request.
    pub fn pass_those_of<B>(&self, request: &mut Request<B>, passed: InterimPolicy) {
        let interims = self.clone();
        on_informational(request, move |head| {
            let mut headers = head.headers().clone();
            fields::clean_headers(&mut headers, HeadOrigin::Response);
            if passed.allows(head.status()) {
                interims.push(head.status(), &headers);
            }
        });
    }

    /// Passes on a cleaned head.
    pub fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let mut head =
            format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or(""))
                .into_bytes();
        for (name, value) in headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        let mut waiting = self.lock();
        if waiting.bytes.len() + head.len() > WAITING_MAX {
            tracing::debug!(
                event = "interim_left_out",
                "too much was said before an answer; a part is not passed on"
            );
            return;
        }
        waiting.bytes.extend_from_slice(&head);
        if let Some(writer) = waiting.writer.take() {
            writer.wake();
        }
    }

    /// Returns when all of them are written.
    pub async fn flushed(&self) {
        poll_fn(|cx| {
            let mut waiting = self.lock();
            if waiting.bytes.is_empty() {
                return Poll::Ready(());
            }
            waiting.sender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, InterimQueue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The interim responses that a client may get.
#[derive(Debug, Clone, Copy)]
pub struct InterimPolicy {
    /// hyper has already asked it for its body.
    has_expected: bool,
}

impl InterimPolicy {
    /// `None` for HTTP/1.0, which has no interim responses.
    pub fn for_request(request: &request::Parts) -> Option<Self> {
        let has_expected = request.headers.contains_key(header::EXPECT);
        (request.version == Version::HTTP_11).then_some(Self { has_expected })
    }

    pub fn allows(self, status: StatusCode) -> bool {
        !(self.has_expected && status == StatusCode::CONTINUE)
    }
}

/// A connection on which hyper answers requests.
pub struct InterimStream<S> {
    stream: S,
    interims: InterimResponses,
    flushes: FlushTracker,
}

impl<S> InterimStream<S> {
    pub fn new(stream: S, interims: InterimResponses, flushes: FlushTracker) -> Self {
        Self { stream, interims, flushes }
    }

    pub fn into_inner(self) -> S {
        self.stream
    }
}

/// How far interim heads may be written now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WriteUpTo {
    All,
    /// Only the one that has been begun.
    Begun,
}

impl<S: AsyncWrite + Unpin> InterimStream<S> {
    fn poll_heads(&mut self, cx: &mut Context<'_>, upto: WriteUpTo) -> Poll<io::Result<()>> {
        let mut waiting = self.interims.lock();
        if upto == WriteUpTo::Begun && waiting.written == 0 {
            return Poll::Ready(Ok(()));
        }
        while waiting.written < waiting.bytes.len() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &waiting.bytes[waiting.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            waiting.written += count;
        }
        if !waiting.bytes.is_empty() {
            waiting.bytes = Vec::new();
            waiting.written = 0;
            if let Some(sender) = waiting.sender.take() {
                sender.wake();
            }
        }
        match &waiting.writer {
            Some(writer) if writer.will_wake(cx.waker()) => {}
            _ => waiting.writer = Some(cx.waker().clone()),
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for InterimStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for InterimStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_heads(cx, WriteUpTo::Begun))?;
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.flushes.wrote(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_heads(cx, WriteUpTo::Begun))?;
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        this.flushes.wrote(count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_heads(cx, WriteUpTo::All))?;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.flushes.done();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
